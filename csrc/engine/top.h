/* engine/top.h -- the clients with the most decisions, in bounded memory.
 *
 * Space-Saving (A. Metwally, D. Agrawal, A. El Abbadi, "Efficient Computation of Frequent and
 * Top-k Elements in Data Streams", ICDT 2005), set-associative so that one decision touches one
 * short set instead of a heap:
 *
 *     rl_top ── result (denied, allowed) ── sets of seven slots ── slot = tag, count, error, text
 *                                           lock, tick             a client has one set, by its tag
 *
 * A client in its set counts there. Any other client replaces the slot with the lowest count,
 * and starts from that count, which is then also its error:
 *
 *     count - error <= true count <= count
 *
 * A client that replaces another one gets its text with its second decision, and is not shown before:
 * a flood of clients that come once writes no texts.
 *
 * A client is always present if it has more than a seventh of the decisions of its set, and a set
 * has about 1 / n_sets of all: some 0.3 % of the traffic is enough with RL_TOP_CLIENTS_MAX.
 *
 * Counts fade: each is halved once per RL_TOP_HALF_LIFE_S, so the sketch shows the last minutes.
 * All counts of a set fade together, so the bounds hold for the faded true count. A steady rate
 * of r per second has a count of r * RL_TOP_HALF_LIFE_S / ln 2.
 *
 * Threads and processes may share one sketch. Each set has a lock for some 20 ns. Recording waits
 * for it that long, not until a holder runs again that was preempted: such a decision only counts
 * in `missed`. The lock of a killed process is taken over after a second. The bytes of a file are
 * not trusted: any content is safe to record into and to read.
 *
 * Files have no whole keys unless the writer keeps them: a tag is a keyed hash, and the texts are
 * what the writer leaves. */
#ifndef RL_ENGINE_TOP_H
#define RL_ENGINE_TOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/file.h"
#include "engine/hash.h"

#define RL_TOP_CLIENTS_MAX 100
#define RL_TOP_SETS_MAX 50 /* of one result */
#define RL_TOP_WAYS 7
#define RL_TOP_SLOTS_MAX (RL_TOP_SETS_MAX * RL_TOP_WAYS)
#define RL_TOP_TEXT 63 /* bytes of a key that are kept */
#define RL_TOP_HALF_LIFE_S 60
#define RL_TOP_ALIASES 64

/* As RL_METER_LAYOUT, for this file. */
#define RL_TOP_LAYOUT 1

/* What is kept of a client's key. */
typedef struct rl_top_text {
    uint8_t length; /* of `bytes`, and 0x80 if the key is longer */
    char bytes[RL_TOP_TEXT];
} rl_top_text;

/* A decision of a known client touches the first two cache lines. */
typedef struct rl_top_set {
    _Alignas(64) _Atomic uint64_t lock; /* 0: free, else when it was taken, in ns */
    uint64_t tags[RL_TOP_WAYS];         /* hashes of keys; 0: free */
    uint32_t tick;                      /* second to which the counts have faded */
    uint32_t has_text;                  /* a bit for each slot */
    double counts[RL_TOP_WAYS];
    double errors[RL_TOP_WAYS];
    uint64_t unused;
    rl_top_text texts[RL_TOP_WAYS];
} rl_top_set;

typedef struct rl_top_file {
    _Alignas(64) _Atomic uint64_t magic;
    _Atomic uint64_t missed; /* decisions that found their set locked */
    rl_top_set sets[];       /* n_sets of denied decisions, then those of allowed ones */
} rl_top_file;

/* Write what a sketch keeps of a key, at most RL_TOP_TEXT bytes; return its length. */
typedef size_t (*rl_top_writer)(const char *key, size_t len, char *out);

/* The tag of a key by an alias, which saves hashing it again. The first word is alias ^ tag, so words
 * that two threads have written match no alias. */
typedef struct rl_top_alias {
    _Atomic uint64_t mixed, tag;
} rl_top_alias;

/* A process's view of a sketch. Immutable while it is open, but for the aliases. */
typedef struct rl_top {
    rl_secret secret;  /* of the tags */
    rl_top_file *file; /* owned */
    size_t bytes;      /* of `file` */
    uint32_t n_sets;   /* of one result */
    bool is_mapped;
    rl_top_writer write;
    rl_top_alias aliases[RL_TOP_ALIASES];
} rl_top;

_Static_assert(sizeof(rl_top) + sizeof(rl_top_file) + 2 * RL_TOP_SETS_MAX * sizeof(rl_top_set) <=
                   64 * 1024,
               "a sketch takes 64 KB");

/* One client of a sketch, a copy. */
typedef struct rl_top_client {
    uint64_t tag;
    double count; /* faded */
    double error;
    size_t length;
    bool is_cut; /* the key is longer than `text` */
    char text[RL_TOP_TEXT];
} rl_top_client;

/* Read the random secret that the users of a file share; the first one makes it. Others than its
 * owner cannot read the file. */
rl_file_status rl_top_read_secret(const char *path, rl_secret *out);

/* Open a sketch that finds the first 1 to RL_TOP_CLIENTS_MAX `clients`: in a file, as rl_file_map,
 * or in memory (path NULL; RL_FILE_ESYSTEM with ENOMEM if there is none). Close with rl_top_close;
 * a zeroed rl_top may be closed too. */
rl_file_status rl_top_open(rl_top *top, const char *path, unsigned clients, rl_secret secret,
                           rl_top_writer write);
void rl_top_close(rl_top *top);

/* A writer: the key, up to RL_TOP_TEXT bytes, without a part of a character at the end. */
size_t rl_top_write_plain(const char *key, size_t len, char *out);

/* A writer: nothing. A client is shown by its tag. */
size_t rl_top_write_nothing(const char *key, size_t len, char *out);

/* Count `n` decisions with the same result for a key of `len` bytes. `alias`: another hash of the
 * key, under any random secret, such as that of a table; 0: none. `now_ns` is the steady clock of
 * the host. */
void rl_top_record(rl_top *top, bool allowed, const char *key, size_t len, uint64_t alias,
                   uint64_t n, int64_t now_ns);

/* Do the same for a key that was recorded with this alias before. False: it is not known any more,
 * and nothing was counted. */
bool rl_top_record_known(rl_top *top, bool allowed, uint64_t alias, uint64_t n, int64_t now_ns);

/* Copy the clients of one result that have a text, in any order. Return how many. */
size_t rl_top_read(rl_top *top, bool allowed, int64_t now_ns, rl_top_client out[RL_TOP_SLOTS_MAX]);

#endif
