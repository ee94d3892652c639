/* engine/together.h -- requests to several tables that all pass, or take nothing. */
#ifndef RL_ENGINE_TOGETHER_H
#define RL_ENGINE_TOGETHER_H

#include "engine/table.h"

#define RL_TOGETHER_MAX 32

/* A request to one table. Several may be for the same table, and for the same key. */
typedef struct rl_together {
    rl_table *table;
    const rl_limit_set *limits; /* borrowed; those of the table, or of the caller: see rl_request */
    rl_key key;
    const uint64_t *costs; /* from rl_limit_cost, one for each limit */
    rl_time now;           /* of the table's clock */
    int64_t blocked_ns; /* the key is blocked for so long, whatever the table says; 0: it is not */
    rl_decision decision; /* out */
} rl_together;

/* Limits of the caller are windows: two requests for one key of a table have as many limits then.
 *
 * Take the costs of `n` (1 to RL_TOGETHER_MAX) requests, in order, or deny and change nothing. It is
 * one step: no other thread or process sees a part of it. In a denial, a request that would pass by
 * itself has a decision that allows it. RL_OK, or RL_ENOMEM: nothing is taken or written. */
rl_status rl_together_take(rl_together *requests, size_t n, bool *allowed);

#endif
