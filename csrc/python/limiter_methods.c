/* limiter_methods.c -- the table of Limiter's methods, and those for one key that do not decide as
 * allow() does. */
#include "python/limiter_calls.h"

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
    if (limiter_try(call.limiter, call.args.key, call.key, call.costs, &allowed, &decision, NULL) <
        0) {
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
