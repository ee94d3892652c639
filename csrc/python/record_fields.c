/* record_fields.c -- the header fields that describe the tightest limit of a record. */
#include "python/path.h"

#include <time.h>

static int64_t verdict_window_s(const verdict_object *verdict)
{
    for (Py_ssize_t i = 0; i < Py_SIZE(verdict); i++) {
        if (decision_equals(&verdict->each[i], &verdict->decision)) {
            return verdict_limit(verdict, i).window_s;
        }
    }
    return 0;
}

int record_spread(record_object *self, const rl_field_style *style, double *out)
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
    for (const verdict_object *one = self->first; one != NULL; one = one->next) {
        n += (size_t)Py_SIZE(one);
    }
    return n;
}

/* The states of the limits of all verdicts with fields. */
static size_t copy_limits(const record_object *self, rl_limit_state *out)
{
    size_t n = 0;
    for (const verdict_object *one = self->first; one != NULL; one = one->next) {
        for (Py_ssize_t j = 0; verdict_has_fields(one) && j < Py_SIZE(one); j++) {
            out[n++] = verdict_limit(one, j);
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

static PyObject *field_value(const rl_text *value, request_kind kind)
{
    if (kind == REQUEST_ASGI) {
        return PyBytes_FromStringAndSize(value->data, (Py_ssize_t)value->len);
    }
    PyObject *text = PyUnicode_New((Py_ssize_t)value->len, 127); /* fields are ASCII */
    if (text != NULL) {
        memcpy(PyUnicode_1BYTE_DATA(text), value->data, value->len);
    }
    return text;
}

#ifndef Py_GIL_DISABLED
static bool pair_has_value(PyObject *pair, request_kind kind, const rl_text *value)
{
    PyObject *object = PyTuple_GET_ITEM(pair, 1);
    size_t len =
        (size_t)(kind == REQUEST_ASGI ? PyBytes_GET_SIZE(object) : PyUnicode_GET_LENGTH(object));
    const void *data = kind == REQUEST_ASGI ? (const void *)PyBytes_AS_STRING(object)
                                            : (const void *)PyUnicode_1BYTE_DATA(object);
    return len == value->len && memcmp(data, value->data, len) == 0;
}
#endif

/* Return a field as a pair: a new reference, or NULL with an exception set. The last pair of each
 * name is kept, as most responses have the same limit and the same time until it resets; without the GIL threads
 * would have to lock it. */
static PyObject *field_pair(core_state *state, request_kind kind, const rl_field *field)
{
    core_name first = kind == REQUEST_ASGI ? NAME_HEADER_LIMIT : NAME_FIELD_LIMIT;
#ifndef Py_GIL_DISABLED
    PyObject **last = &state->last_pairs[kind][field->name];
    if (*last != NULL && pair_has_value(*last, kind, &field->value)) {
        return Py_NewRef(*last);
    }
#endif
    PyObject *value = field_value(&field->value, kind);
    PyObject *pair =
        value != NULL ? PyTuple_Pack(2, state->names[(int)first + (int)field->name], value) : NULL;
    Py_XDECREF(value);
#ifndef Py_GIL_DISABLED
    if (pair != NULL) {
        Py_XSETREF(*last, Py_NewRef(pair));
    }
#endif
    return pair;
}

int core_append_field(core_state *state, PyObject *headers, request_kind kind,
                      const rl_field *field)
{
    PyObject *pair = field_pair(state, kind, field);
    int status = pair != NULL ? PyList_Append(headers, pair) : -1;
    Py_XDECREF(pair);
    return status;
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
