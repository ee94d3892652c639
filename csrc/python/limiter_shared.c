/* limiter_shared.c -- what the methods of a Limiter need with limits and without: its clock, and those
 * who wait for a key. */
#include <time.h>

#include "python/limiter.h"

/* ---- time ------------------------------------------------------------------ */

static int64_t system_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

#if defined(CLOCK_REALTIME_COARSE)
#define COARSE_WALL_CLOCK CLOCK_REALTIME_COARSE
#else
#define COARSE_WALL_CLOCK CLOCK_REALTIME
#endif

/* The time by a clock that is an object. */
static int limiter_now_by_object(const limiter_object *self, rl_time *now)
{
    int64_t now_ns = 0;
    if (self->clock_kind == CLOCK_KIND_MANUAL) {
        now_ns = clock_now_ns(self->clock);
    } else if (clock_call_ns(self->clock, &now_ns) < 0) {
        return -1;
    }
    *now = (rl_time){now_ns, now_ns};
    return 0;
}

int limiter_now_by_any(const limiter_object *self, rl_time *now)
{
    clockid_t steady = CLOCK_MONOTONIC;
    clockid_t wall = CLOCK_REALTIME;
    if (self->clock != NULL) {
        return limiter_now_by_object(self, now);
    }
#ifdef CORE_COARSE_CLOCK
    if (self->clock_kind == CLOCK_KIND_COARSE) {
        steady = CORE_COARSE_CLOCK;
        wall = COARSE_WALL_CLOCK;
    }
#endif
    *now = (rl_time){system_ns(steady), self->has_windows ? system_ns(wall) : 0};
    return 0;
}

/* ---- who waits ------------------------------------------------------------- */

PyObject *limiter_behind(limiter_object *self, const core_key_cost *args)
{
    if (!self->waiters_first) {
        return NULL;
    }
    int64_t from_ns = core_steady_ns();
    PyObject *name = self->state->names[NAME_BEHIND_WAITERS];
    PyObject *cost = args->cost != NULL ? args->cost : self->state->one;
    PyObject *denial =
        PyObject_CallMethodObjArgs((PyObject *)self, name, args->key, cost, args->limits, NULL);
    if (denial == Py_None) {
        Py_CLEAR(denial);
    } else if (denial != NULL && !PyTuple_Check(denial)) {
        PyErr_SetString(PyExc_TypeError, "_behind_waiters() must return a tuple or None");
        Py_CLEAR(denial);
    }
    core_meter *meter = atomic_load_explicit(&self->meter, memory_order_acquire);
    if (denial != NULL && meter != NULL) {
        core_meter_record(meter, args->key, 0, false, from_ns, core_steady_ns());
    }
    return denial;
}

int limiter_read_denial(const limiter_object *self, PyObject *denial, size_t n, rl_decision *out,
                        rl_decision *each)
{
    int status = 0;
    if (PyTuple_GET_SIZE(denial) != (Py_ssize_t)n + 1) {
        PyErr_SetString(PyExc_TypeError,
                        "_behind_waiters() must return one Decision more than limits");
        status = -1;
    }
    for (size_t i = 0; status == 0 && i <= n; i++) {
        const rl_decision *value =
            decision_value(self->state, PyTuple_GET_ITEM(denial, (Py_ssize_t)i));
        rl_decision *place = i == 0 ? out : each != NULL ? &each[i - 1] : NULL;
        if (value != NULL && place != NULL) {
            *place = *value;
        }
        status = value != NULL ? 0 : -1;
    }
    Py_DECREF(denial);
    return status;
}

void limiter_wake_waiters(limiter_object *self, PyObject *key)
{
    PyObject *args[] = {(PyObject *)self, key};
    PyObject *woken = PyObject_VectorcallMethod(self->state->names[NAME_WAKE], args, 2, NULL);
    if (woken == NULL) { /* who waits looks again later */
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(woken);
}
