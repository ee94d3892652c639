/* engine/entry.h -- the entry of one key in a table: a bucket or a window for each limit.
 *
 * An entry is a few words, one for a bucket, two for a fixed window and six or more for a
 * sliding one, in the order of the limits. For a request each limit is a deficit, whatever its
 * kind: the units that are missing (a bucket) or used (a window), at most `cap`. Only these
 * functions distinguish the kinds. Those of buckets are on the hot path, so they are in a
 * header; sets with windows, of which even one slows the loops down, have their own loops in
 * entry.c. */
#ifndef RL_ENGINE_ENTRY_H
#define RL_ENGINE_ENTRY_H

#include <stddef.h>
#include <string.h>

#include "engine/bucket.h"
#include "engine/sliding.h"
#include "engine/window.h"

#define RL_LIMITS_MAX 8

/* At most so many words in an entry. */
#define RL_ENTRY_WORDS_MAX (RL_LIMITS_MAX * (2 * RL_RUN_TIMES_MAX + 4))

/* The limits of a table. Immutable after rl_limit_set_init. */
typedef struct rl_limit_set {
    size_t n;
    size_t n_words;
    int64_t horizon_ns; /* the shortest one */
    bool counts_denied; /* one of them does */
    bool has_windows;   /* not all of them are buckets */
    rl_limit limits[RL_LIMITS_MAX];
    uint64_t most[RL_LIMITS_MAX]; /* rl_limit_most of each */
    uint8_t first_word[RL_LIMITS_MAX];
} rl_limit_set;

/* A point in time, with each bucket's V. */
typedef struct rl_moment {
    const rl_limit_set *set;
    rl_time now;
    uint64_t units[RL_LIMITS_MAX];
} rl_moment;

/* The unpacked state of a window; the kind of the limit selects the member. */
typedef union rl_any_window {
    rl_window fixed;
    rl_sliding sliding;
} rl_any_window;

/* The unpacked state of an entry, before or after a request. */
typedef struct rl_found {
    uint64_t deficits[RL_LIMITS_MAX];
    rl_any_window windows[RL_LIMITS_MAX]; /* only for limits that are windows */
    bool is_ahead; /* the state is from before the clock was set back: write what was read */
} rl_found;

/* Copy 1 to RL_LIMITS_MAX limits. */
void rl_limit_set_init(rl_limit_set *set, const rl_limit *limits, size_t n);

/* At most so many buckets in a set of timed ones. */
#define RL_TIMED_LIMITS_MAX 4

/* Copy limits that a caller gives with a request: of one key, each request may have others. If all
 * are buckets, which are timed, there are RL_TIMED_LIMITS_MAX of them at most, and the one that takes
 * longest to fill is the first word: so a limit that is added or left out does not change what
 * the others are. */
void rl_limit_set_init_given(rl_limit_set *set, const rl_limit *limits, size_t n);

/* Make the set of a table whose requests have limits such as these: entries have the same words, or
 * more. */
void rl_limit_set_init_any(rl_limit_set *set, const rl_limit_set *given);

/* Return true if a table that was made for the one has the entries of the other. */
bool rl_limit_set_fits(const rl_limit_set *any, const rl_limit_set *given);

/* Convert an entry of one set to the words of another, which has as many limits of the
 * same kinds. A bucket is full again at the same time as before (or lacks as many tokens,
 * where one of the two is never refilled). A window of the same length keeps its counts,
 * any other starts empty. */
void rl_entry_convert(const rl_moment *from, const uint64_t *words, const rl_moment *to,
                      uint64_t *out);

/* Set *out to the decision of the tightest limit: the one that denies longest, else the one
 * with the fewest tokens left. */
void rl_entry_describe(const rl_moment *moment, const rl_found *found, const uint64_t *costs,
                       bool allowed, rl_decision *out);

/* Return the decision of limit i. */
rl_decision rl_entry_describe_one(const rl_moment *moment, const rl_found *found, size_t i,
                                  uint64_t cost, bool allowed);

/* Return true if one limit is tighter than the other: it denies, or denies longer; where
 * both allow, it has fewer tokens left. */
static inline bool rl_decision_tells_more(const rl_decision *one, const rl_decision *other)
{
    if (one->allowed != other->allowed) {
        return !one->allowed;
    }
    return one->allowed ? one->remaining < other->remaining
                        : one->retry_after_ns > other->retry_after_ns;
}

/* Make a decision about a key that is blocked for so long a denial. */
static inline void rl_decision_block(rl_decision *decision, int64_t left_ns)
{
    decision->allowed = false;
    decision->remaining = 0;
    if (decision->retry_after_ns < left_ns) {
        decision->retry_after_ns = left_ns;
    }
    if (decision->reset_after_ns < left_ns) {
        decision->reset_after_ns = left_ns;
    }
}

static inline void rl_moment_init(rl_moment *moment, const rl_limit_set *set, rl_time now)
{
    moment->set = set;
    moment->now = now;
    for (size_t i = 0; i < set->n; i++) {
        moment->units[i] = rl_limit_units(&set->limits[i], now.steady_ns);
    }
}

static inline bool rl_is_window(const rl_limit *limit)
{
    return limit->kind != RL_BUCKET;
}

/* The functions below for sets that have windows; not inlined, which would need the registers of the
 * hot path. */
#define RL_APART __attribute__((noinline))
RL_APART void rl_entry_read_mixed(const rl_moment *moment, const uint64_t *words, rl_found *found);
RL_APART void rl_entry_write_mixed(const rl_moment *moment, const rl_found *found, uint64_t *words);
RL_APART void rl_found_take_mixed(const rl_moment *moment, rl_found *found, const uint64_t *costs);
RL_APART void rl_found_refund_mixed(const rl_moment *moment, rl_found *found,
                                    const uint64_t *costs);
RL_APART bool rl_entry_is_full_mixed(const rl_moment *moment, const uint64_t *words);

/* Read the word of limit i, a bucket; NULL: there is none, so it is full. */
static inline void rl_entry_read_bucket(const rl_moment *moment, size_t i, const uint64_t *words,
                                        rl_found *found)
{
    const rl_limit_set *set = moment->set;
    uint64_t deficit =
        words == NULL ? 0 : rl_bucket_deficit(words[set->first_word[i]], moment->units[i]);
    uint64_t most = set->most[i];
    if (deficit > most) {
        deficit = most;
        found->is_ahead = true;
    }
    found->deficits[i] = deficit;
}

static inline void rl_entry_write_bucket(const rl_moment *moment, size_t i, const rl_found *found,
                                         uint64_t *words)
{
    if (moment->set->most[i] != 0) { /* a limit of 0 has no bucket: keep what other limits wrote */
        words[moment->set->first_word[i]] = moment->units[i] + found->deficits[i];
    }
}

/* Read the words of an entry; NULL: there is no entry, so every limit is full. */
static inline void rl_entry_read(const rl_moment *moment, const uint64_t *words, rl_found *found)
{
    if (moment->set->has_windows) {
        rl_entry_read_mixed(moment, words, found);
        return;
    }
    found->is_ahead = false;
    for (size_t i = 0; i < moment->set->n; i++) {
        rl_entry_read_bucket(moment, i, words, found);
    }
}

static inline bool rl_entry_allows(const rl_limit_set *set, const rl_found *found,
                                   const uint64_t *costs)
{
    for (size_t i = 0; i < set->n; i++) {
        if (!rl_bucket_allows(&set->limits[i], found->deficits[i], costs[i])) {
            return false;
        }
    }
    return true;
}

static inline void rl_entry_write(const rl_moment *moment, const rl_found *found, uint64_t *words)
{
    if (moment->set->has_windows) {
        rl_entry_write_mixed(moment, found, words);
        return;
    }
    for (size_t i = 0; i < moment->set->n; i++) {
        rl_entry_write_bucket(moment, i, found, words);
    }
}

/* Take a cost from limit i, whose deficit does not grow beyond rl_limit_most. Return how much. */
static inline uint64_t rl_found_take_one(const rl_moment *moment, size_t i, rl_found *found,
                                         uint64_t cost)
{
    uint64_t most = moment->set->most[i];
    uint64_t room = found->deficits[i] < most ? most - found->deficits[i] : 0;
    uint64_t taken = cost < room ? cost : room;
    found->deficits[i] += taken;
    return taken;
}

/* Take the costs. */
static inline void rl_found_take(const rl_moment *moment, rl_found *found, const uint64_t *costs)
{
    if (moment->set->has_windows) {
        rl_found_take_mixed(moment, found, costs);
        return;
    }
    for (size_t i = 0; i < moment->set->n; i++) {
        rl_found_take_one(moment, i, found, costs[i]);
    }
}

/* Give a cost back to limit i, which gets no more than full. */
static inline void rl_found_refund_one(size_t i, rl_found *found, uint64_t cost)
{
    uint64_t deficit = found->deficits[i];
    found->deficits[i] = cost < deficit ? deficit - cost : 0;
}

/* Give the costs back. */
static inline void rl_found_refund(const rl_moment *moment, rl_found *found, const uint64_t *costs)
{
    if (moment->set->has_windows) {
        rl_found_refund_mixed(moment, found, costs);
        return;
    }
    for (size_t i = 0; i < moment->set->n; i++) {
        rl_found_refund_one(i, found, costs[i]);
    }
}

/* Take the costs of a denied request from the limits that count those. A deficit grows up to
 * rl_limit_most; a sliding window with so many drops its oldest, so that a client which keeps
 * asking stays denied. */
void rl_found_take_denied(const rl_moment *moment, rl_found *found, const uint64_t *costs);

static inline bool rl_entry_is_full_bucket(const rl_moment *moment, size_t i, const uint64_t *words)
{
    return rl_bucket_deficit(words[moment->set->first_word[i]], moment->units[i]) == 0;
}

static inline bool rl_entry_is_full(const rl_moment *moment, const uint64_t *words)
{
    if (moment->set->has_windows) {
        return rl_entry_is_full_mixed(moment, words);
    }
    for (size_t i = 0; i < moment->set->n; i++) {
        if (!rl_entry_is_full_bucket(moment, i, words)) {
            return false;
        }
    }
    return true;
}

#endif
