/* arguments.c -- the arguments that most methods take: a key and a cost. */
#include "python/core.h"

#include <math.h>

static void set_bytes(PyObject *bytes, core_text *out)
{
    out->data = PyBytes_AS_STRING(bytes);
    out->len = (size_t)PyBytes_GET_SIZE(bytes);
}

/* Undecodable bytes in a request become lone surrogates in a str. Such keys must
 * work, so the surrogates are encoded as they are. */
static int encode_surrogates(PyObject *key, core_text *out)
{
    PyErr_Clear();
    out->owner = PyUnicode_AsEncodedString(key, "utf-8", "surrogatepass");
    if (out->owner == NULL) {
        return -1;
    }
    set_bytes(out->owner, out);
    return 0;
}

int core_parse_any_key(PyObject *key, core_text *out)
{
    out->owner = NULL;
    if (PyBytes_Check(key)) {
        set_bytes(key, out);
        return 0;
    }
    if (!PyUnicode_Check(key)) {
        PyErr_Format(PyExc_TypeError, "key must be str or bytes, not %.200s",
                     Py_TYPE(key)->tp_name);
        return -1;
    }
    Py_ssize_t len;
    out->data = PyUnicode_AsUTF8AndSize(key, &len);
    out->len = (size_t)len;
    if (out->data != NULL) {
        return 0;
    }
    return PyErr_ExceptionMatches(PyExc_UnicodeEncodeError) ? encode_surrogates(key, out) : -1;
}

/* Read a finite number >= 0, which `name` names in the error. */
static int parse_amount(const char *name, PyObject *amount, double *out)
{
    if (!PyFloat_Check(amount) && !PyIndex_Check(amount) &&
        (Py_TYPE(amount)->tp_as_number == NULL ||
         Py_TYPE(amount)->tp_as_number->nb_float == NULL)) {
        PyErr_Format(PyExc_TypeError, "%s must be a number, not %.200s", name,
                     Py_TYPE(amount)->tp_name);
        return -1;
    }
    *out = PyFloat_AsDouble(amount);
    if (*out == -1.0 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return -1;
        }
        PyErr_Clear();
        *out = INFINITY;
    }
    if (!(*out >= 0 && isfinite(*out))) {
        PyErr_Format(PyExc_ValueError, "%s must be a finite number >= 0, got %R", name, amount);
        return -1;
    }
    return 0;
}

int core_parse_cost(PyObject *cost, double *tokens)
{
    return parse_amount("cost", cost, tokens);
}

#define BLOCK_MAX_S (100 * 365.25 * 86400)

int core_parse_block(PyObject *seconds, int64_t *ns)
{
    double value;
    if (parse_amount("seconds", seconds, &value) < 0) {
        return -1;
    }
    *ns = (int64_t)ceil((value < BLOCK_MAX_S ? value : BLOCK_MAX_S) * 1e9);
    return 0;
}

/* Name the whole tuple in the error about one of its numbers. Return -1. */
static int refuse_costs(PyObject *costs)
{
    bool is_value = PyErr_ExceptionMatches(PyExc_ValueError);
    if (is_value || PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        PyErr_Format(is_value ? PyExc_ValueError : PyExc_TypeError,
                     "cost must be a finite number >= 0, or a tuple of them, got %R", costs);
    }
    return -1;
}

int core_parse_costs(PyObject *cost, size_t n, double *tokens)
{
    if (cost == NULL || !PyTuple_Check(cost)) {
        double same = 1;
        if (cost != NULL && core_parse_cost(cost, &same) < 0) {
            return -1;
        }
        for (size_t i = 0; i < n; i++) {
            tokens[i] = same;
        }
        return 0;
    }
    if (PyTuple_GET_SIZE(cost) != (Py_ssize_t)n) {
        PyErr_Format(PyExc_ValueError,
                     "cost must have one number for each limit, %zu in all, got %R", n, cost);
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        if (core_parse_cost(PyTuple_GET_ITEM(cost, (Py_ssize_t)i), &tokens[i]) < 0) {
            return refuse_costs(cost);
        }
    }
    return 0;
}

int core_parse_count(PyObject *count, void *out)
{
    PyObject *number = PyNumber_Index(count);
    if (number == NULL) {
        return 0;
    }
    unsigned long long value = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    if (value == (unsigned long long)-1 && PyErr_Occurred()) {
        return 0;
    }
    *(uint64_t *)out = value;
    return 1;
}

static int parse_named(const char *function, PyObject *name, PyObject *value, const char *first,
                       const char *second, bool takes_limits, core_key_cost *out)
{
    PyObject **target = NULL;
    if (PyUnicode_CompareWithASCIIString(name, first) == 0) {
        target = &out->key;
    } else if (PyUnicode_CompareWithASCIIString(name, second) == 0) {
        target = &out->cost;
    } else if (takes_limits && PyUnicode_CompareWithASCIIString(name, "limits") == 0) {
        target = &out->limits;
    }
    if (target == NULL || *target != NULL) {
        PyErr_Format(PyExc_TypeError,
                     target == NULL ? "%s() got an unexpected keyword argument %R"
                                    : "%s() got multiple values for argument %R",
                     function, name);
        return -1;
    }
    *target = value;
    return 0;
}

static int parse_arguments(const char *function, const char *first, const char *second,
                           bool takes_limits, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames, core_key_cost *out)
{
    if (nargs > 2 + takes_limits) {
        PyErr_Format(PyExc_TypeError,
                     takes_limits ? "%s() takes %s, %s and limits, but %zd positional arguments "
                                    "were given"
                                  : "%s() takes %s and %s, but %zd positional arguments were given",
                     function, first, second, nargs);
        return -1;
    }
    *out = (core_key_cost){nargs > 0 ? args[0] : NULL, nargs > 1 ? args[1] : NULL,
                           nargs > 2 ? args[2] : NULL};
    Py_ssize_t n_named = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < n_named; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (parse_named(function, name, args[nargs + i], first, second, takes_limits, out) < 0) {
            return -1;
        }
    }
    if (out->key == NULL) {
        PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s'", function, first);
        return -1;
    }
    if (out->limits == Py_None) {
        out->limits = NULL;
    }
    return 0;
}

int core_parse_three(const char *function, const char *first, PyObject *const *args,
                     Py_ssize_t nargs, PyObject *kwnames, core_key_cost *out)
{
    return parse_arguments(function, first, "cost", true, args, nargs, kwnames, out);
}

int core_parse_pair(const char *function, const char *first, const char *second,
                    PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, core_key_cost *out)
{
    return parse_arguments(function, first, second, false, args, nargs, kwnames, out);
}

#define PAIR "(capacity, refill_rate)"
#define WINDOW "(count, window_s, sliding)"
#define GENERAL "(capacity, refill_rate or window_s, kind, count_denied, unit, zone)"

/* A limit as it is given, checked by the engine. */
typedef struct given_limit {
    double capacity;
    double refill_rate; /* of a bucket, */
    long long window_s; /* and of a window */
    const char *kind;
    const char *unit;
    PyObject *zone; /* borrowed; bytes, or NULL */
    int counts_denied;
} given_limit;

static int word_index(const char *word, const char *const *words, int n)
{
    for (int i = 0; i < n; i++) {
        if (strcmp(word, words[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static int refuse_limit(PyObject *limit, const char *what)
{
    Py_ssize_t n = PyTuple_GET_SIZE(limit);
    PyErr_Format(PyExc_ValueError, "%s is out of range in %s = %R", what,
                 n == 2   ? PAIR
                 : n == 3 ? WINDOW
                          : GENERAL,
                 limit);
    return -1;
}

/* Read a calendar window: a unit, and a zone that belongs to it. */
static int init_calendar(PyObject *limit, const given_limit *given, rl_limit *out,
                         rl_status *status)
{
    static const char *const units[] = {"", "day", "week", "month", "year"}; /* as rl_unit */
    int unit = word_index(given->unit, units, 5);
    if (unit < 0) {
        return refuse_limit(limit, "unit");
    }
    const rl_zone *zone = (const void *)PyBytes_AS_STRING(given->zone);
    if ((uintptr_t)zone % _Alignof(rl_zone) != 0 ||
        !rl_zone_is_valid(zone, (size_t)PyBytes_GET_SIZE(given->zone))) {
        return refuse_limit(limit, "zone");
    }
    *status = rl_window_init_calendar(out, given->capacity, given->window_s, (rl_unit)unit, zone);
    return 0;
}

static int init_limit(PyObject *limit, const given_limit *given, rl_limit *out, rl_status *status)
{
    static const char *const kinds[] = {"bucket", "fixed", "first", "sliding"};
    int kind = word_index(given->kind, kinds, 4);
    bool has_unit = given->unit[0] != 0;
    if (kind < 0 || (has_unit && kind != 1)) {
        return refuse_limit(limit, "kind");
    }
    if (has_unit) {
        return init_calendar(limit, given, out, status);
    }
    switch (kind) {
    case 0:
        *status = rl_limit_init(out, given->capacity, given->refill_rate);
        break;
    case 2:
        *status = rl_window_init_first(out, given->capacity, given->window_s);
        break;
    default:
        *status = rl_window_init(out, kind == 3, given->capacity, given->window_s);
    }
    return 0;
}

static int read_limit(PyObject *limit, given_limit *given)
{
    PyObject *amount;
    int sliding;
    *given = (given_limit){.kind = "bucket", .unit = ""};
    switch (PyTuple_GET_SIZE(limit)) {
    case 3:
        if (!PyArg_ParseTuple(limit, "dLp:limit", &given->capacity, &given->window_s, &sliding)) {
            return -1;
        }
        given->kind = sliding ? "sliding" : "fixed";
        return 0;
    case 6:
        if (!PyArg_ParseTuple(limit, "dOspsS:limit", &given->capacity, &amount, &given->kind,
                              &given->counts_denied, &given->unit, &given->zone)) {
            return -1;
        }
        if (strcmp(given->kind, "bucket") == 0) {
            given->refill_rate = PyFloat_AsDouble(amount);
        } else {
            given->window_s = PyLong_AsLongLong(amount);
        }
        return PyErr_Occurred() ? -1 : 0;
    default:
        return PyArg_ParseTuple(limit, "dd:limit", &given->capacity, &given->refill_rate) ? 0 : -1;
    }
}

int core_parse_limit(PyObject *limit, rl_limit *out)
{
    given_limit given;
    rl_status status = RL_OK;
    if (!PyTuple_Check(limit)) {
        PyErr_Format(PyExc_TypeError,
                     "a limit must be a tuple " PAIR " or " WINDOW ", or " GENERAL ", not %.200s",
                     Py_TYPE(limit)->tp_name);
        return -1;
    }
    if (read_limit(limit, &given) < 0 || init_limit(limit, &given, out, &status) < 0) {
        return -1;
    }
    bool is_bucket = strcmp(given.kind, "bucket") == 0;
    if (status == RL_ECAPACITY) {
        return refuse_limit(limit, is_bucket ? "capacity" : "count");
    }
    if (status == RL_ERATE) {
        return refuse_limit(limit, is_bucket ? "refill_rate" : "window_s");
    }
    out->counts_denied = given.counts_denied != 0;
    return 0;
}

PyObject *core_limit_zones(PyObject *limits)
{
    Py_ssize_t n = PyTuple_GET_SIZE(limits);
    PyObject *zones = PyTuple_New(n);
    for (Py_ssize_t i = 0; zones != NULL && i < n; i++) {
        PyObject *limit = PyTuple_GET_ITEM(limits, i); /* borrowed */
        PyObject *zone = PyTuple_GET_SIZE(limit) == 6 ? PyTuple_GET_ITEM(limit, 5) : Py_None;
        PyTuple_SET_ITEM(zones, i, Py_NewRef(zone));
    }
    return zones;
}
