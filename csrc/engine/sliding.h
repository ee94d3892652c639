/* engine/sliding.h -- sliding windows: a count in the stretch of one window that ends now.
 *
 * Windows are cut as in engine/window.h. For the present window and the one before it, a
 * run keeps how many requests were counted and when they came:
 *
 *            previous              current
 *     ──|──────f─────l───|──────f────l──x─────|──>   x = now
 *              |<──────── window ──────>|
 *
 * A request counts for one window after it came. A limit of up to RL_RUN_TIMES_MAX requests
 * keeps the time of each, so it is exact: in no stretch of one window more than its count.
 * Of larger ones only the first and the last time are kept, and those in between are taken
 * as evenly spaced, as they are for a steady caller. `lump` is the greatest common divisor
 * of the costs: requests of the same cost count and leave whole.
 *
 * Bound: in any stretch of time t a sliding window admits at most
 * count * (1 + t / window), as a full token bucket of that capacity and rate would, t being
 * measured to the next nanosecond because times are whole ones. Proof: let d be the deficit
 * of that bucket if it took the same requests; it is enough that d <= used, because used <=
 * count after each request. Only the run in which now - window falls can differ from what
 * really came. Let it hold n in a length L < window, let y be the time from its first
 * request to now - window, let `gone` of it have left, and let k have come by then really.
 *  - From a time after now - window on, at most n - lump of the run really count; gone -
 *    lump <= n * y / L, and y / L <= (y + window - L) / window, where y + window - L is the
 *    least age of its last request: what left too early, the bucket has refilled.
 *  - From an earlier time on, d <= d(now - window) + really counted - count. If the run is
 *    denser than the rate, d(now - window) <= count + count * (L - y) / window - (n - k),
 *    because d was at most count at the last request; else d(now - window) <= count - count
 *    * y / window + k - lump, because d was at most count at the first. Either way d <= used.
 *
 * In a table a sliding window takes six words, or with a count of 3 to RL_RUN_TIMES_MAX two
 * more for each (as for RL_RUN_TIMES_MAX if it keeps times): the times of both runs, current | previous << 32 of the numbers of lumps,
 * and the same of the lumps. Its number is that of its newest request. A window without counts is
 * the same as no window. */
#ifndef RL_ENGINE_SLIDING_H
#define RL_ENGINE_SLIDING_H

#include <stddef.h>

#include "engine/window.h"

#define RL_RUN_TIMES_MAX 8u

/* The requests counted in one window. */
typedef struct rl_run {
    uint64_t n_lumps; /* 0: empty */
    uint64_t lump;    /* units */
    unsigned n_times; /* room for times, of the limit */
    /* since 1970; of each lump if there is room for them, else of the first and the last */
    int64_t times_ns[RL_RUN_TIMES_MAX];
} rl_run;

typedef struct rl_sliding {
    rl_run previous;
    rl_run current;
} rl_sliding;

/* Return how many times a run of a limit has room for. */
static inline unsigned rl_sliding_times(const rl_limit *limit)
{
    if (limit->keeps_times) {
        return RL_RUN_TIMES_MAX;
    }
    return limit->cap > 2 && limit->cap <= RL_RUN_TIMES_MAX ? (unsigned)limit->cap : 2;
}

static inline size_t rl_sliding_words(const rl_limit *limit)
{
    return 2 * rl_sliding_times(limit) + 2;
}

/* Return the runs of the present window and the one before it. A clock that was set back frees
 * nothing, but no request counts for longer than a window: those that would come later came now.
 * If the clock is in an earlier window, all counted requests came now. */
rl_sliding rl_sliding_at(const rl_limit *limit, const rl_sliding *kept, int64_t wall_ns);

/* Return true if the newest request came before the clock was set back. The runs must be written,
 * as with rl_window_is_ahead. */
bool rl_sliding_is_ahead(const rl_sliding *kept, int64_t wall_ns);

/* Return how much of the limit is used; `sliding` is the present one, here and below. */
uint64_t rl_sliding_used(const rl_limit *limit, const rl_sliding *sliding, int64_t wall_ns);

/* Count a request of `cost` units, which with those in use are at most rl_limit_most. */
void rl_sliding_add(rl_sliding *sliding, int64_t wall_ns, uint64_t cost);

/* Give `cost` units back, the newest first. What is left of a run without the time of each is
 * evenly spaced up to its last time. */
void rl_sliding_subtract(const rl_limit *limit, rl_sliding *sliding, int64_t wall_ns,
                         uint64_t cost);

/* Drop `units` of those in use (at most as many), the oldest first. */
void rl_sliding_drop(const rl_limit *limit, rl_sliding *sliding, int64_t wall_ns, uint64_t units);

/* Describe the window after a request of this cost was allowed (it is then counted) or
 * denied. retry_after is exact; reset_after is the time to the end of the window in which
 * nothing counts any more. */
rl_decision rl_sliding_decision(const rl_limit *limit, const rl_sliding *sliding, int64_t wall_ns,
                                uint64_t cost, bool allowed);

/* Unpack a sliding window from its words, and pack it. Runs are usable even if a process died
 * while it wrote them. */
rl_sliding rl_sliding_load(const rl_limit *limit, const uint64_t *words);
void rl_sliding_store(const rl_sliding *sliding, uint64_t *words);

/* Return the same requests with the room for times that another limit has. */
rl_sliding rl_sliding_fit(const rl_limit *limit, const rl_sliding *sliding);

#endif
