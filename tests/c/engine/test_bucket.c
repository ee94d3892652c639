/* test_bucket.c -- the arithmetic of one bucket, with chosen and random times and costs. */
#include <math.h>

#include "check.h"
#include "engine/bucket.h"

#define NS_PER_S INT64_C(1000000000)

static rl_limit limit_of(double capacity, double refill_rate)
{
    rl_limit limit = {0};
    CHECK_EQUAL(rl_limit_init(&limit, capacity, refill_rate), RL_OK);
    return limit;
}

/* A bucket as in the table: one word. */
static rl_decision take(const rl_limit *limit, uint64_t *word, int64_t now_ns, double tokens)
{
    rl_tap tap = rl_limit_tap(limit, now_ns);
    uint64_t cost = rl_limit_cost(limit, tokens);
    uint64_t deficit = rl_bucket_deficit(*word, tap.units);
    bool allowed = rl_bucket_allows(limit, deficit, cost);
    if (allowed) {
        deficit += cost;
        *word = tap.units + deficit;
    }
    return rl_limit_decision(limit, tap, deficit, cost, allowed);
}

static void test_limits_are_checked(void)
{
    rl_limit limit = {.capacity = 42};
    const double bad_capacities[] = {-1e-9, -1, NAN, INFINITY, -INFINITY, 4.1e15, 1e300};
    const double bad_rates[] = {-1, -1e-300, NAN, INFINITY, -INFINITY, 1.1e9, 1e300};
    for (int i = 0; i < 7; i++) {
        CHECK_EQUAL(rl_limit_init(&limit, bad_capacities[i], 1), RL_ECAPACITY);
        CHECK_EQUAL(rl_limit_init(&limit, 1, bad_rates[i]), RL_ERATE);
    }
    CHECK_EQUAL(rl_limit_init(&limit, 1e-6, 1e9), RL_ECAPACITY); /* less than one unit */
    CHECK(limit.capacity == 42);                                 /* never written */
    const double capacities[] = {1e-3, 0.1, 1, 1.5, 20, 1e6, 1e12, RL_CAPACITY_MAX};
    const double rates[] = {0, 5e-324, 1e-300, 1e-12, 1.0 / 86400, 0.1,
                            1, 3,      1e6,    3e8,   RL_RATE_MAX};
    for (int i = 0; i < 8; i++) {
        for (int j = 0; j < 11; j++) {
            limit = limit_of(capacities[i], rates[j]);
            CHECK(limit.cap > 0 && limit.cap < UINT64_C(1) << 62);
            CHECK(limit.unit <= 0x1p-10 && limit.unit >= 0x1p-52);
            CHECK(limit.shift <= 126 && limit.horizon_ns > 0);
        }
    }
}

static void test_whole_tokens_are_exact(void)
{
    const double rates[] = {0, 0.001, 1, 3, 1.0 / 3600, 7777.7, 1e6};
    for (int i = 0; i < 7; i++) {
        for (int capacity = 1; capacity <= 1000; capacity += 37) {
            rl_limit limit = limit_of(capacity, rates[i]);
            int64_t now_ns = 123456789123456789;
            uint64_t word = rl_limit_tap(&limit, now_ns).units;
            for (int n = 1; n <= capacity; n++) {
                rl_decision decision = take(&limit, &word, now_ns, 1);
                CHECK(decision.allowed);
                CHECK(decision.remaining == capacity - n);
            }
            CHECK(!take(&limit, &word, now_ns, 1).allowed);
            CHECK(take(&limit, &word, now_ns, 0).allowed);
        }
    }
}

/* The same time, from a count of nanoseconds that the rate divides. */
static void test_tokens_come_at_the_very_nanosecond(void)
{
    const struct {
        double rate;
        int64_t wait_ns;
    } cases[] = {
        {1, NS_PER_S},
        {2, NS_PER_S / 2},
        {0.1, 10 * NS_PER_S},
        {1.0 / 3600, 3600 * NS_PER_S},
        {3.0 / 60, 20 * NS_PER_S},
        {1.0 / 86400, 86400 * NS_PER_S},
        {3, 333333334},
        {1e9, 1},
        {3e8, 4},
        {1e6, 1000},
        {0.3, 3333333334},
        {1.0 / 7, 7 * NS_PER_S},
    };
    uint64_t random = 3;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rl_limit limit = limit_of(1, cases[i].rate);
        for (int round = 0; round < 200; round++) {
            int64_t now_ns = round == 0 ? 0 : (int64_t)(next_random(&random) >> 3);
            uint64_t word = rl_limit_tap(&limit, now_ns).units;
            CHECK(take(&limit, &word, now_ns, 1).allowed);
            CHECK_EQUAL(take(&limit, &word, now_ns, 1).retry_after_ns, cases[i].wait_ns);
        }
    }
}

static void test_retry_after_is_exact(void)
{
    uint64_t random = 7;
    for (int round = 0; round < 20000; round++) {
        double capacity = (double)(next_random(&random) % 1000000 + 1) / 8;
        double rate = exp2((double)(next_random(&random) % 5000) / 100 - 25);
        rl_limit limit = limit_of(capacity, rate);
        int64_t now_ns = (int64_t)(next_random(&random) >> (1 + next_random(&random) % 30));
        uint64_t word = rl_limit_tap(&limit, now_ns).units;
        take(&limit, &word, now_ns, capacity);
        double cost = capacity / (double)(next_random(&random) % 7 + 1);
        rl_decision denied = take(&limit, &word, now_ns, cost);
        CHECK(!denied.allowed && denied.retry_after_ns > 0);
        if (denied.retry_after_ns < INT64_MAX - now_ns) {
            uint64_t copy = word;
            CHECK(!take(&limit, &copy, now_ns + denied.retry_after_ns - 1, cost).allowed);
            CHECK(take(&limit, &copy, now_ns + denied.retry_after_ns, cost).allowed);
        }
        if (denied.reset_after_ns < INT64_MAX - now_ns) {
            int64_t full_ns = now_ns + denied.reset_after_ns;
            CHECK(rl_bucket_deficit(word, rl_limit_tap(&limit, full_ns).units) == 0);
            CHECK(rl_bucket_deficit(word, rl_limit_tap(&limit, full_ns - 1).units) != 0);
        }
    }
}

/* Over any time t: admitted <= capacity + rate * t + one unit. The costs and
 * rates of this test keep the bound exact enough in long double. */
static void test_never_more_than_promised(void)
{
    const double rates[] = {0.5, 1, 2.5, 1000, 1e6};
    uint64_t random = 11;
    for (int i = 0; i < 5; i++) {
        rl_limit limit = limit_of(10, rates[i]);
        int64_t begin_ns = (int64_t)(next_random(&random) >> 4);
        int64_t now_ns = begin_ns;
        uint64_t word = rl_limit_tap(&limit, now_ns).units;
        long double admitted = 0;
        for (int n = 0; n < 50000; n++) {
            double cost = (double)(next_random(&random) % 4096 + 1) / 2048;
            admitted += take(&limit, &word, now_ns, cost).allowed ? cost : 0;
            long double bound =
                10 + (long double)rates[i] * (long double)(now_ns - begin_ns) / 1e9L;
            CHECK(admitted <= bound + limit.unit);
            now_ns += (int64_t)((double)(next_random(&random) % 1000) * 2e6 / rates[i]);
        }
        CHECK(admitted > 0.9 * rates[i] * (double)(now_ns - begin_ns) / 1e9);
    }
}

static void test_never_refilled(void)
{
    rl_limit limit = limit_of(2, 0);
    uint64_t word = 0;
    CHECK(take(&limit, &word, 0, 2).allowed);
    rl_decision denied = take(&limit, &word, INT64_MAX / 2, 1);
    CHECK(!denied.allowed && denied.remaining == 0);
    CHECK_EQUAL(denied.retry_after_ns, RL_NEVER);
    CHECK_EQUAL(denied.reset_after_ns, RL_NEVER);
}

static void test_times_beyond_292_years_are_never(void)
{
    rl_limit limit = limit_of(1e9, 1e-9);
    uint64_t word = rl_limit_tap(&limit, 5).units;
    CHECK(take(&limit, &word, 5, 1e9).allowed);
    CHECK_EQUAL(take(&limit, &word, 5, 1e9).retry_after_ns, RL_NEVER);
    CHECK(take(&limit, &word, 5, 1e-9).retry_after_ns < 2 * NS_PER_S);
}

static void test_costs(void)
{
    rl_limit limit = limit_of(5, 1);
    uint64_t word = rl_limit_tap(&limit, 0).units;
    CHECK_EQUAL(rl_limit_cost(&limit, 0), 0);
    CHECK_EQUAL(rl_limit_cost(&limit, 5), limit.cap);
    CHECK(rl_limit_cost(&limit, 5.001) == RL_COST_NEVER);
    CHECK(rl_limit_cost(&limit, 1e308) == RL_COST_NEVER);
    CHECK_EQUAL(rl_limit_cost(&limit, 5e-324), 1); /* rounded up, never to nothing */
    rl_decision denied = take(&limit, &word, 0, 6);
    CHECK(!denied.allowed && denied.remaining == 5);
    CHECK_EQUAL(denied.retry_after_ns, RL_NEVER);
    rl_limit fraction = limit_of(0.1, 1); /* a full bucket's worth passes, whatever its unit */
    CHECK(take(&fraction, &word, 0, 0.1).allowed);
}

static void test_step_back_frees_nothing(void)
{
    rl_limit limit = limit_of(3, 1);
    int64_t now_ns = 1000 * NS_PER_S;
    uint64_t word = rl_limit_tap(&limit, now_ns).units;
    CHECK(take(&limit, &word, now_ns, 3).allowed);
    for (int64_t back_s = 0; back_s <= 1000; back_s += 50) {
        rl_decision denied = take(&limit, &word, now_ns - back_s * NS_PER_S, 1);
        CHECK(!denied.allowed && denied.remaining == 0);
        CHECK_EQUAL(denied.retry_after_ns, (back_s + 1) * NS_PER_S);
    }
    CHECK(take(&limit, &word, now_ns + NS_PER_S, 1).allowed);
}

static void test_remaining_is_rounded_down(void)
{
    rl_limit limit = limit_of(4e15, 0);
    uint64_t word = 0;
    rl_decision decision = take(&limit, &word, 0, 0x1p-9);
    CHECK(decision.allowed && decision.remaining < 4e15);
}

/* Within a horizon V moves by no more than 2^61, and by almost that much. */
static void test_horizon(void)
{
    const double rates[] = {1e9, 3e8, 1e3, 1, 0.37};
    for (int i = 0; i < 5; i++) {
        rl_limit limit = limit_of(1, rates[i]);
        uint64_t moved = rl_limit_tap(&limit, limit.horizon_ns).units;
        CHECK(moved <= UINT64_C(1) << 61);
        CHECK(moved >= (UINT64_C(1) << 61) - (UINT64_C(1) << 12));
    }
    CHECK_EQUAL(limit_of(1, 0).horizon_ns, RL_NEVER);
    CHECK_EQUAL(limit_of(1, 1e-9).horizon_ns, RL_NEVER);
}

int main(void)
{
    test_limits_are_checked();
    test_whole_tokens_are_exact();
    test_tokens_come_at_the_very_nanosecond();
    test_retry_after_is_exact();
    test_never_more_than_promised();
    test_never_refilled();
    test_times_beyond_292_years_are_never();
    test_costs();
    test_step_back_frees_nothing();
    test_remaining_is_rounded_down();
    test_horizon();
    return report("test_bucket");
}
