/* check.c -- a check: decide about one request, from the bypass to the limits.
 *
 *     bypass ─> tier ─> own key ─> find the rules ─┬─> key ─> cost ─> limits ─┐
 *       │                                          └──── the next rule <──────┤
 *       └─> free                                                  allowed, denied
 *
 * Every step may call Python, and what it returns may have to be awaited. Then the check stops
 * with CHECK_AWAIT, and check_run goes on at the same step with the value. */
#include "python/path.h"

void check_init(check *check, version_object *version, PyObject *scope, PyObject *subject)
{
    *check = (struct check){.version = version,
                            .scope = Py_NewRef(scope),
                            .subject = Py_NewRef(subject),
                            .phase = CHECK_BYPASS};
}

void check_clear(check *check)
{
    Py_CLEAR(check->version);
    Py_CLEAR(check->scope);
    Py_CLEAR(check->subject);
    Py_CLEAR(check->path);
    Py_CLEAR(check->method);
    Py_CLEAR(check->found);
    Py_CLEAR(check->own_key);
    Py_CLEAR(check->key);
    Py_CLEAR(check->cost);
    Py_CLEAR(check->awaitable);
    Py_CLEAR(check->awaited);
    Py_CLEAR(check->record);
    Py_CLEAR(check->verdict);
}

/* ---- calls of Python --------------------------------------------------------------------------- */

/* The step is done, and the next one begins. */
#define CHECK_GO_ON ((check_status)(CHECK_AWAIT + 1))

static bool is_awaitable(PyObject *value)
{
    if (value == Py_None || PyUnicode_CheckExact(value) || PyBool_Check(value)) {
        return false;
    }
    const PyAsyncMethods *methods = Py_TYPE(value)->tp_as_async;
    return methods != NULL && methods->am_await != NULL;
}

/* Take the value that was awaited, or the one just returned (stolen; NULL with an exception set).
 * NULL: stop with *status. */
static PyObject *take_value(check *check, PyObject *returned, check_status *status)
{
    if (returned != NULL && is_awaitable(returned)) {
        check->awaitable = returned;
        *status = CHECK_AWAIT;
        return NULL;
    }
    *status = returned != NULL ? CHECK_GO_ON : CHECK_ERROR;
    return returned;
}

static PyObject *take_awaited(check *check)
{
    PyObject *value = check->awaited;
    check->awaited = NULL;
    return value;
}

static request request_of(const check *check)
{
    const version_object *version = check->version;
    return (request){version->state, check->scope, version->kind, version->routes_like_werkzeug};
}

/* Read one source; NULL with CHECK_GO_ON: it has no value. `is_key`: as a key. */
static PyObject *read_source(check *check, const source *source, bool is_key, check_status *status)
{
    PyObject *value = take_awaited(check);
    *status = CHECK_GO_ON;
    if (value == NULL) {
        const request request = request_of(check);
        switch (source_read(source, check->version->walk, &request, &value)) {
        case SOURCE_FOUND:
            return value;
        case SOURCE_ABSENT:
            return NULL;
        case SOURCE_ERROR:
            *status = CHECK_ERROR;
            return NULL;
        case SOURCE_UNUSUAL:
        default:
            break;
        }
        PyObject *argument = source->of_subject ? check->subject : check->scope;
        value = take_value(check, PyObject_CallOneArg(source->call, argument), status);
        if (value == NULL) {
            return NULL;
        }
    }
    if (!is_key) {
        return value;
    }
    PyObject *key = source_key(source, check->version->shortened, value);
    if (key == NULL && PyErr_Occurred()) {
        *status = CHECK_ERROR;
    }
    Py_DECREF(value);
    return key;
}

/* Read the first source with a value. NULL with CHECK_GO_ON: none has one. */
static PyObject *read_chain(check *check, const source_chain *chain, check_status *status)
{
    *status = CHECK_GO_ON;
    while (check->step < chain->n) {
        PyObject *key = read_source(check, &chain->items[check->step], true, status);
        if (key != NULL || *status != CHECK_GO_ON) {
            return key;
        }
        check->step++;
    }
    return NULL;
}

/* ---- bypass, tier, own key ------------------------------------------------------------------------ */

static check_status run_bypass(check *check)
{
    const source_chain *chain = &check->version->bypass;
    for (; check->step < chain->n; check->step++) {
        check_status status;
        PyObject *value = read_source(check, &chain->items[check->step], false, &status);
        if (status != CHECK_GO_ON) {
            return status;
        }
        int is_free = value != NULL ? PyObject_IsTrue(value) : 0;
        Py_XDECREF(value);
        if (is_free != 0) {
            return is_free < 0 ? CHECK_ERROR : CHECK_FREE;
        }
    }
    check->phase = CHECK_TIER;
    return CHECK_GO_ON;
}

/* Keep the ranks in order, the highest first, each once. */
static void insert_rank(check *check, int rank)
{
    size_t at = 0;
    while (at < check->n_tiers && check->tiers[at] > rank) {
        at++;
    }
    if (at == CHECK_TIERS_MAX || (at < check->n_tiers && check->tiers[at] == rank)) {
        return;
    }
    check->n_tiers += check->n_tiers < CHECK_TIERS_MAX;
    for (size_t i = check->n_tiers - 1; i > at; i--) {
        check->tiers[i] = check->tiers[i - 1];
    }
    check->tiers[at] = rank;
}

/* 0, or -1 with an exception set. A tier that no rule names counts for nothing. */
static int add_tier(check *check, PyObject *tier)
{
    PyObject *text = PyObject_Str(tier);
    PyObject *rank = /* borrowed */
        text != NULL ? PyDict_GetItemWithError(check->version->tier_ranks, text) : NULL;
    long number = rank != NULL ? PyLong_AsLong(rank) : 0;
    if (rank != NULL && !PyErr_Occurred()) {
        insert_rank(check, (int)number);
    }
    Py_XDECREF(text);
    return PyErr_Occurred() ? -1 : 0;
}

static int add_tiers(check *check, PyObject *value)
{
    if (value == Py_None) {
        return 0;
    }
    if (!PyList_Check(value) && !PyTuple_Check(value) && !PyAnySet_Check(value)) {
        return add_tier(check, value);
    }
    PyObject *all = PySequence_Tuple(value);
    int status = all != NULL ? 0 : -1;
    for (Py_ssize_t i = 0; status == 0 && i < PyTuple_GET_SIZE(all); i++) {
        status = add_tier(check, PyTuple_GET_ITEM(all, i));
    }
    Py_XDECREF(all);
    return status;
}

static check_status run_tier(check *check)
{
    const version_object *version = check->version;
    if (version->tier.n > 0 && PyDict_GET_SIZE(version->tier_ranks) > 0) {
        check_status status;
        PyObject *value = read_source(check, version->tier.items, false, &status);
        if (status != CHECK_GO_ON) {
            return status;
        }
        int added = value != NULL ? add_tiers(check, value) : 0;
        Py_XDECREF(value);
        if (added < 0) {
            return CHECK_ERROR;
        }
    }
    check->step = 0;
    check->phase = CHECK_OWN_KEY;
    return CHECK_GO_ON;
}

static PyObject *client_key(check *check)
{
    const request request = request_of(check);
    return walk_request_key(check->version->walk, &request);
}

/* Read the key by the policy's sources. False: stop with *status. */
static bool read_own_key(check *check, check_status *status)
{
    check->own_key = read_chain(check, &check->version->key, status);
    if (*status == CHECK_GO_ON && check->own_key == NULL) {
        check->own_key = client_key(check);
        *status = check->own_key != NULL ? CHECK_GO_ON : CHECK_ERROR;
    }
    return *status == CHECK_GO_ON;
}

static check_status run_own_key(check *check)
{
    check_status status;
    if (check->version->uses_keys && !read_own_key(check, &status)) {
        return status;
    }
    check->phase = CHECK_FIND;
    return CHECK_GO_ON;
}

/* ---- rules ------------------------------------------------------------------------------------------ */

static int as_text(PyObject *object, core_text *owner, rl_text *out)
{
    if (core_parse_key(object, owner) < 0) {
        return -1;
    }
    *out = (rl_text){owner->data, owner->len};
    return 0;
}

/* Read the client's address where a rule names a network: *address is NULL where it has none. 0, or
 * -1 with an exception set. */
static int read_address(const check *check, rl_address *room, const rl_address **address)
{
    rl_client_source source = RL_CLIENT_NONE;
    const request request = request_of(check);
    if (rl_routes_use_networks(routes_value(check->version->routes)) &&
        walk_request_address(check->version->walk, &request, &source, room) < 0) {
        return -1;
    }
    *address = source != RL_CLIENT_NONE ? room : NULL;
    return 0;
}

/* 0, or -1 with an exception set. */
static int find_rules(check *check, PyObject *path, PyObject *method)
{
    rl_address room;
    core_text owners[3] = {{.owner = NULL}, {.owner = NULL}, {.owner = NULL}};
    rl_text key;
    rl_request_line line = {.tiers = check->tiers,
                            .n_tiers = check->n_tiers,
                            .routes_like_werkzeug = check->version->routes_like_werkzeug};
    int status = as_text(path, &owners[0], &line.path);
    if (status == 0) {
        status = as_text(method, &owners[1], &line.method);
    }
    if (status == 0 && check->own_key != NULL && PyUnicode_Check(check->own_key)) {
        status = as_text(check->own_key, &owners[2], &key);
        line.key = &key;
    }
    if (status == 0) {
        status = read_address(check, &room, &line.address);
    }
    if (status == 0) {
        const rl_routes *routes = routes_value(check->version->routes);
        check->n_rules = rl_routes_find(routes, &line, check->rules);
    }
    for (size_t i = 0; i < 3; i++) {
        Py_XDECREF(owners[i].owner);
    }
    return status;
}

/* A path that can be read in several ways may have several rules: one that denies decides alone. */
static void prefer_denial(check *check)
{
    for (size_t i = 0; i < check->n_rules; i++) {
        uint32_t number = check->rules[i];
        const policy_rule *rule = number != RL_ROUTE_NONE ? &check->version->rules[number] : NULL;
        if (rule != NULL && rule->is_deny && !rule->is_shadow) {
            check->rules[0] = number;
            check->n_rules = 1;
        }
    }
}

static check_status run_find(check *check)
{
    check->phase = CHECK_RULE_KEY;
    check->step = 0;
    if (check->version->routes == NULL) { /* one rule for every request */
        check->rules[0] = 0;
        check->n_rules = 1;
        return CHECK_GO_ON;
    }
    const request request = request_of(check);
    PyObject *path = check->path != NULL ? Py_NewRef(check->path) : request_path(&request);
    PyObject *method = path == NULL            ? NULL
                       : check->method != NULL ? Py_NewRef(check->method)
                                               : request_method(&request);
    int status = method != NULL ? find_rules(check, path, method) : -1;
    Py_XDECREF(path);
    Py_XDECREF(method);
    prefer_denial(check);
    return status < 0 ? CHECK_ERROR : CHECK_GO_ON;
}

/* The next rule that limits the request; NULL: all were tried. */
static const policy_rule *rule_of(check *check)
{
    for (; check->at < check->n_rules; check->at++) {
        uint32_t number = check->rules[check->at];
        if (number != RL_ROUTE_NONE && !check->version->rules[number].is_exempt) {
            return &check->version->rules[number];
        }
    }
    return NULL;
}

static check_status end_check(const check *check)
{
    return check->verdict != NULL ? CHECK_ALLOWED : CHECK_FREE;
}

static check_status add_found(check *check, const policy_rule *rule)
{
    PyObject *pair = PyTuple_Pack(2, rule->active, check->key);
    int status = pair != NULL ? PyList_Append(check->found, pair) : -1;
    Py_XDECREF(pair);
    Py_CLEAR(check->key);
    check->at++;
    return status < 0 ? CHECK_ERROR : CHECK_GO_ON;
}

static check_status run_rule_key(check *check)
{
    const policy_rule *rule = rule_of(check);
    check_status status = CHECK_GO_ON;
    if (rule == NULL) {
        return end_check(check);
    }
    if (rule->is_deny && check->own_key == NULL) { /* calls none of the user's functions */
        check->key = client_key(check);
    } else if (rule->key.n == 0) {
        if (check->own_key == NULL && !read_own_key(check, &status)) {
            return status;
        }
        check->key = Py_NewRef(check->own_key);
    } else {
        check->key = read_chain(check, &rule->key, &status);
        if (status != CHECK_GO_ON) {
            return status;
        }
        if (check->key == NULL) {
            check->key = client_key(check);
        }
    }
    check->step = 0;
    if (check->key == NULL) {
        return CHECK_ERROR;
    }
    check->phase = check->found == NULL ? CHECK_COST : CHECK_RULE_KEY;
    return check->found == NULL ? CHECK_GO_ON : add_found(check, rule);
}

static check_status run_cost(check *check)
{
    const policy_rule *rule = rule_of(check);
    check_status status = CHECK_GO_ON;
    PyObject *cost = take_awaited(check);
    if (cost == NULL && rule->cost != NULL) {
        cost = PyCallable_Check(rule->cost)
                   ? take_value(check, PyObject_CallOneArg(rule->cost, check->subject), &status)
                   : Py_NewRef(rule->cost);
        if (cost == NULL) {
            return status;
        }
    }
    check->cost = cost;
    check->phase = CHECK_LIMITS;
    return CHECK_GO_ON;
}

/* ---- limits ------------------------------------------------------------------------------------------ */

/* Read what hit_each() returned: a Decision of all limits, then one of each. */
static verdict_object *verdict_of_tuple(check *check, const policy_rule *rule, double cost,
                                        PyObject *decisions)
{
    core_state *state = check->version->state;
    rl_decision values[RL_TABLE_LIMITS_MAX + 1];
    if (!PyTuple_Check(decisions) ||
        PyTuple_GET_SIZE(decisions) != (Py_ssize_t)rule->n_limits + 1) {
        PyErr_SetString(PyExc_TypeError,
                        "a limiter must return one decision, and one of each limit");
        return NULL;
    }
    for (size_t i = 0; i <= rule->n_limits; i++) {
        const rl_decision *value =
            decision_value(state, PyTuple_GET_ITEM(decisions, (Py_ssize_t)i));
        if (value == NULL) {
            return NULL;
        }
        values[i] = *value;
    }
    return verdict_new(check->version, rule, check->key, cost, &values[0], &values[1]);
}

static verdict_object *hit_remote(check *check, const policy_rule *rule, double cost,
                                  check_status *status)
{
    PyObject *decisions = take_awaited(check);
    if (decisions == NULL) {
        PyObject *args[] = {check->key,
                            check->cost != NULL ? check->cost : check->version->state->one};
        decisions = take_value(check, PyObject_Vectorcall(rule->hit_each, args, 2, NULL), status);
        if (decisions == NULL) {
            return NULL;
        }
    }
    verdict_object *verdict = verdict_of_tuple(check, rule, cost, decisions);
    Py_DECREF(decisions);
    return verdict;
}

static verdict_object *hit_denied(const check *check, const policy_rule *rule)
{
    const rl_decision denied = {.retry_after_ns = RL_NEVER, .reset_after_ns = RL_NEVER};
    if (rule->meter != NULL) {
        rl_meter_record(rule->meter, false, 1, 0);
    }
    return verdict_new(check->version, rule, check->key, 0, &denied, &denied);
}

static verdict_object *hit_local(check *check, const policy_rule *rule, double cost)
{
    bool allowed;
    rl_decision decision;
    rl_decision each[RL_TABLE_LIMITS_MAX];
    if (limiter_decide(rule->limiter, check->key, check->cost, &allowed, &decision, each) < 0) {
        return NULL;
    }
    return verdict_new(check->version, rule, check->key, cost, &decision, each);
}

static int add_verdict(check *check, verdict_object *verdict)
{
    if (check->record == NULL) {
        const request request = request_of(check);
        check->record = record_of_request(&request);
        if (check->record == NULL) {
            return -1;
        }
    }
    return record_add(check->record, verdict);
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

/* Return the costs of each limit, if the cost was a tuple, else NULL: with an exception set when
 * there is no memory. */
static PyObject *tuple_of_costs(const check *check, const policy_rule *rule, const double *tokens)
{
    PyObject *costs = NULL;
    if (check->cost != NULL && PyTuple_Check(check->cost)) {
        costs = PyTuple_New((Py_ssize_t)rule->n_limits);
    }
    for (size_t i = 0; costs != NULL && i < rule->n_limits; i++) {
        PyObject *one = PyFloat_FromDouble(tokens[i]);
        if (one == NULL) {
            Py_CLEAR(costs);
            break;
        }
        PyTuple_SET_ITEM(costs, (Py_ssize_t)i, one);
    }
    return costs;
}

static check_status run_limits(check *check)
{
    const policy_rule *rule = rule_of(check);
    check_status status = CHECK_ERROR;
    double tokens[RL_TABLE_LIMITS_MAX];
    if (core_parse_costs(check->cost, rule->n_limits, tokens) < 0) {
        return CHECK_ERROR;
    }
    PyObject *costs = tuple_of_costs(check, rule, tokens);
    if (costs == NULL && PyErr_Occurred()) {
        return CHECK_ERROR;
    }
    verdict_object *verdict = rule->is_deny           ? hit_denied(check, rule)
                              : rule->limiter != NULL ? hit_local(check, rule, tokens[0])
                                                      : hit_remote(check, rule, tokens[0], &status);
    if (verdict == NULL) {
        Py_XDECREF(costs);
        return status == CHECK_AWAIT ? CHECK_AWAIT : CHECK_ERROR;
    }
    verdict->costs = costs;
    Py_XSETREF(check->verdict, verdict);
    Py_CLEAR(check->cost);
    Py_CLEAR(check->key);
    if (add_verdict(check, verdict) < 0) {
        return CHECK_ERROR;
    }
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

/* ---- errors ------------------------------------------------------------------------------------------ */

static const char *const PARTS[] = {
    [CHECK_BYPASS] = "bypass", [CHECK_TIER] = "tier",    [CHECK_OWN_KEY] = "key",
    [CHECK_FIND] = "path",     [CHECK_RULE_KEY] = "key", [CHECK_COST] = "cost",
    [CHECK_LIMITS] = "limit",
};

/* The part of the check that is under way: ("cost", its ActiveRule or None). */
static PyObject *check_place(check *check)
{
    bool has_rule = check->version != NULL && check->phase >= CHECK_RULE_KEY;
    const policy_rule *rule = has_rule ? rule_of(check) : NULL;
    return Py_BuildValue("(sO)", PARTS[check->phase], rule != NULL ? rule->active : Py_None);
}

/* Report what raised to the policy, for its log. The exception stays set. */
static void check_report(check *check)
{
    PyObject *type, *error, *traceback;
    PyObject *owner = Py_XNewRef(check->version->owner);
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyObject *place = owner != NULL ? check_place(check) : NULL;
    if (place != NULL) {
        PyObject *args[] = {owner, place, error};
        Py_XDECREF(
            PyObject_VectorcallMethod(check->version->state->names[NAME_FAILED], args, 3, NULL));
    }
    PyErr_Clear();
    Py_XDECREF(place);
    Py_XDECREF(owner);
    PyErr_Restore(type, error, traceback);
}

check_status check_run(check *check)
{
    static check_status (*const steps[])(struct check *) = {
        [CHECK_BYPASS] = run_bypass, [CHECK_TIER] = run_tier,         [CHECK_OWN_KEY] = run_own_key,
        [CHECK_FIND] = run_find,     [CHECK_RULE_KEY] = run_rule_key, [CHECK_COST] = run_cost,
        [CHECK_LIMITS] = run_limits,
    };
    check_status status;
    do {
        status = steps[check->phase](check);
    } while (status == CHECK_GO_ON);
    if (status == CHECK_ERROR && PyErr_ExceptionMatches(PyExc_Exception)) {
        check_report(check);
    }
    return status;
}

/* ---- Check ------------------------------------------------------------------------------------------- */

typedef struct check_object {
    PyObject_HEAD
    check check;
} check_object;

PyObject *check_object_new(core_state *state, check *check)
{
    PyObject *self = state->check_type->tp_alloc(state->check_type, 0);
    if (self != NULL) {
        ((check_object *)self)->check = *check;
        *check = (struct check){.phase = CHECK_BYPASS};
    }
    return self;
}

check *check_object_value(const core_state *state, PyObject *object)
{
    if (!PyObject_TypeCheck(object, state->check_type)) {
        PyErr_Format(PyExc_TypeError, "expected a Check, not %.200s", Py_TYPE(object)->tp_name);
        return NULL;
    }
    return &((check_object *)object)->check;
}

static PyObject *check_get_awaitable(PyObject *self, void *Py_UNUSED(closure))
{
    PyObject *awaitable = ((check_object *)self)->check.awaitable;
    return Py_NewRef(awaitable != NULL ? awaitable : Py_None);
}

static PyObject *check_get_place(PyObject *self, void *Py_UNUSED(closure))
{
    return check_place(&((check_object *)self)->check);
}

static int check_traverse(PyObject *object, visitproc visit, void *arg)
{
    const check *check = &((check_object *)object)->check;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(check->version);
    Py_VISIT(check->scope);
    Py_VISIT(check->subject);
    Py_VISIT(check->found);
    Py_VISIT(check->own_key);
    Py_VISIT(check->key);
    Py_VISIT(check->cost);
    Py_VISIT(check->awaitable);
    Py_VISIT(check->record);
    Py_VISIT(check->verdict);
    return 0;
}

static int check_tp_clear(PyObject *object)
{
    check_clear(&((check_object *)object)->check);
    return 0;
}

static void check_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    check_clear(&((check_object *)object)->check);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyGetSetDef check_getset[] = {
    {"awaitable", check_get_awaitable, NULL,
     PyDoc_STR("What must be awaited before the check goes on."), NULL},
    {"place", check_get_place, NULL,
     PyDoc_STR("What is awaited, for messages: (\"cost\", its ActiveRule or None)."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot check_slots[] = {
    {Py_tp_doc, PyDoc_STR("Hold a check of a request that waits for something.")},
    {Py_tp_dealloc, check_dealloc},
    {Py_tp_traverse, check_traverse},
    {Py_tp_clear, check_tp_clear},
    {Py_tp_getset, check_getset},
    {0, NULL},
};

PyType_Spec check_spec = {
    .name = "rate_limiter._core.Check",
    .basicsize = sizeof(check_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = check_slots,
};
