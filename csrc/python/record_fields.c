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

/* ---- headers of a response ---------------------------------------------------------------------- */

static PyObject *text_object(const rl_text *text, request_kind kind)
{
    if (kind == REQUEST_ASGI) {
        return PyBytes_FromStringAndSize(text->data, (Py_ssize_t)text->len);
    }
    PyObject *object = PyUnicode_New((Py_ssize_t)text->len, 127); /* fields are ASCII */
    if (object != NULL) {
        memcpy(PyUnicode_1BYTE_DATA(object), text->data, text->len);
    }
    return object;
}

/* A field as a pair: a new reference, or NULL with an exception set. */
static PyObject *make_pair(const core_state *state, request_kind kind, const rl_field *field)
{
    core_name first = kind == REQUEST_ASGI ? NAME_HEADER_LIMIT : NAME_FIELD_LIMIT;
    char digits[RL_NUMBER_MAX];
    const rl_text text = rl_field_value(field, digits);
    PyObject *value = text_object(&text, kind);
    PyObject *pair =
        value != NULL ? PyTuple_Pack(2, state->names[(int)first + (int)field->name], value) : NULL;
    Py_XDECREF(value);
    return pair;
}

#ifdef Py_GIL_DISABLED

/* Threads would have to lock the last fields. */
static PyObject *field_pair(core_state *state, request_kind kind, const rl_field *field)
{
    return make_pair(state, kind, field);
}

#else

/* Stands for a text: no field has this number. */
#define NO_NUMBER INT64_MIN

static bool is_last(const core_last_field *last, request_kind kind, const rl_field *field)
{
    if (last->pair == NULL || field->is_number) {
        return last->pair != NULL && last->number == field->number;
    }
    PyObject *value = PyTuple_GET_ITEM(last->pair, 1);
    size_t len =
        (size_t)(kind == REQUEST_ASGI ? PyBytes_GET_SIZE(value) : PyUnicode_GET_LENGTH(value));
    const void *data = kind == REQUEST_ASGI ? (const void *)PyBytes_AS_STRING(value)
                                            : (const void *)PyUnicode_1BYTE_DATA(value);
    return len == field->text.len && memcmp(data, field->text.data, len) == 0;
}

/* Return a field as make_pair() does. The last pair of each name is kept, as most responses have the
 * same limit and the same time until it resets. */
static PyObject *field_pair(core_state *state, request_kind kind, const rl_field *field)
{
    core_last_field *last = &state->last_fields[kind][field->name];
    if (is_last(last, kind, field)) {
        return Py_NewRef(last->pair);
    }
    PyObject *pair = make_pair(state, kind, field);
    if (pair != NULL) {
        last->number = field->is_number ? field->number : NO_NUMBER;
        Py_XSETREF(last->pair, Py_NewRef(pair));
    }
    return pair;
}

#endif

static bool equals_ignoring_case(const char *name, Py_ssize_t len, const char *wanted)
{
    for (Py_ssize_t i = 0; i < len; i++) {
        if (Py_TOLOWER(name[i]) != Py_TOLOWER(wanted[i])) {
            return false;
        }
    }
    return true;
}

#define LENGTH(text) (sizeof text - 1)

static const Py_ssize_t FIELD_LENGTHS[RL_FIELD_EXPOSE] = {
    [RL_FIELD_LIMIT] = LENGTH("X-RateLimit-Limit"),
    [RL_FIELD_REMAINING] = LENGTH("X-RateLimit-Remaining"),
    [RL_FIELD_RESET] = LENGTH("X-RateLimit-Reset"),
    [RL_FIELD_POLICY] = LENGTH("RateLimit-Policy"),
    [RL_FIELD_STATE] = LENGTH("RateLimit"),
    [RL_FIELD_RETRY_AFTER] = LENGTH("Retry-After"),
    [RL_FIELD_CACHE_CONTROL] = LENGTH("Cache-Control"),
};

/* A bit for each of these lengths: most headers of applications have another one. */
static const uint64_t LENGTHS =
    UINT64_C(1) << LENGTH("X-RateLimit-Limit") | UINT64_C(1) << LENGTH("X-RateLimit-Remaining") |
    UINT64_C(1) << LENGTH("X-RateLimit-Reset") | UINT64_C(1) << LENGTH("RateLimit-Policy") |
    UINT64_C(1) << LENGTH("RateLimit") | UINT64_C(1) << LENGTH("Retry-After") |
    UINT64_C(1) << LENGTH("Cache-Control");

/* Mark a field by its name, bytes or str. */
static void mark_name(PyObject *name, bool present[RL_FIELD_COUNT])
{
    const char *text;
    Py_ssize_t len;
    if (PyBytes_Check(name)) {
        text = PyBytes_AS_STRING(name);
        len = PyBytes_GET_SIZE(name);
    } else if (PyUnicode_Check(name) && PyUnicode_IS_COMPACT_ASCII(name)) {
        text = (const char *)PyUnicode_1BYTE_DATA(name);
        len = PyUnicode_GET_LENGTH(name);
    } else {
        return;
    }
    if (len >= 64 || (LENGTHS >> len & 1) == 0) {
        return;
    }
    for (int i = 0; i < RL_FIELD_EXPOSE; i++) {
        if (len == FIELD_LENGTHS[i] && equals_ignoring_case(text, len, rl_field_names[i])) {
            present[i] = true;
            present[RL_FIELD_REMAINING] |= i == RL_FIELD_LIMIT;
            present[RL_FIELD_RESET] |= i == RL_FIELD_LIMIT;
        }
    }
}

/* Find the fields that the application has set among the first `n` headers of a list. */
static void find_present(PyObject *headers, Py_ssize_t n, bool present[RL_FIELD_COUNT])
{
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i); /* borrowed; the list is ours alone */
        if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
            mark_name(PyTuple_GET_ITEM(pair, 0), present);
        } else if (PyList_Check(pair) && PyList_GET_SIZE(pair) == 2) {
            mark_name(PyList_GET_ITEM(pair, 0), present);
        }
    }
}

/* Copy a list or tuple; the copy ends with `room` free places, behind *n items. */
static PyObject *copy_with_room(PyObject *given, Py_ssize_t room, Py_ssize_t *n)
{
    PyObject *copy;
    Py_ssize_t i = 0;
    LOCKED(given);
    Py_ssize_t most = PySequence_Fast_GET_SIZE(given);
    copy = PyList_New(most + room);
    /* A finalizer, which may run when memory is allocated, may have shortened the list. */
    for (; copy != NULL && i < most && i < PySequence_Fast_GET_SIZE(given); i++) {
        PyList_SET_ITEM(copy, i, Py_NewRef(PySequence_Fast_GET_ITEM(given, i)));
    }
    UNLOCKED;
    *n = i;
    return copy;
}

/* The same of any iterable; none are copied of NULL or None. */
static PyObject *copy_headers(PyObject *headers, Py_ssize_t room, Py_ssize_t *n)
{
    if (headers == NULL || headers == Py_None) {
        *n = 0;
        return PyList_New(room);
    }
    if (PyList_CheckExact(headers) || PyTuple_CheckExact(headers)) {
        return copy_with_room(headers, room, n);
    }
    PyObject *list = PySequence_List(headers);
    PyObject *copy = list != NULL ? copy_with_room(list, room, n) : NULL;
    Py_XDECREF(list);
    return copy;
}

PyObject *rendered_append(core_state *state, request_kind kind, PyObject *headers,
                          const rendered *rendered)
{
    bool present[RL_FIELD_COUNT] = {false};
    Py_ssize_t n;
    PyObject *all = copy_headers(headers, (Py_ssize_t)rendered->n, &n);
    if (all == NULL) {
        return NULL;
    }
    find_present(all, n, present);
    for (size_t i = 0; i < rendered->n; i++) {
        const rl_field *field = &rendered->fields[i];
        if (present[field->name]) {
            continue;
        }
        PyObject *pair = field_pair(state, kind, field);
        if (pair == NULL) {
            Py_DECREF(all);
            return NULL;
        }
        PyList_SET_ITEM(all, n++, pair);
    }
    Py_SET_SIZE(all, n); /* the other places are empty */
    return all;
}
