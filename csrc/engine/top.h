/* engine/top.h -- the clients with the most decisions, in bounded memory.
 *
 * Space-Saving (A. Metwally, D. Agrawal, A. El Abbadi, "Efficient Computation of Frequent and
 * Top-k Elements in Data Streams", ICDT 2005), set-associative so that one decision touches one
 * short set instead of a heap:
 *
 *     rl_top ── result (denied, allowed) ── sets of eight slots ── slot = tag, count, error, text
 *                                           lock, tick             a client has one set, by its hash
 *
 * A client in its set counts there. Any other client replaces the slot with the lowest count,
 * and starts from that count, which is then also its error:
 *
 *     count - error <= true count <= count
 *
 * A client is always present if it has more than an eighth of the decisions of its set, and a set
 * has about 1 / RL_TOP_SETS of all: some 0.2 % of the traffic is enough.
 *
 * Counts fade: each is halved once per RL_TOP_HALF_LIFE_S, so the sketch shows the last minutes.
 * All counts of a set fade together, so the bounds hold for the faded true count. A steady rate
 * of r per second has a count of r * RL_TOP_HALF_LIFE_S / ln 2.
 *
 * Threads and processes may share one sketch. Each set has a lock, and recording never waits
 * for it: while it is taken, the decision only counts in `missed`. The lock of a killed process is
 * taken over after a second. The bytes of a file are not trusted: any content is safe
 * to record into and to read. */
#ifndef RL_ENGINE_TOP_H
#define RL_ENGINE_TOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/file.h"
#include "engine/hash.h"

#define RL_TOP_SETS 56
#define RL_TOP_WAYS 8
#define RL_TOP_SLOTS (RL_TOP_SETS * RL_TOP_WAYS) /* clients of one result */
#define RL_TOP_TEXT 39                           /* bytes of a key that are kept */
#define RL_TOP_HALF_LIFE_S 60

/* As RL_METER_LAYOUT, for this file. */
#define RL_TOP_LAYOUT 1

/* What is kept of a client's key. Another form in the same file applies to new clients. */
typedef enum rl_top_form {
    RL_TOP_PLAIN,  /* the key, up to RL_TOP_TEXT bytes */
    RL_TOP_MASKED, /* its beginning: 203.0.113. or 2001:db8: of an address, else a third, at
                      most eight bytes */
    RL_TOP_HASHED, /* nothing: a client is shown by its keyed hash */
} rl_top_form;

/* 64 bytes: one cache line. */
typedef struct rl_top_slot {
    uint64_t tag; /* the hash of the key; 0: free */
    double count;
    double error;
    uint8_t length; /* of `text`, and 0x80 if the key has more bytes */
    char text[RL_TOP_TEXT];
} rl_top_slot;

typedef struct rl_top_set {
    _Alignas(64) _Atomic uint64_t lock; /* 0: free, else when it was taken, in ns */
    uint64_t tick;                      /* second to which the counts have faded */
    rl_top_slot slots[RL_TOP_WAYS];
} rl_top_set;

typedef struct rl_top {
    _Atomic uint64_t magic;          /* of a file */
    _Atomic uint64_t k0, k1;         /* the secret of the hash, made by the first who opens it */
    _Atomic uint64_t missed;         /* decisions that found their set locked */
    rl_top_set sets[2][RL_TOP_SETS]; /* [0]: denied, [1]: allowed */
} rl_top;

_Static_assert(sizeof(rl_top_slot) == 64, "a slot is a cache line");
_Static_assert(sizeof(rl_top) <= 64 * 1024 + 128, "a sketch takes 64 KB");

/* One client of a sketch, a copy. */
typedef struct rl_top_client {
    uint64_t tag;
    double count; /* faded */
    double error;
    size_t length;
    bool is_cut; /* the key has more bytes than `text` */
    char text[RL_TOP_TEXT];
} rl_top_client;

/* Make a sketch in memory. NULL: out of memory, or no random secret. Free with rl_top_free. */
rl_top *rl_top_new(void);
void rl_top_free(rl_top *top);

/* Open the sketch in a file, as rl_file_map. Close with rl_top_close. */
rl_file_status rl_top_open(const char *path, rl_top **out);
void rl_top_close(rl_top *top);

/* Count `n` decisions with the same result for a key of `len` bytes. `now_ns` is the steady clock
 * of the host. */
void rl_top_record(rl_top *top, bool allowed, const void *key, size_t len, uint64_t n,
                   int64_t now_ns, rl_top_form form);

/* Copy the clients of one result, the highest count first. Return how many. */
size_t rl_top_read(rl_top *top, bool allowed, int64_t now_ns, rl_top_client out[RL_TOP_SLOTS]);

#endif
