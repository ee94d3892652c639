/* verdict.c -- Verdict: what one rule decided about a request.
 *
 * Nothing that it refers to refers to a request, so it is in no cycle, and the collector need not
 * track it: one allocation less that it counts for each request. The same holds for a
 * RateLimitRecord. */
#include "python/path.h"

#include <structmember.h>

static verdict_object *verdict_of(PyObject *self)
{
    return (verdict_object *)self;
}

/* Make a verdict whose decisions are not set. */
static verdict_object *verdict_make(core_state *state, size_t n)
{
    PyTypeObject *type = state->verdict_type;
    PyObject *spare = n == 1 ? core_take_spare(state, SPARE_VERDICT, type) : NULL;
    verdict_object *self = (verdict_object *)spare;
    if (self == NULL) {
        self = PyObject_NewVar(verdict_object, type, (Py_ssize_t)n);
    }
    if (self != NULL) {
        self->version = NULL;
        self->rule = NULL;
        self->key = NULL;
        self->next = NULL;
        self->cost = 1;
        self->costs = NULL;
        self->given = NULL;
    }
    return self;
}

verdict_object *verdict_new(version_object *version, const policy_rule *rule, PyObject *key,
                            size_t n, given_limits_object *given, double cost, PyObject *costs)
{
    verdict_object *self = verdict_make(version->state, n);
    if (self == NULL) {
        Py_XDECREF(costs);
    } else {
        self->version = (version_object *)Py_NewRef((PyObject *)version);
        self->rule = rule;
        self->key = Py_NewRef(key);
        self->cost = cost;
        self->costs = costs;
        self->given = (given_limits_object *)Py_XNewRef((PyObject *)given);
    }
    return self;
}

rl_limit_state verdict_limit(const verdict_object *verdict, Py_ssize_t i)
{
    const given_limits_object *given = verdict->given;
    rl_limit_state limit;
    if (given == NULL) {
        limit = verdict->rule->limits[i];
    } else {
        limit = (rl_limit_state){.name = verdict->rule->given_names[given->set.n == 1 ? 0 : i + 1],
                                 .capacity = given->set.limits[i].capacity,
                                 .period_s = given->period_s[i],
                                 .window_s = given->edge_s[i]};
    }
    limit.decision = verdict->each[i];
    return limit;
}

verdict_object *verdict_of_decision(core_state *state, const rl_decision *decision)
{
    verdict_object *self = verdict_make(state, 0);
    if (self != NULL) {
        self->decision = *decision;
    }
    return self;
}

bool verdict_is_denial(const verdict_object *verdict)
{
    bool is_shadow = verdict->rule != NULL && verdict->rule->is_shadow;
    return !verdict->decision.allowed && !is_shadow;
}

bool verdict_is_hidden(const verdict_object *verdict)
{
    return !verdict->decision.allowed && !verdict_is_denial(verdict);
}

static const rl_field_style DEFAULT_STYLE = {.x_ratelimit = true};

const rl_field_style *verdict_style(const verdict_object *verdict)
{
    return verdict->version != NULL ? &verdict->version->style : &DEFAULT_STYLE;
}

bool verdict_has_fields(const verdict_object *verdict)
{
    const rl_field_style *style = verdict_style(verdict);
    return !verdict_is_hidden(verdict) && (style->x_ratelimit || style->ietf);
}

static PyObject *verdict_get_policy(PyObject *self, void *Py_UNUSED(closure))
{
    const version_object *version = verdict_of(self)->version;
    return Py_NewRef(version != NULL && version->owner != NULL ? version->owner : Py_None);
}

static PyObject *verdict_get_active(PyObject *self, void *Py_UNUSED(closure))
{
    const policy_rule *rule = verdict_of(self)->rule;
    return Py_NewRef(rule != NULL ? rule->active : Py_None);
}

static core_state *verdict_state(PyObject *self)
{
    return core_state_of(Py_TYPE(self));
}

static PyObject *verdict_get_decision(PyObject *self, void *Py_UNUSED(closure))
{
    return decision_new(verdict_state(self), &verdict_of(self)->decision);
}

static PyObject *verdict_get_decisions(PyObject *self, void *Py_UNUSED(closure))
{
    core_state *state = verdict_state(self);
    PyObject *tuple = PyTuple_New(Py_SIZE(self));
    for (Py_ssize_t i = 0; tuple != NULL && i < Py_SIZE(self); i++) {
        PyObject *decision = decision_new(state, &verdict_of(self)->each[i]);
        if (decision == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, i, decision);
    }
    return tuple;
}

static PyObject *verdict_get_key(PyObject *self, void *Py_UNUSED(closure))
{
    PyObject *key = verdict_of(self)->key;
    return Py_NewRef(key != NULL ? key : Py_None);
}

static PyObject *verdict_get_cost(PyObject *self, void *Py_UNUSED(closure))
{
    PyObject *costs = verdict_of(self)->costs;
    return costs != NULL ? Py_NewRef(costs) : PyFloat_FromDouble(verdict_of(self)->cost);
}

static PyObject *verdict_get_given(PyObject *self, void *Py_UNUSED(closure))
{
    PyObject *given = (PyObject *)verdict_of(self)->given;
    return Py_NewRef(given != NULL ? given : Py_None);
}

static PyObject *verdict_get_is_denial(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(verdict_is_denial(verdict_of(self)));
}

static bool verdict_settles(const verdict_object *verdict)
{
    return verdict->decision.allowed && verdict->rule != NULL && verdict->rule->settles;
}

static PyObject *verdict_get_settles(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(verdict_settles(verdict_of(self)));
}

static void verdict_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(verdict_of(self)->version);
    Py_XDECREF(verdict_of(self)->key);
    Py_XDECREF(verdict_of(self)->costs);
    Py_XDECREF((PyObject *)verdict_of(self)->given);
    if (Py_SIZE(self) == 1) {
        core_free_object(self, SPARE_VERDICT);
    } else {
        type->tp_free(self);
        Py_DECREF(type);
    }
}

static PyMemberDef verdict_members[] = {
    {"allowed", T_BOOL, offsetof(verdict_object, decision) + offsetof(rl_decision, allowed),
     READONLY, PyDoc_STR("Whether the limits allowed the request (bool).")},
    {"remaining", T_DOUBLE, offsetof(verdict_object, decision) + offsetof(rl_decision, remaining),
     READONLY, PyDoc_STR("Tokens left of the tightest limit (float).")},
    {"store_unavailable", T_BOOL,
     offsetof(verdict_object, decision) + offsetof(rl_decision, store_unavailable), READONLY,
     PyDoc_STR("Whether the store gave no answer (bool).")},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef verdict_getset[] = {
    {"active", verdict_get_active, NULL, PyDoc_STR("The ActiveRule that decided, or None."), NULL},
    {"policy", verdict_get_policy, NULL, PyDoc_STR("The Policy that decided, or None."), NULL},
    {"cost", verdict_get_cost, NULL,
     PyDoc_STR("Tokens that the request took (float, or a tuple with one of each limit)."), NULL},
    {"key", verdict_get_key, NULL, PyDoc_STR("The key that the request counts for."), NULL},
    {"decision", verdict_get_decision, NULL, PyDoc_STR("The Decision of the tightest limit."),
     NULL},
    {"decisions", verdict_get_decisions, NULL, PyDoc_STR("A Decision of each limit (tuple)."),
     NULL},
    {"given", verdict_get_given, NULL,
     PyDoc_STR("The GivenLimits of this request; None: those of its rule."), NULL},
    {"is_denial", verdict_get_is_denial, NULL,
     PyDoc_STR("Whether to deny the request: a shadow rule only counts (bool)."), NULL},
    {"settles", verdict_get_settles, NULL,
     PyDoc_STR("Whether the cost can change after the response (bool)."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot verdict_slots[] = {
    {Py_tp_doc, PyDoc_STR("What the limits of one rule decided about a request. Immutable.")},
    {Py_tp_dealloc, verdict_dealloc},
    {Py_tp_members, verdict_members},
    {Py_tp_getset, verdict_getset},
    {0, NULL},
};

PyType_Spec verdict_spec = {
    .name = "rate_limiter._core.Verdict",
    .basicsize = sizeof(verdict_object),
    .itemsize = sizeof(rl_decision),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = verdict_slots,
};
