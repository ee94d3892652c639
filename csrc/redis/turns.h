/* redis/turns.h -- a few threads at once wait for the GIL; the others sleep until it is their turn.
 *
 * CPython wakes each thread that waits for the GIL every 5 ms. With 50 threads these wake-ups, and
 * the contention for the GIL's mutex that follows, are three of four futex calls of a decision. So a
 * thread that has its answer takes a turn before it takes the GIL:
 *
 *     answer ── begin ── take the GIL ── end ── Python
 *                 │                        │
 *                 └─ sleep, if RL_TURNS_MAX threads are between these
 *
 * With a single turn, a thread that computes without a pause would get the GIL for 5 ms after each
 * one, so there are several. A turn that never ends, because its thread was stopped while the
 * interpreter shuts down, only delays others. */
#ifndef RL_REDIS_TURNS_H
#define RL_REDIS_TURNS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define RL_TURNS_MAX 8

typedef struct rl_turn_waiter rl_turn_waiter; /* opaque: see turns.c */

typedef struct rl_turns {
    pthread_mutex_t lock;         /* guards the rest; never held while waiting for something else */
    unsigned n;                   /* turns that have begun and not ended */
    rl_turn_waiter *first, *last; /* borrowed; threads that wait, in their order */
} rl_turns;

/* Also in the child of a fork, where no turns are under way. */
void rl_turns_init(rl_turns *turns);

void rl_turns_destroy(rl_turns *turns);

/* Wait for a turn, at most `most_ns`. Return true if it has begun: then call rl_turns_end. */
bool rl_turns_begin(rl_turns *turns, int64_t most_ns);

void rl_turns_end(rl_turns *turns);

#endif
