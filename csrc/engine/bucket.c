#include "engine/bucket.h"

#include <math.h>

#include "engine/rate.h"

#define NS_PER_S UINT64_C(1000000000)
#define FRAC_BITS_MIN 10u
#define FRAC_BITS_MAX 52u

/* Leaves room for one step of the clock below 2^62; shard.c handles wrapping. */
#define CAP_UNITS_MAX 0x1p62 * (1 - 0x1p-50)

/* More than a thousand units a nanosecond: the rounding of V to a whole number is then
 * less than any clock shows. It wraps in months, which the table's sweep handles. */
#define UNITS_PER_S_MAX 0x1p41

static unsigned choose_frac_bits(double capacity, double refill_rate)
{
    unsigned bits = FRAC_BITS_MAX;
    while (bits > FRAC_BITS_MIN && (ldexp(capacity, (int)bits) >= CAP_UNITS_MAX ||
                                    ldexp(refill_rate, (int)bits) >= UNITS_PER_S_MAX)) {
        bits--;
    }
    return bits;
}

static int bit_length(uint64_t number)
{
    return 64 - __builtin_clzll(number);
}

/* mult / 2^shift = rate * 2^frac_bits / 1e9 with 63 or 64 significant bits,
 * rounded up, so that a time that delivers a whole number of units is not missed
 * by a nanosecond. */
static void set_tap(rl_limit *limit, rl_fraction rate, unsigned frac_bits)
{
    uint64_t divisor = rate.q * NS_PER_S;
    int scale = 63 + bit_length(divisor) - bit_length(rate.p);
    int shift = scale - (int)frac_bits - rate.exponent;
    if (shift > 126) {
        return; /* less than one unit in 292 years */
    }
    limit->mult = (uint64_t)((((rl_u128)rate.p << scale) + divisor - 1) / divisor);
    limit->inverse = 1 / (double)limit->mult;
    limit->shift = (unsigned)shift;
}

__extension__ typedef __int128 rl_i128;

static int64_t clamp_ns(rl_u128 ns)
{
    return ns < (rl_u128)RL_NEVER ? (int64_t)ns : RL_NEVER;
}

static void set_horizon(rl_limit *limit)
{
    if (limit->mult != 0 && limit->shift < 66) {
        limit->horizon_ns = clamp_ns((((rl_u128)1 << 61) << limit->shift) / limit->mult);
    }
}

rl_status rl_limit_init(rl_limit *limit, double capacity, double refill_rate)
{
    /* Written so that NaN fails too. */
    if (!(capacity >= 0 && capacity <= RL_CAPACITY_MAX)) {
        return RL_ECAPACITY;
    }
    if (!(refill_rate >= 0 && refill_rate <= RL_RATE_MAX)) {
        return RL_ERATE;
    }
    unsigned bits = choose_frac_bits(capacity, refill_rate);
    if (capacity > 0 && ldexp(capacity, (int)bits) < 1) {
        return RL_ECAPACITY;
    }
    *limit = (rl_limit){
        .capacity = fabs(capacity), /* no -0 */
        .refill_rate = refill_rate,
        .unit = ldexp(1, -(int)bits),
        .cap = (uint64_t)ceil(ldexp(capacity, (int)bits)),
        .horizon_ns = RL_NEVER,
    };
    if (refill_rate > 0) {
        set_tap(limit, rl_rate_fraction(refill_rate), bits);
    }
    set_horizon(limit);
    return RL_OK;
}

/* ---- timed buckets ---------------------------------------------------------------- */

/* Return the units in which a rate > 0 delivers a token, rounded up; 0: more than 2^62. */
static uint64_t timed_per_token(double refill_rate)
{
    rl_fraction rate = rl_rate_fraction(refill_rate); /* RL_RATE_MAX keeps its exponent <= 0 */
    int bits = __builtin_ctzll(RL_TIMED_UNITS) - rate.exponent;
    if (bits > 126 - bit_length(rate.q)) {
        return 0;
    }
    rl_u128 units = (((rl_u128)rate.q << bits) + rate.p - 1) / rate.p;
    return units <= UINT64_C(1) << 62 ? (uint64_t)units : 0;
}

/* Return finite tokens >= 0 as units, rounded up; UINT64_MAX: as many or more. */
static uint64_t timed_units(uint64_t per_token, double tokens)
{
    if (tokens >= 0x1p62) {
        return UINT64_MAX;
    }
    int exponent;
    double whole = floor(tokens);
    double part = frexp(tokens - whole, &exponent); /* both are exact */
    rl_u128 units = (rl_u128)(uint64_t)whole * per_token;
    if (part > 0) {
        rl_u128 product = (rl_u128)(uint64_t)ldexp(part, 53) * per_token; /* below 2^115 */
        int shift = 53 - exponent;
        units += shift < 127 ? (product + ((rl_u128)1 << shift) - 1) >> shift : 1;
    }
    return units < UINT64_MAX ? (uint64_t)units : UINT64_MAX;
}

/* Return units as tokens, rounded down. Not inlined: a decision of other buckets is faster. */
__attribute__((noinline)) static double timed_tokens(uint64_t per_token, uint64_t units)
{
    double tokens = (double)(units / per_token) + (double)(units % per_token) / (double)per_token;
    while (timed_units(per_token, tokens) > units) {
        tokens = nextafter(tokens, 0);
    }
    return tokens;
}

rl_status rl_limit_init_timed(rl_limit *limit, double capacity, double refill_rate)
{
    if (!(capacity >= 0 && capacity <= RL_CAPACITY_MAX)) {
        return RL_ECAPACITY;
    }
    if (!(refill_rate >= 0 && refill_rate <= RL_RATE_MAX)) {
        return RL_ERATE;
    }
    uint64_t per_token = refill_rate > 0 ? timed_per_token(refill_rate) : 0;
    if (per_token == 0 && capacity > 0) {
        return RL_ERATE;
    }
    uint64_t cap = timed_units(per_token, capacity);
    if ((double)cap >= CAP_UNITS_MAX) {
        return RL_ERATE;
    }
    per_token = per_token != 0 ? per_token : 1;
    *limit = (rl_limit){
        .capacity = fabs(capacity), /* no -0 */
        .refill_rate = refill_rate,
        .unit = 1 / (double)per_token,
        .per_token = per_token,
        .cap = cap,
        .horizon_ns = RL_NEVER,
    };
    set_tap(limit, (rl_fraction){RL_TIMED_UNITS, 1, 0}, 0);
    set_horizon(limit);
    return RL_OK;
}

/* ---- costs ------------------------------------------------------------------------ */

/* Return tokens as units, rounded up. */
static double units_of(const rl_limit *limit, double tokens)
{
    return ceil(tokens / limit->unit); /* a power of two: exact */
}

uint64_t rl_limit_cost(const rl_limit *limit, double tokens)
{
    if (limit->per_token != 0) {
        uint64_t timed = timed_units(limit->per_token, tokens);
        return timed <= limit->cap && limit->cap != 0 ? timed : RL_COST_NEVER;
    }
    double units = units_of(limit, tokens);
    return units <= (double)limit->cap && limit->cap != 0 ? (uint64_t)units : RL_COST_NEVER;
}

static uint64_t at_most(double units, uint64_t most)
{
    return units < (double)most ? (uint64_t)units : most;
}

uint64_t rl_limit_charge(const rl_limit *limit, double tokens)
{
    uint64_t most = rl_limit_most(limit);
    if (limit->per_token != 0) {
        uint64_t timed = timed_units(limit->per_token, tokens);
        return timed < most ? timed : most;
    }
    return at_most(units_of(limit, tokens), most);
}

uint64_t rl_limit_refund(const rl_limit *limit, double tokens)
{
    return limit->kind == RL_BUCKET ? rl_limit_charge(limit, tokens)
                                    : at_most(floor(tokens), rl_limit_most(limit));
}

/* ceil(n / d) for n < 2^127, 2^62 <= d and inverse = 1 / d, or RL_NEVER when that
 * is no int64_t.
 *
 * The quotient is estimated in floating point and corrected, in two steps where it is more than
 * three days: a division of 128 bits would cost as much as the rest of a decision. */
static int64_t divide_up(rl_u128 n, uint64_t d, double inverse)
{
    /* Processors convert signed numbers faster. */
    double dividend = (double)(int64_t)(n >> 64) * 0x1p64 + (double)(int64_t)((uint64_t)n >> 1) * 2;
    double guess = dividend * inverse;
    if (guess > 0x1p62) {
        return clamp_ns((n + d - 1) / d);
    }
    int64_t quotient = (int64_t)guess; /* wrong by less than 2^12 */
    rl_i128 rest = (rl_i128)(n - (rl_u128)(uint64_t)quotient * d);
    if (guess > 0x1p48) {
        int64_t step = (int64_t)((double)(int64_t)(rest >> 16) * 0x1p16 * inverse);
        quotient += step;
        rest -= (rl_i128)step * d;
    }
    /* wrong by at most one */
    if (rest > 0) {
        return quotient + 1 + (rest > (rl_i128)d);
    }
    return quotient - (rest <= -(rl_i128)d);
}

int64_t rl_limit_wait_ns(const rl_limit *limit, rl_tap tap, uint64_t need)
{
    if (need == 0) {
        return 0;
    }
    if (limit->mult == 0 || need > (uint64_t)INT64_MAX) {
        return RL_NEVER;
    }
    if (limit->shift > 64 && need >> (127 - limit->shift) != 0) {
        return RL_NEVER;
    }
    rl_u128 distance = ((rl_u128)need << limit->shift) - tap.low;
    return divide_up(distance, limit->mult, limit->inverse);
}

/* Round down, also where a double has fewer bits than the count. */
static double units_to_tokens(const rl_limit *limit, uint64_t units)
{
    if (limit->per_token != 0) {
        return timed_tokens(limit->per_token, units);
    }
    int excess = units == 0 ? 0 : 11 - __builtin_clzll(units);
    if (excess > 0) {
        units = (units >> excess) << excess;
    }
    return (double)(int64_t)units * limit->unit; /* units < 2^62 */
}

/* The wait of a denied request. */
__attribute__((noinline)) static int64_t limit_retry_ns(const rl_limit *limit, rl_tap tap,
                                                        uint64_t deficit, uint64_t cost)
{
    return cost > limit->cap ? RL_NEVER : rl_limit_wait_ns(limit, tap, deficit + cost - limit->cap);
}

rl_decision rl_limit_decision(const rl_limit *limit, rl_tap tap, uint64_t deficit, uint64_t cost,
                              bool allowed)
{
    uint64_t left = deficit < limit->cap ? limit->cap - deficit : 0;
    double remaining = units_to_tokens(limit, left);
    return (rl_decision){
        .allowed = allowed,
        .limit = limit->capacity,
        .remaining = remaining < limit->capacity ? remaining : limit->capacity,
        .retry_after_ns = allowed ? 0 : limit_retry_ns(limit, tap, deficit, cost),
        .reset_after_ns = rl_limit_wait_ns(limit, tap, deficit),
    };
}
