#include "redis/redis_bucket.h"

#include <math.h>

#include "engine/rate.h"

#define US_PER_S UINT64_C(1000000)
#define NS_PER_US UINT64_C(1000)
#define CAP_MAX ((uint64_t)1 << 52)
#define RATE_ERROR_MAX 1e-6 /* as a fraction of the rate */

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Return ceil(tokens * token), or RL_COST_NEVER above `most` (at most 2^52). */
static uint64_t bucket_units(double tokens, uint64_t token, uint64_t most)
{
    int exponent;
    uint64_t digits = (uint64_t)ldexp(frexp(tokens, &exponent), 53);
    exponent -= 53;
    if (digits == 0) {
        return 0;
    }
    rl_u128 product = (rl_u128)digits * token; /* below 2^106 */
    if (exponent >= 0) {
        return RL_COST_NEVER; /* tokens >= 2^52 */
    }
    rl_u128 units = 0;
    if (exponent > -127) {
        units = product >> -exponent;
        units += (units << -exponent) != product;
    } else {
        units = 1;
    }
    return units <= most ? (uint64_t)units : RL_COST_NEVER;
}

static bool bucket_fits(rl_redis_bucket *limit, uint64_t scale, uint64_t token)
{
    limit->scale = scale;
    limit->token = token;
    limit->cap = bucket_units(limit->capacity, token, CAP_MAX);
    return limit->cap != RL_COST_NEVER;
}

/* Use the smallest scale in which a token is a whole number of units. */
static bool set_exact(rl_redis_bucket *limit)
{
    rl_fraction rate = rl_rate_fraction(limit->refill_rate);
    if (rate.exponent != 0 || rate.q > CAP_MAX / US_PER_S) {
        return false;
    }
    uint64_t time = US_PER_S * rate.q;
    uint64_t divisor = common_divisor(rate.p, time);
    return bucket_fits(limit, rate.p / divisor, time / divisor);
}

/* Use the finest scale for which the bucket still fits. A coarser one is never more exact. */
static bool set_rounded(rl_redis_bucket *limit)
{
    for (int bits = 51; bits >= 0; bits--) {
        double time = ldexp((double)US_PER_S, bits);
        double token = ceil(time / limit->refill_rate);
        if (fma(token, limit->refill_rate, -time) < 0) {
            token++; /* the division was rounded down */
        }
        if (token <= (double)CAP_MAX && bucket_fits(limit, (uint64_t)1 << bits, (uint64_t)token)) {
            return fma(token, limit->refill_rate, -time) <= RATE_ERROR_MAX * time;
        }
    }
    return false;
}

static bool set_frozen(rl_redis_bucket *limit)
{
    for (int bits = 52; bits >= 0; bits--) {
        if (bucket_fits(limit, 0, (uint64_t)1 << bits)) {
            return true;
        }
    }
    return false;
}

rl_status rl_redis_bucket_init(rl_redis_bucket *limit, double capacity, double refill_rate)
{
    rl_limit checked;
    rl_status status = rl_limit_init(&checked, capacity, refill_rate);
    if (status != RL_OK) {
        return status;
    }
    *limit = (rl_redis_bucket){.capacity = capacity, .refill_rate = refill_rate};
    bool fitting = refill_rate > 0 ? set_exact(limit) || set_rounded(limit) : set_frozen(limit);
    return fitting ? RL_OK : RL_ECAPACITY;
}

uint64_t rl_redis_bucket_cost(const rl_redis_bucket *limit, double tokens)
{
    return limit->cap != 0 ? bucket_units(tokens, limit->token, limit->cap) : RL_COST_NEVER;
}

uint64_t rl_redis_bucket_charge(const rl_redis_bucket *limit, double tokens)
{
    uint64_t units = bucket_units(tokens, limit->token, 2 * limit->cap);
    return units != RL_COST_NEVER ? units : 2 * limit->cap;
}

uint64_t rl_redis_bucket_fill_ms(const rl_redis_bucket *limit)
{
    uint64_t units_per_ms = 1000 * limit->scale;
    return limit->scale != 0 ? limit->cap / units_per_ms + (limit->cap % units_per_ms != 0) : 0;
}

/* Round down, so that a bucket can pay the tokens that are reported. */
static double tokens_of(const rl_redis_bucket *limit, uint64_t units)
{
    double tokens = (double)units / (double)limit->token;
    if (bucket_units(tokens, limit->token, CAP_MAX) > units) {
        tokens = nextafter(tokens, 0);
    }
    return tokens < limit->capacity ? tokens : limit->capacity;
}

static int64_t bucket_wait_ns(const rl_redis_bucket *limit, uint64_t units)
{
    if (units == 0) {
        return 0;
    }
    if (limit->scale == 0) {
        return RL_NEVER;
    }
    uint64_t us = units / limit->scale + (units % limit->scale != 0);
    return us < (uint64_t)RL_NEVER / NS_PER_US ? (int64_t)(us * NS_PER_US) : RL_NEVER;
}

rl_decision rl_redis_bucket_decision(const rl_redis_bucket *limit, uint64_t deficit, uint64_t cost,
                                     bool allowed)
{
    rl_decision decision = {
        .allowed = allowed,
        .limit = limit->capacity,
        .remaining = tokens_of(limit, deficit < limit->cap ? limit->cap - deficit : 0),
        .reset_after_ns = bucket_wait_ns(limit, deficit),
    };
    if (!allowed) {
        bool lacks = cost != RL_COST_NEVER && deficit + cost > limit->cap;
        decision.retry_after_ns = cost == RL_COST_NEVER ? RL_NEVER
                                  : lacks ? bucket_wait_ns(limit, deficit + cost - limit->cap)
                                          : 0;
    }
    return decision;
}
