#include "engine/sliding.h"

/* ---- one run --------------------------------------------------------------------- */

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static uint64_t run_count(const rl_run *run)
{
    return run->n_lumps * run->lump;
}

/* Return true if a run has the time of each lump. */
static bool run_is_exact(const rl_run *run)
{
    return run->n_lumps <= run->n_times;
}

static int64_t run_last_ns(const rl_run *run)
{
    return run->times_ns[run_is_exact(run) ? run->n_lumps - 1 : 1];
}

/* Return the time of number i of n that are evenly spaced; one alone stands at the last. */
static int64_t spaced_ns(int64_t first_ns, int64_t last_ns, uint64_t i, uint64_t n)
{
    if (i >= n - 1) {
        return last_ns;
    }
    rl_u128 length = (uint64_t)(last_ns - first_ns);
    return first_ns + (int64_t)(length * i / (n - 1));
}

/* Return the time of lump number i, from 0. */
static int64_t lump_ns(const rl_run *run, uint64_t i)
{
    return run_is_exact(run) ? run->times_ns[i]
                             : spaced_ns(run->times_ns[0], run->times_ns[1], i, run->n_lumps);
}

/* Return how many lumps came up to `edge_ns`, by lump_ns(). */
static uint64_t lumps_until(const rl_run *run, int64_t edge_ns)
{
    uint64_t n = 0;
    if (run_is_exact(run)) {
        while (n < run->n_lumps && run->times_ns[n] <= edge_ns) {
            n++;
        }
        return n;
    }
    if (run->times_ns[0] > edge_ns) {
        return 0;
    }
    uint64_t length = (uint64_t)(run->times_ns[1] - run->times_ns[0]);
    rl_u128 passed = (rl_u128)((uint64_t)(edge_ns - run->times_ns[0]) + 1) * (run->n_lumps - 1);
    return (uint64_t)((passed + length - 1) / length);
}

/* Return the units that came after `edge_ns`. */
static uint64_t run_after(const rl_run *run, int64_t edge_ns)
{
    if (run->n_lumps == 0 || run_last_ns(run) <= edge_ns) {
        return 0;
    }
    return (run->n_lumps - lumps_until(run, edge_ns)) * run->lump;
}

/* Return the first edge after which at least `units` fewer come than after `edge_ns`. */
static int64_t run_edge_ns(const rl_run *run, int64_t edge_ns, uint64_t units)
{
    uint64_t gone = run_count(run) - run_after(run, edge_ns) + units;
    return lump_ns(run, (gone - 1) / run->lump);
}

/* Return a run of `count` units of another, from unit `skip` on, with this lump (a divisor of
 * the other's) and this room for times. Those of a run that is not exact end at its last. */
static rl_run run_part(const rl_run *run, uint64_t skip, uint64_t count, uint64_t lump,
                       unsigned n_times)
{
    rl_run part = {.n_lumps = count / lump, .lump = lump, .n_times = n_times};
    bool exact = run_is_exact(run);
    int64_t first_ns = lump_ns(run, skip / run->lump);
    int64_t last_ns = exact ? lump_ns(run, (skip + count - 1) / run->lump) : run_last_ns(run);
    if (!run_is_exact(&part)) {
        part.times_ns[0] = first_ns;
        part.times_ns[1] = last_ns;
        return part;
    }
    for (uint64_t i = 0; i < part.n_lumps; i++) {
        part.times_ns[i] = exact ? lump_ns(run, (skip + i * lump) / run->lump)
                                 : spaced_ns(first_ns, last_ns, i, part.n_lumps);
    }
    return part;
}

/* Return the part of a run after `edge_ns`, with `units` (at most as many) fewer. */
static rl_run run_without(const rl_run *run, int64_t edge_ns, uint64_t units)
{
    uint64_t after = run_after(run, edge_ns);
    if (units == after) {
        return (rl_run){.n_times = run->n_times};
    }
    return run_part(run, run_count(run) - after, after - units,
                    greatest_common_divisor(run->lump, units), run->n_times);
}

/* Return the part of a run after `edge_ns`, without its oldest `units` (at most as many). */
static rl_run run_without_oldest(const rl_run *run, int64_t edge_ns, uint64_t units)
{
    uint64_t after = run_after(run, edge_ns);
    if (units == after) {
        return (rl_run){.n_times = run->n_times};
    }
    return run_part(run, run_count(run) - after + units, after - units,
                    greatest_common_divisor(run->lump, units), run->n_times);
}

/* Return the run with `cost` units more, which come at the end. */
static rl_run run_with(const rl_run *run, int64_t now_ns, uint64_t cost)
{
    if (run->n_lumps == 0) {
        return (rl_run){1, cost, run->n_times, {now_ns}};
    }
    uint64_t lump = greatest_common_divisor(run->lump, cost);
    rl_run more = run_part(run, 0, run_count(run), lump, run->n_times);
    uint64_t n_before = more.n_lumps;
    more.n_lumps += cost / lump;
    now_ns = now_ns > run_last_ns(run) ? now_ns : run_last_ns(run);
    if (!run_is_exact(&more)) {
        more.times_ns[1] = now_ns;
        return more;
    }
    for (uint64_t i = n_before; i < more.n_lumps; i++) {
        more.times_ns[i] = now_ns;
    }
    return more;
}

static int64_t run_number(const rl_limit *limit, const rl_run *run)
{
    return run_last_ns(run) / limit->window_ns;
}

/* ---- both -------------------------------------------------------------------------- */

static rl_sliding none_of(const rl_limit *limit)
{
    unsigned n_times = rl_sliding_times(limit);
    return (rl_sliding){.previous = {.n_times = n_times}, .current = {.n_times = n_times}};
}

static rl_sliding all_now(const rl_limit *limit, const rl_sliding *kept, int64_t wall_ns)
{
    const rl_run *newest = kept->current.n_lumps != 0 ? &kept->current : &kept->previous;
    uint64_t used = rl_sliding_used(limit, kept, run_last_ns(newest));
    rl_sliding sliding = none_of(limit);
    rl_sliding_add(&sliding, wall_ns, used);
    return sliding;
}

/* Let no request of a run have come after now. */
static void run_clamp(rl_run *run, int64_t now_ns)
{
    for (unsigned i = 0; i < run->n_times; i++) {
        run->times_ns[i] = run->times_ns[i] < now_ns ? run->times_ns[i] : now_ns;
    }
}

static bool run_is_ahead(const rl_run *run, int64_t wall_ns)
{
    return run->n_lumps != 0 && run_last_ns(run) > wall_ns + RL_CLOCK_SLACK_NS;
}

bool rl_sliding_is_ahead(const rl_sliding *kept, int64_t wall_ns)
{
    return run_is_ahead(&kept->current, wall_ns) || run_is_ahead(&kept->previous, wall_ns);
}

rl_sliding rl_sliding_at(const rl_limit *limit, const rl_sliding *kept, int64_t wall_ns)
{
    rl_sliding sliding = none_of(limit);
    if ((kept->current.n_lumps | kept->previous.n_lumps) == 0) {
        return sliding;
    }
    int64_t number = kept->current.n_lumps != 0 ? run_number(limit, &kept->current)
                                                : run_number(limit, &kept->previous) + 1;
    int64_t age = wall_ns / limit->window_ns - number;
    if (age < 0) {
        return all_now(limit, kept, wall_ns);
    }
    if (age == 0) {
        sliding = *kept;
        if (rl_sliding_is_ahead(kept, wall_ns)) {
            run_clamp(&sliding.previous, wall_ns);
            run_clamp(&sliding.current, wall_ns);
        }
        return sliding;
    }
    if (age == 1) {
        sliding.previous = kept->current;
    }
    return sliding;
}

uint64_t rl_sliding_used(const rl_limit *limit, const rl_sliding *sliding, int64_t wall_ns)
{
    int64_t edge_ns = wall_ns - limit->window_ns;
    return run_after(&sliding->previous, edge_ns) + run_after(&sliding->current, edge_ns);
}

void rl_sliding_add(rl_sliding *sliding, int64_t wall_ns, uint64_t cost)
{
    if (cost != 0) {
        sliding->current = run_with(&sliding->current, wall_ns, cost);
    }
}

void rl_sliding_subtract(const rl_limit *limit, rl_sliding *sliding, int64_t wall_ns, uint64_t cost)
{
    int64_t edge_ns = wall_ns - limit->window_ns;
    uint64_t after = run_after(&sliding->current, edge_ns);
    uint64_t from_current = cost < after ? cost : after;
    sliding->current = run_without(&sliding->current, edge_ns, from_current);
    after = run_after(&sliding->previous, edge_ns);
    cost -= from_current;
    sliding->previous = run_without(&sliding->previous, edge_ns, cost < after ? cost : after);
}

void rl_sliding_drop(const rl_limit *limit, rl_sliding *sliding, int64_t wall_ns, uint64_t units)
{
    int64_t edge_ns = wall_ns - limit->window_ns;
    uint64_t older = run_after(&sliding->previous, edge_ns);
    uint64_t from_previous = units < older ? units : older;
    if (from_previous != 0) {
        sliding->previous = run_without_oldest(&sliding->previous, edge_ns, from_previous);
    }
    if (units > from_previous) {
        sliding->current = run_without_oldest(&sliding->current, edge_ns, units - from_previous);
    }
}

/* ---- decisions ----------------------------------------------------------------------- */

static int64_t retry_after_ns(const rl_limit *limit, const rl_sliding *sliding, int64_t wall_ns,
                              uint64_t cost)
{
    uint64_t used = rl_sliding_used(limit, sliding, wall_ns);
    if (cost > limit->cap) {
        return RL_NEVER;
    }
    if (used <= limit->cap - cost) {
        return 0;
    }
    int64_t edge_ns = wall_ns - limit->window_ns;
    uint64_t need = used - (limit->cap - cost);
    uint64_t older = run_after(&sliding->previous, edge_ns);
    return need <= older ? run_edge_ns(&sliding->previous, edge_ns, need) - edge_ns
                         : run_edge_ns(&sliding->current, edge_ns, need - older) - edge_ns;
}

static int64_t reset_after_ns(const rl_limit *limit, const rl_sliding *sliding, int64_t wall_ns)
{
    int64_t left_ns = rl_window_left_ns(limit, wall_ns);
    if (sliding->current.n_lumps != 0) {
        return left_ns + limit->window_ns;
    }
    return run_after(&sliding->previous, wall_ns - limit->window_ns) != 0 ? left_ns : 0;
}

rl_decision rl_sliding_decision(const rl_limit *limit, const rl_sliding *sliding, int64_t wall_ns,
                                uint64_t cost, bool allowed)
{
    uint64_t used = rl_sliding_used(limit, sliding, wall_ns);
    return (rl_decision){
        .allowed = allowed,
        .limit = limit->capacity,
        .remaining = used < limit->cap ? (double)(limit->cap - used) : 0,
        .retry_after_ns = allowed ? 0 : retry_after_ns(limit, sliding, wall_ns, cost),
        .reset_after_ns = reset_after_ns(limit, sliding, wall_ns),
    };
}

/* ---- words ---------------------------------------------------------------------------- */

/* Keeps differences of times far from the end of int64_t. */
#define TIME_NS_MAX ((uint64_t)INT64_MAX / 2)

/* A word of a file may be anything; no request came at a time that is none. */
static int64_t time_load(uint64_t word)
{
    return word <= TIME_NS_MAX ? (int64_t)word : 0;
}

/* Let no time be before an earlier one. */
static void run_sort(rl_run *run)
{
    if (!run_is_exact(run)) {
        run->times_ns[0] =
            run->times_ns[0] < run->times_ns[1] ? run->times_ns[0] : run->times_ns[1];
        return;
    }
    for (uint64_t i = 1; i < run->n_lumps; i++) {
        if (run->times_ns[i] < run->times_ns[i - 1]) {
            run->times_ns[i] = run->times_ns[i - 1];
        }
    }
}

static rl_run run_load(unsigned n_times, uint64_t n_lumps, uint64_t lump, const uint64_t *times)
{
    bool fits = lump != 0 && n_lumps * lump <= UINT32_MAX;
    rl_run run = {.n_lumps = n_lumps, .lump = fits ? lump : 1, .n_times = n_times};
    for (unsigned i = 0; i < n_times; i++) {
        run.times_ns[i] = time_load(times[i]);
    }
    run_sort(&run);
    return run;
}

rl_sliding rl_sliding_load(const rl_limit *limit, const uint64_t *words)
{
    unsigned n_times = rl_sliding_times(limit);
    const uint64_t *counts = words + 2 * n_times;
    return (rl_sliding){
        .previous = run_load(n_times, counts[0] >> 32, counts[1] >> 32, words),
        .current =
            run_load(n_times, counts[0] & UINT32_MAX, counts[1] & UINT32_MAX, words + n_times),
    };
}

void rl_sliding_store(const rl_sliding *sliding, uint64_t *words)
{
    unsigned n_times = sliding->current.n_times;
    uint64_t *counts = words + 2 * n_times;
    for (unsigned i = 0; i < n_times; i++) {
        words[i] = (uint64_t)sliding->previous.times_ns[i];
        words[n_times + i] = (uint64_t)sliding->current.times_ns[i];
    }
    counts[0] = sliding->current.n_lumps | sliding->previous.n_lumps << 32;
    counts[1] = sliding->current.lump | sliding->previous.lump << 32;
}

static rl_run run_fit(const rl_run *run, unsigned n_times)
{
    if (run->n_lumps == 0) {
        return (rl_run){.n_times = n_times};
    }
    return run_part(run, 0, run_count(run), run->lump, n_times);
}

rl_sliding rl_sliding_fit(const rl_limit *limit, const rl_sliding *sliding)
{
    unsigned n_times = rl_sliding_times(limit);
    return (rl_sliding){run_fit(&sliding->previous, n_times), run_fit(&sliding->current, n_times)};
}
