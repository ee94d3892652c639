/* engine/meter.h -- how many decisions there were, how they ended, and how long they took.
 *
 * A histogram for what was denied and one for what was allowed. Recording is two
 * atomic additions, without a lock, from any thread. A meter may lie in a file: all
 * processes of a host that open it record into the same numbers, which outlive them.
 *
 *     decisions[allowed][i]    took at most rl_meter_bounds_ns[i], and more than the bound before
 *     decisions[allowed][RL_METER_BOUNDS]    took longer than the last bound */
#ifndef RL_ENGINE_METER_H
#define RL_ENGINE_METER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define RL_METER_BOUNDS 15

/* The number of the layout of a file. Count it up when rl_meter or a bound changes: it goes into
 * the names of files, so that processes of two versions never count into one. */
#define RL_METER_LAYOUT 1

typedef struct rl_meter {
    _Atomic uint64_t decisions[2][RL_METER_BOUNDS + 1]; /* [0]: denied, [1]: allowed */
    _Atomic uint64_t sum_ns;                            /* of all of them */
} rl_meter;

/* Ascending; from half a microsecond, a decision in memory, to a second. */
extern const int64_t rl_meter_bounds_ns[RL_METER_BOUNDS];

typedef enum rl_meter_status {
    RL_METER_OK,
    RL_METER_ESYSTEM, /* errno tells */
    RL_METER_EOWNER,  /* no plain file of this user that others cannot write */
    RL_METER_EOTHER,  /* something else is in the file */
} rl_meter_status;

/* Open the meter in a file, which is made where there is none. Close with
 * rl_meter_close. Other than RL_METER_OK: *out is NULL, and no new file is left. */
rl_meter_status rl_meter_open(const char *path, rl_meter **out);

/* NULL is fine. Only for a meter that rl_meter_open gave. */
void rl_meter_close(rl_meter *meter);

/* Count `n` decisions that ended alike and took `each_ns`; less than 0 counts as 0. */
static inline void rl_meter_record(rl_meter *meter, bool allowed, uint64_t n, int64_t each_ns)
{
    unsigned i = 0;
    while (i < RL_METER_BOUNDS && each_ns > rl_meter_bounds_ns[i]) {
        i++;
    }
    uint64_t sum_ns = each_ns > 0 ? (uint64_t)each_ns * n : 0;
    atomic_fetch_add_explicit(&meter->decisions[allowed][i], n, memory_order_relaxed);
    atomic_fetch_add_explicit(&meter->sum_ns, sum_ns, memory_order_relaxed);
}

#endif
