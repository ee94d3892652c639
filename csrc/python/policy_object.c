/* policy_object.c -- Policy: the version in force; it starts checks.
 *
 * A reload makes a new version and swaps one pointer. A check keeps the version that it began
 * with. */
#include "python/path.h"

static policy_object *policy_of(PyObject *self)
{
    return (policy_object *)self;
}

version_object *policy_version(policy_object *self)
{
    if (self->refreshes) {
        PyObject *done =
            PyObject_CallMethodNoArgs((PyObject *)self, self->state->names[NAME_REFRESH]);
        if (done == NULL) {
            return NULL;
        }
        Py_DECREF(done);
    }
    version_object *version;
    LOCKED(self);
    version = (version_object *)Py_XNewRef((PyObject *)self->version);
    UNLOCKED;
    if (version == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this policy has no rules yet");
    }
    return version;
}

static PyObject *policy_use(PyObject *object, PyObject *args)
{
    policy_object *self = policy_of(object);
    PyObject *version;
    int refreshes;
    if (!PyArg_ParseTuple(args, "O!p:_use", self->state->version_type, &version, &refreshes)) {
        return NULL;
    }
    PyObject *before;
    LOCKED(self);
    before = (PyObject *)self->version;
    self->version = (version_object *)Py_NewRef(version);
    self->refreshes = refreshes != 0;
    UNLOCKED;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

/* The Verdict, None without limits, or a Check that must be awaited; NULL with an exception set.
 * Clears the check. */
static PyObject *policy_outcome(core_state *state, check *check)
{
    PyObject *outcome = NULL;
    switch (check_run(check)) {
    case CHECK_AWAIT:
        outcome = check_object_new(state, check);
        break;
    case CHECK_FREE:
        outcome = check->found != NULL ? Py_NewRef(check->found) : Py_NewRef(Py_None);
        break;
    case CHECK_DENIED:
        if (check->gives_back) {
            record_give_back(check->record, check->verdict);
        }
        outcome = Py_NewRef((PyObject *)check->verdict);
        break;
    case CHECK_ALLOWED:
        outcome = Py_NewRef((PyObject *)check->verdict);
        break;
    case CHECK_ERROR:
    default:
        break;
    }
    check_clear(check);
    return outcome;
}

static PyObject *policy_check(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    policy_object *self = policy_of(object);
    check check;
    if (nargs != 2 || !PyDict_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "_check(scope: dict, subject)");
        return NULL;
    }
    version_object *version = policy_version(self);
    if (version == NULL) {
        return NULL;
    }
    check_init(&check, version, args[0], args[1]);
    check.gives_back = true;
    return policy_outcome(self->state, &check);
}

/* Give tokens back after an error, unless the framework answers it. The exception stays set, unless
 * this raises another one. */
static void policy_fail_now(policy_object *self, PyObject *environ)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    PyObject *args[] = {(PyObject *)self, environ, error};
    PyObject *done = PyObject_VectorcallMethod(self->state->names[NAME_FAIL], args, 3, NULL);
    if (done != NULL) {
        Py_DECREF(done);
        PyErr_Restore(type, error, traceback);
        return;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
}

/* Pass an outcome (stolen) to _conclude_now. A new reference, or NULL with an exception set. */
static PyObject *policy_conclude_now(policy_object *self, PyObject *environ, PyObject *outcome,
                                     bool has_more)
{
    if (outcome == NULL) {
        return NULL;
    }
    PyObject *args[] = {(PyObject *)self, environ, outcome, has_more ? Py_True : Py_False};
    PyObject *verdict =
        PyObject_VectorcallMethod(self->state->names[NAME_CONCLUDE_NOW], args, 4, NULL);
    Py_DECREF(outcome);
    return verdict;
}

static PyObject *policy_decide_now(PyObject *object, PyObject *environ)
{
    policy_object *self = policy_of(object);
    PyObject *verdict = NULL;
    check check;
    if (!PyDict_Check(environ)) {
        PyErr_SetString(PyExc_TypeError, "decide_now(environ: dict)");
        return NULL;
    }
    version_object *version = policy_version(self);
    if (version == NULL) {
        return NULL;
    }
    check_init(&check, version, environ, environ);
    switch (check_run(&check)) {
    case CHECK_FREE:
        verdict = Py_NewRef(Py_None);
        break;
    case CHECK_ALLOWED:
        verdict = Py_NewRef((PyObject *)check.verdict);
        break;
    case CHECK_DENIED:
        record_give_back(check.record, check.verdict);
        verdict = policy_conclude_now(self, environ, Py_NewRef((PyObject *)check.verdict),
                                      check.record->n > 1);
        break;
    case CHECK_AWAIT:
        verdict = policy_conclude_now(self, environ, check_object_new(self->state, &check), false);
        break;
    case CHECK_ERROR:
    default:
        break;
    }
    check_clear(&check);
    if (verdict == NULL) {
        policy_fail_now(self, environ);
    }
    return verdict;
}

static PyObject *policy_find(PyObject *object, PyObject *args)
{
    policy_object *self = policy_of(object);
    check check;
    PyObject *scope, *subject, *path, *method;
    if (!PyArg_ParseTuple(args, "O!OUU:_find", &PyDict_Type, &scope, &subject, &path, &method)) {
        return NULL;
    }
    version_object *version = policy_version(self);
    if (version == NULL) {
        return NULL;
    }
    check_init(&check, version, scope, subject);
    check.path = Py_NewRef(path);
    check.method = Py_NewRef(method);
    check.found = PyList_New(0);
    if (check.found == NULL) {
        check_clear(&check);
        return NULL;
    }
    return policy_outcome(self->state, &check);
}

/* Go on with a Check: see policy_outcome. */
static PyObject *policy_resume(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    core_state *state = policy_of(object)->state;
    check *waiting = nargs == 2 ? check_object_value(state, args[0]) : NULL;
    if (waiting == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "_resume(check, value)");
        }
        return NULL;
    }
    if (waiting->awaitable == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this check was resumed before");
        return NULL;
    }
    check check = *waiting;
    *waiting = (struct check){.phase = CHECK_BYPASS};
    Py_CLEAR(check.awaitable);
    check.awaited = Py_NewRef(args[1]);
    return policy_outcome(state, &check);
}

static PyObject *policy_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                            PyObject *Py_UNUSED(kwargs))
{
    core_state *state = core_state_of(type);
    PyObject *self = state == NULL ? NULL : type->tp_alloc(type, 0);
    if (self != NULL) {
        policy_of(self)->state = state;
    }
    return self;
}

static int policy_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(policy_of(object)->version);
    return 0;
}

static int policy_clear(PyObject *object)
{
    Py_CLEAR(policy_of(object)->version);
    return 0;
}

static void policy_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    policy_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef policy_methods[] = {
    {"_use", policy_use, METH_VARARGS,
     PyDoc_STR("_use($self, version, refreshes, /)\n--\n\n"
               "Follow a PolicyVersion from the next check on.\n\n"
               "refreshes: call _refresh() before each check.")},
    {"_check", (PyCFunction)(void (*)(void))policy_check, METH_FASTCALL,
     PyDoc_STR("_check($self, scope, subject, /)\n--\n\n"
               "Decide about a request and record the verdict.\n\n"
               "Return a Verdict, None if no limit applies, or a Check to be awaited.\n"
               "scope: an ASGI scope or a WSGI environ. subject: the argument of users'\n"
               "functions. Raises what they raise.")},
    {"decide_now", policy_decide_now, METH_O,
     PyDoc_STR("decide_now($self, environ, /)\n--\n\n"
               "Decide about a WSGI request as decide() does, without an event loop.\n\n"
               "Return a Verdict, or None if no limit applies.\n"
               "Raises TypeError if something must be awaited.")},
    {"_find", policy_find, METH_VARARGS,
     PyDoc_STR("_find($self, scope, subject, path, method, /)\n--\n\n"
               "Return a list of the rules for a path and method, each with the key of the\n"
               "caller, or a Check to be awaited. None if the caller bypasses the limits.")},
    {"_resume", (PyCFunction)(void (*)(void))policy_resume, METH_FASTCALL,
     PyDoc_STR("_resume($self, check, value, /)\n--\n\n"
               "Go on with a Check whose awaitable returned this value; return as _check().")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot policy_slots[] = {
    {Py_tp_doc, PyDoc_STR("Policy()\n--\n\n"
                          "Decide about requests: the base of rate_limiter.policy.policy.Policy.")},
    {Py_tp_new, policy_new},
    {Py_tp_dealloc, policy_dealloc},
    {Py_tp_traverse, policy_traverse},
    {Py_tp_clear, policy_clear},
    {Py_tp_methods, policy_methods},
    {0, NULL},
};

PyType_Spec policy_spec = {
    .name = "rate_limiter._core.Policy",
    .basicsize = sizeof(policy_object),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = policy_slots,
};
