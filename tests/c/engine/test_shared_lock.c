/* test_shared_lock.c -- a lock that any bytes may overwrite, and whose holder may be gone. */
#include <pthread.h>

#include "check.h"
#include "engine/shared_lock.h"

#define THREADS 4
#define ROUNDS 20000

static void test_taken_and_released(void)
{
    rl_shared_lock lock = 0;
    uint64_t first = rl_shared_lock_take(&lock);
    CHECK_EQUAL(rl_shared_lock_try(&lock), 0);
    rl_shared_lock_release(&lock, first);
    uint64_t second = rl_shared_lock_take(&lock);
    CHECK(second != first);
    rl_shared_lock_release(&lock, first); /* not its own */
    CHECK_EQUAL(rl_shared_lock_try(&lock), 0);
    rl_shared_lock_release(&lock, second);
    CHECK(rl_shared_lock_try(&lock) != 0);
}

/* The holder is dead, or is stopped and continues later. */
static void test_taken_over(void)
{
    rl_shared_lock lock = 0;
    uint64_t gone = rl_shared_lock_take(&lock);
    uint64_t ticket = rl_shared_lock_take(&lock);
    CHECK(ticket != 0 && ticket != gone);
    rl_shared_lock_release(&lock, gone);
    CHECK_EQUAL(rl_shared_lock_try(&lock), 0);
    rl_shared_lock_release(&lock, ticket);
    CHECK(rl_shared_lock_try(&lock) != 0);
}

static void test_any_number(void)
{
    const uint64_t numbers[] = {1, UINT64_MAX, UINT64_MAX - 1, UINT64_C(1) << 63, 0x7f0000000001};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        rl_shared_lock lock = numbers[i];
        uint64_t ticket = rl_shared_lock_take(&lock);
        CHECK(ticket != 0);
        CHECK_EQUAL(rl_shared_lock_try(&lock), 0);
        rl_shared_lock_release(&lock, ticket);
        CHECK(rl_shared_lock_try(&lock) != 0);
    }
}

typedef struct counted {
    rl_shared_lock lock;
    uint64_t count; /* guarded by it, as TSan checks */
} counted;

static void *count_often(void *context)
{
    counted *shared = context;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t ticket = rl_shared_lock_take(&shared->lock);
        shared->count++;
        rl_shared_lock_release(&shared->lock, ticket);
    }
    return NULL;
}

static void test_one_at_a_time(void)
{
    counted shared = {0};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQUAL(pthread_create(&threads[i], NULL, count_often, &shared), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_EQUAL(shared.count, THREADS * ROUNDS);
}

int main(void)
{
    test_taken_and_released();
    test_taken_over();
    test_any_number();
    test_one_at_a_time();
    return report("test_shared_lock");
}
