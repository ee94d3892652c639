/* limiter.c -- Limiter: limits, a clock and a table, as a Python type. Its methods are in
 * limiter_methods.c. */
#include "python/limiter.h"
#include "engine/shared.h"

static int limiter_set_clock(limiter_object *self, PyObject *clock)
{
    if (clock == NULL) {
        self->clock_kind = CLOCK_KIND_MONOTONIC;
        return 0;
    }
    if (PyObject_TypeCheck(clock, self->state->clock_type) || PyCallable_Check(clock)) {
        bool is_manual = PyObject_TypeCheck(clock, self->state->clock_type);
        rl_time now;
        self->clock_kind = is_manual ? CLOCK_KIND_MANUAL : CLOCK_KIND_CALLABLE;
        self->clock = Py_NewRef(clock);
        return limiter_now(self, &now); /* a callable that returns no time fails here */
    }
    if (PyUnicode_Check(clock) && PyUnicode_CompareWithASCIIString(clock, "monotonic") == 0) {
        self->clock_kind = CLOCK_KIND_MONOTONIC;
        return 0;
    }
#ifdef CORE_COARSE_CLOCK
    if (PyUnicode_Check(clock) && PyUnicode_CompareWithASCIIString(clock, "coarse") == 0) {
        self->clock_kind = CLOCK_KIND_COARSE;
        return 0;
    }
#endif
    PyErr_Format(PyExc_ValueError,
                 "clock must be 'monotonic', 'coarse' (where the system has one), a ManualClock or "
                 "a callable that returns seconds, got %R",
                 clock);
    return -1;
}

/* ---- life ------------------------------------------------------------------ */

static PyObject *limiter_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                             PyObject *Py_UNUSED(kwargs))
{
    core_state *state = core_state_of(type);
    PyObject *self = state == NULL ? NULL : type->tp_alloc(type, 0);
    if (self != NULL) {
        limiter_of(self)->state = state;
    }
    return self;
}

/* Take limits such as those of GivenLimits: a table for calls that give such. */
static int limiter_set_any(limiter_object *self, const given_limits_object *given)
{
    rl_limit_set any;
    rl_limit_set_init_any(&any, &given->set);
    self->n_limits = any.n;
    self->has_windows = given->has_windows;
    self->zones = Py_NewRef(given->zones);
    for (size_t i = 0; i < any.n; i++) {
        self->limits[i] = any.limits[i];
        self->one[i] = rl_limit_cost(&any.limits[i], 1);
    }
    return 0;
}

static int limiter_set_limits(limiter_object *self, PyObject *limits)
{
    if (Py_TYPE(limits) == self->state->given_type) {
        return limiter_set_any(self, (given_limits_object *)limits);
    }
    PyObject *pairs = PySequence_Tuple(limits);
    if (pairs == NULL) {
        return -1;
    }
    Py_ssize_t n = PyTuple_GET_SIZE(pairs);
    int status = 0;
    if (n < 1 || n > RL_TABLE_LIMITS_MAX) {
        PyErr_Format(PyExc_ValueError, "expected 1 to %d limits, got %zd", RL_TABLE_LIMITS_MAX, n);
        status = -1;
    }
    for (Py_ssize_t i = 0; status == 0 && i < n; i++) {
        status = core_parse_limit(PyTuple_GET_ITEM(pairs, i), &self->limits[i]);
        if (status == 0) {
            self->one[i] = rl_limit_cost(&self->limits[i], 1);
            self->has_windows |= rl_is_window(&self->limits[i]);
        }
    }
    if (status == 0) {
        self->n_limits = (size_t)n;
        self->zones = core_limit_zones(pairs);
        status = self->zones != NULL ? 0 : -1;
    }
    Py_DECREF(pairs);
    return status;
}

/* Return true if this limiter can take over the entries of another one. */
static bool is_of_same_kinds(const limiter_object *self, const limiter_object *other)
{
    bool same = self->n_limits == other->n_limits;
    for (size_t i = 0; same && i < self->n_limits; i++) {
        same = self->limits[i].kind == other->limits[i].kind;
    }
    return same;
}

/* Check the limiter whose keys this one starts with. 0, or -1 with an exception set. */
static int limiter_check_kept(const limiter_object *self, const limiter_object *other, bool shared)
{
    if (!limiter_ready(other)) {
        return -1;
    }
    if (rl_table_is_shared(other->table) != shared) {
        PyErr_SetString(PyExc_ValueError,
                        "keep must be a limiter in shared memory with a path, and else in memory");
        return -1;
    }
    if (!is_of_same_kinds(self, other) || self->clock_kind != other->clock_kind) {
        PyErr_SetString(PyExc_ValueError,
                        "keep must be a limiter with limits of the same kinds in the same "
                        "order, and the same clock");
        return -1;
    }
    return 0;
}

static void limiter_raise_no_boot_id(void)
{
    int number = errno;
    PyObject *text =
        PyUnicode_FromFormat("%s, and without the boot id it is unknown whether a file "
                             "in shared memory is from before the last boot",
                             strerror(number));
    PyObject *error =
        text == NULL ? NULL
                     : PyObject_CallFunction(PyExc_OSError, "iOs", number, text, RL_BOOT_ID_PATH);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    }
    Py_XDECREF(error);
    Py_XDECREF(text);
}

/* Raise the exception for a file that was not opened. */
static void limiter_raise_shared(rl_shared_status status, PyObject *path)
{
    switch (status) {
    case RL_SHARED_EINTR: /* a signal handler has raised one */
        break;
    case RL_SHARED_ENOMEM:
        PyErr_NoMemory();
        break;
    case RL_SHARED_EBOOT:
        limiter_raise_no_boot_id();
        break;
    case RL_SHARED_EOWNER:
        PyErr_Format(PyExc_PermissionError,
                     "%R must be a plain file that its user alone can read and write", path);
        break;
    case RL_SHARED_EOTHER:
        PyErr_Format(PyExc_ValueError,
                     "%R was made for other limits or another max_keys, or is something else: "
                     "remove it, or take another path",
                     path);
        break;
    case RL_SHARED_ENOWHERE:
        PyErr_SetString(PyExc_RuntimeError, "shared memory needs Linux");
        break;
    default:
        PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    }
}

/* Open the table in a file. Another process may have it locked for as long as it is stopped, so
 * signals are handled while it waits. 0, or -1 with an exception set. */
static int limiter_open_table(limiter_object *self, size_t max_keys, PyObject *keep, PyObject *path)
{
    rl_table *kept = keep != Py_None ? limiter_of(keep)->table : NULL;
    PyObject *name = NULL; /* strong; bytes */
    rl_shared_status status;
    if (!PyUnicode_FSConverter(path, &name)) {
        return -1;
    }
    do {
        rl_time now;
        if (limiter_now(self, &now) < 0) {
            Py_DECREF(name);
            return -1;
        }
        Py_BEGIN_ALLOW_THREADS status =
            rl_shared_open(PyBytes_AS_STRING(name), self->limits, self->n_limits, max_keys, kept,
                           now, &self->table);
        Py_END_ALLOW_THREADS
    } while (status == RL_SHARED_EINTR && PyErr_CheckSignals() == 0);
    if (status != RL_SHARED_OK) {
        limiter_raise_shared(status, path);
    }
    Py_DECREF(name);
    return status == RL_SHARED_OK ? 0 : -1;
}

static int limiter_make_table(limiter_object *self, size_t max_keys, PyObject *keep)
{
    rl_secret secret;
    rl_time now;
    if (limiter_now(self, &now) < 0) {
        return -1;
    }
    if (keep != Py_None) {
        self->table = rl_table_renew(limiter_of(keep)->table, self->limits, now);
    } else if (rl_secret_init(&secret) != RL_OK) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    } else {
        self->table = rl_table_new(self->limits, self->n_limits, max_keys, secret);
    }
    if (self->table == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static int limiter_make_any_table(limiter_object *self, size_t max_keys, PyObject *keep,
                                  PyObject *path)
{
    if (keep != Py_None && limiter_check_kept(self, limiter_of(keep), path != Py_None) < 0) {
        return -1;
    }
    return path == Py_None ? limiter_make_table(self, max_keys, keep)
                           : limiter_open_table(self, max_keys, keep, path);
}

static int limiter_refuse_second_init(const limiter_object *self)
{
    if (self->table != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a limiter cannot be initialised twice");
        return -1;
    }
    return 0;
}

/* Move everything from `made`, which must not be used afterwards. */
static void limiter_adopt(limiter_object *self, const limiter_object *made)
{
    self->n_limits = made->n_limits;
    self->zones = made->zones;
    memcpy(self->limits, made->limits, sizeof self->limits);
    memcpy(self->one, made->one, sizeof self->one);
    self->has_windows = made->has_windows;
    self->waiters_first = made->waiters_first;
    self->clock_kind = made->clock_kind;
    self->clock = made->clock;
    self->table = made->table;
}

static int limiter_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limits", "max_keys", "clock", "keep", "path", "waiters_first", NULL};
    limiter_object *self = limiter_of(object);
    PyObject *limits;
    Py_ssize_t max_keys = 1000000;
    PyObject *clock = NULL;
    PyObject *keep = Py_None;
    PyObject *path = Py_None;
    int waiters_first = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$nOOOp:Limiter", names, &limits, &max_keys,
                                     &clock, &keep, &path, &waiters_first)) {
        return -1;
    }
    if (limiter_refuse_second_init(self) < 0) {
        return -1;
    }
    if (max_keys < 1 || (size_t)max_keys > RL_TABLE_KEYS_MAX) {
        PyErr_Format(PyExc_ValueError, "max_keys must be within 1 and %zu, got %zd",
                     RL_TABLE_KEYS_MAX, max_keys);
        return -1;
    }
    if (keep != Py_None && !PyObject_TypeCheck(keep, self->state->limiter_type)) {
        PyErr_Format(PyExc_TypeError, "keep must be a Limiter or None, not %.200s",
                     Py_TYPE(keep)->tp_name);
        return -1;
    }
    /* Converting limits and paths can run Python code, which may call __init__ again. So everything
     * is made in a second object, and the limiter is checked once more at the end. */
    limiter_object made = {.state = self->state, .waiters_first = waiters_first != 0};
    if (limiter_set_limits(&made, limits) < 0 || limiter_set_clock(&made, clock) < 0 ||
        limiter_make_any_table(&made, (size_t)max_keys, keep, path) < 0 ||
        limiter_refuse_second_init(self) < 0) {
        rl_table_free(made.table);
        Py_XDECREF(made.zones);
        Py_XDECREF(made.clock);
        return -1;
    }
    limiter_adopt(self, &made);
    if (keep != Py_None) {
        limiter_share_tables(self, limiter_of(keep));
    }
    return 0;
}

static int limiter_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(limiter_of(self)->zones);
    Py_VISIT(limiter_of(self)->clock);
    for (size_t i = 0; i < LIMITER_TABLES_MAX; i++) {
        Py_VISIT(atomic_load_explicit(&limiter_of(self)->given[i], memory_order_relaxed));
    }
    return 0;
}

/* A callable may refer to its limiter. A method that runs after this, such as in a finalizer, reads
 * another clock. Limits and a meter are in no cycle, and methods need them to the end. */
static int limiter_clear(PyObject *object)
{
    limiter_object *self = limiter_of(object);
    if (self->clock_kind == CLOCK_KIND_CALLABLE || self->clock_kind == CLOCK_KIND_MANUAL) {
        self->clock_kind = CLOCK_KIND_MONOTONIC;
        Py_CLEAR(self->clock);
    }
    return 0;
}

static void limiter_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    rl_table_free(limiter_of(self)->table);
    for (size_t i = 0; i < LIMITER_TABLES_MAX; i++) {
        Py_XDECREF((PyObject *)atomic_load(&limiter_of(self)->given[i]));
    }
    Py_XDECREF(limiter_of(self)->zones);
    Py_XDECREF(limiter_of(self)->clock);
    Py_XDECREF(limiter_of(self)->measured_by);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot limiter_slots[] = {
    {Py_tp_doc,
     PyDoc_STR(
         "Limiter(limits, *, max_keys=1000000, clock='monotonic', keep=None, path=None, "
         "waiters_first=False)\n--\n\n"
         "Limit by token buckets and windows in the memory of this process.\n\n"
         "limits: 1 to MAX_LIMITS tuples (capacity in tokens, refill_rate in tokens/s), or\n"
         "(count, window_s, sliding) of a window, or (capacity or count, refill_rate or window_s,\n"
         "kind, count_denied, unit, zone), see Limit.for_engine; or GivenLimits: then it has the\n"
         "table for calls of another limiter that give limits of the same kinds.\n"
         "max_keys: about how many keys may be in use at once. clock: 'monotonic',\n"
         "'coarse', or a ManualClock or a callable that returns seconds (float or int >= 0),\n"
         "which windows use as the wall clock. keep: a Limiter\n"
         "whose keys this one starts with, instead of max_keys; with a path, if the file is new.\n"
         "path: a file that holds the table, shared by all processes of this host.\n"
         "waiters_first: allow() and hit() call _behind_waiters(key, cost) of a subclass first,\n"
         "and deny if it returns a tuple (a Decision, and one of each limit). Raises OSError, PermissionError or\n"
         "ValueError for a file that cannot be used, ValueError for a value out of range,\n"
         "MemoryError, and OSError when the system has no random numbers.")},
    {Py_tp_new, limiter_new},
    {Py_tp_init, limiter_init},
    {Py_tp_dealloc, limiter_dealloc},
    {Py_tp_traverse, limiter_traverse},
    {Py_tp_clear, limiter_clear},
    {Py_tp_methods, limiter_methods},
    {0, NULL},
};

PyType_Spec limiter_spec = {
    .name = "rate_limiter._core.Limiter",
    .basicsize = sizeof(limiter_object),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = limiter_slots,
};
