/* redis/redis_bucket.h -- the token bucket as Redis stores it: one time.
 *
 * A bucket in Redis is the time at which it will be full again, by the clock of
 * the server: the theoretical arrival time of the generic cell rate algorithm
 * (ITU-T I.371, annex A). A token is a period, 1 / refill_rate; a bucket
 * that lacks d tokens is full d / refill_rate from now:
 *
 *          now                         full again
 *     ──────┼───────── deficit ────────────┼──────────> time of the server
 *           |<──────── at most cap ───────>|
 *
 * The scripts in python/rate_limiter/lua/ do the arithmetic, in doubles that hold
 * whole numbers below 2^53. For that, time is counted in units of 1 / scale
 * microseconds, chosen so that a token is a whole number of them, `token`. Where
 * no such scale fits, a token is rounded up: less than one part in `token` too
 * slow, and never too fast. A rate that would be wrong by more than a millionth is
 * refused: that needs a capacity of about 10^9 tokens and an unusual rate. */
#ifndef RL_REDIS_REDIS_BUCKET_H
#define RL_REDIS_REDIS_BUCKET_H

#include "engine/bucket.h"

typedef struct rl_redis_bucket {
    double capacity;    /* tokens */
    double refill_rate; /* tokens per second */
    uint64_t scale;     /* units in a microsecond; 0: never refilled, and time does not count */
    uint64_t token;     /* units in a token */
    uint64_t cap;       /* units that an empty bucket lacks, at most 2^52 */
} rl_redis_bucket;

/* Prepare *limit. RL_OK; RL_ECAPACITY or RL_ERATE like rl_limit_init, and RL_ECAPACITY when
 * filling the bucket takes more than 142 years, or when it leaves too few units for a token
 * to keep the rate within a millionth. */
rl_status rl_redis_bucket_init(rl_redis_bucket *limit, double capacity, double refill_rate);

/* Convert a cost in tokens (finite, not negative) to units, rounded up; RL_COST_NEVER when
 * no bucket can pay it. */
uint64_t rl_redis_bucket_cost(const rl_redis_bucket *limit, double tokens);

/* The same for a charge, which is taken even when tokens are missing, and for a refund: at
 * most twice the cap. */
uint64_t rl_redis_bucket_charge(const rl_redis_bucket *limit, double tokens);

/* Return the milliseconds in which an empty bucket fills, rounded up; 0: never. */
uint64_t rl_redis_bucket_fill_ms(const rl_redis_bucket *limit);

/* Return the decision for a script's answer. The deficit is the one after the request when
 * it was allowed, else the one before. Times are exact to the microsecond of the server's
 * clock. */
rl_decision rl_redis_bucket_decision(const rl_redis_bucket *limit, uint64_t deficit, uint64_t cost,
                                     bool allowed);

#endif
