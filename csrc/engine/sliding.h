/* engine/sliding.h -- sliding windows: a count in the stretch of one window that ends now.
 *
 * Windows are cut as in engine/window.h. For the present window and the one before it, a
 * run keeps how many requests were counted and when the first and the last of them came:
 *
 *            previous              current
 *     ──|──────f─────l───|──────f────l──x─────|──>   x = now
 *              |<──────── window ──────>|
 *
 * A request counts for one window after it came. Those of a run are taken as evenly spaced
 * from the first to the last, so a run of one or two, and every run of a steady caller, is
 * exact. `lump` is the greatest common divisor of their costs: requests of the same cost
 * count and leave whole.
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
 * In a table a sliding window takes six words, whatever its count: the times of both runs,
 * current | previous << 32 of the counts, and the same of the lumps. Its number is that of
 * its newest request. A window without counts is the same as no window. */
#ifndef RL_ENGINE_SLIDING_H
#define RL_ENGINE_SLIDING_H

#include "engine/window.h"

#define RL_SLIDING_WORDS 6

/* The requests counted in one window. */
typedef struct rl_run {
    uint64_t count; /* of units, a multiple of the lump; 0: empty, and all else is 0 */
    uint64_t lump;
    int64_t first_ns; /* since 1970 */
    int64_t last_ns;
} rl_run;

typedef struct rl_sliding {
    rl_run previous;
    rl_run current;
} rl_sliding;

/* Return the runs of the present window and the one before it. A clock that stepped back to
 * an earlier window frees nothing: all counted requests then count as of now. */
rl_sliding rl_sliding_at(const rl_limit *limit, const rl_sliding *kept, int64_t wall_ns);

/* Return how much of the limit is used; `sliding` is the present one, here and below. */
uint64_t rl_sliding_used(const rl_limit *limit, const rl_sliding *sliding, int64_t wall_ns);

/* Count a request of `cost` units, which with those in use are at most rl_limit_most. */
void rl_sliding_add(rl_sliding *sliding, int64_t wall_ns, uint64_t cost);

/* Give `cost` units back, the newest first. The others of their run count until its last
 * request leaves, if they are no more than one lump, else evenly spaced up to it. */
void rl_sliding_subtract(const rl_limit *limit, rl_sliding *sliding, int64_t wall_ns,
                         uint64_t cost);

/* Describe the window after a request of this cost was allowed (it is then counted) or
 * denied. retry_after is exact; reset_after is the time to the end of the window in which
 * nothing counts any more. */
rl_decision rl_sliding_decision(const rl_limit *limit, const rl_sliding *sliding, int64_t wall_ns,
                                uint64_t cost, bool allowed);

/* Unpack a sliding window from its words, and pack it. Runs are usable even if a process died
 * while it wrote them. */
rl_sliding rl_sliding_load(const uint64_t *words);
void rl_sliding_store(const rl_sliding *sliding, uint64_t *words);

#endif
