/* engine/meter.h -- how many decisions there were, how they ended, and how long they took.
 *
 * One histogram for denied decisions and one for allowed ones. Recording is two
 * atomic additions, without a lock, from any thread. A meter can be in a file: all
 * processes of a host that open it record into the same numbers, which outlive them.
 *
 *     decisions[allowed][i]    took at most rl_meter_bounds_ns[i], and more than the bound before
 *     decisions[allowed][RL_METER_BOUNDS]    took longer than the last bound */
#ifndef RL_ENGINE_METER_H
#define RL_ENGINE_METER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/file.h"

#define RL_METER_BOUNDS 15

/* The number of the layout of a file. Increase it when rl_meter or a bound changes: it is part of
 * the file names, so processes of two versions never share a file. */
#define RL_METER_LAYOUT 1

typedef struct rl_meter {
    _Atomic uint64_t decisions[2][RL_METER_BOUNDS + 1]; /* [0]: denied, [1]: allowed */
    _Atomic uint64_t sum_ns;                            /* of all of them */
} rl_meter;

/* Ascending; from half a microsecond, a decision in memory, to a second. */
extern const int64_t rl_meter_bounds_ns[RL_METER_BOUNDS];

/* Open the meter in a file, as rl_file_map. Close with rl_meter_close. */
rl_file_status rl_meter_open(const char *path, rl_meter **out);

/* Close a meter of rl_meter_open. NULL is fine. */
void rl_meter_close(rl_meter *meter);

/* Count `n` decisions with the same result that took `each_ns` each; less than 0 counts as 0. */
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
