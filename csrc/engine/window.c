#include "engine/window.h"

#include <math.h>

#define NS_PER_S INT64_C(1000000000)

rl_status rl_window_init(rl_limit *limit, bool sliding, double count, int64_t window_s)
{
    /* Written so that NaN fails too. */
    if (!(count >= 1 && count <= RL_WINDOW_COUNT_MAX && floor(count) == count)) {
        return RL_ECAPACITY;
    }
    if (window_s < 1 || window_s > RL_WINDOW_S_MAX) {
        return RL_ERATE;
    }
    *limit = (rl_limit){
        .kind = sliding ? RL_SLIDING_WINDOW : RL_FIXED_WINDOW,
        .capacity = count,
        .refill_rate = count / (double)window_s,
        .unit = 1,
        .cap = (uint64_t)count,
        .horizon_ns = RL_NEVER,
        .window_ns = window_s * NS_PER_S,
    };
    return RL_OK;
}

rl_window rl_window_at(const rl_limit *limit, rl_window kept, int64_t wall_ns)
{
    int64_t number = wall_ns / limit->window_ns;
    rl_window window = {number, kept.current, kept.previous};
    if (number - kept.number == 1) {
        window.previous = kept.current;
        window.current = 0;
    } else if (number > kept.number) {
        window.previous = 0;
        window.current = 0;
    }
    if (limit->kind == RL_FIXED_WINDOW) {
        window.previous = 0;
    }
    return window;
}

/* Return how much of the previous window is in the stretch that ends now. */
static int64_t overlap_ns(const rl_limit *limit, int64_t wall_ns)
{
    return limit->window_ns - wall_ns % limit->window_ns;
}

uint64_t rl_window_used(const rl_limit *limit, rl_window window, int64_t wall_ns)
{
    if (window.previous == 0) {
        return window.current;
    }
    uint64_t length = (uint64_t)limit->window_ns;
    rl_u128 weighted = (rl_u128)window.previous * (uint64_t)overlap_ns(limit, wall_ns);
    return window.current + (uint64_t)((weighted + length - 1) / length);
}

rl_window rl_window_add(rl_window window, uint64_t cost)
{
    const uint64_t most = 2 * (uint64_t)RL_WINDOW_COUNT_MAX;
    window.current = cost < most - window.current ? window.current + cost : most;
    return window;
}

rl_window rl_window_subtract(rl_window window, uint64_t cost)
{
    uint64_t from_current = cost < window.current ? cost : window.current;
    uint64_t rest = cost - from_current;
    window.current -= from_current;
    window.previous -= rest < window.previous ? rest : window.previous;
    return window;
}

/* Return the shortest time after which count * overlap / window is at most `room`. The
 * overlap gets shorter with time. */
static int64_t window_wait_ns(const rl_limit *limit, uint64_t count, int64_t overlap, uint64_t room)
{
    rl_u128 bearable = (rl_u128)room * (uint64_t)limit->window_ns / count;
    return bearable < (rl_u128)overlap ? overlap - (int64_t)bearable : 0;
}

static int64_t retry_after_ns(const rl_limit *limit, rl_window window, int64_t overlap,
                              uint64_t cost)
{
    if (cost > limit->cap) {
        return RL_NEVER;
    }
    uint64_t room = limit->cap - cost; /* the most that may be used already */
    if (limit->kind == RL_FIXED_WINDOW) {
        /* A debt stays with its window. */
        return window.current > room ? overlap : 0;
    }
    if (window.current <= room) {
        return window.previous == 0
                   ? 0
                   : window_wait_ns(limit, window.previous, overlap, room - window.current);
    }
    return window_wait_ns(limit, window.current, overlap + limit->window_ns, room);
}

static int64_t reset_after_ns(const rl_limit *limit, rl_window window, int64_t overlap)
{
    if (limit->kind == RL_FIXED_WINDOW) {
        return overlap;
    }
    if (window.current != 0) {
        return overlap + limit->window_ns;
    }
    return window.previous != 0 ? overlap : 0;
}

rl_decision rl_window_decision(const rl_limit *limit, rl_window window, int64_t wall_ns,
                               uint64_t cost, bool allowed)
{
    uint64_t used = rl_window_used(limit, window, wall_ns);
    int64_t overlap = overlap_ns(limit, wall_ns);
    return (rl_decision){
        .allowed = allowed,
        .limit = limit->capacity,
        .remaining = used < limit->cap ? (double)(limit->cap - used) : 0,
        .retry_after_ns = allowed ? 0 : retry_after_ns(limit, window, overlap, cost),
        .reset_after_ns = reset_after_ns(limit, window, overlap),
    };
}
