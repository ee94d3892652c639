/* check.h -- a minimal test harness: CHECK conditions, then report from main. */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/alloc.h"

static _Atomic unsigned long checks_done; /* also used by threads */
static _Atomic unsigned long checks_failed;

#define CHECK(condition) check((condition), __FILE__, __LINE__, #condition)
#define CHECK_EQUAL(a, b)                                                                          \
    check_equal((intmax_t)(a), (intmax_t)(b), __FILE__, __LINE__, #a " == " #b)

static inline void check(int holds, const char *file, int line, const char *what)
{
    checks_done++;
    if (!holds && checks_failed++ < 20) {
        printf("%s:%d: does not hold: %s\n", file, line, what);
    }
}

static inline void check_equal(intmax_t a, intmax_t b, const char *file, int line, const char *what)
{
    checks_done++;
    if (a != b && checks_failed++ < 20) {
        printf("%s:%d: does not hold: %s: %jd, %jd\n", file, line, what, a, b);
    }
}

static inline int report(const char *name)
{
    printf("%s: %lu checks, %lu failed\n", name, (unsigned long)checks_done,
           (unsigned long)checks_failed);
    return checks_failed != 0 || checks_done == 0;
}

/* Deterministic random numbers: splitmix64 (Steele, Lea, Flood, 2014). */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ---- the allocator's seam: alloc_seam.c ------------------------------------- */

/* From now on allocation number `first` (from 0) and the `count` - 1 after it fail.
 * count 0: none fails. */
void seam_fail(unsigned long first, unsigned long count);

/* Return the allocations since seam_fail, and the blocks not freed yet. */
unsigned long seam_calls(void);
long seam_live_blocks(void);

#endif
