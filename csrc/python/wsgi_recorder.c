/* wsgi_recorder.c -- WsgiRecorder: a WSGI application whose responses get the headers of all limits,
 * and whose requests are settled.
 *
 *     recorder(environ, start_response) ── app(environ, StartResponse) ─┬─> body
 *                                                                       ├─> to settle: settled(body, settlement)
 *                                                                       └─> raises: failed(settlement, error)
 *
 * A limit whose cost may change leaves a settlement in the environ. */
#include "python/path.h"

#include <structmember.h>

/* Immutable. */
typedef struct wsgi_object {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    core_state *state; /* borrowed from the type */
    PyObject *app;     /* strong */
    PyObject *settled; /* strong */
    PyObject *failed;  /* strong */
} wsgi_object;

static wsgi_object *wsgi_of(PyObject *self)
{
    return (wsgi_object *)self;
}

/* Take the settlement out of an environ: a new reference, NULL without an exception where there is
 * none, or NULL with an exception set. */
static PyObject *wsgi_take_settlement(const wsgi_object *self, PyObject *environ)
{
    PyObject *settlement = core_get(self->state, environ, NAME_SETTLEMENT);
    if (settlement != NULL && PyDict_DelItem(environ, self->state->names[NAME_SETTLEMENT]) < 0) {
        Py_CLEAR(settlement);
    }
    return settlement;
}

/* Settle the request of an application that raised. The exception stays set, unless settling raises
 * another one. */
static void wsgi_settle_failed(const wsgi_object *self, PyObject *environ)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyObject *settlement = wsgi_take_settlement(self, environ);
    PyObject *done = NULL;
    if (settlement != NULL) {
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback != NULL) {
            PyException_SetTraceback(error, traceback);
        }
        PyObject *args[] = {settlement, error};
        done = PyObject_Vectorcall(self->failed, args, 2, NULL);
        Py_DECREF(settlement);
        Py_XDECREF(done);
    }
    if (!PyErr_Occurred()) {
        PyErr_Restore(type, error, traceback);
        return;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
}

/* Return the body (stolen), or what settles the request after it; NULL with an exception set. */
static PyObject *wsgi_settle_later(const wsgi_object *self, PyObject *environ, PyObject *body)
{
    PyObject *settlement = wsgi_take_settlement(self, environ);
    if (settlement == NULL) {
        if (PyErr_Occurred()) {
            Py_CLEAR(body);
        }
        return body;
    }
    PyObject *args[] = {body, settlement};
    PyObject *result = PyObject_Vectorcall(self->settled, args, 2, NULL);
    Py_DECREF(settlement);
    Py_DECREF(body);
    return result;
}

static PyObject *wsgi_call(PyObject *object, PyObject *const *args, size_t nargsf,
                           PyObject *kwnames)
{
    const wsgi_object *self = wsgi_of(object);
    if (PyVectorcall_NARGS(nargsf) != 2 || kwnames != NULL || !PyDict_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError,
                        "a WSGI application is called with (environ: dict, start_response)");
        return NULL;
    }
    PyObject *start = wsgi_start_new(self->state, args[0], args[1]);
    if (start == NULL) {
        return NULL;
    }
    PyObject *call[] = {args[0], start};
    PyObject *body = PyObject_Vectorcall(self->app, call, 2, NULL);
    Py_DECREF(start);
    if (body == NULL) {
        wsgi_settle_failed(self, args[0]);
        return NULL;
    }
    return wsgi_settle_later(self, args[0], body);
}

static PyObject *wsgi_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"app", "settled", "failed", NULL};
    PyObject *app, *settled, *failed;
    core_state *state = core_state_of(type);
    if (state == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:WsgiRecorder", names, &app,
                                                      &settled, &failed)) {
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL) {
        wsgi_of(self)->vectorcall = wsgi_call;
        wsgi_of(self)->state = state;
        wsgi_of(self)->app = Py_NewRef(app);
        wsgi_of(self)->settled = Py_NewRef(settled);
        wsgi_of(self)->failed = Py_NewRef(failed);
    }
    return self;
}

static int wsgi_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(wsgi_of(self)->app);
    Py_VISIT(wsgi_of(self)->settled);
    Py_VISIT(wsgi_of(self)->failed);
    return 0;
}

static int wsgi_clear(PyObject *self)
{
    (void)self; /* a call under way needs the app; the app's own clearing breaks a cycle */
    return 0;
}

static void wsgi_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(wsgi_of(self)->app);
    Py_XDECREF(wsgi_of(self)->settled);
    Py_XDECREF(wsgi_of(self)->failed);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef wsgi_members[] = {
    {"app", T_OBJECT_EX, offsetof(wsgi_object, app), READONLY, PyDoc_STR("The WSGI application.")},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(wsgi_object, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot wsgi_slots[] = {
    {Py_tp_doc,
     PyDoc_STR(
         "WsgiRecorder(app, settled, failed)\n--\n\n"
         "Add the headers of all limits that the app checks to its responses, and settle its\n"
         "requests.\n\n"
         "settled: returns the body that settles a request, from the body of the app and the\n"
         "settlement. failed: settles a request whose app has raised, by the settlement and\n"
         "the error.")},
    {Py_tp_new, wsgi_new},
    {Py_tp_dealloc, wsgi_dealloc},
    {Py_tp_traverse, wsgi_traverse},
    {Py_tp_clear, wsgi_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, wsgi_members},
    {0, NULL},
};

PyType_Spec wsgi_spec = {
    .name = "rate_limiter._core.WsgiRecorder",
    .basicsize = sizeof(wsgi_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = wsgi_slots,
};
