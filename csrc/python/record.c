/* record.c -- RateLimitRecord: all verdicts about one request, as the application reads them. */
#include "python/path.h"

#include <structmember.h>

/* ---- RateLimitRecord: its verdicts -------------------------------------------------------------- */

static record_object *record_of(PyObject *self)
{
    return (record_object *)self;
}

static record_object *record_new(core_state *state)
{
    record_object *self = PyObject_New(record_object, state->record_type);
    if (self != NULL) {
        self->state = state;
        self->first = NULL;
        self->last = NULL;
        self->n = 0;
        self->spread = -1;
        self->has_sender = false;
        self->is_answered = false;
        self->status = NULL;
        self->response = NULL;
    }
    return self;
}

void record_add(record_object *self, verdict_object *verdict)
{
    Py_INCREF(verdict);
    if (self->last != NULL) {
        self->last->next = verdict;
    } else {
        self->first = verdict;
    }
    self->last = verdict;
    self->n++;
}

/* Drop all verdicts but one, which may be NULL or none of the record's. */
static void record_drop_others(record_object *self, const verdict_object *kept)
{
    verdict_object *next = self->first;
    self->first = NULL;
    self->last = NULL;
    self->n = 0;
    while (next != NULL) {
        verdict_object *one = next;
        next = one->next;
        one->next = NULL;
        if (one == kept) {
            record_add(self, one);
        }
        Py_DECREF(one);
    }
}

static const void *verdict_active(const verdict_object *verdict)
{
    return verdict->rule != NULL ? verdict->rule->active : NULL;
}

/* Give back what a verdict took. False: only Python can. */
static bool verdict_give_back(const core_state *state, const verdict_object *verdict)
{
    const policy_rule *rule = verdict->rule;
    if (rule == NULL || rule->limiter == NULL ||
        !policy_follows(state, verdict->version->owner, verdict->version)) {
        return false;
    }
    double tokens[RL_TABLE_LIMITS_MAX];
    for (size_t i = 0; i < rule->n_limits; i++) {
        tokens[i] = verdict->costs == NULL
                        ? verdict->cost
                        : PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(verdict->costs, (Py_ssize_t)i));
    }
    bool done = limiter_give_back(rule->limiter, verdict->key, tokens) == 0;
    PyErr_Clear();
    return done;
}

void record_give_back(record_object *self, const verdict_object *denial)
{
    verdict_object *next = self->first;
    self->first = NULL;
    self->last = NULL;
    self->n = 0;
    while (next != NULL) {
        verdict_object *one = next;
        next = one->next;
        one->next = NULL;
        bool ran = denial != NULL && verdict_active(one) == verdict_active(denial);
        bool is_taken = one->decision.allowed && !ran;
        if (one == denial || (is_taken && !verdict_give_back(self->state, one))) {
            record_add(self, one);
        }
        Py_DECREF(one);
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

static bool verdict_is_tighter(const verdict_object *a, const verdict_object *b)
{
    if (a->decision.allowed != b->decision.allowed) {
        return b->decision.allowed;
    }
    return a->decision.remaining < b->decision.remaining;
}

const verdict_object *record_tightest(const record_object *self, bool with_fields)
{
    const verdict_object *tightest = NULL;
    for (const verdict_object *one = self->first; one != NULL; one = one->next) {
        bool counts = with_fields ? verdict_has_fields(one) : !verdict_is_hidden(one);
        if (counts && (tightest == NULL || verdict_is_tighter(one, tightest))) {
            tightest = one;
        }
    }
    return tightest;
}

/* ---- what the application reads ---------------------------------------------------------------------- */

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

static PyObject *record_get_verdicts(PyObject *self, void *Py_UNUSED(closure))
{
    const record_object *record = record_of(self);
    PyObject *tuple = PyTuple_New((Py_ssize_t)record->n);
    verdict_object *one = record->first;
    for (Py_ssize_t i = 0; tuple != NULL && one != NULL; i++, one = one->next) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef((PyObject *)one));
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

/* Give back what it can; return the verdicts that Python must settle, and drop them too. */
static PyObject *record_method_give_back(PyObject *object, PyObject *denial)
{
    record_object *self = record_of(object);
    if (denial != Py_None && !PyObject_TypeCheck(denial, self->state->verdict_type)) {
        PyErr_SetString(PyExc_TypeError, "_give_back(verdict or None)");
        return NULL;
    }
    const verdict_object *kept = denial != Py_None ? (verdict_object *)denial : NULL;
    record_give_back(self, kept);
    PyObject *list = PyList_New(0);
    for (verdict_object *one = self->first; list != NULL && one != NULL; one = one->next) {
        if (one != kept && PyList_Append(list, (PyObject *)one) < 0) {
            Py_CLEAR(list);
            break;
        }
    }
    if (list != NULL) {
        record_drop_others(self, kept);
    }
    return list;
}

static PyObject *record_remove(PyObject *object, PyObject *verdict)
{
    record_object *self = record_of(object);
    verdict_object *before = NULL;
    verdict_object *one = self->first;
    while (one != NULL && (PyObject *)one != verdict) {
        before = one;
        one = one->next;
    }
    if (one != NULL) {
        verdict_object **place = before != NULL ? &before->next : &self->first;
        *place = one->next;
        self->last = self->last == one ? before : self->last;
        self->n--;
        one->next = NULL;
        Py_DECREF(one);
    }
    Py_RETURN_NONE;
}

static void record_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    record_object *self = record_of(object);
    record_drop_others(self, NULL);
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
    {"_give_back", record_method_give_back, METH_O,
     PyDoc_STR("_give_back($self, denial, /)\n--\n\n"
               "Give tokens back and forget all verdicts but a denial, or all with None.\n\n"
               "Return those whose tokens are not given back yet (list of Verdict).")},
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
