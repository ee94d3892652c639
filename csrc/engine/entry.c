#include "engine/entry.h"

#include <math.h>

void rl_limit_set_init(rl_limit_set *set, const rl_limit *limits, size_t n)
{
    *set = (rl_limit_set){.n = n, .horizon_ns = RL_NEVER};
    for (size_t i = 0; i < n; i++) {
        set->limits[i] = limits[i];
        set->first_word[i] = (uint8_t)set->n_words;
        set->n_words += rl_is_window(&limits[i]) ? RL_WINDOW_WORDS : 1;
        if (limits[i].horizon_ns < set->horizon_ns) {
            set->horizon_ns = limits[i].horizon_ns;
        }
    }
}

rl_decision rl_entry_describe_one(const rl_moment *moment, const rl_found *found, size_t i,
                                  uint64_t cost, bool allowed)
{
    const rl_limit *limit = &moment->set->limits[i];
    if (rl_is_window(limit)) {
        return rl_window_decision(limit, found->windows[i], moment->now.wall_ns, cost, allowed);
    }
    rl_tap tap = rl_limit_tap(limit, moment->now.steady_ns);
    return rl_limit_decision(limit, tap, found->deficits[i], cost, allowed);
}

rl_decision rl_entry_describe(const rl_moment *moment, const rl_found *found, const uint64_t *costs,
                              bool allowed)
{
    rl_decision tightest = {0};
    for (size_t i = 0; i < moment->set->n; i++) {
        bool passed =
            allowed || rl_bucket_allows(&moment->set->limits[i], found->deficits[i], costs[i]);
        rl_decision one = rl_entry_describe_one(moment, found, i, costs[i], passed);
        if (i == 0 || rl_decision_tells_more(&one, &tightest)) {
            tightest = one;
        }
    }
    return tightest;
}

/* ---- converting to another set -------------------------------------------------- */

static uint64_t converted_deficit(const rl_limit *from, int64_t steady_ns, uint64_t deficit,
                                  const rl_limit *to)
{
    int64_t wait_ns = rl_limit_wait_ns(from, rl_limit_tap(from, steady_ns), deficit);
    uint64_t most = rl_limit_most(to);
    double expected; /* units; only shows whether the exact count is in range */
    if (wait_ns == RL_NEVER || to->mult == 0) {
        expected = ceil((double)deficit * from->unit / to->unit);
        return expected < (double)most ? (uint64_t)expected : most;
    }
    expected = (double)wait_ns * to->refill_rate / 1e9 / to->unit;
    if (expected >= (double)most) {
        return most;
    }
    int64_t full_ns = wait_ns < RL_NEVER - steady_ns ? steady_ns + wait_ns : RL_NEVER;
    uint64_t exact = rl_limit_units(to, full_ns) - rl_limit_units(to, steady_ns);
    return exact < most ? exact : most;
}

void rl_entry_convert(const rl_moment *from, const uint64_t *words, const rl_moment *to,
                      uint64_t *out)
{
    for (size_t i = 0; i < from->set->n; i++) {
        const rl_limit *before = &from->set->limits[i];
        const rl_limit *after = &to->set->limits[i];
        const uint64_t *given = words + from->set->first_word[i];
        uint64_t *made = out + to->set->first_word[i];
        if (!rl_is_window(before)) {
            uint64_t deficit = rl_bucket_deficit(*given, from->units[i]);
            *made = to->units[i] + converted_deficit(before, from->now.steady_ns, deficit, after);
        } else {
            rl_window kept = rl_window_load(given);
            rl_window_store(before->window_ns == after->window_ns ? kept : (rl_window){0}, made);
        }
    }
}
