/* engine/table.h -- many buckets, one entry per key, safe to share between threads.
 *
 * The table is made for one set of limits; an entry holds one bucket or window for
 * each of them, and a request passes all of them or takes from none.
 *
 * Only the keyed hash of a key is stored, 64 bits, from which its place follows. Two keys
 * with the same hash share their buckets: a new key meets another one's entry with
 * probability n / 2^64, n being the live keys (5e-14 in a full default table).
 *
 *     table ── shard ── lines of eight slots ── slot = tag + the words of each limit
 *              lock     a key may live in two of a shard's lines
 *
 * Memory follows the live keys: a full bucket is the same as no bucket, so
 * inserts free the full entries they pass, and a shard doubles or halves as
 * needed, up to the size for max_keys. When all places for a new key hold entries
 * in use, the one closest to full is evicted and the new key starts with its
 * deficit, so a flood of keys cannot mint tokens.
 *
 * The table never stores a key and never calls back, so its locks are always
 * held for a short, bounded time. Time is an argument; costs come from
 * rl_limit_cost, one per limit. */
#ifndef RL_ENGINE_TABLE_H
#define RL_ENGINE_TABLE_H

#include <stddef.h>

#include "engine/entry.h"
#include "engine/hash.h"

#define RL_TABLE_LIMITS_MAX RL_LIMITS_MAX
#define RL_TABLE_KEYS_MAX ((size_t)1 << 36)

typedef struct rl_table rl_table; /* opaque: see table.c */

typedef struct rl_table_stats {
    uint64_t keys;    /* entries that are not full now */
    uint64_t slots;   /* entries that fit into the present memory */
    uint64_t bytes;   /* of memory, in total */
    uint64_t allowed; /* decisions so far */
    uint64_t denied;
    uint64_t inserted;       /* entries made so far */
    uint64_t evicted_active; /* entries that were evicted while not full */
    uint64_t grow_failures;  /* times that growth failed for lack of memory */
} rl_table_stats;

/* Fill *secret from the system's random source. Return RL_OK or RL_ERANDOM. */
rl_status rl_secret_init(rl_secret *secret);

/* Make a table for n_limits (1 to RL_TABLE_LIMITS_MAX) limits, which are
 * copied, that holds about max_keys (1 to RL_TABLE_KEYS_MAX) entries in use.
 * NULL: out of memory. */
rl_table *rl_table_new(const rl_limit *limits, size_t n_limits, size_t max_keys, rl_secret secret);
void rl_table_free(rl_table *table);

/* Make a table with the keys, the secret and the counts of another, for as many limits
 * of the same kinds; rl_entry_convert converts the entries. The other table stays usable:
 * decisions that it makes during the copy may be missing in the new one.
 * NULL: out of memory, nothing is lost. */
rl_table *rl_table_renew(rl_table *table, const rl_limit *limits, rl_time now);

/* Fill a new table with the keys and the counts of another one of the same size, whose secret it
 * has. As rl_table_renew else. RL_OK or RL_ENOMEM. */
rl_status rl_table_copy(rl_table *from, rl_table *to, rl_time now);

/* Return true for a table in a file that processes share, see engine/shared.h. */
bool rl_table_is_shared(const rl_table *table);

/* Hash a client key for use with this table. */
rl_key rl_table_key(const rl_table *table, const void *data, size_t len);

/* Take the costs from the buckets of `key`, full on first use, or deny and
 * change nothing, but for limits that count denied requests. *out is the decision of the tightest limit (the one that denies
 * longest, else the one with the fewest tokens left); `each` has room for the decision
 * of every limit. Both may be NULL.
 * RL_OK, or RL_ENOMEM: the table is unchanged and nothing is written. */
rl_status rl_table_take(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                        bool *allowed, rl_decision *out, rl_decision *each);

/* The same, but a denial changes nothing, whatever the limits count: for one that waits. */
rl_status rl_table_try(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                       bool *allowed, rl_decision *out, rl_decision *each);

/* Take the costs (from rl_limit_charge) even when tokens are missing: a bucket may
 * then lack up to rl_limit_most. Not counted as a decision. RL_OK, or
 * RL_ENOMEM: nothing is taken or written. */
rl_status rl_table_charge(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                          rl_decision *out);

/* A request under limits of the caller, which rl_limit_set_init_given made. The table was made for
 * any such, see rl_limit_set_init_any. */
typedef struct rl_request {
    rl_table *table;
    const rl_limit_set *limits; /* borrowed */
    rl_key key;
    const uint64_t *costs; /* one for each of these limits */
    rl_time now;
    int64_t blocked_ns; /* the key is blocked for so long; 0: it is not */
} rl_request;

/* As rl_table_take, or rl_table_try, for such a request. */
rl_status rl_request_take(const rl_request *request, bool *allowed, rl_decision *out,
                          rl_decision *each);
rl_status rl_request_try(const rl_request *request, bool *allowed, rl_decision *out,
                         rl_decision *each);
/* As rl_table_charge, rl_table_peek, rl_table_refund. */
rl_status rl_request_charge(const rl_request *request, rl_decision *out);
void rl_request_peek(const rl_request *request, rl_decision *out, rl_decision *each);
void rl_request_refund(const rl_request *request);

/* The limits that a table was made for. Borrowed. */
const rl_limit_set *rl_table_limits(const rl_table *table);

/* Return true if some key may be blocked. */
bool rl_table_has_blocks(rl_table *table, rl_time now);

/* Return how long rl_table_block denies the requests of a key; 0: it does not. */
int64_t rl_table_blocked_ns(rl_table *table, rl_key key, rl_time now);

/* Read the decision that rl_table_take would make, with the tokens left now. `each` may
 * be NULL. Changes nothing. */
void rl_table_peek(rl_table *table, rl_key key, const uint64_t *costs, rl_time now,
                   rl_decision *out, rl_decision *each);

/* Give tokens back (costs from rl_limit_refund); a bucket never exceeds its capacity. */
void rl_table_refund(rl_table *table, rl_key key, const uint64_t *costs, rl_time now);

/* Deny all requests for `key` in the next `block_ns` (not negative), unless it is blocked for longer.
 * RL_OK, or RL_ENOMEM: nothing has changed. */
rl_status rl_table_block(rl_table *table, rl_key key, int64_t block_ns, rl_time now);

/* Make the buckets of `key` full, and unblock it. */
void rl_table_reset(rl_table *table, rl_key key);

/* Make the buckets of one shard full and give its memory back. Begin with *next = 0, and call until
 * it returns false: then all buckets have been reset. Counts of decisions stay. */
bool rl_table_reset_part(rl_table *table, size_t *next);

/* Count all entries, those that have become full since the last sweep included. Takes each
 * lock for a moment. */
rl_table_stats rl_table_count(rl_table *table);

/* Free the full entries and count the others, shard by shard. */
rl_table_stats rl_table_sweep(rl_table *table, rl_time now);

/* Do a part of rl_table_sweep: from shard *next on, until it has visited `slots` slots or more.
 * Begin with *next = 0 and *total = {0}. Return false when all is done. */
bool rl_table_sweep_part(rl_table *table, rl_time now, size_t slots, size_t *next,
                         rl_table_stats *total);

#endif
