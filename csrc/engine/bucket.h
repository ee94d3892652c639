/* engine/bucket.h -- token-bucket arithmetic: no clock, no lock, no memory.
 *
 * A bucket is one 64-bit word. Count in units of 2^-f tokens and imagine a tap
 * that opened at time 0; by time t it has delivered
 *
 *     V(t) = floor(t_ns * refill_rate * 2^f / 1e9) = (t_ns * mult) >> shift
 *
 * units (mod 2^64). The word is the V at which the bucket will be full again:
 *
 *            V now               word
 *     ─────────┼──────deficit─────┼──────────> V
 *              |<── at most cap ──>|
 *
 * so a word at or before V means "full", the same as no word. Taking
 * cost c moves the word c to the right, and is allowed while it stays within
 * cap of V. This is the generic cell rate algorithm (ITU-T I.371, annex A)
 * counted in tokens instead of time, which keeps whole tokens exact at any
 * rate.
 *
 * A rate is read as the simple fraction whose nearest double it is, so one token
 * an hour comes after 3600 s exactly.
 *
 * Precision: costs are rounded up to units and whole tokens are whole units, so
 * a burst is exact. Over a time t a bucket never gives more than capacity +
 * refill_rate * t + one unit. f is the largest that keeps capacity below 2^62 units
 * and the tap below 2^41 units a second, 10 to 52: one unit is refilled in less
 * than a thousandth of a nanosecond, or is 2^-52 tokens, or 2^-62 of the
 * capacity.
 *
 * A timed bucket counts in units of time, so that one word serves any limit: its tap delivers
 * RL_TIMED_UNITS units a second whatever the rate, and a token is so many units as the tap
 * delivers in the time of a token, rounded up. A word is then the time at which the bucket is full.
 * When a key gets another limit, its bucket is full again at the same time as before. Rounding makes
 * a rate r too low by at most r / RL_TIMED_UNITS of it. */
#ifndef RL_ENGINE_BUCKET_H
#define RL_ENGINE_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

__extension__ typedef unsigned __int128 rl_u128;

typedef enum rl_status {
    RL_OK = 0,
    RL_ENOMEM,    /* out of memory */
    RL_ERANDOM,   /* the system gave no random secret */
    RL_ECAPACITY, /* capacity is not in [0, RL_CAPACITY_MAX], or too fine for the rate */
    RL_ERATE,     /* refill rate is not in [0, RL_RATE_MAX] */
    RL_EURL,      /* malformed address */
} rl_status;

#define RL_CAPACITY_MAX 4e15 /* tokens; below 2^52 */
#define RL_RATE_MAX 1e9      /* tokens per second: one a nanosecond */

/* Units of a timed bucket in a second: 2^62 of them are eight years. */
#define RL_TIMED_UNITS (UINT64_C(1) << 34)

/* A time that does not come, or not within the 292 years of an int64_t. */
#define RL_NEVER INT64_MAX

/* A cost in units that no bucket of the limit can ever pay. */
#define RL_COST_NEVER UINT64_MAX

typedef enum rl_kind {
    RL_BUCKET,         /* this file */
    RL_FIXED_WINDOW,   /* engine/window.h */
    RL_SLIDING_WINDOW, /* engine/sliding.h */
} rl_kind;

/* One limit, checked and prepared. Immutable after rl_limit_init or rl_window_init, but for
 * counts_denied, which the caller may set before use.
 *
 * A limit whose cap is 0 denies every request, also one without a cost. */
typedef struct rl_limit {
    rl_kind kind;
    uint8_t calendar;   /* an rl_unit: of a calendar window, else 0 */
    bool starts_first;  /* a fixed window that begins with the first request */
    bool counts_denied; /* denied requests take their cost too, as far as they can be charged */
    bool keeps_times;   /* a sliding window that has room for all times, whatever its count */
    double capacity;    /* tokens */
    double refill_rate; /* tokens per second */
    double unit;        /* tokens: 2^-f; of a timed bucket about */
    uint64_t per_token; /* units of a token in a timed bucket; 0: `unit` is exact */
    uint64_t cap;       /* capacity in units, below 2^62 */
    uint64_t mult;
    union {
        double inverse;             /* 1 / mult, about; of a bucket */
        const struct rl_zone *zone; /* borrowed: of a calendar window, see engine/calendar.h */
    };
    unsigned shift;     /* at most 126 */
    int64_t horizon_ns; /* in this time V advances by 2^61 or just less */
    int64_t window_ns;  /* of a window; 0 else */
} rl_limit;

/* One moment on both clocks. Neither is negative. */
typedef struct rl_time {
    int64_t steady_ns; /* buckets: a clock that is never set (CLOCK_MONOTONIC) */
    int64_t wall_ns;   /* windows: time since 1970, UTC (CLOCK_REALTIME) */
} rl_time;

/* V at one moment, and the fraction of the next unit (in 2^-shift units). */
typedef struct rl_tap {
    uint64_t units;
    rl_u128 low;
} rl_tap;

/* The result of one request. Times are RL_NEVER when they do not come. */
typedef struct rl_decision {
    bool allowed;
    bool store_unavailable; /* decided by a policy, without the store; false here */
    double limit;           /* capacity in tokens */
    double remaining;       /* tokens left, after the request */
    int64_t retry_after_ns; /* 0 when allowed; the shortest wait after which it would pass */
    int64_t reset_after_ns; /* until the bucket is full */
} rl_decision;

/* Check `capacity` (tokens) and `refill_rate` (tokens/s, 0 = never refills) and
 * prepare *limit. On RL_ECAPACITY or RL_ERATE *limit is not written. */
rl_status rl_limit_init(rl_limit *limit, double capacity, double refill_rate);

/* The same for a timed bucket. RL_ERATE also where a token or the capacity takes longer than eight
 * years, or never comes; a capacity of 0 needs no rate. */
rl_status rl_limit_init_timed(rl_limit *limit, double capacity, double refill_rate);

/* Convert a finite cost >= 0 in tokens to units, rounded up; RL_COST_NEVER when
 * it is above the capacity, or the capacity is 0. */
uint64_t rl_limit_cost(const rl_limit *limit, double tokens);

/* Return the most that a bucket or window can lack: with the debts of charges, twice its cap
 * (of a bucket near 2^62 units less, so that no clock which steps back by a little
 * makes it look full). */
static inline uint64_t rl_limit_most(const rl_limit *limit)
{
    const uint64_t debt_max = UINT64_C(1) << 61;
    return limit->cap + (limit->cap < debt_max ? limit->cap : debt_max);
}

/* The same for a charge, which is taken even when tokens are missing. */
uint64_t rl_limit_charge(const rl_limit *limit, double tokens);

/* The same for a refund. A window counts whole requests, so a part of one is not given
 * back: it was taken as a whole one. */
uint64_t rl_limit_refund(const rl_limit *limit, double tokens);

/* Return the shortest time in ns after `tap` until V has advanced by `need` units. */
int64_t rl_limit_wait_ns(const rl_limit *limit, rl_tap tap, uint64_t need);

/* Describe a bucket with this deficit after a request of this cost was allowed
 * (deficit then includes it) or denied (deficit is unchanged). */
rl_decision rl_limit_decision(const rl_limit *limit, rl_tap tap, uint64_t deficit, uint64_t cost,
                              bool allowed);

/* Return V(now_ns); now_ns is not negative. */
static inline uint64_t rl_limit_units(const rl_limit *limit, int64_t now_ns)
{
    return (uint64_t)(((rl_u128)(uint64_t)now_ns * limit->mult) >> limit->shift);
}

static inline rl_tap rl_limit_tap(const rl_limit *limit, int64_t now_ns)
{
    rl_u128 product = (rl_u128)(uint64_t)now_ns * limit->mult;
    rl_u128 mask = ((rl_u128)1 << limit->shift) - 1;
    return (rl_tap){(uint64_t)(product >> limit->shift), product & mask};
}

/* Return the units that the bucket lacks; 0 = full. A clock that stepped back shows as a
 * larger deficit, so it never frees tokens. rl_entry_read cuts that at rl_limit_most, so no
 * client is locked out until the clock has caught up. */
static inline uint64_t rl_bucket_deficit(uint64_t word, uint64_t tap_units)
{
    uint64_t ahead = word - tap_units;
    return ahead <= (uint64_t)INT64_MAX ? ahead : 0;
}

/* Return true if `cost` may be taken from a bucket with this deficit. */
static inline bool rl_bucket_allows(const rl_limit *limit, uint64_t deficit, uint64_t cost)
{
    return cost <= limit->cap && deficit <= limit->cap - cost;
}

#endif
