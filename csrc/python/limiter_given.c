/* limiter_given.c -- calls of a limiter with limits that the caller gives.
 *
 *     hit(key, limits="100/minute") ─> GivenLimits ─> the table for limits of these kinds ─> decide
 *
 * All limits that are buckets share one table, whatever their rates: see rl_limit_init_timed. Windows
 * count by their length, so there is a table for each combination of lengths, and at most
 * LIMITER_TABLES_MAX of them. Each table is that of another Limiter, which _limiter_for() makes, so
 * the buckets of calls without limits are separate. */
#include "python/limiter.h"

/* ---- the tables ---------------------------------------------------------------------- */

/* Return the table for these limits. Borrowed; NULL: there is none yet, but room at *n, or none. */
static limiter_object *limiter_find_table(const limiter_object *self,
                                          const given_limits_object *given, size_t *n)
{
    size_t end = given->has_windows ? LIMITER_TABLES_MAX : 1; /* the first one is for buckets */
    for (*n = given->has_windows; *n < end; (*n)++) {
        limiter_object *one = atomic_load_explicit(&self->given[*n], memory_order_acquire);
        if (one == NULL) {
            return NULL;
        }
        if (rl_limit_set_fits(rl_table_limits(one->table), &given->set)) {
            return one;
        }
    }
    return NULL;
}

/* Keep a limiter that was made for these limits, unless another thread was faster. */
static limiter_object *limiter_keep_table(limiter_object *self, const given_limits_object *given,
                                          PyObject *made)
{
    limiter_object *kept;
    size_t n;
    LOCKED(self);
    kept = limiter_find_table(self, given, &n);
    if (kept == NULL && n < LIMITER_TABLES_MAX) {
        kept = limiter_of(Py_NewRef(made));
        atomic_store_explicit(&self->given[n], kept, memory_order_release);
    }
    UNLOCKED;
    return kept;
}

static limiter_object *limiter_make_table_for(limiter_object *self, given_limits_object *given)
{
    PyObject *name = self->state->names[NAME_LIMITER_FOR];
    PyObject *made = PyObject_CallMethodOneArg((PyObject *)self, name, (PyObject *)given);
    if (made == NULL) {
        return NULL;
    }
    limiter_object *kept = NULL;
    if (!PyObject_TypeCheck(made, self->state->limiter_type)) {
        PyErr_SetString(PyExc_TypeError, "_limiter_for() must return a Limiter");
    } else if (limiter_ready(limiter_of(made))) {
        if (rl_limit_set_fits(rl_table_limits(limiter_of(made)->table), &given->set)) {
            kept = limiter_keep_table(self, given, made);
        } else {
            PyErr_SetString(PyExc_ValueError, "_limiter_for() must return a Limiter that fits");
        }
    }
    Py_DECREF(made);
    return kept;
}

limiter_object *limiter_table_for(limiter_object *self, given_limits_object *given)
{
    size_t n;
    limiter_object *found = limiter_find_table(self, given, &n);
    if (found == NULL && n < LIMITER_TABLES_MAX) {
        found = limiter_make_table_for(self, given);
    }
    if (found == NULL && !PyErr_Occurred()) {
        PyErr_Format(PyExc_ValueError,
                     "calls of one limiter may have windows of at most %d kinds, so there is no "
                     "room for '%S'",
                     LIMITER_TABLES_MAX - 1, PyTuple_GET_ITEM(given->limits, 0));
    }
    return found;
}

void limiter_share_tables(limiter_object *self, const limiter_object *other)
{
    for (size_t i = 0; i < LIMITER_TABLES_MAX; i++) {
        limiter_object *one = atomic_load_explicit(&other->given[i], memory_order_acquire);
        Py_XINCREF((PyObject *)one);
        atomic_store_explicit(&self->given[i], one, memory_order_release);
    }
}

/* ---- requests ------------------------------------------------------------------------- */

/* A call with limits. */
typedef struct given_call {
    limiter_object *limiter;    /* borrowed; the one that was called */
    limiter_object *table;      /* borrowed from it */
    given_limits_object *given; /* strong */
    rl_request request;
    uint64_t room[RL_TABLE_LIMITS_MAX];
} given_call;

/* Return limits as GivenLimits: a new reference, or NULL with an exception set. */
static given_limits_object *read_given(limiter_object *self, PyObject *limits)
{
    if (Py_TYPE(limits) == self->state->given_type) {
        return (given_limits_object *)Py_NewRef(limits);
    }
    PyObject *name = self->state->names[NAME_READ_LIMITS];
    PyObject *read = PyObject_CallMethodOneArg((PyObject *)self, name, limits);
    if (read != NULL && Py_TYPE(read) != self->state->given_type) {
        PyErr_SetString(PyExc_TypeError, "_read_limits() must return GivenLimits");
        Py_CLEAR(read);
    }
    return (given_limits_object *)read;
}

static int read_costs(given_call *call, PyObject *cost,
                      uint64_t (*convert)(const rl_limit *, double))
{
    const given_limits_object *given = call->given;
    double tokens[RL_TABLE_LIMITS_MAX];
    call->request.costs = given->one;
    if (cost == NULL && convert == rl_limit_cost) {
        return 0;
    }
    if (core_parse_costs(cost, given->set.n, tokens) < 0) {
        return -1;
    }
    for (size_t i = 0; i < given->set.n; i++) {
        call->room[i] = convert(&given->set.limits[i], tokens[i]);
    }
    call->request.costs = call->room;
    return 0;
}

/* Read the key, which may be blocked under another hash in the table without limits. */
static int read_key(given_call *call, PyObject *key)
{
    core_text text;
    if (core_parse_key(key, &text) < 0) {
        return -1;
    }
    rl_request *request = &call->request;
    rl_table *own = call->limiter->table;
    request->table = call->table->table;
    request->key = rl_table_key(request->table, text.data, text.len);
    if (rl_table_has_blocks(own, request->now)) {
        rl_key own_key = rl_table_key(own, text.data, text.len);
        request->blocked_ns = rl_table_blocked_ns(own, own_key, request->now);
    }
    Py_XDECREF(text.owner);
    return 0;
}

static void given_call_clear(given_call *call)
{
    Py_CLEAR(call->given);
}

/* Read the arguments; clear the call in any case. 0, or -1 with an exception set. */
static int given_call_init(limiter_object *self, const core_key_cost *args,
                           uint64_t (*convert)(const rl_limit *, double), given_call *out)
{
    out->limiter = self;
    out->given = NULL;
    out->request.blocked_ns = 0;
    if (!limiter_ready(self) || (out->given = read_given(self, args->limits)) == NULL ||
        (out->table = limiter_table_for(self, out->given)) == NULL ||
        read_costs(out, args->cost, convert) < 0 ||
        limiter_now(out->table, &out->request.now) < 0) {
        return -1;
    }
    out->request.limits = &out->given->set;
    return read_key(out, args->key);
}

int limiter_read_given(limiter_object *self, const core_key_cost *args, rl_request *out,
                       uint64_t *room)
{
    given_call call;
    int status = given_call_init(self, args, rl_limit_cost, &call);
    if (status == 0) {
        *out = call.request;
        if (out->costs == call.room) {
            memcpy(room, call.room, sizeof call.room);
            out->costs = room;
        }
    }
    given_call_clear(&call);
    return status;
}

/* rl_request_take() or rl_request_try() */
typedef rl_status (*request_decider)(const rl_request *request, bool *allowed, rl_decision *out,
                                     rl_decision *each);

/* Decide, and record the decision for the key. 0, or -1 with an exception set and nothing taken. */
static int given_decide(const given_call *call, PyObject *key, request_decider decide,
                        bool *allowed, rl_decision *out, rl_decision *each)
{
    core_meter *meter = atomic_load_explicit(&call->limiter->meter, memory_order_acquire);
    int64_t from_ns = meter != NULL ? core_steady_ns() : 0;
    if (decide(&call->request, allowed, out, each) != RL_OK) {
        PyErr_NoMemory();
        return -1;
    }
    if (meter != NULL) {
        core_meter_record(meter, key, call->request.key.hash, *allowed, from_ns, core_steady_ns());
    }
    return 0;
}

/* Decide after those who wait for the key. 0, or -1 with an exception set and nothing taken. */
static int given_hit(given_call *call, const core_key_cost *args, bool *allowed, rl_decision *out,
                     rl_decision *each)
{
    const core_key_cost waiting = {args->key, args->cost, (PyObject *)call->given};
    PyObject *denial = limiter_behind(call->limiter, &waiting);
    if (denial != NULL) {
        *allowed = false;
        return limiter_read_denial(call->limiter, denial, call->given->set.n, out, each);
    }
    return PyErr_Occurred() ? -1
                            : given_decide(call, args->key, rl_request_take, allowed, out, each);
}

int limiter_decide_given(limiter_object *self, const core_key_cost *args, bool *allowed,
                         rl_decision *out, rl_decision *each)
{
    given_call call;
    int status = given_call_init(self, args, rl_limit_cost, &call);
    if (status == 0) {
        status = given_hit(&call, args, allowed, out, each);
    }
    given_call_clear(&call);
    return status;
}

/* ---- methods --------------------------------------------------------------------------- */

/* Do what a method does; the result is in `out` and `each`. 0, or -1 with an exception set. */
static int given_run(given_call *call, limiter_method method, const core_key_cost *args,
                     rl_decision *out, rl_decision *each)
{
    bool allowed;
    switch (method) {
    case METHOD_TAKE:
        return given_decide(call, args->key, rl_request_try, &allowed, out, each);
    case METHOD_PEEK:
    case METHOD_PEEK_EACH:
        rl_request_peek(&call->request, out, each);
        return 0;
    case METHOD_REFUND:
        rl_request_refund(&call->request);
        return 0;
    case METHOD_CHARGE:
        if (rl_request_charge(&call->request, out) != RL_OK) {
            PyErr_NoMemory();
            return -1;
        }
        return 0;
    default:
        return given_hit(call, args, &allowed, out, each);
    }
}

static PyObject *given_result(const given_call *call, limiter_method method,
                              const rl_decision *decision, const rl_decision *each)
{
    core_state *state = call->limiter->state;
    switch (method) {
    case METHOD_ALLOW:
        return Py_NewRef(decision->allowed ? Py_True : Py_False);
    case METHOD_REFUND:
        return Py_NewRef(Py_None);
    case METHOD_HIT_EACH:
    case METHOD_PEEK_EACH:
        return decisions_new(state, decision, each, call->given->set.n);
    default:
        return decision_new(state, decision);
    }
}

PyObject *limiter_call_given(limiter_object *self, limiter_method method, const core_key_cost *args)
{
    given_call call;
    rl_decision decision;
    rl_decision each[RL_TABLE_LIMITS_MAX];
    PyObject *result = NULL;
    uint64_t (*convert)(const rl_limit *, double) = method == METHOD_REFUND   ? rl_limit_refund
                                                    : method == METHOD_CHARGE ? rl_limit_charge
                                                                              : rl_limit_cost;
    if (given_call_init(self, args, convert, &call) == 0 &&
        given_run(&call, method, args, &decision, each) == 0) {
        result = given_result(&call, method, &decision, each);
    }
    given_call_clear(&call);
    return result;
}

PyObject *limiter_allow_many_given(limiter_object *self, PyObject *keys, const core_key_cost *args)
{
    Py_ssize_t n = PyTuple_GET_SIZE(keys);
    given_limits_object *given = read_given(self, args->limits);
    PyObject *result = given != NULL ? PyList_New(n) : NULL;
    core_key_cost one = {NULL, args->cost, (PyObject *)given};
    for (Py_ssize_t i = 0; result != NULL && i < n; i++) { /* a bad key or cost takes nothing */
        given_call call;
        one.key = PyTuple_GET_ITEM(keys, i);
        if (given_call_init(self, &one, rl_limit_cost, &call) < 0) {
            Py_CLEAR(result);
        }
        given_call_clear(&call);
    }
    for (Py_ssize_t i = 0; result != NULL && i < n; i++) {
        bool allowed;
        one.key = PyTuple_GET_ITEM(keys, i);
        if (limiter_decide_given(self, &one, &allowed, NULL, NULL) < 0) {
            Py_CLEAR(result);
            break;
        }
        PyList_SET_ITEM(result, i, Py_NewRef(allowed ? Py_True : Py_False));
    }
    Py_XDECREF((PyObject *)given);
    return result;
}

int limiter_refund_given(limiter_object *self, PyObject *key, given_limits_object *given,
                         const double *tokens)
{
    const core_key_cost args = {key, NULL, (PyObject *)given};
    given_call call;
    int status = given_call_init(self, &args, rl_limit_cost, &call);
    if (status == 0) {
        for (size_t i = 0; i < given->set.n; i++) {
            call.room[i] = rl_limit_refund(&given->set.limits[i], tokens[i]);
        }
        call.request.costs = call.room;
        rl_request_refund(&call.request);
        limiter_wake_waiters(self, key);
    }
    given_call_clear(&call);
    return status;
}
