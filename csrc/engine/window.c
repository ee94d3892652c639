#include "engine/window.h"

#include <math.h>

#define NS_PER_S INT64_C(1000000000)

rl_status rl_window_init(rl_limit *limit, bool sliding, double count, int64_t window_s)
{
    /* Written so that NaN fails too. */
    if (!(count >= 0 && count <= RL_WINDOW_COUNT_MAX && floor(count) == count)) {
        return RL_ECAPACITY;
    }
    if (window_s < 1 || window_s > RL_WINDOW_S_MAX) {
        return RL_ERATE;
    }
    *limit = (rl_limit){
        .kind = sliding ? RL_SLIDING_WINDOW : RL_FIXED_WINDOW,
        .capacity = fabs(count), /* no -0 */
        .refill_rate = count / (double)window_s,
        .unit = 1,
        .cap = (uint64_t)count,
        .horizon_ns = RL_NEVER,
        .window_ns = window_s * NS_PER_S,
    };
    return RL_OK;
}

rl_status rl_window_init_first(rl_limit *limit, double count, int64_t window_s)
{
    rl_status status = rl_window_init(limit, false, count, window_s);
    if (status == RL_OK) {
        limit->starts_first = true;
    }
    return status;
}

rl_status rl_window_init_calendar(rl_limit *limit, double count, int64_t window_s, rl_unit unit,
                                  const rl_zone *zone)
{
    rl_status status = rl_window_init(limit, false, count, window_s);
    if (status == RL_OK) {
        limit->calendar = (uint8_t)unit;
        limit->zone = zone;
    }
    return status;
}

bool rl_window_is_alike(const rl_limit *one, const rl_limit *other)
{
    return one->window_ns == other->window_ns && one->calendar == other->calendar &&
           one->starts_first == other->starts_first &&
           (one->calendar == RL_NO_UNIT || rl_zone_equals(one->zone, other->zone));
}

/* A stored begin may be anything: one before 1970 was never written. */
static rl_window first_at(const rl_limit *limit, rl_window kept, int64_t wall_ns)
{
    bool has_ended =
        kept.number < 0 || (kept.number <= wall_ns && wall_ns - kept.number >= limit->window_ns);
    if (kept.count == 0 || has_ended) {
        return (rl_window){wall_ns, 0};
    }
    return (rl_window){kept.number < wall_ns ? kept.number : wall_ns, kept.count};
}

static int64_t window_number(const rl_limit *limit, int64_t wall_ns)
{
    return limit->calendar != RL_NO_UNIT
               ? rl_calendar_span(limit->zone, (rl_unit)limit->calendar, wall_ns / NS_PER_S).start_s
               : wall_ns / limit->window_ns;
}

rl_window rl_window_at(const rl_limit *limit, rl_window kept, int64_t wall_ns)
{
    if (limit->starts_first) {
        return first_at(limit, kept, wall_ns);
    }
    int64_t number = window_number(limit, wall_ns);
    return (rl_window){number, number > kept.number ? 0 : kept.count};
}

rl_window rl_window_add(rl_window window, uint64_t cost)
{
    const uint64_t most = 2 * (uint64_t)RL_WINDOW_COUNT_MAX;
    uint64_t room = window.count < most ? most - window.count : 0;
    window.count = cost < room ? window.count + cost : most;
    return window;
}

rl_window rl_window_subtract(rl_window window, uint64_t cost)
{
    window.count -= cost < window.count ? cost : window.count;
    return window;
}

static int64_t retry_after_ns(const rl_limit *limit, rl_window window, int64_t left_ns,
                              uint64_t cost)
{
    if (cost > limit->cap) {
        return RL_NEVER;
    }
    /* A debt stays with its window. */
    return window.count > limit->cap - cost ? left_ns : 0;
}

/* Return the time until a window ends; 0 for one that has not begun. */
static int64_t window_left_ns(const rl_limit *limit, rl_window window, int64_t wall_ns)
{
    if (limit->starts_first) {
        return window.count != 0 ? window.number + limit->window_ns - wall_ns : 0;
    }
    if (limit->calendar != RL_NO_UNIT) {
        rl_calendar_window span =
            rl_calendar_span(limit->zone, (rl_unit)limit->calendar, wall_ns / NS_PER_S);
        return span.end_s < RL_NEVER / NS_PER_S ? span.end_s * NS_PER_S - wall_ns : RL_NEVER;
    }
    return rl_window_left_ns(limit, wall_ns);
}

rl_decision rl_window_decision(const rl_limit *limit, rl_window window, int64_t wall_ns,
                               uint64_t cost, bool allowed)
{
    int64_t left_ns = window_left_ns(limit, window, wall_ns);
    return (rl_decision){
        .allowed = allowed,
        .limit = limit->capacity,
        .remaining = window.count < limit->cap ? (double)(limit->cap - window.count) : 0,
        .retry_after_ns = allowed ? 0 : retry_after_ns(limit, window, left_ns, cost),
        .reset_after_ns = left_ns,
    };
}
