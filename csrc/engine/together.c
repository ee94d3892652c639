#include "engine/together.h"

#include "engine/blocks.h"

/* ---- the locks ------------------------------------------------------------------ */

/* A shard that a step needs. */
typedef struct together_lock {
    rl_table *table;
    shard *shard;
    uint64_t ticket;
} together_lock;

/* All threads and processes lock in this order: first the shards in memory by their address, then
 * those in files. A file is mapped to different addresses, so files are ordered by the random number in their
 * header, and the shards of one file by their place. */
static int together_compare(const together_lock *one, const together_lock *other)
{
    bool in_file = rl_table_is_shared(one->table);
    if (in_file != rl_table_is_shared(other->table)) {
        return in_file ? 1 : -1;
    }
    if (in_file && one->table->order != other->table->order) {
        return one->table->order < other->table->order ? -1 : 1;
    }
    size_t first = in_file ? (size_t)(one->shard - one->table->shards) : (uintptr_t)one->shard;
    size_t second =
        in_file ? (size_t)(other->shard - other->table->shards) : (uintptr_t)other->shard;
    return first < second ? -1 : first > second;
}

/* Lock the shards of all requests, each once. Return how many these are. */
static size_t together_lock_all(const rl_together *requests, size_t n, together_lock *locks)
{
    size_t n_locks = 0;
    for (size_t i = 0; i < n; i++) {
        rl_table *table = requests[i].table;
        together_lock lock = {table, rl_table_shard(table, requests[i].key), 0};
        size_t at = n_locks;
        int order = -1;
        while (at > 0 && (order = together_compare(&lock, &locks[at - 1])) < 0) {
            at--;
        }
        if (at > 0 && order == 0) {
            continue;
        }
        memmove(&locks[at + 1], &locks[at], (n_locks - at) * sizeof lock);
        locks[at] = lock;
        n_locks++;
    }
    for (size_t i = 0; i < n_locks; i++) {
        locks[i].ticket = rl_shard_lock(locks[i].table, locks[i].shard);
    }
    return n_locks;
}

static void together_unlock_all(const together_lock *locks, size_t n_locks)
{
    for (size_t i = n_locks; i > 0; i--) {
        rl_shard_unlock(locks[i - 1].table, locks[i - 1].shard, locks[i - 1].ticket);
    }
}

/* ---- the requests ---------------------------------------------------------------- */

/* Two tables are the same also if they are two mappings of one file. */
static bool together_is_same(const rl_together *one, const rl_together *other)
{
    bool is_same_table = one->table == other->table ||
                         (rl_table_is_shared(one->table) && rl_table_is_shared(other->table) &&
                          one->table->order == other->table->order);
    return is_same_table && one->key.hash == other->key.hash;
}

static inline void together_moment(moment *moment, const rl_together *request)
{
    moment->table = request->table;
    rl_moment_init(&moment->at, request->limits, request->now);
}

/* Decide about request `i` as if those before it had taken their costs. */
static bool together_look(rl_together *requests, size_t i, int64_t blocked_ns)
{
    rl_together *request = &requests[i];
    shard *shard = rl_table_shard(request->table, request->key);
    moment moment;
    together_moment(&moment, request);
    rl_found found;
    rl_shard_keep(&moment, shard);
    slot entry = rl_shard_find(request->table, shard, key_tag(request->key));
    rl_entry_read(&moment.at, rl_slot_words(entry), &found);
    for (size_t j = 0; j < i; j++) {
        if (together_is_same(&requests[j], request)) {
            rl_found_take(&moment.at, &found, requests[j].costs);
        }
    }
    bool passes = rl_entry_allows(request->limits, &found, request->costs);
    rl_entry_describe(&moment.at, &found, request->costs, passes, &request->decision);
    if (blocked_ns > 0) {
        rl_decision_block(&request->decision, blocked_ns);
    }
    return passes && blocked_ns == 0;
}

/* What a request has changed. */
typedef struct together_before {
    bool was_present;
    uint64_t words[RL_ENTRY_WORDS_MAX];
    rl_decision decision; /* after it has taken its costs */
} together_before;

/* Take the costs of a request. A new key may inherit the debt of the key that made room for it, so
 * it may be denied although nothing was known of it before. */
static rl_status together_take_one(rl_together *request, together_before *before, bool *allowed)
{
    rl_table *table = request->table;
    shard *shard = rl_table_shard(table, request->key);
    moment moment;
    together_moment(&moment, request);
    uint64_t tag = key_tag(request->key);
    rl_found found;
    slot entry = rl_shard_find(table, shard, tag);
    if (entry.tag == NULL) {
        entry = rl_shard_make_room(&moment, shard, tag);
        if (entry.tag == NULL) {
            return RL_ENOMEM;
        }
    }
    const uint64_t *words = rl_slot_words(entry);
    before->was_present = words != NULL;
    if (words != NULL) {
        memcpy(before->words, words, table->set.n_words * sizeof *words);
    }
    rl_entry_read(&moment.at, words, &found);
    *allowed = rl_entry_allows(request->limits, &found, request->costs);
    if (!*allowed) {
        rl_entry_describe(&moment.at, &found, request->costs, false, &request->decision);
        return RL_OK;
    }
    rl_found_take(&moment.at, &found, request->costs);
    rl_entry_write(&moment.at, &found, entry.words);
    rl_shard_occupy(shard, entry, tag);
    rl_entry_describe(&moment.at, &found, request->costs, true, &before->decision);
    return RL_OK;
}

static void together_undo(const rl_together *request, const together_before *before)
{
    rl_table *table = request->table;
    shard *shard = rl_table_shard(table, request->key);
    slot entry = rl_shard_find(table, shard, key_tag(request->key));
    if (entry.tag == NULL) {
        return; /* in a file, whose bytes may be anything */
    }
    if (before->was_present) {
        memcpy(entry.words, before->words, table->set.n_words * sizeof *entry.words);
    } else {
        rl_shard_release(shard, entry);
    }
}

/* Take the costs of all, or of none. */
static rl_status together_take_all(rl_together *requests, size_t n, bool *allowed)
{
    together_before before[RL_TOGETHER_MAX];
    rl_status status = RL_OK;
    size_t taken = 0;
    while (taken < n && status == RL_OK && *allowed) {
        status = together_take_one(&requests[taken], &before[taken], allowed);
        taken += status == RL_OK && *allowed;
    }
    if (taken == n) {
        for (size_t i = 0; i < n; i++) {
            requests[i].decision = before[i].decision;
        }
        return RL_OK;
    }
    while (taken > 0) {
        taken--;
        together_undo(&requests[taken], &before[taken]);
    }
    return status;
}

rl_status rl_together_take(rl_together *requests, size_t n, bool *allowed)
{
    together_lock locks[RL_TOGETHER_MAX];
    int64_t blocked_ns[RL_TOGETHER_MAX];
    rl_status status = RL_OK;
    for (size_t i = 0; i < n; i++) {
        int64_t left_ns = rl_blocks_left_ns(requests[i].table, requests[i].key, requests[i].now);
        blocked_ns[i] = left_ns > requests[i].blocked_ns ? left_ns : requests[i].blocked_ns;
    }
    size_t n_locks = together_lock_all(requests, n, locks);
    *allowed = true;
    for (size_t i = 0; i < n; i++) {
        *allowed &= together_look(requests, i, blocked_ns[i]);
    }
    if (*allowed) {
        status = together_take_all(requests, n, allowed);
    }
    for (size_t i = 0; status == RL_OK && i < n; i++) {
        shard *shard = rl_table_shard(requests[i].table, requests[i].key);
        shard->counts.allowed += *allowed;
        shard->counts.denied += !requests[i].decision.allowed;
    }
    together_unlock_all(locks, n_locks);
    return status;
}
