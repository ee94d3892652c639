/* call_result.c -- from the answer of a redis_call to a decision. */
#include "python/redis/redis.h"

static bool is_whole(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_INTEGER && reply->integer >= 0;
}

/* The count of numbers in an answer: {1 or 0, one for each key, and two times for each window}. */
static size_t call_n_numbers(const redis_call *call)
{
    size_t n = 1 + call->n_keys, n_keys = 0;
    for (size_t i = 0; i < call->buckets->n_limits; i++) {
        if (call->key_of[i] == n_keys) {
            n += rl_is_window(&call->buckets->limits[i].window) ? 2 : 0;
            n_keys++;
        }
    }
    return n;
}

/* Return true if the numbers of blocks follow, one for each key. */
static bool call_has_blocks(const redis_call *call, const redisReply *reply)
{
    return reply->elements == call_n_numbers(call) + call->n_keys;
}

/* Check an answer, whose numbers are all whole. Only denials have blocks. */
static bool call_is_answer(const redis_call *call, const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_ARRAY ||
        (reply->elements != call_n_numbers(call) && !call_has_blocks(call, reply))) {
        return false;
    }
    for (size_t i = 0; i < reply->elements; i++) {
        if (!is_whole(reply->element[i])) {
            return false;
        }
    }
    return true;
}

static uint64_t number_at(const redisReply *reply, size_t i)
{
    return (uint64_t)reply->element[i]->integer;
}

static int64_t us_to_ns(uint64_t us)
{
    return us < INT64_MAX / 1000 ? (int64_t)us * 1000 : RL_NEVER;
}

/* The times of a window follow those of the windows before it: see window.lua. */
static rl_decision window_decision(const rl_limit *limit, uint64_t deficit, uint64_t cost,
                                   bool passes, const redisReply *reply, size_t at)
{
    bool never = cost > limit->cap;
    return (rl_decision){
        .allowed = passes,
        .limit = limit->capacity,
        .remaining = deficit < limit->cap ? (double)(limit->cap - deficit) : 0,
        .retry_after_ns = passes  ? 0
                          : never ? RL_NEVER
                                  : us_to_ns(number_at(reply, at)),
        .reset_after_ns = us_to_ns(number_at(reply, at + 1)),
    };
}

/* Read the decision of each limit from an answer. Return false if it is not a valid answer. */
static bool call_read_each(const redis_call *call, rl_decision *each, bool *allowed)
{
    const buckets_object *self = call->buckets;
    const redisReply *reply = call->thread.call.reply;
    if (!call_is_answer(call, reply)) {
        return false;
    }
    *allowed = reply->element[0]->integer != 0;
    size_t extra = 1 + call->n_keys;
    size_t extra_of[RL_TABLE_LIMITS_MAX] = {0};
    for (size_t i = 0; i < self->n_limits; i++) {
        const redis_limit *limit = &self->limits[i];
        size_t key = call->key_of[i];
        uint64_t deficit = number_at(reply, key + 1);
        uint64_t cost = call->costs[i];
        bool is_window = rl_is_window(&limit->window);
        uint64_t cap = is_window ? limit->window.cap : limit->bucket.cap;
        /* In a denial, a limit that has enough tokens counts as passed. */
        bool passes = *allowed || (cost <= cap && deficit <= cap - cost);
        if (is_window) {
            if (extra_of[key] == 0) {
                extra_of[key] = extra;
                extra += 2;
            }
            each[i] = window_decision(&limit->window, deficit, cost, passes, reply, extra_of[key]);
        } else {
            each[i] = rl_redis_bucket_decision(&limit->bucket, deficit, cost, passes);
        }
    }
    return true;
}

/* The part that a limit belongs to. */
static size_t call_part(const buckets_object *self, size_t i)
{
    return self->parts != NULL ? self->part_of[i] : 0;
}

/* Deny what is blocked. The limits of one part are of one client, which is blocked as a whole. */
static void call_apply_blocks(const redis_call *call, rl_decision *each)
{
    const buckets_object *self = call->buckets;
    const redisReply *reply = call->thread.call.reply;
    uint64_t left_us[RL_TABLE_LIMITS_MAX] = {0};
    if (!call_has_blocks(call, reply)) {
        return;
    }
    for (size_t i = 0; i < self->n_limits; i++) {
        uint64_t *left = &left_us[call_part(self, i)];
        uint64_t one_us = number_at(reply, call_n_numbers(call) + call->key_of[i]);
        *left = one_us > *left ? one_us : *left;
    }
    for (size_t i = 0; i < self->n_limits; i++) {
        if (left_us[call_part(self, i)] > 0) {
            rl_decision_block(&each[i], us_to_ns(left_us[call_part(self, i)]));
        }
    }
}

static const rl_decision *tightest_of(const rl_decision *each, size_t n)
{
    const rl_decision *tightest = each;
    for (size_t i = 1; i < n; i++) {
        if (rl_decision_tells_more(&each[i], tightest)) {
            tightest = &each[i];
        }
    }
    return tightest;
}

/* Return a tuple with the decision of the tightest limit of each part, and count it: in a denial
 * those that would have passed by themselves took nothing. */
static PyObject *call_parts_result(const buckets_object *self, const rl_decision *each,
                                   bool allowed)
{
    size_t n = redis_buckets_n_parts(self), first = 0;
    PyObject *decisions = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; decisions != NULL && i < n; i++) {
        size_t end = first;
        while (end < self->n_limits && self->part_of[end] == i) {
            end++;
        }
        const rl_decision *tightest = tightest_of(&each[first], end - first);
        buckets_object *part = (buckets_object *)PyTuple_GET_ITEM(self->parts, (Py_ssize_t)i);
        if (allowed || !tightest->allowed) {
            redis_buckets_count(part, BUCKET_HIT_ALL, allowed);
        }
        PyObject *one = decision_new(self->state, tightest);
        if (one == NULL) {
            Py_CLEAR(decisions);
            break;
        }
        PyTuple_SET_ITEM(decisions, (Py_ssize_t)i, one);
        first = end;
    }
    return decisions;
}

PyObject *redis_call_result(redis_call *call)
{
    const rl_call *done = &call->thread.call;
    const buckets_object *self = call->buckets;
    rl_decision each[RL_TABLE_LIMITS_MAX] = {{0}};
    bool allowed;
    if (done->fault != RL_FAULT_NONE) {
        return redis_raise_fault(self->state, done);
    }
    if (call->operation == BUCKET_RESET || call->operation == BUCKET_BLOCK) {
        Py_RETURN_NONE;
    }
    bool is_answer = call_read_each(call, each, &allowed);
    if (is_answer) {
        call_apply_blocks(call, each);
    }
    if (!is_answer || tightest_of(each, self->n_limits)->allowed != allowed) {
        return redis_raise(self->state, RL_FAULT_PROTOCOL, "the script's answer is not a decision",
                           &done->server);
    }
    if (self->parts == NULL) {
        redis_buckets_count(call->buckets, call->operation, allowed);
    }
    switch (call->operation) {
    case BUCKET_ALLOW:
        return PyBool_FromLong(allowed);
    case BUCKET_REFUND:
        Py_RETURN_NONE;
    case BUCKET_HIT_ALL:
        return call_parts_result(self, each, allowed);
    case BUCKET_HIT_EACH:
    case BUCKET_PEEK_EACH:
        return decisions_new(self->state, tightest_of(each, self->n_limits), each, self->n_limits);
    default:
        return decision_new(self->state, tightest_of(each, self->n_limits));
    }
}
