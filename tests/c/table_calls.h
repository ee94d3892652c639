/* table_calls.h -- calls of a table that a random number chooses. */
#ifndef TABLE_CALLS_H
#define TABLE_CALLS_H

#include "engine/table.h"

/* Bytes that were overwritten may change any result, but each decision must be one. */
static inline bool call_table(rl_table *table, const rl_limit *limits, size_t n, uint64_t random,
                              rl_time now)
{
    uint64_t number = random % 64, costs[RL_LIMITS_MAX], debts[RL_LIMITS_MAX];
    rl_key key = rl_table_key(table, &number, sizeof number);
    rl_decision decision = {0}, each[RL_LIMITS_MAX] = {{0}};
    bool allowed = false;
    double tokens = (double)(random >> 8 & 15);
    for (size_t i = 0; i < n; i++) {
        costs[i] = rl_limit_cost(&limits[i], tokens);
        debts[i] = rl_limit_charge(&limits[i], tokens);
    }
    switch (random >> 16 & 15) {
    case 0:
        rl_table_charge(table, key, debts, now, &decision);
        break;
    case 1:
        rl_table_refund(table, key, debts, now);
        break;
    case 2:
        rl_table_reset(table, key);
        break;
    case 3:
        return rl_table_sweep(table, now).keys <= rl_table_sweep(table, now).slots;
    case 4:
        rl_table_peek(table, key, costs, now, &decision, each);
        break;
    case 5:
        rl_table_block(table, key, (int64_t)(random >> 20), now);
        break;
    default:
        rl_table_take(table, key, costs, now, &allowed, &decision, each);
    }
    return decision.retry_after_ns >= 0 && decision.reset_after_ns >= 0 &&
           decision.remaining >= 0 && decision.remaining <= decision.limit;
}

#endif
