/* engine/shard.h -- one shard of a table: entries in lines, and the room for them.
 *
 * Private to the table: table.c, table_decisions.c, shard.c, shared.c, blocks.c, together.c. Every function here is called with the
 * shard's lock held.
 *
 * The shards of a file are not trusted: other processes, and bytes that were overwritten, may
 * change any field at any moment. So where memory is, and how much, comes only from rl_table;
 * the other fields are counts that a sweep sets right. */
#ifndef RL_ENGINE_SHARD_H
#define RL_ENGINE_SHARD_H

#include <stdatomic.h>

#include "engine/alloc.h"
#include "engine/line.h"
#include "engine/lock.h"
#include "engine/table.h"

/* Two choices among lines of eight stay collision-free to about this load. */
#define LOAD_NUM 7u
#define LOAD_DEN 10u

typedef struct shard {
    _Alignas(RL_CACHE_LINE) rl_lock lock; /* guards everything below */
    uint64_t *lines;       /* owned; NULL until the first key and after the last, and in a file */
    _Atomic uint32_t mask; /* there are lines_min * (mask + 1) lines; 2^i - 1 */
    size_t used;           /* slots with a tag, full ones included */
    size_t since_sweep;    /* inserts since the full entries were last freed */
    int64_t swept_ns;
    rl_table_stats counts; /* keys, slots and bytes stay 0 here */
} shard;

/* Immutable but for the shards. */
struct rl_table {
    shard *shards;    /* those of this block, or in a file: see engine/shared.h */
    uint64_t *region; /* the lines of all shards in a file; NULL: each shard has its own */
    void *mapping;    /* owned; the whole file, NULL for none */
    size_t mapping_bytes;
    void (*unmap)(rl_table *table); /* ends the mapping; NULL for none */
    rl_secret secret;
    uint64_t order;     /* of a file: random, for the order of locks, see engine/together.c */
    size_t line_words;  /* eight tags, then the words of each slot in order */
    uint32_t lines_min; /* of one shard */
    uint32_t lines_max; /* lines_min * (mask_max + 1) */
    uint32_t mask_max;  /* 2^i - 1 */
    unsigned shard_bits;
    rl_limit_set set;
    _Atomic(rl_table *) blocks;        /* owned; see engine/blocks.h; NULL: none was made */
    _Atomic int64_t *blocked_until_ns; /* the one below, or in a file */
    _Atomic int64_t own_blocked_until_ns;
    shard own_shards[];
};

typedef struct slot {
    uint64_t *tag;   /* NULL: no slot */
    uint64_t *words; /* see engine/entry.h */
} slot;

/* `at` has the limits of the table, or of a request that has its own (see rl_request). Only those of
 * the table show whether an entry is full, so functions that visit other entries use these. */
typedef struct moment {
    const rl_table *table;
    rl_moment at;
} moment;

static inline size_t rl_table_shards(const rl_table *table)
{
    return (size_t)1 << table->shard_bits;
}

/* Set the limits and the geometry of a table before it is made. In table.c, as those below. */
void rl_table_plan(rl_table *plan, const rl_limit *limits, size_t n_limits, size_t max_keys);

/* Make a table in memory with the secret and the geometry of another one. NULL: out of memory. */
rl_table *rl_table_like(const rl_table *table, const rl_limit *limits, size_t n_limits);

/* Copy the entries of a table to a new one with the same geometry. RL_OK or RL_ENOMEM. */
rl_status rl_table_copy_entries(rl_table *from, rl_table *to, rl_time now);

/* Remove the entry of a key. */
void rl_table_remove(rl_table *table, rl_key key);

/* As rl_table_reset_part, without blocks. */
bool rl_table_empty_part(rl_table *table, size_t *next);

/* ---- places ---------------------------------------------------------------- */

static inline uint64_t key_tag(rl_key key)
{
    return key.hash != 0 ? key.hash : 1; /* 0 marks an empty slot */
}

/* The shard of a key: the first four bits of both halves of its hash. */
static inline shard *rl_table_shard(rl_table *table, rl_key key)
{
    uint64_t eight = (key.hash >> 56 & 0xf0) | (key.hash >> 28 & 0x0f);
    return &table->shards[eight >> (8 - table->shard_bits)];
}

/* The line for a half of a tag: its next bits, scaled to lines_min, plus lines_min times its last
 * bits. So when a shard grows from n lines to 2n, an entry of line i belongs in line i or i + n. */
static inline uint32_t line_of(const rl_table *table, uint32_t half, uint32_t mask)
{
    uint32_t first = (uint32_t)(((uint64_t)(uint32_t)(half << 4) * table->lines_min) >> 32);
    return first + (half & mask) * table->lines_min;
}

/* The two lines of a tag. */
static inline uint32_t first_line(const rl_table *table, uint64_t tag, uint32_t mask)
{
    return line_of(table, (uint32_t)(tag >> 32), mask);
}

static inline uint32_t second_line(const rl_table *table, uint64_t tag, uint32_t mask)
{
    return line_of(table, (uint32_t)tag, mask);
}

static inline uint64_t *line_at(const rl_table *table, uint64_t *lines, uint32_t i)
{
    return lines + (size_t)i * table->line_words;
}

static inline slot slot_at(const rl_table *table, uint64_t *line, unsigned i)
{
    return (slot){line + i, line + RL_LINE_SLOTS + i * table->set.n_words};
}

static inline size_t lines_bytes(const rl_table *table, uint32_t n_lines)
{
    return (size_t)n_lines * table->line_words * sizeof(uint64_t);
}

/* NULL: the shard has no lines. */
static inline uint64_t *shard_lines(const rl_table *table, const shard *shard)
{
    if (table->region == NULL) {
        return shard->lines;
    }
    size_t i = (size_t)(shard - table->shards);
    return table->region + i * table->lines_max * table->line_words;
}

/* Any number is valid: below lines_max there are lines for it. */
static inline uint32_t shard_mask(const rl_table *table, const shard *shard)
{
    return atomic_load_explicit(&shard->mask, memory_order_relaxed) & table->mask_max;
}

static inline uint32_t line_count(const rl_table *table, const shard *shard)
{
    return shard_lines(table, shard) == NULL ? 0
                                             : table->lines_min * (shard_mask(table, shard) + 1);
}

static inline size_t slot_count(const rl_table *table, const shard *shard)
{
    return (size_t)line_count(table, shard) * RL_LINE_SLOTS;
}

static inline slot rl_shard_find(const rl_table *table, const shard *shard, uint64_t tag)
{
    uint64_t *lines = shard_lines(table, shard);
    if (lines == NULL) {
        return (slot){NULL, NULL};
    }
    uint32_t mask = shard_mask(table, shard);
    uint64_t *line = line_at(table, lines, first_line(table, tag, mask));
    unsigned found = rl_line_match(line, tag);
    if (found == 0) {
        line = line_at(table, lines, second_line(table, tag, mask));
        found = rl_line_match(line, tag);
    }
    return found != 0 ? slot_at(table, line, (unsigned)__builtin_ctz(found)) : (slot){NULL, NULL};
}

static inline void moment_init(moment *moment, const rl_table *table, rl_time now)
{
    moment->table = table;
    rl_moment_init(&moment->at, &table->set, now);
}

/* Return the words of a present entry, else NULL. */
static inline const uint64_t *rl_slot_words(slot entry)
{
    return entry.tag != NULL && *entry.tag != 0 ? entry.words : NULL;
}

/* Give a slot, whose words are written, to a tag. If the process dies before, the place stays
 * free. */
static inline void rl_shard_occupy(shard *shard, slot entry, uint64_t tag)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (*entry.tag != tag) {
        shard->used += *entry.tag == 0;
        shard->counts.evicted_active += *entry.tag != 0;
        shard->counts.inserted++;
        shard->since_sweep++;
        *entry.tag = tag;
    }
}

static inline void rl_shard_release(shard *shard, slot entry)
{
    *entry.tag = 0;
    shard->used--;
}

/* Visit the entries of a shard that was not visited for a horizon: see shard.c. */
RL_APART void rl_shard_visit(const moment *moment, shard *shard);

static inline int64_t rl_shard_age_ns(const moment *moment, const shard *shard)
{
    return (int64_t)((uint64_t)moment->at.now.steady_ns - (uint64_t)shard->swept_ns);
}

/* Called before every access. A visit in the future is none: the clock stepped back. */
static inline void rl_shard_keep(const moment *moment, shard *shard)
{
    if ((uint64_t)rl_shard_age_ns(moment, shard) >= (uint64_t)moment->table->set.horizon_ns) {
        rl_shard_visit(moment, shard);
    }
}

/* Return a free slot for the tag, or (its tag is not 0) the entry that is evicted for it.
 * Without a slot: the shard has no memory yet and got none. */
slot rl_shard_make_room(const moment *moment, shard *shard, uint64_t tag);

/* Free the full entries. */
void rl_shard_sweep(const moment *moment, shard *shard);

/* Join the lines of a nearly empty shard in pairs, or give all its memory back.
 * False: nothing changed, because the shard is in use, in a file or as small as it gets, a pair
 * has more than eight entries, or there is no memory for the copy. */
bool rl_shard_shrink(const rl_table *table, shard *shard);

/* Return the ticket to unlock with. */
static inline uint64_t rl_shard_lock(const rl_table *table, shard *shard)
{
    return rl_lock_take(&shard->lock, table->region != NULL);
}

static inline void rl_shard_unlock(const rl_table *table, shard *shard, uint64_t ticket)
{
    rl_lock_release(&shard->lock, ticket, table->region != NULL);
}

#endif
