/* engine/window.h -- fixed and sliding windows: counters by the wall clock.
 *
 * Time is cut into windows of equal length, aligned to the epoch, so windows of a
 * minute begin with the minute (UTC). A fixed window allows a count in each:
 *
 *          window n-1      window n
 *     ──|──────────────|─────────x──────|──>        used = current
 *
 * and twice that around an edge. A sliding window allows it in the stretch of one
 * window that ends now. It assumes that the requests of the window before were spread
 * evenly:
 *
 *          previous        current
 *     ──|──────────────|─────────x──────|──>        used = current
 *                 |<── window ──>|                         + previous * overlap / window
 *                 overlap
 *
 * rounded up. With that, in any stretch of time t it never admits more than
 * count * (1 + t / window): b requests after an edge and a before it satisfy
 * b + a * overlap / window <= count when the last of them passes, so a + b <=
 * count + a * (window - overlap) / window.
 *
 * Both use rl_limit like the bucket: the unit is one request, the cap is the count.
 * In a table a window takes two words: its number, and current | previous << 32.
 * A window without counts is the same as no window. */
#ifndef RL_ENGINE_WINDOW_H
#define RL_ENGINE_WINDOW_H

#include "engine/bucket.h"

#define RL_WINDOW_WORDS 2
#define RL_WINDOW_COUNT_MAX 2e9    /* requests in a window */
#define RL_WINDOW_S_MAX 1000000000 /* 31 years */

/* Counts of the present window and the one before it. */
typedef struct rl_window {
    int64_t number; /* windows that have ended since 1970 */
    uint64_t current;
    uint64_t previous; /* of a fixed window always 0 */
} rl_window;

/* Check `count` (whole, 1 to RL_WINDOW_COUNT_MAX) and `window_s` (1 to
 * RL_WINDOW_S_MAX) and prepare *limit. On RL_ECAPACITY or RL_ERATE (the window is
 * out of range) *limit is not written. */
rl_status rl_window_init(rl_limit *limit, bool sliding, double count, int64_t window_s);

/* Return the present window, with the counts of a stored one that still matter. A clock
 * that stepped back to an earlier window frees nothing: the counts move with it. */
rl_window rl_window_at(const rl_limit *limit, rl_window kept, int64_t wall_ns);

/* Return how much of the limit is used; `window` is the present one. */
uint64_t rl_window_used(const rl_limit *limit, rl_window window, int64_t wall_ns);

/* Return the window with `cost` more, or less. A refund beyond the current count goes to
 * the previous one. A count stays below twice RL_WINDOW_COUNT_MAX. */
rl_window rl_window_add(rl_window window, uint64_t cost);
rl_window rl_window_subtract(rl_window window, uint64_t cost);

/* Describe the present window after a request of this cost was allowed (the window
 * then includes it) or denied. reset_after is the time to the end of a fixed window, or
 * until a sliding one counts nothing. */
rl_decision rl_window_decision(const rl_limit *limit, rl_window window, int64_t wall_ns,
                               uint64_t cost, bool allowed);

/* Unpack a window from its two words, and pack it. */
static inline rl_window rl_window_load(const uint64_t *words)
{
    return (rl_window){(int64_t)words[0], words[1] & UINT32_MAX, words[1] >> 32};
}

static inline void rl_window_store(rl_window window, uint64_t *words)
{
    words[0] = (uint64_t)window.number;
    words[1] = window.current | window.previous << 32;
}

#endif
