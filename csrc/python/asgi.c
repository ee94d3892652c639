/* _core_asgi.c -- the ASGI side of a limiter: AsgiGate decides, Sender adds headers.
 *
 *     server ── gate(scope, receive, send) ── allowed ──> app(scope, receive, Sender(send))
 *                                          └─ denied ───> gate._deny(scope, receive, Sender(send), decision)
 *
 * The gate is no coroutine: it decides when it is called and returns what the
 * app returned, so a request that passes costs no frame of its own. Only where
 * something must be awaited first (a key, a cost, or a limiter that asks another
 * machine) it goes through gate._resolve, in Python. A governed gate leaves all but
 * exempt paths to gate._govern; one that is probing shows gate._probe its requests.
 * See https://asgi.readthedocs.io/en/latest/specs/www.html for the messages. */
#include "_core_asgi.h"

#include <structmember.h>

#include "rl_address.h"

/* Immutable after __init__, but for `probing`. */
typedef struct gate_object {
    PyObject_HEAD
    core_state *state;       /* borrowed from the type */
    PyObject *app;           /* strong; NULL before __init__ */
    limiter_object *limiter; /* strong; NULL: governed */
    PyObject *key;           /* strong; callable, or NULL: the peer's address */
    PyObject *cost;          /* strong; a number or callable, or NULL: 1 */
    PyObject *exempt_paths;  /* strong; a frozenset */
    bool headers;
    bool remote; /* the limiter must be awaited */
    _Atomic bool probing;
} gate_object;

/* ---- the client of a request ----------------------------------------------- */

static PyObject *client_of_address(const core_state *state, PyObject *address)
{
    if (!PyUnicode_Check(address) || PyUnicode_GET_LENGTH(address) == 0) {
        return Py_NewRef(state->names[NAME_UNKNOWN]);
    }
    char client[RL_ADDRESS_MAX];
    Py_ssize_t len;
    const char *text = PyUnicode_AsUTF8AndSize(address, &len);
    if (text == NULL) {
        PyErr_Clear(); /* no address, so it stands for itself */
        return Py_NewRef(address);
    }
    if (memchr(text, ':', (size_t)len) == NULL || !rl_address_client(text, (size_t)len, client)) {
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
    return client_of_address(PyModule_GetState(module), address);
}

/* scope["client"] is a pair (host, port), or None or absent, as with a unix socket. */
static PyObject *client_of_scope(const core_state *state, PyObject *scope)
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
    PyObject *key = client_of_address(state, host != NULL ? host : Py_None);
    Py_XDECREF(host);
    Py_XDECREF(client);
    return key;
}

/* ---- AsgiGate: the decision ------------------------------------------------ */

static gate_object *gate_of(PyObject *self)
{
    return (gate_object *)self;
}

static PyObject *call3(PyObject *callable, PyObject *scope, PyObject *receive, PyObject *send)
{
    PyObject *args[] = {scope, receive, send};
    return PyObject_Vectorcall(callable, args, 3, NULL);
}

static PyObject *deny(gate_object *self, PyObject *scope, PyObject *receive, PyObject *send,
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

/* Go on as the decision says. */
static PyObject *conclude(gate_object *self, PyObject *scope, PyObject *receive, PyObject *send,
                          const rl_decision *decision)
{
    PyObject *sender = self->headers ? asgi_sender_new(self->state, send, decision) : Py_NewRef(send);
    if (sender == NULL) {
        return NULL;
    }
    PyObject *result = decision->allowed ? call3(self->app, scope, receive, sender)
                                         : deny(self, scope, receive, sender, decision);
    Py_DECREF(sender);
    return result;
}

/* Decide for a key (None: the peer) and a cost (NULL: 1), and go on accordingly. */
static PyObject *decide(gate_object *self, PyObject *scope, PyObject *receive, PyObject *send,
                        PyObject *key, PyObject *cost)
{
    bool allowed;
    rl_decision decision;
    PyObject *client = key == Py_None ? client_of_scope(self->state, scope) : Py_NewRef(key);
    int status = client != NULL ? limiter_decide(self->limiter, client, cost, &allowed, &decision)
                                : -1;
    Py_XDECREF(client);
    if (status < 0) {
        return NULL;
    }
    return conclude(self, scope, receive, send, &decision);
}

/* The path by which the application finds a route: without its root_path, where it begins with
 * that. New reference, or NULL with an exception set or (it has none) without. */
static PyObject *route_path(const gate_object *self, PyObject *scope)
{
    PyObject *path = asgi_get(self->state, scope, NAME_PATH);
    PyObject *root = path != NULL ? asgi_get(self->state, scope, NAME_ROOT_PATH) : NULL;
    if (root == NULL || !PyUnicode_Check(root) || !PyUnicode_Check(path) ||
        PyUnicode_GET_LENGTH(root) == 0 || PyUnicode_Tailmatch(path, root, 0, PY_SSIZE_T_MAX, -1) != 1) {
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
static int is_limited(const gate_object *self, PyObject *scope)
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
    PyObject *path = route_path(self, scope);
    if (path == NULL) {
        return PyErr_Occurred() ? -1 : 1;
    }
    int exempt = PySet_Contains(self->exempt_paths, path);
    Py_DECREF(path);
    return exempt < 0 ? -1 : !exempt;
}

/* Show a request to Python, which tells whether it wants to see the next one. */
static int probe(gate_object *self, PyObject *scope, PyObject *key)
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
    bool key_is_known = PyUnicode_Check(key) || PyBytes_Check(key) || key == Py_None;
    bool cost_is_known = cost == NULL || PyNumber_Check(cost);
    return !key_is_known || !cost_is_known;
}

static PyObject *gate_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    gate_object *self = gate_of(object);
    if (self->app == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this gate was not initialised: call __init__ first");
        return NULL;
    }
    if (PyTuple_GET_SIZE(args) != 3 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0) ||
        !PyDict_Check(PyTuple_GET_ITEM(args, 0))) {
        PyErr_SetString(PyExc_TypeError, "an ASGI application is called with (scope: dict, receive, send)");
        return NULL;
    }
    PyObject *scope = PyTuple_GET_ITEM(args, 0);
    PyObject *receive = PyTuple_GET_ITEM(args, 1);
    PyObject *send = PyTuple_GET_ITEM(args, 2);

    int limited = is_limited(self, scope);
    if (limited < 0) {
        return NULL;
    }
    if (!limited) {
        return call3(self->app, scope, receive, send);
    }
    if (self->limiter == NULL) {
        PyObject *call[] = {object, scope, receive, send};
        return PyObject_VectorcallMethod(self->state->names[NAME_GOVERN], call, 4, NULL);
    }
    PyObject *result = NULL;
    PyObject *cost = self->cost;
    PyObject *key = self->key != NULL ? PyObject_CallOneArg(self->key, scope) : Py_NewRef(Py_None);
    if (key == NULL) {
        return NULL;
    }
    if (self->probing && probe(self, scope, key) < 0) {
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
        result = decide(self, scope, receive, send, key, cost);
    }
    Py_XDECREF(cost);
done:
    Py_DECREF(key);
    return result;
}

static PyObject *gate_decide(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5 || !PyDict_Check(args[0]) || gate_of(object)->app == NULL ||
        gate_of(object)->limiter == NULL) {
        PyErr_SetString(PyExc_TypeError, "_decide(scope: dict, receive, send, key, cost)");
        return NULL;
    }
    PyObject *cost = args[4] == Py_None ? NULL : args[4];
    return decide(gate_of(object), args[0], args[1], args[2], args[3], cost);
}

static PyObject *gate_conclude(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 || !PyDict_Check(args[0]) || gate_of(object)->app == NULL) {
        PyErr_SetString(PyExc_TypeError, "_conclude(scope: dict, receive, send, decision)");
        return NULL;
    }
    const rl_decision *decision = decision_value(gate_of(object)->state, args[3]);
    return decision == NULL ? NULL
                            : conclude(gate_of(object), args[0], args[1], args[2], decision);
}

/* ---- AsgiGate: life -------------------------------------------------------- */

static PyObject *gate_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                          PyObject *Py_UNUSED(kwargs))
{
    core_state *state = core_state_of(type);
    PyObject *self = state == NULL ? NULL : type->tp_alloc(type, 0);
    if (self != NULL) {
        gate_of(self)->state = state;
    }
    return self;
}

static PyObject *none_is_null(PyObject *object)
{
    return object == Py_None ? NULL : Py_NewRef(object);
}

static int gate_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"app",     "limiter", "key",     "cost", "exempt_paths",
                            "headers", "remote",  "probing", NULL};
    gate_object *self = gate_of(object);
    PyObject *app;
    PyObject *limiter;
    PyObject *key;
    PyObject *cost;
    PyObject *exempt_paths;
    int headers;
    int remote;
    int probing;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO$OOO!ppp:AsgiGate", names, &app, &limiter,
                                     &key, &cost, &PyFrozenSet_Type, &exempt_paths, &headers,
                                     &remote, &probing)) {
        return -1;
    }
    if (limiter != Py_None && !PyObject_TypeCheck(limiter, self->state->limiter_type)) {
        PyErr_Format(PyExc_TypeError, "limiter must be a Limiter or None, not %.200s",
                     Py_TYPE(limiter)->tp_name);
        return -1;
    }
    if (self->app != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a gate cannot be initialised twice");
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

static int gate_traverse(PyObject *object, visitproc visit, void *arg)
{
    gate_object *self = gate_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->limiter);
    Py_VISIT(self->app);
    Py_VISIT(self->key);
    Py_VISIT(self->cost);
    Py_VISIT(self->exempt_paths);
    return 0;
}

static int gate_clear(PyObject *object)
{
    gate_object *self = gate_of(object);
    Py_CLEAR(self->limiter);
    Py_CLEAR(self->app);
    Py_CLEAR(self->key);
    Py_CLEAR(self->cost);
    Py_CLEAR(self->exempt_paths);
    return 0;
}

static void gate_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    gate_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef gate_members[] = {
    {"app", T_OBJECT_EX, offsetof(gate_object, app), READONLY,
     PyDoc_STR("The ASGI application behind the gate.")},
    {"limiter", T_OBJECT_EX, offsetof(gate_object, limiter), READONLY,
     PyDoc_STR("The limiter that decides.")},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef gate_methods[] = {
    {"_decide", (PyCFunction)(void (*)(void))gate_decide, METH_FASTCALL,
     PyDoc_STR("_decide($self, scope, receive, send, key, cost, /)\n--\n\n"
               "Decide for a key and a cost that are known now; return an awaitable.")},
    {"_conclude", (PyCFunction)(void (*)(void))gate_conclude, METH_FASTCALL,
     PyDoc_STR("_conclude($self, scope, receive, send, decision, /)\n--\n\n"
               "Go on as a Decision says; return an awaitable.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot gate_slots[] = {
    {Py_tp_doc, PyDoc_STR("AsgiGate(app, limiter, *, key, cost, exempt_paths, headers, remote, probing)\n--\n\n"
                          "Call an ASGI app behind a limiter: the C half of RateLimitMiddleware.")},
    {Py_tp_new, gate_new},
    {Py_tp_init, gate_init},
    {Py_tp_dealloc, gate_dealloc},
    {Py_tp_traverse, gate_traverse},
    {Py_tp_clear, gate_clear},
    {Py_tp_call, gate_call},
    {Py_tp_members, gate_members},
    {Py_tp_methods, gate_methods},
    {0, NULL},
};

PyType_Spec gate_spec = {
    .name = "rate_limiter._core.AsgiGate",
    .basicsize = sizeof(gate_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = gate_slots,
};
