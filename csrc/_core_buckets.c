/* _core_buckets.c -- RedisBuckets: from a client key to a command, and from its answer
 * to a decision. */
#include "_core_redis.h"

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

/* Between braces, which choose the slot in a cluster: so a client's own ones are escaped. */
static char *put_tagged(char *out, const char *key, size_t len)
{
    *out++ = '{';
    if (len > PLAIN_KEY_MAX) {
        unsigned char digest[SHA256_DIGEST_LENGTH];
        SHA256((const unsigned char *)key, len, digest);
        memcpy(out, "sha256:", 7);
        out = put_hex(out + 7, digest, sizeof digest);
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
    size_t widest = self->tagged ? 2 + (len > PLAIN_KEY_MAX ? 7 + HEX_SIZE : 3 * len) : len;
    size_t room = 0;
    for (size_t i = 0; i < self->n_limits; i++) {
        room += (size_t)PyBytes_GET_SIZE(self->before) + widest +
                (size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM(self->after, (Py_ssize_t)i));
    }
    return room;
}

static char *put(char *out, const char *data, size_t len)
{
    memcpy(out, data, len);
    return out + len;
}

static char *put_key(const buckets_object *self, size_t i, const core_text *key, char *out)
{
    PyObject *after = PyTuple_GET_ITEM(self->after, (Py_ssize_t)i); /* borrowed */
    out = put(out, PyBytes_AS_STRING(self->before), (size_t)PyBytes_GET_SIZE(self->before));
    out = self->tagged ? put_tagged(out, key->data, key->len) : put(out, key->data, key->len);
    return put(out, PyBytes_AS_STRING(after), (size_t)PyBytes_GET_SIZE(after));
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
        add_text(to, self->scale[i]);
        add_text(to, self->token[i]);
        add_text(to, self->cap[i]);
        int len = costs[i] == RL_COST_NEVER
                      ? snprintf(room, NUMBER_SIZE, "-1")
                      : snprintf(room, NUMBER_SIZE, "%llu", (unsigned long long)costs[i]);
        add(to, room, (size_t)len);
        room += NUMBER_SIZE;
        add_text(to, self->min_ttl_ms[i]);
    }
}

static const rl_script *script_of(const buckets_object *self, bucket_operation operation)
{
    switch (operation) {
    case BUCKET_PEEK:
        return &self->scripts[SCRIPT_PEEK];
    case BUCKET_REFUND:
        return &self->scripts[SCRIPT_REFUND];
    case BUCKET_RESET:
        return NULL;
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
        call->costs[i] = rl_arrival_cost(&buckets->limits[i], tokens);
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

/* Of several limits, tell of the one that denies longest, else of the one with the fewest
 * tokens left: the rule of rl_table.h. */
static bool tells_more(const rl_decision *a, const rl_decision *b)
{
    if (a->allowed != b->allowed) {
        return !a->allowed;
    }
    return a->allowed ? a->remaining < b->remaining : a->retry_after_ns > b->retry_after_ns;
}

static bool read_decision(const redis_call *call, const redisReply *reply, rl_decision *out)
{
    const buckets_object *self = call->buckets;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 1 + self->n_limits ||
        !is_whole(reply->element[0])) {
        return false;
    }
    bool allowed = reply->element[0]->integer != 0;
    for (size_t i = 0; i < self->n_limits; i++) {
        if (!is_whole(reply->element[i + 1])) {
            return false;
        }
        uint64_t deficit = (uint64_t)reply->element[i + 1]->integer;
        uint64_t cost = call->costs[i];
        /* A limit that would have allowed the request does not tell of its denial. */
        bool passes = allowed || (cost != RL_COST_NEVER && deficit + cost <= self->limits[i].cap);
        rl_decision one = rl_arrival_decision(&self->limits[i], deficit, cost, passes);
        if (i == 0 || tells_more(&one, out)) {
            *out = one;
        }
    }
    return out->allowed == allowed;
}

PyObject *redis_call_result(redis_call *call)
{
    const rl_call *done = &call->thread.call;
    core_state *state = call->buckets->state;
    rl_decision decision;
    if (done->fault != RL_FAULT_NONE) {
        return redis_raise(state, done->fault, done->error);
    }
    if (call->operation == BUCKET_RESET) {
        Py_RETURN_NONE;
    }
    if (!read_decision(call, done->reply, &decision)) {
        return redis_raise(state, RL_FAULT_PROTOCOL, "the script's answer is not a decision");
    }
    switch (call->operation) {
    case BUCKET_ALLOW:
        return PyBool_FromLong(decision.allowed);
    case BUCKET_REFUND:
        Py_RETURN_NONE;
    default:
        return decision_new(state, &decision);
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

static int set_limit(buckets_object *self, size_t i, PyObject *pair, uint64_t min_ttl_ms)
{
    double capacity, refill_rate;
    if (!PyTuple_Check(pair) || !PyArg_ParseTuple(pair, "dd:limit", &capacity, &refill_rate)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "a limit must be a tuple (capacity, refill_rate)");
        }
        return -1;
    }
    rl_arrival *limit = &self->limits[i];
    rl_status status = rl_arrival_init(limit, capacity, refill_rate);
    if (status != RL_OK) {
        PyErr_Format(PyExc_ValueError,
                     "%s is out of range in (capacity, refill_rate) = %R; in Redis a bucket must "
                     "fill within 142 years",
                     status == RL_ECAPACITY ? "capacity" : "refill_rate", pair);
        return -1;
    }
    print_number(self->scale[i], limit->scale);
    print_number(self->token[i], limit->token);
    print_number(self->cap[i], limit->cap);
    print_number(self->min_ttl_ms[i], min_ttl_ms);
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
    self->sources = Py_NewRef(sources);
    return 0;
}

static int buckets_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"client", "limits", "scripts", "before",
                            "after",  "tagged", "min_ttl_ms", NULL};
    buckets_object *self = buckets_of(object);
    PyObject *client, *limits, *scripts, *before, *after;
    int tagged;
    unsigned long long min_ttl_ms = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!O!SO!p|K:RedisBuckets", names,
                                     self->state->redis_client_type, &client, &PyTuple_Type,
                                     &limits, &PyTuple_Type, &scripts, &before, &PyTuple_Type,
                                     &after, &tagged, &min_ttl_ms)) {
        return -1;
    }
    Py_ssize_t n = PyTuple_GET_SIZE(limits);
    if (self->client != NULL || n < 1 || n > RL_TABLE_LIMITS_MAX || PyTuple_GET_SIZE(after) != n ||
        PyTuple_GET_SIZE(scripts) != N_SCRIPTS) {
        PyErr_Format(PyExc_ValueError,
                     "expected, once, 1 to %d limits, as many endings and %d scripts",
                     RL_TABLE_LIMITS_MAX, N_SCRIPTS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!PyBytes_Check(PyTuple_GET_ITEM(after, i))) {
            PyErr_SetString(PyExc_TypeError, "the endings of keys must be bytes");
            return -1;
        }
        if (set_limit(self, (size_t)i, PyTuple_GET_ITEM(limits, i), min_ttl_ms) < 0) {
            return -1;
        }
    }
    self->n_limits = (size_t)n;
    self->tagged = tagged != 0;
    if (set_scripts(self, scripts) < 0) {
        return -1;
    }
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
     PyDoc_STR("RedisBuckets(client, limits, scripts, before, after, tagged, min_ttl_ms=0)\n--\n\n"
               "Keep the buckets of some limits in Redis.\n\n"
               "limits: a tuple of (capacity, refill_rate). scripts: the texts of take, peek,\n"
               "refund and take_many (bytes). before, after: bytes around a client key, `after` one for each\n"
               "limit. tagged: put the client key between braces, escaped. min_ttl_ms: keep a\n"
               "bucket so long at least. Raises ValueError for what is out of range.")},
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
