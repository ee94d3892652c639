/* engine/hash.h -- keyed hash of a client key: SipHash-1-3.
 *
 * The hash is keyed with a random secret. Without the secret it is not possible to
 * choose keys that meet in one place of the table.
 *
 * Source: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF"
 * (2012). The numbers of rounds are arguments so that tests can check the same code
 * against the published SipHash-2-4 vectors. */
#ifndef RL_ENGINE_HASH_H
#define RL_ENGINE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct rl_secret {
    uint64_t k0, k1;
} rl_secret;

/* The hash of a client key. The table stores it, never the key. */
typedef struct rl_key {
    uint64_t hash;
} rl_key;

typedef struct rl_sip_state {
    uint64_t v0, v1, v2, v3;
} rl_sip_state;

static inline uint64_t rl_sip_rotl(uint64_t x, unsigned bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static inline void rl_sip_rounds(rl_sip_state *s, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        s->v0 += s->v1;
        s->v2 += s->v3;
        s->v1 = rl_sip_rotl(s->v1, 13) ^ s->v0;
        s->v3 = rl_sip_rotl(s->v3, 16) ^ s->v2;
        s->v0 = rl_sip_rotl(s->v0, 32) + s->v3;
        s->v2 += s->v1;
        s->v3 = rl_sip_rotl(s->v3, 21) ^ s->v0;
        s->v1 = rl_sip_rotl(s->v1, 17) ^ s->v2;
        s->v2 = rl_sip_rotl(s->v2, 32);
    }
}

/* Read `n` bytes, at most eight, as a little-endian number, on any machine. */
static inline uint64_t rl_sip_load_bytes(const unsigned char *bytes, size_t n)
{
    uint64_t word = 0;
    for (size_t i = 0; i < n; i++) {
        word |= (uint64_t)bytes[i] << (8 * i);
    }
    return word;
}

/* Read eight bytes as a little-endian number. */
static inline uint64_t rl_sip_load(const unsigned char *bytes)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t word;
    memcpy(&word, bytes, 8);
    return word;
#else
    return rl_sip_load_bytes(bytes, 8);
#endif
}

/* Read the bytes behind the last whole word. Of a key that has a whole word, its last eight bytes
 * are read at once. */
static inline uint64_t rl_sip_load_rest(const unsigned char *data, size_t len)
{
    size_t n = len & 7;
    if (len < 8 || n == 0) {
        return rl_sip_load_bytes(data + len - n, n);
    }
    return rl_sip_load(data + len - 8) >> (64 - 8 * n);
}

static inline rl_key rl_sip(rl_secret secret, const void *data, size_t len, int c_rounds,
                            int d_rounds)
{
    const unsigned char *p = data;
    const unsigned char *last = p + (len & ~(size_t)7);
    rl_sip_state s = {
        secret.k0 ^ UINT64_C(0x736f6d6570736575),
        secret.k1 ^ UINT64_C(0x646f72616e646f6d),
        secret.k0 ^ UINT64_C(0x6c7967656e657261),
        secret.k1 ^ UINT64_C(0x7465646279746573),
    };
    for (; p != last; p += 8) {
        uint64_t word = rl_sip_load(p);
        s.v3 ^= word;
        rl_sip_rounds(&s, c_rounds);
        s.v0 ^= word;
    }
    uint64_t rest = ((uint64_t)len << 56) | rl_sip_load_rest(data, len);
    s.v3 ^= rest;
    rl_sip_rounds(&s, c_rounds);
    s.v0 ^= rest;

    s.v2 ^= 0xff;
    rl_sip_rounds(&s, d_rounds);
    return (rl_key){s.v0 ^ s.v1 ^ s.v2 ^ s.v3};
}

/* Hash `len` bytes at `data`, which is not NULL even when `len` is 0. */
static inline rl_key rl_hash(rl_secret secret, const void *data, size_t len)
{
    return rl_sip(secret, data, len, 1, 3);
}

#endif
