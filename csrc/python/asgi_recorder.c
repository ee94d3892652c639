/* asgi_recorder.c -- AsgiRecorder: an ASGI application whose responses get the headers of all limits. */
#include "python/path.h"

#include <structmember.h>

/* Immutable. */
typedef struct recorder_object {
    PyObject_HEAD
    core_state *state; /* borrowed from the type */
    PyObject *app;     /* strong */
} recorder_object;

static PyObject *recorder_call(PyObject *object, PyObject *tuple, PyObject *kwargs)
{
    recorder_object *self = (recorder_object *)object;
    asgi_args args;
    if (asgi_read_args(&PyTuple_GET_ITEM(tuple, 0), PyTuple_GET_SIZE(tuple),
                       kwargs != NULL ? PyDict_GET_SIZE(kwargs) : 0, &args) < 0) {
        return NULL;
    }
    int is_request = asgi_is_request(self->state, args.scope);
    if (is_request <= 0) {
        return is_request < 0 ? NULL : asgi_call_app(self->app, &args, args.send);
    }
    const request request = {self->state, args.scope, REQUEST_ASGI, false};
    record_object *record = record_of_request(&request);
    PyObject *sender = record != NULL ? asgi_sender_of(self->state, record, args.send) : NULL;
    PyObject *result = sender != NULL ? asgi_call_app(self->app, &args, sender) : NULL;
    Py_XDECREF(sender);
    Py_XDECREF((PyObject *)record);
    return result;
}

static PyObject *recorder_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"app", NULL};
    PyObject *app;
    core_state *state = core_state_of(type);
    if (state == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "O:AsgiRecorder", names, &app)) {
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL) {
        ((recorder_object *)self)->state = state;
        ((recorder_object *)self)->app = Py_NewRef(app);
    }
    return self;
}

static int recorder_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((recorder_object *)self)->app);
    return 0;
}

static int recorder_clear(PyObject *self)
{
    (void)self; /* a call under way needs the app; the app's own clearing breaks a cycle */
    return 0;
}

static void recorder_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((recorder_object *)self)->app);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef recorder_members[] = {
    {"app", T_OBJECT_EX, offsetof(recorder_object, app), READONLY,
     PyDoc_STR("The ASGI application.")},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot recorder_slots[] = {
    {Py_tp_doc, PyDoc_STR("AsgiRecorder(app)\n--\n\n"
                          "Add the headers of all limits that the app checks to its responses.")},
    {Py_tp_new, recorder_new},
    {Py_tp_dealloc, recorder_dealloc},
    {Py_tp_traverse, recorder_traverse},
    {Py_tp_clear, recorder_clear},
    {Py_tp_call, recorder_call},
    {Py_tp_members, recorder_members},
    {0, NULL},
};

PyType_Spec recorder_spec = {
    .name = "rate_limiter._core.AsgiRecorder",
    .basicsize = sizeof(recorder_object),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = recorder_slots,
};
