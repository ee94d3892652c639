/* asgi_sender.c -- Sender: the `send` of an ASGI request; it adds headers to the response. */
#include "python/path.h"

#include <structmember.h>

/* The `send` of one request. Immutable. */
typedef struct sender_object {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    core_state *state;     /* borrowed from the type */
    PyObject *send;        /* strong */
    record_object *record; /* strong */
} sender_object;

/* ---- headers of the response ------------------------------------------------------------------ */

/* A copy of the message with our headers after the app's. The app's message and
 * list may be constants of the app, so they are never written to. */
static PyObject *sender_copy(core_state *state, PyObject *message, const rendered *rendered)
{
    PyObject *copy = PyDict_Copy(message);
    PyObject *given = copy != NULL ? core_get(state, copy, NAME_HEADERS) : NULL;
    PyObject *headers = NULL;
    if (copy != NULL && (given != NULL || !PyErr_Occurred())) {
        headers = rendered_append(state, REQUEST_ASGI, given, rendered);
    }
    if (headers == NULL || PyDict_SetItem(copy, state->names[NAME_HEADERS], headers) < 0) {
        Py_CLEAR(copy);
    }
    Py_XDECREF(headers);
    Py_XDECREF(given);
    return copy;
}

static PyObject *sender_with_headers(const sender_object *self, PyObject *message)
{
    rendered rendered;
    PyObject *result = NULL;
    if (record_render(self->record, &rendered) == 0) {
        result =
            rendered.n == 0 ? Py_NewRef(message) : sender_copy(self->state, message, &rendered);
    }
    rendered_clear(&rendered);
    return result;
}

/* 1, 0, or -1 with an exception set. */
static int sender_starts_response(const core_state *state, PyObject *message)
{
    PyObject *type = core_get_type(state, message);
    if (type == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    int starts = core_is_name(state, type, NAME_RESPONSE_START) ||
                 core_is_name(state, type, NAME_ACCEPT) ||
                 core_is_name(state, type, NAME_DENIAL_START);
    Py_DECREF(type);
    return starts;
}

static PyObject *sender_call(PyObject *object, PyObject *const *args, size_t nargsf,
                             PyObject *kwnames)
{
    sender_object *self = (sender_object *)object;
    bool plain = PyVectorcall_NARGS(nargsf) == 1 && kwnames == NULL && PyDict_Check(args[0]);
    int starts = plain ? sender_starts_response(self->state, args[0]) : 0;
    if (starts < 0) {
        return NULL;
    }
    if (!starts) {
        return PyObject_Vectorcall(self->send, args, (size_t)PyVectorcall_NARGS(nargsf), kwnames);
    }
    self->record->is_answered = true;
    PyObject *message = sender_with_headers(self, args[0]);
    PyObject *result = message != NULL ? PyObject_CallOneArg(self->send, message) : NULL;
    Py_XDECREF(message);
    return result;
}

PyObject *asgi_sender_new(core_state *state, PyObject *send, record_object *record)
{
    PyTypeObject *type = state->sender_type;
    sender_object *self = (sender_object *)core_take_spare(state, SPARE_SENDER, type);
    if (self == NULL) {
        self = PyObject_GC_New(sender_object, type);
    }
    if (self != NULL) {
        self->vectorcall = sender_call;
        self->state = state;
        self->send = Py_NewRef(send);
        self->record = (record_object *)Py_NewRef((PyObject *)record);
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

PyObject *asgi_sender_of(core_state *state, record_object *record, PyObject *send)
{
    if (record->has_sender) {
        return Py_NewRef(send);
    }
    PyObject *sender = asgi_sender_new(state, send, record);
    record->has_sender = sender != NULL;
    return sender;
}

static int sender_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((sender_object *)self)->send);
    Py_VISIT(((sender_object *)self)->record);
    return 0;
}

static void sender_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((sender_object *)self)->send);
    Py_XDECREF(((sender_object *)self)->record);
    core_free_object(self, SPARE_SENDER);
}

static PyMemberDef sender_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(sender_object, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot sender_slots[] = {
    {Py_tp_doc, PyDoc_STR("Send ASGI messages on, with rate limit headers in the first one.")},
    {Py_tp_dealloc, sender_dealloc},
    {Py_tp_traverse, sender_traverse},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, sender_members},
    {0, NULL},
};

PyType_Spec sender_spec = {
    .name = "rate_limiter._core.Sender",
    .basicsize = sizeof(sender_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sender_slots,
};
