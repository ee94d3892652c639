/* call.c -- redis_call: from a client key and a cost to a command, and from its answer to a
 * decision. */
#include "python/redis/redis.h"

#include <stdio.h>

#define ARGUMENTS_PER_LIMIT 5
#define EDGES_SIZE (4 * NUMBER_SIZE) /* of a calendar window */

/* ---- errors ------------------------------------------------------------------------ */

PyObject *redis_server_text(const rl_server *server)
{
    return server->port != 0 ? PyUnicode_FromFormat("%s:%d", server->host, (int)server->port)
                             : PyUnicode_FromString(server->host);
}

PyObject *redis_servers_text(const rl_server *servers, size_t n)
{
    PyObject *texts = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; texts != NULL && i < n; i++) {
        PyObject *text = redis_server_text(&servers[i]);
        if (text == NULL) {
            Py_CLEAR(texts);
            break;
        }
        PyTuple_SET_ITEM(texts, (Py_ssize_t)i, text);
    }
    return texts;
}

PyObject *redis_raise(core_state *state, rl_fault fault, const char *message,
                      const rl_server *server)
{
    static const rl_server none;
    static const char *const kinds[] = {
        [RL_FAULT_NONE] = "none",     [RL_FAULT_CONNECT] = "connect",
        [RL_FAULT_LOST] = "lost",     [RL_FAULT_TIMEOUT] = "timeout",
        [RL_FAULT_ANSWER] = "answer", [RL_FAULT_PROTOCOL] = "protocol",
        [RL_FAULT_BUSY] = "busy",     [RL_FAULT_NOMEM] = "memory",
        [RL_FAULT_CLOSED] = "closed",
    };
    PyObject *text = PyUnicode_DecodeUTF8(message, (Py_ssize_t)strlen(message), "replace");
    PyObject *error = text != NULL ? PyObject_CallOneArg(state->store_error, text) : NULL;
    PyObject *kind = error != NULL ? PyUnicode_FromString(kinds[fault]) : NULL;
    PyObject *node = kind != NULL ? redis_server_text(server != NULL ? server : &none) : NULL;
    if (node != NULL && PyObject_SetAttrString(error, "kind", kind) == 0 &&
        PyObject_SetAttrString(error, "node", node) == 0) {
        PyErr_SetObject(state->store_error, error);
    }
    Py_XDECREF(node);
    Py_XDECREF(kind);
    Py_XDECREF(error);
    Py_XDECREF(text);
    return NULL;
}

PyObject *redis_raise_fault(core_state *state, const rl_call *call)
{
    return redis_raise(state, call->fault, call->error, &call->server);
}

/* ---- a call ------------------------------------------------------------------------------ */

/* Appends the texts of a call. */
typedef struct call_builder {
    const char **texts;
    size_t *lens;
    int n;
} call_builder;

static void builder_add(call_builder *to, const char *text, size_t len)
{
    to->texts[to->n] = text;
    to->lens[to->n++] = len;
}

static void builder_add_text(call_builder *to, const char *text)
{
    builder_add(to, text, strlen(text));
}

static char *builder_add_keys(call_builder *to, const buckets_object *self, const core_text *key,
                              char *room)
{
    for (size_t i = 0; i < self->n_limits; i++) {
        char *end = redis_buckets_put_key(self, i, key, room);
        builder_add(to, room, (size_t)(end - room));
        room = end;
    }
    return room;
}

/* Write the edges of the present window, of the one before it and of the next: the server's clock,
 * which decides, may be up to a window from this one. Return their length. */
static size_t put_edges(const rl_limit *window, char *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    rl_unit unit = (rl_unit)window->calendar;
    rl_calendar_window present = rl_calendar_span(window->zone, unit, (int64_t)now.tv_sec);
    rl_calendar_window before = rl_calendar_span(window->zone, unit, present.start_s - 1);
    rl_calendar_window next = rl_calendar_span(window->zone, unit, present.end_s);
    int len = snprintf(out, EDGES_SIZE, "%lld,%lld,%lld,%lld", (long long)before.start_s,
                       (long long)present.start_s, (long long)present.end_s, (long long)next.end_s);
    return (size_t)len;
}

/* Add the numbers of each limit; return the end of their room. */
static char *builder_add_numbers(call_builder *to, const buckets_object *self,
                                 const uint64_t *costs, char *room)
{
    for (size_t i = 0; i < self->n_limits; i++) {
        const redis_limit *limit = &self->limits[i];
        builder_add_text(to, limit->scale);
        if (limit->window.calendar != RL_NO_UNIT) {
            builder_add(to, room, put_edges(&limit->window, room));
            room += EDGES_SIZE;
        } else {
            builder_add_text(to, limit->token);
        }
        builder_add_text(to, limit->cap);
        int len = costs[i] == RL_COST_NEVER
                      ? snprintf(room, NUMBER_SIZE, "-1")
                      : snprintf(room, NUMBER_SIZE, "%llu", (unsigned long long)costs[i]);
        builder_add(to, room, (size_t)len);
        room += NUMBER_SIZE;
        builder_add_text(to, limit->min_ttl_ms);
    }
    return room;
}

/* Add which limits count denied requests, if an operation does: see bucket.lua. */
static void builder_add_denied(call_builder *to, const buckets_object *self,
                               bucket_operation operation, char *room)
{
    bool decides =
        operation == BUCKET_ALLOW || operation == BUCKET_HIT || operation == BUCKET_HIT_EACH;
    if (decides && self->counts_denied) {
        for (size_t i = 0; i < self->n_limits; i++) {
            room[i] = self->limits[i].counts_denied ? '1' : '0';
        }
        builder_add(to, room, self->n_limits);
    }
}

static size_t call_n_texts(const buckets_object *self)
{
    return 3 + (1 + ARGUMENTS_PER_LIMIT) * self->n_limits + 1;
}

static const rl_script *call_script(const buckets_object *self, bucket_operation operation)
{
    switch (operation) {
    case BUCKET_PEEK:
    case BUCKET_PEEK_EACH:
        return &self->scripts[SCRIPT_PEEK];
    case BUCKET_CHARGE:
        return &self->scripts[SCRIPT_CHARGE];
    case BUCKET_REFUND:
        return &self->scripts[SCRIPT_REFUND];
    case BUCKET_RESET:
        return self->n_windows != 0 ? &self->scripts[SCRIPT_RESET] : NULL;
    default:
        return &self->scripts[SCRIPT_TAKE];
    }
}

static void call_fill(redis_call *call, const core_text *key)
{
    const buckets_object *self = call->buckets;
    size_t n_texts = call_n_texts(self);
    rl_call *out = &call->thread.call;
    call_builder to = {(const char **)(void *)(call + 1), NULL, 0};
    to.lens = (size_t *)(void *)(to.texts + n_texts);
    char *room = (char *)(to.lens + n_texts);
    static const char *const counts[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8"};
    out->script = call_script(self, call->operation);
    if (out->script != NULL) {
        builder_add_text(&to, ""); /* the command and the digest, which the core fills in */
        builder_add_text(&to, "");
        builder_add_text(&to, counts[self->n_limits]);
        out->key = 3;
        room = builder_add_keys(&to, self, key, room);
        room = builder_add_numbers(&to, self, call->costs, room);
        builder_add_denied(&to, self, call->operation, room);
    } else {
        builder_add_text(&to, "DEL");
        out->key = 1;
        builder_add_keys(&to, self, key, room);
    }
    out->arguments = (rl_arguments){to.n, to.texts, to.lens};
}

static uint64_t call_units(const redis_limit *limit, double tokens, bucket_operation operation)
{
    bool is_window = rl_is_window(&limit->window);
    switch (operation) {
    case BUCKET_CHARGE:
        return is_window ? rl_limit_charge(&limit->window, tokens)
                         : rl_redis_bucket_charge(&limit->bucket, tokens);
    case BUCKET_REFUND:
        return is_window ? rl_limit_refund(&limit->window, tokens)
                         : rl_redis_bucket_charge(&limit->bucket, tokens);
    default:
        return is_window ? rl_limit_cost(&limit->window, tokens)
                         : rl_redis_bucket_cost(&limit->bucket, tokens);
    }
}

redis_call *redis_call_new(buckets_object *buckets, bucket_operation operation, PyObject *key,
                           PyObject *cost)
{
    double tokens = 1;
    core_text text;
    if (core_parse_key(key, &text) < 0) {
        return NULL;
    }
    if (cost != NULL && core_parse_cost(cost, &tokens) < 0) {
        Py_XDECREF(text.owner);
        return NULL;
    }
    size_t room = call_n_texts(buckets) * (sizeof(char *) + sizeof(size_t)) +
                  redis_buckets_key_room(buckets, text.len) +
                  (NUMBER_SIZE + EDGES_SIZE + 1) * buckets->n_limits;
    redis_call *call = PyMem_Malloc(sizeof *call + room);
    if (call == NULL) {
        Py_XDECREF(text.owner);
        PyErr_NoMemory();
        return NULL;
    }
    memset(call, 0, sizeof *call);
    call->buckets = (buckets_object *)Py_NewRef(buckets);
    call->operation = operation;
    for (size_t i = 0; i < buckets->n_limits; i++) {
        call->costs[i] = call_units(&buckets->limits[i], tokens, operation);
    }
    call_fill(call, &text);
    Py_XDECREF(text.owner);
    return call;
}

void redis_call_free(redis_call *call)
{
    if (call != NULL) {
        if (call->thread.call.reply != NULL) {
            freeReplyObject(call->thread.call.reply);
        }
        Py_XDECREF(call->future);
        Py_DECREF(call->buckets);
        PyMem_Free(call);
    }
}

/* ---- answers -------------------------------------------------------------------------------- */

static bool is_whole(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_INTEGER && reply->integer >= 0;
}

/* The count of numbers after those of the limits: two times of each window. */
static size_t call_n_extra(const buckets_object *self)
{
    return 2 * self->n_windows;
}

/* Check an answer: {1 or 0, a number for each limit, extra numbers}, all of them whole. */
static bool call_is_answer(const buckets_object *self, const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_ARRAY ||
        reply->elements != 1 + self->n_limits + call_n_extra(self)) {
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
    if (!call_is_answer(self, reply)) {
        return false;
    }
    *allowed = reply->element[0]->integer != 0;
    size_t extra = 1 + self->n_limits;
    for (size_t i = 0; i < self->n_limits; i++) {
        const redis_limit *limit = &self->limits[i];
        uint64_t deficit = number_at(reply, i + 1);
        uint64_t cost = call->costs[i];
        bool is_window = rl_is_window(&limit->window);
        uint64_t cap = is_window ? limit->window.cap : limit->bucket.cap;
        /* In a denial, a limit that has enough tokens counts as passed. */
        bool passes = *allowed || (cost <= cap && deficit <= cap - cost);
        if (is_window) {
            each[i] = window_decision(&limit->window, deficit, cost, passes, reply, extra);
            extra += 2;
        } else {
            each[i] = rl_redis_bucket_decision(&limit->bucket, deficit, cost, passes);
        }
    }
    return true;
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

PyObject *redis_call_result(redis_call *call)
{
    const rl_call *done = &call->thread.call;
    const buckets_object *self = call->buckets;
    rl_decision each[RL_TABLE_LIMITS_MAX] = {{0}};
    bool allowed;
    if (done->fault != RL_FAULT_NONE) {
        return redis_raise_fault(self->state, done);
    }
    if (call->operation == BUCKET_RESET) {
        Py_RETURN_NONE;
    }
    if (!call_read_each(call, each, &allowed) ||
        tightest_of(each, self->n_limits)->allowed != allowed) {
        return redis_raise(self->state, RL_FAULT_PROTOCOL, "the script's answer is not a decision",
                           &done->server);
    }
    redis_buckets_count(call->buckets, call->operation, allowed);
    switch (call->operation) {
    case BUCKET_ALLOW:
        return PyBool_FromLong(allowed);
    case BUCKET_REFUND:
        Py_RETURN_NONE;
    case BUCKET_HIT_EACH:
    case BUCKET_PEEK_EACH:
        return decisions_new(self->state, tightest_of(each, self->n_limits), each, self->n_limits);
    default:
        return decision_new(self->state, tightest_of(each, self->n_limits));
    }
}
