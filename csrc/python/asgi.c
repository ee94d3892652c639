/* asgi.c -- the ASGI side: AsgiMiddleware decides about requests, AsgiRecorder only adds headers.
 *
 *     server ── asgi(scope, receive, send) ─┬─ allowed ──> app(scope, receive, Sender(send))
 *                                           └─ denied ───> asgi._deny(scope, receive, Sender(send), verdict)
 *
 * AsgiMiddleware is not a coroutine function: it decides when it is called and returns what the app
 * returned, so an allowed request costs no extra frame. Only where something must be awaited first
 * (a key, a cost, or a limiter on another machine) the request goes through asgi._resolve, in
 * Python. The Sender belongs to the record of the request, so there is one for all limits.
 * See https://asgi.readthedocs.io/en/latest/specs/www.html for the messages. */
#include "python/path.h"

#include <structmember.h>

/* Immutable after __init__, except for `probing`. */
typedef struct asgi_object {
    PyObject_HEAD
    core_state *state;      /* borrowed from the type */
    PyObject *app;          /* strong; NULL before __init__ */
    policy_object *policy;  /* strong; NULL: requests go to _forward */
    PyObject *exempt_paths; /* strong; a frozenset */
    PyObject *status_path;  /* strong; a str, or NULL */
    bool skips_preflight;   /* CORS preflight requests are not limited */
    _Atomic bool probing;   /* _probe gets each request */
} asgi_object;

/* The arguments of an ASGI application. */
typedef struct asgi_args {
    PyObject *scope, *receive, *send; /* borrowed */
} asgi_args;

static asgi_object *asgi_of(PyObject *self)
{
    return (asgi_object *)self;
}

static request asgi_request(const core_state *state, const asgi_args *args)
{
    return (request){state, args->scope, REQUEST_ASGI, false};
}

/* ---- calls of Python --------------------------------------------------------------------------- */

static PyObject *asgi_call_app(PyObject *app, const asgi_args *args, PyObject *send)
{
    PyObject *call[] = {args->scope, args->receive, send};
    return PyObject_Vectorcall(app, call, 3, NULL);
}

/* Call a method with (scope, receive, send), and one more argument if it is not NULL. */
static PyObject *asgi_call_method(asgi_object *self, core_name method, const asgi_args *args,
                                  PyObject *send, PyObject *more)
{
    PyObject *call[] = {(PyObject *)self, args->scope, args->receive, send, more};
    return PyObject_VectorcallMethod(self->state->names[method], call, more != NULL ? 5 : 4, NULL);
}

/* Pass a request to _probe, which returns True to get the next one as well. 0, or -1 with an
 * exception set. */
static int asgi_probe(asgi_object *self, const asgi_args *args, const verdict_object *verdict)
{
    PyObject *key = verdict->key != NULL ? verdict->key : Py_None;
    PyObject *call[] = {(PyObject *)self, args->scope, key};
    PyObject *more = PyObject_VectorcallMethod(self->state->names[NAME_PROBE], call, 3, NULL);
    if (more == NULL) {
        return -1;
    }
    self->probing = more == Py_True;
    Py_DECREF(more);
    return 0;
}

/* ---- which requests are limited ------------------------------------------------------------------ */

/* 1, 0, or -1 with an exception set. */
static int asgi_is_request(const core_state *state, PyObject *scope)
{
    PyObject *type = core_get(state, scope, NAME_TYPE);
    if (type == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    bool is_request =
        core_is_name(state, type, NAME_HTTP) || core_is_name(state, type, NAME_WEBSOCKET);
    Py_DECREF(type);
    return is_request;
}

typedef enum asgi_route { ASGI_ERROR, ASGI_FREE, ASGI_STATUS, ASGI_LIMITED } asgi_route;

static asgi_route asgi_route_of_path(const asgi_object *self, const asgi_args *args)
{
    if (self->status_path == NULL && PySet_GET_SIZE(self->exempt_paths) == 0) {
        return ASGI_LIMITED;
    }
    const request request = asgi_request(self->state, args);
    PyObject *path = request_path(&request);
    int is_exempt = path != NULL ? PySet_Contains(self->exempt_paths, path) : -1;
    int is_status = is_exempt == 0 && self->status_path != NULL
                        ? PyObject_RichCompareBool(path, self->status_path, Py_EQ)
                        : 0;
    Py_XDECREF(path);
    if (is_exempt < 0 || is_status < 0) {
        return ASGI_ERROR;
    }
    return is_exempt ? ASGI_FREE : is_status ? ASGI_STATUS : ASGI_LIMITED;
}

/* Return 1 for what Starlette's CORSMiddleware answers as a preflight request, 0, or -1 with an
 * exception set. */
static int asgi_is_preflight(const asgi_object *self, const asgi_args *args)
{
    const request request = asgi_request(self->state, args);
    PyObject *method = request_get(&request, NAME_METHOD);
    bool is_options = method != NULL && core_is_name(self->state, method, NAME_OPTIONS);
    Py_XDECREF(method);
    if (!is_options) {
        return PyErr_Occurred() ? -1 : 0;
    }
    const core_name wanted[] = {NAME_ORIGIN, NAME_REQUESTED_METHOD};
    for (size_t i = 0; i < 2; i++) {
        const header_name name = {self->state->names[wanted[i]], NULL};
        request_values values;
        request_values_init(&values);
        int status = request_header(&request, &name, &values);
        size_t n = values.n;
        request_values_clear(&values);
        if (status < 0 || n == 0) {
            return status;
        }
    }
    return 1;
}

static asgi_route asgi_route_of(const asgi_object *self, const asgi_args *args)
{
    int is_request = asgi_is_request(self->state, args->scope);
    if (is_request <= 0) {
        return is_request < 0 ? ASGI_ERROR : ASGI_FREE;
    }
    asgi_route route = asgi_route_of_path(self, args);
    if (route == ASGI_LIMITED && self->skips_preflight) {
        int is_preflight = asgi_is_preflight(self, args);
        route = is_preflight < 0 ? ASGI_ERROR : is_preflight ? ASGI_FREE : ASGI_LIMITED;
    }
    return route;
}

/* ---- after the decision ----------------------------------------------------------------------------- */

/* The `send` with which the response gets the fields of the record: one for all limits of a
 * request. A new reference, or NULL with an exception set. */
static PyObject *asgi_sender(core_state *state, record_object *record, PyObject *send)
{
    if (record->has_sender) {
        return Py_NewRef(send);
    }
    PyObject *sender = asgi_sender_new(state, send, record);
    record->has_sender = sender != NULL;
    return sender;
}

/* Call the app or deny, as a verdict says. */
static PyObject *asgi_answer(asgi_object *self, const asgi_args *args, record_object *record,
                             verdict_object *verdict, bool settles)
{
    PyObject *sender = asgi_sender(self->state, record, args->send);
    if (sender == NULL) {
        return NULL;
    }
    PyObject *result;
    if (verdict_is_denial(verdict)) {
        result = asgi_call_method(self, NAME_DENY, args, sender, (PyObject *)verdict);
    } else if (settles) {
        result = asgi_call_method(self, NAME_WATCH, args, sender, NULL);
    } else {
        result = asgi_call_app(self->app, args, sender);
    }
    Py_DECREF(sender);
    return result;
}

/* Whether the cost of this request may change after the response. */
static bool check_settles(const check *check)
{
    bool settles = false;
    for (size_t i = 0; i < check->n_rules; i++) {
        uint32_t number = check->rules[i];
        settles = settles || (number != RL_ROUTE_NONE && check->version->rules[number].settles);
    }
    return settles;
}

/* An error of a check: if limits have taken tokens, _fail gives them back and raises it. */
static PyObject *asgi_fail(asgi_object *self, const asgi_args *args)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyObject *record = core_get(self->state, args->scope, NAME_RATE_LIMITER);
    bool has_taken = record != NULL && Py_TYPE(record) == self->state->record_type &&
                     ((record_object *)record)->n > 0;
    Py_XDECREF(record);
    PyErr_Clear();
    if (!has_taken) {
        PyErr_Restore(type, error, traceback);
        return NULL;
    }
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    PyObject *call[] = {(PyObject *)self, args->scope, error};
    PyObject *result = PyObject_VectorcallMethod(self->state->names[NAME_FAIL], call, 3, NULL);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return result;
}

static PyObject *asgi_check(asgi_object *self, const asgi_args *args)
{
    check check;
    version_object *version = policy_version(self->policy);
    PyObject *result = NULL;
    if (version == NULL) {
        return asgi_fail(self, args);
    }
    check_init(&check, version, args->scope, args->scope);
    switch (check_run(&check)) {
    case CHECK_FREE:
        result = asgi_call_app(self->app, args, args->send);
        break;
    case CHECK_ALLOWED:
    case CHECK_DENIED:
        result = self->probing && asgi_probe(self, args, check.verdict) < 0
                     ? asgi_fail(self, args)
                     : asgi_answer(self, args, check.record, check.verdict, check_settles(&check));
        break;
    case CHECK_AWAIT: {
        PyObject *waiting = check_object_new(self->state, &check);
        if (waiting != NULL) {
            result = asgi_call_method(self, NAME_RESOLVE, args, args->send, waiting);
            Py_DECREF(waiting);
        } else {
            result = asgi_fail(self, args);
        }
        break;
    }
    case CHECK_ERROR:
    default:
        result = asgi_fail(self, args);
        break;
    }
    check_clear(&check);
    return result;
}

/* ---- calls ---------------------------------------------------------------------------------------------- */

/* 0, or -1 with an exception set. */
static int asgi_read_args(PyObject *args, PyObject *kwargs, asgi_args *out)
{
    if (PyTuple_GET_SIZE(args) != 3 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0) ||
        !PyDict_Check(PyTuple_GET_ITEM(args, 0))) {
        PyErr_SetString(PyExc_TypeError,
                        "an ASGI application is called with (scope: dict, receive, send)");
        return -1;
    }
    *out = (asgi_args){PyTuple_GET_ITEM(args, 0), PyTuple_GET_ITEM(args, 1),
                       PyTuple_GET_ITEM(args, 2)};
    return 0;
}

static PyObject *asgi_call(PyObject *object, PyObject *tuple, PyObject *kwargs)
{
    asgi_object *self = asgi_of(object);
    asgi_args args;
    if (self->app == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this middleware was not initialised: call __init__ first");
        return NULL;
    }
    if (asgi_read_args(tuple, kwargs, &args) < 0) {
        return NULL;
    }
    switch (asgi_route_of(self, &args)) {
    case ASGI_FREE:
        return asgi_call_app(self->app, &args, args.send);
    case ASGI_STATUS:
        return asgi_call_method(self, NAME_STATUS, &args, args.send, NULL);
    case ASGI_LIMITED:
        return self->policy != NULL ? asgi_check(self, &args)
                                    : asgi_call_method(self, NAME_FORWARD, &args, args.send, NULL);
    case ASGI_ERROR:
    default:
        return NULL;
    }
}

/* Go on with the outcome of a Check: a Verdict, or None without limits. */
static PyObject *asgi_method_answer(PyObject *object, PyObject *const *given, Py_ssize_t nargs)
{
    asgi_object *self = asgi_of(object);
    if (nargs != 4 || !PyDict_Check(given[0]) || self->app == NULL ||
        (given[3] != Py_None && !PyObject_TypeCheck(given[3], self->state->verdict_type))) {
        PyErr_SetString(PyExc_TypeError, "_answer(scope: dict, receive, send, verdict)");
        return NULL;
    }
    const asgi_args args = {given[0], given[1], given[2]};
    if (given[3] == Py_None) {
        return asgi_call_app(self->app, &args, args.send);
    }
    const request request = asgi_request(self->state, &args);
    record_object *record = record_of_request(&request);
    if (record == NULL) {
        return NULL;
    }
    verdict_object *verdict = (verdict_object *)given[3];
    bool settles = false;
    for (size_t i = 0; i < record->n; i++) {
        const policy_rule *rule = record->items[i]->rule;
        settles = settles ||
                  (record->items[i]->version == verdict->version && rule != NULL && rule->settles);
    }
    PyObject *result = asgi_answer(self, &args, record, verdict, settles);
    Py_DECREF((PyObject *)record);
    return result;
}

static PyObject *asgi_method_conclude(PyObject *object, PyObject *const *given, Py_ssize_t nargs)
{
    asgi_object *self = asgi_of(object);
    if (nargs != 4 || !PyDict_Check(given[0]) || self->app == NULL) {
        PyErr_SetString(PyExc_TypeError, "_conclude(scope: dict, receive, send, decision)");
        return NULL;
    }
    const asgi_args args = {given[0], given[1], given[2]};
    const rl_decision *decision = decision_value(self->state, given[3]);
    if (decision == NULL) {
        return NULL;
    }
    const request request = asgi_request(self->state, &args);
    record_object *record = record_of_request(&request);
    verdict_object *verdict = record != NULL ? verdict_of_decision(self->state, decision) : NULL;
    PyObject *result = NULL;
    if (verdict != NULL && record_add(record, verdict) == 0) {
        result = asgi_answer(self, &args, record, verdict, false);
    }
    Py_XDECREF((PyObject *)verdict);
    Py_XDECREF((PyObject *)record);
    return result;
}

/* ---- AsgiMiddleware: life ------------------------------------------------------------------------------- */

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
    static char *names[] = {"app",     "policy", "exempt_paths", "status_path", "skips_preflight",
                            "probing", NULL};
    asgi_object *self = asgi_of(object);
    PyObject *app;
    PyObject *policy;
    PyObject *exempt_paths;
    PyObject *status_path;
    int skips_preflight;
    int probing;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO$O!Opp:AsgiMiddleware", names, &app, &policy,
                                     &PyFrozenSet_Type, &exempt_paths, &status_path,
                                     &skips_preflight, &probing)) {
        return -1;
    }
    if (policy != Py_None && !PyObject_TypeCheck(policy, self->state->policy_type)) {
        PyErr_Format(PyExc_TypeError, "policy must be a Policy or None, not %.200s",
                     Py_TYPE(policy)->tp_name);
        return -1;
    }
    if (self->app != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a middleware cannot be initialised twice");
        return -1;
    }
    self->exempt_paths = Py_NewRef(exempt_paths);
    self->status_path = none_is_null(status_path);
    self->skips_preflight = skips_preflight != 0;
    self->probing = probing != 0;
    self->policy = (policy_object *)none_is_null(policy);
    self->app = Py_NewRef(app);
    return 0;
}

static int asgi_traverse(PyObject *object, visitproc visit, void *arg)
{
    asgi_object *self = asgi_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->policy);
    Py_VISIT(self->app);
    Py_VISIT(self->exempt_paths);
    return 0;
}

static int asgi_clear(PyObject *object)
{
    asgi_object *self = asgi_of(object);
    Py_CLEAR(self->policy);
    Py_CLEAR(self->app);
    return 0;
}

static void asgi_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    asgi_clear(self);
    Py_CLEAR(asgi_of(self)->exempt_paths);
    Py_CLEAR(asgi_of(self)->status_path);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef asgi_members[] = {
    {"app", T_OBJECT_EX, offsetof(asgi_object, app), READONLY,
     PyDoc_STR("The ASGI application behind the middleware.")},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef asgi_methods[] = {
    {"_answer", (PyCFunction)(void (*)(void))asgi_method_answer, METH_FASTCALL,
     PyDoc_STR("_answer($self, scope, receive, send, verdict, /)\n--\n\n"
               "Call the app or deny, as a Verdict says; None: no limit applies.\n\n"
               "Return an awaitable.")},
    {"_conclude", (PyCFunction)(void (*)(void))asgi_method_conclude, METH_FASTCALL,
     PyDoc_STR("_conclude($self, scope, receive, send, decision, /)\n--\n\n"
               "Call the app or deny, as a Decision says; return an awaitable.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot asgi_slots[] = {
    {Py_tp_doc,
     PyDoc_STR("AsgiMiddleware(app, policy, *, exempt_paths, status_path, skips_preflight, "
               "probing)\n--\n\n"
               "Call an ASGI app behind a Policy: the C half of RateLimitMiddleware.")},
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

/* ---- AsgiRecorder ------------------------------------------------------------------------------------------ */

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
    if (asgi_read_args(tuple, kwargs, &args) < 0) {
        return NULL;
    }
    int is_request = asgi_is_request(self->state, args.scope);
    if (is_request <= 0) {
        return is_request < 0 ? NULL : asgi_call_app(self->app, &args, args.send);
    }
    const request request = asgi_request(self->state, &args);
    record_object *record = record_of_request(&request);
    PyObject *sender = record != NULL ? asgi_sender(self->state, record, args.send) : NULL;
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
