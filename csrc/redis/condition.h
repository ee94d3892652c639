/* redis/condition.h -- condition variables with deadlines of rl_now_ns(). */
#ifndef RL_REDIS_CONDITION_H
#define RL_REDIS_CONDITION_H

#include <pthread.h>
#include <stdint.h>

/* CLOCK_MONOTONIC, in nanoseconds: the time of all deadlines. */
int64_t rl_now_ns(void);

/* Call pthread_cond_destroy when it is no longer used. */
void rl_condition_init(pthread_cond_t *condition);

/* Wait for a signal until a time. It may return earlier without one. */
void rl_condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock, int64_t until_ns);

#endif
