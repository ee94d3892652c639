/* policy.c -- PolicyVersion: the configuration that a check follows; Policy: the version in force.
 *
 * A reload makes a new version and swaps one pointer. A check keeps the version that it began
 * with. */
#include "python/path.h"

#include <structmember.h>

/* ---- rules ---------------------------------------------------------------------------------- */

/* A (name, capacity, period_s, window_s). */
static int limit_init(PyObject *description, rl_limit_state *out)
{
    const char *name;
    Py_ssize_t len;
    long long window_s;
    if (!PyTuple_Check(description)) {
        PyErr_SetString(PyExc_TypeError, "a limit must be a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(description, "s#ddL:limit", &name, &len, &out->capacity, &out->period_s,
                          &window_s)) {
        return -1;
    }
    out->name = (rl_text){name, (size_t)len};
    out->window_s = window_s;
    return 0;
}

static int limits_init(PyObject *descriptions, policy_rule *out)
{
    size_t n = (size_t)PyTuple_GET_SIZE(descriptions);
    if (n > RL_TABLE_LIMITS_MAX) {
        PyErr_SetString(PyExc_ValueError, "too many limits");
        return -1;
    }
    out->limits = PyMem_Calloc(n + 1, sizeof *out->limits);
    if (out->limits == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; out->n_limits < n; out->n_limits++) {
        if (limit_init(PyTuple_GET_ITEM(descriptions, (Py_ssize_t)out->n_limits),
                       &out->limits[out->n_limits]) < 0) {
            return -1;
        }
    }
    out->names = Py_NewRef(descriptions);
    return 0;
}

static int decider_init(const core_state *state, PyObject *limiter, PyObject *hit_each,
                        policy_rule *out)
{
    if (limiter != Py_None) {
        if (!PyObject_TypeCheck(limiter, state->limiter_type)) {
            PyErr_SetString(PyExc_TypeError, "limiter must be a Limiter or None");
            return -1;
        }
        if (!limiter_ready((limiter_object *)limiter)) {
            return -1;
        }
        if (((limiter_object *)limiter)->n_limits != out->n_limits) {
            PyErr_SetString(PyExc_ValueError, "a rule must have as many limits as its limiter");
            return -1;
        }
        out->limiter = (limiter_object *)Py_NewRef(limiter);
        return 0;
    }
    if (!PyCallable_Check(hit_each)) {
        PyErr_SetString(PyExc_TypeError, "a rule without a limiter needs hit_each");
        return -1;
    }
    out->hit_each = Py_NewRef(hit_each);
    return 0;
}

static int denier_init(core_state *state, PyObject *meter, policy_rule *out)
{
    if (out->n_limits != 0) {
        PyErr_SetString(PyExc_ValueError, "a rule that denies has no limits");
        return -1;
    }
    if (meter == Py_None) {
        return 0;
    }
    out->meter = meter_value(state, meter);
    out->measured_by = out->meter != NULL ? Py_NewRef(meter) : NULL;
    return out->meter != NULL ? 0 : -1;
}

/* An (active, limiter, hit_each, key, cost, limits, is_exempt, is_deny, is_shadow, settles, meter). */
static int rule_init(core_state *state, PyObject *description, policy_rule *out)
{
    PyObject *active, *limiter, *hit_each, *key, *cost, *limits, *meter;
    int is_exempt, is_deny, is_shadow, settles;
    if (!PyTuple_Check(description)) {
        PyErr_SetString(PyExc_TypeError, "a rule must be a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(description, "OOOOOO!ppppO:rule", &active, &limiter, &hit_each, &key,
                          &cost, &PyTuple_Type, &limits, &is_exempt, &is_deny, &is_shadow, &settles,
                          &meter)) {
        return -1;
    }
    out->active = Py_NewRef(active);
    out->is_exempt = is_exempt != 0;
    out->is_deny = is_deny != 0;
    out->is_shadow = is_shadow != 0;
    out->settles = settles != 0;
    out->cost = cost != Py_None ? Py_NewRef(cost) : NULL;
    if (limits_init(limits, out) < 0 || source_chain_read(key, &out->key) < 0) {
        return -1;
    }
    if (out->is_deny) {
        return denier_init(state, meter, out);
    }
    if (out->key.n > 0 && !source_chain_is_total(&out->key)) {
        PyErr_SetString(PyExc_ValueError, "the last source of a key must be 'ip' or 'all'");
        return -1;
    }
    return out->is_exempt ? 0 : decider_init(state, limiter, hit_each, out);
}

static void rule_clear(policy_rule *rule)
{
    Py_CLEAR(rule->active);
    Py_CLEAR(rule->limiter);
    Py_CLEAR(rule->hit_each);
    source_chain_clear(&rule->key);
    Py_CLEAR(rule->cost);
    Py_CLEAR(rule->names);
    Py_CLEAR(rule->measured_by);
    PyMem_Free(rule->limits);
    rule->limits = NULL;
    rule->n_limits = 0;
}

static int rules_init(version_object *self, PyObject *descriptions)
{
    size_t n = (size_t)PyTuple_GET_SIZE(descriptions);
    self->rules = PyMem_Calloc(n + 1, sizeof *self->rules);
    if (self->rules == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    while (self->n_rules < n) {
        size_t i = self->n_rules++; /* cleared too where it fails */
        if (rule_init(self->state, PyTuple_GET_ITEM(descriptions, (Py_ssize_t)i), &self->rules[i]) <
            0) {
            return -1;
        }
    }
    return 0;
}

/* ---- PolicyVersion ----------------------------------------------------------------------------- */

static version_object *version_of(PyObject *self)
{
    return (version_object *)self;
}

static int version_read(version_object *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"owner",     "rules",      "routes",  "bypass",
                            "tier",      "tier_ranks", "key",     "walk",
                            "style",     "shortened",  "is_wsgi", "routes_like_werkzeug",
                            "uses_keys", NULL};
    PyObject *owner, *rules, *routes, *bypass, *tier, *tier_ranks, *key, *walk, *style, *shortened;
    int is_wsgi, like_werkzeug, uses_keys;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$OO!OOOO!OO!OOppp:PolicyVersion", names, &owner,
                                     &PyTuple_Type, &rules, &routes, &bypass, &tier, &PyDict_Type,
                                     &tier_ranks, &key, self->state->walk_type, &walk, &style,
                                     &shortened, &is_wsgi, &like_werkzeug, &uses_keys)) {
        return -1;
    }
    const rl_field_style *fields = style_value(self->state, style);
    if (fields == NULL) {
        return -1;
    }
    if (routes != Py_None && !PyObject_TypeCheck(routes, self->state->routes_type)) {
        PyErr_SetString(PyExc_TypeError, "routes must be RuleRoutes or None");
        return -1;
    }
    if (routes == Py_None && PyTuple_GET_SIZE(rules) != 1) {
        PyErr_SetString(PyExc_ValueError, "without routes there must be one rule");
        return -1;
    }
    self->owner = Py_NewRef(owner);
    self->shortened = Py_NewRef(shortened);
    self->style = *fields;
    self->walk = (walk_object *)Py_NewRef(walk);
    self->routes = routes != Py_None ? Py_NewRef(routes) : NULL;
    self->tier_ranks = Py_NewRef(tier_ranks);
    self->kind = is_wsgi ? REQUEST_WSGI : REQUEST_ASGI;
    self->routes_like_werkzeug = like_werkzeug != 0;
    self->uses_keys = uses_keys != 0;
    if (rules_init(self, rules) < 0 || source_chain_read(bypass, &self->bypass) < 0 ||
        source_chain_read(tier, &self->tier) < 0 || source_chain_read(key, &self->key) < 0) {
        return -1;
    }
    if (self->tier.n > 1 || !source_chain_is_total(&self->key)) {
        PyErr_SetString(PyExc_ValueError,
                        "expected one tier at most, and a key whose last source is 'ip' or 'all'");
        return -1;
    }
    return 0;
}

static PyObject *version_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    core_state *state = core_state_of(type);
    PyObject *self = state != NULL ? type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        return NULL;
    }
    version_of(self)->state = state;
    if (version_read(version_of(self), args, kwargs) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

static int version_traverse(PyObject *object, visitproc visit, void *arg)
{
    version_object *self = version_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->owner);
    Py_VISIT(self->shortened);
    for (size_t i = 0; i < self->n_rules; i++) {
        const policy_rule *rule = &self->rules[i];
        Py_VISIT(rule->active);
        Py_VISIT(rule->limiter);
        Py_VISIT(rule->hit_each);
        Py_VISIT(rule->cost);
        int status = source_chain_traverse(&rule->key, visit, arg);
        if (status != 0) {
            return status;
        }
    }
    const source_chain *chains[] = {&self->bypass, &self->tier, &self->key};
    for (size_t i = 0; i < 3; i++) {
        int status = source_chain_traverse(chains[i], visit, arg);
        if (status != 0) {
            return status;
        }
    }
    return 0;
}

/* Only the owner: it has the version, so without it there is no cycle. A check that is still under
 * way needs the rest. */
static int version_clear(PyObject *self)
{
    Py_CLEAR(version_of(self)->owner);
    return 0;
}

static void version_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    version_object *self = version_of(object);
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->shortened);
    for (size_t i = 0; i < self->n_rules; i++) {
        rule_clear(&self->rules[i]);
    }
    PyMem_Free(self->rules);
    source_chain_clear(&self->bypass);
    source_chain_clear(&self->tier);
    source_chain_clear(&self->key);
    Py_CLEAR(self->routes);
    Py_CLEAR(self->tier_ranks);
    Py_CLEAR(self->walk);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot version_slots[] = {
    {Py_tp_doc,
     PyDoc_STR(
         "PolicyVersion(*, owner, rules, routes, bypass, tier, tier_ranks, key, walk, style,\n"
         "              shortened, is_wsgi, routes_like_werkzeug, uses_keys)\n--\n\n"
         "Hold one version of a policy. Immutable; made by rate_limiter.policy.policy.")},
    {Py_tp_new, version_new},
    {Py_tp_dealloc, version_dealloc},
    {Py_tp_traverse, version_traverse},
    {Py_tp_clear, version_clear},
    {0, NULL},
};

PyType_Spec version_spec = {
    .name = "rate_limiter._core.PolicyVersion",
    .basicsize = sizeof(version_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = version_slots,
};

/* ---- Policy -------------------------------------------------------------------------------------- */

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
