/* check_limits.c -- the steps of a check for one rule: its limits and cost, then the decision. */
#include "python/check_steps.h"

/* ---- what the rule asks for ----------------------------------------------------------------------- */

check_status check_read_limits(check *check)
{
    const policy_rule *rule = check_rule(check);
    check_status status = CHECK_GO_ON;
    PyObject *given = check_take_awaited(check);
    if (given == NULL) {
        PyObject *args[] = {check->subject, check->key};
        given =
            check_take_value(check, PyObject_Vectorcall(rule->limits_of, args, 2, NULL), &status);
        if (given == NULL) {
            return status;
        }
    }
    if (given == Py_None) {
        Py_DECREF(given);
        given = NULL;
    } else if (Py_TYPE(given) != check->version->state->given_type) {
        PyErr_Format(PyExc_TypeError, "limits must be GivenLimits or None, got %R", given);
        Py_DECREF(given);
        return CHECK_ERROR;
    }
    Py_XSETREF(check->given, (given_limits_object *)given);
    check->phase = CHECK_COST;
    return CHECK_GO_ON;
}

check_status check_read_cost(check *check)
{
    const policy_rule *rule = check_rule(check);
    check_status status = CHECK_GO_ON;
    PyObject *cost = check_take_awaited(check);
    if (cost == NULL && rule->cost != NULL) {
        cost =
            PyCallable_Check(rule->cost)
                ? check_take_value(check, PyObject_CallOneArg(rule->cost, check->subject), &status)
                : Py_NewRef(rule->cost);
        if (cost == NULL) {
            return status;
        }
    }
    check->cost = cost;
    check->phase = CHECK_LIMITS;
    return CHECK_GO_ON;
}

/* ---- the decision ---------------------------------------------------------------------------------- */

/* Return the tokens of each limit as a tuple of floats. NULL: out of memory. */
static PyObject *tuple_of_costs(const double *tokens, size_t n)
{
    PyObject *costs = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; costs != NULL && i < n; i++) {
        PyObject *one = PyFloat_FromDouble(tokens[i]);
        if (one == NULL) {
            Py_CLEAR(costs);
            break;
        }
        PyTuple_SET_ITEM(costs, (Py_ssize_t)i, one);
    }
    return costs;
}

/* Make what the decision needs, before anything is taken: the record, the verdict, and of ASGI the
 * Sender. 0, or -1 with an exception set. */
static int prepare_limits(check *check, const policy_rule *rule)
{
    const request request = check_request(check);
    double tokens[RL_TABLE_LIMITS_MAX] = {0};
    size_t n = rule->limits_of == NULL ? rule->n_limits : 0;
    if (check->given != NULL) {
        n = check->given->set.n;
    }
    if ((n != 0 || rule->limits_of == NULL) && core_parse_costs(check->cost, n, tokens) < 0) {
        return -1;
    }
    if (check->record == NULL) {
        check->record = record_of_request(&request);
    }
    if (check->record == NULL) {
        return -1;
    }
    if (check->send != NULL && check->sender == NULL && !check->record->has_sender) {
        check->sender = asgi_sender_new(check->version->state, check->send, check->record);
        if (check->sender == NULL) {
            return -1;
        }
    }
    PyObject *costs = NULL;
    if (check->cost != NULL && PyTuple_Check(check->cost)) {
        costs = tuple_of_costs(tokens, n);
        if (costs == NULL) {
            return -1;
        }
    }
    check->pending =
        verdict_new(check->version, rule, check->key, n, check->given, tokens[0], costs);
    return check->pending != NULL ? 0 : -1;
}

/* Read what hit_each() returned: a Decision of all limits, then one of each. 0, or -1 with an
 * exception set. */
static int read_decisions(core_state *state, PyObject *decisions, verdict_object *out)
{
    Py_ssize_t n = Py_SIZE(out);
    if (!PyTuple_Check(decisions) || PyTuple_GET_SIZE(decisions) != n + 1) {
        PyErr_SetString(PyExc_TypeError,
                        "a limiter must return one decision, and one of each limit");
        return -1;
    }
    for (Py_ssize_t i = 0; i <= n; i++) {
        const rl_decision *value = decision_value(state, PyTuple_GET_ITEM(decisions, i));
        if (value == NULL) {
            return -1;
        }
        *(i == 0 ? &out->decision : &out->each[i - 1]) = *value;
    }
    return 0;
}

static check_status hit_remote(check *check, const policy_rule *rule)
{
    core_state *state = check->version->state;
    check_status status = CHECK_GO_ON;
    PyObject *decisions = check_take_awaited(check);
    if (decisions == NULL) {
        PyObject *args[] = {check->key, check->cost != NULL ? check->cost : state->one,
                            (PyObject *)check->given};
        size_t n = check->given != NULL ? 3 : 2;
        decisions =
            check_take_value(check, PyObject_Vectorcall(rule->hit_each, args, n, NULL), &status);
    }
    if (decisions != NULL && read_decisions(state, decisions, check->pending) < 0) {
        status = CHECK_ERROR;
    }
    Py_XDECREF(decisions);
    return status;
}

static check_status hit_denied(check *check, const policy_rule *rule)
{
    const rl_decision denied = {.retry_after_ns = RL_NEVER, .reset_after_ns = RL_NEVER};
    verdict_object *out = check->pending;
    out->decision = denied;
    for (Py_ssize_t i = 0; i < Py_SIZE(out); i++) {
        out->each[i] = denied;
    }
    if (rule->meter != NULL) {
        meter_add(rule->meter, check->key, false, 1, 0);
    }
    return CHECK_GO_ON;
}

static check_status hit_local(check *check, const policy_rule *rule)
{
    verdict_object *out = check->pending;
    bool allowed;
    int status;
    if (check->given != NULL) {
        const core_key_cost args = {check->key, check->cost, (PyObject *)check->given};
        status = limiter_decide_given(rule->limiter, &args, &allowed, &out->decision, out->each);
    } else {
        status = limiter_decide(rule->limiter, check->key, check->cost, &allowed, &out->decision,
                                out->each);
    }
    return status < 0 ? CHECK_ERROR : CHECK_GO_ON;
}

#define UNKNOWN_RETRY_NS INT64_C(1000000000)

/* Deny a request whose limits are unknown, as one without a store. */
static check_status hit_unknown(check *check, const policy_rule *rule)
{
    check->pending->decision = (rl_decision){.store_unavailable = true,
                                             .retry_after_ns = UNKNOWN_RETRY_NS,
                                             .reset_after_ns = UNKNOWN_RETRY_NS};
    core_meter *meter = rule->limiter != NULL ? atomic_load(&rule->limiter->meter) : NULL;
    if (meter != NULL) {
        meter_add(meter, check->key, false, 1, 0);
    }
    return CHECK_GO_ON;
}

/* Report a request that a shadow rule would have denied to the policy. */
static int count_shadow(const check *check, const policy_rule *rule)
{
    PyObject *owner = Py_XNewRef(check->version->owner);
    if (owner == NULL) {
        return 0;
    }
    PyObject *args[] = {owner, rule->active};
    PyObject *done =
        PyObject_VectorcallMethod(check->version->state->names[NAME_SHADOWED], args, 2, NULL);
    Py_DECREF(owner);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

check_status check_decide(check *check)
{
    const policy_rule *rule = check_rule(check);
    if (check->pending == NULL && prepare_limits(check, rule) < 0) {
        return CHECK_ERROR;
    }
    bool is_unknown = rule->limits_of != NULL && check->given == NULL;
    check_status status = rule->is_deny           ? hit_denied(check, rule)
                          : is_unknown            ? hit_unknown(check, rule)
                          : rule->limiter != NULL ? hit_local(check, rule)
                                                  : hit_remote(check, rule);
    if (status != CHECK_GO_ON) {
        return status;
    }
    verdict_object *verdict = check->pending;
    check->pending = NULL;
    record_add(check->record, verdict);
    Py_XSETREF(check->verdict, verdict);
    Py_CLEAR(check->cost);
    Py_CLEAR(check->key);
    Py_CLEAR(check->given);
    if (!verdict->decision.allowed) {
        if (!rule->is_shadow) {
            return CHECK_DENIED;
        }
        if (count_shadow(check, rule) < 0) {
            return CHECK_ERROR;
        }
    }
    check->at++;
    check->phase = CHECK_RULE_KEY;
    return CHECK_GO_ON;
}
