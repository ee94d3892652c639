/* buckets.c -- RedisBuckets: from a client key to a command, and from its answer
 * to a decision. */
#include "python/redis/redis.h"

#include <math.h>
#include <openssl/sha.h>
#include <stdio.h>

/* A key from a request may be of any length; Redis would keep all of it. */
#define PLAIN_KEY_MAX 200
#define HEX_SIZE (2 * SHA256_DIGEST_LENGTH)
#define ARGUMENTS_PER_LIMIT 5

static buckets_object *buckets_of(PyObject *self)
{
    return (buckets_object *)self;
}

/* ---- keys ------------------------------------------------------------------------------ */

static char *put_hex(char *out, const unsigned char *digest, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < len; i++) {
        *out++ = digits[digest[i] >> 4];
        *out++ = digits[digest[i] & 15];
    }
    return out;
}

/* Between braces, which choose the slot in a cluster: so a client's own ones are escaped. Empty
 * braces would choose none, so the empty key is a "%", which no other one is. */
static char *put_tagged(char *out, const char *key, size_t len)
{
    *out++ = '{';
    if (len > PLAIN_KEY_MAX) {
        unsigned char digest[SHA256_DIGEST_LENGTH];
        SHA256((const unsigned char *)key, len, digest);
        memcpy(out, "sha256:", 7);
        out = put_hex(out + 7, digest, sizeof digest);
    } else if (len == 0) {
        *out++ = '%';
    } else {
        for (size_t i = 0; i < len; i++) {
            if (memchr("{}%", key[i], 3) != NULL) {
                *out++ = '%';
                out = put_hex(out, (const unsigned char *)&key[i], 1);
            } else {
                *out++ = key[i];
            }
        }
    }
    *out++ = '}';
    return out;
}

static size_t key_room(const buckets_object *self, size_t len)
{
    size_t widest = self->tagged ? 3 + (len > PLAIN_KEY_MAX ? 7 + HEX_SIZE : 3 * len) : len;
    size_t room = 0;
    for (size_t i = 0; i < self->n_limits; i++) {
        room += (size_t)PyBytes_GET_SIZE(self->before) + widest +
                (size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM(self->after, (Py_ssize_t)i));
    }
    return room;
}

static char *buckets_put(char *out, const char *data, size_t len)
{
    memcpy(out, data, len);
    return out + len;
}

static char *put_key(const buckets_object *self, size_t i, const core_text *key, char *out)
{
    PyObject *after = PyTuple_GET_ITEM(self->after, (Py_ssize_t)i); /* borrowed */
    out = buckets_put(out, PyBytes_AS_STRING(self->before), (size_t)PyBytes_GET_SIZE(self->before));
    out = self->tagged ? put_tagged(out, key->data, key->len) : buckets_put(out, key->data, key->len);
    return buckets_put(out, PyBytes_AS_STRING(after), (size_t)PyBytes_GET_SIZE(after));
}

/* ---- a call ------------------------------------------------------------------------------ */

/* Where the texts of a call are put, one after the other. */
typedef struct builder {
    const char **texts;
    size_t *lens;
    int n;
} builder;

static void add(builder *to, const char *text, size_t len)
{
    to->texts[to->n] = text;
    to->lens[to->n++] = len;
}

static void add_text(builder *to, const char *text)
{
    add(to, text, strlen(text));
}

static char *add_keys(builder *to, const buckets_object *self, const core_text *key, char *room)
{
    for (size_t i = 0; i < self->n_limits; i++) {
        char *end = put_key(self, i, key, room);
        add(to, room, (size_t)(end - room));
        room = end;
    }
    return room;
}

static void add_numbers(builder *to, const buckets_object *self, const uint64_t *costs, char *room)
{
    for (size_t i = 0; i < self->n_limits; i++) {
        const redis_limit *limit = &self->limits[i];
        add_text(to, limit->scale);
        add_text(to, limit->token);
        add_text(to, limit->cap);
        int len = costs[i] == RL_COST_NEVER
                      ? snprintf(room, NUMBER_SIZE, "-1")
                      : snprintf(room, NUMBER_SIZE, "%llu", (unsigned long long)costs[i]);
        add(to, room, (size_t)len);
        room += NUMBER_SIZE;
        add_text(to, limit->min_ttl_ms);
    }
}

static const rl_script *script_of(const buckets_object *self, bucket_operation operation)
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

static void fill_call(redis_call *call, const core_text *key)
{
    const buckets_object *self = call->buckets;
    size_t n_texts = 3 + (1 + ARGUMENTS_PER_LIMIT) * self->n_limits;
    rl_call *out = &call->thread.call;
    builder to = {(const char **)(void *)(call + 1), NULL, 0};
    to.lens = (size_t *)(void *)(to.texts + n_texts);
    char *room = (char *)(to.lens + n_texts);
    static const char *const counts[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8"};
    out->script = script_of(self, call->operation);
    if (out->script != NULL) {
        add_text(&to, ""); /* the command and the digest, which the core fills in */
        add_text(&to, "");
        add_text(&to, counts[self->n_limits]);
        out->key = 3;
        room = add_keys(&to, self, key, room);
        add_numbers(&to, self, call->costs, room);
    } else {
        add_text(&to, "DEL");
        out->key = 1;
        add_keys(&to, self, key, room);
    }
    out->arguments = (rl_arguments){to.n, to.texts, to.lens};
}

static uint64_t limit_units(const redis_limit *limit, double tokens, bucket_operation operation)
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
    if ((cost != NULL && core_parse_cost(cost, &tokens) < 0) || core_parse_key(key, &text) < 0) {
        return NULL;
    }
    size_t n_texts = 3 + (1 + ARGUMENTS_PER_LIMIT) * buckets->n_limits;
    size_t room = n_texts * (sizeof(char *) + sizeof(size_t)) + key_room(buckets, text.len) +
                  NUMBER_SIZE * buckets->n_limits;
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
        call->costs[i] = limit_units(&buckets->limits[i], tokens, operation);
    }
    fill_call(call, &text);
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

/* Numbers behind those of the limits: the time, and the counts of each window. */
static size_t n_extra(const buckets_object *self)
{
    return self->n_windows == 0 ? 0 : 1 + 2 * self->n_windows;
}

/* An answer: {1 or 0, a number for each limit, extra ones}, all of them whole. */
static bool is_answer(const buckets_object *self, const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 1 + self->n_limits + n_extra(self)) {
        return false;
    }
    for (size_t i = 0; i < reply->elements; i++) {
        if (!is_whole(reply->element[i])) {
            return false;
        }
    }
    return !self->n_windows || reply->element[1 + self->n_limits]->integer < INT64_MAX / 1000;
}

static uint64_t number_at(const redisReply *reply, size_t i)
{
    return (uint64_t)reply->element[i]->integer;
}

/* Counts of a window stand behind the time, in the order of the limits. */
static rl_window window_in(const redisReply *reply, const rl_limit *limit, size_t at,
                           int64_t wall_ns)
{
    const uint64_t most = 2 * (uint64_t)RL_WINDOW_COUNT_MAX; /* somebody may have set more by hand */
    uint64_t current = number_at(reply, at);
    uint64_t previous = number_at(reply, at + 1);
    return (rl_window){wall_ns / limit->window_ns, current < most ? current : most,
                       previous < most ? previous : most};
}

/* The server's clock has microseconds, so a wait that is shorter by a part of one may be too short. */
static int64_t whole_us(int64_t ns)
{
    return ns < RL_NEVER - 1000 ? (ns + 999) / 1000 * 1000 : ns;
}

/* Read what an answer tells of each limit. False: it is none. */
static bool read_each(const redis_call *call, rl_decision *each, bool *allowed)
{
    const buckets_object *self = call->buckets;
    const redisReply *reply = call->thread.call.reply;
    if (!is_answer(self, reply)) {
        return false;
    }
    *allowed = reply->element[0]->integer != 0;
    size_t extra = 1 + self->n_limits;
    int64_t wall_ns = self->n_windows != 0 ? reply->element[extra++]->integer * 1000 : 0;
    for (size_t i = 0; i < self->n_limits; i++) {
        const redis_limit *limit = &self->limits[i];
        uint64_t deficit = number_at(reply, i + 1);
        uint64_t cost = call->costs[i];
        bool is_window = rl_is_window(&limit->window);
        uint64_t cap = is_window ? limit->window.cap : limit->bucket.cap;
        /* A limit that would have allowed the request does not tell of its denial. */
        bool passes = *allowed || (cost <= cap && deficit <= cap - cost);
        if (is_window) {
            rl_window window = window_in(reply, &limit->window, extra, wall_ns);
            each[i] = rl_window_decision(&limit->window, window, wall_ns, cost, passes);
            each[i].retry_after_ns = whole_us(each[i].retry_after_ns);
            each[i].reset_after_ns = whole_us(each[i].reset_after_ns);
            extra += 2;
        } else {
            each[i] = rl_redis_bucket_decision(&limit->bucket, deficit, cost, passes);
        }
    }
    return true;
}

static const rl_decision *told_of(const rl_decision *each, size_t n)
{
    const rl_decision *told = each;
    for (size_t i = 1; i < n; i++) {
        if (rl_decision_tells_more(&each[i], told)) {
            told = &each[i];
        }
    }
    return told;
}

PyObject *redis_call_result(redis_call *call)
{
    const rl_call *done = &call->thread.call;
    const buckets_object *self = call->buckets;
    rl_decision each[RL_TABLE_LIMITS_MAX] = {{0}};
    bool allowed;
    if (done->fault != RL_FAULT_NONE) {
        return redis_raise(self->state, done->fault, done->error);
    }
    if (call->operation == BUCKET_RESET) {
        Py_RETURN_NONE;
    }
    if (!read_each(call, each, &allowed) || told_of(each, self->n_limits)->allowed != allowed) {
        return redis_raise(self->state, RL_FAULT_PROTOCOL,
                           "the script's answer is not a decision");
    }
    switch (call->operation) {
    case BUCKET_ALLOW:
        return PyBool_FromLong(allowed);
    case BUCKET_REFUND:
        Py_RETURN_NONE;
    case BUCKET_HIT_EACH:
    case BUCKET_PEEK_EACH:
        return decisions_new(self->state, told_of(each, self->n_limits), each, self->n_limits);
    default:
        return decision_new(self->state, told_of(each, self->n_limits));
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

static PyObject *buckets_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                             PyObject *Py_UNUSED(kwargs))
{
    core_state *state = core_state_of(type);
    PyObject *self = state == NULL ? NULL : type->tp_alloc(type, 0);
    if (self != NULL) {
        buckets_of(self)->state = state;
    }
    return self;
}

static void print_number(char *out, uint64_t number)
{
    snprintf(out, NUMBER_SIZE, "%llu", (unsigned long long)number);
}

static int set_bucket(redis_limit *limit, PyObject *pair)
{
    double capacity, refill_rate;
    if (!PyArg_ParseTuple(pair, "dd:limit", &capacity, &refill_rate)) {
        return -1;
    }
    rl_status status = rl_redis_bucket_init(&limit->bucket, capacity, refill_rate);
    if (status != RL_OK) {
        PyErr_Format(PyExc_ValueError,
                     "%s is out of range in (capacity, refill_rate) = %R; in Redis a bucket must "
                     "fill within 142 years, and its rate be exact to a millionth",
                     status == RL_ECAPACITY ? "capacity" : "refill_rate", pair);
        return -1;
    }
    limit->window = (rl_limit){.kind = RL_BUCKET};
    print_number(limit->scale, limit->bucket.scale);
    print_number(limit->token, limit->bucket.token);
    print_number(limit->cap, limit->bucket.cap);
    return 0;
}

static int set_limit(redis_limit *limit, PyObject *given, uint64_t min_ttl_ms, bool dated)
{
    print_number(limit->min_ttl_ms, min_ttl_ms);
    if (PyTuple_Check(given) && PyTuple_GET_SIZE(given) == 2) {
        return set_bucket(limit, given);
    }
    if (core_parse_limit(given, &limit->window) < 0) {
        return -1;
    }
    const char *fixed = dated ? "-3" : "-1";
    snprintf(limit->scale, NUMBER_SIZE, "%s",
             limit->window.kind == RL_FIXED_WINDOW ? fixed : "-2");
    print_number(limit->token, (uint64_t)(limit->window.window_ns / 1000000000));
    print_number(limit->cap, limit->window.cap);
    return 0;
}

static int set_scripts(buckets_object *self, PyObject *sources)
{
    for (Py_ssize_t i = 0; i < N_SCRIPTS; i++) {
        PyObject *body = PyTuple_GET_ITEM(sources, i); /* borrowed */
        unsigned char digest[SHA_DIGEST_LENGTH];
        if (!PyBytes_Check(body)) {
            PyErr_SetString(PyExc_TypeError, "scripts must be bytes objects");
            return -1;
        }
        rl_script *script = &self->scripts[i];
        script->body = PyBytes_AS_STRING(body);
        script->body_len = (size_t)PyBytes_GET_SIZE(body);
        SHA1((const unsigned char *)script->body, script->body_len, digest);
        *put_hex(script->sha1, digest, sizeof digest) = 0;
    }
    return 0;
}

static int are_bytes(PyObject *texts)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(texts); i++) {
        if (!PyBytes_Check(PyTuple_GET_ITEM(texts, i))) {
            PyErr_SetString(PyExc_TypeError, "the endings of keys must be bytes");
            return 0;
        }
    }
    return 1;
}

static int buckets_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"client", "limits", "scripts", "before",
                            "after",  "tagged", "min_ttl_ms", "dated", NULL};
    buckets_object *self = buckets_of(object);
    PyObject *client, *limits, *scripts, *before, *after;
    int tagged;
    int dated = 0;
    unsigned long long min_ttl_ms = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!O!SO!p|Kp:RedisBuckets", names,
                                     self->state->redis_client_type, &client, &PyTuple_Type,
                                     &limits, &PyTuple_Type, &scripts, &before, &PyTuple_Type,
                                     &after, &tagged, &min_ttl_ms, &dated)) {
        return -1;
    }
    Py_ssize_t n = PyTuple_GET_SIZE(limits);
    if (n < 1 || n > RL_TABLE_LIMITS_MAX || PyTuple_GET_SIZE(after) != n ||
        PyTuple_GET_SIZE(scripts) != N_SCRIPTS) {
        PyErr_Format(PyExc_ValueError, "expected 1 to %d limits, as many endings and %d scripts",
                     RL_TABLE_LIMITS_MAX, N_SCRIPTS);
        return -1;
    }
    redis_limit made[RL_TABLE_LIMITS_MAX] = {0}; /* a bucket has no window, and the reverse */
    size_t n_windows = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (set_limit(&made[i], PyTuple_GET_ITEM(limits, i), min_ttl_ms, dated != 0) < 0) {
            return -1;
        }
        n_windows += rl_is_window(&made[i].window);
    }
    /* Checked here: the numbers of a limit are Python code, which may have called __init__. */
    if (self->client != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "buckets cannot be initialised twice");
        return -1;
    }
    if (!are_bytes(after) || set_scripts(self, scripts) < 0) {
        return -1;
    }
    memcpy(self->limits, made, (size_t)n * sizeof made[0]);
    self->n_limits = (size_t)n;
    self->n_windows = n_windows;
    self->tagged = tagged != 0;
    self->sources = Py_NewRef(scripts);
    self->before = Py_NewRef(before);
    self->after = Py_NewRef(after);
    self->client = (client_object *)Py_NewRef(client);
    return 0;
}

static PyObject *buckets_keys(PyObject *object, PyObject *key)
{
    const buckets_object *self = buckets_of(object);
    core_text text;
    if (self->client == NULL || core_parse_key(key, &text) < 0) {
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_RuntimeError, "not initialised");
    }
    PyObject *keys = PyTuple_New((Py_ssize_t)self->n_limits);
    char *room = PyMem_Malloc(key_room(self, text.len) + 1);
    if (keys == NULL || room == NULL) {
        PyErr_NoMemory();
        Py_CLEAR(keys);
    }
    for (size_t i = 0; keys != NULL && i < self->n_limits; i++) {
        char *end = put_key(self, i, &text, room);
        PyObject *one = PyBytes_FromStringAndSize(room, end - room);
        if (one == NULL) {
            Py_CLEAR(keys);
            break;
        }
        PyTuple_SET_ITEM(keys, (Py_ssize_t)i, one);
    }
    PyMem_Free(room);
    Py_XDECREF(text.owner);
    return keys;
}

static void buckets_dealloc(PyObject *object)
{
    buckets_object *self = buckets_of(object);
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->client);
    Py_XDECREF(self->sources);
    Py_XDECREF(self->before);
    Py_XDECREF(self->after);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef buckets_methods[] = {
    {"keys", buckets_keys, METH_O,
     PyDoc_STR("keys($self, key, /)\n--\n\n"
               "Return the keys in Redis of a client key, one for each limit (tuple of bytes).")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot buckets_slots[] = {
    {Py_tp_doc,
     PyDoc_STR("RedisBuckets(client, limits, scripts, before, after, tagged, min_ttl_ms=0,\n"
               "             dated=False)\n--\n\n"
               "Keep the buckets of some limits in Redis.\n\n"
               "limits: a tuple of limits, as Limiter has them. scripts: the texts of take, peek,\n"
               "refund, charge, take_many and reset (bytes). before, after: bytes around a client\n"
               "key, `after` one for each limit. tagged: put the client key between braces, escaped. min_ttl_ms: keep a\n"
               "bucket so long at least. dated: a fixed window's key ends with its beginning.\n"
               "Raises ValueError for what is out of range.")},
    {Py_tp_new, buckets_new},
    {Py_tp_init, buckets_init},
    {Py_tp_dealloc, buckets_dealloc},
    {Py_tp_methods, buckets_methods},
    {0, NULL},
};

PyType_Spec redis_buckets_spec = {
    .name = "rate_limiter._core.RedisBuckets",
    .basicsize = sizeof(buckets_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = buckets_slots,
};
