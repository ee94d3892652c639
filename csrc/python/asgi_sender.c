/* asgi_sender.c -- Sender: the `send` of an ASGI request, that adds headers to the response. */
#include "python/asgi.h"

#include <structmember.h>

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
    [NAME_ROOT_PATH] = "root_path",
    [NAME_CLIENT] = "client",
    [NAME_UNKNOWN] = "unknown",
    [NAME_HEADERS] = "headers",
    [NAME_RESPONSE_START] = "http.response.start",
    [NAME_ACCEPT] = "websocket.accept",
    [NAME_DENIAL_START] = "websocket.http.response.start",
    [NAME_DENY] = "_deny",
    [NAME_FORWARD] = "_forward",
    [NAME_PROBE] = "_probe",
    [NAME_RESOLVE] = "_resolve",
    [NAME_DONE] = "done",
    [NAME_SET_RESULT] = "set_result",
    [NAME_SET_EXCEPTION] = "set_exception",
    [NAME_NAME] = "name",
    [NAME_LIMIT] = "limit",
    [NAME_DECISION] = "decision",
    [NAME_CAPACITY] = "capacity",
    [NAME_PERIOD_S] = "period_s",
    [NAME_WINDOW_S] = "window_s",
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

bool asgi_is_name(const core_state *state, PyObject *text, core_name name)
{
    return text == state->names[name] ||
           (PyUnicode_Check(text) && PyUnicode_Compare(text, state->names[name]) == 0);
}

PyObject *asgi_get(const core_state *state, PyObject *dict, core_name name)
{
#if PY_VERSION_HEX >= 0x030D0000 /* a thread without the GIL may change the dict meanwhile */
    PyObject *value;
    (void)PyDict_GetItemRef(dict, state->names[name], &value); /* NULL where it fails */
    return value;
#else
    PyObject *value = PyDict_GetItemWithError(dict, state->names[name]); /* borrowed */
    return Py_XNewRef(value);
#endif
}

/* ---- headers for a response ------------------------------------------------ */

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
static int sender_append(const core_state *state, PyObject *headers, core_name name,
                         PyObject *value)
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

/* Rounded down. A Decision that a user made may have any finite number. */
static uint64_t whole_tokens(double tokens)
{
    if (!(tokens > 0)) {
        return 0;
    }
    return tokens < 0x1p64 ? (uint64_t)tokens : UINT64_MAX;
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
        if (sender_append(state, headers, NAME_HEADER_LIMIT,
                          decimal(whole_tokens(decision->limit))) < 0 ||
            sender_append(state, headers, NAME_HEADER_REMAINING,
                          decimal(whole_tokens(decision->remaining))) < 0) {
            return -1;
        }
        if (decision->reset_after_ns != RL_NEVER &&
            sender_append(state, headers, NAME_HEADER_RESET,
                          decimal(whole_seconds(decision->reset_after_ns))) < 0) {
            return -1;
        }
    }
    if (decision->allowed) {
        return 0;
    }
    if (!found.retry_after && decision->retry_after_ns != RL_NEVER &&
        sender_append(state, headers, NAME_HEADER_RETRY_AFTER,
                      decimal(whole_seconds(decision->retry_after_ns))) < 0) {
        return -1;
    }
    if (!found.cache_control) {
        return sender_append(state, headers, NAME_HEADER_CACHE_CONTROL,
                             Py_NewRef(state->names[NAME_NO_STORE]));
    }
    return 0;
}

/* A copy of the message with our headers behind the app's. The app's own message
 * and list may be constants of the app, so they are never written to. */
static PyObject *with_headers(const sender_object *self, PyObject *message)
{
    PyObject *copy = PyDict_Copy(message);
    PyObject *given = copy != NULL ? asgi_get(self->state, copy, NAME_HEADERS) : NULL;
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
    PyObject *type = asgi_get(state, message, NAME_TYPE);
    if (type == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    int starts = asgi_is_name(state, type, NAME_RESPONSE_START) ||
                 asgi_is_name(state, type, NAME_ACCEPT) ||
                 asgi_is_name(state, type, NAME_DENIAL_START);
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

PyObject *asgi_sender_new(core_state *state, PyObject *send, const rl_decision *decision)
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
