/* limiter_decide.c -- the decisions of Limiter: from a key and a cost to a table's answer. */
#include "python/limiter_calls.h"

/* ---- arguments ------------------------------------------------------------- */

int limiter_hash_any_key(const limiter_object *self, PyObject *key, rl_key *out)
{
    core_text text;
    if (core_parse_any_key(key, &text) < 0) {
        return -1;
    }
    *out = rl_table_key(self->table, text.data, text.len);
    Py_XDECREF(text.owner);
    return 0;
}

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

int limiter_read(const limiter_object *self, PyObject *key, PyObject *cost, cost_converter convert,
                 rl_key *hash, uint64_t *room, const uint64_t **costs)
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

int limiter_take(limiter_object *self, PyObject *name, rl_key key, const uint64_t *costs,
                 bool *allowed, rl_decision *out, rl_decision *each)
{
    return limiter_take_by(rl_table_take, self, name, key, costs, allowed, out, each);
}

int limiter_try(limiter_object *self, PyObject *name, rl_key key, const uint64_t *costs,
                bool *allowed, rl_decision *out, rl_decision *each)
{
    return limiter_take_by(rl_table_try, self, name, key, costs, allowed, out, each);
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

static inline __attribute__((always_inline)) int limiter_decide_one(limiter_object *self,
                                                                    PyObject *key, PyObject *cost,
                                                                    bool *allowed, rl_decision *out,
                                                                    rl_decision *each)
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
    return limiter_take_by(rl_table_take, self, key, hash, costs, allowed, out, each);
}

int limiter_decide(limiter_object *self, PyObject *key, PyObject *cost, bool *allowed,
                   rl_decision *out, rl_decision *each)
{
    return limiter_decide_one(self, key, cost, allowed, out, each);
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

/* ---- methods ---------------------------------------------------------------- */

PyObject *limiter_allow(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
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

PyObject *limiter_hit(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
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

/* ---- several keys ------------------------------------------------------------ */

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

PyObject *limiter_allow_many(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
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
