/* test_given.c -- timed buckets, and requests under limits that the caller gives. */
#include <math.h>

#include "at.h"
#include "check.h"
#include "engine/table.h"

#define NS_PER_S INT64_C(1000000000)
#define YEAR_NS (INT64_C(365) * 86400 * NS_PER_S)

static const rl_secret SECRET = {1, 2};

static rl_limit timed(double capacity, double refill_rate)
{
    rl_limit limit = {0};
    CHECK_EQUAL(rl_limit_init_timed(&limit, capacity, refill_rate), RL_OK);
    return limit;
}

static rl_limit window_of(bool sliding, double count, int64_t window_s)
{
    rl_limit limit = {0};
    CHECK_EQUAL(rl_window_init(&limit, sliding, count, window_s), RL_OK);
    limit.keeps_times = sliding;
    return limit;
}

static rl_limit_set set_of(const rl_limit *limits, size_t n)
{
    rl_limit_set set;
    rl_limit_set_init_given(&set, limits, n);
    return set;
}

static rl_table *table_for(const rl_limit_set *given, size_t max_keys)
{
    rl_limit_set any;
    rl_limit_set_init_any(&any, given);
    CHECK(rl_limit_set_fits(&any, given));
    return rl_table_new(any.limits, any.n, max_keys, SECRET);
}

static rl_key key_of(const rl_table *table, uint64_t number)
{
    return rl_table_key(table, &number, sizeof number);
}

/* Take tokens from all limits of a set. */
static rl_decision take(rl_table *table, const rl_limit_set *set, uint64_t number, double tokens,
                        rl_time now)
{
    uint64_t costs[RL_LIMITS_MAX];
    rl_decision decision = {0};
    bool allowed;
    for (size_t i = 0; i < set->n; i++) {
        costs[i] = rl_limit_cost(&set->limits[i], tokens);
    }
    rl_request request = {table, set, key_of(table, number), costs, now, 0};
    CHECK_EQUAL(rl_request_take(&request, &allowed, &decision, NULL), RL_OK);
    CHECK_EQUAL(allowed, decision.allowed);
    return decision;
}

/* Return what is left of limit i. */
static double left_of(rl_table *table, const rl_limit_set *set, uint64_t number, size_t i,
                      rl_time now)
{
    uint64_t costs[RL_LIMITS_MAX] = {0};
    rl_decision decision, each[RL_LIMITS_MAX];
    rl_request request = {table, set, key_of(table, number), costs, now, 0};
    rl_request_peek(&request, &decision, each);
    return each[i].remaining;
}

/* ---- one bucket ------------------------------------------------------------------- */

static void test_limits_are_checked(void)
{
    rl_limit limit = {.capacity = 42};
    const double bad_capacities[] = {-1e-9, -1, NAN, INFINITY, -INFINITY, 4.1e15};
    const double bad_rates[] = {-1, -1e-300, NAN, INFINITY, 1.1e9, 0, 5e-324, 1e-300, 1e-9};
    for (int i = 0; i < 6; i++) {
        CHECK_EQUAL(rl_limit_init_timed(&limit, bad_capacities[i], 1), RL_ECAPACITY);
    }
    for (int i = 0; i < 9; i++) {
        CHECK_EQUAL(rl_limit_init_timed(&limit, 1, bad_rates[i]), RL_ERATE);
    }
    CHECK_EQUAL(rl_limit_init_timed(&limit, 9, 1 / (365.0 * 86400)), RL_ERATE); /* nine years */
    CHECK(limit.capacity == 42);                                                /* never written */
    limit = timed(8, 1 / (365.0 * 86400));
    CHECK(limit.cap < UINT64_C(1) << 62 && limit.horizon_ns > 4 * YEAR_NS);
    limit = timed(0, 0);
    CHECK_EQUAL(limit.cap, 0);
    CHECK_EQUAL(rl_limit_cost(&limit, 0), RL_COST_NEVER); /* denies all */
    limit = timed(RL_CAPACITY_MAX, RL_RATE_MAX);
    CHECK_EQUAL(rl_limit_cost(&limit, RL_CAPACITY_MAX), limit.cap);
    CHECK_EQUAL(rl_limit_cost(&limit, RL_CAPACITY_MAX + 1), RL_COST_NEVER);
}

static void test_costs_are_rounded_up(void)
{
    const double rates[] = {1, 3, 1.0 / 3600, 100 / 60.0, 7777.7, 1e6, 1e9};
    for (int i = 0; i < 7; i++) {
        rl_limit limit = timed(1000, rates[i]);
        CHECK((double)limit.per_token >= (double)RL_TIMED_UNITS / rates[i] * (1 - 1e-15));
        CHECK((double)(limit.per_token - 1) <= (double)RL_TIMED_UNITS / rates[i]);
        for (uint64_t tokens = 0; tokens <= 1000; tokens++) {
            CHECK_EQUAL(rl_limit_cost(&limit, (double)tokens), tokens * limit.per_token);
            CHECK_EQUAL(rl_limit_refund(&limit, (double)tokens), tokens * limit.per_token);
        }
        CHECK_EQUAL(rl_limit_cost(&limit, 0.5), (limit.per_token + 1) / 2);
        CHECK_EQUAL(rl_limit_cost(&limit, 2.25), (9 * limit.per_token + 3) / 4);
        CHECK_EQUAL(rl_limit_cost(&limit, 5e-324), 1);
        CHECK_EQUAL(rl_limit_cost(&limit, 0x1p-60), 1 + (limit.per_token > UINT64_C(1) << 60));
        CHECK_EQUAL(rl_limit_charge(&limit, 1e300), rl_limit_most(&limit));
    }
}

static void test_what_is_left_is_rounded_down(void)
{
    uint64_t random = 3;
    for (int i = 0; i < 20000; i++) {
        double rate =
            ldexp((double)(next_random(&random) >> 11), -(int)(next_random(&random) % 60 + 20));
        rl_limit limit;
        if (rl_limit_init_timed(&limit, 100, rate) != RL_OK) {
            continue;
        }
        uint64_t deficit = next_random(&random) % (limit.cap + 1);
        rl_decision decision = rl_limit_decision(&limit, (rl_tap){0, 0}, deficit, 0, true);
        uint64_t shown = rl_limit_cost(&limit, decision.remaining);
        CHECK(shown <= limit.cap - deficit);
        double more = nextafter(decision.remaining, INFINITY) * (1 + 0x1p-50);
        CHECK(more > 100 || rl_limit_cost(&limit, more) >= limit.cap - deficit);
    }
}

static void test_waiting_is_exact(void)
{
    uint64_t random = 5;
    const double rates[] = {1, 3, 1.0 / 3600, 100 / 60.0, 7777.7, 1e6};
    for (int i = 0; i < 6; i++) {
        rl_limit limit = timed(10, rates[i]);
        rl_limit_set set = set_of(&limit, 1);
        rl_table *table = table_for(&set, 100);
        int64_t now_ns = (int64_t)(next_random(&random) >> 4);
        for (int tokens = 0; tokens < 10; tokens++) {
            CHECK(take(table, &set, 1, 1, at(now_ns)).remaining == 9 - tokens);
        }
        for (int step = 0; step < 200; step++) {
            rl_decision denied = take(table, &set, 1, 1, at(now_ns));
            CHECK(!denied.allowed && denied.retry_after_ns > 0);
            CHECK(!take(table, &set, 1, 1, at(now_ns + denied.retry_after_ns - 1)).allowed);
            now_ns += denied.retry_after_ns;
            CHECK(take(table, &set, 1, 1, at(now_ns)).allowed);
        }
        rl_table_free(table);
    }
}

/* ---- one table, many limits --------------------------------------------------------- */

static void test_a_changed_limit_keeps_the_share(void)
{
    rl_limit limits[] = {timed(100, 100 / 60.0), timed(1000, 1000 / 60.0), timed(10, 10 / 60.0)};
    rl_limit_set small = set_of(&limits[0], 1), large = set_of(&limits[1], 1),
                 tiny = set_of(&limits[2], 1);
    rl_table *table = table_for(&small, 1000);
    CHECK(take(table, &small, 1, 50, at(0)).allowed);
    CHECK(fabs(left_of(table, &large, 1, 0, at(0)) - 500) < 1e-5);
    CHECK(take(table, &large, 1, 250, at(0)).allowed);
    CHECK(fabs(left_of(table, &small, 1, 0, at(0)) - 25) < 1e-5);
    CHECK(!take(table, &tiny, 1, 3, at(0)).allowed);
    CHECK(take(table, &tiny, 1, 2, at(0)).allowed);
    CHECK(fabs(left_of(table, &large, 1, 0, at(0)) - 50) < 1e-5);
    rl_limit hour = timed(100, 100 / 3600.0); /* full at the same time */
    rl_limit_set slow = set_of(&hour, 1);
    CHECK(take(table, &slow, 2, 50, at(0)).allowed);
    CHECK(take(table, &small, 2, 1, at(0)).retry_after_ns > 60 * NS_PER_S);
    CHECK(take(table, &small, 2, 1, at(61 * NS_PER_S))
              .allowed); /* it lacks twice a capacity at most */
    rl_table_free(table);
}

static void test_limits_that_fill_equally_long_keep_their_order(void)
{
    const double capacities[] = {7, 20, 1000, 100003};
    for (size_t i = 0; i < 16; i++) {
        double one = capacities[i / 4], other = capacities[i % 4];
        rl_limit both[] = {timed(one, one / 60), timed(other, other / 60)};
        rl_limit_set set = set_of(both, 2);
        CHECK_EQUAL(set.first_word[0], 0);
        CHECK_EQUAL(set.first_word[1], 1);
    }
}

static void test_what_changes_nothing(void)
{
    rl_limit hour = timed(100, 100 / 3600.0), second = timed(10, 10), nothing = timed(0, 0);
    rl_limit_set slow = set_of(&hour, 1), quick = set_of(&second, 1), none = set_of(&nothing, 1);
    rl_table *table = table_for(&slow, 1000);
    CHECK(take(table, &slow, 1, 100, at(0)).allowed);
    CHECK(left_of(table, &quick, 1, 0, at(0)) == 0); /* a look */
    CHECK(!take(table, &none, 1, 1, at(0)).allowed);
    CHECK(left_of(table, &slow, 1, 0, at(0)) == 0);
    rl_table_free(table);
}

static void test_the_slowest_limit_comes_first(void)
{
    rl_limit minute = timed(100, 100 / 60.0), second = timed(5, 5),
             hour = timed(1000, 1000 / 3600.0);
    rl_limit both[] = {second, minute}, three[] = {minute, hour, second};
    rl_limit_set one = set_of(&minute, 1), two = set_of(both, 2), all = set_of(three, 3);
    CHECK_EQUAL(two.first_word[0], 1);
    CHECK_EQUAL(two.first_word[1], 0);
    CHECK(all.first_word[0] == 1 && all.first_word[1] == 0 && all.first_word[2] == 2);
    rl_table *table = table_for(&one, 1000);
    CHECK(take(table, &two, 1, 4, at(0)).allowed);
    CHECK(left_of(table, &two, 1, 0, at(0)) == 1);
    CHECK(left_of(table, &one, 1, 0, at(0)) == 96); /* the other limit is still the same one */
    CHECK(take(table, &one, 2, 40, at(0)).allowed);
    CHECK(left_of(table, &two, 2, 0, at(0)) == 5); /* a limit that is added is full */
    rl_table_free(table);
}

/* Whatever an entry held before, a limit that a key had none of is full. */
static void test_no_state_of_earlier_keys(void)
{
    rl_limit limits[] = {timed(10, 0.01), timed(9, 0.01), timed(8, 0.01), timed(7, 0.01)};
    rl_limit_set all = set_of(limits, 4), one = set_of(limits, 1);
    rl_table *table = table_for(&one, 1000);
    int64_t now_ns = 0;
    for (int round = 0; round < 50; round++) {
        CHECK(take(table, &all, 1, 7, at(now_ns)).allowed);
        rl_table_reset(table, key_of(table, 1));
        CHECK(take(table, &one, 1, 1, at(now_ns)).allowed);
        for (size_t i = 1; i < 4; i++) {
            CHECK(left_of(table, &all, 1, i, at(now_ns)) == limits[i].capacity);
        }
        now_ns += 10000 * NS_PER_S;
        CHECK_EQUAL(rl_table_sweep(table, at(now_ns)).keys, 0);
    }
    rl_table_free(table);
}

/* The same requests as in a table for each limit, over decades: growth, sweeps, wrapping clocks. */
static void test_many_keys_over_decades(void)
{
    rl_limit limits[] = {timed(3, 3 / 60.0), timed(20, 1e-5), timed(2, 1000)};
    rl_limit_set sets[3];
    rl_table *tables[3], *table;
    for (int i = 0; i < 3; i++) {
        sets[i] = set_of(&limits[i], 1);
        tables[i] = table_for(&sets[i], 100000);
    }
    table = table_for(&sets[0], 100000);
    uint64_t random = 7;
    int64_t now_ns = 0;
    for (int step = 0; step < 60000; step++) {
        uint64_t number = next_random(&random) % 3000;
        int i = (int)(number % 3);
        double tokens = (double)(next_random(&random) % 3);
        rl_decision got = take(table, &sets[i], number, tokens, at(now_ns));
        rl_decision expected = take(tables[i], &sets[i], number, tokens, at(now_ns));
        CHECK_EQUAL(got.allowed, expected.allowed);
        CHECK(got.remaining == expected.remaining && got.reset_after_ns == expected.reset_after_ns);
        now_ns += step % 10000 == 9999 ? 7 * YEAR_NS : (int64_t)(next_random(&random) % 100000000);
    }
    CHECK(rl_table_sweep(table, at(now_ns + YEAR_NS)).keys == 0);
    for (int i = 0; i < 3; i++) {
        rl_table_free(tables[i]);
    }
    rl_table_free(table);
}

/* Keys that make each other leave never get more than the places allow. */
static void test_a_flood_of_keys(void)
{
    rl_limit limits[] = {timed(10, 1e-6), timed(4, 1e-6)};
    rl_limit_set sets[] = {set_of(&limits[0], 1), set_of(&limits[1], 1)};
    rl_table *table = table_for(&sets[0], 1000);
    double admitted = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        admitted += take(table, &sets[i % 2], i, 1, at(0)).allowed;
    }
    rl_table_stats stats = rl_table_sweep(table, at(0));
    CHECK(stats.evicted_active > 0 && stats.slots < 4000);
    CHECK(admitted <= (double)stats.slots * 10);
    rl_table_free(table);
}

static void test_all_requests(void)
{
    rl_limit limit = timed(10, 1);
    limit.counts_denied = true;
    rl_limit_set set = set_of(&limit, 1);
    rl_table *table = table_for(&set, 1000);
    rl_key key = key_of(table, 1);
    uint64_t cost = rl_limit_cost(&limit, 10), more = rl_limit_charge(&limit, 5);
    rl_request request = {table, &set, key, &cost, at(0), 0};
    rl_decision out, each[RL_LIMITS_MAX];
    bool allowed;
    CHECK_EQUAL(rl_request_try(&request, &allowed, &out, each), RL_OK);
    CHECK(allowed && each[0].remaining == 0);
    CHECK_EQUAL(rl_request_try(&request, &allowed, &out, NULL), RL_OK); /* counts no denial */
    CHECK(!allowed && out.retry_after_ns >= 10 * NS_PER_S &&
          out.retry_after_ns <= 10 * NS_PER_S + 1);
    CHECK_EQUAL(rl_request_take(&request, &allowed, &out, NULL), RL_OK);
    CHECK(!allowed && out.retry_after_ns >= 20 * NS_PER_S);
    request.costs = &cost;
    rl_request_refund(&request);
    request.costs = &more;
    CHECK_EQUAL(rl_request_charge(&request, &out), RL_OK);
    CHECK(out.allowed && out.remaining == 0 && out.reset_after_ns >= 15 * NS_PER_S);
    request.blocked_ns = 99 * NS_PER_S;
    rl_request_peek(&request, &out, each);
    CHECK(!out.allowed && out.retry_after_ns == 99 * NS_PER_S &&
          each[0].retry_after_ns == out.retry_after_ns);
    CHECK_EQUAL(rl_request_take(&request, &allowed, NULL, NULL), RL_OK);
    CHECK(!allowed);
    rl_table_stats stats = rl_table_count(table);
    CHECK(stats.allowed == 1 && stats.denied == 3 && stats.keys == 1);
    rl_table_free(table);
}

/* ---- windows ---------------------------------------------------------------------- */

static void test_windows_by_their_length(void)
{
    rl_limit limits[] = {window_of(false, 10, 60), window_of(false, 100, 60),
                         window_of(false, 10, 30), window_of(true, 10, 60), timed(5, 1)};
    rl_limit mixed[] = {timed(5, 1), window_of(false, 7, 60)};
    rl_limit_set sets[5], any, both = set_of(mixed, 2);
    for (int i = 0; i < 5; i++) {
        sets[i] = set_of(&limits[i], 1);
    }
    rl_limit_set_init_any(&any, &sets[0]);
    const bool fits[] = {true, true, false, false, false};
    for (int i = 0; i < 5; i++) {
        CHECK_EQUAL(rl_limit_set_fits(&any, &sets[i]), fits[i]);
    }
    CHECK(!rl_limit_set_fits(&any, &both));
    rl_limit_set_init_any(&any, &both);
    CHECK(rl_limit_set_fits(&any, &both) && !rl_limit_set_fits(&any, &sets[4]));
    rl_table *table = table_for(&sets[0], 100);
    CHECK(take(table, &sets[0], 1, 10, at(0)).allowed);
    CHECK(!take(table, &sets[0], 1, 1, at(0)).allowed);
    CHECK(take(table, &sets[1], 1, 1, at(0)).remaining == 89);
    rl_table_free(table);
    table = table_for(&both, 100);
    CHECK(take(table, &both, 1, 5, at(0)).allowed);
    CHECK(!take(table, &both, 1, 3, at(9 * NS_PER_S)).allowed); /* by the window */
    CHECK(take(table, &both, 1, 2, at(9 * NS_PER_S)).allowed);
    rl_table_free(table);
}

/* Sliding windows of any count have room for the same times, and admit no more than they may. */
static void test_sliding_windows_of_changing_counts(void)
{
    uint64_t random = 11;
    rl_limit first = window_of(true, 1, 60);
    rl_limit_set any = set_of(&first, 1);
    rl_table *table = table_for(&any, 1000);
    int64_t now_ns = 0;
    double used = 0;
    for (int step = 0; step < 20000; step++) {
        static const double counts[] = {1, 2, 5, 8, 9, 50};
        rl_limit limit = window_of(true, counts[next_random(&random) % 6], 60);
        rl_limit_set set = set_of(&limit, 1);
        double tokens = (double)(next_random(&random) % 3);
        rl_decision decision = take(table, &set, 1, tokens, at(now_ns));
        used = decision.allowed ? used + tokens : used;
        CHECK(decision.remaining >= 0 && decision.remaining <= limit.capacity);
        if (!decision.allowed && decision.retry_after_ns != RL_NEVER) {
            rl_decision later = take(table, &set, 1, tokens, at(now_ns + decision.retry_after_ns));
            CHECK(later.allowed);
            now_ns += decision.retry_after_ns;
            used += tokens;
        }
        now_ns += (int64_t)(next_random(&random) % (5 * NS_PER_S));
    }
    CHECK(used <= 50 * (1 + (double)now_ns / 1e9 / 60));
    rl_table_free(table);
}

/* ---- no memory --------------------------------------------------------------------- */

static void test_no_memory(void)
{
    rl_limit limit = timed(10, 1e-6);
    rl_limit_set set = set_of(&limit, 1);
    rl_table *table = table_for(&set, 100000);
    uint64_t cost = rl_limit_cost(&limit, 1);
    rl_request request = {table, &set, key_of(table, 1), &cost, at(0), 0};
    rl_decision out = {.limit = -1};
    bool allowed = false;
    seam_fail(0, 1000);
    CHECK_EQUAL(rl_request_take(&request, &allowed, &out, NULL), RL_ENOMEM);
    CHECK_EQUAL(rl_request_charge(&request, &out), RL_ENOMEM);
    CHECK(!allowed && out.limit == -1); /* not written */
    rl_request_refund(&request);
    rl_request_peek(&request, &out, NULL);
    CHECK(out.remaining == 10);
    seam_fail(0, 0);
    CHECK(take(table, &set, 1, 1, at(0)).allowed);
    rl_table_free(table);
    CHECK_EQUAL(seam_live_blocks(), 0);
}

int main(void)
{
    test_limits_are_checked();
    test_costs_are_rounded_up();
    test_what_is_left_is_rounded_down();
    test_waiting_is_exact();
    test_a_changed_limit_keeps_the_share();
    test_limits_that_fill_equally_long_keep_their_order();
    test_what_changes_nothing();
    test_the_slowest_limit_comes_first();
    test_no_state_of_earlier_keys();
    test_many_keys_over_decades();
    test_a_flood_of_keys();
    test_all_requests();
    test_windows_by_their_length();
    test_sliding_windows_of_changing_counts();
    test_no_memory();
    return report("test_given");
}
