/* test_together.c -- several tables in one step: against a model, in threads, and each allocation
 * failing. */
#include "at.h"
#include "check.h"
#include "engine/together.h"

#include <pthread.h>

#define NS_PER_S INT64_C(1000000000)
#define N_TABLES 3
#define N_KEYS 5

static const rl_secret SECRET = {123, 456};

typedef struct world {
    rl_limit limits[N_TABLES];
    rl_table *tables[N_TABLES];
} world;

static world world_of(size_t max_keys)
{
    world made;
    CHECK_EQUAL(rl_limit_init(&made.limits[0], 10, 0), RL_OK);
    CHECK_EQUAL(rl_window_init(&made.limits[1], true, 7, 1000), RL_OK);
    CHECK_EQUAL(rl_window_init(&made.limits[2], false, 8, 1000), RL_OK);
    for (size_t i = 0; i < N_TABLES; i++) {
        made.tables[i] = rl_table_new(&made.limits[i], 1, max_keys, SECRET);
        CHECK(made.tables[i] != NULL);
    }
    return made;
}

static void world_free(world *world)
{
    for (size_t i = 0; i < N_TABLES; i++) {
        rl_table_free(world->tables[i]);
    }
}

static rl_together request_of(const world *world, size_t i, uint64_t number, const uint64_t *cost)
{
    rl_table *table = world->tables[i];
    return (rl_together){.table = table,
                         .limits = rl_table_limits(table),
                         .key = rl_table_key(table, &number, sizeof number),
                         .costs = cost,
                         .now = at(NS_PER_S)};
}

static uint64_t left_of(const world *world, size_t i, uint64_t number)
{
    uint64_t zero = 0;
    rl_decision decision;
    rl_table *table = world->tables[i];
    rl_table_peek(table, rl_table_key(table, &number, sizeof number), &zero, at(NS_PER_S),
                  &decision, NULL);
    return (uint64_t)decision.remaining;
}

/* Random requests, some for the same key: all or nothing, as plain numbers say. */
static void test_against_numbers(void)
{
    world world = world_of(1000);
    uint64_t left[N_TABLES][N_KEYS], random = 7, denied = 0;
    for (size_t i = 0; i < N_TABLES; i++) {
        for (size_t k = 0; k < N_KEYS; k++) {
            left[i][k] = (uint64_t)world.limits[i].capacity;
        }
    }
    for (int round = 0; round < 20000; round++) {
        rl_together requests[4];
        uint64_t costs[4], after[N_TABLES][N_KEYS];
        bool fits = true, allowed;
        memcpy(after, left, sizeof after);
        size_t n = 1 + (size_t)(random % 4);
        for (size_t j = 0; j < n; j++) {
            random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
            size_t i = (size_t)(random >> 33) % N_TABLES, k = (size_t)(random >> 40) % N_KEYS;
            uint64_t tokens = (random >> 50) % 3;
            costs[j] = rl_limit_cost(&world.limits[i], (double)tokens);
            requests[j] = request_of(&world, i, k, &costs[j]);
            fits &= after[i][k] >= tokens;
            after[i][k] -= after[i][k] >= tokens ? tokens : 0;
        }
        CHECK_EQUAL(rl_together_take(requests, n, &allowed), RL_OK);
        CHECK_EQUAL(allowed, fits);
        bool some_denied = false;
        for (size_t j = 0; j < n; j++) {
            some_denied |= !requests[j].decision.allowed;
        }
        CHECK_EQUAL(some_denied, !fits);
        denied += !fits;
        if (fits) {
            memcpy(left, after, sizeof left);
        }
        for (size_t i = 0; i < N_TABLES; i++) {
            for (size_t k = 0; k < N_KEYS; k++) {
                CHECK_EQUAL(left_of(&world, i, k), left[i][k]);
            }
        }
        if (round % 40 == 0) {
            uint64_t key = random % N_KEYS;
            rl_table *table = world.tables[round % N_TABLES];
            rl_table_reset(table, rl_table_key(table, &key, sizeof key));
            left[round % N_TABLES][key] = (uint64_t)world.limits[round % N_TABLES].capacity;
        }
    }
    CHECK(denied > 1000 && denied < 19000);
    world_free(&world);
}

static void test_a_blocked_key_denies_all(void)
{
    world world = world_of(1000);
    uint64_t costs[2] = {rl_limit_cost(&world.limits[0], 1), 1};
    rl_together requests[2] = {request_of(&world, 0, 1, &costs[0]),
                               request_of(&world, 1, 1, &costs[1])};
    bool allowed;
    CHECK_EQUAL(rl_table_block(world.tables[1], requests[1].key, 5, at(NS_PER_S)), RL_OK);
    CHECK_EQUAL(rl_together_take(requests, 2, &allowed), RL_OK);
    CHECK(!allowed && requests[0].decision.allowed && requests[1].decision.retry_after_ns == 5);
    CHECK(left_of(&world, 0, 1) == 10);
    world_free(&world);
}

/* A new key inherits the debt of the one that made room: then nothing is taken from the others. */
static void test_inherited_debt(void)
{
    world world = world_of(1);
    uint64_t all = rl_limit_cost(&world.limits[0], 10), one = rl_limit_cost(&world.limits[0], 1);
    uint64_t window = 1, number = 0;
    bool allowed = true;
    for (; number < 1000 && allowed; number++) {
        rl_together fill = request_of(&world, 0, number, &all);
        CHECK_EQUAL(rl_together_take(&fill, 1, &allowed), RL_OK);
    }
    CHECK(!allowed);
    rl_together requests[2] = {request_of(&world, 1, 5, &window),
                               request_of(&world, 0, number, &one)};
    CHECK_EQUAL(rl_together_take(requests, 2, &allowed), RL_OK);
    CHECK(!allowed && requests[0].decision.allowed && !requests[1].decision.allowed);
    CHECK_EQUAL(left_of(&world, 1, 5), 7);
    world_free(&world);
}

/* Return the number of allocations when one of them fails. */
static unsigned long run(unsigned long first, unsigned long count)
{
    world world = world_of(100000);
    seam_fail(first, count);
    for (uint64_t number = 0; number < 400; number++) {
        uint64_t costs[N_TABLES];
        rl_together requests[N_TABLES];
        bool allowed = true;
        for (size_t i = 0; i < N_TABLES; i++) {
            costs[i] = rl_limit_cost(&world.limits[i], 1);
            requests[i] = request_of(&world, i, number, &costs[i]);
        }
        rl_status status = rl_together_take(requests, N_TABLES, &allowed);
        for (size_t i = 0; i < N_TABLES; i++) {
            uint64_t taken = status == RL_OK && allowed ? 1 : 0;
            CHECK_EQUAL(left_of(&world, i, number), (uint64_t)world.limits[i].capacity - taken);
        }
    }
    unsigned long calls = seam_calls();
    seam_fail(0, 0);
    world_free(&world);
    CHECK_EQUAL(seam_live_blocks(), 0);
    return calls;
}

/* Threads name the tables in opposite orders, and never exceed a limit. */
typedef struct worker {
    const world *world;
    bool reversed;
    uint64_t allowed;
} worker;

static void *work(void *argument)
{
    worker *worker = argument;
    for (uint64_t round = 0; round < 20000; round++) {
        rl_together requests[N_TABLES];
        uint64_t costs[N_TABLES];
        bool allowed;
        for (size_t i = 0; i < N_TABLES; i++) {
            size_t table = worker->reversed ? N_TABLES - 1 - i : i;
            costs[i] = rl_limit_cost(&worker->world->limits[table], 1);
            requests[i] = request_of(worker->world, table, round % 1000, &costs[i]);
        }
        CHECK_EQUAL(rl_together_take(requests, N_TABLES, &allowed), RL_OK);
        worker->allowed += allowed;
    }
    return NULL;
}

static void test_threads(void)
{
    world world = world_of(100000);
    worker workers[4];
    pthread_t threads[4];
    uint64_t allowed = 0;
    for (size_t i = 0; i < 4; i++) {
        workers[i] = (worker){&world, i % 2 == 1, 0};
        CHECK_EQUAL(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        allowed += workers[i].allowed;
    }
    CHECK_EQUAL(allowed, 7 * 1000); /* the tightest limit */
    world_free(&world);
}

int main(void)
{
    test_against_numbers();
    test_a_blocked_key_denies_all();
    test_inherited_debt();
    test_threads();
    unsigned long calls = run(0, 0);
    CHECK(calls > 3);
    for (unsigned long n = 0; n < calls; n++) {
        run(n, 1);
    }
    return report("test_together");
}
