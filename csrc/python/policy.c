/* policy.c -- PolicyVersion: the configuration that a check follows. */
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

/* Read None, or (limits_of, names): see policy_rule. */
static int limits_of_init(PyObject *description, policy_rule *out)
{
    PyObject *limits_of, *names;
    if (description == Py_None) {
        return 0;
    }
    if (!PyTuple_Check(description)) {
        PyErr_SetString(PyExc_TypeError, "limits_of must be a tuple or None");
        return -1;
    }
    if (!PyArg_ParseTuple(description, "OO!:limits_of", &limits_of, &PyTuple_Type, &names)) {
        return -1;
    }
    if (!PyCallable_Check(limits_of) || PyTuple_GET_SIZE(names) != RL_TABLE_LIMITS_MAX + 1) {
        PyErr_SetString(PyExc_TypeError,
                        "limits_of must be a function, with a name for each limit");
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        Py_ssize_t len;
        const char *data = PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, &len) : NULL;
        if (data == NULL) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_TypeError, "the name of a limit must be a str");
            }
            return -1;
        }
        out->given_names[i] = (rl_text){data, (size_t)len};
    }
    out->given_names_held = Py_NewRef(names);
    out->limits_of = Py_NewRef(limits_of);
    return 0;
}

/* An (active, limiter, hit_each, key, cost, limits, is_exempt, is_deny, is_shadow, settles, meter), and
 * maybe limits_of. */
static int rule_init(core_state *state, PyObject *description, policy_rule *out)
{
    PyObject *active, *limiter, *hit_each, *key, *cost, *limits, *meter, *limits_of = Py_None;
    int is_exempt, is_deny, is_shadow, settles;
    if (!PyTuple_Check(description)) {
        PyErr_SetString(PyExc_TypeError, "a rule must be a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(description, "OOOOOO!ppppO|O:rule", &active, &limiter, &hit_each, &key,
                          &cost, &PyTuple_Type, &limits, &is_exempt, &is_deny, &is_shadow, &settles,
                          &meter, &limits_of)) {
        return -1;
    }
    out->active = Py_NewRef(active);
    out->is_exempt = is_exempt != 0;
    out->is_deny = is_deny != 0;
    out->is_shadow = is_shadow != 0;
    out->settles = settles != 0;
    out->cost = cost != Py_None ? Py_NewRef(cost) : NULL;
    if (limits_init(limits, out) < 0 || source_chain_read(key, &out->key) < 0 ||
        limits_of_init(limits_of, out) < 0) {
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
    Py_CLEAR(rule->limits_of);
    Py_CLEAR(rule->given_names_held);
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
    bool reads_first = self->bypass.n > 0 || self->tier.n > 0 || self->uses_keys;
    self->begins_at = reads_first ? CHECK_BYPASS : CHECK_FIND;
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
        Py_VISIT(rule->limits_of);
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
