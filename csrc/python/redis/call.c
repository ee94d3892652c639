/* call.c -- redis_call: from a client key and a cost to a command. */
#include "python/redis/redis.h"

#include <stdio.h>

#include "redis/cluster.h"

#define ARGUMENTS_PER_LIMIT 5
#define EDGES_SIZE (4 * NUMBER_SIZE) /* of a calendar window */

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

/* Return the number of an earlier key that is the same as the last one, or its own. */
static size_t builder_same_key(const call_builder *to, size_t n_keys)
{
    int last = to->n - 1, first = last - (int)n_keys;
    for (int i = first; i < last; i++) {
        if (to->lens[i] == to->lens[last] &&
            memcmp(to->texts[i], to->texts[last], to->lens[i]) == 0) {
            return (size_t)(i - first);
        }
    }
    return n_keys;
}

/* Add the keys of all limits, each once. */
static char *builder_add_keys(call_builder *to, redis_call *call, const core_text *keys, char *room)
{
    const buckets_object *self = call->buckets;
    for (size_t i = 0; i < self->n_limits; i++) {
        char *end = redis_buckets_put_key(self, i, keys, room);
        builder_add(to, room, (size_t)(end - room));
        size_t same = self->parts != NULL ? builder_same_key(to, call->n_keys) : call->n_keys;
        call->key_of[i] = (uint8_t)same;
        if (same < call->n_keys) {
            to->n--;
        } else {
            call->n_keys++;
        }
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

/* Let the limits that share a key have the sum of their costs. */
static void call_add_costs(redis_call *call)
{
    uint64_t sums[RL_TABLE_LIMITS_MAX] = {0};
    size_t n = call->buckets->n_limits;
    for (size_t i = 0; i < n; i++) {
        uint64_t *sum = &sums[call->key_of[i]], cost = call->costs[i];
        *sum = *sum == RL_COST_NEVER || cost == RL_COST_NEVER ? RL_COST_NEVER : *sum + cost;
    }
    for (size_t i = 0; i < n; i++) {
        const redis_limit *limit = &call->buckets->limits[i];
        uint64_t cap = rl_is_window(&limit->window) ? limit->window.cap : limit->bucket.cap;
        uint64_t sum = sums[call->key_of[i]];
        call->costs[i] = sum == call->costs[i] || sum <= cap ? sum : RL_COST_NEVER;
    }
}

/* Add the numbers of each limit; return the end of their room. */
static char *builder_add_numbers(call_builder *to, const redis_call *call, char *room)
{
    size_t n_keys = 0;
    for (size_t i = 0; i < call->buckets->n_limits; i++) {
        const redis_limit *limit = &call->buckets->limits[i];
        if (call->key_of[i] < n_keys) {
            continue; /* it shares a key */
        }
        n_keys++;
        builder_add_text(to, limit->scale);
        if (limit->window.calendar != RL_NO_UNIT) {
            builder_add(to, room, put_edges(&limit->window, room));
            room += EDGES_SIZE;
        } else {
            builder_add_text(to, limit->token);
        }
        builder_add_text(to, limit->cap);
        int len = call->costs[i] == RL_COST_NEVER
                      ? snprintf(room, NUMBER_SIZE, "-1")
                      : snprintf(room, NUMBER_SIZE, "%llu", (unsigned long long)call->costs[i]);
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
    case BUCKET_BLOCK:
        return &self->scripts[SCRIPT_BLOCK];
    case BUCKET_RESET:
        return self->n_windows != 0 ? &self->scripts[SCRIPT_RESET] : NULL;
    default:
        return &self->scripts[SCRIPT_TAKE];
    }
}

static void call_fill(redis_call *call, const core_text *keys)
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
        builder_add_text(&to, "");
        out->key = 3;
        room = builder_add_keys(&to, call, keys, room);
        to.texts[2] = counts[call->n_keys];
        to.lens[2] = 1;
        call_add_costs(call);
        room = builder_add_numbers(&to, call, room);
        builder_add_denied(&to, self, call->operation, room);
    } else {
        builder_add_text(&to, "DEL");
        out->key = 1;
        builder_add_keys(&to, call, keys, room);
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

/* Set the costs of a call, in units of each limit. 0, or -1 with an exception set. */
static int call_read_costs(const buckets_object *buckets, bucket_operation operation,
                           PyObject *cost, uint64_t *units)
{
    double tokens[RL_TABLE_LIMITS_MAX];
    int64_t block_ns;
    if (operation == BUCKET_BLOCK) {
        if (core_parse_block(cost, &block_ns) < 0) {
            return -1;
        }
        units[0] = ((uint64_t)block_ns + 999) / 1000;
        return 0;
    }
    if (core_parse_costs(cost, buckets->n_limits, tokens) < 0) {
        return -1;
    }
    for (size_t i = 0; i < buckets->n_limits; i++) {
        units[i] = call_units(&buckets->limits[i], tokens[i], operation);
    }
    return 0;
}

/* Read the client keys, one for each part. Return how many were read; fewer: an exception is set. */
static size_t call_read_keys(const buckets_object *buckets, PyObject *key, core_text *out)
{
    size_t n = redis_buckets_n_parts(buckets), i = 0;
    if (buckets->parts == NULL) {
        return core_parse_key(key, out) < 0 ? 0 : 1;
    }
    if (!PyTuple_Check(key) || PyTuple_GET_SIZE(key) != (Py_ssize_t)n) {
        PyErr_Format(PyExc_TypeError, "expected a tuple of %zu keys, got %R", n, key);
        return 0;
    }
    while (i < n && core_parse_key(PyTuple_GET_ITEM(key, (Py_ssize_t)i), &out[i]) == 0) {
        i++;
    }
    return i;
}

/* Limits that share a key must read it in the same way, and a cluster has all keys of a script in
 * one slot. 0, or -1 with an exception set. */
static int call_check_joined(const redis_call *call)
{
    const buckets_object *self = call->buckets;
    const rl_arguments *arguments = &call->thread.call.arguments;
    for (size_t i = 0; i < self->n_limits; i++) {
        for (size_t j = 0; j < i; j++) {
            const redis_limit *one = &self->limits[i], *other = &self->limits[j];
            bool is_same = strcmp(one->scale, other->scale) == 0 &&
                           strcmp(one->token, other->token) == 0 &&
                           strcmp(one->cap, other->cap) == 0;
            if (call->key_of[i] == call->key_of[j] && !is_same) {
                PyErr_Format(PyExc_ValueError,
                             "items %d and %d have different limits under one key in Redis: give "
                             "their limiters different names",
                             self->part_of[j], self->part_of[i]);
                return -1;
            }
        }
    }
    for (size_t i = 1; i < call->n_keys && self->client->options.kind == RL_CLUSTER; i++) {
        if (rl_cluster_slot(arguments->texts[3], arguments->lens[3]) !=
            rl_cluster_slot(arguments->texts[3 + i], arguments->lens[3 + i])) {
            PyErr_SetString(PyExc_ValueError,
                            "hit_all() in a cluster needs all keys in one slot: give the store a "
                            "prefix with braces, such as '{ratelimit}', or use the same key");
            return -1;
        }
    }
    return 0;
}

redis_call *redis_call_new(buckets_object *buckets, bucket_operation operation, PyObject *key,
                           PyObject *cost)
{
    uint64_t costs[RL_TABLE_LIMITS_MAX] = {0};
    core_text keys[RL_TABLE_LIMITS_MAX];
    redis_call *call = NULL;
    if ((buckets->parts != NULL) != (operation == BUCKET_HIT_ALL)) {
        PyErr_SetString(PyExc_TypeError, "hit_all() is for joined buckets, and only that");
        return NULL;
    }
    size_t n_read = call_read_keys(buckets, key, keys);
    if (n_read == redis_buckets_n_parts(buckets) &&
        call_read_costs(buckets, operation, cost, costs) == 0) {
        size_t room = call_n_texts(buckets) * (sizeof(char *) + sizeof(size_t)) +
                      redis_buckets_key_room(buckets, keys) +
                      (NUMBER_SIZE + EDGES_SIZE + 1) * buckets->n_limits;
        call = PyMem_Malloc(sizeof *call + room);
        if (call == NULL) {
            PyErr_NoMemory();
        } else {
            memset(call, 0, sizeof *call);
            call->buckets = (buckets_object *)Py_NewRef(buckets);
            call->operation = operation;
            memcpy(call->costs, costs, sizeof costs);
            call_fill(call, keys);
        }
    }
    for (size_t i = 0; i < n_read; i++) {
        Py_XDECREF(keys[i].owner);
    }
    if (call != NULL && buckets->parts != NULL && call_check_joined(call) < 0) {
        redis_call_free(call);
        return NULL;
    }
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
