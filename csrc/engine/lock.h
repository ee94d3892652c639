/* engine/lock.h -- the lock of a shard, in memory or in a file that processes share.
 *
 * It is a number: even while free, odd while held. Every change increases it, so no two holders
 * have the same ticket:
 *
 *     free 6 ── take ──> held 7 ── release ──> free 8
 *                           └── take over ──> held 9
 *
 * In a file, a holder that was killed or stopped never releases. So a waiter takes the lock over
 * when the number has not changed during some 500 naps of a millisecond; the release of a holder
 * that continues after that changes nothing. Naps are counted, and not the time, because a machine
 * that was suspended wakes all processes at once. In memory a holder always releases, and nothing
 * is taken over.
 *
 * Any number is valid, and nothing in the file refers to a process or to memory: bytes that were
 * overwritten cost a waiter half a second, and cannot crash or block it.
 *
 * Taking and releasing are inlined: calls of a mutex of the C library would be a sixth of the
 * instructions of a decision. */
#ifndef RL_ENGINE_LOCK_H
#define RL_ENGINE_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef _Atomic uint64_t rl_lock; /* starts as 0: free */

/* Wait until the lock is free or was taken over. Return the ticket to release it with. */
__attribute__((noinline)) uint64_t rl_lock_wait(rl_lock *lock, bool in_file);

/* Return a ticket at once if the lock is free, else 0. */
static inline uint64_t rl_lock_try(rl_lock *lock)
{
    uint64_t found = atomic_load_explicit(lock, memory_order_relaxed);
    if (found % 2 == 0 &&
        atomic_compare_exchange_strong_explicit(lock, &found, found + 1, memory_order_acquire,
                                                memory_order_relaxed)) {
        return found + 1;
    }
    return 0;
}

static inline uint64_t rl_lock_take(rl_lock *lock, bool in_file)
{
    uint64_t ticket = rl_lock_try(lock);
    return ticket != 0 ? ticket : rl_lock_wait(lock, in_file);
}

/* Return true if a holder still has the lock of a file. */
static inline bool rl_lock_is_held(rl_lock *lock, uint64_t ticket)
{
    return atomic_load_explicit(lock, memory_order_acquire) == ticket;
}

static inline void rl_lock_release(rl_lock *lock, uint64_t ticket, bool in_file)
{
    if (in_file) {
        atomic_compare_exchange_strong_explicit(lock, &ticket, ticket + 1, memory_order_release,
                                                memory_order_relaxed);
    } else {
        atomic_store_explicit(lock, ticket + 1, memory_order_release);
    }
}

#endif
