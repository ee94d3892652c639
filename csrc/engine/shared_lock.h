/* engine/shared_lock.h -- a lock in a file that processes share.
 *
 * It is a number: even while free, odd while held. Every change increases it, so no two holders
 * have the same ticket:
 *
 *     free 6 ── take ──> held 7 ── release ──> free 8
 *                           └── take over ──> held 9
 *
 * A holder that was killed or stopped never releases. So a waiter takes the lock over when the
 * number has not changed during some 500 naps of a millisecond; the release of a holder that
 * continues after that changes nothing. Naps are counted, and not the time, because a machine
 * that was suspended wakes all processes at once.
 *
 * Any number is valid, and nothing in the file refers to a process or to memory: bytes that were
 * overwritten cost a waiter half a second, and cannot crash or block it. */
#ifndef RL_ENGINE_SHARED_LOCK_H
#define RL_ENGINE_SHARED_LOCK_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint64_t rl_shared_lock; /* starts as 0: free */

/* Wait until the lock is free or was taken over. Return the ticket to release it with. */
uint64_t rl_shared_lock_wait(rl_shared_lock *lock);

/* Return a ticket at once if the lock is free, else 0. */
static inline uint64_t rl_shared_lock_try(rl_shared_lock *lock)
{
    uint64_t found = atomic_load_explicit(lock, memory_order_relaxed);
    if (found % 2 == 0 &&
        atomic_compare_exchange_strong_explicit(lock, &found, found + 1, memory_order_acquire,
                                                memory_order_relaxed)) {
        return found + 1;
    }
    return 0;
}

static inline uint64_t rl_shared_lock_take(rl_shared_lock *lock)
{
    uint64_t ticket = rl_shared_lock_try(lock);
    return ticket != 0 ? ticket : rl_shared_lock_wait(lock);
}

static inline void rl_shared_lock_release(rl_shared_lock *lock, uint64_t ticket)
{
    atomic_compare_exchange_strong_explicit(lock, &ticket, ticket + 1, memory_order_release,
                                            memory_order_relaxed);
}

#endif
