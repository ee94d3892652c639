/* test_blocks.c -- blocked keys: exact ends, which blocks make room, and each allocation failing. */
#include "at.h"
#include "check.h"
#include "engine/table.h"

#define NS_PER_S INT64_C(1000000000)
#define YEAR_NS (INT64_C(31557600) * NS_PER_S)

static const rl_secret SECRET = {123, 456};

static rl_key number_key(const rl_table *table, uint64_t number)
{
    return rl_table_key(table, &number, sizeof number);
}

static rl_table *table_of(size_t max_keys)
{
    rl_limit limit;
    CHECK_EQUAL(rl_limit_init(&limit, 10, 10), RL_OK);
    rl_table *table = rl_table_new(&limit, 1, max_keys, SECRET);
    CHECK(table != NULL);
    return table;
}

static int64_t wait_ns(rl_table *table, uint64_t number, int64_t now_ns)
{
    uint64_t cost = 0;
    rl_decision decision;
    rl_table_peek(table, number_key(table, number), &cost, at(now_ns), &decision, NULL);
    CHECK_EQUAL(decision.allowed, decision.retry_after_ns == 0);
    return decision.retry_after_ns;
}

static void test_ends_exactly(void)
{
    const int64_t starts_ns[] = {0, 1, 987654321987654321, YEAR_NS * 250};
    const int64_t lengths_ns[] = {1, 2, 999, NS_PER_S, 123456789012345678, YEAR_NS * 40};
    rl_table *table = table_of(1000);
    for (uint64_t i = 0; i < 4; i++) {
        for (uint64_t j = 0; j < 6; j++) {
            int64_t now_ns = starts_ns[i], ns = lengths_ns[j];
            rl_table_reset(table, number_key(table, j));
            CHECK_EQUAL(rl_table_block(table, number_key(table, j), ns, at(now_ns)), RL_OK);
            CHECK_EQUAL(wait_ns(table, j, now_ns), ns);
            CHECK_EQUAL(wait_ns(table, j, now_ns + ns - 1), 1);
            CHECK_EQUAL(wait_ns(table, j, now_ns + ns), 0);
        }
    }
    rl_table_free(table);
}

static void test_denies_and_takes_nothing(void)
{
    rl_table *table = table_of(1000);
    rl_key key = number_key(table, 1);
    rl_decision out, each[1];
    bool allowed;
    rl_limit limit;
    rl_limit_init(&limit, 10, 10);
    uint64_t cost = rl_limit_cost(&limit, 4);
    CHECK_EQUAL(rl_table_block(table, key, NS_PER_S, at(0)), RL_OK);
    CHECK_EQUAL(rl_table_take(table, key, &cost, at(0), &allowed, &out, each), RL_OK);
    CHECK(!allowed && !out.allowed && !each[0].allowed && out.remaining == 0);
    CHECK(out.retry_after_ns == NS_PER_S && each[0].reset_after_ns == NS_PER_S);
    CHECK_EQUAL(rl_table_take(table, key, &cost, at(0), &allowed, NULL, NULL), RL_OK);
    CHECK_EQUAL(rl_table_count(table).denied, 2);
    CHECK_EQUAL(rl_table_take(table, key, &cost, at(NS_PER_S), &allowed, &out, NULL), RL_OK);
    CHECK(allowed && out.remaining == 6);
    rl_table_free(table);
}

/* A newcomer takes the place of the block that ends first. */
static void test_makes_room(void)
{
    rl_table *table = table_of(1);
    for (uint64_t i = 0; i < 200; i++) {
        CHECK_EQUAL(rl_table_block(table, number_key(table, i), NS_PER_S + (int64_t)i, at(0)),
                    RL_OK);
        CHECK_EQUAL(wait_ns(table, i, 0), NS_PER_S + (int64_t)i);
    }
    CHECK_EQUAL(wait_ns(table, 0, 0), 0);
    CHECK(rl_table_count(table).evicted_active > 100);
    rl_table_free(table);
}

static void test_renewed(void)
{
    rl_table *table = table_of(1000);
    rl_limit other;
    CHECK_EQUAL(rl_limit_init(&other, 20, 5), RL_OK);
    CHECK_EQUAL(rl_table_block(table, number_key(table, 1), NS_PER_S, at(0)), RL_OK);
    rl_table *made = rl_table_renew(table, &other, at(5));
    CHECK_EQUAL(wait_ns(made, 1, 5), NS_PER_S - 5);
    rl_table_reset(made, number_key(made, 1));
    CHECK(wait_ns(made, 1, 5) == 0 && wait_ns(table, 1, 5) == NS_PER_S - 5);
    rl_table_free(made);
    rl_table_free(table);
}

/* Return the number of allocations when these fail. */
static unsigned long run(unsigned long first, unsigned long count)
{
    rl_table *table = table_of(100000), *renewed;
    rl_limit other;
    rl_limit_init(&other, 20, 5);
    seam_fail(first, count);
    for (uint64_t i = 0; i < 3000; i++) {
        rl_key key = number_key(table, i);
        if (rl_table_block(table, key, NS_PER_S, at(0)) != RL_OK) {
            CHECK_EQUAL(wait_ns(table, i, 0), 0);
            CHECK_EQUAL(rl_table_block(table, key, NS_PER_S, at(0)), RL_OK);
        }
        CHECK_EQUAL(wait_ns(table, i, 0), NS_PER_S);
    }
    renewed = rl_table_renew(table, &other, at(0));
    CHECK(renewed != NULL || count > 0);
    if (renewed != NULL) {
        CHECK_EQUAL(wait_ns(renewed, 7, 0), NS_PER_S);
    }
    unsigned long calls = seam_calls();
    seam_fail(0, 0);
    rl_table_free(renewed);
    rl_table_sweep(table, at(2 * NS_PER_S));
    CHECK_EQUAL(wait_ns(table, 7, 2 * NS_PER_S), 0);
    rl_table_free(table);
    CHECK_EQUAL(seam_live_blocks(), 0);
    return calls;
}

int main(void)
{
    test_ends_exactly();
    test_denies_and_takes_nothing();
    test_makes_room();
    test_renewed();
    unsigned long calls = run(0, 0);
    CHECK(calls > 5);
    for (unsigned long n = 0; n < calls; n++) {
        run(n, 1);
    }
    return report("test_blocks");
}
