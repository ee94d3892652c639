/* fields.c -- FieldStyle: the header fields of a response, as a Python type. */
#include "python/path.h"

#include <math.h>
#include <string.h>

/* Longest time that a window or a wall clock may have. */
#define WINDOW_MAX_S INT64_C(1000000000)
#define NOW_MAX_S 1e12

/* Immutable. */
typedef struct style_object {
    PyObject_HEAD
    core_state *state; /* borrowed from the type */
    rl_field_style style;
    PyObject *names[RL_FIELD_COUNT]; /* strong; str */
} style_object;

static style_object *style_of(PyObject *self)
{
    return (style_object *)self;
}

const rl_field_style *style_value(const core_state *state, PyObject *style)
{
    if (!PyObject_TypeCheck(style, state->style_type)) {
        PyErr_Format(PyExc_TypeError, "style must be a FieldStyle, not %.200s",
                     Py_TYPE(style)->tp_name);
        return NULL;
    }
    return &style_of(style)->style;
}

/* ---- arguments -------------------------------------------------------------------------- */

/* Read a number in a range, which NaN is not. 0, or -1 with an exception set. */
static int read_number(PyObject *number, const char *what, double most, double *out)
{
    *out = PyFloat_AsDouble(number);
    if (*out == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (!(*out >= 0 && *out <= most)) {
        PyErr_Format(PyExc_ValueError, "%s is out of range", what);
        return -1;
    }
    return 0;
}

static int read_window(PyObject *number, int64_t *out)
{
    long long window_s = PyLong_AsLongLong(number);
    if (window_s == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (window_s < 0 || window_s > WINDOW_MAX_S) {
        PyErr_SetString(PyExc_ValueError, "window_s is out of range");
        return -1;
    }
    *out = window_s;
    return 0;
}

static int read_decision(core_state *state, PyObject *decision, rl_decision *out)
{
    const rl_decision *value = decision_value(state, decision);
    if (value == NULL) {
        return -1;
    }
    *out = *value;
    return 0;
}

/* ---- limits: LimitState objects ------------------------------------------------------------ */

typedef struct states {
    rl_limit_state *limits; /* owned */
    PyObject **owners;      /* strong; of the names; behind the limits */
    size_t n;
} states;

static void states_clear(states *states)
{
    for (size_t i = 0; i < states->n; i++) {
        Py_DECREF(states->owners[i]);
    }
    PyMem_Free(states->limits);
}

static int read_name(PyObject *name, PyObject **owner, rl_text *out)
{
    core_text text;
    if (!PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "name must be str, not %.200s", Py_TYPE(name)->tp_name);
        return -1;
    }
    if (core_parse_key(name, &text) < 0) {
        return -1;
    }
    *owner = text.owner != NULL ? text.owner : Py_NewRef(name);
    *out = (rl_text){text.data, text.len};
    return 0;
}

static int read_limit_number(const core_state *state, PyObject *limit, core_name name, double *out)
{
    PyObject *number = PyObject_GetAttr(limit, state->names[name]);
    int status = number != NULL ? read_number(number, "a limit", INFINITY, out) : -1;
    Py_XDECREF(number);
    return status;
}

static int read_limit(const core_state *state, PyObject *limit, rl_limit_state *out)
{
    PyObject *window = PyObject_GetAttr(limit, state->names[NAME_EDGE_S]);
    int status = window != NULL ? read_window(window, &out->window_s) : -1;
    Py_XDECREF(window);
    if (status < 0 || read_limit_number(state, limit, NAME_CAPACITY, &out->capacity) < 0) {
        return -1;
    }
    return read_limit_number(state, limit, NAME_PERIOD_S, &out->period_s);
}

/* Read all but the name of a limit. */
static int read_verdict(core_state *state, PyObject *one, rl_limit_state *out)
{
    PyObject *limit = PyObject_GetAttr(one, state->names[NAME_LIMIT]);
    PyObject *decision = limit ? PyObject_GetAttr(one, state->names[NAME_DECISION]) : NULL;
    int status = -1;
    if (decision != NULL && read_decision(state, decision, &out->decision) == 0) {
        status = read_limit(state, limit, out);
    }
    Py_XDECREF(decision);
    Py_XDECREF(limit);
    return status;
}

static int states_add(core_state *state, PyObject *one, states *states)
{
    rl_limit_state *limit = &states->limits[states->n];
    if (read_verdict(state, one, limit) < 0) {
        return -1;
    }
    PyObject *name = PyObject_GetAttr(one, state->names[NAME_NAME]);
    int status = name != NULL ? read_name(name, &states->owners[states->n], &limit->name) : -1;
    Py_XDECREF(name);
    states->n += status == 0;
    return status;
}

/* 0, or -1 with an exception set; clear them in both cases. */
static int states_read(core_state *state, PyObject *given, states *out)
{
    *out = (states){.n = 0};
    PyObject *all = PySequence_Tuple(given);
    if (all == NULL) {
        return -1;
    }
    size_t n = (size_t)PyTuple_GET_SIZE(all);
    int status = 0;
    if (n > 0) {
        out->limits = PyMem_Calloc(n, sizeof *out->limits + sizeof *out->owners);
        if (out->limits == NULL) {
            PyErr_NoMemory();
            status = -1;
        } else {
            out->owners = (PyObject **)(void *)(out->limits + n);
        }
    }
    for (size_t i = 0; status == 0 && i < n; i++) {
        status = states_add(state, PyTuple_GET_ITEM(all, (Py_ssize_t)i), out);
    }
    Py_DECREF(all);
    return status;
}

/* Length of the window that a decision is of; 0: of a bucket, or unknown. */
static int64_t window_of(const states *states, const rl_decision *decision)
{
    for (size_t i = 0; i < states->n; i++) {
        if (decision_equals(&states->limits[i].decision, decision)) {
            return states->limits[i].window_s;
        }
    }
    return 0;
}

/* ---- methods --------------------------------------------------------------------------------- */

static PyObject *dict_of(const style_object *self, const rl_field *fields, size_t n)
{
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < n; i++) {
        char digits[RL_NUMBER_MAX];
        const rl_text text = rl_field_value(&fields[i], digits);
        PyObject *value = PyUnicode_FromStringAndSize(text.data, (Py_ssize_t)text.len);
        if (value == NULL || PyDict_SetItem(dict, self->names[fields[i].name], value) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
    }
    return dict;
}

static PyObject *write_fields(const style_object *self, const rl_field_input *input)
{
    char few[1024];
    char *many = NULL;
    rl_field fields[RL_FIELD_COUNT];
    size_t n;
    size_t size = rl_fields_write(&self->style, input, few, sizeof few, fields, &n);
    if (size > sizeof few) {
        many = PyMem_Malloc(size);
        if (many == NULL) {
            return PyErr_NoMemory();
        }
        rl_fields_write(&self->style, input, many, size, fields, &n);
    }
    PyObject *dict = dict_of(self, fields, n);
    PyMem_Free(many);
    return dict;
}

static PyObject *style_values(PyObject *object, PyObject *args)
{
    const style_object *self = style_of(object);
    PyObject *decision, *given, *spread, *now_s;
    rl_field_input input = {.window_s = 0};
    states states = {.n = 0};
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "OOOO:values", &decision, &given, &spread, &now_s) ||
        read_decision(self->state, decision, &input.tightest) < 0 ||
        read_number(spread, "spread", 1, &input.spread) < 0 ||
        read_number(now_s, "now_s", NOW_MAX_S, &input.now_s) < 0) {
        return NULL;
    }
    bool needs_limits = self->style.ietf || self->style.is_epoch;
    if (!needs_limits || states_read(self->state, given, &states) == 0) {
        input.limits = states.limits;
        input.n_limits = states.n;
        input.window_s = window_of(&states, &input.tightest);
        result = write_fields(self, &input);
    }
    states_clear(&states);
    return result;
}

static PyObject *style_retry_after_s(PyObject *object, PyObject *args)
{
    const style_object *self = style_of(object);
    PyObject *decision, *spread_object;
    rl_decision value;
    double spread;
    if (!PyArg_ParseTuple(args, "OO:retry_after_s", &decision, &spread_object) ||
        read_decision(self->state, decision, &value) < 0 ||
        read_number(spread_object, "spread", 1, &spread) < 0) {
        return NULL;
    }
    int64_t seconds = rl_retry_after_s(&value, self->style.jitter_s, spread);
    return seconds < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(seconds);
}

static PyObject *style_reset_at_s(PyObject *object, PyObject *args)
{
    PyObject *decision, *window, *now;
    rl_decision value;
    int64_t window_s;
    double now_s;
    if (!PyArg_ParseTuple(args, "OOO:reset_at_s", &decision, &window, &now) ||
        read_decision(style_of(object)->state, decision, &value) < 0 ||
        read_window(window, &window_s) < 0 || read_number(now, "now_s", NOW_MAX_S, &now_s) < 0) {
        return NULL;
    }
    return PyLong_FromLongLong(rl_reset_at_s(&value, window_s, now_s));
}

/* ---- the type ---------------------------------------------------------------------------------- */

static int read_style(PyObject *name, rl_field_style *out)
{
    bool is_both = PyUnicode_CompareWithASCIIString(name, "both") == 0;
    bool is_off = PyUnicode_CompareWithASCIIString(name, "off") == 0;
    out->x_ratelimit = is_both || PyUnicode_CompareWithASCIIString(name, "x-ratelimit") == 0;
    out->ietf = is_both || PyUnicode_CompareWithASCIIString(name, "ietf") == 0;
    if (!out->x_ratelimit && !out->ietf && !is_off) {
        PyErr_Format(PyExc_ValueError,
                     "style must be 'x-ratelimit', 'ietf', 'both' or 'off', got %R", name);
        return -1;
    }
    return 0;
}

static PyObject *style_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"style", "epoch", "jitter_s", "cors", NULL};
    PyObject *name;
    int epoch = 0;
    int cors = 0;
    rl_field_style style = {.jitter_s = 0};
    core_state *state = core_state_of(type);
    if (state == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "U|$pdp:FieldStyle", keywords, &name, &epoch,
                                     &style.jitter_s, &cors) ||
        read_style(name, &style) < 0) {
        return NULL;
    }
    if (!(style.jitter_s >= 0 && isfinite(style.jitter_s))) {
        PyErr_SetString(PyExc_ValueError, "jitter_s must be a number of seconds >= 0");
        return NULL;
    }
    style.is_epoch = epoch != 0;
    style.exposes = cors != 0;
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    style_of(self)->state = state;
    style_of(self)->style = style;
    for (size_t i = 0; i < RL_FIELD_COUNT; i++) {
        style_of(self)->names[i] = PyUnicode_InternFromString(rl_field_names[i]);
        if (style_of(self)->names[i] == NULL) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return self;
}

static void style_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    for (size_t i = 0; i < RL_FIELD_COUNT; i++) {
        Py_XDECREF(style_of(object)->names[i]);
    }
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef style_methods[] = {
    {"values", style_values, METH_VARARGS,
     PyDoc_STR(
         "values($self, decision, states, spread, now_s, /)\n--\n\n"
         "Return the fields of a response: a dict of str.\n\n"
         "decision: of the tightest limit. states: of all limits, with the attributes name,\n"
         "limit and decision. spread: share of the jitter, from 0 to 1. now_s: seconds since\n"
         "the epoch.")},
    {"retry_after_s", style_retry_after_s, METH_VARARGS,
     PyDoc_STR("retry_after_s($self, decision, spread, /)\n--\n\n"
               "Return the seconds of Retry-After (int), at least 1; None for never.")},
    {"reset_at_s", style_reset_at_s, METH_VARARGS,
     PyDoc_STR("reset_at_s($self, decision, window_s, now_s, /)\n--\n\n"
               "Return when all tokens are back, in seconds since the epoch (int), rounded up.\n\n"
               "window_s: length of the window, which ends on a multiple of it; 0 of a bucket.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot style_slots[] = {
    {Py_tp_doc,
     PyDoc_STR("FieldStyle(style, *, epoch=False, jitter_s=0.0, cors=False)\n--\n\n"
               "Write the header fields of responses. Immutable.\n\n"
               "style: 'x-ratelimit', 'ietf', 'both' or 'off'. epoch: X-RateLimit-Reset\n"
               "as seconds since the epoch. jitter_s: Retry-After is up to so much longer.\n"
               "cors: add Access-Control-Expose-Headers. Raises TypeError or ValueError\n"
               "for another value.")},
    {Py_tp_new, style_tp_new},
    {Py_tp_dealloc, style_dealloc},
    {Py_tp_methods, style_methods},
    {0, NULL},
};

PyType_Spec style_spec = {
    .name = "rate_limiter._core.FieldStyle",
    .basicsize = sizeof(style_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = style_slots,
};
