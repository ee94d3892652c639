/* record_object.c -- RateLimitRecord: the record of a request, as the application reads it. */
#include "python/path.h"

#include <structmember.h>

static record_object *record_of(PyObject *self)
{
    return (record_object *)self;
}

static PyObject *record_headers(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    record_object *self = record_of(object);
    rendered rendered;
    PyObject *dict = record_render(self, &rendered) == 0 ? PyDict_New() : NULL;
    for (size_t i = 0; dict != NULL && i < rendered.n; i++) {
        char digits[RL_NUMBER_MAX];
        const rl_text text = rl_field_value(&rendered.fields[i], digits);
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
    record_object *self = record_of(object);
    record_drop_others(self, NULL);
    Py_XDECREF(self->status);
    Py_XDECREF(self->response);
    core_free_object(object, SPARE_RECORD);
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
