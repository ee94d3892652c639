/* engine/blocks.h -- the keys of a table that are blocked: denied until a time.
 *
 * Private to table_decisions.c, together.c, shared.c and blocks.c; rl_table_block is in engine/table.h.
 *
 * The blocks of a table are a second table with the same secret. Its only limit is a bucket that
 * gains a token a microsecond, and a blocked key lacks a token for each microsecond that is left. So
 * blocks that have ended need no timer, and when there are too many of them the one that ends first
 * makes room. `blocked_until_ns` of a table is not before the end of its last block: while it is in
 * the past, a decision reads nothing else. */
#ifndef RL_ENGINE_BLOCKS_H
#define RL_ENGINE_BLOCKS_H

#include "engine/shard.h"

/* Blocked keys in a file, at most. */
#define RL_BLOCKS_IN_FILE_MAX 65536u

/* Plan the blocks of a table in a file, as rl_table_plan does. */
void rl_blocks_plan(rl_table *plan, size_t max_keys);

/* Copy the blocks of a table to another, with as many shards. RL_OK or RL_ENOMEM. */
rl_status rl_blocks_copy(rl_table *from, rl_table *to, rl_time now);

/* Unblock a key. */
void rl_blocks_lift(rl_table *table, rl_key key);

/* Unblock all keys. */
void rl_blocks_lift_all(rl_table *table);

/* Return how long a key is still blocked; 0: it is not. */
RL_APART int64_t rl_blocks_find(rl_table *table, rl_key key, rl_time now);

static inline int64_t rl_blocks_left_ns(rl_table *table, rl_key key, rl_time now)
{
    int64_t until_ns = atomic_load_explicit(table->blocked_until_ns, memory_order_acquire);
    return until_ns <= now.steady_ns ? 0 : rl_blocks_find(table, key, now);
}

#endif
