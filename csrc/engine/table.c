#include "engine/table.h"

#include <stdatomic.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/random.h>
#endif

#include "engine/alloc.h"
#include "engine/shard.h"

#define KEYS_PER_SHARD 8192u
#define SHARD_BITS_MAX 8u

static shard *key_shard(rl_table *table, rl_key key)
{
    return &table->shards[table->shard_bits == 0 ? 0 : key.hi >> (64 - table->shard_bits)];
}

/* ---- decisions ------------------------------------------------------------- */

static void describe_each(const rl_moment *moment, const rl_found *found, const uint64_t *costs,
                          bool allowed, rl_decision *each)
{
    for (size_t i = 0; i < moment->set->n; i++) {
        bool passes =
            allowed || rl_bucket_allows(&moment->set->limits[i], found->deficits[i], costs[i]);
        each[i] = rl_entry_describe_one(moment, found, i, costs[i], passes);
    }
}

/* Return the words of a present entry, else NULL. */
static const uint64_t *words_of(slot entry)
{
    return entry.tag != NULL && *entry.tag != 0 ? entry.words : NULL;
}

static void table_occupy(shard *shard, slot entry, uint64_t tag)
{
    if (*entry.tag != tag) {
        shard->used += *entry.tag == 0;
        shard->counts.evicted_active += *entry.tag != 0;
        shard->counts.inserted++;
        shard->since_sweep++;
        *entry.tag = tag;
    }
}

/* Take the costs if the tokens suffice, or `always`. With the shard's lock. */
static rl_status table_take(const moment *moment, shard *shard, uint64_t tag, const uint64_t *costs,
                            bool always, bool *allowed, rl_found *found)
{
    slot entry = rl_shard_find(moment->table, shard, tag);
    rl_entry_read(&moment->at, words_of(entry), found);
    bool pass = always || rl_entry_allows(&moment->table->set, found, costs);
    if (pass && entry.tag == NULL) {
        entry = rl_shard_make_room(moment, shard, tag);
        if (entry.tag == NULL) {
            return RL_ENOMEM;
        }
        rl_entry_read(&moment->at, words_of(entry), found);
        pass = always || rl_entry_allows(&moment->table->set, found, costs);
    }
    if (pass) {
        rl_found_take(&moment->at, found, costs);
        rl_entry_write(&moment->at, found, entry.words);
        /* The tag is written last: if the process dies before, the place stays free. */
        atomic_signal_fence(memory_order_seq_cst);
        table_occupy(shard, entry, tag);
    } else if (found->is_ahead && *entry.tag == tag) {
        rl_entry_write(&moment->at, found, entry.words);
    }
    *allowed = pass;
    return RL_OK;
}

/* Count a denied request that was read into *found. With the shard's lock. */
static rl_status table_count_denied(const moment *moment, shard *shard, uint64_t tag,
                                    const uint64_t *costs, rl_found *found)
{
    slot entry = rl_shard_find(moment->table, shard, tag);
    if (entry.tag == NULL) {
        entry = rl_shard_make_room(moment, shard, tag);
        if (entry.tag == NULL) {
            return RL_ENOMEM;
        }
        rl_entry_read(&moment->at, words_of(entry), found);
    }
    rl_found_take_denied(&moment->at, found, costs);
    rl_entry_write(&moment->at, found, entry.words);
    atomic_signal_fence(memory_order_seq_cst); /* as above */
    table_occupy(shard, entry, tag);
    return RL_OK;
}

static rl_status table_decide(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                              bool counts_denied, bool *allowed, rl_decision *out,
                              rl_decision *each)
{
    shard *shard = key_shard(table, key);
    moment moment = moment_at(table, now);
    rl_found found;

    uint64_t ticket = rl_shard_lock(table, shard);
    rl_shard_keep(&moment, shard);
    rl_status status = table_take(&moment, shard, key_tag(key), costs, false, allowed, &found);
    if (status == RL_OK && !*allowed && counts_denied) {
        status = table_count_denied(&moment, shard, key_tag(key), costs, &found);
    }
    if (status == RL_OK) {
        shard->counts.allowed += *allowed;
        shard->counts.denied += !*allowed;
    }
    rl_shard_unlock(table, shard, ticket);

    if (status == RL_OK && out != NULL) {
        *out = rl_entry_describe(&moment.at, &found, costs, *allowed);
    }
    if (status == RL_OK && each != NULL) {
        describe_each(&moment.at, &found, costs, *allowed, each);
    }
    return status;
}

rl_status rl_table_take(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                        bool *allowed, rl_decision *out, rl_decision *each)
{
    return table_decide(table, key, costs, now, table->set.counts_denied, allowed, out, each);
}

rl_status rl_table_try(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                       bool *allowed, rl_decision *out, rl_decision *each)
{
    return table_decide(table, key, costs, now, false, allowed, out, each);
}

rl_status rl_table_charge(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                          rl_decision *out)
{
    shard *shard = key_shard(table, key);
    moment moment = moment_at(table, now);
    rl_found found;
    bool allowed;

    uint64_t ticket = rl_shard_lock(table, shard);
    rl_shard_keep(&moment, shard);
    rl_status status = table_take(&moment, shard, key_tag(key), costs, true, &allowed, &found);
    rl_shard_unlock(table, shard, ticket);

    if (status == RL_OK) {
        *out = rl_entry_describe(&moment.at, &found, costs, true);
    }
    return status;
}

/* Read the present state of a key. */
static void table_look(rl_table *table, rl_key key, const moment *moment, rl_found *found)
{
    shard *shard = key_shard(table, key);
    uint64_t ticket = rl_shard_lock(table, shard);
    rl_shard_keep(moment, shard);
    rl_entry_read(&moment->at, words_of(rl_shard_find(table, shard, key_tag(key))), found);
    rl_shard_unlock(table, shard, ticket);
}

void rl_table_peek(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                   rl_decision *out, rl_decision *each)
{
    moment moment = moment_at(table, now);
    rl_found found;
    table_look(table, key, &moment, &found);
    bool allowed = rl_entry_allows(&table->set, &found, costs);
    *out = rl_entry_describe(&moment.at, &found, costs, allowed);
    if (each != NULL) {
        describe_each(&moment.at, &found, costs, allowed, each);
    }
}

void rl_table_refund(rl_table *table, rl_key key, const uint64_t *costs, rl_time now)
{
    shard *shard = key_shard(table, key);
    moment moment = moment_at(table, now);
    rl_found found;

    uint64_t ticket = rl_shard_lock(table, shard);
    rl_shard_keep(&moment, shard);
    slot entry = rl_shard_find(table, shard, key_tag(key));
    if (entry.tag != NULL) {
        rl_entry_read(&moment.at, entry.words, &found);
        rl_found_refund(&moment.at, &found, costs);
        rl_entry_write(&moment.at, &found, entry.words);
    }
    rl_shard_unlock(table, shard, ticket);
}

void rl_table_reset(rl_table *table, rl_key key)
{
    shard *shard = key_shard(table, key);
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
    while (rl_shard_shrink(table, shard)) {}
}

bool rl_table_reset_part(rl_table *table, size_t *next)
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
}

/* Make a table without keys, as planned. NULL: out of memory. */
static rl_table *table_make(const rl_table *plan)
{
    rl_table *table = rl_alloc_zeroed(table_bytes(plan));
    if (table != NULL) {
        *table = *plan;
        table->shards = table->own_shards;
        for (size_t i = 0; i < rl_table_shards(table); i++) {
            pthread_mutex_init(&table->shards[i].lock.own, NULL);
        }
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
    if (source->n_lines != 0 && to->table->region == NULL) {
        target->lines = rl_alloc_zeroed(lines_bytes(to->table, source->n_lines));
        if (target->lines == NULL) {
            return RL_ENOMEM;
        }
    }
    target->n_lines = source->n_lines;
    target->used = source->used;
    target->since_sweep = source->since_sweep;
    target->swept_ns = from->at.now.steady_ns;
    target->counts = source->counts;
    convert_lines(from, to, source, target);
    return RL_OK;
}

rl_status rl_table_copy(rl_table *from, rl_table *to, rl_time now)
{
    moment before = moment_at(from, now);
    moment after = moment_at(to, now);
    rl_status status = RL_OK;
    for (size_t i = 0; status == RL_OK && i < rl_table_shards(from); i++) {
        uint64_t ticket = rl_shard_lock(from, &from->shards[i]);
        status = convert_shard(&before, &after, &from->shards[i], &to->shards[i]);
        rl_shard_unlock(from, &from->shards[i], ticket);
    }
    return status;
}

rl_table *rl_table_renew(rl_table *table, const rl_limit *limits, rl_time now)
{
    rl_table plan = *table;
    table_set_limits(&plan, limits, table->set.n);
    rl_table *made = table_make(&plan);
    if (made == NULL) {
        return NULL;
    }
    if (rl_table_copy(table, made, now) != RL_OK) {
        rl_table_free(made);
        return NULL;
    }
    return made;
}

/* ---- freeing and sweeping ------------------------------------------------------- */

void rl_table_free(rl_table *table)
{
    if (table == NULL) {
        return;
    }
    if (table->mapping != NULL) {
        table->unmap(table);
        rl_free(table);
        return;
    }
    for (size_t i = 0; i < rl_table_shards(table); i++) {
        rl_free(table->shards[i].lines);
        pthread_mutex_destroy(&table->shards[i].lock.own);
    }
    rl_free(table);
}

/* Called with the lock of the shard held. */
static void table_add_shard(const rl_table *table, const shard *shard, rl_table_stats *total)
{
    total->keys += shard->used;
    total->slots += slot_count(table, shard);
    total->bytes += table->region == NULL ? lines_bytes(table, shard->n_lines) : 0;
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

rl_table_stats rl_table_count(rl_table *table)
{
    rl_table_stats total = {.bytes = table_fixed_bytes(table)};
    for (size_t i = 0; i < rl_table_shards(table); i++) {
        shard *shard = &table->shards[i];
        uint64_t ticket = rl_shard_lock(table, shard);
        table_add_shard(table, shard, &total);
        rl_shard_unlock(table, shard, ticket);
    }
    return total;
}

bool rl_table_sweep_part(rl_table *table, rl_time now, size_t slots, size_t *next,
                         rl_table_stats *total)
{
    moment moment = moment_at(table, now);
    size_t visited = 0;
    total->bytes += *next == 0 ? table_fixed_bytes(table) : 0;
    while (*next < rl_table_shards(table) && visited < slots) {
        shard *shard = &table->shards[(*next)++];
        uint64_t ticket = rl_shard_lock(table, shard);
        visited += slot_count(table, shard);
        rl_shard_keep(&moment, shard);
        rl_shard_sweep(&moment, shard);
        while (rl_shard_shrink(table, shard)) {}
        table_add_shard(table, shard, total);
        rl_shard_unlock(table, shard, ticket);
    }
    return *next < rl_table_shards(table);
}

rl_table_stats rl_table_sweep(rl_table *table, rl_time now)
{
    rl_table_stats total = {0};
    size_t next = 0;
    while (rl_table_sweep_part(table, now, SIZE_MAX, &next, &total)) {}
    return total;
}
