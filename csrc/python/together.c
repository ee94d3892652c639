/* together.c -- take_all: requests to several limiters in memory that all pass, or take nothing. */
#include "engine/together.h"

#include "python/limiter.h"

/* Read a request under limits that come with it. 0, or -1 with an exception set. */
static int together_read_given(PyObject *limiter, const core_key_cost *args, rl_together *out,
                               uint64_t *room)
{
    rl_request request;
    if (!((given_limits_object *)args->limits)->has_windows) {
        PyErr_SetString(PyExc_ValueError, "limits of a request must be windows");
        return -1;
    }
    if (limiter_read_given(limiter_of(limiter), args, &request, room) < 0) {
        return -1;
    }
    *out = (rl_together){.table = request.table,
                         .limits = request.limits,
                         .key = request.key,
                         .costs = request.costs,
                         .now = request.now,
                         .blocked_ns = request.blocked_ns};
    return 0;
}

/* Read one of the requests, a tuple (limiter, key, cost) or (limiter, key, cost, limits). 0, or -1
 * with an exception set. */
static int together_read(const core_state *state, PyObject *item, rl_together *out, uint64_t *room)
{
    PyObject *limiter;
    core_key_cost args = {0};
    if (!PyTuple_Check(item)) {
        PyErr_SetString(PyExc_TypeError, "a request must be a tuple (limiter, key, cost)");
        return -1;
    }
    if (!PyArg_ParseTuple(item, "O!OO|O!:take_all", state->limiter_type, &limiter, &args.key,
                          &args.cost, state->given_type, &args.limits)) {
        return -1;
    }
    if (args.limits != NULL) {
        return together_read_given(limiter, &args, out, room);
    }
    if (limiter_read_request(limiter_of(limiter), args.key, args.cost, &out->key, room,
                             &out->costs) < 0) {
        return -1;
    }
    out->table = limiter_of(limiter)->table;
    out->limits = rl_table_limits(out->table);
    out->blocked_ns = 0;
    return 0;
}

/* Let the meter of each limiter record its decision; in a denial only those that denied count. */
static void together_record(PyObject *items, const rl_together *requests, size_t n, bool allowed,
                            int64_t began_ns)
{
    int64_t now_ns = core_steady_ns();
    for (size_t i = 0; i < n; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, (Py_ssize_t)i);
        PyObject *limiter = PyTuple_GET_ITEM(item, 0);
        core_meter *meter = atomic_load_explicit(&limiter_of(limiter)->meter, memory_order_acquire);
        if (meter != NULL && (allowed || !requests[i].decision.allowed)) {
            core_meter_record(meter, PyTuple_GET_ITEM(item, 1), requests[i].key.hash, allowed,
                              began_ns, now_ns);
        }
    }
}

static PyObject *together_decisions(core_state *state, const rl_together *requests, size_t n)
{
    PyObject *decisions = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; decisions != NULL && i < n; i++) {
        PyObject *one = decision_new(state, &requests[i].decision);
        if (one == NULL) {
            Py_CLEAR(decisions);
            break;
        }
        PyTuple_SET_ITEM(decisions, (Py_ssize_t)i, one);
    }
    return decisions;
}

PyObject *core_take_all(PyObject *module, PyObject *items)
{
    core_state *state = PyModule_GetState(module);
    rl_together requests[RL_TOGETHER_MAX];
    uint64_t room[RL_TOGETHER_MAX][RL_TABLE_LIMITS_MAX];
    bool allowed;
    if (!PyTuple_Check(items) || PyTuple_GET_SIZE(items) < 1 ||
        PyTuple_GET_SIZE(items) > RL_TOGETHER_MAX) {
        return PyErr_Format(PyExc_ValueError, "expected a tuple of 1 to %d requests, got %R",
                            RL_TOGETHER_MAX, items);
    }
    size_t n = (size_t)PyTuple_GET_SIZE(items);
    for (size_t i = 0; i < n; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, (Py_ssize_t)i);
        if (together_read(state, item, &requests[i], room[i]) < 0) {
            return NULL;
        }
    }
    for (size_t i = 0; i < n; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, (Py_ssize_t)i);
        PyObject *limiter = PyTuple_GET_ITEM(item, 0);
        if (PyTuple_GET_SIZE(item) == 3 && limiter_now(limiter_of(limiter), &requests[i].now) < 0) {
            return NULL;
        }
    }
    int64_t began_ns = core_steady_ns();
    if (rl_together_take(requests, n, &allowed) != RL_OK) {
        return PyErr_NoMemory();
    }
    together_record(items, requests, n, allowed, began_ns);
    return together_decisions(state, requests, n);
}
