#include "engine/shard.h"

/* ---- full entries ---------------------------------------------------------- */

/* Move words that have long meant "full" up to now, before V wraps around them. */
static void shard_renew_words(const moment *moment, uint64_t *words)
{
    const rl_limit_set *set = &moment->table->set;
    for (size_t i = 0; i < set->n; i++) {
        uint64_t *word = &words[set->first_word[i]];
        uint64_t now = moment->at.units[i];
        if (!rl_is_window(&set->limits[i]) && rl_bucket_deficit(*word, now) == 0 &&
            now - *word > UINT64_C(1) << 40) {
            *word = now;
        }
    }
}

/* Free the full entries of a line. Return how many entries remain. */
static unsigned sweep_line(const moment *moment, shard *shard, uint64_t *line)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < RL_LINE_SLOTS; i++) {
        slot entry = slot_at(moment->table, line, i);
        if (*entry.tag == 0) {
            continue;
        }
        if (rl_entry_is_full(&moment->at, entry.words)) {
            rl_shard_release(shard, entry);
        } else {
            shard_renew_words(moment, entry.words);
            kept++;
        }
    }
    return kept;
}

void rl_shard_sweep(const moment *moment, shard *shard)
{
    uint64_t *lines = shard_lines(moment->table, shard);
    uint32_t n_lines = line_count(moment->table, shard);
    size_t used = 0;
    for (uint32_t i = 0; i < n_lines; i++) {
        used += sweep_line(moment, shard, line_at(moment->table, lines, i));
    }
    shard->used = used; /* in a file it may have been wrong: a process was killed */
    shard->since_sweep = 0;
    shard->swept_ns = moment->at.now.steady_ns;
}

/* Make the bucket of limit `i` full in every entry. */
static void fill_all(const moment *moment, shard *shard, size_t i)
{
    uint64_t *lines = shard_lines(moment->table, shard);
    uint32_t n_lines = line_count(moment->table, shard);
    for (uint32_t n = 0; n < n_lines; n++) {
        uint64_t *line = line_at(moment->table, lines, n);
        for (unsigned j = 0; j < RL_LINE_SLOTS; j++) {
            slot_at(moment->table, line, j).words[moment->table->set.first_word[i]] =
                moment->at.units[i];
        }
    }
}

/* A word differs from a full one by the sign of its distance to V, which is right
 * while V is less than 2^63 past it. So no entry may stay unvisited for long:
 * it is freed by the first access after one horizon (V has moved by 2^61), and
 * words that were full then were at most 2^40 behind.
 *
 *     swept          last write at the latest          this access
 *     ──┼──── horizon ────┼──────────────────────────────┼──> age
 *
 * Up to three horizons of a limit after the last sweep, its V is 3 * 2^61 + 2^40
 * past any word: less than 2^63. Later, the last write is more than two horizons
 * ago, in which time V moves by more than any bucket holds: every entry is full by
 * that limit, except after a charge beyond empty. Such a debt is forgiven when the
 * key had no request for that long. A slower limit may still have a deficit. */
void rl_shard_visit(const moment *moment, shard *shard)
{
    if (moment->at.set != &moment->table->set) {
        struct moment own;
        moment_init(&own, moment->table, moment->at.now);
        rl_shard_visit(&own, shard);
        return;
    }
    const rl_limit_set *set = &moment->table->set;
    int64_t age_ns = rl_shard_age_ns(moment, shard);
    for (size_t i = 0; i < set->n; i++) {
        if (age_ns / 3 > set->limits[i].horizon_ns) {
            fill_all(moment, shard, i);
        }
    }
    rl_shard_sweep(moment, shard);
}

/* ---- growing and shrinking ------------------------------------------------- */

static void adopt_lines(shard *shard, uint64_t *lines, uint32_t mask)
{
    rl_free(shard->lines);
    shard->lines = lines;
    shard->mask = mask;
}

/* Copy entry `i` of `from` to the first free slot of line `to`, which has one. */
static void copy_entry(const rl_table *table, uint64_t *from, unsigned i, uint64_t *to)
{
    slot source = slot_at(table, from, i);
    unsigned free_slots = rl_line_match(to, 0);
    slot target = slot_at(table, to, (unsigned)__builtin_ctz(free_slots));
    *target.tag = *source.tag;
    memcpy(target.words, source.words, table->set.n_words * sizeof(uint64_t));
}

/* Growing splits each line i of n in two, i and i + n: in three steps, so that the entries are found
 * at every moment, also if the process is killed. */

/* Copy a line to its upper half, and free the entries there that do not belong in it. An entry whose
 * two lines are both halves stays in the lower one. */
static void split_copy(const rl_table *table, const uint64_t *lower, uint64_t *upper, uint32_t i,
                       uint32_t n, uint32_t mask)
{
    memcpy(upper, lower, table->line_words * sizeof *upper);
    for (unsigned j = 0; j < RL_LINE_SLOTS; j++) {
        uint32_t first = first_line(table, upper[j], mask);
        uint32_t second = second_line(table, upper[j], mask);
        if (first == i || second == i || (first != i + n && second != i + n)) {
            upper[j] = 0;
        }
    }
}

/* Free the entries of a line that belong in another one: its upper half has them. */
static void split_clear(const rl_table *table, uint64_t *lower, uint32_t i, uint32_t mask)
{
    for (unsigned j = 0; j < RL_LINE_SLOTS; j++) {
        if (first_line(table, lower[j], mask) != i && second_line(table, lower[j], mask) != i) {
            lower[j] = 0;
        }
    }
}

static void split_lines(const rl_table *table, uint64_t *lines, uint32_t n, uint32_t mask)
{
    for (uint32_t i = 0; i < n; i++) {
        split_copy(table, line_at(table, lines, i), line_at(table, lines, i + n), i, n, mask);
    }
}

static void split_finish(const rl_table *table, uint64_t *lines, uint32_t n, uint32_t mask)
{
    for (uint32_t i = 0; i < n; i++) {
        split_clear(table, line_at(table, lines, i), i, mask);
    }
}

static bool shard_grow_in_memory(const rl_table *table, shard *shard)
{
    uint32_t n = line_count(table, shard);
    uint32_t mask = n == 0 ? 0 : shard->mask * 2 + 1;
    uint64_t *lines = rl_alloc_zeroed(lines_bytes(table, n == 0 ? table->lines_min : 2 * n));
    if (lines == NULL) {
        shard->counts.grow_failures++;
        return false;
    }
    if (n != 0) {
        memcpy(lines, shard->lines, lines_bytes(table, n));
        split_lines(table, lines, n, mask);
        split_finish(table, lines, n, mask);
    }
    adopt_lines(shard, lines, mask);
    return true;
}

/* The lines are there already, and begin to be used. A process that was stopped then has lost
 * the lock, and changes nothing that others use. */
static bool shard_grow_in_file(const rl_table *table, shard *shard)
{
    uint64_t ticket = atomic_load_explicit(&shard->lock, memory_order_relaxed);
    uint64_t *lines = shard_lines(table, shard);
    uint32_t before = shard_mask(table, shard);
    uint32_t mask = (before * 2 + 1) & table->mask_max;
    uint32_t n = table->lines_min * (before + 1);
    if (n * UINT64_C(2) > table->lines_max) {
        return false; /* not a mask that growing makes: it was overwritten */
    }
    split_lines(table, lines, n, mask);
    if (!rl_lock_is_held(&shard->lock, ticket)) {
        return false;
    }
    atomic_store_explicit(&shard->mask, mask, memory_order_release);
    split_finish(table, lines, n, mask);
    return true;
}

static bool shard_grow(const rl_table *table, shard *shard)
{
    return table->region == NULL ? shard_grow_in_memory(table, shard)
                                 : shard_grow_in_file(table, shard);
}

static unsigned line_load(const uint64_t *line)
{
    return RL_LINE_SLOTS - (unsigned)__builtin_popcount(rl_line_match(line, 0));
}

bool rl_shard_shrink(const rl_table *table, shard *shard)
{
    if (table->region != NULL) {
        return false;
    }
    if (shard->used == 0) {
        adopt_lines(shard, NULL, 0);
        return false;
    }
    bool sparse = shard->used * LOAD_DEN * 8 < slot_count(table, shard) * LOAD_NUM;
    if (!sparse || shard->mask == 0) {
        return false;
    }
    uint32_t n_lines = line_count(table, shard) / 2;
    for (uint32_t i = 0; i < n_lines; i++) {
        const uint64_t *lower = line_at(table, shard->lines, i);
        const uint64_t *upper = line_at(table, shard->lines, i + n_lines);
        if (line_load(lower) + line_load(upper) > RL_LINE_SLOTS) {
            return false;
        }
    }
    uint64_t *lines = rl_alloc_zeroed(lines_bytes(table, n_lines));
    if (lines == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < 2 * n_lines; i++) {
        uint64_t *from = line_at(table, shard->lines, i);
        for (unsigned j = 0; j < RL_LINE_SLOTS; j++) {
            if (from[j] != 0) {
                copy_entry(table, from, j, line_at(table, lines, i % n_lines));
            }
        }
    }
    adopt_lines(shard, lines, shard->mask / 2);
    return true;
}

/* Called before an insert: sweep when the shard looks crowded or as many inserts
 * have passed as it has slots, then fit its size to the entries that remain.
 * The share of a sweep in the cost of an insert is constant. */
static void fit_size(const moment *moment, shard *shard)
{
    const rl_table *table = moment->table;
    size_t slots = slot_count(table, shard);
    bool crowded = shard->used * LOAD_DEN >= slots * LOAD_NUM;
    if (!(crowded && shard->since_sweep * 8 >= slots) && shard->since_sweep < slots) {
        return;
    }
    rl_shard_sweep(moment, shard);
    if (shard->used * LOAD_DEN * 2 < slots * LOAD_NUM) {
        rl_shard_shrink(table, shard);
    } else if (line_count(table, shard) < table->lines_max) {
        shard_grow(table, shard);
    }
}

/* ---- a place for a new key ------------------------------------------------- */

/* Return how much of its capacity an entry lacks, by its most used limit. */
static double indebtedness(const moment *moment, const uint64_t *words)
{
    const rl_limit_set *set = &moment->table->set;
    rl_found found;
    double most = 0;
    rl_entry_read(&moment->at, words, &found);
    for (size_t i = 0; i < set->n; i++) {
        uint64_t cap = set->limits[i].cap;
        double share = cap != 0 ? (double)found.deficits[i] / (double)cap : 0;
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

slot rl_shard_make_room(const moment *moment, shard *shard, uint64_t tag)
{
    const rl_table *table = moment->table;
    if (moment->at.set != &table->set) {
        struct moment own;
        moment_init(&own, table, moment->at.now);
        return rl_shard_make_room(&own, shard, tag);
    }
    if (line_count(table, shard) != 0) {
        fit_size(moment, shard);
    }
    if (line_count(table, shard) == 0 && !shard_grow(table, shard)) {
        return (slot){NULL, NULL};
    }
    for (unsigned doublings = 0;; doublings++) {
        uint64_t *lines = shard_lines(table, shard);
        uint32_t mask = shard_mask(table, shard);
        uint64_t *first = line_at(table, lines, first_line(table, tag, mask));
        uint64_t *second = line_at(table, lines, second_line(table, tag, mask));
        unsigned first_load = sweep_line(moment, shard, first);
        unsigned second_load = sweep_line(moment, shard, second);
        uint64_t *emptier = second_load < first_load ? second : first;
        unsigned free_slots = rl_line_match(emptier, 0);
        if (free_slots != 0) {
            return slot_at(table, emptier, (unsigned)__builtin_ctz(free_slots));
        }
        /* In a file the mask may be overwritten again and again. */
        if (mask == table->mask_max || doublings == 32 || !shard_grow(table, shard)) {
            return least_indebted(moment, first, second);
        }
    }
}
