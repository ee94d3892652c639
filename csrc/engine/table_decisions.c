/* table_decisions.c -- what happens to one key of a table, or to all: decisions, with blocks. */
#include "engine/blocks.h"
#include "engine/shard.h"

static void describe_each(const rl_moment *moment, const rl_found *found, const uint64_t *costs,
                          bool allowed, rl_decision *each)
{
    for (size_t i = 0; i < moment->set->n; i++) {
        bool passes =
            allowed || rl_bucket_allows(&moment->set->limits[i], found->deficits[i], costs[i]);
        each[i] = rl_entry_describe_one(moment, found, i, costs[i], passes);
    }
}

/* Find the entry of a key and read its state. What was counted before the clock was set back is
 * written as it is read now, so that the times in a decision hold. With the shard's lock. */
static inline slot table_read(const moment *moment, shard *shard, uint64_t tag, rl_found *found)
{
    slot entry = rl_shard_find(moment->table, shard, tag);
    rl_entry_read(&moment->at, entry.words, found);
    if (found->is_ahead) {
        rl_entry_write(&moment->at, found, entry.words);
    }
    return entry;
}

/* Make room for a new key, which may inherit a debt, and read it. Without a slot: out of memory. */
RL_APART static slot table_insert(const moment *moment, shard *shard, uint64_t tag, rl_found *found)
{
    slot entry = rl_shard_make_room(moment, shard, tag);
    if (entry.tag != NULL) {
        rl_entry_read(&moment->at, rl_slot_words(entry), found);
    }
    return entry;
}

/* Take the costs if the tokens suffice, or `always`. With the shard's lock. */
static inline rl_status table_take(const moment *moment, shard *shard, uint64_t tag,
                                   const uint64_t *costs, bool always, bool *allowed,
                                   rl_found *found)
{
    slot entry = table_read(moment, shard, tag, found);
    bool pass = always || rl_entry_allows(&moment->table->set, found, costs);
    if (pass && entry.tag == NULL) {
        entry = table_insert(moment, shard, tag, found);
        if (entry.tag == NULL) {
            return RL_ENOMEM;
        }
        pass = always || rl_entry_allows(&moment->table->set, found, costs);
    }
    if (pass) {
        rl_found_take(&moment->at, found, costs);
        rl_entry_write(&moment->at, found, entry.words);
        rl_shard_occupy(shard, entry, tag);
    }
    *allowed = pass;
    return RL_OK;
}

/* Read the present state of a key. */
static void table_look(rl_table *table, rl_key key, const moment *moment, bool denies,
                       rl_found *found)
{
    shard *shard = rl_table_shard(table, key);
    uint64_t ticket = rl_shard_lock(table, shard);
    rl_shard_keep(moment, shard);
    table_read(moment, shard, key_tag(key), found);
    shard->counts.denied += denies;
    rl_shard_unlock(table, shard, ticket);
}

/* Describe what was found of a key that is blocked for `blocked_ns`, or is not (0). */
RL_APART static void table_describe(const moment *moment, const rl_found *found,
                                    const uint64_t *costs, bool allowed, int64_t blocked_ns,
                                    rl_decision *out, rl_decision *each)
{
    if (out != NULL) {
        rl_entry_describe(&moment->at, found, costs, allowed, out);
    }
    if (each != NULL) {
        describe_each(&moment->at, found, costs, allowed, each);
    }
    if (blocked_ns > 0) {
        if (out != NULL) {
            rl_decision_block(out, blocked_ns);
        }
        for (size_t i = 0; each != NULL && i < moment->table->set.n; i++) {
            rl_decision_block(&each[i], blocked_ns);
        }
    }
}

/* Read a decision without taking. `denies`: it counts as a denial. */
RL_APART static void table_view(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                                int64_t blocked_ns, bool denies, rl_decision *out,
                                rl_decision *each)
{
    moment moment;
    moment_init(&moment, table, now);
    rl_found found;
    table_look(table, key, &moment, denies, &found);
    bool allowed = rl_entry_allows(&table->set, &found, costs);
    table_describe(&moment, &found, costs, allowed, blocked_ns, out, each);
}

/* Count a denied request that was read into *found. With the shard's lock. */
RL_APART static rl_status table_count_denied(const moment *moment, shard *shard, uint64_t tag,
                                             const uint64_t *costs, rl_found *found)
{
    slot entry = rl_shard_find(moment->table, shard, tag);
    if (entry.tag == NULL) {
        entry = table_insert(moment, shard, tag, found);
        if (entry.tag == NULL) {
            return RL_ENOMEM;
        }
    }
    rl_found_take_denied(&moment->at, found, costs);
    rl_entry_write(&moment->at, found, entry.words);
    rl_shard_occupy(shard, entry, tag);
    return RL_OK;
}

__attribute__((always_inline)) static inline rl_status
table_decide(rl_table *table, rl_key key, const uint64_t *costs, rl_time now, bool counts_denied,
             bool *allowed, rl_decision *out, rl_decision *each)
{
    int64_t blocked_ns = rl_blocks_left_ns(table, key, now);
    if (blocked_ns > 0) {
        *allowed = false;
        table_view(table, key, costs, now, blocked_ns, true, out, each);
        return RL_OK;
    }
    shard *shard = rl_table_shard(table, key);
    moment moment;
    moment_init(&moment, table, now);
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

    if (status == RL_OK && each != NULL) {
        table_describe(&moment, &found, costs, *allowed, 0, out, each);
    } else if (status == RL_OK && out != NULL) {
        rl_entry_describe(&moment.at, &found, costs, *allowed, out);
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
    shard *shard = rl_table_shard(table, key);
    moment moment;
    moment_init(&moment, table, now);
    rl_found found;
    bool allowed;

    uint64_t ticket = rl_shard_lock(table, shard);
    rl_shard_keep(&moment, shard);
    rl_status status = table_take(&moment, shard, key_tag(key), costs, true, &allowed, &found);
    rl_shard_unlock(table, shard, ticket);

    if (status == RL_OK) {
        rl_entry_describe(&moment.at, &found, costs, true, out);
    }
    return status;
}

void rl_table_peek(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                   rl_decision *out, rl_decision *each)
{
    table_view(table, key, costs, now, rl_blocks_left_ns(table, key, now), false, out, each);
}

void rl_table_refund(rl_table *table, rl_key key, const uint64_t *costs, rl_time now)
{
    shard *shard = rl_table_shard(table, key);
    moment moment;
    moment_init(&moment, table, now);
    rl_found found;

    uint64_t ticket = rl_shard_lock(table, shard);
    rl_shard_keep(&moment, shard);
    slot entry = table_read(&moment, shard, key_tag(key), &found);
    if (entry.tag != NULL) {
        rl_found_refund(&moment.at, &found, costs);
        rl_entry_write(&moment.at, &found, entry.words);
    }
    rl_shard_unlock(table, shard, ticket);
}

void rl_table_reset(rl_table *table, rl_key key)
{
    rl_blocks_lift(table, key);
    rl_table_remove(table, key);
}

bool rl_table_reset_part(rl_table *table, size_t *next)
{
    if (*next == 0) {
        rl_blocks_lift_all(table);
    }
    return rl_table_empty_part(table, next);
}

rl_status rl_table_copy(rl_table *from, rl_table *to, rl_time now)
{
    rl_status status = rl_blocks_copy(from, to, now);
    return status == RL_OK ? rl_table_copy_entries(from, to, now) : status;
}

rl_table *rl_table_renew(rl_table *table, const rl_limit *limits, rl_time now)
{
    rl_table *made = rl_table_like(table, limits, table->set.n);
    if (made == NULL) {
        return NULL;
    }
    if (rl_table_copy(table, made, now) != RL_OK) {
        rl_table_free(made);
        return NULL;
    }
    return made;
}
