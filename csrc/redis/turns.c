#include "redis/turns.h"

#include "redis/condition.h"

/* A thread that waits for a turn. It is on that thread's stack; the lock of the turns guards it. */
struct rl_turn_waiter {
    pthread_cond_t wake;
    bool begins;
    rl_turn_waiter *previous, *next;
};

void rl_turns_init(rl_turns *turns)
{
    pthread_mutex_init(&turns->lock, NULL);
    turns->n = 0;
    turns->first = turns->last = NULL;
}

void rl_turns_destroy(rl_turns *turns)
{
    pthread_mutex_destroy(&turns->lock);
}

static void waiter_add(rl_turns *turns, rl_turn_waiter *waiter)
{
    waiter->previous = turns->last;
    waiter->next = NULL;
    *(turns->last != NULL ? &turns->last->next : &turns->first) = waiter;
    turns->last = waiter;
}

static void waiter_remove(rl_turns *turns, rl_turn_waiter *waiter)
{
    *(waiter->previous != NULL ? &waiter->previous->next : &turns->first) = waiter->next;
    *(waiter->next != NULL ? &waiter->next->previous : &turns->last) = waiter->previous;
}

/* Sleep until a turn is passed on. The caller holds the lock, which is released during the sleep.
 * Return false after the time, without a turn. */
static bool turns_wait(rl_turns *turns, int64_t most_ns)
{
    int64_t until_ns = rl_now_ns() + most_ns;
    rl_turn_waiter waiter = {.begins = false};
    rl_condition_init(&waiter.wake);
    waiter_add(turns, &waiter);
    while (!waiter.begins && rl_now_ns() < until_ns) {
        rl_condition_wait(&waiter.wake, &turns->lock, until_ns);
    }
    if (!waiter.begins) {
        waiter_remove(turns, &waiter);
    }
    pthread_cond_destroy(&waiter.wake);
    return waiter.begins;
}

bool rl_turns_begin(rl_turns *turns, int64_t most_ns)
{
    pthread_mutex_lock(&turns->lock);
    bool begins = turns->n < RL_TURNS_MAX;
    if (begins) {
        turns->n++;
    } else {
        begins = turns_wait(turns, most_ns);
    }
    pthread_mutex_unlock(&turns->lock);
    return begins;
}

void rl_turns_end(rl_turns *turns)
{
    pthread_mutex_lock(&turns->lock);
    rl_turn_waiter *next = turns->first; /* gets this turn */
    if (next != NULL) {
        waiter_remove(turns, next);
        next->begins = true;
        pthread_cond_signal(&next->wake);
    } else {
        turns->n--;
    }
    pthread_mutex_unlock(&turns->lock);
}
