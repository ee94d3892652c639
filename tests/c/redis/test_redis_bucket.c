/* test_redis_bucket.c -- the numbers of a bucket in Redis, against plain arithmetic. */
#include <math.h>

#include "check.h"
#include "redis/redis_bucket.h"

static rl_redis_bucket make(double capacity, double refill_rate)
{
    rl_redis_bucket limit = {0};
    CHECK_EQUAL(rl_redis_bucket_init(&limit, capacity, refill_rate), RL_OK);
    return limit;
}

static void test_scales(void)
{
    rl_redis_bucket minute = make(100, 100 / 60.0);
    CHECK(minute.scale == 1 && minute.token == 600000 && minute.cap == 60000000);
    rl_redis_bucket thirds = make(3, 3);
    CHECK(thirds.scale == 3 && thirds.token == 1000000 && thirds.cap == 3000000);
    rl_redis_bucket hour = make(1, 1 / 3600.0);
    CHECK(hour.scale == 1 && hour.token == UINT64_C(3600000000));
    rl_redis_bucket fastest = make(4e15, 1e9);
    CHECK(fastest.scale == 1000 && fastest.token == 1);
    rl_redis_bucket day = make(1000, 1000 / 86400.0);
    CHECK(day.scale == 1 && day.token == 86400000);
    rl_redis_bucket frozen = make(5, 0);
    CHECK(frozen.scale == 0 && frozen.token != 0 && frozen.cap == 5 * frozen.token);
}

/* Extreme rates: exact where a token is a whole number of units, else slightly too slow. */
static void test_edges(void)
{
    static const double rates[] = {1e-9, 1e9, 1 / 3600.0, 100 / 60.0, 0.1, 3.141592653589793};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        rl_redis_bucket limit = make(1, rates[i]);
        CHECK_EQUAL(limit.cap, limit.token);
        long double exact = (long double)limit.scale * 1e6L / (long double)rates[i];
        CHECK(fabsl((long double)limit.token / exact - 1) < 1e-15L);
    }
    rl_redis_bucket huge = make(1e12, 1e9);
    CHECK(huge.cap == UINT64_C(1000000000000) && rl_redis_bucket_cost(&huge, 1e12) == huge.cap);
    /* A capacity may be less than one token. */
    rl_redis_bucket part = make(0.25, 1);
    CHECK(part.cap == 250000 && rl_redis_bucket_cost(&part, 1) == RL_COST_NEVER);
}

/* In any limit a burst of whole tokens is exact, and a token is never too cheap. */
static void test_random_limits(void)
{
    uint64_t random = 1;
    for (int i = 0; i < 20000; i++) {
        double capacity = (double)(1 + next_random(&random) % 100000);
        double rate = ldexp((double)(1 + next_random(&random) % (1u << 20)),
                            -(int)(next_random(&random) % 30));
        rate = next_random(&random) % 2 ? rate
                                        : (double)(1 + next_random(&random) % 1000) /
                                              (double)(1 + next_random(&random) % 100000);
        rl_redis_bucket limit = {0};
        if (rl_redis_bucket_init(&limit, capacity, rate) != RL_OK) {
            CHECK(capacity / rate > 1e9); /* a bucket that takes decades to fill */
            continue;
        }
        uint64_t one = rl_redis_bucket_cost(&limit, 1);
        CHECK_EQUAL(one, limit.token);
        CHECK_EQUAL(limit.cap / one, (uint64_t)capacity);
        CHECK_EQUAL(rl_redis_bucket_cost(&limit, capacity), limit.cap);
        CHECK_EQUAL(rl_redis_bucket_cost(&limit, capacity * 1.01 + 1), RL_COST_NEVER);
        CHECK_EQUAL(rl_redis_bucket_cost(&limit, 0), 0);
        CHECK(limit.cap <= (uint64_t)1 << 52);
        /* token / scale microseconds are 1 / rate seconds, or less than one part in token more */
        long double exact = (long double)limit.scale * 1e6L / (long double)rate;
        CHECK((long double)limit.token >= exact * (1 - 1e-15L));
        CHECK((long double)limit.token <= exact + 1 + exact * 1e-15L);
        CHECK((long double)limit.token <= exact * (1 + 1e-6L));
        uint64_t lacks = next_random(&random) % (limit.cap + 1);
        double remaining = rl_redis_bucket_decision(&limit, lacks, 0, true).remaining;
        CHECK(rl_redis_bucket_cost(&limit, remaining) <= limit.cap - lacks); /* it can be taken */
        CHECK(rl_redis_bucket_cost(&limit, nextafter(remaining, capacity)) >= limit.cap - lacks);
        double fill_ms = capacity / rate * 1000;
        CHECK(fabs((double)rl_redis_bucket_fill_ms(&limit) - fill_ms) <= 2 + fill_ms * 1e-9);
    }
}

static void test_costs(void)
{
    rl_redis_bucket limit = make(10, 1);
    CHECK_EQUAL(rl_redis_bucket_cost(&limit, 0.5), 500000);
    CHECK_EQUAL(rl_redis_bucket_cost(&limit, 1e-9), 1); /* rounded up */
    CHECK_EQUAL(rl_redis_bucket_cost(&limit, 5e-324), 1);
    CHECK_EQUAL(rl_redis_bucket_cost(&limit, 10.0000001), RL_COST_NEVER);
    CHECK_EQUAL(rl_redis_bucket_cost(&limit, 1e300), RL_COST_NEVER);
    uint64_t last = 0;
    for (double tokens = 0; tokens <= 10; tokens += 0.001) {
        uint64_t cost = rl_redis_bucket_cost(&limit, tokens);
        CHECK(cost >= last);
        last = cost;
    }
}

static void test_decisions(void)
{
    rl_redis_bucket limit = make(10, 3); /* a token is a third of a second */
    rl_decision full = rl_redis_bucket_decision(&limit, 0, limit.token, true);
    CHECK(full.allowed && full.remaining == 10 && full.reset_after_ns == 0);
    rl_decision one = rl_redis_bucket_decision(&limit, limit.token, limit.token, true);
    CHECK(one.remaining == 9 && one.reset_after_ns == 333334000 && one.retry_after_ns == 0);
    rl_decision empty = rl_redis_bucket_decision(&limit, limit.cap, limit.token, false);
    CHECK(!empty.allowed && empty.remaining == 0 && empty.retry_after_ns == 333334000);
    rl_decision beyond = rl_redis_bucket_decision(&limit, UINT64_C(1) << 53, 1, false);
    CHECK(beyond.remaining == 0 && beyond.retry_after_ns > 0 && beyond.retry_after_ns < RL_NEVER);
    rl_decision never = rl_redis_bucket_decision(&limit, 0, RL_COST_NEVER, false);
    CHECK(never.retry_after_ns == RL_NEVER && never.remaining == 10);
    rl_decision nearly = rl_redis_bucket_decision(&limit, 1, 0, true);
    CHECK(nearly.remaining < 10 && nearly.remaining > 9.99999 && nearly.reset_after_ns == 1000);
    rl_redis_bucket frozen = make(2, 0);
    rl_decision gone = rl_redis_bucket_decision(&frozen, frozen.cap, frozen.token, false);
    CHECK(gone.retry_after_ns == RL_NEVER && gone.reset_after_ns == RL_NEVER);
}

static void test_refusals(void)
{
    rl_redis_bucket limit;
    CHECK_EQUAL(rl_redis_bucket_init(&limit, -1, 1), RL_ECAPACITY);
    CHECK_EQUAL(rl_redis_bucket_init(&limit, NAN, 1), RL_ECAPACITY);
    CHECK_EQUAL(rl_redis_bucket_init(&limit, 1, -1), RL_ERATE);
    CHECK_EQUAL(rl_redis_bucket_init(&limit, 1, INFINITY), RL_ERATE);
    CHECK_EQUAL(rl_redis_bucket_init(&limit, 1e12, 1), RL_ECAPACITY); /* 31,000 years to fill */
    CHECK_EQUAL(rl_redis_bucket_init(&limit, 4e9, 1), RL_OK);         /* 126 years */
    CHECK_EQUAL(rl_redis_bucket_init(&limit, 4e15, 123456789.125),
                RL_ECAPACITY); /* half the rate */
    CHECK_EQUAL(rl_redis_bucket_init(&limit, 1e12, 314159265.3589793), RL_ECAPACITY);
    CHECK_EQUAL(rl_redis_bucket_init(&limit, 1e9, 314159265.3589793), RL_OK);
}

int main(void)
{
    test_scales();
    test_edges();
    test_random_limits();
    test_costs();
    test_decisions();
    test_refusals();
    return report("redis_bucket");
}
