/* test_turns.c -- turns: never more than RL_TURNS_MAX at once, each ends, and none waits too long. */
#include "redis/turns.h"

#include <stdatomic.h>

#include "check.h"
#include "redis/condition.h"

#define MS INT64_C(1000000)
#define N_THREADS 32
#define ROUNDS 2000

typedef struct player {
    rl_turns *turns;
    atomic_uint *playing, *most;
    int64_t most_ns; /* each waits for a turn */
    unsigned begun;
} player;

static void *play(void *context)
{
    player *me = context;
    for (int i = 0; i < ROUNDS; i++) {
        if (rl_turns_begin(me->turns, me->most_ns)) {
            unsigned n = atomic_fetch_add(me->playing, 1) + 1, most = atomic_load(me->most);
            while (n > most && !atomic_compare_exchange_weak(me->most, &most, n)) {}
            me->begun++;
            atomic_fetch_sub(me->playing, 1);
            rl_turns_end(me->turns);
        }
    }
    return NULL;
}

static void test_threads(void)
{
    rl_turns turns;
    rl_turns_init(&turns);
    atomic_uint playing = 0, most = 0;
    pthread_t threads[N_THREADS];
    player players[N_THREADS];
    for (int i = 0; i < N_THREADS; i++) {
        bool is_patient = i % 2 == 0; /* the others leave, from anywhere in the queue */
        players[i] = (player){&turns, &playing, &most, is_patient ? 10000 * MS : 1000, 0};
        CHECK_EQUAL(pthread_create(&threads[i], NULL, play, &players[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(i % 2 == 0 ? players[i].begun == ROUNDS : players[i].begun <= ROUNDS);
    }
    CHECK(most <= RL_TURNS_MAX);
    CHECK(turns.n == 0 && turns.first == NULL && turns.last == NULL);
    rl_turns_destroy(&turns);
}

static void *begin_one(void *context)
{
    CHECK(rl_turns_begin(context, 10000 * MS));
    return NULL;
}

static void test_waiting(void)
{
    rl_turns turns;
    rl_turns_init(&turns);
    for (int i = 0; i < RL_TURNS_MAX; i++) {
        CHECK(rl_turns_begin(&turns, 0));
    }
    CHECK(!rl_turns_begin(&turns, 0));
    int64_t began_ns = rl_now_ns();
    CHECK(!rl_turns_begin(&turns, 20 * MS));
    CHECK(rl_now_ns() - began_ns >= 20 * MS);
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, begin_one, &turns), 0);
    rl_turns_end(&turns);
    pthread_join(thread, NULL);
    CHECK(!rl_turns_begin(&turns, 0));
    rl_turns_init(&turns); /* as in the child of a fork */
    CHECK(rl_turns_begin(&turns, 0));
    rl_turns_end(&turns);
    rl_turns_destroy(&turns);
}

int main(void)
{
    test_threads();
    test_waiting();
    return report("turns");
}
