/* buckets.c -- RedisBuckets: limits, their scripts, and the keys in Redis of a client key. */
#include "python/redis/redis.h"

#include <openssl/sha.h>
#include <stdatomic.h>
#include <stdio.h>

/* A key from a request may have any length; longer ones are stored as a hash. */
#define PLAIN_KEY_MAX 200
/* The longest time in which a bucket in Redis may fill, see redis/redis_bucket.h. */
#define YEARS_MAX 142
#define SECONDS_PER_YEAR (365.25 * 86400)
#define HEX_SIZE (2 * SHA256_DIGEST_LENGTH)

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

/* Put a key between braces, which select the slot in a cluster, and escape the braces in it. Empty
 * braces would select no slot, so the empty key becomes "%", which no other key does. */
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

/* Return the buckets that a limit belongs to, with its number among theirs and its client key. */
static const buckets_object *part_of_limit(const buckets_object *self, size_t *i,
                                           const core_text **keys)
{
    if (self->parts == NULL) {
        return self;
    }
    size_t part = self->part_of[*i], first = *i;
    while (first > 0 && self->part_of[first - 1] == part) {
        first--;
    }
    *i -= first;
    *keys += part;
    return buckets_of(PyTuple_GET_ITEM(self->parts, (Py_ssize_t)part));
}

static size_t own_key_room(const buckets_object *self, size_t len)
{
    size_t widest = self->tagged ? 3 + (len > PLAIN_KEY_MAX ? 7 + HEX_SIZE : 3 * len) : len;
    size_t room = 0;
    for (size_t i = 0; i < self->n_limits; i++) {
        room += (size_t)PyBytes_GET_SIZE(self->before) + widest +
                (size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM(self->after, (Py_ssize_t)i));
    }
    return room;
}

size_t redis_buckets_key_room(const buckets_object *self, const core_text *keys)
{
    if (self->parts == NULL) {
        return own_key_room(self, keys->len);
    }
    size_t room = 0;
    for (size_t i = 0; i < redis_buckets_n_parts(self); i++) {
        room += own_key_room(buckets_of(PyTuple_GET_ITEM(self->parts, (Py_ssize_t)i)), keys[i].len);
    }
    return room;
}

static char *put_bytes(char *out, const char *data, size_t len)
{
    memcpy(out, data, len);
    return out + len;
}

char *redis_buckets_put_key(const buckets_object *self, size_t i, const core_text *key, char *out)
{
    self = part_of_limit(self, &i, &key);
    PyObject *after = PyTuple_GET_ITEM(self->after, (Py_ssize_t)i); /* borrowed */
    out = put_bytes(out, PyBytes_AS_STRING(self->before), (size_t)PyBytes_GET_SIZE(self->before));
    out = self->tagged ? put_tagged(out, key->data, key->len) : put_bytes(out, key->data, key->len);
    return put_bytes(out, PyBytes_AS_STRING(after), (size_t)PyBytes_GET_SIZE(after));
}

/* ---- counts ------------------------------------------------------------------------------ */

static void buckets_add_counts(buckets_object *self, uint64_t allowed, uint64_t denied)
{
    atomic_fetch_add_explicit(&self->n_allowed, allowed, memory_order_relaxed);
    atomic_fetch_add_explicit(&self->n_denied, denied, memory_order_relaxed);
}

void redis_buckets_count(buckets_object *self, bucket_operation operation, bool allowed)
{
    switch (operation) {
    case BUCKET_ALLOW:
    case BUCKET_HIT:
    case BUCKET_TRY:
    case BUCKET_HIT_EACH:
    case BUCKET_HIT_ALL:
        buckets_add_counts(self, allowed, !allowed);
        break;
    default:
        break;
    }
}

static PyObject *buckets_count(PyObject *self, PyObject *args)
{
    uint64_t allowed, denied;
    if (!PyArg_ParseTuple(args, "O&O&:count", core_parse_count, &allowed, core_parse_count,
                          &denied)) {
        return NULL;
    }
    buckets_add_counts(buckets_of(self), allowed, denied);
    Py_RETURN_NONE;
}

static PyObject *buckets_counts(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    buckets_object *self = buckets_of(object);
    uint64_t allowed = atomic_load_explicit(&self->n_allowed, memory_order_relaxed);
    uint64_t denied = atomic_load_explicit(&self->n_denied, memory_order_relaxed);
    return Py_BuildValue("KK", (unsigned long long)allowed, (unsigned long long)denied);
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

static void raise_bad_bucket(rl_status status, PyObject *given, double capacity, double refill_rate)
{
    char cause[256];
    double years = refill_rate > 0 ? capacity / refill_rate / SECONDS_PER_YEAR : 0;
    if (status == RL_ECAPACITY && years > YEARS_MAX) {
        snprintf(cause, sizeof cause,
                 "the refill_rate %g fills the capacity %g in %.3g years; in Redis that must take "
                 "%d years at most: give a higher rate, or 0 for a bucket that is never refilled",
                 refill_rate, capacity, years, YEARS_MAX);
        PyErr_SetString(PyExc_ValueError, cause);
        return;
    }
    PyErr_Format(PyExc_ValueError,
                 "%s is out of range in (capacity, refill_rate) = %R; in Redis a bucket must "
                 "fill within %d years, and its rate must be exact to a millionth",
                 status == RL_ECAPACITY ? "capacity" : "refill_rate", given, YEARS_MAX);
}

static int buckets_set_bucket(redis_limit *limit, PyObject *given, double capacity,
                              double refill_rate)
{
    rl_status status = rl_redis_bucket_init(&limit->bucket, capacity, refill_rate);
    if (status != RL_OK) {
        raise_bad_bucket(status, given, capacity, refill_rate);
        return -1;
    }
    print_number(limit->scale, limit->bucket.scale);
    print_number(limit->token, limit->bucket.token);
    print_number(limit->cap, limit->bucket.cap);
    return 0;
}

static int buckets_set_limit(redis_limit *limit, PyObject *given, uint64_t min_ttl_ms, bool dated)
{
    print_number(limit->min_ttl_ms, min_ttl_ms);
    if (PyTuple_Check(given) && PyTuple_GET_SIZE(given) == 2) { /* whose errors name Redis */
        double capacity, refill_rate;
        return PyArg_ParseTuple(given, "dd:limit", &capacity, &refill_rate)
                   ? buckets_set_bucket(limit, given, capacity, refill_rate)
                   : -1;
    }
    rl_limit *window = &limit->window;
    if (core_parse_limit(given, window) < 0) {
        return -1;
    }
    limit->counts_denied = window->counts_denied;
    if (!rl_is_window(window)) {
        return buckets_set_bucket(limit, given, window->capacity, window->refill_rate);
    }
    const char *scale = window->kind == RL_SLIDING_WINDOW ? "-2"
                        : window->starts_first            ? "-4"
                        : dated                           ? "-3"
                                                          : "-1";
    snprintf(limit->scale, NUMBER_SIZE, "%s", scale);
    print_number(limit->token, (uint64_t)(limit->window.window_ns / 1000000000));
    print_number(limit->cap, limit->window.cap);
    return 0;
}

static int buckets_set_scripts(buckets_object *self, PyObject *sources)
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
    static char *names[] = {"client", "limits",     "scripts", "before", "after",
                            "tagged", "min_ttl_ms", "dated",   NULL};
    buckets_object *self = buckets_of(object);
    PyObject *client, *limits, *scripts, *before, *after;
    int tagged;
    int dated = 0;
    uint64_t min_ttl_ms = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!O!SO!p|O&p:RedisBuckets", names,
                                     self->state->redis_client_type, &client, &PyTuple_Type,
                                     &limits, &PyTuple_Type, &scripts, &before, &PyTuple_Type,
                                     &after, &tagged, core_parse_count, &min_ttl_ms, &dated)) {
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
    bool counts_denied = false;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (buckets_set_limit(&made[i], PyTuple_GET_ITEM(limits, i), min_ttl_ms, dated != 0) < 0) {
            return -1;
        }
        n_windows += rl_is_window(&made[i].window);
        counts_denied |= made[i].counts_denied;
    }
    /* Checked here: converting the numbers of a limit may have called __init__. */
    if (self->client != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "buckets cannot be initialised twice");
        return -1;
    }
    if (!are_bytes(after) || buckets_set_scripts(self, scripts) < 0) {
        return -1;
    }
    PyObject *zones = core_limit_zones(limits);
    if (zones == NULL) {
        return -1;
    }
    memcpy(self->limits, made, (size_t)n * sizeof made[0]);
    self->n_limits = (size_t)n;
    self->n_windows = n_windows;
    self->counts_denied = counts_denied;
    self->zones = zones;
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
    if (self->client == NULL || self->parts != NULL || core_parse_key(key, &text) < 0) {
        return PyErr_Occurred() ? NULL
                                : PyErr_Format(PyExc_RuntimeError, "not initialised, or joined");
    }
    PyObject *keys = PyTuple_New((Py_ssize_t)self->n_limits);
    char *room = PyMem_Malloc(redis_buckets_key_room(self, &text) + 1);
    if (keys == NULL || room == NULL) {
        PyErr_NoMemory();
        Py_CLEAR(keys);
    }
    for (size_t i = 0; keys != NULL && i < self->n_limits; i++) {
        char *end = redis_buckets_put_key(self, i, &text, room);
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

/* Check the parts of joined buckets, and count their limits. 0, or -1 with an exception set. */
static int buckets_check_parts(PyTypeObject *type, PyObject *parts, PyObject *scripts,
                               Py_ssize_t *n_limits)
{
    Py_ssize_t n = PyTuple_GET_SIZE(parts);
    *n_limits = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *part = PyTuple_GET_ITEM(parts, i); /* borrowed */
        if (Py_TYPE(part) != type || buckets_of(part)->client == NULL ||
            buckets_of(part)->parts != NULL ||
            buckets_of(part)->client != buckets_of(PyTuple_GET_ITEM(parts, 0))->client) {
            PyErr_SetString(PyExc_TypeError, "expected a tuple of RedisBuckets of one client");
            return -1;
        }
        *n_limits += (Py_ssize_t)buckets_of(part)->n_limits;
    }
    if (*n_limits < 1 || *n_limits > RL_TABLE_LIMITS_MAX ||
        PyTuple_GET_SIZE(scripts) != N_SCRIPTS) {
        PyErr_Format(PyExc_ValueError, "expected 1 to %d limits in all, got %zd",
                     RL_TABLE_LIMITS_MAX, *n_limits);
        return -1;
    }
    return 0;
}

/* Return a tuple of the first part and the others. */
static PyObject *buckets_parts(PyObject *first, PyObject *others)
{
    Py_ssize_t n = PyTuple_GET_SIZE(others);
    PyObject *parts = PyTuple_New(n + 1);
    if (parts != NULL) {
        PyTuple_SET_ITEM(parts, 0, Py_NewRef(first));
        for (Py_ssize_t i = 0; i < n; i++) {
            PyTuple_SET_ITEM(parts, i + 1, Py_NewRef(PyTuple_GET_ITEM(others, i)));
        }
    }
    return parts;
}

static PyObject *buckets_join(PyObject *first, PyObject *args)
{
    PyTypeObject *type = Py_TYPE(first);
    PyObject *others, *scripts;
    Py_ssize_t n_limits;
    if (!PyArg_ParseTuple(args, "O!O!:join", &PyTuple_Type, &others, &PyTuple_Type, &scripts)) {
        return NULL;
    }
    PyObject *parts = buckets_parts(first, others);
    if (parts == NULL || buckets_check_parts(type, parts, scripts, &n_limits) < 0) {
        Py_XDECREF(parts);
        return NULL;
    }
    PyObject *object = buckets_new(type, NULL, NULL);
    if (object == NULL || buckets_set_scripts(buckets_of(object), scripts) < 0) {
        Py_XDECREF(object);
        Py_DECREF(parts);
        return NULL;
    }
    buckets_object *self = buckets_of(object);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(parts); i++) {
        const buckets_object *part = buckets_of(PyTuple_GET_ITEM(parts, i));
        for (size_t j = 0; j < part->n_limits; j++) {
            self->part_of[self->n_limits] = (uint8_t)i;
            self->limits[self->n_limits++] = part->limits[j];
        }
        self->n_windows += part->n_windows;
    }
    self->sources = Py_NewRef(scripts);
    self->parts = parts;
    self->client = (client_object *)Py_NewRef(buckets_of(PyTuple_GET_ITEM(parts, 0))->client);
    return object;
}

static void buckets_dealloc(PyObject *object)
{
    buckets_object *self = buckets_of(object);
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->client);
    Py_XDECREF(self->zones);
    Py_XDECREF(self->sources);
    Py_XDECREF(self->before);
    Py_XDECREF(self->after);
    Py_XDECREF(self->parts);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef buckets_methods[] = {
    {"keys", buckets_keys, METH_O,
     PyDoc_STR("keys($self, key, /)\n--\n\n"
               "Return the keys in Redis of a client key, one for each limit (tuple of bytes).")},
    {"count", buckets_count, METH_VARARGS,
     PyDoc_STR("count($self, allowed, denied, /)\n--\n\n"
               "Add decisions that were made without Redis to the counts.")},
    {"counts", buckets_counts, METH_NOARGS,
     PyDoc_STR("counts($self, /)\n--\n\n"
               "Return how many decisions that take tokens have allowed and denied (two ints).")},
    {"join", buckets_join, METH_VARARGS,
     PyDoc_STR("join($self, others, scripts, /)\n--\n\n"
               "Return buckets of this one and others, for hit_all() of the same client.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot buckets_slots[] = {
    {Py_tp_doc,
     PyDoc_STR(
         "RedisBuckets(client, limits, scripts, before, after, tagged, min_ttl_ms=0,\n"
         "             dated=False)\n--\n\n"
         "Keep the buckets of some limits in Redis.\n\n"
         "limits: a tuple of limits, as in Limiter. scripts: the texts of take, peek, refund,\n"
         "charge, take_many, reset and block (bytes). before, after: bytes around a client key;\n"
         "`after` has one for each limit. tagged: put the client key between braces and\n"
         "escape those in it. min_ttl_ms: shortest time to keep a bucket. dated: end the key\n"
         "of a fixed window with the start of the window. Raises ValueError for a value out\n"
         "of range.")},
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
