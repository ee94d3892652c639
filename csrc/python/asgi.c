/* asgi.c -- the ASGI side of a limiter: AsgiMiddleware decides, Sender adds headers.
 *
 *     server ── asgi(scope, receive, send) ─┬─ allowed ──> app(scope, receive, Sender(send))
 *                                           └─ denied ───> asgi._deny(scope, receive, Sender(send), decision)
 *
 * AsgiMiddleware is not a coroutine function: it decides when it is called and returns
 * what the app returned, so an allowed request costs no extra frame. Only where something
 * must be awaited first (a key, a cost, or a limiter on another machine) the request goes
 * through asgi._resolve, in Python. Without a limiter, all but exempt paths go to
 * asgi._forward. While `probing` is set, asgi._probe gets each request.
 * See https://asgi.readthedocs.io/en/latest/specs/www.html for the messages. */
#include "python/asgi.h"

#include <structmember.h>

#include "http/client_address.h"

/* Immutable after __init__, except for `probing`. */
typedef struct asgi_object {
    PyObject_HEAD
    core_state *state;       /* borrowed from the type */
    PyObject *app;           /* strong; NULL before __init__ */
    limiter_object *limiter; /* strong; NULL: requests go to _forward */
    PyObject *key;           /* strong; callable, or NULL: the peer's address */
    PyObject *cost;          /* strong; a number or callable, or NULL: 1 */
    PyObject *exempt_paths;  /* strong; a frozenset */
    bool headers;
    bool remote; /* the limiter must be awaited */
    _Atomic bool probing;
} asgi_object;

/* ---- the client of a request ----------------------------------------------- */

static PyObject *asgi_client_of_address(const core_state *state, PyObject *address)
{
    if (!PyUnicode_Check(address) || PyUnicode_GET_LENGTH(address) == 0) {
        return Py_NewRef(state->names[NAME_UNKNOWN]);
    }
    char client[RL_CLIENT_ADDRESS_MAX];
    Py_ssize_t len;
    const char *text = PyUnicode_AsUTF8AndSize(address, &len);
    if (text == NULL) {
        PyErr_Clear(); /* not an address, so the text is the key */
        return Py_NewRef(address);
    }
    if (memchr(text, ':', (size_t)len) == NULL || !rl_client_address(text, (size_t)len, client)) {
        return Py_NewRef(address);
    }
    return PyUnicode_FromString(client);
}

PyObject *asgi_client_key(PyObject *module, PyObject *address)
{
    if (address != Py_None && !PyUnicode_Check(address)) {
        return PyErr_Format(PyExc_TypeError, "address must be str or None, not %.200s",
                            Py_TYPE(address)->tp_name);
    }
    return asgi_client_of_address(PyModule_GetState(module), address);
}

/* scope["client"] is a pair (host, port), or None or absent, as with a unix socket. */
static PyObject *asgi_client_of_scope(const core_state *state, PyObject *scope)
{
    PyObject *client = asgi_get(state, scope, NAME_CLIENT);
    if (client == NULL && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *host = NULL;
    if (client != NULL && client != Py_None) {
        host = PySequence_GetItem(client, 0);
        if (host == NULL && !PyErr_ExceptionMatches(PyExc_IndexError)) {
            Py_DECREF(client);
            return NULL;
        }
        PyErr_Clear();
    }
    PyObject *key = asgi_client_of_address(state, host != NULL ? host : Py_None);
    Py_XDECREF(host);
    Py_XDECREF(client);
    return key;
}

/* ---- AsgiMiddleware: the decision ------------------------------------------------ */

static asgi_object *asgi_of(PyObject *self)
{
    return (asgi_object *)self;
}

static PyObject *asgi_call_app(PyObject *callable, PyObject *scope, PyObject *receive,
                               PyObject *send)
{
    PyObject *args[] = {scope, receive, send};
    return PyObject_Vectorcall(callable, args, 3, NULL);
}

static PyObject *asgi_deny(asgi_object *self, PyObject *scope, PyObject *receive, PyObject *send,
                           const rl_decision *value)
{
    PyObject *decision = decision_new(self->state, value);
    if (decision == NULL) {
        return NULL;
    }
    PyObject *args[] = {(PyObject *)self, scope, receive, send, decision};
    PyObject *result = PyObject_VectorcallMethod(self->state->names[NAME_DENY], args, 5, NULL);
    Py_DECREF(decision);
    return result;
}

/* Call the app or deny, as the decision says. */
static PyObject *asgi_answer(asgi_object *self, PyObject *scope, PyObject *receive, PyObject *send,
                             const rl_decision *decision)
{
    PyObject *sender =
        self->headers ? asgi_sender_new(self->state, send, decision) : Py_NewRef(send);
    if (sender == NULL) {
        return NULL;
    }
    PyObject *result = decision->allowed ? asgi_call_app(self->app, scope, receive, sender)
                                         : asgi_deny(self, scope, receive, sender, decision);
    Py_DECREF(sender);
    return result;
}

/* Decide for a key (None: the peer) and a cost (NULL: 1), then call the app or deny. */
static PyObject *asgi_check(asgi_object *self, PyObject *scope, PyObject *receive, PyObject *send,
                            PyObject *key, PyObject *cost)
{
    bool allowed;
    rl_decision decision;
    PyObject *client = key == Py_None ? asgi_client_of_scope(self->state, scope) : Py_NewRef(key);
    int status =
        client != NULL ? limiter_decide(self->limiter, client, cost, &allowed, &decision) : -1;
    Py_XDECREF(client);
    if (status < 0) {
        return NULL;
    }
    return asgi_answer(self, scope, receive, send, &decision);
}

/* The path that the application uses for routing: without the root_path, if it begins with that.
 * New reference, or NULL: with an exception set, or without one when the scope has no path. */
static PyObject *asgi_route_path(const asgi_object *self, PyObject *scope)
{
    PyObject *path = asgi_get(self->state, scope, NAME_PATH);
    PyObject *root = path != NULL ? asgi_get(self->state, scope, NAME_ROOT_PATH) : NULL;
    if (root == NULL || !PyUnicode_Check(root) || !PyUnicode_Check(path) ||
        PyUnicode_GET_LENGTH(root) == 0 ||
        PyUnicode_Tailmatch(path, root, 0, PY_SSIZE_T_MAX, -1) != 1) {
        Py_XDECREF(root);
        if (PyErr_Occurred()) {
            Py_CLEAR(path);
        }
        return path;
    }
    Py_ssize_t at = PyUnicode_GET_LENGTH(root);
    Py_ssize_t len = PyUnicode_GET_LENGTH(path);
    Py_DECREF(root);
    if (at < len && PyUnicode_READ_CHAR(path, at) != '/') {
        return path;
    }
    PyObject *rest = at < len ? PyUnicode_Substring(path, at, len) : PyUnicode_FromString("/");
    Py_DECREF(path);
    return rest;
}

/* 1, 0, or -1 with an exception set. */
static int asgi_is_limited(const asgi_object *self, PyObject *scope)
{
    PyObject *type = asgi_get(self->state, scope, NAME_TYPE);
    if (type == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    bool counts = asgi_is_name(self->state, type, NAME_HTTP) ||
                  asgi_is_name(self->state, type, NAME_WEBSOCKET);
    Py_DECREF(type);
    if (!counts || PySet_GET_SIZE(self->exempt_paths) == 0) {
        return counts;
    }
    PyObject *path = asgi_route_path(self, scope);
    if (path == NULL) {
        return PyErr_Occurred() ? -1 : 1;
    }
    int exempt = PySet_Contains(self->exempt_paths, path);
    Py_DECREF(path);
    return exempt < 0 ? -1 : !exempt;
}

/* Pass a request to _probe, which returns True to get the next one as well. */
static int asgi_probe(asgi_object *self, PyObject *scope, PyObject *key)
{
    PyObject *args[] = {(PyObject *)self, scope, key};
    PyObject *more = PyObject_VectorcallMethod(self->state->names[NAME_PROBE], args, 3, NULL);
    if (more == NULL) {
        return -1;
    }
    self->probing = more == Py_True;
    Py_DECREF(more);
    return 0;
}

static bool is_awaited_first(PyObject *key, PyObject *cost)
{
    bool key_is_ready = PyUnicode_Check(key) || PyBytes_Check(key) || key == Py_None;
    bool cost_is_ready = cost == NULL || PyNumber_Check(cost);
    return !key_is_ready || !cost_is_ready;
}

static PyObject *asgi_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    asgi_object *self = asgi_of(object);
    if (self->app == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this middleware was not initialised: call __init__ first");
        return NULL;
    }
    if (PyTuple_GET_SIZE(args) != 3 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0) ||
        !PyDict_Check(PyTuple_GET_ITEM(args, 0))) {
        PyErr_SetString(PyExc_TypeError,
                        "an ASGI application is called with (scope: dict, receive, send)");
        return NULL;
    }
    PyObject *scope = PyTuple_GET_ITEM(args, 0);
    PyObject *receive = PyTuple_GET_ITEM(args, 1);
    PyObject *send = PyTuple_GET_ITEM(args, 2);

    int limited = asgi_is_limited(self, scope);
    if (limited < 0) {
        return NULL;
    }
    if (!limited) {
        return asgi_call_app(self->app, scope, receive, send);
    }
    if (self->limiter == NULL) {
        PyObject *call[] = {object, scope, receive, send};
        return PyObject_VectorcallMethod(self->state->names[NAME_FORWARD], call, 4, NULL);
    }
    PyObject *result = NULL;
    PyObject *cost = self->cost;
    PyObject *key = self->key != NULL ? PyObject_CallOneArg(self->key, scope) : Py_NewRef(Py_None);
    if (key == NULL) {
        return NULL;
    }
    if (self->probing && asgi_probe(self, scope, key) < 0) {
        goto done;
    }
    if (cost != NULL && PyCallable_Check(cost)) {
        cost = PyObject_CallOneArg(cost, scope);
        if (cost == NULL) {
            goto done;
        }
    } else {
        Py_XINCREF(cost);
    }
    if (self->remote || is_awaited_first(key, cost)) {
        PyObject *call[] = {object, scope, receive, send, key, cost != NULL ? cost : Py_None};
        result = PyObject_VectorcallMethod(self->state->names[NAME_RESOLVE], call, 6, NULL);
    } else {
        result = asgi_check(self, scope, receive, send, key, cost);
    }
    Py_XDECREF(cost);
done:
    Py_DECREF(key);
    return result;
}

static PyObject *asgi_decide(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5 || !PyDict_Check(args[0]) || asgi_of(object)->app == NULL ||
        asgi_of(object)->limiter == NULL) {
        PyErr_SetString(PyExc_TypeError, "_decide(scope: dict, receive, send, key, cost)");
        return NULL;
    }
    PyObject *cost = args[4] == Py_None ? NULL : args[4];
    return asgi_check(asgi_of(object), args[0], args[1], args[2], args[3], cost);
}

static PyObject *asgi_conclude(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 || !PyDict_Check(args[0]) || asgi_of(object)->app == NULL) {
        PyErr_SetString(PyExc_TypeError, "_conclude(scope: dict, receive, send, decision)");
        return NULL;
    }
    const rl_decision *decision = decision_value(asgi_of(object)->state, args[3]);
    return decision == NULL ? NULL
                            : asgi_answer(asgi_of(object), args[0], args[1], args[2], decision);
}

/* ---- AsgiMiddleware: life -------------------------------------------------------- */

static PyObject *asgi_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                          PyObject *Py_UNUSED(kwargs))
{
    core_state *state = core_state_of(type);
    PyObject *self = state == NULL ? NULL : type->tp_alloc(type, 0);
    if (self != NULL) {
        asgi_of(self)->state = state;
    }
    return self;
}

static PyObject *none_is_null(PyObject *object)
{
    return object == Py_None ? NULL : Py_NewRef(object);
}

static int asgi_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"app",     "limiter", "key",     "cost", "exempt_paths",
                            "headers", "remote",  "probing", NULL};
    asgi_object *self = asgi_of(object);
    PyObject *app;
    PyObject *limiter;
    PyObject *key;
    PyObject *cost;
    PyObject *exempt_paths;
    int headers;
    int remote;
    int probing;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO$OOO!ppp:AsgiMiddleware", names, &app,
                                     &limiter, &key, &cost, &PyFrozenSet_Type, &exempt_paths,
                                     &headers, &remote, &probing)) {
        return -1;
    }
    if (limiter != Py_None && !PyObject_TypeCheck(limiter, self->state->limiter_type)) {
        PyErr_Format(PyExc_TypeError, "limiter must be a Limiter or None, not %.200s",
                     Py_TYPE(limiter)->tp_name);
        return -1;
    }
    if (self->app != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a middleware cannot be initialised twice");
        return -1;
    }
    self->key = none_is_null(key);
    self->cost = none_is_null(cost);
    self->exempt_paths = Py_NewRef(exempt_paths);
    self->headers = headers != 0;
    self->remote = remote != 0;
    self->probing = probing != 0;
    self->limiter = (limiter_object *)none_is_null(limiter);
    self->app = Py_NewRef(app);
    return 0;
}

static int asgi_traverse(PyObject *object, visitproc visit, void *arg)
{
    asgi_object *self = asgi_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->limiter);
    Py_VISIT(self->app);
    Py_VISIT(self->key);
    Py_VISIT(self->cost);
    Py_VISIT(self->exempt_paths);
    return 0;
}

static int asgi_clear(PyObject *object)
{
    asgi_object *self = asgi_of(object);
    Py_CLEAR(self->limiter);
    Py_CLEAR(self->app);
    Py_CLEAR(self->key);
    Py_CLEAR(self->cost);
    Py_CLEAR(self->exempt_paths);
    return 0;
}

static void asgi_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    asgi_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef asgi_members[] = {
    {"app", T_OBJECT_EX, offsetof(asgi_object, app), READONLY,
     PyDoc_STR("The ASGI application behind the middleware.")},
    {"limiter", T_OBJECT_EX, offsetof(asgi_object, limiter), READONLY,
     PyDoc_STR("The limiter that decides.")},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef asgi_methods[] = {
    {"_decide", (PyCFunction)(void (*)(void))asgi_decide, METH_FASTCALL,
     PyDoc_STR("_decide($self, scope, receive, send, key, cost, /)\n--\n\n"
               "Decide for a key and a cost; return an awaitable.")},
    {"_conclude", (PyCFunction)(void (*)(void))asgi_conclude, METH_FASTCALL,
     PyDoc_STR("_conclude($self, scope, receive, send, decision, /)\n--\n\n"
               "Call the app or deny, as a Decision says; return an awaitable.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot asgi_slots[] = {
    {Py_tp_doc,
     PyDoc_STR(
         "AsgiMiddleware(app, limiter, *, key, cost, exempt_paths, headers, remote, probing)\n--\n\n"
         "Call an ASGI app behind a limiter: the C half of RateLimitMiddleware.")},
    {Py_tp_new, asgi_new},
    {Py_tp_init, asgi_init},
    {Py_tp_dealloc, asgi_dealloc},
    {Py_tp_traverse, asgi_traverse},
    {Py_tp_clear, asgi_clear},
    {Py_tp_call, asgi_call},
    {Py_tp_members, asgi_members},
    {Py_tp_methods, asgi_methods},
    {0, NULL},
};

PyType_Spec asgi_spec = {
    .name = "rate_limiter._core.AsgiMiddleware",
    .basicsize = sizeof(asgi_object),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = asgi_slots,
};
