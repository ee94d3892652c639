#include "rl_table.h"

#include <pthread.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/random.h>
#endif

#include "rl_alloc.h"
#include "rl_line.h"

/* Two choices among lines of eight stay collision-free to about this load. */
#define LOAD_NUM 7u
#define LOAD_DEN 10u

#define KEYS_PER_SHARD 8192u
#define SHARD_BITS_MAX 8u

typedef struct shard {
    _Alignas(RL_CACHE_LINE) pthread_mutex_t lock; /* guards everything below */
    uint64_t *lines;    /* owned; NULL until the first key and after the last */
    uint32_t n_lines;   /* 0 while lines is NULL, else lines_min * 2^i */
    size_t used;        /* slots with a tag, full ones included */
    size_t since_sweep; /* inserts since the full ones were last freed */
    int64_t swept_ns;
    rl_table_stats counts; /* keys, slots and bytes stay 0 here */
} shard;

/* Immutable but for the shards. */
struct rl_table {
    rl_secret secret;
    size_t n_limits;
    size_t line_words;   /* eight tags, then the words of each slot in turn */
    uint32_t lines_min;  /* of one shard */
    uint32_t lines_max;  /* lines_min * 2^i */
    unsigned shard_bits;
    int64_t horizon_ns;
    rl_limit limits[RL_TABLE_LIMITS_MAX];
    shard shards[];
};

typedef struct slot {
    uint64_t *tag;   /* NULL: there is none */
    uint64_t *words; /* one a limit */
} slot;

/* V of each limit at one time. */
typedef struct moment {
    const rl_table *table;
    int64_t now_ns;
    uint64_t units[RL_TABLE_LIMITS_MAX];
} moment;

/* ---- places ---------------------------------------------------------------- */

static uint64_t key_tag(rl_key key)
{
    return key.lo != 0 ? key.lo : 1; /* 0 marks an empty slot */
}

static shard *key_shard(rl_table *table, rl_key key)
{
    return &table->shards[table->shard_bits == 0 ? 0 : key.hi >> (64 - table->shard_bits)];
}

/* The two lines of a tag. Scaling (and not masking) a half of the tag sends
 * line i of n to line 2i or 2i + 1 of 2n, so growth splits lines and shrinking
 * joins them, without a look at the key. */
static uint32_t first_line(uint64_t tag, uint32_t n_lines)
{
    return (uint32_t)(((tag >> 32) * n_lines) >> 32);
}

static uint32_t second_line(uint64_t tag, uint32_t n_lines)
{
    return (uint32_t)(((tag & UINT32_MAX) * n_lines) >> 32);
}

static uint64_t *line_at(const rl_table *table, uint64_t *lines, uint32_t i)
{
    return lines + (size_t)i * table->line_words;
}

static slot slot_at(const rl_table *table, uint64_t *line, unsigned i)
{
    return (slot){line + i, line + RL_LINE_SLOTS + i * table->n_limits};
}

static size_t slot_count(const shard *shard)
{
    return (size_t)shard->n_lines * RL_LINE_SLOTS;
}

static size_t lines_bytes(const rl_table *table, uint32_t n_lines)
{
    return (size_t)n_lines * table->line_words * sizeof(uint64_t);
}

static slot find(const rl_table *table, shard *shard, uint64_t tag)
{
    if (shard->n_lines == 0) {
        return (slot){NULL, NULL};
    }
    uint64_t *line = line_at(table, shard->lines, first_line(tag, shard->n_lines));
    unsigned mask = rl_line_match(line, tag);
    if (mask == 0) {
        line = line_at(table, shard->lines, second_line(tag, shard->n_lines));
        mask = rl_line_match(line, tag);
    }
    return mask != 0 ? slot_at(table, line, (unsigned)__builtin_ctz(mask)) : (slot){NULL, NULL};
}

/* ---- full entries ---------------------------------------------------------- */

static void moment_at(moment *moment, const rl_table *table, int64_t now_ns)
{
    moment->table = table;
    moment->now_ns = now_ns;
    for (size_t i = 0; i < table->n_limits; i++) {
        moment->units[i] = rl_limit_units(&table->limits[i], now_ns);
    }
}

static bool is_full(const moment *moment, const uint64_t *words)
{
    for (size_t i = 0; i < moment->table->n_limits; i++) {
        if (rl_bucket_deficit(words[i], moment->units[i]) != 0) {
            return false;
        }
    }
    return true;
}

static void release(shard *shard, slot entry)
{
    *entry.tag = 0;
    shard->used--;
}

/* Bring words that have long meant "full" up to now, before V wraps around them. */
static void renew(const moment *moment, uint64_t *words)
{
    for (size_t i = 0; i < moment->table->n_limits; i++) {
        bool is_full = rl_bucket_deficit(words[i], moment->units[i]) == 0;
        if (is_full && moment->units[i] - words[i] > UINT64_C(1) << 40) {
            words[i] = moment->units[i];
        }
    }
}

/* Free the full entries of a line; the number of those that remain. */
static unsigned sweep_line(const moment *moment, shard *shard, uint64_t *line)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < RL_LINE_SLOTS; i++) {
        slot entry = slot_at(moment->table, line, i);
        if (*entry.tag == 0) {
            continue;
        }
        if (is_full(moment, entry.words)) {
            release(shard, entry);
        } else {
            renew(moment, entry.words);
            kept++;
        }
    }
    return kept;
}

static void sweep_shard(const moment *moment, shard *shard)
{
    for (uint32_t i = 0; i < shard->n_lines; i++) {
        sweep_line(moment, shard, line_at(moment->table, shard->lines, i));
    }
    shard->since_sweep = 0;
    shard->swept_ns = moment->now_ns;
}

/* Make the bucket of limit `i` full in every entry. */
static void fill_all(const moment *moment, shard *shard, size_t i)
{
    for (uint32_t n = 0; n < shard->n_lines; n++) {
        uint64_t *line = line_at(moment->table, shard->lines, n);
        for (unsigned j = 0; j < RL_LINE_SLOTS; j++) {
            slot_at(moment->table, line, j).words[i] = moment->units[i];
        }
    }
}

/* A word is told from a full one by the sign of its distance to V, which holds
 * while V is less than 2^63 past it. So no entry may stay unvisited for long:
 * it is freed by the first access after one horizon (V has moved by 2^61), and
 * words that were full then were at most 2^40 behind.
 *
 *     swept          last write at the latest          this access
 *     ──┼──── horizon ────┼──────────────────────────────┼──> age
 *
 * Up to three horizons of a limit after the last sweep, its V is 3 * 2^61 + 2^40
 * past any word: less than 2^63. Later, the last write is more than two horizons
 * ago, in which time V moves by more than any bucket holds: whatever is there is
 * full by that limit. A slower limit may still be owed. */
static void keep_within_horizon(const moment *moment, shard *shard)
{
    int64_t age_ns = moment->now_ns - shard->swept_ns;
    if (age_ns < moment->table->horizon_ns) {
        return;
    }
    for (size_t i = 0; i < moment->table->n_limits; i++) {
        if (age_ns / 3 > moment->table->limits[i].horizon_ns) {
            fill_all(moment, shard, i);
        }
    }
    sweep_shard(moment, shard);
}

/* ---- growing and shrinking ------------------------------------------------- */

static void adopt_lines(shard *shard, uint64_t *lines, uint32_t n_lines)
{
    rl_free(shard->lines);
    shard->lines = lines;
    shard->n_lines = n_lines;
}

/* Copy entry `i` of `from` to the first free slot of line `to`, which has one. */
static void copy_entry(const rl_table *table, uint64_t *from, unsigned i, uint64_t *to)
{
    slot source = slot_at(table, from, i);
    unsigned free_slots = rl_line_match(to, 0);
    slot target = slot_at(table, to, (unsigned)__builtin_ctz(free_slots));
    *target.tag = *source.tag;
    memcpy(target.words, source.words, table->n_limits * sizeof(uint64_t));
}

/* Split every line in two. An entry stays with the one of its two lines that it
 * is in, so a new line receives at most the eight entries of one old line. */
static bool grow(const rl_table *table, shard *shard)
{
    uint32_t n_lines = shard->n_lines == 0 ? table->lines_min : shard->n_lines * 2;
    uint64_t *lines = rl_alloc_zeroed(lines_bytes(table, n_lines));
    if (lines == NULL) {
        shard->counts.grow_failures++;
        return false;
    }
    for (uint32_t i = 0; i < shard->n_lines; i++) {
        uint64_t *from = line_at(table, shard->lines, i);
        for (unsigned j = 0; j < RL_LINE_SLOTS; j++) {
            uint64_t tag = from[j];
            if (tag != 0) {
                uint32_t to = first_line(tag, shard->n_lines) == i ? first_line(tag, n_lines)
                                                                   : second_line(tag, n_lines);
                copy_entry(table, from, j, line_at(table, lines, to));
            }
        }
    }
    adopt_lines(shard, lines, n_lines);
    return true;
}

static unsigned line_load(const uint64_t *line)
{
    return RL_LINE_SLOTS - (unsigned)__builtin_popcount(rl_line_match(line, 0));
}

/* Join the lines of a nearly empty shard in pairs, or give all its memory back.
 * False: it stays as it is, being in use, or as small as it gets, or because a
 * pair has more than eight entries or there is no memory for the copy. */
static bool shrink(const rl_table *table, shard *shard)
{
    if (shard->used == 0) {
        adopt_lines(shard, NULL, 0);
        return false;
    }
    bool sparse = shard->used * LOAD_DEN * 8 < slot_count(shard) * LOAD_NUM;
    if (!sparse || shard->n_lines == table->lines_min) {
        return false;
    }
    uint32_t n_lines = shard->n_lines / 2;
    for (uint32_t i = 0; i < n_lines; i++) {
        uint64_t *pair = line_at(table, shard->lines, 2 * i);
        if (line_load(pair) + line_load(pair + table->line_words) > RL_LINE_SLOTS) {
            return false;
        }
    }
    uint64_t *lines = rl_alloc_zeroed(lines_bytes(table, n_lines));
    if (lines == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < shard->n_lines; i++) {
        uint64_t *from = line_at(table, shard->lines, i);
        for (unsigned j = 0; j < RL_LINE_SLOTS; j++) {
            if (from[j] != 0) {
                copy_entry(table, from, j, line_at(table, lines, i / 2));
            }
        }
    }
    adopt_lines(shard, lines, n_lines);
    return true;
}

/* Called before an insert: sweep when the shard looks crowded or as many inserts
 * have passed as it has slots, then fit its size to what is left. The share of
 * one sweep in the cost of an insert is constant. */
static void fit_size(const moment *moment, shard *shard)
{
    size_t slots = slot_count(shard);
    bool crowded = shard->used * LOAD_DEN >= slots * LOAD_NUM;
    if (!(crowded && shard->since_sweep * 8 >= slots) && shard->since_sweep < slots) {
        return;
    }
    sweep_shard(moment, shard);
    if (shard->used * LOAD_DEN * 2 < slots * LOAD_NUM) {
        shrink(moment->table, shard);
    } else if (shard->n_lines < moment->table->lines_max) {
        grow(moment->table, shard);
    }
}

/* ---- a place for a new key ------------------------------------------------- */

/* How much of its capacity an entry lacks, by its most used limit. */
static double indebtedness(const moment *moment, const uint64_t *words)
{
    double most = 0;
    for (size_t i = 0; i < moment->table->n_limits; i++) {
        uint64_t deficit = rl_bucket_deficit(words[i], moment->units[i]);
        double share = (double)deficit / (double)moment->table->limits[i].cap;
        most = share > most ? share : most;
    }
    return most;
}

static slot least_indebted(const moment *moment, uint64_t *first, uint64_t *second)
{
    slot best = {NULL, NULL};
    double least = 0;
    for (unsigned i = 0; i < 2 * RL_LINE_SLOTS; i++) {
        uint64_t *line = i < RL_LINE_SLOTS ? first : second;
        slot entry = slot_at(moment->table, line, i % RL_LINE_SLOTS);
        double debt = indebtedness(moment, entry.words);
        if (best.tag == NULL || debt < least) {
            best = entry;
            least = debt;
        }
    }
    return best;
}

/* A free slot for the tag, or (its tag is not 0) the entry that gives way to it.
 * No slot at all: the shard has no memory yet and got none. */
static slot make_room(const moment *moment, shard *shard, uint64_t tag)
{
    const rl_table *table = moment->table;
    if (shard->n_lines != 0) {
        fit_size(moment, shard);
    }
    if (shard->n_lines == 0 && !grow(table, shard)) {
        return (slot){NULL, NULL};
    }
    for (;;) {
        uint64_t *first = line_at(table, shard->lines, first_line(tag, shard->n_lines));
        uint64_t *second = line_at(table, shard->lines, second_line(tag, shard->n_lines));
        unsigned first_load = sweep_line(moment, shard, first);
        unsigned second_load = sweep_line(moment, shard, second);
        uint64_t *emptier = second_load < first_load ? second : first;
        unsigned free_slots = rl_line_match(emptier, 0);
        if (free_slots != 0) {
            return slot_at(table, emptier, (unsigned)__builtin_ctz(free_slots));
        }
        if (shard->n_lines >= table->lines_max || !grow(table, shard)) {
            return least_indebted(moment, first, second);
        }
    }
}

/* ---- decisions ------------------------------------------------------------- */

typedef struct request {
    uint64_t tag;
    const uint64_t *costs;
    uint64_t deficits[RL_TABLE_LIMITS_MAX];
} request;

static void read_deficits(request *request, const moment *moment, slot entry)
{
    for (size_t i = 0; i < moment->table->n_limits; i++) {
        request->deficits[i] = entry.tag != NULL && *entry.tag != 0
                                   ? rl_bucket_deficit(entry.words[i], moment->units[i])
                                   : 0;
    }
}

static bool passes(const request *request, const rl_table *table)
{
    for (size_t i = 0; i < table->n_limits; i++) {
        if (!rl_bucket_allows(&table->limits[i], request->deficits[i], request->costs[i])) {
            return false;
        }
    }
    return true;
}

static void write_entry(request *request, const moment *moment, shard *shard, slot entry)
{
    if (*entry.tag != request->tag) {
        shard->used += *entry.tag == 0;
        shard->counts.evicted_active += *entry.tag != 0;
        shard->counts.inserted++;
        shard->since_sweep++;
        *entry.tag = request->tag;
    }
    for (size_t i = 0; i < moment->table->n_limits; i++) {
        request->deficits[i] += request->costs[i];
        entry.words[i] = moment->units[i] + request->deficits[i];
    }
}

/* The limit to tell of: see rl_table_take. */
static rl_decision describe(const request *request, const moment *moment, bool allowed)
{
    const rl_table *table = moment->table;
    rl_decision told = {0};
    for (size_t i = 0; i < table->n_limits; i++) {
        uint64_t deficit = request->deficits[i];
        uint64_t cost = request->costs[i];
        bool passed = allowed || rl_bucket_allows(&table->limits[i], deficit, cost);
        rl_tap tap = rl_limit_tap(&table->limits[i], moment->now_ns);
        rl_decision one = rl_limit_decision(&table->limits[i], tap, deficit, cost, passed);
        bool tighter = allowed ? one.remaining < told.remaining
                               : one.retry_after_ns > told.retry_after_ns;
        if (i == 0 || tighter) {
            told = one;
        }
    }
    return told;
}

static void lock(shard *shard)
{
    pthread_mutex_lock(&shard->lock);
}

static void unlock(shard *shard)
{
    pthread_mutex_unlock(&shard->lock);
}

rl_status rl_table_take(rl_table *table, rl_key key, const uint64_t *costs, int64_t now_ns,
                        bool *allowed, rl_decision *out)
{
    shard *shard = key_shard(table, key);
    request request;
    moment moment;
    request.tag = key_tag(key);
    request.costs = costs;
    moment_at(&moment, table, now_ns);

    lock(shard);
    keep_within_horizon(&moment, shard);
    slot entry = find(table, shard, request.tag);
    read_deficits(&request, &moment, entry);
    bool pass = passes(&request, table);
    if (pass && entry.tag == NULL) {
        entry = make_room(&moment, shard, request.tag);
        if (entry.tag == NULL) {
            unlock(shard);
            return RL_ENOMEM;
        }
        read_deficits(&request, &moment, entry);
        pass = passes(&request, table);
    }
    if (pass) {
        write_entry(&request, &moment, shard, entry);
    }
    shard->counts.allowed += pass;
    shard->counts.denied += !pass;
    unlock(shard);

    *allowed = pass;
    if (out != NULL) {
        *out = describe(&request, &moment, pass);
    }
    return RL_OK;
}

void rl_table_peek(rl_table *table, rl_key key, const uint64_t *costs, int64_t now_ns,
                   rl_decision *out)
{
    shard *shard = key_shard(table, key);
    request request;
    moment moment;
    request.tag = key_tag(key);
    request.costs = costs;
    moment_at(&moment, table, now_ns);

    lock(shard);
    keep_within_horizon(&moment, shard);
    read_deficits(&request, &moment, find(table, shard, request.tag));
    unlock(shard);

    *out = describe(&request, &moment, passes(&request, table));
}

void rl_table_inspect(rl_table *table, rl_key key, int64_t now_ns, rl_decision *each)
{
    shard *shard = key_shard(table, key);
    request request = {.tag = key_tag(key)};
    moment moment;
    moment_at(&moment, table, now_ns);

    lock(shard);
    keep_within_horizon(&moment, shard);
    read_deficits(&request, &moment, find(table, shard, request.tag));
    unlock(shard);

    for (size_t i = 0; i < table->n_limits; i++) {
        rl_tap tap = rl_limit_tap(&table->limits[i], now_ns);
        each[i] = rl_limit_decision(&table->limits[i], tap, request.deficits[i], 0, true);
    }
}

void rl_table_refund(rl_table *table, rl_key key, const uint64_t *costs, int64_t now_ns)
{
    shard *shard = key_shard(table, key);
    request request;
    moment moment;
    request.tag = key_tag(key);
    request.costs = costs;
    moment_at(&moment, table, now_ns);

    lock(shard);
    keep_within_horizon(&moment, shard);
    slot entry = find(table, shard, request.tag);
    if (entry.tag != NULL) {
        read_deficits(&request, &moment, entry);
        for (size_t i = 0; i < table->n_limits; i++) {
            uint64_t deficit = request.deficits[i];
            uint64_t given = costs[i] < deficit ? costs[i] : deficit;
            entry.words[i] = moment.units[i] + deficit - given;
        }
    }
    unlock(shard);
}

void rl_table_reset(rl_table *table, rl_key key)
{
    shard *shard = key_shard(table, key);
    lock(shard);
    slot entry = find(table, shard, key_tag(key));
    if (entry.tag != NULL) {
        release(shard, entry);
    }
    unlock(shard);
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
    return sizeof *table + ((size_t)1 << table->shard_bits) * sizeof(shard);
}

/* Shards of at most KEYS_PER_SHARD keys while there are not too many of them,
 * and sizes lines_min * 2^i that reach the lines a shard's share calls for. */
static void choose_geometry(rl_table *table, size_t max_keys)
{
    while (table->shard_bits < SHARD_BITS_MAX &&
           max_keys >> table->shard_bits > KEYS_PER_SHARD) {
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

rl_table *rl_table_new(const rl_limit *limits, size_t n_limits, size_t max_keys, rl_secret secret)
{
    rl_table plan = {
        .secret = secret,
        .n_limits = n_limits,
        .line_words = RL_LINE_SLOTS * (1 + n_limits),
        .horizon_ns = RL_NEVER,
    };
    choose_geometry(&plan, max_keys);
    rl_table *table = rl_alloc_zeroed(table_bytes(&plan));
    if (table == NULL) {
        return NULL;
    }
    *table = plan;
    for (size_t i = 0; i < n_limits; i++) {
        table->limits[i] = limits[i];
        if (limits[i].horizon_ns < table->horizon_ns) {
            table->horizon_ns = limits[i].horizon_ns;
        }
    }
    for (size_t i = 0; i < (size_t)1 << table->shard_bits; i++) {
        pthread_mutex_init(&table->shards[i].lock, NULL);
    }
    return table;
}

void rl_table_free(rl_table *table)
{
    if (table == NULL) {
        return;
    }
    for (size_t i = 0; i < (size_t)1 << table->shard_bits; i++) {
        rl_free(table->shards[i].lines);
        pthread_mutex_destroy(&table->shards[i].lock);
    }
    rl_free(table);
}

rl_table_stats rl_table_sweep(rl_table *table, int64_t now_ns)
{
    rl_table_stats total = {.bytes = table_bytes(table)};
    moment moment;
    moment_at(&moment, table, now_ns);
    for (size_t i = 0; i < (size_t)1 << table->shard_bits; i++) {
        shard *shard = &table->shards[i];
        lock(shard);
        keep_within_horizon(&moment, shard);
        sweep_shard(&moment, shard);
        while (shrink(table, shard)) {
        }
        total.keys += shard->used;
        total.slots += slot_count(shard);
        total.bytes += lines_bytes(table, shard->n_lines);
        total.allowed += shard->counts.allowed;
        total.denied += shard->counts.denied;
        total.inserted += shard->counts.inserted;
        total.evicted_active += shard->counts.evicted_active;
        total.grow_failures += shard->counts.grow_failures;
        unlock(shard);
    }
    return total;
}
