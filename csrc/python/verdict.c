/* verdict.c -- Verdict: what one rule decided about a request; RateLimitRecord: all verdicts about
 * it, and the header fields that describe them.
 *
 * Nothing that they refer to refers to a request, so they are in no cycle, and the collector need
 * not know them: two allocations less that it counts for each request. */
#include "python/path.h"

#include <structmember.h>
#include <time.h>

/* ---- Verdict --------------------------------------------------------------------------------- */

static verdict_object *verdict_of(PyObject *self)
{
    return (verdict_object *)self;
}

static verdict_object *verdict_make(core_state *state, const rl_decision *decision, Py_ssize_t n)
{
    verdict_object *self = (verdict_object *)state->verdict_type->tp_alloc(state->verdict_type, n);
    if (self != NULL) {
        self->decision = *decision;
        self->cost = 1;
    }
    return self;
}

verdict_object *verdict_new(version_object *version, const policy_rule *rule, PyObject *key,
                            double cost, const rl_decision *decision, const rl_decision *each)
{
    Py_ssize_t n = (Py_ssize_t)rule->n_limits;
    verdict_object *self = verdict_make(version->state, decision, n);
    if (self != NULL) {
        self->version = (version_object *)Py_NewRef((PyObject *)version);
        self->rule = rule;
        self->key = Py_NewRef(key);
        self->cost = cost;
        memcpy(self->each, each, (size_t)n * sizeof *each);
    }
    return self;
}

verdict_object *verdict_of_decision(core_state *state, const rl_decision *decision)
{
    return verdict_make(state, decision, 0);
}

bool verdict_is_denial(const verdict_object *verdict)
{
    bool is_shadow = verdict->rule != NULL && verdict->rule->is_shadow;
    return !verdict->decision.allowed && !is_shadow;
}

/* A shadow rule that would have denied is not shown. */
static bool verdict_is_hidden(const verdict_object *verdict)
{
    return !verdict->decision.allowed && !verdict_is_denial(verdict);
}

static const rl_field_style DEFAULT_STYLE = {.x_ratelimit = true};

static const rl_field_style *verdict_style(const verdict_object *verdict)
{
    return verdict->version != NULL ? &verdict->version->style : &DEFAULT_STYLE;
}

static bool verdict_has_fields(const verdict_object *verdict)
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
    type->tp_free(self);
    Py_DECREF(type);
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

/* ---- RateLimitRecord: its verdicts -------------------------------------------------------------- */

static record_object *record_of(PyObject *self)
{
    return (record_object *)self;
}

static record_object *record_new(core_state *state)
{
    record_object *self = (record_object *)state->record_type->tp_alloc(state->record_type, 0);
    if (self != NULL) {
        self->state = state;
        self->items = self->few;
        self->room = RECORD_FEW;
        self->spread = -1;
    }
    return self;
}

int record_add(record_object *self, verdict_object *verdict)
{
    if (self->n == self->room) {
        size_t room = self->room * 2;
        verdict_object **items = PyMem_Calloc(room, sizeof(verdict_object *));
        if (items == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        memcpy(items, self->items, self->n * sizeof(verdict_object *));
        if (self->items != self->few) {
            PyMem_Free(self->items);
        }
        self->items = items;
        self->room = room;
    }
    self->items[self->n++] = (verdict_object *)Py_NewRef((PyObject *)verdict);
    return 0;
}

static void record_drop(record_object *self)
{
    while (self->n > 0) {
        Py_DECREF(self->items[--self->n]);
    }
}

/* Put the record where an ASGI application finds it: request.state.rate_limit. */
static int record_publish(const request *request, record_object *record)
{
    const core_state *state = request->state;
    PyObject *members = request_get(request, NAME_STATE);
    if (members == NULL && !PyErr_Occurred()) {
        members = PyDict_New();
        if (members != NULL &&
            PyDict_SetItem(request->scope, state->names[NAME_STATE], members) < 0) {
            Py_CLEAR(members);
        }
    }
    if (members == NULL) {
        return -1;
    }
    int status = PyDict_Check(members)
                     ? PyDict_SetItem(members, state->names[NAME_RATE_LIMIT], (PyObject *)record)
                     : 0;
    Py_DECREF(members);
    return status;
}

/* 1, 0, or -1 with an exception set. */
static int is_websocket(const request *request)
{
    PyObject *type = request->kind == REQUEST_ASGI ? request_get(request, NAME_TYPE) : NULL;
    bool is_one = type != NULL && core_is_name(request->state, type, NAME_WEBSOCKET);
    Py_XDECREF(type);
    return type == NULL && PyErr_Occurred() ? -1 : is_one;
}

record_object *record_of_request(const request *request)
{
    core_state *state = (core_state *)(uintptr_t)request->state;
    PyObject *found = request_get(request, NAME_RATE_LIMITER);
    bool is_record = found != NULL && Py_TYPE(found) == state->record_type;
    bool is_answered = is_record && record_of(found)->is_answered;
    if (is_record && !is_answered) {
        return record_of(found);
    }
    Py_XDECREF(found);
    /* The messages of an open websocket count one by one: a denied one takes nothing back. */
    int is_message = PyErr_Occurred() ? -1 : is_answered ? is_websocket(request) : 0;
    if (is_message < 0) {
        return NULL;
    }
    record_object *record = record_new(state);
    if (record == NULL ||
        PyDict_SetItem(request->scope, state->names[NAME_RATE_LIMITER], (PyObject *)record) < 0 ||
        (request->kind == REQUEST_ASGI && record_publish(request, record) < 0)) {
        Py_CLEAR(record);
    } else {
        record->is_answered = is_message != 0;
    }
    return record;
}

/* ---- header fields ---------------------------------------------------------------------------------- */

static bool is_tighter(const verdict_object *a, const verdict_object *b)
{
    if (a->decision.allowed != b->decision.allowed) {
        return b->decision.allowed;
    }
    return a->decision.remaining < b->decision.remaining;
}

/* The tightest verdict, of those with fields or of all. Borrowed; NULL: there is none. */
static const verdict_object *record_tightest(const record_object *self, bool with_fields)
{
    const verdict_object *tightest = NULL;
    for (size_t i = 0; i < self->n; i++) {
        const verdict_object *one = self->items[i];
        bool counts = with_fields ? verdict_has_fields(one) : !verdict_is_hidden(one);
        if (counts && (tightest == NULL || is_tighter(one, tightest))) {
            tightest = one;
        }
    }
    return tightest;
}

static int64_t verdict_window_s(const verdict_object *verdict)
{
    for (Py_ssize_t i = 0; i < Py_SIZE(verdict); i++) {
        if (decision_equals(&verdict->each[i], &verdict->decision)) {
            return verdict->rule->limits[i].window_s;
        }
    }
    return 0;
}

/* A share of the jitter, the same for all fields of a response. 0, or -1 with an exception set. */
static int record_spread(record_object *self, const rl_field_style *style, double *out)
{
    *out = 0;
    if (style->jitter_s == 0) {
        return 0;
    }
    if (self->spread < 0) {
        PyObject *random = PyImport_ImportModule("random");
        PyObject *share = random != NULL ? PyObject_CallMethod(random, "random", NULL) : NULL;
        Py_XDECREF(random);
        double spread = share != NULL ? PyFloat_AsDouble(share) : -1;
        Py_XDECREF(share);
        if (PyErr_Occurred()) {
            return -1;
        }
        self->spread = spread;
    }
    *out = self->spread;
    return 0;
}

static double wall_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static size_t count_limits(const record_object *self)
{
    size_t n = 0;
    for (size_t i = 0; i < self->n; i++) {
        n += (size_t)Py_SIZE(self->items[i]);
    }
    return n;
}

/* The states of the limits of all verdicts with fields. */
static size_t copy_limits(const record_object *self, rl_limit_state *out)
{
    size_t n = 0;
    for (size_t i = 0; i < self->n; i++) {
        const verdict_object *one = self->items[i];
        for (Py_ssize_t j = 0; verdict_has_fields(one) && j < Py_SIZE(one); j++) {
            out[n] = one->rule->limits[j];
            out[n++].decision = one->each[j];
        }
    }
    return n;
}

static int write_fields(const rl_field_style *style, const rl_field_input *input, rendered *out)
{
    size_t size = rl_fields_write(style, input, out->few, sizeof out->few, out->fields, &out->n);
    if (size > sizeof out->few) {
        out->many = PyMem_Malloc(size);
        if (out->many == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        rl_fields_write(style, input, out->many, size, out->fields, &out->n);
    }
    return 0;
}

int record_render(record_object *self, rendered *out)
{
    out->n = 0;
    out->many = NULL;
    const verdict_object *tightest = record_tightest(self, true);
    if (tightest == NULL) {
        return 0;
    }
    const rl_field_style *style = verdict_style(tightest);
    rl_limit_state few[RL_TABLE_LIMITS_MAX];
    rl_limit_state *limits = few;
    rl_field_input input = {.tightest = tightest->decision};
    if (style->is_epoch) {
        input.window_s = verdict_window_s(tightest);
        input.now_s = wall_s();
    }
    if (record_spread(self, style, &input.spread) < 0) {
        return -1;
    }
    if (style->ietf) {
        size_t n = count_limits(self);
        if (n > RL_TABLE_LIMITS_MAX) {
            limits = PyMem_Calloc(n, sizeof *limits);
            if (limits == NULL) {
                PyErr_NoMemory();
                return -1;
            }
        }
        input.n_limits = copy_limits(self, limits);
        input.limits = limits;
    }
    int status = write_fields(style, &input, out);
    if (limits != few) {
        PyMem_Free(limits);
    }
    return status;
}

void rendered_clear(rendered *rendered)
{
    PyMem_Free(rendered->many);
    rendered->many = NULL;
}

static bool equals_ignoring_case(const char *name, Py_ssize_t len, const char *wanted)
{
    for (Py_ssize_t i = 0; i < len; i++) {
        if (Py_TOLOWER(name[i]) != Py_TOLOWER(wanted[i])) {
            return false;
        }
    }
    return true;
}

static const Py_ssize_t FIELD_LENGTHS[RL_FIELD_COUNT] = {
    [RL_FIELD_LIMIT] = sizeof "X-RateLimit-Limit" - 1,
    [RL_FIELD_REMAINING] = sizeof "X-RateLimit-Remaining" - 1,
    [RL_FIELD_RESET] = sizeof "X-RateLimit-Reset" - 1,
    [RL_FIELD_POLICY] = sizeof "RateLimit-Policy" - 1,
    [RL_FIELD_STATE] = sizeof "RateLimit" - 1,
    [RL_FIELD_RETRY_AFTER] = sizeof "Retry-After" - 1,
    [RL_FIELD_CACHE_CONTROL] = sizeof "Cache-Control" - 1,
    [RL_FIELD_EXPOSE] = sizeof "Access-Control-Expose-Headers" - 1,
};

void core_mark_field(PyObject *name, bool present[RL_FIELD_COUNT])
{
    const char *text;
    Py_ssize_t len;
    if (name != NULL && PyBytes_Check(name)) {
        text = PyBytes_AS_STRING(name);
        len = PyBytes_GET_SIZE(name);
    } else if (name != NULL && PyUnicode_Check(name) && PyUnicode_IS_COMPACT_ASCII(name)) {
        text = (const char *)PyUnicode_1BYTE_DATA(name);
        len = PyUnicode_GET_LENGTH(name);
    } else {
        return;
    }
    for (int i = 0; i < RL_FIELD_EXPOSE; i++) {
        const char *wanted = rl_field_names[i];
        if (len == FIELD_LENGTHS[i] && equals_ignoring_case(text, len, wanted)) {
            present[i] = true;
            present[RL_FIELD_REMAINING] |= i == RL_FIELD_LIMIT;
            present[RL_FIELD_RESET] |= i == RL_FIELD_LIMIT;
        }
    }
}

static PyObject *record_headers(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    record_object *self = record_of(object);
    rendered rendered;
    PyObject *dict = record_render(self, &rendered) == 0 ? PyDict_New() : NULL;
    for (size_t i = 0; dict != NULL && i < rendered.n; i++) {
        const rl_text text = rendered.fields[i].value;
        PyObject *value = PyUnicode_FromStringAndSize(text.data, (Py_ssize_t)text.len);
        PyObject *name = self->state->names[(int)NAME_FIELD_LIMIT + (int)rendered.fields[i].name];
        if (value == NULL || PyDict_SetItem(dict, name, value) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
    }
    rendered_clear(&rendered);
    return dict;
}

/* ---- what the application reads ---------------------------------------------------------------------- */

static PyObject *record_get_verdicts(PyObject *self, void *Py_UNUSED(closure))
{
    const record_object *record = record_of(self);
    PyObject *tuple = PyTuple_New((Py_ssize_t)record->n);
    for (size_t i = 0; tuple != NULL && i < record->n; i++) {
        PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, Py_NewRef((PyObject *)record->items[i]));
    }
    return tuple;
}

/* An attribute of the tightest Decision, None without limits. The closure is its name. */
static PyObject *record_get_of_decision(PyObject *self, void *closure)
{
    const verdict_object *tightest = record_tightest(record_of(self), false);
    if (tightest == NULL) {
        Py_RETURN_NONE;
    }
    PyObject *decision = decision_new(record_of(self)->state, &tightest->decision);
    if (decision == NULL || closure == NULL) {
        return decision;
    }
    PyObject *value = PyObject_GetAttrString(decision, closure);
    Py_DECREF(decision);
    return value;
}

static PyObject *record_get_key(PyObject *self, void *Py_UNUSED(closure))
{
    const verdict_object *tightest = record_tightest(record_of(self), false);
    return Py_NewRef(tightest != NULL && tightest->key != NULL ? tightest->key : Py_None);
}

static PyObject *record_get_rule(PyObject *self, void *Py_UNUSED(closure))
{
    const verdict_object *tightest = record_tightest(record_of(self), false);
    if (tightest == NULL || tightest->rule == NULL) {
        Py_RETURN_NONE;
    }
    const core_state *state = record_of(self)->state;
    PyObject *rule = PyObject_GetAttr(tightest->rule->active, state->names[NAME_RULE]);
    PyObject *name = rule != NULL ? PyObject_GetAttr(rule, state->names[NAME_NAME]) : NULL;
    Py_XDECREF(rule);
    return name;
}

static PyObject *record_repr(PyObject *self)
{
    PyObject *rule = record_get_rule(self, NULL);
    PyObject *decision = rule != NULL ? record_get_of_decision(self, NULL) : NULL;
    PyObject *repr = decision != NULL
                         ? PyUnicode_FromFormat("RateLimitRecord(rule=%R, %R)", rule, decision)
                         : NULL;
    Py_XDECREF(rule);
    Py_XDECREF(decision);
    return repr;
}

/* The seconds of Retry-After, with the jitter that the header has too; None for never. */
static PyObject *record_retry_after_s(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    record_object *self = record_of(object);
    const verdict_object *tightest = record_tightest(self, false);
    double spread;
    if (tightest == NULL) {
        Py_RETURN_NONE;
    }
    const rl_field_style *style = verdict_style(tightest);
    if (record_spread(self, style, &spread) < 0) {
        return NULL;
    }
    int64_t seconds = rl_retry_after_s(&tightest->decision, style->jitter_s, spread);
    return seconds < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(seconds);
}

/* Drop verdicts whose tokens were given back: all but one, which may be None. */
static PyObject *record_keep(PyObject *object, PyObject *kept)
{
    record_object *self = record_of(object);
    if (kept != Py_None && !PyObject_TypeCheck(kept, self->state->verdict_type)) {
        PyErr_SetString(PyExc_TypeError, "_keep(verdict or None)");
        return NULL;
    }
    Py_INCREF(kept);
    record_drop(self);
    int status = kept != Py_None ? record_add(self, (verdict_object *)kept) : 0;
    Py_DECREF(kept);
    return status == 0 ? Py_NewRef(Py_None) : NULL;
}

static PyObject *record_remove(PyObject *object, PyObject *verdict)
{
    record_object *self = record_of(object);
    for (size_t i = 0; i < self->n; i++) {
        if ((PyObject *)self->items[i] == verdict) {
            self->n--;
            memmove(&self->items[i], &self->items[i + 1], (self->n - i) * sizeof self->items[i]);
            Py_DECREF(verdict);
            break;
        }
    }
    Py_RETURN_NONE;
}

static void record_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    record_object *self = record_of(object);
    record_drop(self);
    if (self->items != self->few) {
        PyMem_Free(self->items);
    }
    Py_XDECREF(self->status);
    Py_XDECREF(self->response);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMemberDef record_members[] = {
    {"_status", T_OBJECT, offsetof(record_object, status), READONLY,
     PyDoc_STR("Status of a WSGI response, None before it begins (str).")},
    {"_response", T_OBJECT, offsetof(record_object, response), READONLY,
     PyDoc_STR("Headers of a WSGI response, None before it begins (list of pairs).")},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef record_methods[] = {
    {"headers", record_headers, METH_NOARGS,
     PyDoc_STR("headers($self, /)\n--\n\n"
               "Return the header fields of the tightest limit (dict of str), as they are added\n"
               "to the response.")},
    {"_retry_after_s", record_retry_after_s, METH_NOARGS,
     PyDoc_STR("_retry_after_s($self, /)\n--\n\n"
               "Return the seconds of Retry-After, with jitter; None for never.")},
    {"_keep", record_keep, METH_O,
     PyDoc_STR("_keep($self, verdict, /)\n--\n\nForget all verdicts but one, or all with None.")},
    {"_remove", record_remove, METH_O,
     PyDoc_STR("_remove($self, verdict, /)\n--\n\nForget one verdict.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef record_getset[] = {
    {"verdicts", record_get_verdicts, NULL, PyDoc_STR("The Verdicts so far (tuple)."), NULL},
    {"decision", record_get_of_decision, NULL,
     PyDoc_STR("The Decision of the tightest limit, or None."), NULL},
    {"allowed", record_get_of_decision, NULL,
     PyDoc_STR("Whether the tightest limit allowed the request (bool)."), "allowed"},
    {"limit", record_get_of_decision, NULL,
     PyDoc_STR("Capacity of the tightest limit in tokens (float)."), "limit"},
    {"remaining", record_get_of_decision, NULL,
     PyDoc_STR("Tokens left of the tightest limit (float)."), "remaining"},
    {"reset_after", record_get_of_decision, NULL,
     PyDoc_STR("Seconds until the tightest limit is full (float), inf for never."), "reset_after"},
    {"retry_after", record_get_of_decision, NULL,
     PyDoc_STR("Seconds until a denied request would pass (float)."), "retry_after"},
    {"key", record_get_key, NULL, PyDoc_STR("The key that the request counts for."), NULL},
    {"rule", record_get_rule, NULL, PyDoc_STR("The name of the rule of the tightest limit (str)."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot record_slots[] = {
    {Py_tp_doc,
     PyDoc_STR("What the limits of a request decided: the state of the tightest one.\n\n"
               "Applications read it as request.state.rate_limit (Starlette, FastAPI),\n"
               "flask.g.rate_limit, scope[\"rate_limiter\"] or environ[\"rate_limiter\"].")},
    {Py_tp_dealloc, record_dealloc},
    {Py_tp_repr, record_repr},
    {Py_tp_methods, record_methods},
    {Py_tp_members, record_members},
    {Py_tp_getset, record_getset},
    {0, NULL},
};

PyType_Spec record_spec = {
    .name = "rate_limiter._core.RateLimitRecord",
    .basicsize = sizeof(record_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = record_slots,
};
