/* test_lock.c -- a lock; in a file any bytes may overwrite it, and its holder may be gone. */
#include <pthread.h>
#include <time.h>

#include "check.h"
#include "engine/lock.h"

#define THREADS 4
#define ROUNDS 20000

static void test_taken_and_released(void)
{
    rl_lock lock = 0;
    uint64_t first = rl_lock_take(&lock, true);
    CHECK_EQUAL(rl_lock_try(&lock), 0);
    rl_lock_release(&lock, first, true);
    uint64_t second = rl_lock_take(&lock, true);
    CHECK(second != first);
    rl_lock_release(&lock, first, true); /* not its own */
    CHECK_EQUAL(rl_lock_try(&lock), 0);
    rl_lock_release(&lock, second, true);
    CHECK(rl_lock_try(&lock) != 0);
}

/* The holder is dead, or is stopped and continues later. */
static void test_taken_over(void)
{
    rl_lock lock = 0;
    uint64_t gone = rl_lock_take(&lock, true);
    uint64_t ticket = rl_lock_take(&lock, true);
    CHECK(ticket != 0 && ticket != gone);
    rl_lock_release(&lock, gone, true);
    CHECK_EQUAL(rl_lock_try(&lock), 0);
    rl_lock_release(&lock, ticket, true);
    CHECK(rl_lock_try(&lock) != 0);
}

static void test_any_number(void)
{
    const uint64_t numbers[] = {1, UINT64_MAX, UINT64_MAX - 1, UINT64_C(1) << 63, 0x7f0000000001};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        rl_lock lock = numbers[i];
        uint64_t ticket = rl_lock_take(&lock, true);
        CHECK(ticket != 0);
        CHECK_EQUAL(rl_lock_try(&lock), 0);
        rl_lock_release(&lock, ticket, true);
        CHECK(rl_lock_try(&lock) != 0);
    }
}

/* In memory the holder is only slow. */
static void *release_late(void *context)
{
    rl_lock *lock = context;
    struct timespec pause = {.tv_sec = 1}; /* longer than a lock in a file is waited for */
    nanosleep(&pause, NULL);
    rl_lock_release(lock, 1, false);
    return NULL;
}

static void test_not_taken_over_in_memory(void)
{
    rl_lock lock = 0;
    pthread_t thread;
    CHECK_EQUAL(rl_lock_take(&lock, false), 1);
    CHECK_EQUAL(pthread_create(&thread, NULL, release_late, &lock), 0);
    CHECK_EQUAL(rl_lock_take(&lock, false), 3); /* a lock that was taken over would be 2 behind */
    pthread_join(thread, NULL);
    CHECK_EQUAL(lock, 3);
}

typedef struct counted {
    bool in_file;
    rl_lock lock;
    uint64_t count; /* guarded by it, as TSan checks */
} counted;

static void *count_often(void *context)
{
    counted *shared = context;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t ticket = rl_lock_take(&shared->lock, shared->in_file);
        shared->count++;
        rl_lock_release(&shared->lock, ticket, shared->in_file);
    }
    return NULL;
}

static void test_one_at_a_time(bool in_file)
{
    counted shared = {.in_file = in_file};
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
    test_not_taken_over_in_memory();
    test_one_at_a_time(true);
    test_one_at_a_time(false);
    return report("test_lock");
}
