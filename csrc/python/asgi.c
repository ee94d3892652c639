/* asgi.c -- AsgiMiddleware: decide about the requests of an ASGI application.
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
    vectorcallfunc vectorcall;
    core_state *state;      /* borrowed from the type */
    PyObject *app;          /* strong; NULL before __init__ */
    policy_object *policy;  /* strong; NULL: requests go to _forward */
    PyObject *exempt_paths; /* strong; a frozenset */
    PyObject *status_path;  /* strong; a str, or NULL */
    bool skips_preflight;   /* CORS preflight requests are not limited */
    _Atomic bool probing;   /* _probe gets each request */
} asgi_object;

static asgi_object *asgi_of(PyObject *self)
{
    return (asgi_object *)self;
}

static request asgi_request(const core_state *state, const asgi_args *args)
{
    return (request){state, args->scope, REQUEST_ASGI, false};
}

/* ---- calls of Python --------------------------------------------------------------------------- */

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

typedef enum asgi_route { ASGI_ERROR, ASGI_FREE, ASGI_STATUS, ASGI_LIMITED } asgi_route;

/* *path_out: the path, for the check; NULL if it was not needed. A new reference. */
static asgi_route asgi_route_of_path(const asgi_object *self, const asgi_args *args,
                                     PyObject **path_out)
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
    *path_out = path;
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

static asgi_route asgi_route_of(const asgi_object *self, const asgi_args *args, PyObject **path)
{
    *path = NULL;
    int is_request = asgi_is_request(self->state, args->scope);
    if (is_request <= 0) {
        return is_request < 0 ? ASGI_ERROR : ASGI_FREE;
    }
    asgi_route route = asgi_route_of_path(self, args, path);
    if (route == ASGI_LIMITED && self->skips_preflight) {
        int is_preflight = asgi_is_preflight(self, args);
        route = is_preflight < 0 ? ASGI_ERROR : is_preflight ? ASGI_FREE : ASGI_LIMITED;
    }
    return route;
}

/* ---- after the decision ----------------------------------------------------------------------------- */

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

/* Give back what limits have taken, after an error: *has_left if only _fail can give back some. */
static void asgi_give_back(const asgi_object *self, const asgi_args *args, bool *has_left)
{
    PyObject *object = core_get(self->state, args->scope, NAME_RATE_LIMITER);
    bool is_record = object != NULL && Py_TYPE(object) == self->state->record_type;
    record_object *record = is_record ? (record_object *)object : NULL;
    if (record != NULL) {
        record_give_back(record, NULL);
    }
    *has_left = record != NULL && record->n > 0;
    Py_XDECREF(object);
    PyErr_Clear();
}

/* An error of a check: raise it when limits have their tokens back. */
static PyObject *asgi_fail(asgi_object *self, const asgi_args *args)
{
    PyObject *type, *error, *traceback;
    bool has_left;
    PyErr_Fetch(&type, &error, &traceback);
    asgi_give_back(self, args, &has_left);
    if (!has_left) {
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

/* Call the app or deny, as a verdict says. */
static PyObject *asgi_answer(asgi_object *self, const asgi_args *args, PyObject *send,
                             verdict_object *verdict, bool settles)
{
    if (verdict_is_denial(verdict)) {
        PyObject *denied = asgi_call_method(self, NAME_DENY, args, send, (PyObject *)verdict);
        return denied != NULL ? denied : asgi_fail(self, args);
    }
    return settles ? asgi_call_method(self, NAME_WATCH, args, send, NULL)
                   : asgi_call_app(self->app, args, send);
}

/* Do what asgi_answer() does, with the Sender of a record. */
static PyObject *asgi_answer_recorded(asgi_object *self, const asgi_args *args,
                                      record_object *record, verdict_object *verdict, bool settles)
{
    PyObject *sender = asgi_sender_of(self->state, record, args->send);
    if (sender == NULL) {
        return asgi_fail(self, args);
    }
    PyObject *result = asgi_answer(self, args, sender, verdict, settles);
    Py_DECREF(sender);
    return result;
}

/* Do what asgi_answer() does, after a check. */
static PyObject *asgi_answer_checked(asgi_object *self, const asgi_args *args, const check *check)
{
    check->record->has_sender = true;
    if (verdict_is_denial(check->verdict)) {
        record_give_back(check->record, check->verdict);
    }
    PyObject *send = check->sender != NULL ? check->sender : args->send;
    return asgi_answer(self, args, send, check->verdict, check_settles(check));
}

/* Decide, then call the app or deny. `path` is that of the request, or NULL. */
static PyObject *asgi_check(asgi_object *self, const asgi_args *args, PyObject *path)
{
    check check;
    version_object *version = policy_version(self->policy);
    PyObject *result = NULL;
    if (version == NULL) {
        return asgi_fail(self, args);
    }
    check_init(&check, version, args->scope, args->scope);
    check.send = args->send;
    check.path = Py_XNewRef(path);
    switch (check_run(&check)) {
    case CHECK_FREE:
        result = asgi_call_app(self->app, args, args->send);
        break;
    case CHECK_ALLOWED:
    case CHECK_DENIED:
        result = self->probing && asgi_probe(self, args, check.verdict) < 0
                     ? asgi_fail(self, args)
                     : asgi_answer_checked(self, args, &check);
        break;
    case CHECK_AWAIT: {
        check.send = NULL; /* _answer makes the Sender */
        PyObject *waiting = check_object_new(self->state, &check);
        if (waiting != NULL) {
            result = asgi_call_method(self, NAME_RESOLVE, args, args->send, waiting);
            Py_DECREF(waiting);
        }
        if (result == NULL) {
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

static PyObject *asgi_call_any(PyObject *object, PyObject *const *given, Py_ssize_t nargs,
                               Py_ssize_t nkwargs)
{
    asgi_object *self = asgi_of(object);
    asgi_args args;
    PyObject *path;
    PyObject *result = NULL;
    if (self->app == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this middleware was not initialised: call __init__ first");
        return NULL;
    }
    if (asgi_read_args(given, nargs, nkwargs, &args) < 0) {
        return NULL;
    }
    switch (asgi_route_of(self, &args, &path)) {
    case ASGI_FREE:
        result = asgi_call_app(self->app, &args, args.send);
        break;
    case ASGI_STATUS:
        result = asgi_call_method(self, NAME_STATUS, &args, args.send, NULL);
        break;
    case ASGI_LIMITED:
        result = self->policy != NULL
                     ? asgi_check(self, &args, path)
                     : asgi_call_method(self, NAME_FORWARD, &args, args.send, NULL);
        break;
    case ASGI_ERROR:
    default:
        break;
    }
    Py_XDECREF(path);
    return result;
}

/* From CPython 3.12 on subclasses are called so too. */
static PyObject *asgi_vectorcall(PyObject *object, PyObject *const *args, size_t nargsf,
                                 PyObject *kwnames)
{
    return asgi_call_any(object, args, PyVectorcall_NARGS(nargsf),
                         kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0);
}

static PyObject *asgi_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    return asgi_call_any(object, &PyTuple_GET_ITEM(args, 0), PyTuple_GET_SIZE(args),
                         kwargs != NULL ? PyDict_GET_SIZE(kwargs) : 0);
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
    for (const verdict_object *one = record->first; one != NULL; one = one->next) {
        bool is_own = one->version == verdict->version && one->rule != NULL;
        settles = settles || (is_own && one->rule->settles);
    }
    PyObject *result = asgi_answer_recorded(self, &args, record, verdict, settles);
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
    if (verdict != NULL) {
        record_add(record, verdict);
        result = asgi_answer_recorded(self, &args, record, verdict, false);
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
        asgi_of(self)->vectorcall = asgi_vectorcall;
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
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(asgi_object, vectorcall), READONLY, NULL},
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
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = asgi_slots,
};
