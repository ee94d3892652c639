/* test_sliding.c -- sliding windows: steady callers, costs, refunds, clocks, damaged words. */
#include "at.h"
#include "check.h"
#include "engine/table.h"

#define NS_PER_S INT64_C(1000000000)

static const rl_secret SECRET = {3, 4};
static const int64_t NOON_NS = 1732190400 * NS_PER_S; /* 2024-11-21, 12:00 */

typedef struct one_key {
    rl_limit limit;
    rl_table *table;
    rl_key key;
} one_key;

static one_key key_of(double count, int64_t window_s)
{
    one_key one;
    CHECK_EQUAL(rl_window_init(&one.limit, true, count, window_s), RL_OK);
    one.table = rl_table_new(&one.limit, 1, 100, SECRET);
    one.key = rl_table_key(one.table, "k", 1);
    return one;
}

static bool take(const one_key *one, uint64_t cost, int64_t now_ns)
{
    bool allowed = false;
    CHECK_EQUAL(rl_table_take(one->table, one->key, &cost, at(now_ns), &allowed, NULL, NULL),
                RL_OK);
    return allowed;
}

static rl_decision look(const one_key *one, uint64_t cost, int64_t now_ns)
{
    rl_decision decision;
    rl_table_peek(one->table, one->key, &cost, at(now_ns), &decision, NULL);
    return decision;
}

/* ---- steady callers ------------------------------------------------------------------ */

/* A caller that tries `tries` times a window, at any phase, gets the whole count of each, and at
 * most one count more in all. */
static void test_steady(double count, uint64_t cost, int64_t tries)
{
    one_key one = key_of(count, 60);
    const int windows = count > 1000 ? 4 : 12;
    int64_t step_ns = 60 * NS_PER_S / tries;
    int64_t start_ns = NOON_NS + (int64_t)count % 7919 * NS_PER_S * 7 / 3;
    uint64_t admitted = 0;
    for (int64_t i = 0; i < windows * tries; i++) {
        admitted += take(&one, cost, start_ns + i * step_ns) ? cost : 0;
    }
    uint64_t whole = (uint64_t)count / cost * cost;
    CHECK(admitted >= (uint64_t)windows * whole);
    CHECK(admitted <=
          (uint64_t)windows * whole + (tries * (int64_t)cost > (int64_t)count ? whole : 0));
    rl_table_free(one.table);
}

static void test_steady_callers(void)
{
    const int counts[] = {1, 2, 3, 4, 5, 10, 20, 50, 100, 1000, 10000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        test_steady(counts[i], 1, counts[i]); /* at the limit itself */
        test_steady(counts[i], 1, 2 * counts[i]);
        test_steady(counts[i], 1, counts[i] < 60 ? 60 : 3 * counts[i]);
    }
    test_steady(10, 5, 60);
    test_steady(10, 5, 3);
    test_steady(10, 2, 12);
    test_steady(100, 7, 20);
    test_steady(10000, 2500, 6);
    test_steady(2e9, 500000000, 10);
}

/* ---- state --------------------------------------------------------------------------- */

/* Requests of one cost leave whole; of several costs, unit by unit. */
static void test_costs(void)
{
    one_key one = key_of(12, 60);
    CHECK(take(&one, 4, NOON_NS) && take(&one, 4, NOON_NS + 10 * NS_PER_S) &&
          take(&one, 4, NOON_NS + 20 * NS_PER_S));
    const int64_t minute_ns = NOON_NS + 60 * NS_PER_S;
    CHECK(look(&one, 0, minute_ns - 1).remaining == 0);
    CHECK(look(&one, 0, minute_ns).remaining == 4);
    CHECK_EQUAL(look(&one, 5, minute_ns).retry_after_ns, 10 * NS_PER_S);
    CHECK_EQUAL(look(&one, 12, minute_ns).retry_after_ns, 20 * NS_PER_S);
    CHECK_EQUAL(look(&one, 13, minute_ns).retry_after_ns, RL_NEVER);
    rl_table_free(one.table);

    one = key_of(12, 60);
    CHECK(take(&one, 1, NOON_NS) && take(&one, 4, NOON_NS + 4 * NS_PER_S));
    for (int i = 0; i < 5; i++) {
        CHECK(look(&one, 0, minute_ns + i * NS_PER_S).remaining == 8 + i);
    }
    rl_table_free(one.table);
}

/* What is left of a run ends with its last request. */
static void test_refunds(void)
{
    one_key one = key_of(10, 60);
    uint64_t costs[] = {3};
    for (int i = 0; i < 5; i++) {
        CHECK(take(&one, 1, NOON_NS + 10 * i * NS_PER_S));
    }
    rl_table_refund(one.table, one.key, costs, at(NOON_NS + 40 * NS_PER_S));
    CHECK(look(&one, 0, NOON_NS + 40 * NS_PER_S).remaining == 8);
    CHECK(look(&one, 0, NOON_NS + 60 * NS_PER_S).remaining == 9);
    CHECK_EQUAL(look(&one, 10, NOON_NS + 60 * NS_PER_S).retry_after_ns, 40 * NS_PER_S);
    CHECK(take(&one, 2, NOON_NS + 61 * NS_PER_S));
    rl_table_refund(one.table, one.key, costs, at(NOON_NS + 62 * NS_PER_S)); /* 2, and 1 before */
    CHECK(look(&one, 0, NOON_NS + 62 * NS_PER_S).remaining == 10);
    CHECK_EQUAL(rl_table_sweep(one.table, at(NOON_NS + 62 * NS_PER_S)).keys, 0);
    rl_table_free(one.table);
}

/* A step back within a window, and one to the window before. */
static void test_small_steps_back(void)
{
    one_key one = key_of(3, 60);
    CHECK(take(&one, 1, NOON_NS + 5) && take(&one, 1, NOON_NS + 3));
    CHECK(look(&one, 0, NOON_NS + 4).remaining == 1);
    CHECK(look(&one, 0, NOON_NS - 1).remaining == 1);
    CHECK(take(&one, 1, NOON_NS - 1));
    rl_decision denied = look(&one, 1, NOON_NS - 1);
    CHECK(!denied.allowed && denied.retry_after_ns == 60 * NS_PER_S);
    CHECK(look(&one, 0, NOON_NS + 60 * NS_PER_S).remaining == 3);
    rl_table_free(one.table);
}

/* A process may die while it writes: no word can do harm. */
static void test_damaged_words(double count)
{
    rl_limit limit;
    CHECK_EQUAL(rl_window_init(&limit, true, count, 60), RL_OK);
    const uint64_t odd[] = {0, 1, 9, UINT64_MAX, UINT64_C(5) << 32, (uint64_t)NOON_NS};
    const size_t n_words = rl_sliding_words(&limit);
    uint64_t random = 5;
    for (int n = 0; n < 20000; n++) {
        uint64_t words[2 * RL_RUN_TIMES_MAX + 2];
        for (size_t i = 0; i < n_words; i++) {
            words[i] = odd[next_random(&random) % (sizeof odd / sizeof *odd)];
            if (i + 2 < n_words) {
                words[i] &= INT64_MAX;
            }
        }
        rl_sliding kept = rl_sliding_load(&limit, words);
        rl_sliding sliding = rl_sliding_at(&limit, &kept, NOON_NS);
        rl_sliding_decision(&limit, &sliding, NOON_NS, 1, false);
        rl_sliding_subtract(&limit, &sliding, NOON_NS, 1);
        CHECK(rl_sliding_used(&limit, &sliding, NOON_NS) <= UINT64_C(2) << 32);
    }
}

int main(void)
{
    test_steady_callers();
    test_costs();
    test_refunds();
    test_small_steps_back();
    test_damaged_words(5);
    test_damaged_words(8);
    test_damaged_words(9);
    CHECK_EQUAL(seam_live_blocks(), 0);
    return report("test_sliding");
}
