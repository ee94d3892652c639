/* batch.c -- several decisions about one limit, made by one script.
 *
 * The tasks that run in one turn of an event loop mostly need decisions about the same
 * limit. One script for all of them costs the server half as much as one for each. */
#include "python/redis/redis.h"

#include <stdio.h>

#define NUMBERS 3 /* before the costs: scale, cap, min_ttl_ms */

bool redis_batch_takes(const redis_call *call)
{
    const buckets_object *buckets = call->buckets;
    bool takes = call->operation == BUCKET_ALLOW || call->operation == BUCKET_HIT ||
                 call->operation == BUCKET_HIT_EACH ||
                 (call->operation == BUCKET_TRY && !buckets->counts_denied);
    return takes && !call->alone && buckets->n_limits == 1 && buckets->limits[0].bucket.scale > 0 &&
           buckets->client->options.kind != RL_CLUSTER;
}

redis_batch *redis_batch_new(redis_call **calls, size_t n)
{
    const buckets_object *buckets = calls[0]->buckets;
    size_t n_texts = 3 + n + NUMBERS + n + buckets->counts_denied;
    redis_batch *batch = PyMem_Malloc(sizeof *batch + n_texts * (sizeof(char *) + sizeof(size_t)));
    if (batch == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memset(batch, 0, sizeof *batch);
    const char **texts = (const char **)(void *)(batch + 1);
    size_t *lens = (size_t *)(void *)(texts + n_texts);
    snprintf(batch->count, sizeof batch->count, "%zu", n);
    const redis_limit *limit = &buckets->limits[0];
    const char *numbers[] = {limit->scale, limit->cap, limit->min_ttl_ms};
    texts[2] = batch->count;
    lens[2] = strlen(batch->count);
    for (size_t i = 0; i < NUMBERS; i++) {
        texts[3 + n + i] = numbers[i];
        lens[3 + n + i] = strlen(numbers[i]);
    }
    for (size_t i = 0; i < n; i++) {
        const rl_arguments *single = &calls[i]->thread.call.arguments;
        batch->calls[i] = calls[i];
        texts[3 + i] = single->texts[3]; /* the key, */
        lens[3 + i] = single->lens[3];
        texts[3 + n + NUMBERS + i] = single->texts[7]; /* and the cost; see take.lua */
        lens[3 + n + NUMBERS + i] = single->lens[7];
    }
    if (buckets->counts_denied) {
        texts[n_texts - 1] = "1";
        lens[n_texts - 1] = 1;
    }
    batch->n = n;
    batch->call.arguments = (rl_arguments){(int)n_texts, texts, lens};
    batch->call.script = &buckets->scripts[SCRIPT_TAKE_MANY];
    batch->call.key = 3;
    return batch;
}

void redis_batch_free(redis_batch *batch)
{
    if (batch != NULL) {
        if (batch->call.reply != NULL) {
            freeReplyObject(batch->call.reply);
        }
        PyMem_Free(batch);
    }
}

static bool batch_is_number_within(const redisReply *reply, long long least, long long most)
{
    return reply->type == REDIS_REPLY_INTEGER && reply->integer >= least && reply->integer <= most;
}

/* A cluster server refuses a script with keys in several slots, even if it serves each of them. */
static bool batch_is_refused(const rl_call *call)
{
    return call->fault == RL_FAULT_ANSWER && strncmp(call->error, "CROSSSLOT", 9) == 0;
}

bool redis_batch_decided(const redis_batch *batch, size_t i)
{
    const redisReply *reply = batch->call.reply;
    if (batch_is_refused(&batch->call)) {
        return false;
    }
    return reply == NULL || reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 * batch->n ||
           !batch_is_number_within(reply->element[2 * i], 2, 2);
}

PyObject *redis_batch_result(const redis_batch *batch, size_t i)
{
    const redis_call *call = batch->calls[i];
    buckets_object *buckets = call->buckets;
    const redisReply *reply = batch->call.reply;
    if (batch->call.fault != RL_FAULT_NONE) {
        return redis_raise_fault(buckets->state, &batch->call);
    }
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 * batch->n ||
        !batch_is_number_within(reply->element[2 * i], 0, 1) ||
        !batch_is_number_within(reply->element[2 * i + 1], 0, INT64_MAX)) {
        return redis_raise(buckets->state, RL_FAULT_PROTOCOL,
                           "the script's answer is not a decision", &batch->call.server);
    }
    bool allowed = reply->element[2 * i]->integer == 1;
    redis_buckets_count(buckets, call->operation, allowed);
    if (call->operation == BUCKET_ALLOW) {
        return PyBool_FromLong(allowed);
    }
    uint64_t deficit = (uint64_t)reply->element[2 * i + 1]->integer;
    rl_decision decision =
        rl_redis_bucket_decision(&buckets->limits[0].bucket, deficit, call->costs[0], allowed);
    PyObject *decided = decision_new(buckets->state, &decision);
    if (decided == NULL || call->operation != BUCKET_HIT_EACH) {
        return decided;
    }
    PyObject *each = PyTuple_Pack(2, decided, decided); /* there is one limit */
    Py_DECREF(decided);
    return each;
}
