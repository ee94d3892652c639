#include "engine/lock.h"

#include <errno.h>
#include <sched.h>
#include <time.h>

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2,
               "processes cannot share a lock that is not in the file");

/* A lock is mostly held for less than a microsecond, so first look again, then let others run, then
 * nap. */
#define LOOKS 100u
#define YIELDS 20u
#define NAP_NS 1000000
#ifndef RL_LOCK_NAPS /* fuzz programs take less */
#define RL_LOCK_NAPS 500u
#endif

/* A whole nap, however many signals arrive. */
static void lock_nap(void)
{
    struct timespec left = {0, NAP_NS};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {}
}

static void lock_pause(unsigned attempt)
{
    if (attempt >= LOOKS + YIELDS) {
        lock_nap();
    } else if (attempt >= LOOKS) {
        sched_yield();
    }
}

/* Take the lock from a holder that did not change it. Return 0 if it did after all. */
static uint64_t lock_take_over(rl_lock *lock, uint64_t held)
{
    return atomic_compare_exchange_strong_explicit(lock, &held, held + 2, memory_order_acquire,
                                                   memory_order_relaxed)
               ? held + 2
               : 0;
}

uint64_t rl_lock_wait(rl_lock *lock, bool in_file)
{
    uint64_t seen = atomic_load_explicit(lock, memory_order_relaxed);
    uint64_t ticket = 0;
    for (unsigned attempt = 0; ticket == 0; attempt++) {
        lock_pause(attempt);
        uint64_t now = atomic_load_explicit(lock, memory_order_relaxed);
        bool is_overdue = attempt == LOOKS + YIELDS + RL_LOCK_NAPS;
        if (now % 2 == 0) {
            ticket = rl_lock_try(lock);
        } else if (in_file && now == seen && is_overdue) {
            ticket = lock_take_over(lock, now);
        }
        if (now != seen || is_overdue) {
            seen = now;
            attempt = 0;
        }
    }
    return ticket;
}
