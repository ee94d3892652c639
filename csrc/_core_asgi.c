/* _core_asgi.c -- the ASGI side of a limiter: AsgiGate decides, Sender adds headers.
 *
 *     server ── gate(scope, receive, send) ── allowed ──> app(scope, receive, Sender(send))
 *                                          └─ denied ───> gate._deny(scope, receive, Sender(send), decision)
 *
 * The gate is no coroutine: it decides when it is called and returns what the
 * app returned, so a request that passes costs no frame of its own. Only where
 * something must be awaited first (a key, a cost, or a limiter that asks another
 * machine) it goes through gate._resolve, in Python.
 * See https://asgi.readthedocs.io/en/latest/specs/www.html for the messages. */
#include "_core.h"

#include <structmember.h>

#include "rl_address.h"

/* Immutable after __init__. */
typedef struct gate_object {
    PyObject_HEAD
    core_state *state;       /* borrowed from the type */
    limiter_object *limiter; /* strong; NULL before __init__ */
    PyObject *app;           /* strong */
    PyObject *key;           /* strong; callable, or NULL: the peer's address */
    PyObject *cost;          /* strong; a number or callable, or NULL: 1 */
    PyObject *exempt_paths;  /* strong; a frozenset */
    bool headers;
    bool remote; /* the limiter must be awaited */
} gate_object;

/* The `send` of one request. Immutable. */
typedef struct sender_object {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    core_state *state; /* borrowed from the type */
    PyObject *send;    /* strong */
    rl_decision decision;
} sender_object;

/* ---- names ----------------------------------------------------------------- */

static const char *const NAMES[NAME_COUNT] = {
    [NAME_TYPE] = "type",
    [NAME_HTTP] = "http",
    [NAME_WEBSOCKET] = "websocket",
    [NAME_PATH] = "path",
    [NAME_CLIENT] = "client",
    [NAME_UNKNOWN] = "unknown",
    [NAME_HEADERS] = "headers",
    [NAME_RESPONSE_START] = "http.response.start",
    [NAME_ACCEPT] = "websocket.accept",
    [NAME_DENIAL_START] = "websocket.http.response.start",
    [NAME_DENY] = "_deny",
    [NAME_RESOLVE] = "_resolve",
    [NAME_DONE] = "done",
    [NAME_SET_RESULT] = "set_result",
    [NAME_SET_EXCEPTION] = "set_exception",
    [NAME_HEADER_LIMIT] = "x-ratelimit-limit",
    [NAME_HEADER_REMAINING] = "x-ratelimit-remaining",
    [NAME_HEADER_RESET] = "x-ratelimit-reset",
    [NAME_HEADER_RETRY_AFTER] = "retry-after",
    [NAME_HEADER_CACHE_CONTROL] = "cache-control",
    [NAME_NO_STORE] = "no-store",
};

int asgi_names_init(core_state *state)
{
    for (int i = 0; i < NAME_COUNT; i++) {
        state->names[i] = i < NAME_HEADER_LIMIT ? PyUnicode_InternFromString(NAMES[i])
                                                : PyBytes_FromString(NAMES[i]);
        if (state->names[i] == NULL) {
            return -1;
        }
    }
    return 0;
}

static bool is_name(const core_state *state, PyObject *text, core_name name)
{
    return text == state->names[name] ||
           (PyUnicode_Check(text) && PyUnicode_Compare(text, state->names[name]) == 0);
}

/* A value of a dict: new reference, or NULL without an exception when it is not
 * there, or NULL with one. */
static PyObject *get(const core_state *state, PyObject *dict, core_name name)
{
    PyObject *value = PyDict_GetItemWithError(dict, state->names[name]); /* borrowed */
    return Py_XNewRef(value);
}

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
    PyObject *client = get(state, scope, NAME_CLIENT);
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

/* ---- Sender: headers for a response ---------------------------------------- */

typedef struct present {
    bool limit, retry_after, cache_control;
} present;

static bool equals_ignoring_case(PyObject *name, PyObject *wanted)
{
    Py_ssize_t len = PyBytes_GET_SIZE(wanted);
    if (!PyBytes_Check(name) || PyBytes_GET_SIZE(name) != len) {
        return false;
    }
    for (Py_ssize_t i = 0; i < len; i++) {
        if (Py_TOLOWER(PyBytes_AS_STRING(name)[i]) != PyBytes_AS_STRING(wanted)[i]) {
            return false;
        }
    }
    return true;
}

/* What the app says itself stays: a limit of one route knows better than ours. */
static present find_present(const core_state *state, PyObject *headers)
{
    present found = {false, false, false};
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i); /* borrowed; the list is ours alone */
        PyObject *name = NULL;                        /* borrowed */
        if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
            name = PyTuple_GET_ITEM(pair, 0);
        } else if (PyList_Check(pair) && PyList_GET_SIZE(pair) == 2) {
            name = PyList_GET_ITEM(pair, 0);
        }
        if (name != NULL) {
            found.limit |= equals_ignoring_case(name, state->names[NAME_HEADER_LIMIT]);
            found.retry_after |= equals_ignoring_case(name, state->names[NAME_HEADER_RETRY_AFTER]);
            found.cache_control |=
                equals_ignoring_case(name, state->names[NAME_HEADER_CACHE_CONTROL]);
        }
    }
    return found;
}

/* Append (name, value). Steals the value, which may be NULL with an exception set. */
static int append(const core_state *state, PyObject *headers, core_name name, PyObject *value)
{
    PyObject *pair = value != NULL ? PyTuple_Pack(2, state->names[name], value) : NULL;
    int status = pair != NULL ? PyList_Append(headers, pair) : -1;
    Py_XDECREF(pair);
    Py_XDECREF(value);
    return status;
}

static PyObject *decimal(uint64_t number)
{
    char digits[20];
    size_t i = sizeof digits;
    do {
        digits[--i] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    return PyBytes_FromStringAndSize(digits + i, (Py_ssize_t)(sizeof digits - i));
}

static uint64_t whole_seconds(int64_t ns)
{
    const int64_t ns_per_s = 1000000000;
    return (uint64_t)(ns / ns_per_s + (ns % ns_per_s != 0));
}

/* The same values as headers.py gives; times that never come are left out. */
static int append_all(const sender_object *self, PyObject *headers)
{
    const core_state *state = self->state;
    const rl_decision *decision = &self->decision;
    present found = find_present(state, headers);
    if (!found.limit) {
        if (append(state, headers, NAME_HEADER_LIMIT, decimal((uint64_t)decision->limit)) < 0 ||
            append(state, headers, NAME_HEADER_REMAINING,
                   decimal((uint64_t)decision->remaining)) < 0) {
            return -1;
        }
        if (decision->reset_after_ns != RL_NEVER &&
            append(state, headers, NAME_HEADER_RESET,
                   decimal(whole_seconds(decision->reset_after_ns))) < 0) {
            return -1;
        }
    }
    if (decision->allowed) {
        return 0;
    }
    if (!found.retry_after && decision->retry_after_ns != RL_NEVER &&
        append(state, headers, NAME_HEADER_RETRY_AFTER,
               decimal(whole_seconds(decision->retry_after_ns))) < 0) {
        return -1;
    }
    if (!found.cache_control) {
        return append(state, headers, NAME_HEADER_CACHE_CONTROL,
                      Py_NewRef(state->names[NAME_NO_STORE]));
    }
    return 0;
}

/* A copy of the message with our headers behind the app's. The app's own message
 * and list may be constants of the app, so they are never written to. */
static PyObject *with_headers(const sender_object *self, PyObject *message)
{
    PyObject *copy = PyDict_Copy(message);
    PyObject *given = copy != NULL ? get(self->state, copy, NAME_HEADERS) : NULL;
    PyObject *headers = NULL;
    if (given != NULL) {
        headers = PySequence_List(given);
    } else if (copy != NULL && !PyErr_Occurred()) {
        headers = PyList_New(0);
    }
    if (headers == NULL || append_all(self, headers) < 0 ||
        PyDict_SetItem(copy, self->state->names[NAME_HEADERS], headers) < 0) {
        Py_CLEAR(copy);
    }
    Py_XDECREF(headers);
    Py_XDECREF(given);
    return copy;
}

/* 1, 0, or -1 with an exception set. */
static int starts_response(const core_state *state, PyObject *message)
{
    PyObject *type = get(state, message, NAME_TYPE);
    if (type == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    int starts = is_name(state, type, NAME_RESPONSE_START) || is_name(state, type, NAME_ACCEPT) ||
                 is_name(state, type, NAME_DENIAL_START);
    Py_DECREF(type);
    return starts;
}

static PyObject *sender_call(PyObject *object, PyObject *const *args, size_t nargsf,
                             PyObject *kwnames)
{
    sender_object *self = (sender_object *)object;
    bool plain = PyVectorcall_NARGS(nargsf) == 1 && kwnames == NULL && PyDict_Check(args[0]);
    int starts = plain ? starts_response(self->state, args[0]) : 0;
    if (starts < 0) {
        return NULL;
    }
    if (!starts) {
        return PyObject_Vectorcall(self->send, args, (size_t)PyVectorcall_NARGS(nargsf), kwnames);
    }
    PyObject *message = with_headers(self, args[0]);
    PyObject *result = message != NULL ? PyObject_CallOneArg(self->send, message) : NULL;
    Py_XDECREF(message);
    return result;
}

static PyObject *sender_new(core_state *state, PyObject *send, const rl_decision *decision)
{
    sender_object *self = (sender_object *)state->sender_type->tp_alloc(state->sender_type, 0);
    if (self != NULL) {
        self->vectorcall = sender_call;
        self->state = state;
        self->send = Py_NewRef(send);
        self->decision = *decision;
    }
    return (PyObject *)self;
}

static int sender_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((sender_object *)self)->send);
    return 0;
}

static void sender_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((sender_object *)self)->send);
    type->tp_free(self);
    Py_DECREF(type);
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
    PyObject *sender = self->headers ? sender_new(self->state, send, decision) : Py_NewRef(send);
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

/* 1, 0, or -1 with an exception set. */
static int is_limited(const gate_object *self, PyObject *scope)
{
    PyObject *type = get(self->state, scope, NAME_TYPE);
    if (type == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    bool counts = is_name(self->state, type, NAME_HTTP) ||
                  is_name(self->state, type, NAME_WEBSOCKET);
    Py_DECREF(type);
    if (!counts || PySet_GET_SIZE(self->exempt_paths) == 0) {
        return counts;
    }
    PyObject *path = get(self->state, scope, NAME_PATH);
    if (path == NULL) {
        return PyErr_Occurred() ? -1 : 1;
    }
    int exempt = PySet_Contains(self->exempt_paths, path);
    Py_DECREF(path);
    return exempt < 0 ? -1 : !exempt;
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
    if (self->limiter == NULL) {
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
    PyObject *result = NULL;
    PyObject *cost = self->cost;
    PyObject *key = self->key != NULL ? PyObject_CallOneArg(self->key, scope) : Py_NewRef(Py_None);
    if (key == NULL) {
        return NULL;
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
    if (nargs != 5 || !PyDict_Check(args[0]) || gate_of(object)->limiter == NULL) {
        PyErr_SetString(PyExc_TypeError, "_decide(scope: dict, receive, send, key, cost)");
        return NULL;
    }
    PyObject *cost = args[4] == Py_None ? NULL : args[4];
    return decide(gate_of(object), args[0], args[1], args[2], args[3], cost);
}

static PyObject *gate_conclude(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 || !PyDict_Check(args[0]) || gate_of(object)->limiter == NULL) {
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
    static char *names[] = {"app",     "limiter", "key", "cost", "exempt_paths",
                            "headers", "remote",  NULL};
    gate_object *self = gate_of(object);
    PyObject *app;
    PyObject *limiter;
    PyObject *key;
    PyObject *cost;
    PyObject *exempt_paths;
    int headers;
    int remote;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!$OOO!pp:AsgiGate", names, &app,
                                     self->state->limiter_type, &limiter, &key, &cost,
                                     &PyFrozenSet_Type, &exempt_paths, &headers, &remote)) {
        return -1;
    }
    if (self->limiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a gate cannot be initialised twice");
        return -1;
    }
    self->app = Py_NewRef(app);
    self->key = none_is_null(key);
    self->cost = none_is_null(cost);
    self->exempt_paths = Py_NewRef(exempt_paths);
    self->headers = headers != 0;
    self->remote = remote != 0;
    self->limiter = (limiter_object *)Py_NewRef(limiter);
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
    {Py_tp_doc, PyDoc_STR("AsgiGate(app, limiter, *, key, cost, exempt_paths, headers, remote)\n--\n\n"
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
