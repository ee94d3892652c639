/* python/clock.h -- the clocks that limiters read. */
#ifndef RL_PYTHON_CLOCK_H
#define RL_PYTHON_CLOCK_H

#include <time.h>

#include "python/core.h"

/* The time of the steady clock. */
static inline int64_t core_steady_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The time of a ManualClock. */
int64_t clock_now_ns(PyObject *clock);

/* Cheaper to read than the exact clock, in steps of some milliseconds. */
#if defined(CLOCK_MONOTONIC_COARSE)
#define CORE_COARSE_CLOCK CLOCK_MONOTONIC_COARSE
#elif defined(CLOCK_MONOTONIC_RAW_APPROX)
#define CORE_COARSE_CLOCK CLOCK_MONOTONIC_RAW_APPROX
#endif

/* Call a callable that returns the time in seconds. 0, or -1 with an exception set: that of the
 * callable, or TypeError or ValueError that shows what it returned. */
int clock_call_ns(PyObject *clock, int64_t *now_ns);

/* The clock that a limiter reads. */
typedef enum clock_kind {
    CLOCK_KIND_MONOTONIC,
    CLOCK_KIND_COARSE,
    CLOCK_KIND_MANUAL,
    CLOCK_KIND_CALLABLE,
} clock_kind;

#endif
