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

/* ---- requests --------------------------------------------------------------------- */

static inline void request_moment(moment *moment, const rl_request *request)
{
    moment->table = request->table;
    rl_moment_init(&moment->at, request->limits, request->now);
}

/* A request under the limits of a table. */
static inline rl_request table_request(rl_table *table, rl_key key, const uint64_t *costs,
                                       rl_time now)
{
    return (rl_request){table, &table->set, key, costs, now, rl_blocks_left_ns(table, key, now)};
}

/* Find the entry of a key and read its state. What was counted before the clock was set back is
 * written as it is read now, so that the times in a decision hold. With the shard's lock. */
__attribute__((always_inline)) static inline slot table_read(const moment *moment, shard *shard,
                                                             uint64_t tag, rl_found *found)
{
    slot entry = rl_shard_find(moment->table, shard, tag);
    rl_entry_read(&moment->at, entry.words, found);
    if (found->is_ahead) {
        rl_entry_write(&moment->at, found, entry.words);
    }
    return entry;
}

/* Make room for a new key, which may inherit a debt, and read it. Words of a free place that the
 * request does not write are full. Without a slot: out of memory. */
RL_APART static slot table_insert(const moment *moment, shard *shard, uint64_t tag, rl_found *found)
{
    slot entry = rl_shard_make_room(moment, shard, tag);
    if (entry.tag == NULL) {
        return entry;
    }
    if (moment->at.set != &moment->table->set && *entry.tag == 0) {
        for (size_t i = 0; i < moment->table->set.n_words; i++) {
            entry.words[i] = moment->at.units[0];
        }
    }
    rl_entry_read(&moment->at, rl_slot_words(entry), found);
    return entry;
}

/* Take the costs if the tokens suffice, or `always`. With the shard's lock. */
__attribute__((always_inline)) static inline rl_status
table_take(const moment *moment, shard *shard, uint64_t tag, const uint64_t *costs, bool always,
           bool *allowed, rl_found *found)
{
    slot entry = table_read(moment, shard, tag, found);
    bool pass = always || rl_entry_allows(moment->at.set, found, costs);
    if (pass && entry.tag == NULL) {
        entry = table_insert(moment, shard, tag, found);
        if (entry.tag == NULL) {
            return RL_ENOMEM;
        }
        pass = always || rl_entry_allows(moment->at.set, found, costs);
    }
    if (pass) {
        rl_found_take(&moment->at, found, costs);
        rl_entry_write(&moment->at, found, entry.words);
        rl_shard_occupy(shard, entry, tag);
    }
    *allowed = pass;
    return RL_OK;
}

/* Whether the buckets are those of a caller's limits. What such a limit cannot lack may be what the
 * client lacks under its other limits, so that looking does not write it. */
static bool is_from_caller(const moment *moment)
{
    return moment->at.set != &moment->table->set && !moment->at.set->has_windows;
}

/* Read the present state of a key. */
static void table_look(const rl_request *request, const moment *moment, bool denies,
                       rl_found *found)
{
    rl_table *table = request->table;
    shard *shard = rl_table_shard(table, request->key);
    uint64_t ticket = rl_shard_lock(table, shard);
    rl_shard_keep(moment, shard);
    if (is_from_caller(moment)) {
        slot entry = rl_shard_find(table, shard, key_tag(request->key));
        rl_entry_read(&moment->at, entry.words, found);
    } else {
        table_read(moment, shard, key_tag(request->key), found);
    }
    shard->counts.denied += denies;
    rl_shard_unlock(table, shard, ticket);
}

/* Describe what was found of a key that is blocked for `blocked_ns`, or is not (0). */
RL_APART static void table_describe(const moment *moment, const rl_found *found,
                                    const uint64_t *costs, bool allowed, int64_t blocked_ns,
                                    rl_decision *out, rl_decision *each)
{
    if (each != NULL) {
        describe_each(&moment->at, found, costs, allowed, each);
    }
    if (out != NULL && each != NULL && moment->at.set->n == 1) {
        *out = each[0];
    } else if (out != NULL) {
        rl_entry_describe(&moment->at, found, costs, allowed, out);
    }
    if (blocked_ns > 0) {
        if (out != NULL) {
            rl_decision_block(out, blocked_ns);
        }
        for (size_t i = 0; each != NULL && i < moment->at.set->n; i++) {
            rl_decision_block(&each[i], blocked_ns);
        }
    }
}

/* Read a decision without taking. `denies`: it counts as a denial. */
RL_APART static void table_view(const rl_request *request, bool denies, rl_decision *out,
                                rl_decision *each)
{
    moment moment;
    request_moment(&moment, request);
    rl_found found;
    table_look(request, &moment, denies, &found);
    bool allowed = rl_entry_allows(request->limits, &found, request->costs);
    table_describe(&moment, &found, request->costs, allowed, request->blocked_ns, out, each);
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

/* Inlined, and without the address of the request, which so needs no memory. */
__attribute__((always_inline)) static inline rl_status table_decide(const rl_request *request,
                                                                    bool counts_denied,
                                                                    bool *allowed, rl_decision *out,
                                                                    rl_decision *each)
{
    if (request->blocked_ns > 0) {
        const rl_request blocked = *request;
        *allowed = false;
        table_view(&blocked, true, out, each);
        return RL_OK;
    }
    rl_table *table = request->table;
    const uint64_t *costs = request->costs;
    uint64_t tag = key_tag(request->key);
    shard *shard = rl_table_shard(table, request->key);
    moment moment;
    request_moment(&moment, request);
    rl_found found;

    uint64_t ticket = rl_shard_lock(table, shard);
    rl_shard_keep(&moment, shard);
    rl_status status = table_take(&moment, shard, tag, costs, false, allowed, &found);
    if (status == RL_OK && !*allowed && counts_denied) {
        status = table_count_denied(&moment, shard, tag, costs, &found);
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

rl_status rl_request_take(const rl_request *request, bool *allowed, rl_decision *out,
                          rl_decision *each)
{
    return table_decide(request, request->limits->counts_denied, allowed, out, each);
}

rl_status rl_request_try(const rl_request *request, bool *allowed, rl_decision *out,
                         rl_decision *each)
{
    return table_decide(request, false, allowed, out, each);
}

rl_status rl_request_charge(const rl_request *request, rl_decision *out)
{
    rl_table *table = request->table;
    shard *shard = rl_table_shard(table, request->key);
    moment moment;
    request_moment(&moment, request);
    rl_found found;
    bool allowed;

    uint64_t ticket = rl_shard_lock(table, shard);
    rl_shard_keep(&moment, shard);
    rl_status status =
        table_take(&moment, shard, key_tag(request->key), request->costs, true, &allowed, &found);
    rl_shard_unlock(table, shard, ticket);

    if (status == RL_OK) {
        rl_entry_describe(&moment.at, &found, request->costs, true, out);
    }
    return status;
}

void rl_request_peek(const rl_request *request, rl_decision *out, rl_decision *each)
{
    table_view(request, false, out, each);
}

void rl_request_refund(const rl_request *request)
{
    rl_table *table = request->table;
    shard *shard = rl_table_shard(table, request->key);
    moment moment;
    request_moment(&moment, request);
    rl_found found;

    uint64_t ticket = rl_shard_lock(table, shard);
    rl_shard_keep(&moment, shard);
    slot entry = table_read(&moment, shard, key_tag(request->key), &found);
    if (entry.tag != NULL) {
        rl_found_refund(&moment.at, &found, request->costs);
        rl_entry_write(&moment.at, &found, entry.words);
    }
    rl_shard_unlock(table, shard, ticket);
}

/* ---- the limits of the table -------------------------------------------------------- */

rl_status rl_table_take(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                        bool *allowed, rl_decision *out, rl_decision *each)
{
    rl_request request = table_request(table, key, costs, now);
    return table_decide(&request, table->set.counts_denied, allowed, out, each);
}

rl_status rl_table_try(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                       bool *allowed, rl_decision *out, rl_decision *each)
{
    rl_request request = table_request(table, key, costs, now);
    return table_decide(&request, false, allowed, out, each);
}

rl_status rl_table_charge(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                          rl_decision *out)
{
    rl_request request = {table, &table->set, key, costs, now, 0};
    return rl_request_charge(&request, out);
}

void rl_table_peek(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                   rl_decision *out, rl_decision *each)
{
    rl_request request = table_request(table, key, costs, now);
    table_view(&request, false, out, each);
}

void rl_table_refund(rl_table *table, rl_key key, const uint64_t *costs, rl_time now)
{
    rl_request request = {table, &table->set, key, costs, now, 0};
    rl_request_refund(&request);
}

const rl_limit_set *rl_table_limits(const rl_table *table)
{
    return &table->set;
}

bool rl_table_has_blocks(rl_table *table, rl_time now)
{
    return atomic_load_explicit(table->blocked_until_ns, memory_order_acquire) > now.steady_ns;
}

int64_t rl_table_blocked_ns(rl_table *table, rl_key key, rl_time now)
{
    return rl_blocks_left_ns(table, key, now);
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
