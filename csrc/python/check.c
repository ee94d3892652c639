/* check.c -- a check: decide about one request, from the bypass to the limits.
 *
 *     bypass ─> tier ─> own key ─> find the rules ─┬─> key ─> its limits ─> cost ─> limits ─┐
 *       │                                          └───────── the next rule <────────────────┤
 *       └─> free                                                  allowed, denied
 *
 * Every step may call Python, and what it returns may have to be awaited. Then the check stops
 * with CHECK_AWAIT, and check_run goes on at the same step with the value. */
#include "python/check_steps.h"

void check_init(check *check, version_object *version, PyObject *scope, PyObject *subject)
{
    *check = (struct check){.version = version,
                            .scope = Py_NewRef(scope),
                            .subject = Py_NewRef(subject),
                            .phase = version->begins_at};
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
    Py_CLEAR(check->given);
    Py_CLEAR(check->cost);
    Py_CLEAR(check->awaitable);
    Py_CLEAR(check->awaited);
    Py_CLEAR(check->record);
    Py_CLEAR(check->verdict);
    Py_CLEAR(check->pending);
    Py_CLEAR(check->sender);
}

/* ---- calls of Python --------------------------------------------------------------------------- */

static bool is_awaitable(PyObject *value)
{
    if (value == Py_None || PyUnicode_CheckExact(value) || PyBool_Check(value)) {
        return false;
    }
    const PyAsyncMethods *methods = Py_TYPE(value)->tp_as_async;
    return methods != NULL && methods->am_await != NULL;
}

PyObject *check_take_value(check *check, PyObject *returned, check_status *status)
{
    if (returned != NULL && is_awaitable(returned)) {
        check->awaitable = returned;
        *status = CHECK_AWAIT;
        return NULL;
    }
    *status = returned != NULL ? CHECK_GO_ON : CHECK_ERROR;
    return returned;
}

PyObject *check_take_awaited(check *check)
{
    PyObject *value = check->awaited;
    check->awaited = NULL;
    return value;
}

request check_request(const check *check)
{
    const version_object *version = check->version;
    return (request){version->state, check->scope, version->kind, version->routes_like_werkzeug};
}

/* Read one source; NULL with CHECK_GO_ON: it has no value. `is_key`: as a key. */
static PyObject *read_source(check *check, const source *source, bool is_key, check_status *status)
{
    PyObject *value = check_take_awaited(check);
    *status = CHECK_GO_ON;
    if (value == NULL) {
        const request request = check_request(check);
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
        value = check_take_value(check, PyObject_CallOneArg(source->call, argument), status);
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

/* Read a key: the last source of its chain has one. NULL: stop with *status. */
static PyObject *read_key(check *check, const source_chain *chain, check_status *status)
{
    PyObject *key;
    do {
        key = read_source(check, &chain->items[check->step], true, status);
        check->step += key == NULL && *status == CHECK_GO_ON;
    } while (key == NULL && *status == CHECK_GO_ON);
    return key;
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

static check_status run_tier(check *check)
{
    const version_object *version = check->version;
    if (version->tier.n > 0 && PyDict_GET_SIZE(version->tier_ranks) > 0) {
        check_status status;
        PyObject *value = read_source(check, version->tier.items, false, &status);
        if (status != CHECK_GO_ON) {
            return status;
        }
        int added = value != NULL ? tier_ranks_add(&check->tiers, version->tier_ranks, value) : 0;
        Py_XDECREF(value);
        if (added < 0) {
            return CHECK_ERROR;
        }
    }
    check->step = 0;
    check->phase = CHECK_OWN_KEY;
    return CHECK_GO_ON;
}

/* Read the key by the policy's sources. False: stop with *status. */
static bool read_own_key(check *check, check_status *status)
{
    check->own_key = read_key(check, &check->version->key, status);
    return check->own_key != NULL;
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
    const request request = check_request(check);
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
    rl_request_line line = {.tiers = check->tiers.ranks,
                            .n_tiers = check->tiers.n,
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
    const request request = check_request(check);
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

const policy_rule *check_rule(check *check)
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
    const policy_rule *rule = check_rule(check);
    check_status status = CHECK_GO_ON;
    if (rule == NULL) {
        return end_check(check);
    }
    if (rule->is_deny && check->own_key == NULL) { /* calls none of the user's functions */
        const request request = check_request(check);
        check->key = walk_request_key(check->version->walk, &request);
        if (check->key == NULL) {
            return CHECK_ERROR;
        }
    } else if (rule->key.n == 0) {
        if (check->own_key == NULL && !read_own_key(check, &status)) {
            return status;
        }
        check->key = Py_NewRef(check->own_key);
    } else {
        check->key = read_key(check, &rule->key, &status);
        if (check->key == NULL) {
            return status;
        }
    }
    check->step = 0;
    check->phase = check->found != NULL      ? CHECK_RULE_KEY
                   : rule->limits_of == NULL ? CHECK_COST
                                             : CHECK_RULE_LIMITS;
    return check->found == NULL ? CHECK_GO_ON : add_found(check, rule);
}

/* ---- errors ------------------------------------------------------------------------------------------ */

static const char *const PARTS[] = {
    [CHECK_BYPASS] = "bypass", [CHECK_TIER] = "tier",    [CHECK_OWN_KEY] = "key",
    [CHECK_FIND] = "path",     [CHECK_RULE_KEY] = "key", [CHECK_RULE_LIMITS] = "limits",
    [CHECK_COST] = "cost",     [CHECK_LIMITS] = "limit",
};

PyObject *check_place(check *check)
{
    bool has_rule = check->version != NULL && check->phase >= CHECK_RULE_KEY;
    const policy_rule *rule = has_rule ? check_rule(check) : NULL;
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
        [CHECK_BYPASS] = run_bypass,     [CHECK_TIER] = run_tier,
        [CHECK_OWN_KEY] = run_own_key,   [CHECK_FIND] = run_find,
        [CHECK_RULE_KEY] = run_rule_key, [CHECK_RULE_LIMITS] = check_read_limits,
        [CHECK_COST] = check_read_cost,  [CHECK_LIMITS] = check_decide,
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
