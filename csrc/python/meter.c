/* meter.c -- Meter: the counts of decisions, as a Python type. */
#include "python/clock.h"
#include "python/meter.h"

#include "engine/alloc.h"

/* Immutable after __init__, except for the numbers and for the sketch, which is set once. */
typedef struct meter_object {
    PyObject_HEAD
    core_meter meter; /* its counts are owned; NULL before __init__ */
    bool is_in_file;
    _Atomic(PyObject *) sketch; /* strong; a ClientSketch, which has meter.clients; or NULL */
} meter_object;

static meter_object *meter_of(PyObject *self)
{
    return (meter_object *)self;
}

/* Its counts, or NULL with an exception set. */
static core_meter *meter_ready(PyObject *object)
{
    if (meter_of(object)->meter.counts == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this meter was not initialised: call __init__ first");
        return NULL;
    }
    return &meter_of(object)->meter;
}

core_meter *meter_value(core_state *state, PyObject *meter)
{
    if (!PyObject_TypeCheck(meter, state->meter_type)) {
        PyErr_Format(PyExc_TypeError, "meter must be a Meter, not %.200s", Py_TYPE(meter)->tp_name);
        return NULL;
    }
    return meter_ready(meter);
}

/* The meter in a file, or NULL with an exception set. */
static rl_meter *meter_open_file(PyObject *path)
{
    PyObject *name = NULL; /* strong; bytes */
    rl_meter *meter;
    if (!PyUnicode_FSConverter(path, &name)) {
        return NULL;
    }
    rl_file_status status = rl_meter_open(PyBytes_AS_STRING(name), &meter);
    Py_DECREF(name);
    core_refuse_file(status, path);
    return meter;
}

static rl_meter *meter_make(void)
{
    rl_meter *meter = rl_alloc_zeroed(sizeof *meter);
    if (meter == NULL) {
        PyErr_NoMemory();
    }
    return meter;
}

static void meter_free(rl_meter *meter, bool is_in_file)
{
    if (is_in_file) {
        rl_meter_close(meter);
    } else {
        rl_free(meter);
    }
}

static int meter_refuse_second_init(const meter_object *self)
{
    if (self->meter.counts != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a meter cannot be initialised twice");
        return -1;
    }
    return 0;
}

static int meter_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"path", NULL};
    meter_object *self = meter_of(object);
    PyObject *path = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Meter", names, &path)) {
        return -1;
    }
    if (meter_refuse_second_init(self) < 0) {
        return -1;
    }
    rl_meter *meter = path != Py_None ? meter_open_file(path) : meter_make();
    if (meter == NULL) {
        return -1;
    }
    if (meter_refuse_second_init(self) < 0) { /* __fspath__ may have called __init__ */
        meter_free(meter, path != Py_None);
        return -1;
    }
    self->meter.counts = meter;
    self->is_in_file = path != Py_None;
    return 0;
}

static void meter_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    meter_free(meter_of(object)->meter.counts, meter_of(object)->is_in_file);
    Py_XDECREF(atomic_load(&meter_of(object)->sketch));
    type->tp_free(object);
    Py_DECREF(type);
}

void meter_add(core_meter *meter, PyObject *key, bool allowed, uint64_t n, int64_t elapsed_ns)
{
    rl_top *clients = atomic_load_explicit(&meter->clients, memory_order_acquire);
    if (n == 0) {
        return;
    }
    rl_meter_record(meter->counts, allowed, n, elapsed_ns);
    if (clients != NULL && key != Py_None) {
        sketch_record(clients, key, 0, allowed, n, core_steady_ns());
    }
}

static PyObject *meter_record(PyObject *object, PyObject *args)
{
    uint64_t allowed, blocked;
    long long elapsed_ns;
    PyObject *key = Py_None;
    core_meter *meter = meter_ready(object);
    if (meter == NULL || !PyArg_ParseTuple(args, "O&O&L|O:record", core_parse_count, &allowed,
                                           core_parse_count, &blocked, &elapsed_ns, &key)) {
        return NULL;
    }
    meter_add(meter, key, true, allowed, elapsed_ns);
    meter_add(meter, key, false, blocked, elapsed_ns);
    Py_RETURN_NONE;
}

static PyObject *meter_count_clients(PyObject *object, PyObject *sketch)
{
    core_meter *meter = meter_ready(object);
    core_state *state = meter != NULL ? core_state_of(Py_TYPE(object)) : NULL;
    rl_top *clients = state != NULL ? sketch_value(state, sketch) : NULL;
    if (clients == NULL) {
        return NULL;
    }
    PyObject *found = NULL;
    if (atomic_compare_exchange_strong(&meter_of(object)->sketch, &found, sketch)) {
        Py_INCREF(sketch);
        atomic_store(&meter->clients, clients);
    } else if (found != sketch) {
        PyErr_SetString(PyExc_ValueError, "this meter counts clients in another sketch already");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *meter_counts(const rl_meter *meter, bool allowed)
{
    PyObject *counts = PyTuple_New(RL_METER_BOUNDS + 1);
    for (Py_ssize_t i = 0; counts != NULL && i <= RL_METER_BOUNDS; i++) {
        PyObject *count = PyLong_FromUnsignedLongLong(
            atomic_load_explicit(&meter->decisions[allowed][i], memory_order_relaxed));
        if (count == NULL) {
            Py_CLEAR(counts);
            break;
        }
        PyTuple_SET_ITEM(counts, i, count);
    }
    return counts;
}

static PyObject *meter_read(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    core_meter *ready = meter_ready(object);
    if (ready == NULL) {
        return NULL;
    }
    const rl_meter *meter = ready->counts;
    PyObject *allowed = meter_counts(meter, true);
    PyObject *blocked = allowed == NULL ? NULL : meter_counts(meter, false);
    if (blocked == NULL) {
        Py_XDECREF(allowed);
        return NULL;
    }
    unsigned long long sum_ns = atomic_load_explicit(&meter->sum_ns, memory_order_relaxed);
    return Py_BuildValue("NNK", allowed, blocked, sum_ns);
}

static PyMethodDef meter_methods[] = {
    {"record", meter_record, METH_VARARGS,
     PyDoc_STR("record($self, allowed, blocked, elapsed_ns, key=None, /)\n--\n\n"
               "Add to the counts of decisions (ints >= 0); each took `elapsed_ns` nanoseconds.\n\n"
               "key: the client they were for (str or bytes).")},
    {"count_clients", meter_count_clients, METH_O,
     PyDoc_STR(
         "count_clients($self, sketch, /)\n--\n\n"
         "Count clients in a ClientSketch from now on. Raises ValueError if another one does.")},
    {"read", meter_read, METH_NOARGS,
     PyDoc_STR("read($self, /)\n--\n\n"
               "Return the decisions so far: (allowed, blocked, sum_ns).\n\n"
               "allowed, blocked: counts by duration. Item i has the decisions that took at most\n"
               "METER_BOUNDS_NS[i] and longer than the bound before; the last item has all that\n"
               "took longer. sum_ns: total duration in nanoseconds.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot meter_slots[] = {
    {Py_tp_doc,
     PyDoc_STR("Meter(path=None)\n--\n\n"
               "Count decisions, and how long they took.\n\n"
               "path: a file for counts that several processes share; by default the counts are\n"
               "of this process. Raises OSError, PermissionError or ValueError for a file that\n"
               "cannot be used, and MemoryError.")},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, meter_init},
    {Py_tp_dealloc, meter_dealloc},
    {Py_tp_methods, meter_methods},
    {0, NULL},
};

PyType_Spec meter_spec = {
    .name = "rate_limiter._core.Meter",
    .basicsize = sizeof(meter_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = meter_slots,
};
