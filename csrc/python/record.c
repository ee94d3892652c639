/* record.c -- the record of a request: all verdicts about it. */
#include "python/path.h"

/* ---- RateLimitRecord: its verdicts -------------------------------------------------------------- */

static record_object *record_of(PyObject *self)
{
    return (record_object *)self;
}

static record_object *record_new(core_state *state)
{
    PyTypeObject *type = state->record_type;
    record_object *self = (record_object *)core_take_spare(state, SPARE_RECORD, type);
    if (self == NULL) {
        self = PyObject_New(record_object, type);
    }
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

/* Empty the record; return its verdicts, which the caller then owns. */
static verdict_object *record_detach(record_object *self)
{
    verdict_object *verdicts = self->first;
    self->first = NULL;
    self->last = NULL;
    self->n = 0;
    return verdicts;
}

/* Take the first of detached verdicts; NULL: there is none. */
static verdict_object *verdict_take_first(verdict_object **rest)
{
    verdict_object *one = *rest;
    if (one != NULL) {
        *rest = one->next;
        one->next = NULL;
    }
    return one;
}

void record_drop_others(record_object *self, const verdict_object *kept)
{
    verdict_object *rest = record_detach(self);
    verdict_object *one;
    while ((one = verdict_take_first(&rest)) != NULL) {
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

/* Return true if the policy still uses this version. */
static bool version_is_in_use(const core_state *state, const version_object *version)
{
    PyObject *owner = version->owner;
    if (owner == NULL || !PyObject_TypeCheck(owner, state->policy_type)) {
        return false;
    }
    bool is_used;
    LOCKED(owner);
    is_used = ((policy_object *)owner)->version == version;
    UNLOCKED;
    return is_used;
}

/* Give back what a verdict took. False: only Python can. */
static bool verdict_give_back(const core_state *state, const verdict_object *verdict)
{
    const policy_rule *rule = verdict->rule;
    if (rule == NULL || rule->limiter == NULL || !version_is_in_use(state, verdict->version)) {
        return false;
    }
    double tokens[RL_TABLE_LIMITS_MAX];
    for (Py_ssize_t i = 0; i < Py_SIZE(verdict); i++) {
        tokens[i] = verdict->costs == NULL ? verdict->cost
                                           : PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(verdict->costs, i));
    }
    bool done = (verdict->given == NULL ? limiter_give_back(rule->limiter, verdict->key, tokens)
                                        : limiter_refund_given(rule->limiter, verdict->key,
                                                               verdict->given, tokens)) == 0;
    PyErr_Clear();
    return done;
}

void record_give_back(record_object *self, const verdict_object *denial)
{
    verdict_object *rest = record_detach(self);
    verdict_object *one;
    while ((one = verdict_take_first(&rest)) != NULL) {
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
