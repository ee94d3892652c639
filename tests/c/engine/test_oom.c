/* test_oom.c -- each allocation of the core fails once, and nothing is lost. */
#include "at.h"
#include "check.h"
#include "engine/table.h"

#define KEYS 3000u

static const rl_secret SECRET = {1, 2};

static rl_key number_key(const rl_table *table, uint64_t number)
{
    return rl_table_key(table, &number, sizeof number);
}

/* Fill a table past several growths, empty it, fill it again. True: all was done. */
static bool work(rl_table *table, uint64_t cost)
{
    bool all_done = true;
    for (int64_t round = 0; round < 3; round++) {
        int64_t now_ns = round * INT64_C(3600000000000);
        for (uint64_t i = 0; i < KEYS; i++) {
            rl_decision decision = {.limit = -1};
            bool allowed = false;
            rl_key key = number_key(table, i);
            rl_status status =
                rl_table_take(table, key, &cost, at(now_ns), &allowed, &decision, NULL);
            if (status == RL_OK) {
                CHECK(allowed && decision.limit == 2);
                rl_table_peek(table, key, &cost, at(now_ns), &decision, NULL);
                CHECK(decision.remaining <= 1);
                continue;
            }
            all_done = false;
            CHECK_EQUAL(status, RL_ENOMEM);
            CHECK(!allowed && decision.limit == -1); /* not written */
            rl_table_peek(table, key, &cost, at(now_ns), &decision, NULL);
            CHECK(decision.remaining == 2); /* nothing taken */
            CHECK_EQUAL(rl_table_take(table, key, &cost, at(now_ns), &allowed, NULL, NULL), RL_OK);
        }
        rl_table_sweep(table, at(now_ns + INT64_C(1800000000000)));
    }
    return all_done;
}

/* Return the number of allocations of the work when these fail. */
static unsigned long run(unsigned long first, unsigned long count)
{
    rl_limit limit;
    CHECK_EQUAL(rl_limit_init(&limit, 2, 0.01), RL_OK);
    seam_fail(first, count);
    rl_table *table = rl_table_new(&limit, 1, 100000, SECRET);
    CHECK_EQUAL(table == NULL, first == 0 && count > 0);
    if (table != NULL) {
        work(table, rl_limit_cost(&limit, 1));
        rl_table_stats stats = rl_table_sweep(table, at(0));
        CHECK_EQUAL(stats.inserted >= 3 * KEYS, 1);
        CHECK(count > 0 || stats.grow_failures == 0);
    }
    rl_table_free(table);
    unsigned long calls = seam_calls();
    seam_fail(0, 0);
    CHECK_EQUAL(seam_live_blocks(), 0);
    return calls;
}

/* Growth stops, and the table goes on in its present memory: it evicts and admits less. */
static void test_no_more_memory_at_all(void)
{
    rl_limit limit;
    CHECK_EQUAL(rl_limit_init(&limit, 10, 0), RL_OK);
    uint64_t cost = rl_limit_cost(&limit, 1);
    rl_table *table = rl_table_new(&limit, 1, 1000000, SECRET);
    bool allowed;
    uint64_t admitted = 0;
    for (uint64_t i = 0; i < 5000; i++) {
        CHECK_EQUAL(rl_table_take(table, number_key(table, i), &cost, at(0), &allowed, NULL, NULL),
                    RL_OK);
    }
    uint64_t slots = rl_table_sweep(table, at(0)).slots;
    seam_fail(0, (unsigned long)-1);
    for (uint64_t i = 0; i < 200000; i++) {
        CHECK_EQUAL(rl_table_take(table, number_key(table, i), &cost, at(0), &allowed, NULL, NULL),
                    RL_OK);
        admitted += allowed;
    }
    rl_table_stats stats = rl_table_sweep(table, at(0));
    CHECK_EQUAL(stats.slots, slots);
    CHECK(stats.grow_failures > 0 && stats.evicted_active > 0);
    CHECK(admitted + 5000 <= slots * 10);
    seam_fail(0, 0);
    rl_table_free(table);
    CHECK_EQUAL(seam_live_blocks(), 0);
}

int main(void)
{
    unsigned long calls = run(0, 0);
    CHECK(calls > 20);
    for (unsigned long n = 0; n < calls; n++) {
        run(n, 1);
    }
    run(0, 1000);
    test_no_more_memory_at_all();
    rl_table_free(NULL);
    rl_secret one = {0, 0};
    rl_secret two = {0, 0};
    CHECK_EQUAL(rl_secret_init(&one), RL_OK);
    CHECK_EQUAL(rl_secret_init(&two), RL_OK);
    CHECK(one.k0 != two.k0 && one.k1 != two.k1);
    return report("test_oom");
}
