/* _core_limiter.c -- Limiter: limits, a clock and a table, as a Python type. */
#include "_core.h"
#include "rl_shared.h"

#include <time.h>

static limiter_object *limiter_of(PyObject *self)
{
    return (limiter_object *)self;
}

/* ---- time ------------------------------------------------------------------ */

#define NS_PER_S INT64_C(1000000000)

#if defined(CLOCK_MONOTONIC_COARSE)
#define COARSE_CLOCK CLOCK_MONOTONIC_COARSE
#elif defined(CLOCK_MONOTONIC_RAW_APPROX)
#define COARSE_CLOCK CLOCK_MONOTONIC_RAW_APPROX
#endif

static int64_t system_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

#if defined(CLOCK_REALTIME_COARSE)
#define COARSE_WALL_CLOCK CLOCK_REALTIME_COARSE
#else
#define COARSE_WALL_CLOCK CLOCK_REALTIME
#endif

/* The wall clock is read only where a window needs it. */
static rl_time limiter_now(const limiter_object *self)
{
    clockid_t steady = CLOCK_MONOTONIC;
    clockid_t wall = CLOCK_REALTIME;
    if (self->clock_kind == CLOCK_KIND_MANUAL) {
        int64_t now_ns = clock_now_ns(self->clock);
        return (rl_time){now_ns, now_ns};
    }
#ifdef COARSE_CLOCK
    if (self->clock_kind == CLOCK_KIND_COARSE) {
        steady = COARSE_CLOCK;
        wall = COARSE_WALL_CLOCK;
    }
#endif
    return (rl_time){system_ns(steady), self->has_windows ? system_ns(wall) : 0};
}

static int set_clock(limiter_object *self, PyObject *clock)
{
    Py_CLEAR(self->clock); /* of a first try that failed */
    if (clock == NULL) {
        self->clock_kind = CLOCK_KIND_MONOTONIC;
        return 0;
    }
    if (Py_TYPE(clock) == self->state->clock_type) {
        self->clock_kind = CLOCK_KIND_MANUAL;
        self->clock = Py_NewRef(clock);
        return 0;
    }
    if (PyUnicode_Check(clock) && PyUnicode_CompareWithASCIIString(clock, "monotonic") == 0) {
        self->clock_kind = CLOCK_KIND_MONOTONIC;
        return 0;
    }
#ifdef COARSE_CLOCK
    if (PyUnicode_Check(clock) && PyUnicode_CompareWithASCIIString(clock, "coarse") == 0) {
        self->clock_kind = CLOCK_KIND_COARSE;
        return 0;
    }
#endif
    PyErr_Format(PyExc_ValueError,
                 "clock must be 'monotonic', 'coarse' (where the system has one) or a ManualClock, "
                 "got %R",
                 clock);
    return -1;
}

/* ---- arguments ------------------------------------------------------------- */

static int hash_key(const limiter_object *self, PyObject *key, rl_key *out)
{
    core_text text;
    if (core_parse_key(key, &text) < 0) {
        return -1;
    }
    *out = rl_table_key(self->table, text.data, text.len);
    Py_XDECREF(text.owner);
    return 0;
}

/* Convert a cost in tokens (NULL: 1) to the units of each limit. Returns them,
 * in `units` or where they are known already, or NULL with an exception set. */
static const uint64_t *cost_units(const limiter_object *self, PyObject *cost, uint64_t *units)
{
    if (cost == NULL) {
        return self->one;
    }
    double tokens;
    if (core_parse_cost(cost, &tokens) < 0) {
        return NULL;
    }
    for (size_t i = 0; i < self->n_limits; i++) {
        units[i] = rl_limit_cost(&self->limits[i], tokens);
    }
    return units;
}

typedef uint64_t (*cost_converter)(const rl_limit *limit, double tokens);

/* Convert what is charged or given back (NULL: 1). As cost_units. */
static const uint64_t *other_units(const limiter_object *self, PyObject *cost,
                                   cost_converter convert, uint64_t *units)
{
    double tokens = 1;
    if (cost != NULL && core_parse_cost(cost, &tokens) < 0) {
        return NULL;
    }
    for (size_t i = 0; i < self->n_limits; i++) {
        units[i] = convert(&self->limits[i], tokens);
    }
    return units;
}

static int ready(const limiter_object *self)
{
    if (self->table == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this limiter was not initialised: call __init__ first");
        return 0;
    }
    return 1;
}

/* ---- decisions ------------------------------------------------------------- */

int limiter_decide(limiter_object *self, PyObject *key, PyObject *cost, bool *allowed,
                   rl_decision *out)
{
    rl_key hash;
    uint64_t units[RL_TABLE_LIMITS_MAX];
    const uint64_t *costs;
    if (!ready(self) || hash_key(self, key, &hash) < 0 ||
        (costs = cost_units(self, cost, units)) == NULL) {
        return -1;
    }
    if (rl_table_take(self->table, hash, costs, limiter_now(self), allowed, out, NULL) != RL_OK) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static PyObject *limiter_allow(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    core_key_cost given;
    bool allowed;
    if (core_parse_key_cost("allow", "key", args, nargs, kwnames, &given) < 0 ||
        limiter_decide(limiter_of(self), given.key, given.cost, &allowed, NULL) < 0) {
        return NULL;
    }
    return PyBool_FromLong(allowed);
}

static PyObject *limiter_hit(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    core_key_cost given;
    bool allowed;
    rl_decision decision;
    if (core_parse_key_cost("hit", "key", args, nargs, kwnames, &given) < 0 ||
        limiter_decide(limiter_of(self), given.key, given.cost, &allowed, &decision) < 0) {
        return NULL;
    }
    return decision_new(limiter_of(self)->state, &decision);
}

/* What the methods below begin with: a limiter that is ready, a key, and costs. */
typedef struct asked {
    limiter_object *limiter;
    rl_key key;
    uint64_t room[RL_TABLE_LIMITS_MAX];
    const uint64_t *costs;
} asked;

/* Read it; `convert` turns what is charged or given back into units, NULL: it is a cost. */
static int read_asked(const char *function, PyObject *object, PyObject *const *args,
                      Py_ssize_t nargs, PyObject *kwnames, cost_converter convert, asked *out)
{
    core_key_cost given;
    out->limiter = limiter_of(object);
    if (core_parse_key_cost(function, "key", args, nargs, kwnames, &given) < 0 ||
        !ready(out->limiter) || hash_key(out->limiter, given.key, &out->key) < 0) {
        return -1;
    }
    out->costs = convert == NULL ? cost_units(out->limiter, given.cost, out->room)
                                 : other_units(out->limiter, given.cost, convert, out->room);
    return out->costs == NULL ? -1 : 0;
}

static PyObject *limiter_peek(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    asked asked;
    rl_decision decision;
    if (read_asked("peek", object, args, nargs, kwnames, NULL, &asked) < 0) {
        return NULL;
    }
    rl_table_peek(asked.limiter->table, asked.key, asked.costs, limiter_now(asked.limiter),
                  &decision, NULL);
    return decision_new(asked.limiter->state, &decision);
}

static PyObject *limiter_hit_each(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames)
{
    asked asked;
    bool allowed;
    rl_decision told;
    rl_decision each[RL_TABLE_LIMITS_MAX];
    if (read_asked("hit_each", object, args, nargs, kwnames, NULL, &asked) < 0) {
        return NULL;
    }
    if (rl_table_take(asked.limiter->table, asked.key, asked.costs, limiter_now(asked.limiter),
                      &allowed, &told, each) != RL_OK) {
        return PyErr_NoMemory();
    }
    return decisions_new(asked.limiter->state, &told, each, asked.limiter->n_limits);
}

static PyObject *limiter_peek_each(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames)
{
    asked asked;
    rl_decision told;
    rl_decision each[RL_TABLE_LIMITS_MAX];
    if (read_asked("peek_each", object, args, nargs, kwnames, NULL, &asked) < 0) {
        return NULL;
    }
    rl_table_peek(asked.limiter->table, asked.key, asked.costs, limiter_now(asked.limiter), &told,
                  each);
    return decisions_new(asked.limiter->state, &told, each, asked.limiter->n_limits);
}

static PyObject *limiter_refund(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames)
{
    asked asked;
    if (read_asked("refund", object, args, nargs, kwnames, rl_limit_refund, &asked) < 0) {
        return NULL;
    }
    rl_table_refund(asked.limiter->table, asked.key, asked.costs, limiter_now(asked.limiter));
    Py_RETURN_NONE;
}

static PyObject *limiter_charge(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames)
{
    asked asked;
    rl_decision decision;
    if (read_asked("charge", object, args, nargs, kwnames, rl_limit_charge, &asked) < 0) {
        return NULL;
    }
    if (rl_table_charge(asked.limiter->table, asked.key, asked.costs, limiter_now(asked.limiter),
                        &decision) != RL_OK) {
        return PyErr_NoMemory();
    }
    return decision_new(asked.limiter->state, &decision);
}

static PyObject *limiter_reset(PyObject *object, PyObject *key)
{
    limiter_object *self = limiter_of(object);
    rl_key hash;
    if (!ready(self) || hash_key(self, key, &hash) < 0) {
        return NULL;
    }
    rl_table_reset(self->table, hash);
    Py_RETURN_NONE;
}

/* All keys are hashed before the first one is decided, so that a bad key in the
 * middle takes nothing from those before it. `keys` is a tuple of our own. */
static rl_key *hash_keys(const limiter_object *self, PyObject *keys)
{
    Py_ssize_t n = PyTuple_GET_SIZE(keys);
    rl_key *hashes = PyMem_New(rl_key, (size_t)n + 1);
    if (hashes == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (hash_key(self, PyTuple_GET_ITEM(keys, i), &hashes[i]) < 0) {
            PyMem_Free(hashes);
            return NULL;
        }
    }
    return hashes;
}

static PyObject *allow_tuple(limiter_object *self, PyObject *keys, const uint64_t *units)
{
    Py_ssize_t n = PyTuple_GET_SIZE(keys);
    rl_key *hashes = hash_keys(self, keys);
    PyObject *result = hashes == NULL ? NULL : PyList_New(n);
    rl_time now = limiter_now(self);
    for (Py_ssize_t i = 0; result != NULL && i < n; i++) {
        bool allowed;
        if (rl_table_take(self->table, hashes[i], units, now, &allowed, NULL, NULL) != RL_OK) {
            PyErr_NoMemory();
            Py_CLEAR(result);
            break;
        }
        PyList_SET_ITEM(result, i, Py_NewRef(allowed ? Py_True : Py_False));
    }
    PyMem_Free(hashes);
    return result;
}

static PyObject *limiter_allow_many(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *kwnames)
{
    limiter_object *self = limiter_of(object);
    core_key_cost given;
    uint64_t units[RL_TABLE_LIMITS_MAX];
    const uint64_t *costs;
    if (core_parse_key_cost("allow_many", "keys", args, nargs, kwnames, &given) < 0 || !ready(self) ||
        (costs = cost_units(self, given.cost, units)) == NULL) {
        return NULL;
    }
    if (PyUnicode_Check(given.key) || PyBytes_Check(given.key)) {
        return PyErr_Format(PyExc_TypeError,
                            "allow_many() takes several keys, got one %.200s; use allow()",
                            Py_TYPE(given.key)->tp_name);
    }
    PyObject *keys = PySequence_Tuple(given.key);
    if (keys == NULL) {
        return NULL;
    }
    PyObject *result = allow_tuple(self, keys, costs);
    Py_DECREF(keys);
    return result;
}

static PyObject *limiter_stats(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    limiter_object *self = limiter_of(object);
    if (!ready(self)) {
        return NULL;
    }
    rl_table_stats stats = rl_table_sweep(self->table, limiter_now(self));
    return Py_BuildValue("{sKsKsKsKsKsKsKsK}", "keys", stats.keys, "slots", stats.slots, "bytes",
                         stats.bytes, "allowed", stats.allowed, "denied", stats.denied, "inserted",
                         stats.inserted, "evicted_active", stats.evicted_active, "grow_failures",
                         stats.grow_failures);
}

/* ---- life ------------------------------------------------------------------ */

static PyObject *limiter_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                             PyObject *Py_UNUSED(kwargs))
{
    core_state *state = core_state_of(type);
    PyObject *self = state == NULL ? NULL : type->tp_alloc(type, 0);
    if (self != NULL) {
        limiter_of(self)->state = state;
    }
    return self;
}

static int set_limits(limiter_object *self, PyObject *limits)
{
    PyObject *pairs = PySequence_Tuple(limits);
    if (pairs == NULL) {
        return -1;
    }
    Py_ssize_t n = PyTuple_GET_SIZE(pairs);
    int status = 0;
    self->has_windows = false;
    if (n < 1 || n > RL_TABLE_LIMITS_MAX) {
        PyErr_Format(PyExc_ValueError, "expected 1 to %d limits, got %zd", RL_TABLE_LIMITS_MAX, n);
        status = -1;
    }
    for (Py_ssize_t i = 0; status == 0 && i < n; i++) {
        status = core_parse_limit(PyTuple_GET_ITEM(pairs, i), &self->limits[i]);
        if (status == 0) {
            self->one[i] = rl_limit_cost(&self->limits[i], 1);
            self->has_windows |= rl_is_window(&self->limits[i]);
        }
    }
    self->n_limits = (size_t)n;
    Py_DECREF(pairs);
    return status;
}

/* May the entries of another limiter become entries of this one? */
static bool is_of_same_kinds(const limiter_object *self, const limiter_object *other)
{
    bool same = self->n_limits == other->n_limits;
    for (size_t i = 0; same && i < self->n_limits; i++) {
        same = self->limits[i].kind == other->limits[i].kind;
    }
    return same;
}

/* Open the table in a file. 0, or -1 with an exception set. */
static int open_table(limiter_object *self, size_t max_keys, PyObject *path)
{
    PyObject *name = NULL; /* strong; bytes */
    if (!PyUnicode_FSConverter(path, &name)) {
        return -1;
    }
    rl_shared_status status = rl_shared_open(PyBytes_AS_STRING(name), self->limits, self->n_limits,
                                             max_keys, &self->table);
    Py_DECREF(name);
    switch (status) {
    case RL_SHARED_OK:
        return 0;
    case RL_SHARED_ENOMEM:
        PyErr_NoMemory();
        break;
    case RL_SHARED_EOWNER:
        PyErr_Format(PyExc_PermissionError,
                     "%R must be a plain file that its user alone can read and write", path);
        break;
    case RL_SHARED_EOTHER:
        PyErr_Format(PyExc_ValueError,
                     "%R was made for other limits, another max_keys or another version, or is "
                     "something else: remove it, or take another path",
                     path);
        break;
    case RL_SHARED_ENOWHERE:
        PyErr_SetString(PyExc_RuntimeError, "shared memory needs Linux");
        break;
    default:
        PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    }
    return -1;
}

static int make_table(limiter_object *self, size_t max_keys, PyObject *keep)
{
    rl_secret secret;
    if (keep != Py_None) {
        const limiter_object *other = limiter_of(keep);
        if (!ready(other)) {
            return -1;
        }
        if (rl_table_is_shared(other->table)) {
            PyErr_SetString(PyExc_ValueError, "keep must be a limiter in memory of its own");
            return -1;
        }
        if (!is_of_same_kinds(self, other) || self->clock_kind != other->clock_kind) {
            PyErr_SetString(PyExc_ValueError,
                            "keep must be a limiter with limits of the same kinds in the same "
                            "order, and the same clock");
            return -1;
        }
        self->table = rl_table_renew(other->table, self->limits, limiter_now(self));
    } else if (rl_secret_init(&secret) != RL_OK) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    } else {
        self->table = rl_table_new(self->limits, self->n_limits, max_keys, secret);
    }
    if (self->table == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static int limiter_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limits", "max_keys", "clock", "keep", "path", NULL};
    limiter_object *self = limiter_of(object);
    PyObject *limits;
    Py_ssize_t max_keys = 1000000;
    PyObject *clock = NULL;
    PyObject *keep = Py_None;
    PyObject *path = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$nOOO:Limiter", names, &limits, &max_keys,
                                     &clock, &keep, &path)) {
        return -1;
    }
    if (self->table != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a limiter cannot be initialised twice");
        return -1;
    }
    if (max_keys < 1 || (size_t)max_keys > RL_TABLE_KEYS_MAX) {
        PyErr_Format(PyExc_ValueError, "max_keys must be within 1 and %zu, got %zd",
                     RL_TABLE_KEYS_MAX, max_keys);
        return -1;
    }
    if (keep != Py_None && !PyObject_TypeCheck(keep, self->state->limiter_type)) {
        PyErr_Format(PyExc_TypeError, "keep must be a Limiter or None, not %.200s",
                     Py_TYPE(keep)->tp_name);
        return -1;
    }
    if (set_limits(self, limits) < 0 || set_clock(self, clock) < 0) {
        return -1;
    }
    if (path == Py_None) {
        return make_table(self, (size_t)max_keys, keep);
    }
    if (keep != Py_None) {
        PyErr_SetString(PyExc_ValueError, "give keep or path, not both");
        return -1;
    }
    return open_table(self, (size_t)max_keys, path);
}

static int limiter_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(limiter_of(self)->clock);
    return 0;
}

static int limiter_clear(PyObject *self)
{
    (void)self; /* a clock refers to nothing, and methods rely on it to the end */
    return 0;
}

static void limiter_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    rl_table_free(limiter_of(self)->table);
    Py_XDECREF(limiter_of(self)->clock);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef limiter_methods[] = {
    {"allow", CORE_FAST(limiter_allow),
     PyDoc_STR("allow($self, /, key, cost=1)\n--\n\n"
               "Take `cost` tokens from the bucket of `key`; tell whether that was allowed.\n\n"
               "Args:\n"
               "    key: str (hashed as UTF-8) or bytes.\n"
               "    cost: tokens, a finite number >= 0.\n\n"
               "Raises:\n"
               "    TypeError, ValueError: a bad key or cost.\n"
               "    MemoryError: there is no memory for a first key.")},
    {"hit", CORE_FAST(limiter_hit),
     PyDoc_STR("hit($self, /, key, cost=1)\n--\n\n"
               "Take `cost` tokens from the bucket of `key`; return a Decision.\n\n"
               "Arguments and exceptions are those of allow().")},
    {"peek", CORE_FAST(limiter_peek),
     PyDoc_STR("peek($self, /, key, cost=1)\n--\n\n"
               "Return the Decision that hit() would make now, consuming nothing.\n\n"
               "`remaining` and `reset_after` tell of the bucket as it is. Arguments and\n"
               "exceptions are those of allow().")},
    {"refund", CORE_FAST(limiter_refund),
     PyDoc_STR("refund($self, /, key, cost=1)\n--\n\n"
               "Give `cost` tokens back to the bucket of `key`, up to its capacity.\n\n"
               "Arguments and exceptions are those of allow().")},
    {"charge", CORE_FAST(limiter_charge),
     PyDoc_STR("charge($self, /, key, cost=1)\n--\n\n"
               "Take `cost` tokens whether they are there or not; return a Decision.\n\n"
               "What is not there becomes a debt, of at most one capacity, that is paid before\n"
               "the next request passes. Arguments and exceptions are those of allow().")},
    {"_hit_each", CORE_FAST(limiter_hit_each),
     PyDoc_STR("_hit_each($self, /, key, cost=1)\n--\n\n"
               "Do what hit() does; return its Decision and, behind it, one about each limit.")},
    {"_peek_each", CORE_FAST(limiter_peek_each),
     PyDoc_STR("_peek_each($self, /, key, cost=1)\n--\n\n"
               "Do what peek() does; return its Decision and, behind it, one about each limit.")},
    {"reset", limiter_reset, METH_O,
     PyDoc_STR("reset($self, key, /)\n--\n\nMake the bucket of `key` (str or bytes) full.")},
    {"allow_many", CORE_FAST(limiter_allow_many),
     PyDoc_STR("allow_many($self, /, keys, cost=1)\n--\n\n"
               "Decide for each of several keys as allow() does; return a list of bools.\n\n"
               "All keys are checked before the first is decided.")},
    {"stats", limiter_stats, METH_NOARGS,
     PyDoc_STR("stats($self, /)\n--\n\n"
               "Free what is full and return counts as a dict of ints.\n\n"
               "keys (not full now), slots, bytes, allowed, denied, inserted, evicted_active,\n"
               "grow_failures.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot limiter_slots[] = {
    {Py_tp_doc,
     PyDoc_STR("Limiter(limits, *, max_keys=1000000, clock='monotonic', keep=None, path=None)\n--\n\n"
               "Limit by token buckets and windows in the memory of this process.\n\n"
               "limits: 1 to MAX_LIMITS tuples (capacity in tokens, refill_rate in tokens/s), or\n"
               "(count, window_s, sliding) of a window.\n"
               "max_keys: about how many keys may be in use at once. clock: 'monotonic',\n"
               "'coarse' or a ManualClock, which windows take for the wall clock. keep: a Limiter\n"
               "whose keys this one starts with, instead of max_keys. path: a file, in whose memory\n"
               "the table is, for all processes of this host; OSError, PermissionError or ValueError\n"
               "tell what is wrong with it. Raises ValueError for what is out of range,\n"
               "MemoryError, and OSError when the system has no random numbers.")},
    {Py_tp_new, limiter_new},
    {Py_tp_init, limiter_init},
    {Py_tp_dealloc, limiter_dealloc},
    {Py_tp_traverse, limiter_traverse},
    {Py_tp_clear, limiter_clear},
    {Py_tp_methods, limiter_methods},
    {0, NULL},
};

PyType_Spec limiter_spec = {
    .name = "rate_limiter._core.Limiter",
    .basicsize = sizeof(limiter_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = limiter_slots,
};
