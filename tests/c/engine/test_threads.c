/* test_threads.c -- eight threads on one table admit exactly the available tokens. */
#include <pthread.h>
#include <stdatomic.h>

#include "at.h"
#include "check.h"
#include "engine/table.h"

#define THREADS 8

typedef struct work {
    rl_table *table;
    uint64_t n_keys;
    uint64_t tries;
    uint64_t cost;
    unsigned number;
    uint64_t admitted;
} work;

static atomic_int started;

static void *take_many(void *argument)
{
    work *work = argument;
    uint64_t random = work->number;
    atomic_fetch_add(&started, 1);
    while (atomic_load(&started) < THREADS) {}
    for (uint64_t i = 0; i < work->tries; i++) {
        uint64_t number = (i + next_random(&random)) % work->n_keys;
        rl_key key = rl_table_key(work->table, &number, sizeof number);
        rl_decision decision;
        bool allowed = false;
        if (rl_table_take(work->table, key, &work->cost, at(5), &allowed, &decision, NULL) ==
            RL_OK) {
            work->admitted += allowed;
        }
        if (i % 1024 == work->number) {
            rl_table_sweep(work->table, at(5));
        }
        if (i % 64 == 0) {
            rl_table_peek(work->table, key, &work->cost, at(5), &decision, NULL);
            rl_table_refund(work->table, key, (uint64_t[]){0}, at(5));
        }
    }
    return NULL;
}

static void test_exact_total(uint64_t n_keys, uint64_t tries, double capacity)
{
    rl_limit limit;
    CHECK_EQUAL(rl_limit_init(&limit, capacity, 0), RL_OK);
    rl_table *table = rl_table_new(&limit, 1, 100000, (rl_secret){3, 4});
    pthread_t threads[THREADS];
    work works[THREADS];
    uint64_t admitted = 0;
    atomic_store(&started, 0);
    for (unsigned i = 0; i < THREADS; i++) {
        works[i] = (work){table, n_keys, tries, rl_limit_cost(&limit, 1), i, 0};
        CHECK_EQUAL(pthread_create(&threads[i], NULL, take_many, &works[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        admitted += works[i].admitted;
    }
    rl_table_stats stats = rl_table_sweep(table, at(5));
    CHECK_EQUAL(stats.keys, n_keys);
    CHECK_EQUAL(admitted, n_keys * (uint64_t)capacity);
    CHECK_EQUAL(stats.allowed, admitted);
    CHECK_EQUAL(stats.allowed + stats.denied, THREADS * tries);
    rl_table_free(table);
}

int main(void)
{
    test_exact_total(1, 5000, 20000);
    test_exact_total(10000, 30000, 3);
    CHECK_EQUAL(seam_live_blocks(), 0);
    return report("test_threads");
}
