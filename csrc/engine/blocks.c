#include "engine/blocks.h"

/* 126 years of microseconds. One unit is less than a nanosecond, so that a block ends exactly. */
#define BLOCK_CAPACITY 4e15
#define BLOCK_RATE 1e6

static rl_limit block_limit(void)
{
    rl_limit limit = {0};
    rl_limit_init(&limit, BLOCK_CAPACITY, BLOCK_RATE);
    return limit;
}

void rl_blocks_plan(rl_table *plan, size_t max_keys)
{
    rl_limit limit = block_limit();
    rl_table_plan(plan, &limit, 1,
                  max_keys < RL_BLOCKS_IN_FILE_MAX ? max_keys : RL_BLOCKS_IN_FILE_MAX);
}

/* Return the blocks of a table in memory, made if there are none yet. NULL: out of memory. */
static rl_table *blocks_of(rl_table *table)
{
    rl_table *blocks = atomic_load_explicit(&table->blocks, memory_order_acquire);
    if (blocks != NULL) {
        return blocks;
    }
    rl_limit limit = block_limit();
    rl_table *made = rl_table_like(table, &limit, 1);
    if (made != NULL && !atomic_compare_exchange_strong(&table->blocks, &blocks, made)) {
        rl_table_free(made); /* another thread was faster */
        return blocks;
    }
    return made;
}

/* Nothing is evicted or forgotten before this time. */
static void blocks_reach(rl_table *table, int64_t until_ns)
{
    int64_t before_ns = atomic_load(table->blocked_until_ns);
    while (before_ns < until_ns &&
           !atomic_compare_exchange_weak(table->blocked_until_ns, &before_ns, until_ns)) {}
}

/* Make a key lack at least so many units. With the shard's lock. */
static rl_status blocks_extend(const moment *moment, shard *shard, uint64_t tag, uint64_t units)
{
    rl_found found;
    slot entry = rl_shard_find(moment->table, shard, tag);
    rl_entry_read(&moment->at, rl_slot_words(entry), &found);
    if (found.deficits[0] >= units) {
        return RL_OK;
    }
    if (entry.tag == NULL) {
        entry = rl_shard_make_room(moment, shard, tag);
        if (entry.tag == NULL) {
            return RL_ENOMEM;
        }
    }
    found.deficits[0] = units;
    rl_entry_write(&moment->at, &found, entry.words);
    rl_shard_occupy(shard, entry, tag);
    return RL_OK;
}

rl_status rl_table_block(rl_table *table, rl_key key, int64_t block_ns, rl_time now)
{
    rl_table *blocks = blocks_of(table);
    if (blocks == NULL) {
        return RL_ENOMEM;
    }
    int64_t left_ns = block_ns < INT64_MAX - now.steady_ns ? block_ns : INT64_MAX - now.steady_ns;
    moment moment;
    moment_init(&moment, blocks, now);
    uint64_t until = rl_limit_units(&blocks->set.limits[0], now.steady_ns + left_ns);
    shard *shard = rl_table_shard(blocks, key);
    blocks_reach(table, now.steady_ns + left_ns);

    uint64_t ticket = rl_shard_lock(blocks, shard);
    rl_shard_keep(&moment, shard);
    rl_status status = blocks_extend(&moment, shard, key_tag(key), until - moment.at.units[0]);
    rl_shard_unlock(blocks, shard, ticket);
    return status;
}

void rl_blocks_lift(rl_table *table, rl_key key)
{
    rl_table *blocks = atomic_load_explicit(&table->blocks, memory_order_acquire);
    if (blocks != NULL) {
        rl_table_remove(blocks, key);
    }
}

void rl_blocks_lift_all(rl_table *table)
{
    rl_table *blocks = atomic_load_explicit(&table->blocks, memory_order_acquire);
    size_t next = 0;
    while (blocks != NULL && rl_table_empty_part(blocks, &next)) {}
}

int64_t rl_blocks_find(rl_table *table, rl_key key, rl_time now)
{
    rl_table *blocks = atomic_load_explicit(&table->blocks, memory_order_acquire);
    if (blocks == NULL) {
        return 0;
    }
    const rl_limit *limit = &blocks->set.limits[0];
    moment moment;
    moment_init(&moment, blocks, now);
    shard *shard = rl_table_shard(blocks, key);
    rl_found found;

    uint64_t ticket = rl_shard_lock(blocks, shard);
    rl_shard_keep(&moment, shard);
    slot entry = rl_shard_find(blocks, shard, key_tag(key));
    rl_entry_read(&moment.at, rl_slot_words(entry), &found);
    rl_shard_unlock(blocks, shard, ticket);
    return rl_limit_wait_ns(limit, rl_limit_tap(limit, now.steady_ns), found.deficits[0]);
}

rl_status rl_blocks_copy(rl_table *from, rl_table *to, rl_time now)
{
    rl_table *blocks = atomic_load_explicit(&from->blocks, memory_order_acquire);
    if (blocks == NULL) {
        return RL_OK;
    }
    rl_table *copies = blocks_of(to);
    if (copies == NULL) {
        return RL_ENOMEM;
    }
    blocks_reach(to, atomic_load(from->blocked_until_ns));
    return rl_table_copy_entries(blocks, copies, now);
}
