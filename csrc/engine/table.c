#include "engine/table.h"

#include <unistd.h>
#ifdef __APPLE__
#include <sys/random.h>
#endif

#include "engine/alloc.h"
#include "engine/shard.h"

#define KEYS_PER_SHARD 8192u
#define SHARD_BITS_MAX 8u

void rl_table_remove(rl_table *table, rl_key key)
{
    shard *shard = rl_table_shard(table, key);
    uint64_t ticket = rl_shard_lock(table, shard);
    slot entry = rl_shard_find(table, shard, key_tag(key));
    if (entry.tag != NULL) {
        rl_shard_release(shard, entry);
    }
    rl_shard_unlock(table, shard, ticket);
}

static void table_empty_shard(const rl_table *table, shard *shard)
{
    uint32_t n_lines = line_count(table, shard);
    for (uint32_t i = 0; i < n_lines; i++) {
        uint64_t *line = line_at(table, shard_lines(table, shard), i);
        memset(line, 0, RL_LINE_SLOTS * sizeof *line); /* the tags */
    }
    shard->used = 0;
    if (table->region != NULL) {
        shard->mask = 0;
    }
    while (rl_shard_shrink(table, shard)) {}
}

bool rl_table_empty_part(rl_table *table, size_t *next)
{
    shard *shard = &table->shards[(*next)++];
    uint64_t ticket = rl_shard_lock(table, shard);
    table_empty_shard(table, shard);
    rl_shard_unlock(table, shard, ticket);
    return *next < rl_table_shards(table);
}

bool rl_table_is_shared(const rl_table *table)
{
    return table->mapping != NULL;
}

rl_key rl_table_key(const rl_table *table, const void *data, size_t len)
{
    return rl_hash(table->secret, data, len);
}

/* ---- the table as a whole -------------------------------------------------- */

rl_status rl_secret_init(rl_secret *secret)
{
    return getentropy(secret, sizeof *secret) == 0 ? RL_OK : RL_ERANDOM;
}

static size_t table_bytes(const rl_table *table)
{
    return sizeof *table + rl_table_shards(table) * sizeof(shard);
}

/* Shards of at most KEYS_PER_SHARD keys while there are not too many of them,
 * and sizes lines_min * 2^i that reach the lines needed for a shard's share. */
static void choose_geometry(rl_table *table, size_t max_keys)
{
    while (table->shard_bits < SHARD_BITS_MAX && max_keys >> table->shard_bits > KEYS_PER_SHARD) {
        table->shard_bits++;
    }
    size_t keys = (max_keys >> table->shard_bits) + 1;
    size_t lines = (keys * LOAD_DEN / LOAD_NUM) / RL_LINE_SLOTS + 1;
    unsigned doublings = 0;
    while (lines >> doublings >= 8) {
        doublings++;
    }
    size_t step = (size_t)1 << doublings;
    table->lines_min = (uint32_t)((lines + step - 1) >> doublings);
    table->lines_max = table->lines_min << doublings;
    table->mask_max = (UINT32_C(1) << doublings) - 1;
}

/* Make a table without keys, as planned. NULL: out of memory. */
static rl_table *table_make(const rl_table *plan)
{
    rl_table *table = rl_alloc_zeroed(table_bytes(plan));
    if (table != NULL) {
        table->secret = plan->secret;
        table->line_words = plan->line_words;
        table->lines_min = plan->lines_min;
        table->lines_max = plan->lines_max;
        table->mask_max = plan->mask_max;
        table->shard_bits = plan->shard_bits;
        table->set = plan->set;
        table->shards = table->own_shards;
        table->blocked_until_ns = &table->own_blocked_until_ns;
    }
    return table;
}

static void table_set_limits(rl_table *plan, const rl_limit *limits, size_t n_limits)
{
    rl_limit_set_init(&plan->set, limits, n_limits);
    plan->line_words = RL_LINE_SLOTS * (1 + plan->set.n_words);
}

void rl_table_plan(rl_table *plan, const rl_limit *limits, size_t n_limits, size_t max_keys)
{
    *plan = (rl_table){.lines_max = 0};
    table_set_limits(plan, limits, n_limits);
    choose_geometry(plan, max_keys);
}

rl_table *rl_table_new(const rl_limit *limits, size_t n_limits, size_t max_keys, rl_secret secret)
{
    rl_table plan;
    rl_table_plan(&plan, limits, n_limits, max_keys);
    plan.secret = secret;
    return table_make(&plan);
}

rl_table *rl_table_like(const rl_table *table, const rl_limit *limits, size_t n_limits)
{
    rl_table plan = {.secret = table->secret,
                     .lines_min = table->lines_min,
                     .lines_max = table->lines_max,
                     .mask_max = table->mask_max,
                     .shard_bits = table->shard_bits};
    table_set_limits(&plan, limits, n_limits);
    return table_make(&plan);
}

/* ---- the same keys under other limits ---------------------------------------- */

static void convert_lines(const moment *from, const moment *to, const shard *source, shard *target)
{
    uint32_t n_lines = line_count(from->table, source);
    for (uint32_t i = 0; i < n_lines; i++) {
        uint64_t *given = line_at(from->table, shard_lines(from->table, source), i);
        uint64_t *made = line_at(to->table, shard_lines(to->table, target), i);
        for (unsigned j = 0; j < RL_LINE_SLOTS; j++) {
            slot entry = slot_at(from->table, given, j);
            slot copy = slot_at(to->table, made, j);
            *copy.tag = *entry.tag;
            if (*entry.tag != 0) {
                rl_entry_convert(&from->at, entry.words, &to->at, copy.words);
            }
        }
    }
}

static rl_status convert_shard(const moment *from, const moment *to, shard *source, shard *target)
{
    rl_shard_keep(from, source);
    uint32_t n_lines = line_count(from->table, source);
    if (n_lines != 0 && to->table->region == NULL) {
        target->lines = rl_alloc_zeroed(lines_bytes(to->table, n_lines));
        if (target->lines == NULL) {
            return RL_ENOMEM;
        }
    }
    target->mask = shard_mask(from->table, source);
    target->used = source->used;
    target->since_sweep = source->since_sweep;
    target->swept_ns = from->at.now.steady_ns;
    target->counts = source->counts;
    convert_lines(from, to, source, target);
    return RL_OK;
}

rl_status rl_table_copy_entries(rl_table *from, rl_table *to, rl_time now)
{
    moment before;
    moment_init(&before, from, now);
    moment after;
    moment_init(&after, to, now);
    rl_status status = RL_OK;
    for (size_t i = 0; status == RL_OK && i < rl_table_shards(from); i++) {
        uint64_t ticket = rl_shard_lock(from, &from->shards[i]);
        status = convert_shard(&before, &after, &from->shards[i], &to->shards[i]);
        rl_shard_unlock(from, &from->shards[i], ticket);
    }
    return status;
}

/* ---- freeing and sweeping ------------------------------------------------------- */

void rl_table_free(rl_table *table)
{
    if (table == NULL) {
        return;
    }
    rl_table *blocks = atomic_load(&table->blocks);
    if (table->mapping != NULL) {
        table->unmap(table);
        rl_free(blocks);
        rl_free(table);
        return;
    }
    rl_table_free(blocks);
    for (size_t i = 0; i < rl_table_shards(table); i++) {
        rl_free(table->shards[i].lines);
    }
    rl_free(table);
}

/* Called with the lock of the shard held. */
static void table_add_shard(const rl_table *table, const shard *shard, rl_table_stats *total)
{
    total->keys += shard->used;
    total->slots += slot_count(table, shard);
    total->bytes += table->region == NULL ? lines_bytes(table, line_count(table, shard)) : 0;
    total->allowed += shard->counts.allowed;
    total->denied += shard->counts.denied;
    total->inserted += shard->counts.inserted;
    total->evicted_active += shard->counts.evicted_active;
    total->grow_failures += shard->counts.grow_failures;
}

/* The bytes besides those of the shards' lines. */
static uint64_t table_fixed_bytes(const rl_table *table)
{
    return table->mapping == NULL ? table_bytes(table) : sizeof *table + table->mapping_bytes;
}

/* Of the blocks of a table, only the memory and the evictions count. */
static void table_add_blocks(rl_table_stats blocks, rl_table_stats *total)
{
    total->bytes += blocks.bytes;
    total->evicted_active += blocks.evicted_active;
}

static rl_table *table_blocks(rl_table *table)
{
    return atomic_load_explicit(&table->blocks, memory_order_acquire);
}

/* The memory of the blocks of a table in a file is that of the file. */
static uint64_t table_all_fixed_bytes(rl_table *table)
{
    const rl_table *blocks = table_blocks(table);
    uint64_t bytes = table_fixed_bytes(table);
    return bytes + (blocks != NULL && table->mapping == NULL ? table_fixed_bytes(blocks) : 0);
}

static void table_count_shards(rl_table *table, rl_table_stats *total)
{
    for (size_t i = 0; i < rl_table_shards(table); i++) {
        shard *shard = &table->shards[i];
        uint64_t ticket = rl_shard_lock(table, shard);
        table_add_shard(table, shard, total);
        rl_shard_unlock(table, shard, ticket);
    }
}

rl_table_stats rl_table_count(rl_table *table)
{
    rl_table_stats total = {.bytes = table_all_fixed_bytes(table)}, of_blocks = {0};
    table_count_shards(table, &total);
    if (table_blocks(table) != NULL) {
        table_count_shards(table_blocks(table), &of_blocks);
        table_add_blocks(of_blocks, &total);
    }
    return total;
}

/* Return the number of slots. */
static size_t table_sweep_shard(rl_table *table, shard *shard, rl_time now, rl_table_stats *total)
{
    moment moment;
    moment_init(&moment, table, now);
    uint64_t ticket = rl_shard_lock(table, shard);
    size_t visited = slot_count(table, shard);
    rl_shard_keep(&moment, shard);
    rl_shard_sweep(&moment, shard);
    while (rl_shard_shrink(table, shard)) {}
    table_add_shard(table, shard, total);
    rl_shard_unlock(table, shard, ticket);
    return visited;
}

bool rl_table_sweep_part(rl_table *table, rl_time now, size_t slots, size_t *next,
                         rl_table_stats *total)
{
    rl_table *blocks = table_blocks(table);
    size_t n_own = rl_table_shards(table);
    size_t n_all = n_own + (blocks != NULL ? rl_table_shards(blocks) : 0);
    size_t visited = 0;
    total->bytes += *next == 0 ? table_all_fixed_bytes(table) : 0;
    for (; *next < n_all && visited < slots; (*next)++) {
        if (*next < n_own) {
            visited += table_sweep_shard(table, &table->shards[*next], now, total);
        } else {
            rl_table_stats of_blocks = {0};
            visited += table_sweep_shard(blocks, &blocks->shards[*next - n_own], now, &of_blocks);
            table_add_blocks(of_blocks, total);
        }
    }
    return *next < n_all;
}

rl_table_stats rl_table_sweep(rl_table *table, rl_time now)
{
    rl_table_stats total = {0};
    size_t next = 0;
    while (rl_table_sweep_part(table, now, SIZE_MAX, &next, &total)) {}
    return total;
}
