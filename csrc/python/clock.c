/* clock.c -- ManualClock, a clock that tests move by hand, and callables as clocks. */
#include "python/clock.h"

#include <math.h>
#include <stdatomic.h>

/* Keeps the arithmetic of every limit far from the end of int64_t. */
#define NS_MAX (INT64_MAX / 2)

typedef struct clock_object {
    PyObject_HEAD
    _Atomic int64_t now_ns;
} clock_object;

int64_t clock_now_ns(PyObject *clock)
{
    return atomic_load(&((clock_object *)clock)->now_ns);
}

int clock_call_ns(PyObject *clock, int64_t *now_ns)
{
    PyObject *seconds = PyObject_CallNoArgs(clock);
    if (seconds == NULL) {
        return -1;
    }
    bool is_number = PyFloat_Check(seconds) || (PyLong_Check(seconds) && !PyBool_Check(seconds));
    double value = is_number ? PyFloat_AsDouble(seconds) : -1;
    if (!is_number) {
        PyErr_Format(PyExc_TypeError,
                     "the clock %R must return seconds as a float or an int, got %R", clock,
                     seconds);
    } else if (!(value >= 0 && value <= (double)NS_MAX / 1e9)) {
        PyErr_Clear(); /* an int may be too large for a float */
        PyErr_Format(PyExc_ValueError, "the clock %R must return seconds within 0 and %lld, got %R",
                     clock, (long long)(NS_MAX / 1000000000), seconds);
    } else {
        *now_ns = llround(value * 1e9);
    }
    Py_DECREF(seconds);
    return PyErr_Occurred() ? -1 : 0;
}

static int clock_in_range(long long ns)
{
    if (ns < 0 || ns > NS_MAX) {
        PyErr_Format(PyExc_ValueError, "a clock must be within 0 and %lld ns, got %lld",
                     (long long)NS_MAX, ns);
        return 0;
    }
    return 1;
}

static PyObject *clock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"now_ns", NULL};
    long long now_ns = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|L:ManualClock", names, &now_ns) ||
        !clock_in_range(now_ns)) {
        return NULL;
    }
    clock_object *self = (clock_object *)type->tp_alloc(type, 0);
    if (self != NULL) {
        atomic_init(&self->now_ns, now_ns);
    }
    return (PyObject *)self;
}

static void clock_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *clock_advance_by(clock_object *self, long long step_ns)
{
    int64_t now_ns = atomic_load(&self->now_ns);
    int64_t next_ns;
    do {
        if (__builtin_add_overflow(now_ns, step_ns, &next_ns)) {
            next_ns = INT64_MAX;
        }
        if (!clock_in_range(next_ns)) {
            return NULL;
        }
    } while (!atomic_compare_exchange_weak(&self->now_ns, &now_ns, next_ns));
    Py_RETURN_NONE;
}

static PyObject *clock_advance(PyObject *self, PyObject *arg)
{
    double seconds = PyFloat_AsDouble(arg);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (!(fabs(seconds) <= (double)NS_MAX / 1e9)) {
        return PyErr_Format(PyExc_ValueError, "seconds must be a finite step of a clock, got %R",
                            arg);
    }
    return clock_advance_by((clock_object *)self, llround(seconds * 1e9));
}

static PyObject *clock_advance_ns(PyObject *self, PyObject *arg)
{
    long long step_ns = PyLong_AsLongLong(arg);
    if (step_ns == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return clock_advance_by((clock_object *)self, step_ns);
}

static PyObject *clock_set_ns(PyObject *self, PyObject *arg)
{
    long long now_ns = PyLong_AsLongLong(arg);
    if ((now_ns == -1 && PyErr_Occurred()) || !clock_in_range(now_ns)) {
        return NULL;
    }
    atomic_store(&((clock_object *)self)->now_ns, now_ns);
    Py_RETURN_NONE;
}

static PyObject *clock_get_now_ns(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(clock_now_ns(self));
}

static PyObject *clock_repr(PyObject *self)
{
    return PyUnicode_FromFormat("ManualClock(now_ns=%lld)", (long long)clock_now_ns(self));
}

static PyMethodDef clock_methods[] = {
    {"advance", clock_advance, METH_O,
     PyDoc_STR("advance($self, seconds, /)\n--\n\n"
               "Move the clock by a number of seconds (float, may be negative).")},
    {"advance_ns", clock_advance_ns, METH_O,
     PyDoc_STR("advance_ns($self, step_ns, /)\n--\n\n"
               "Move the clock by a number of nanoseconds (int, may be negative).")},
    {"set_ns", clock_set_ns, METH_O,
     PyDoc_STR("set_ns($self, now_ns, /)\n--\n\nSet the clock to a time in nanoseconds (int).")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef clock_getset[] = {
    {"now_ns", clock_get_now_ns, NULL, PyDoc_STR("The time in nanoseconds (int)."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot clock_slots[] = {
    {Py_tp_doc,
     PyDoc_STR("ManualClock(now_ns=0)\n--\n\n"
               "Keep a time that moves only when a test moves it: a limiter's clock in tests.\n\n"
               "Safe to share between limiters and threads. Raises ValueError when the\n"
               "time would leave the range 0 to 2**62 - 1 ns.")},
    {Py_tp_new, clock_new},
    {Py_tp_dealloc, clock_dealloc},
    {Py_tp_repr, clock_repr},
    {Py_tp_methods, clock_methods},
    {Py_tp_getset, clock_getset},
    {0, NULL},
};

PyType_Spec clock_spec = {
    .name = "rate_limiter._core.ManualClock",
    .basicsize = sizeof(clock_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = clock_slots,
};
