/* limiter_methods.c -- the methods of Limiter, with the arguments they read. */
#include "python/core.h"

/* ---- arguments ------------------------------------------------------------- */

static inline int limiter_hash_key(const limiter_object *self, PyObject *key, rl_key *out)
{
    core_text text;
    if (core_parse_key(key, &text) < 0) {
        return -1;
    }
    *out = rl_table_key(self->table, text.data, text.len);
    Py_XDECREF(text.owner);
    return 0;
}

typedef uint64_t (*cost_converter)(const rl_limit *limit, double tokens);

/* Convert a cost (NULL: 1) to the units of each limit. Return `units`, or NULL with an
 * exception set. */
RL_APART static const uint64_t *limiter_units(const limiter_object *self, PyObject *cost,
                                              cost_converter convert, uint64_t *units)
{
    double tokens[RL_TABLE_LIMITS_MAX];
    if (core_parse_costs(cost, self->n_limits, tokens) < 0) {
        return NULL;
    }
    for (size_t i = 0; i < self->n_limits; i++) {
        units[i] = convert(&self->limits[i], tokens[i]);
    }
    return units;
}

/* Convert a cost, as limiter_units(); the cost of 1 token was converted before. */
static const uint64_t *limiter_cost_units(const limiter_object *self, PyObject *cost,
                                          uint64_t *units)
{
    bool is_one = cost == NULL || cost == self->state->one;
    return is_one ? self->one : limiter_units(self, cost, rl_limit_cost, units);
}

/* Read a key and a cost. `convert` turns a charge or a refund into units; NULL: it is a cost. */
static int limiter_read(const limiter_object *self, PyObject *key, PyObject *cost,
                        cost_converter convert, rl_key *hash, uint64_t *room,
                        const uint64_t **costs)
{
    if (!limiter_ready(self) || limiter_hash_key(self, key, hash) < 0) {
        return -1;
    }
    *costs = convert == NULL ? limiter_cost_units(self, cost, room)
                             : limiter_units(self, cost, convert, room);
    return *costs == NULL ? -1 : 0;
}

int limiter_read_request(const limiter_object *self, PyObject *key, PyObject *cost, rl_key *hash,
                         uint64_t *room, const uint64_t **costs)
{
    return limiter_read(self, key, cost, NULL, hash, room, costs);
}

/* ---- decisions ------------------------------------------------------------- */

/* When a measured decision began. The time of the limiter saves reading a clock again. */
static int64_t limiter_began_ns(const limiter_object *self, rl_time now)
{
    return self->clock_kind == CLOCK_KIND_MONOTONIC ? now.steady_ns : core_steady_ns();
}

/* rl_table_take() or rl_table_try() */
typedef rl_status (*table_decider)(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                                   bool *allowed, rl_decision *out, rl_decision *each);

/* Decide and record the decision; `name` is the key before it was hashed. */
RL_APART static rl_status limiter_take_measured(table_decider decide, limiter_object *self,
                                                core_meter *meter, PyObject *name, rl_key key,
                                                const uint64_t *costs, rl_time now, bool *allowed,
                                                rl_decision *out, rl_decision *each)
{
    int64_t from_ns = limiter_began_ns(self, now);
    rl_status status = decide(self->table, key, costs, now, allowed, out, each);
    if (status == RL_OK) {
        core_meter_record(meter, name, key.hash, *allowed, from_ns, core_steady_ns());
    }
    return status;
}

/* Decide, and record the decision if a meter is set. 0, or -1 with an exception set and nothing
 * taken. */
static inline int limiter_take_by(table_decider decide, limiter_object *self, PyObject *name,
                                  rl_key key, const uint64_t *costs, bool *allowed,
                                  rl_decision *out, rl_decision *each)
{
    rl_time now;
    if (limiter_now(self, &now) < 0) {
        return -1;
    }
    core_meter *meter = atomic_load_explicit(&self->meter, memory_order_acquire);
    rl_status status = meter == NULL ? decide(self->table, key, costs, now, allowed, out, each)
                                     : limiter_take_measured(decide, self, meter, name, key, costs,
                                                             now, allowed, out, each);
    if (status != RL_OK) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static inline int limiter_take(limiter_object *self, PyObject *name, rl_key key,
                               const uint64_t *costs, bool *allowed, rl_decision *out,
                               rl_decision *each)
{
    return limiter_take_by(rl_table_take, self, name, key, costs, allowed, out, each);
}

/* Return 1 for a request that may not overtake others: it is denied. 0, or -1 with an exception
 * set. */
RL_APART static int limiter_let_waiters_first(limiter_object *self, PyObject *key, PyObject *cost,
                                              bool *allowed, rl_decision *out, rl_decision *each)
{
    PyObject *denial = limiter_behind(self, &(core_key_cost){key, cost, NULL});
    if (denial == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    *allowed = false;
    return limiter_read_denial(self, denial, self->n_limits, out, each) < 0 ? -1 : 1;
}

static inline int limiter_decide_one(limiter_object *self, PyObject *key, PyObject *cost,
                                     bool *allowed, rl_decision *out, rl_decision *each)
{
    rl_key hash;
    uint64_t units[RL_TABLE_LIMITS_MAX];
    const uint64_t *costs;
    if (!limiter_ready(self) || limiter_hash_key(self, key, &hash) < 0 ||
        (costs = limiter_cost_units(self, cost, units)) == NULL) {
        return -1;
    }
    if (self->waiters_first) {
        int status = limiter_let_waiters_first(self, key, cost, allowed, out, each);
        if (status != 0) {
            return status < 0 ? -1 : 0;
        }
    }
    return limiter_take(self, key, hash, costs, allowed, out, each);
}

int limiter_decide(limiter_object *self, PyObject *key, PyObject *cost, bool *allowed,
                   rl_decision *out, rl_decision *each)
{
    return limiter_decide_one(self, key, cost, allowed, out, each);
}

static PyObject *limiter_allow(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    core_key_cost given;
    bool allowed;
    if (core_parse_key_cost_limits("allow", "key", args, nargs, kwnames, &given) < 0) {
        return NULL;
    }
    if (given.limits != NULL) {
        return limiter_call_given(limiter_of(self), METHOD_ALLOW, &given);
    }
    if (limiter_decide_one(limiter_of(self), given.key, given.cost, &allowed, NULL, NULL) < 0) {
        return NULL;
    }
    return Py_NewRef(allowed ? Py_True : Py_False);
}

static PyObject *limiter_hit(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    core_key_cost given;
    bool allowed;
    rl_decision decision;
    if (core_parse_key_cost_limits("hit", "key", args, nargs, kwnames, &given) < 0) {
        return NULL;
    }
    if (given.limits != NULL) {
        return limiter_call_given(limiter_of(self), METHOD_HIT, &given);
    }
    if (limiter_decide_one(limiter_of(self), given.key, given.cost, &allowed, &decision, NULL) <
        0) {
        return NULL;
    }
    return decision_new(limiter_of(self)->state, &decision);
}

/* The arguments of the methods below: an initialised limiter, a key, and costs. */
typedef struct limiter_call {
    limiter_object *limiter;
    core_key_cost args;
    PyObject *result; /* of a call that has been made; NULL: it has not, or an exception is set */
    rl_key key;
    uint64_t room[RL_TABLE_LIMITS_MAX];
    const uint64_t *costs;
} limiter_call;

/* Read them, as limiter_read. -1 also if the call has been made,
 * because it has limits: return `result` in both cases. */
static int read_limiter_call(const char *function, limiter_method method, PyObject *object,
                             PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                             cost_converter convert, limiter_call *out)
{
    out->limiter = limiter_of(object);
    out->result = NULL;
    if (core_parse_key_cost_limits(function, "key", args, nargs, kwnames, &out->args) < 0) {
        return -1;
    }
    if (out->args.limits != NULL) {
        out->result = limiter_call_given(out->limiter, method, &out->args);
        return -1;
    }
    return limiter_read(out->limiter, out->args.key, out->args.cost, convert, &out->key, out->room,
                        &out->costs);
}

static PyObject *limiter_peek(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    limiter_call call;
    rl_time now;
    rl_decision decision;
    if (read_limiter_call("peek", METHOD_PEEK, object, args, nargs, kwnames, NULL, &call) < 0) {
        return call.result;
    }
    if (limiter_now(call.limiter, &now) < 0) {
        return NULL;
    }
    rl_table_peek(call.limiter->table, call.key, call.costs, now, &decision, NULL);
    return decision_new(call.limiter->state, &decision);
}

/* What hit() does for the first of those who wait. */
static PyObject *limiter_take_first(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *kwnames)
{
    limiter_call call;
    bool allowed;
    rl_decision decision;
    if (read_limiter_call("_take", METHOD_TAKE, object, args, nargs, kwnames, NULL, &call) < 0) {
        return call.result;
    }
    if (limiter_take_by(rl_table_try, call.limiter, call.args.key, call.key, call.costs, &allowed,
                        &decision, NULL) < 0) {
        return NULL;
    }
    return decision_new(call.limiter->state, &decision);
}

static PyObject *limiter_hit_each(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames)
{
    limiter_call call;
    bool allowed;
    rl_decision tightest;
    rl_decision each[RL_TABLE_LIMITS_MAX];
    if (read_limiter_call("hit_each", METHOD_HIT_EACH, object, args, nargs, kwnames, NULL, &call) <
        0) {
        return call.result;
    }
    PyObject *denial = limiter_behind(call.limiter, &call.args);
    if (denial != NULL || PyErr_Occurred()) {
        return denial;
    }
    if (limiter_take(call.limiter, call.args.key, call.key, call.costs, &allowed, &tightest, each) <
        0) {
        return NULL;
    }
    return decisions_new(call.limiter->state, &tightest, each, call.limiter->n_limits);
}

static PyObject *limiter_peek_each(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames)
{
    limiter_call call;
    rl_time now;
    rl_decision tightest;
    rl_decision each[RL_TABLE_LIMITS_MAX];
    if (read_limiter_call("peek_each", METHOD_PEEK_EACH, object, args, nargs, kwnames, NULL,
                          &call) < 0) {
        return call.result;
    }
    if (limiter_now(call.limiter, &now) < 0) {
        return NULL;
    }
    rl_table_peek(call.limiter->table, call.key, call.costs, now, &tightest, each);
    return decisions_new(call.limiter->state, &tightest, each, call.limiter->n_limits);
}

static PyObject *limiter_refund(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames)
{
    limiter_call call;
    rl_time now;
    if (read_limiter_call("refund", METHOD_REFUND, object, args, nargs, kwnames, rl_limit_refund,
                          &call) < 0) {
        return call.result;
    }
    if (limiter_now(call.limiter, &now) < 0) {
        return NULL;
    }
    rl_table_refund(call.limiter->table, call.key, call.costs, now);
    Py_RETURN_NONE;
}

int limiter_give_back(limiter_object *self, PyObject *key, const double *tokens)
{
    rl_key hash;
    rl_time now;
    uint64_t units[RL_TABLE_LIMITS_MAX];
    if (limiter_hash_key(self, key, &hash) < 0 || limiter_now(self, &now) < 0) {
        return -1;
    }
    for (size_t i = 0; i < self->n_limits; i++) {
        units[i] = rl_limit_refund(&self->limits[i], tokens[i]);
    }
    rl_table_refund(self->table, hash, units, now);
    limiter_wake_waiters(self, key);
    return 0;
}

static PyObject *limiter_wake(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(key))
{
    Py_RETURN_NONE;
}

static PyObject *limiter_charge(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames)
{
    limiter_call call;
    rl_time now;
    rl_decision decision;
    if (read_limiter_call("charge", METHOD_CHARGE, object, args, nargs, kwnames, rl_limit_charge,
                          &call) < 0) {
        return call.result;
    }
    if (limiter_now(call.limiter, &now) < 0) {
        return NULL;
    }
    if (rl_table_charge(call.limiter->table, call.key, call.costs, now, &decision) != RL_OK) {
        return PyErr_NoMemory();
    }
    return decision_new(call.limiter->state, &decision);
}

/* Return the next limiter with buckets of given limits, from number *i on. Borrowed; NULL: there are
 * no more. */
static limiter_object *limiter_next_given(const limiter_object *self, size_t *i)
{
    limiter_object *one = NULL;
    while (one == NULL && *i < LIMITER_TABLES_MAX) {
        one = atomic_load_explicit(&self->given[(*i)++], memory_order_acquire);
    }
    return one;
}

/* Make the buckets of a key full, whatever limits came with its calls. */
static PyObject *limiter_reset_given(const limiter_object *self, PyObject *key)
{
    size_t i = 0;
    limiter_object *one;
    while ((one = limiter_next_given(self, &i)) != NULL) {
        rl_key hash;
        if (limiter_hash_key(one, key, &hash) < 0) {
            return NULL;
        }
        rl_table_reset(one->table, hash);
    }
    Py_RETURN_NONE;
}

static PyObject *limiter_reset(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    limiter_object *self = limiter_of(object);
    core_key_cost given;
    rl_key hash;
    if (core_parse_key_cost("reset", "key", args, nargs, kwnames, &given) < 0) {
        return NULL;
    }
    if (given.cost != NULL) {
        PyErr_SetString(PyExc_TypeError, "reset() takes a key and no cost");
        return NULL;
    }
    if (!limiter_ready(self) || limiter_hash_key(self, given.key, &hash) < 0) {
        return NULL;
    }
    rl_table_reset(self->table, hash);
    return limiter_reset_given(self, given.key);
}

static PyObject *limiter_block(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    limiter_object *self = limiter_of(object);
    core_key_cost given;
    rl_key hash;
    int64_t block_ns;
    rl_time now;
    if (core_parse_pair("block", "key", "seconds", args, nargs, kwnames, &given) < 0) {
        return NULL;
    }
    if (given.cost == NULL) {
        PyErr_SetString(PyExc_TypeError, "block() missing required argument 'seconds'");
        return NULL;
    }
    if (!limiter_ready(self) || limiter_hash_key(self, given.key, &hash) < 0 ||
        core_parse_block(given.cost, &block_ns) < 0 || limiter_now(self, &now) < 0) {
        return NULL;
    }
    if (rl_table_block(self->table, hash, block_ns, now) != RL_OK) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

/* All keys are hashed before the first decision, so that a bad key in the middle
 * takes nothing from the keys before it. `keys` is a tuple made by the caller. */
static rl_key *limiter_hash_keys(const limiter_object *self, PyObject *keys)
{
    Py_ssize_t n = PyTuple_GET_SIZE(keys);
    rl_key *hashes = PyMem_New(rl_key, (size_t)n + 1);
    if (hashes == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (limiter_hash_key(self, PyTuple_GET_ITEM(keys, i), &hashes[i]) < 0) {
            PyMem_Free(hashes);
            return NULL;
        }
    }
    return hashes;
}

/* Let a meter count the decisions of allow_many(); `results` has a bool for each key. */
static void limiter_record_many(core_meter *meter, PyObject *keys, const rl_key *hashes,
                                PyObject *results, uint64_t n_allowed, int64_t from_ns)
{
    Py_ssize_t n = PyTuple_GET_SIZE(keys);
    int64_t now_ns = core_steady_ns();
    int64_t each_ns = (now_ns - from_ns) / (n > 0 ? n : 1);
    rl_top *clients = atomic_load_explicit(&meter->clients, memory_order_acquire);
    rl_meter_record(meter->counts, true, n_allowed, each_ns);
    rl_meter_record(meter->counts, false, (uint64_t)n - n_allowed, each_ns);
    for (Py_ssize_t i = 0; clients != NULL && i < n; i++) {
        bool allowed = PyList_GET_ITEM(results, i) == Py_True;
        sketch_record(clients, PyTuple_GET_ITEM(keys, i), hashes[i].hash, allowed, 1, now_ns);
    }
}

static PyObject *limiter_allow_tuple(limiter_object *self, PyObject *keys, const uint64_t *units)
{
    Py_ssize_t n = PyTuple_GET_SIZE(keys);
    rl_time now = {0};
    rl_key *hashes = limiter_hash_keys(self, keys);
    PyObject *result = hashes == NULL || limiter_now(self, &now) < 0 ? NULL : PyList_New(n);
    core_meter *meter = atomic_load_explicit(&self->meter, memory_order_acquire);
    int64_t from_ns = meter != NULL ? limiter_began_ns(self, now) : 0;
    uint64_t n_allowed = 0;
    for (Py_ssize_t i = 0; result != NULL && i < n; i++) {
        bool allowed;
        if (rl_table_take(self->table, hashes[i], units, now, &allowed, NULL, NULL) != RL_OK) {
            PyErr_NoMemory();
            Py_CLEAR(result);
            break;
        }
        PyList_SET_ITEM(result, i, Py_NewRef(allowed ? Py_True : Py_False));
        n_allowed += allowed;
    }
    if (meter != NULL && result != NULL) {
        limiter_record_many(meter, keys, hashes, result, n_allowed, from_ns);
    }
    PyMem_Free(hashes);
    return result;
}

/* Decide for each key as allow() does. `keys` is a tuple made by the caller. */
static PyObject *limiter_allow_each(limiter_object *self, PyObject *keys, PyObject *cost)
{
    Py_ssize_t n = PyTuple_GET_SIZE(keys);
    rl_key *hashes = limiter_hash_keys(self, keys); /* which checks them */
    PyObject *result = hashes == NULL ? NULL : PyList_New(n);
    PyMem_Free(hashes);
    for (Py_ssize_t i = 0; result != NULL && i < n; i++) {
        bool allowed;
        if (limiter_decide(self, PyTuple_GET_ITEM(keys, i), cost, &allowed, NULL, NULL) < 0) {
            Py_CLEAR(result);
            break;
        }
        PyList_SET_ITEM(result, i, Py_NewRef(allowed ? Py_True : Py_False));
    }
    return result;
}

static PyObject *limiter_allow_many(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *kwnames)
{
    limiter_object *self = limiter_of(object);
    core_key_cost given;
    uint64_t units[RL_TABLE_LIMITS_MAX];
    const uint64_t *costs;
    if (core_parse_key_cost_limits("allow_many", "keys", args, nargs, kwnames, &given) < 0 ||
        !limiter_ready(self)) {
        return NULL;
    }
    costs = given.limits == NULL ? limiter_cost_units(self, given.cost, units) : units;
    if (costs == NULL) {
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
    PyObject *result = given.limits != NULL  ? limiter_allow_many_given(self, keys, &given)
                       : self->waiters_first ? limiter_allow_each(self, keys, given.cost)
                                             : limiter_allow_tuple(self, keys, costs);
    Py_DECREF(keys);
    return result;
}

static PyObject *limiter_measure(PyObject *object, PyObject *measured_by)
{
    limiter_object *self = limiter_of(object);
    core_meter *meter = meter_value(self->state, measured_by);
    if (meter == NULL) {
        return NULL;
    }
    /* Set once, so that a decision under way may use it without holding a reference. */
    PyObject *found = NULL;
    if (atomic_compare_exchange_strong(&self->measured_by, &found, measured_by)) {
        Py_INCREF(measured_by);
        atomic_store(&self->meter, meter);
    } else if (found != measured_by) {
        PyErr_SetString(PyExc_ValueError, "this limiter is measured by another meter already");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *stats_as_dict(rl_table_stats stats)
{
    return Py_BuildValue("{sKsKsKsKsKsKsKsK}", "keys", stats.keys, "slots", stats.slots, "bytes",
                         stats.bytes, "allowed", stats.allowed, "denied", stats.denied, "inserted",
                         stats.inserted, "evicted_active", stats.evicted_active, "grow_failures",
                         stats.grow_failures);
}

/* Slots that are swept in about half a millisecond. */
#define SLOTS_AT_ONCE 16384u

/* Long enough for a thread that waits for the GIL to wake up and take it. */
static void let_threads_run(void)
{
    const struct timespec pause = {.tv_nsec = 20000};
    Py_BEGIN_ALLOW_THREADS;
    nanosleep(&pause, NULL);
    Py_END_ALLOW_THREADS;
}

/* Add the counts of one limiter. Locks are held only with the GIL, so that a fork copies none that is
 * locked. So a large table is swept in parts, and other threads run between them. */
static int limiter_add_stats(const limiter_object *self, rl_table_stats *total)
{
    size_t next = 0;
    rl_time now;
    bool more = true;
    while (more) {
        if (limiter_now(self, &now) < 0) {
            return -1;
        }
        more = rl_table_sweep_part(self->table, now, SLOTS_AT_ONCE, &next, total);
        if (more) {
            let_threads_run();
        }
    }
    return 0;
}

static PyObject *limiter_stats(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    limiter_object *self = limiter_of(object);
    if (!limiter_ready(self)) {
        return NULL;
    }
    rl_table_stats stats = {0};
    size_t i = 0;
    const limiter_object *one = self;
    do {
        if (limiter_add_stats(one, &stats) < 0) {
            return NULL;
        }
        one = limiter_next_given(self, &i);
    } while (one != NULL);
    return stats_as_dict(stats);
}

/* In parts, as limiter_stats. */
static PyObject *limiter_reset_all(PyObject *object, PyObject *Py_UNUSED(none))
{
    limiter_object *self = limiter_of(object);
    if (!limiter_ready(self)) {
        return NULL;
    }
    size_t i = 0;
    const limiter_object *one = self;
    do {
        size_t next = 0;
        while (rl_table_reset_part(one->table, &next)) {
            let_threads_run();
        }
        one = limiter_next_given(self, &i);
    } while (one != NULL);
    Py_RETURN_NONE;
}

static void stats_add(rl_table_stats *total, rl_table_stats more)
{
    total->keys += more.keys;
    total->slots += more.slots;
    total->bytes += more.bytes;
    total->allowed += more.allowed;
    total->denied += more.denied;
    total->inserted += more.inserted;
    total->evicted_active += more.evicted_active;
    total->grow_failures += more.grow_failures;
}

static PyObject *limiter_counts(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    limiter_object *self = limiter_of(object);
    if (!limiter_ready(self)) {
        return NULL;
    }
    rl_table_stats stats = rl_table_count(self->table);
    size_t i = 0;
    const limiter_object *one;
    while ((one = limiter_next_given(self, &i)) != NULL) {
        stats_add(&stats, rl_table_count(one->table));
    }
    return stats_as_dict(stats);
}

static PyObject *limiter_prepare(PyObject *object, PyObject *given)
{
    limiter_object *self = limiter_of(object);
    if (Py_TYPE(given) != self->state->given_type) {
        return PyErr_Format(PyExc_TypeError, "expected GivenLimits, got %R", given);
    }
    if (!limiter_ready(self) || limiter_table_for(self, (given_limits_object *)given) == NULL) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Base of the two hooks below. */
static PyObject *limiter_refuse_limits(PyObject *Py_UNUSED(self), PyObject *limits)
{
    return PyErr_Format(PyExc_TypeError, "limits must be GivenLimits, got %R", limits);
}

PyMethodDef limiter_methods[] = {
    {"allow", CORE_FAST(limiter_allow),
     PyDoc_STR("allow($self, /, key, cost=1, limits=None)\n--\n\n"
               "Take `cost` tokens from the bucket of `key`; return whether that was allowed.\n\n"
               "Args:\n"
               "    key: str (hashed as UTF-8) or bytes.\n"
               "    cost: tokens, a finite number >= 0; or a tuple of them, one for each limit.\n"
               "    limits: limits of this call instead of the limiter's own: a text, a Limit or\n"
               "        several. All calls with limits share the buckets of a key.\n\n"
               "Raises:\n"
               "    TypeError, ValueError: a bad key or cost.\n"
               "    MemoryError: there is no memory for a new key.")},
    {"hit", CORE_FAST(limiter_hit),
     PyDoc_STR("hit($self, /, key, cost=1, limits=None)\n--\n\n"
               "Take `cost` tokens from the bucket of `key`; return a Decision.\n\n"
               "Arguments and exceptions are those of allow().")},
    {"peek", CORE_FAST(limiter_peek),
     PyDoc_STR("peek($self, /, key, cost=1, limits=None)\n--\n\n"
               "Return the Decision that hit() would make now, consuming nothing.\n\n"
               "`remaining` and `reset_after` describe the bucket as it is. Arguments and\n"
               "exceptions are those of allow().")},
    {"refund", CORE_FAST(limiter_refund),
     PyDoc_STR("refund($self, /, key, cost=1, limits=None)\n--\n\n"
               "Give `cost` tokens back to the bucket of `key`, up to its capacity.\n\n"
               "Arguments and exceptions are those of allow().")},
    {"_wake", limiter_wake, METH_O,
     PyDoc_STR(
         "_wake($self, key, /)\n--\n\n"
         "Do nothing. Called when a request gave its tokens back; subclasses wake who waits.")},
    {"_read_limits", limiter_refuse_limits, METH_O,
     PyDoc_STR("_read_limits($self, limits, /)\n--\n\n"
               "Return limits that came with a call as GivenLimits; subclasses can.")},
    {"_prepare", limiter_prepare, METH_O,
     PyDoc_STR("_prepare($self, limits, /)\n--\n\n"
               "Make room for GivenLimits. Raises ValueError if there is none.")},
    {"_limiter_for", limiter_refuse_limits, METH_O,
     PyDoc_STR("_limiter_for($self, limits, /)\n--\n\n"
               "Return a Limiter for the buckets of GivenLimits; subclasses can.")},
    {"charge", CORE_FAST(limiter_charge),
     PyDoc_STR("charge($self, /, key, cost=1, limits=None)\n--\n\n"
               "Take `cost` tokens even if the bucket has fewer; return a Decision.\n\n"
               "Missing tokens become a debt, of at most one capacity, that is paid before the\n"
               "next request passes. Arguments and exceptions are those of allow().")},
    {"_take", CORE_FAST(limiter_take_first),
     PyDoc_STR("_take($self, /, key, cost=1, limits=None)\n--\n\n"
               "Do what hit() does, without regard to others who wait for the key.\n\n"
               "A denial takes nothing from limits that count denied requests.")},
    {"_hit_each", CORE_FAST(limiter_hit_each),
     PyDoc_STR("_hit_each($self, /, key, cost=1, limits=None)\n--\n\n"
               "Do what hit() does; return its Decision, followed by one of each limit.")},
    {"_peek_each", CORE_FAST(limiter_peek_each),
     PyDoc_STR("_peek_each($self, /, key, cost=1, limits=None)\n--\n\n"
               "Do what peek() does; return its Decision, followed by one of each limit.")},
    {"reset", CORE_FAST(limiter_reset),
     PyDoc_STR("reset($self, /, key)\n--\n\n"
               "Make the bucket of `key` (str or bytes) full, and unblock it.")},
    {"_reset_all", limiter_reset_all, METH_NOARGS,
     PyDoc_STR("_reset_all($self, /)\n--\n\nMake the buckets of all keys full, and unblock them.")},
    {"block", CORE_FAST(limiter_block),
     PyDoc_STR("block($self, /, key, seconds)\n--\n\n"
               "Deny all requests for `key` in the next `seconds`, whatever its bucket has.\n\n"
               "A block that ends later stays. Raises TypeError or ValueError for a bad key or\n"
               "time, MemoryError if there is no memory for the block.")},
    {"allow_many", CORE_FAST(limiter_allow_many),
     PyDoc_STR("allow_many($self, /, keys, cost=1, limits=None)\n--\n\n"
               "Decide for each of several keys as allow() does; return a list of bools.\n\n"
               "All keys are checked before the first is decided.")},
    {"_measure", limiter_measure, METH_O,
     PyDoc_STR("_measure($self, meter, /)\n--\n\n"
               "Count decisions in a Meter from now on. Raises ValueError if another one counts.")},
    {"stats", limiter_stats, METH_NOARGS,
     PyDoc_STR("stats($self, /)\n--\n\n"
               "Free full buckets and return counts as a dict of ints.\n\n"
               "keys (not full now), slots, bytes, allowed, denied, inserted, evicted_active,\n"
               "grow_failures. Takes about 20 ms for 600,000 keys; other threads keep running.")},
    {"_counts", limiter_counts, METH_NOARGS,
     PyDoc_STR("_counts($self, /)\n--\n\n"
               "Return what stats() does, without freeing full buckets: keys may include some.")},
    {NULL, NULL, 0, NULL},
};
