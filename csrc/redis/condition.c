#include "redis/condition.h"

#include <time.h>

#define NS_PER_S INT64_C(1000000000)

int64_t rl_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

void rl_condition_init(pthread_cond_t *condition)
{
#if defined(__APPLE__)
    pthread_cond_init(condition, NULL);
#else
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
#endif
}

void rl_condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock, int64_t until_ns)
{
#if defined(__APPLE__)
    int64_t left_ns = until_ns - rl_now_ns();
    left_ns = left_ns > 0 ? left_ns : 0;
    struct timespec time = {(time_t)(left_ns / NS_PER_S), (long)(left_ns % NS_PER_S)};
    pthread_cond_timedwait_relative_np(condition, lock, &time);
#else
    struct timespec time = {(time_t)(until_ns / NS_PER_S), (long)(until_ns % NS_PER_S)};
    pthread_cond_timedwait(condition, lock, &time);
#endif
}
