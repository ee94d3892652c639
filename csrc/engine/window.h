/* engine/window.h -- fixed windows: a counter by the wall clock.
 *
 * Time is cut into windows of equal length, aligned to the epoch, so windows of a
 * minute begin with the minute (UTC), or into days, weeks, months or years of a calendar
 * (engine/calendar.h). A fixed window allows a count in each:
 *
 *          window n-1      window n
 *     ──|──────────────|─────────x──────|──>        used = count of window n
 *
 * and twice that around an edge. A window that starts first has no edges of a clock: it
 * begins with the first request that counts after the last one has ended.
 *
 * For the count in the stretch of one window that ends now see engine/sliding.h, whose limits
 * are made here too.
 *
 * Both use rl_limit like the bucket: the unit is one request, the cap is the count.
 * In a table a fixed window takes two words: its number and its count. A window without
 * a count is the same as no window. */
#ifndef RL_ENGINE_WINDOW_H
#define RL_ENGINE_WINDOW_H

#include "engine/calendar.h"

#define RL_WINDOW_WORDS 2
#define RL_WINDOW_COUNT_MAX 2e9    /* requests in a window */
#define RL_WINDOW_S_MAX 1000000000 /* 31 years */
/* Processes read the clock at slightly different times; a state that is further ahead was written
 * before the clock was set back. */
#define RL_CLOCK_SLACK_NS INT64_C(100000000)

/* The count of the present window. */
typedef struct rl_window {
    /* Grows with each window: those that have ended since 1970, or its begin, in seconds of a
     * calendar and in nanoseconds of one that starts first. */
    int64_t number;
    uint64_t count;
} rl_window;

/* Check `count` (whole, 0 to RL_WINDOW_COUNT_MAX) and `window_s` (1 to
 * RL_WINDOW_S_MAX) and prepare *limit. On RL_ECAPACITY or RL_ERATE (the window is
 * out of range) *limit is not written. */
rl_status rl_window_init(rl_limit *limit, bool sliding, double count, int64_t window_s);

/* The same of a fixed window that starts first. */
rl_status rl_window_init_first(rl_limit *limit, double count, int64_t window_s);

/* The same of a calendar window. `zone` must outlive the limit and all copies of it; `window_s` is
 * only what rl_limit.window_ns becomes, to distinguish limits. */
rl_status rl_window_init_calendar(rl_limit *limit, double count, int64_t window_s, rl_unit unit,
                                  const rl_zone *zone);

/* Return true if the counts of one fixed or sliding window mean the same in the other. */
bool rl_window_is_alike(const rl_limit *one, const rl_limit *other);

/* Return the present window, with the count of a stored one that still matters. A clock
 * that stepped back to an earlier window frees nothing: the count moves with it. */
rl_window rl_window_at(const rl_limit *limit, rl_window kept, int64_t wall_ns);

/* Return true if a window was counted before the clock was set back. rl_window_at moves its count
 * to the present window. It must be written, also after a denial, or it would move again. */
static inline bool rl_window_is_ahead(const rl_limit *limit, rl_window kept, int64_t wall_ns)
{
    int64_t unit_ns = limit->starts_first             ? 1
                      : limit->calendar != RL_NO_UNIT ? INT64_C(1000000000)
                                                      : limit->window_ns;
    return kept.count != 0 && kept.number > (wall_ns + RL_CLOCK_SLACK_NS) / unit_ns;
}

/* Return the window with `cost` more, or less. A count stays below twice
 * RL_WINDOW_COUNT_MAX. */
rl_window rl_window_add(rl_window window, uint64_t cost);
rl_window rl_window_subtract(rl_window window, uint64_t cost);

/* Return the time until a window that is aligned to the epoch ends. */
static inline int64_t rl_window_left_ns(const rl_limit *limit, int64_t wall_ns)
{
    return limit->window_ns - wall_ns % limit->window_ns;
}

/* Describe the present window after a request of this cost was allowed (the window
 * then includes it) or denied. reset_after is the time to the end of the window, 0 for one
 * that starts first and has not begun. */
rl_decision rl_window_decision(const rl_limit *limit, rl_window window, int64_t wall_ns,
                               uint64_t cost, bool allowed);

/* Unpack a window from its two words, and pack it. */
static inline rl_window rl_window_load(const uint64_t *words)
{
    return (rl_window){(int64_t)words[0], words[1]};
}

static inline void rl_window_store(rl_window window, uint64_t *words)
{
    words[0] = (uint64_t)window.number;
    words[1] = window.count;
}

#endif
