/* routes.c -- RuleRoutes: which rules a request falls under, as a Python type. */
#include "python/path.h"

/* Immutable. */
typedef struct routes_object {
    PyObject_HEAD
    rl_routes *routes; /* owned */
} routes_object;

static routes_object *routes_of(PyObject *self)
{
    return (routes_object *)self;
}

const rl_routes *routes_value(PyObject *routes)
{
    return routes_of(routes)->routes;
}

/* ---- texts ---------------------------------------------------------------------------------- */

/* Read a str as UTF-8, lone surrogates as they are. *owner, a new reference or NULL, keeps the
 * bytes together with the str. 0, or -1 with an exception set. */
static int read_utf8(const char *what, PyObject *object, PyObject **owner, rl_text *out)
{
    core_text text;
    if (!PyUnicode_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be str, not %.200s", what, Py_TYPE(object)->tp_name);
        return -1;
    }
    if (core_parse_key(object, &text) < 0) {
        return -1;
    }
    *owner = text.owner;
    *out = (rl_text){text.data, text.len};
    return 0;
}

/* ---- building --------------------------------------------------------------------------------- */

/* ValueError, for a rule that asks for the same as another with both numbers behind the text. */
static void set_error(rl_route_status status, PyObject *pattern, uint32_t rule, uint32_t other)
{
    if (status == RL_ROUTE_ENOMEM) {
        PyErr_NoMemory();
    } else if (status == RL_ROUTE_EPATTERN) {
        PyErr_Format(PyExc_ValueError, "path: malformed pattern %R", pattern);
    } else if (status == RL_ROUTE_EDEPTH) {
        PyErr_Format(PyExc_ValueError, "path: a pattern may have at most %d segments, got %R",
                     RL_ROUTE_DEPTH_MAX, pattern);
    } else {
        PyObject *value = Py_BuildValue("(sII)", "two rules ask for the same", other, rule);
        if (value != NULL) {
            PyErr_SetObject(PyExc_ValueError, value);
            Py_DECREF(value);
        }
    }
}

/* The parts of one route, borrowed from its tuple. */
typedef struct parts {
    PyObject *pattern;
    PyObject *method;
    PyObject *key;
    PyObject *network;
    int tier;
    uint32_t rule;
} parts;

/* Read a network. 0, or -1 with an exception set. */
static int read_network(PyObject *object, rl_network *out)
{
    PyObject *owner = NULL; /* strong */
    rl_text text;
    int status = read_utf8("network", object, &owner, &text);
    if (status == 0 && !rl_network_parse(text, out)) {
        PyErr_Format(PyExc_ValueError, "expected a network such as '10.0.0.0/8', got %R", object);
        status = -1;
    }
    Py_XDECREF(owner);
    return status;
}

static int add_parts(rl_routes *routes, const parts *parts)
{
    PyObject *owners[3] = {NULL, NULL, NULL}; /* strong */
    rl_text key;
    rl_network network;
    rl_route route = {.tier = parts->tier};
    uint32_t other = 0;
    int status = read_utf8("pattern", parts->pattern, &owners[0], &route.pattern);
    if (status == 0 && parts->method != Py_None) {
        status = read_utf8("method", parts->method, &owners[1], &route.method);
    }
    if (status == 0 && parts->key != Py_None) {
        status = read_utf8("key", parts->key, &owners[2], &key);
        route.key = &key;
    }
    if (status == 0 && parts->network != Py_None) {
        status = read_network(parts->network, &network);
        route.network = &network;
    }
    if (status == 0) {
        rl_route_status added = rl_routes_add(routes, &route, parts->rule, &other);
        if (added != RL_ROUTE_OK) {
            set_error(added, parts->pattern, parts->rule, other);
            status = -1;
        }
    }
    for (size_t i = 0; i < 3; i++) {
        Py_XDECREF(owners[i]);
    }
    return status;
}

/* A (pattern, method, tier, key, rule), and a network where it has one. */
static int add_route(rl_routes *routes, PyObject *given)
{
    parts parts = {.network = Py_None};
    long long rule;
    if (!PyTuple_Check(given)) {
        PyErr_Format(PyExc_TypeError, "a route must be a tuple, not %.200s",
                     Py_TYPE(given)->tp_name);
        return -1;
    }
    if (!PyArg_ParseTuple(given, "OOiOL|O:RuleRoutes", &parts.pattern, &parts.method, &parts.tier,
                          &parts.key, &rule, &parts.network)) {
        return -1;
    }
    if (parts.key != Py_None && parts.network != Py_None) {
        PyErr_SetString(PyExc_ValueError, "a route has a key or a network, not both");
        return -1;
    }
    if (parts.tier < -1 || rule < 0 || rule >= RL_ROUTE_NONE) {
        PyErr_SetString(PyExc_ValueError, "the tier or the rule of a route is out of range");
        return -1;
    }
    parts.rule = (uint32_t)rule;
    return add_parts(routes, &parts);
}

static rl_routes *read_routes(PyObject *given)
{
    rl_routes *routes = rl_routes_new();
    if (routes == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    PyObject *iterator = PyObject_GetIter(given);
    PyObject *item;
    int status = iterator != NULL ? 0 : -1;
    while (status == 0 && (item = PyIter_Next(iterator)) != NULL) {
        status = add_route(routes, item);
        Py_DECREF(item);
    }
    Py_XDECREF(iterator);
    if (PyErr_Occurred()) {
        rl_routes_free(routes);
        return NULL;
    }
    return routes;
}

static PyObject *routes_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"routes", NULL};
    PyObject *given;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:RuleRoutes", names, &given)) {
        return NULL;
    }
    rl_routes *routes = read_routes(given);
    PyObject *self = routes != NULL ? type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        rl_routes_free(routes);
        return NULL;
    }
    routes_of(self)->routes = routes;
    return self;
}

static void routes_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    rl_routes_free(routes_of(object)->routes);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- finding ------------------------------------------------------------------------------------ */

#define FEW_TIERS 16

typedef struct tiers {
    int *numbers; /* `few`, or owned */
    size_t n;
    int few[FEW_TIERS];
} tiers;

static void tiers_clear(tiers *tiers)
{
    if (tiers->numbers != tiers->few) {
        PyMem_Free(tiers->numbers);
    }
}

/* 0, or -1 with an exception set; clear them in both cases. */
static int tiers_read(PyObject *given, tiers *out)
{
    out->numbers = out->few;
    out->n = 0;
    PyObject *all = PySequence_Tuple(given);
    if (all == NULL) {
        return -1;
    }
    size_t n = (size_t)PyTuple_GET_SIZE(all);
    if (n > FEW_TIERS) {
        out->numbers = PyMem_Calloc(n, sizeof(int));
    }
    if (out->numbers == NULL) {
        PyErr_NoMemory();
    } else {
        for (; out->n < n; out->n++) {
            long number = PyLong_AsLong(PyTuple_GET_ITEM(all, (Py_ssize_t)out->n));
            if (number == -1 && PyErr_Occurred()) {
                break;
            }
            if (number < 0 || number > INT_MAX) {
                PyErr_SetString(PyExc_ValueError, "a tier is out of range");
                break;
            }
            out->numbers[out->n] = (int)number;
        }
    }
    Py_DECREF(all);
    return out->numbers != NULL && out->n == n ? 0 : -1;
}

static PyObject *tuple_of(const uint32_t *rules, size_t n)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; tuple != NULL && i < n; i++) {
        PyObject *rule =
            rules[i] == RL_ROUTE_NONE ? Py_NewRef(Py_None) : PyLong_FromUnsignedLong(rules[i]);
        if (rule == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, rule);
    }
    return tuple;
}

static PyObject *routes_find(PyObject *object, PyObject *args)
{
    PyObject *path, *method, *given, *key;
    PyObject *address = Py_None;
    PyObject *owners[4] = {NULL, NULL, NULL, NULL}; /* strong */
    int like_werkzeug;
    rl_request_line line = {.key = NULL};
    rl_text own_key, address_text;
    rl_address own_address;
    tiers tiers;
    uint32_t rules[RL_ROUTE_READINGS];
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "OOOOp|O:find", &path, &method, &given, &key, &like_werkzeug,
                          &address)) {
        return NULL;
    }
    int status = tiers_read(given, &tiers);
    if (status == 0) {
        status = read_utf8("path", path, &owners[0], &line.path);
    }
    if (status == 0) {
        status = read_utf8("method", method, &owners[1], &line.method);
    }
    if (status == 0 && PyUnicode_Check(key)) {
        status = read_utf8("key", key, &owners[2], &own_key);
        line.key = &own_key;
    }
    if (status == 0 && address != Py_None) {
        status = read_utf8("address", address, &owners[3], &address_text);
        bool is_address = status == 0 && rl_address_parse(address_text, &own_address);
        line.address = is_address ? &own_address : NULL;
    }
    if (status == 0) {
        line.tiers = tiers.numbers;
        line.n_tiers = tiers.n;
        line.routes_like_werkzeug = like_werkzeug != 0;
        result = tuple_of(rules, rl_routes_find(routes_of(object)->routes, &line, rules));
    }
    for (size_t i = 0; i < 4; i++) {
        Py_XDECREF(owners[i]);
    }
    tiers_clear(&tiers);
    return result;
}

static PyMethodDef routes_methods[] = {
    {"find", routes_find, METH_VARARGS,
     PyDoc_STR(
         "find($self, path, method, tiers, key, like_werkzeug, address=None, /)\n--\n\n"
         "Return the rules of a request: the different ones of all readings of its path, None\n"
         "for a reading without (a tuple). The first is that of the path without extra\n"
         "slashes.\n\n"
         "path: str. method: in capital letters (str). tiers: those of the client, the\n"
         "highest first (ints). key: the client's; one that is no str has no rule.\n"
         "like_werkzeug: the application routes as Werkzeug does, not as Starlette. address:\n"
         "the client's (str); another text has no network.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot routes_slots[] = {
    {Py_tp_doc,
     PyDoc_STR(
         "RuleRoutes(routes)\n--\n\n"
         "Find the rules of requests. Immutable.\n\n"
         "routes: tuples (pattern, method, tier, key, rule, network=None): str, str or None for\n"
         "any, int or -1 for any, str or None for any, the number of the rule, and instead of a\n"
         "key a network (str). Raises TypeError or ValueError for another value. If two rules\n"
         "ask for the same, the ValueError has their numbers as its second and third\n"
         "argument.")},
    {Py_tp_new, routes_tp_new},
    {Py_tp_dealloc, routes_dealloc},
    {Py_tp_methods, routes_methods},
    {0, NULL},
};

PyType_Spec routes_spec = {
    .name = "rate_limiter._core.RuleRoutes",
    .basicsize = sizeof(routes_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = routes_slots,
};
