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

rl_decision rl_window_decision(const rl_limit *limit, rl_window window, int64_t wall_ns,
                               uint64_t cost, bool allowed)
{
    int64_t left_ns = rl_window_left_ns(limit, wall_ns);
    return (rl_decision){
        .allowed = allowed,
        .limit = limit->capacity,
        .remaining = window.count < limit->cap ? (double)(limit->cap - window.count) : 0,
        .retry_after_ns = allowed ? 0 : retry_after_ns(limit, window, left_ns, cost),
        .reset_after_ns = left_ns,
    };
}
