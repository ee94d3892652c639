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

/* Return the time of lump number i, from 0. The last one stands at the last request. */
static int64_t lump_ns(const rl_run *run, uint64_t i)
{
    uint64_t steps = run->count / run->lump - 1;
    if (i >= steps) {
        return run->last_ns;
    }
    rl_u128 length = (uint64_t)(run->last_ns - run->first_ns);
    return run->first_ns + (int64_t)(length * i / steps);
}

/* Return the units that came after `edge_ns`, by lump_ns(). */
static uint64_t run_after(const rl_run *run, int64_t edge_ns)
{
    if (run->count == 0 || run->last_ns <= edge_ns) {
        return 0;
    }
    if (run->first_ns > edge_ns) {
        return run->count;
    }
    uint64_t steps = run->count / run->lump - 1;
    uint64_t length = (uint64_t)(run->last_ns - run->first_ns);
    rl_u128 passed = (rl_u128)((uint64_t)(edge_ns - run->first_ns) + 1) * steps;
    return run->count - (uint64_t)((passed + length - 1) / length) * run->lump;
}

/* Return the first edge after which at least `units` fewer come than after `edge_ns`. */
static int64_t run_edge_ns(const rl_run *run, int64_t edge_ns, uint64_t units)
{
    uint64_t gone = run->count - run_after(run, edge_ns) + units;
    return lump_ns(run, (gone - 1) / run->lump);
}

/* Return the part of a run after `edge_ns`, with `units` (at most as many) fewer. */
static rl_run run_without(const rl_run *run, int64_t edge_ns, uint64_t units)
{
    uint64_t after = run_after(run, edge_ns);
    if (units == after) {
        return (rl_run){0};
    }
    return (rl_run){
        .count = after - units,
        .lump = greatest_common_divisor(run->lump, units),
        .first_ns = lump_ns(run, (run->count - after) / run->lump),
        .last_ns = run->last_ns,
    };
}

static int64_t run_number(const rl_limit *limit, const rl_run *run)
{
    return run->last_ns / limit->window_ns;
}

/* ---- both -------------------------------------------------------------------------- */

static rl_sliding all_now(const rl_limit *limit, const rl_sliding *kept, int64_t wall_ns)
{
    const rl_run *newest = kept->current.count != 0 ? &kept->current : &kept->previous;
    uint64_t used = rl_sliding_used(limit, kept, newest->last_ns);
    return (rl_sliding){.current = {used, 1, wall_ns, wall_ns}};
}

rl_sliding rl_sliding_at(const rl_limit *limit, const rl_sliding *kept, int64_t wall_ns)
{
    if ((kept->current.count | kept->previous.count) == 0) {
        return (rl_sliding){.current = {0}};
    }
    int64_t number = kept->current.count != 0 ? run_number(limit, &kept->current)
                                              : run_number(limit, &kept->previous) + 1;
    int64_t age = wall_ns / limit->window_ns - number;
    if (age < 0) {
        return all_now(limit, kept, wall_ns);
    }
    if (age == 0) {
        return *kept;
    }
    return (rl_sliding){.previous = age == 1 ? kept->current : (rl_run){0}};
}

uint64_t rl_sliding_used(const rl_limit *limit, const rl_sliding *sliding, int64_t wall_ns)
{
    int64_t edge_ns = wall_ns - limit->window_ns;
    return run_after(&sliding->previous, edge_ns) + run_after(&sliding->current, edge_ns);
}

void rl_sliding_add(rl_sliding *sliding, int64_t wall_ns, uint64_t cost)
{
    rl_run *run = &sliding->current;
    if (cost == 0) {
        return;
    }
    if (run->count == 0) {
        *run = (rl_run){cost, cost, wall_ns, wall_ns};
        return;
    }
    run->count += cost;
    run->lump = greatest_common_divisor(run->lump, cost);
    run->last_ns = wall_ns > run->last_ns ? wall_ns : run->last_ns;
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
    if (sliding->current.count != 0) {
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

static rl_run run_load(uint64_t count, uint64_t lump, const uint64_t *times)
{
    rl_run run = {count, lump, (int64_t)times[0], (int64_t)times[1]};
    if (count == 0) {
        return (rl_run){0};
    }
    if (lump == 0 || lump > count) {
        run.lump = 1;
    }
    if (run.first_ns > run.last_ns) {
        run.first_ns = run.last_ns;
    }
    return run;
}

rl_sliding rl_sliding_load(const uint64_t *words)
{
    return (rl_sliding){
        .previous = run_load(words[4] >> 32, words[5] >> 32, words),
        .current = run_load(words[4] & UINT32_MAX, words[5] & UINT32_MAX, words + 2),
    };
}

void rl_sliding_store(const rl_sliding *sliding, uint64_t *words)
{
    words[0] = (uint64_t)sliding->previous.first_ns;
    words[1] = (uint64_t)sliding->previous.last_ns;
    words[2] = (uint64_t)sliding->current.first_ns;
    words[3] = (uint64_t)sliding->current.last_ns;
    words[4] = sliding->current.count | sliding->previous.count << 32;
    words[5] = sliding->current.lump | sliding->previous.lump << 32;
}
