/* wsgi.c -- StartResponse: the `start_response` of a WSGI request; it adds headers to the response.
 *
 * See PEP 3333 for the call. */
#include "python/path.h"

#include <structmember.h>

/* Immutable. */
typedef struct start_object {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    core_state *state;        /* borrowed from the type */
    PyObject *start_response; /* strong */
    record_object *record;    /* strong */
    bool adds;                /* no other StartResponse adds the fields */
} start_object;

/* A copy of the application's headers with ours behind them. */
static PyObject *with_fields(const start_object *self, PyObject *headers)
{
    rendered rendered;
    PyObject *copy = NULL;
    if (!self->adds || self->record->n == 0) {
        return PySequence_List(headers);
    }
    if (record_render(self->record, &rendered) == 0) {
        copy = rendered_append(self->state, REQUEST_WSGI, headers, &rendered);
    }
    rendered_clear(&rendered);
    return copy;
}

static PyObject *start_call(PyObject *object, PyObject *const *args, size_t nargsf,
                            PyObject *kwnames)
{
    const start_object *self = (start_object *)object;
    size_t n = (size_t)PyVectorcall_NARGS(nargsf);
    if (n < 2 || n > 3 || kwnames != NULL) {
        return PyObject_Vectorcall(self->start_response, args, n, kwnames);
    }
    PyObject *headers = with_fields(self, args[1]);
    if (headers == NULL) {
        return NULL;
    }
    self->record->is_answered = true;
    Py_XSETREF(self->record->status, Py_NewRef(args[0]));
    Py_XSETREF(self->record->response, Py_NewRef(headers));
    PyObject *call[] = {args[0], headers, n == 3 ? args[2] : NULL};
    PyObject *result = PyObject_Vectorcall(self->start_response, call, n, NULL);
    Py_DECREF(headers);
    return result;
}

PyObject *wsgi_start_new(core_state *state, PyObject *environ, PyObject *start_response)
{
    const request request = {state, environ, REQUEST_WSGI, false};
    record_object *record = record_of_request(&request);
    if (record == NULL) {
        return NULL;
    }
    start_object *self = PyObject_GC_New(start_object, state->start_type);
    if (self == NULL) {
        Py_DECREF((PyObject *)record);
        return NULL;
    }
    self->adds = !record->has_sender;
    record->has_sender = true;
    self->vectorcall = start_call;
    self->state = state;
    self->start_response = Py_NewRef(start_response);
    self->record = record;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *start_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"environ", "start_response", NULL};
    PyObject *environ;
    PyObject *start_response;
    core_state *state = core_state_of(type);
    if (state == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!O:StartResponse", names,
                                                      &PyDict_Type, &environ, &start_response)) {
        return NULL;
    }
    return wsgi_start_new(state, environ, start_response);
}

static int start_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((start_object *)self)->start_response);
    Py_VISIT(((start_object *)self)->record);
    return 0;
}

static void start_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((start_object *)self)->start_response);
    Py_XDECREF((PyObject *)((start_object *)self)->record);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef start_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(start_object, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot start_slots[] = {
    {Py_tp_doc,
     PyDoc_STR("StartResponse(environ, start_response)\n--\n\n"
               "Start a WSGI response with the headers of all limits of its request. If another\n"
               "one already adds them, this one does not.")},
    {Py_tp_new, start_new},
    {Py_tp_dealloc, start_dealloc},
    {Py_tp_traverse, start_traverse},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, start_members},
    {0, NULL},
};

PyType_Spec start_spec = {
    .name = "rate_limiter._core.StartResponse",
    .basicsize = sizeof(start_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = start_slots,
};
