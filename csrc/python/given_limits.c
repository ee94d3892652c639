/* given_limits.c -- GivenLimits: limits that a caller gives with a request, prepared once. */
#include "python/limiter.h"

static given_limits_object *given_limits_of(PyObject *self)
{
    return (given_limits_object *)self;
}

/* Prepare a limit as core_parse_limit() reads it. 0, or -1 with an exception set. */
static int given_limit_init(PyObject *limit, PyObject *engine, rl_limit *out)
{
    if (core_parse_limit(engine, out) < 0) {
        return -1;
    }
    out->keeps_times = out->kind == RL_SLIDING_WINDOW;
    if (rl_is_window(out)) {
        return 0;
    }
    bool counts_denied = out->counts_denied;
    if (rl_limit_init_timed(out, out->capacity, out->refill_rate) != RL_OK) {
        PyErr_Format(PyExc_ValueError,
                     "a limit that comes with a call must refill within 8 years, got '%S'", limit);
        return -1;
    }
    out->counts_denied = counts_denied;
    return 0;
}

/* Read the limits: tuples (limit, for_engine, period_s, edge_s). 0, or -1 with an exception set. */
static int given_limits_read(given_limits_object *self, PyObject *descriptions)
{
    rl_limit limits[RL_TABLE_LIMITS_MAX];
    Py_ssize_t n = PyTuple_GET_SIZE(descriptions);
    if (n < 1 || n > RL_TABLE_LIMITS_MAX) {
        PyErr_Format(PyExc_ValueError, "expected 1 to %d limits, got %zd", RL_TABLE_LIMITS_MAX, n);
        return -1;
    }
    self->limits = PyTuple_New(n);
    self->engine = PyTuple_New(n);
    if (self->limits == NULL || self->engine == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *limit, *engine; /* borrowed */
        long long edge_s;
        PyObject *one = PyTuple_GET_ITEM(descriptions, i);
        if (!PyTuple_Check(one)) {
            PyErr_SetString(PyExc_TypeError, "a limit must be described by a tuple");
            return -1;
        }
        if (!PyArg_ParseTuple(one, "OO!dL:limit", &limit, &PyTuple_Type, &engine,
                              &self->period_s[i], &edge_s) ||
            given_limit_init(limit, engine, &limits[i]) < 0) {
            return -1;
        }
        self->edge_s[i] = edge_s;
        self->one[i] = rl_limit_cost(&limits[i], 1);
        self->has_windows |= rl_is_window(&limits[i]);
        PyTuple_SET_ITEM(self->limits, i, Py_NewRef(limit));
        PyTuple_SET_ITEM(self->engine, i, Py_NewRef(engine));
    }
    if (!self->has_windows && n > RL_TIMED_LIMITS_MAX) {
        PyErr_Format(PyExc_ValueError, "a call may have 1 to %d limits, got %zd",
                     RL_TIMED_LIMITS_MAX, n);
        return -1;
    }
    rl_limit_set_init_given(&self->set, limits, (size_t)n);
    self->zones = core_limit_zones(self->engine);
    return self->zones != NULL ? 0 : -1;
}

static PyObject *given_limits_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limits", NULL};
    PyObject *descriptions;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:GivenLimits", names, &PyTuple_Type,
                                     &descriptions)) {
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL && given_limits_read(given_limits_of(self), descriptions) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

static PyObject *given_limits_get_limits(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(given_limits_of(self)->limits);
}

static PyObject *given_limits_get_has_windows(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(given_limits_of(self)->has_windows);
}

/* Return the place of each bucket in an entry; () if some are windows. */
static PyObject *given_limits_get_places(PyObject *self, void *Py_UNUSED(closure))
{
    const given_limits_object *given = given_limits_of(self);
    Py_ssize_t n = given->has_windows ? 0 : (Py_ssize_t)given->set.n;
    PyObject *places = PyTuple_New(n);
    for (Py_ssize_t i = 0; places != NULL && i < n; i++) {
        PyObject *place = PyLong_FromLong(given->set.first_word[i]);
        if (place == NULL) {
            Py_CLEAR(places);
            break;
        }
        PyTuple_SET_ITEM(places, i, place);
    }
    return places;
}

static int given_limits_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(given_limits_of(self)->limits);
    return 0;
}

static void given_limits_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(given_limits_of(self)->limits);
    Py_XDECREF(given_limits_of(self)->engine);
    Py_XDECREF(given_limits_of(self)->zones);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyGetSetDef given_limits_getset[] = {
    {"limits", given_limits_get_limits, NULL, PyDoc_STR("What it was made of (tuple)."), NULL},
    {"has_windows", given_limits_get_has_windows, NULL,
     PyDoc_STR("Whether some are windows (bool)."), NULL},
    {"places", given_limits_get_places, NULL,
     PyDoc_STR("The number of each bucket, the one that takes longest to fill first; () if some\n"
               "are windows (tuple)."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot given_limits_slots[] = {
    {Py_tp_doc,
     PyDoc_STR("GivenLimits(limits)\n--\n\n"
               "Prepare limits that are given with calls of a Limiter. Immutable.\n\n"
               "limits: a tuple of (limit, for_engine, period_s, edge_s), see Limit. Raises\n"
               "TypeError or ValueError for something else, for more than 8 limits or 4 buckets,\n"
               "and for a bucket that needs more than 8 years.")},
    {Py_tp_new, given_limits_new},
    {Py_tp_dealloc, given_limits_dealloc},
    {Py_tp_traverse, given_limits_traverse},
    {Py_tp_getset, given_limits_getset},
    {0, NULL},
};

PyType_Spec given_limits_spec = {
    .name = "rate_limiter._core.GivenLimits",
    .basicsize = sizeof(given_limits_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = given_limits_slots,
};
