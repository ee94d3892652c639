/* decision.c -- Decision: the outcome of one request, as a Python value. */
#include "python/core.h"

#include <math.h>
#include <structmember.h>

#define NS_PER_S 1e9
#define NS_PER_S_WHOLE 1000000000
#define NS_PER_MS 1000000

typedef struct decision_object {
    PyObject_HEAD
    core_state *state; /* borrowed from the type, which is not cleared while there is a Decision */
    rl_decision value; /* immutable */
} decision_object;

static const rl_decision *value_of(PyObject *self)
{
    return &((decision_object *)self)->value;
}

/* On the hot path, so it skips the zeroing of tp_alloc. */
PyObject *decision_new(core_state *state, const rl_decision *value)
{
    PyTypeObject *type = state->decision_type;
    PyObject *self = core_take_spare(state, SPARE_DECISION, type);
    if (self == NULL) {
        self = (PyObject *)PyObject_New(decision_object, type);
    }
    if (self != NULL) {
        ((decision_object *)self)->state = state;
        ((decision_object *)self)->value = *value;
    }
    return self;
}

PyObject *decisions_new(core_state *state, const rl_decision *tightest, const rl_decision *each,
                        size_t n)
{
    PyObject *result = PyTuple_New(1 + (Py_ssize_t)n);
    for (size_t i = 0; result != NULL && i <= n; i++) {
        PyObject *one = decision_new(state, i == 0 ? tightest : &each[i - 1]);
        if (one == NULL) {
            Py_CLEAR(result);
            break;
        }
        PyTuple_SET_ITEM(result, (Py_ssize_t)i, one);
    }
    return result;
}

const rl_decision *decision_value(core_state *state, PyObject *decision)
{
    if (Py_TYPE(decision) != state->decision_type) {
        PyErr_Format(PyExc_TypeError, "expected a Decision, not %.200s",
                     Py_TYPE(decision)->tp_name);
        return NULL;
    }
    return value_of(decision);
}

static void decision_dealloc(PyObject *self)
{
    core_free_object_of(((decision_object *)self)->state, self, SPARE_DECISION);
}

/* ---- times ----------------------------------------------------------------- */

/* The closest double that is never a nanosecond short when converted back. */
static double seconds_from_ns(int64_t ns)
{
    if (ns == RL_NEVER) {
        return INFINITY;
    }
    double seconds = (double)ns / NS_PER_S;
    while (seconds * NS_PER_S < (double)ns) {
        seconds = nextafter(seconds, INFINITY);
    }
    return seconds;
}

/* 0, or -1 with an exception set. */
static int ns_from_seconds(double seconds, const char *name, int64_t *ns)
{
    if (!(seconds >= 0)) {
        PyObject *number = PyFloat_FromDouble(seconds);
        if (number != NULL) {
            PyErr_Format(PyExc_ValueError, "%s must be a time >= 0, got %R", name, number);
            Py_DECREF(number);
        }
        return -1;
    }
    double exact = ceil(seconds * NS_PER_S);
    *ns = exact < (double)RL_NEVER ? (int64_t)exact : RL_NEVER;
    return 0;
}

/* 0, or -1 with an exception set: headers show tokens as whole numbers, so they are finite. */
static int check_tokens(double tokens, const char *name)
{
    if (!isfinite(tokens)) {
        PyErr_Format(PyExc_ValueError, "%s must be a finite number of tokens", name);
        return -1;
    }
    return 0;
}

static int64_t ms_from_ns(int64_t ns)
{
    return ns == RL_NEVER ? RL_NEVER : ns / NS_PER_MS + (ns % NS_PER_MS != 0);
}

/* ---- construction ---------------------------------------------------------- */

static PyObject *decision_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"allowed",     "remaining",   "retry_after_ms",    "limit",
                            "retry_after", "reset_after", "store_unavailable", NULL};
    int allowed;
    int store_unavailable = 0;
    double remaining = 0;
    double limit = 0;
    long long retry_after_ms = 0;
    double retry_after = -1;
    double reset_after = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "p|dL$dddp:Decision", names, &allowed,
                                     &remaining, &retry_after_ms, &limit, &retry_after,
                                     &reset_after, &store_unavailable)) {
        return NULL;
    }
    if (retry_after == -1) {
        retry_after = (double)retry_after_ms / 1e3;
    }
    rl_decision value = {.allowed = allowed != 0,
                         .store_unavailable = store_unavailable != 0,
                         .limit = limit,
                         .remaining = remaining};
    if (check_tokens(remaining, "remaining") < 0 || check_tokens(limit, "limit") < 0 ||
        ns_from_seconds(retry_after, "retry_after", &value.retry_after_ns) < 0 ||
        ns_from_seconds(reset_after, "reset_after", &value.reset_after_ns) < 0) {
        return NULL;
    }
    core_state *state = PyType_GetModuleState(type); /* there are no subclasses */
    return state == NULL ? NULL : decision_new(state, &value);
}

/* The constructor takes times in seconds; a pickle keeps nanoseconds. */
PyObject *decision_restore(PyObject *module, PyObject *args)
{
    core_state *state = PyModule_GetState(module);
    int allowed;
    int store_unavailable = 0;
    rl_decision value;
    long long retry_after_ns;
    long long reset_after_ns;
    if (!PyArg_ParseTuple(args, "pddLL|p:_restore_decision", &allowed, &value.limit,
                          &value.remaining, &retry_after_ns, &reset_after_ns, &store_unavailable) ||
        check_tokens(value.limit, "limit") < 0 || check_tokens(value.remaining, "remaining") < 0) {
        return NULL;
    }
    if (retry_after_ns < 0 || reset_after_ns < 0) {
        PyErr_SetString(PyExc_ValueError, "times must be >= 0");
        return NULL;
    }
    value.allowed = allowed != 0;
    value.store_unavailable = store_unavailable != 0;
    value.retry_after_ns = retry_after_ns;
    value.reset_after_ns = reset_after_ns;
    return decision_new(state, &value);
}

static PyObject *as_tuple(const rl_decision *value)
{
    return Py_BuildValue("(OddLLO)", value->allowed ? Py_True : Py_False, value->limit,
                         value->remaining, (long long)value->retry_after_ns,
                         (long long)value->reset_after_ns,
                         value->store_unavailable ? Py_True : Py_False);
}

static PyObject *decision_reduce(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *module = PyType_GetModule(Py_TYPE(self)); /* borrowed */
    PyObject *restore = module ? PyObject_GetAttrString(module, "_restore_decision") : NULL;
    if (restore == NULL) {
        return NULL;
    }
    PyObject *state = as_tuple(value_of(self));
    PyObject *result = state ? PyTuple_Pack(2, restore, state) : NULL;
    Py_XDECREF(state);
    Py_DECREF(restore);
    return result;
}

/* ---- the value as Python sees it ------------------------------------------- */

static PyObject *get_retry_after(PyObject *self, void *Py_UNUSED(closure))
{
    return PyFloat_FromDouble(seconds_from_ns(value_of(self)->retry_after_ns));
}

static PyObject *get_reset_after(PyObject *self, void *Py_UNUSED(closure))
{
    return PyFloat_FromDouble(seconds_from_ns(value_of(self)->reset_after_ns));
}

static PyObject *get_retry_after_ms(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(ms_from_ns(value_of(self)->retry_after_ns));
}

static PyObject *get_retry_after_s(PyObject *self, void *Py_UNUSED(closure))
{
    int64_t ns = value_of(self)->retry_after_ns;
    if (ns == RL_NEVER) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLongLong(ns / NS_PER_S_WHOLE + (ns % NS_PER_S_WHOLE != 0));
}

static int decision_bool(PyObject *self)
{
    return value_of(self)->allowed;
}

bool decision_equals(const rl_decision *a, const rl_decision *b)
{
    return a->allowed == b->allowed && a->limit == b->limit && a->remaining == b->remaining &&
           a->retry_after_ns == b->retry_after_ns && a->reset_after_ns == b->reset_after_ns &&
           a->store_unavailable == b->store_unavailable;
}

static PyObject *decision_compare(PyObject *a, PyObject *b, int op)
{
    if ((op != Py_EQ && op != Py_NE) || Py_TYPE(a) != Py_TYPE(b)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    const rl_decision *x = value_of(a);
    const rl_decision *y = value_of(b);
    return PyBool_FromLong(decision_equals(x, y) == (op == Py_EQ));
}

static Py_hash_t decision_hash(PyObject *self)
{
    PyObject *tuple = as_tuple(value_of(self));
    if (tuple == NULL) {
        return -1;
    }
    Py_hash_t hash = PyObject_Hash(tuple);
    Py_DECREF(tuple);
    return hash;
}

static PyObject *decision_repr(PyObject *self)
{
    const rl_decision *value = value_of(self);
    const double numbers[] = {value->limit, value->remaining,
                              seconds_from_ns(value->retry_after_ns),
                              seconds_from_ns(value->reset_after_ns)};
    PyObject *parts[4] = {NULL};
    PyObject *repr = NULL;
    for (size_t i = 0; i < 4; i++) {
        parts[i] = PyFloat_FromDouble(numbers[i]);
        if (parts[i] == NULL) {
            goto done;
        }
    }
    repr = PyUnicode_FromFormat(
        "Decision(allowed=%s, limit=%R, remaining=%R, retry_after=%R, reset_after=%R)",
        value->allowed ? "True" : "False", parts[0], parts[1], parts[2], parts[3]);
done:
    for (size_t i = 0; i < 4; i++) {
        Py_XDECREF(parts[i]);
    }
    return repr;
}

#define FIELD(name) (offsetof(decision_object, value) + offsetof(rl_decision, name))

static PyMemberDef decision_members[] = {
    {"allowed", T_BOOL, FIELD(allowed), READONLY,
     PyDoc_STR("Whether the request may pass (bool).")},
    {"limit", T_DOUBLE, FIELD(limit), READONLY, PyDoc_STR("Capacity in tokens (float).")},
    {"remaining", T_DOUBLE, FIELD(remaining), READONLY,
     PyDoc_STR("Tokens left after the request (float).")},
    {"retry_after_ns", T_LONGLONG, FIELD(retry_after_ns), READONLY,
     PyDoc_STR("retry_after in nanoseconds (int), exact: after this wait the request passes, after "
               "one nanosecond less it does not. 2**63 - 1 for never.")},
    {"reset_after_ns", T_LONGLONG, FIELD(reset_after_ns), READONLY,
     PyDoc_STR("reset_after in nanoseconds (int). 2**63 - 1 for never.")},
    {"store_unavailable", T_BOOL, FIELD(store_unavailable), READONLY,
     PyDoc_STR("Whether the store gave no answer and on_store_error \"allow\" or \"deny\" decided "
               "(bool).")},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef decision_getset[] = {
    {"retry_after", get_retry_after, NULL,
     PyDoc_STR("Seconds until the same request would pass (float): 0.0 when allowed, inf for "
               "never."),
     NULL},
    {"reset_after", get_reset_after, NULL,
     PyDoc_STR("Seconds until the bucket is full (float), inf for never."), NULL},
    {"retry_after_s", get_retry_after_s, NULL,
     PyDoc_STR("retry_after in whole seconds, rounded up (int), None for never: fit for JSON."),
     NULL},
    {"retry_after_ms", get_retry_after_ms, NULL,
     PyDoc_STR("retry_after in milliseconds, rounded up (int). 2**63 - 1 for never."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef decision_methods[] = {
    {"__reduce__", decision_reduce, METH_NOARGS, PyDoc_STR("Support pickle and copy.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot decision_slots[] = {
    {Py_tp_doc,
     PyDoc_STR(
         "Decision(allowed, remaining=0.0, retry_after_ms=0, *, limit=0.0, retry_after=-1.0,\n"
         "         reset_after=0.0, store_unavailable=False)\n--\n\n"
         "Describe the outcome of one request. Immutable, and true when it was allowed.\n\n"
         "Tokens are floats, times are seconds; retry_after overrides retry_after_ms.\n"
         "Raises ValueError for a negative or NaN time, and for tokens that are not finite.")},
    {Py_tp_new, decision_tp_new},
    {Py_tp_dealloc, decision_dealloc},
    {Py_tp_repr, decision_repr},
    {Py_tp_hash, decision_hash},
    {Py_tp_richcompare, decision_compare},
    {Py_tp_methods, decision_methods},
    {Py_tp_members, decision_members},
    {Py_tp_getset, decision_getset},
    {Py_nb_bool, decision_bool},
    {0, NULL},
};

/* ---- a Decision as a dataclass ----------------------------------------------- */

/* dataclasses.make_dataclass("Decision", ...) with the positional parameters of the constructor. */
static PyObject *decision_dataclass(void)
{
    PyObject *dataclasses = PyImport_ImportModule("dataclasses");
    PyObject *made = dataclasses == NULL
                         ? NULL
                         : PyObject_CallMethod(dataclasses, "make_dataclass", "s((sO)(sO)(sO))",
                                               "Decision", "allowed", (PyObject *)&PyBool_Type,
                                               "remaining", (PyObject *)&PyFloat_Type,
                                               "retry_after_ms", (PyObject *)&PyLong_Type);
    Py_XDECREF(dataclasses);
    return made;
}

int decision_describe_fields(PyTypeObject *type)
{
    static const char *const names[] = {"__dataclass_fields__", "__dataclass_params__",
                                        "__match_args__"};
    PyObject *made = decision_dataclass();
    int status = made == NULL ? -1 : 0;
    for (size_t i = 0; status == 0 && i < sizeof names / sizeof names[0]; i++) {
        PyObject *value = PyObject_GetAttrString(made, names[i]);
        /* Not PyObject_SetAttr, which refuses an immutable type. */
        status = value == NULL ? -1 : PyDict_SetItemString(type->tp_dict, names[i], value);
        Py_XDECREF(value);
    }
    PyType_Modified(type);
    Py_XDECREF(made);
    return status;
}

PyType_Spec decision_spec = {
    .name = "rate_limiter._core.Decision",
    .basicsize = sizeof(decision_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = decision_slots,
};
