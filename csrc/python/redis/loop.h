/* python/redis/loop.h -- what the two files of RedisLoop share.
 *
 *     loop.c    calls, batches and futures
 *     watch.c   the descriptors and the timer that the event loop watches for us
 *
 * A method of an event loop, of a future or of a timer is Python code. It may call the same
 * RedisLoop again, close it, or fork and drop it in the child, whose code goes on from there.
 * So nothing that a close frees is used after such a call before `topology` is checked. */
#ifndef RL_PYTHON_REDIS_LOOP_H
#define RL_PYTHON_REDIS_LOOP_H

#include "python/redis/redis.h"

typedef struct loop_object {
    PyObject_HEAD
    core_state *state;     /* borrowed from the type */
    PyObject *weakrefs;
    client_object *client; /* strong: where, and the TLS context; NULL before __init__ */
    PyObject *loop;        /* strong */
    PyObject *create_future, *call_soon, *call_later; /* strong: methods of the loop */
    PyObject *on_turn, *on_ready, *on_timer;          /* strong: methods of ours */
    PyObject *timer;         /* strong; the handle of call_later, NULL: none */
    int64_t timer_ns;        /* when it will ring */
    rl_topology *topology;   /* owned; NULL before __init__ and when closed */
    redis_call *first;       /* owned; all calls that have no result yet, the newest first */
    redis_batch *first_batch; /* owned; those that are under way */
    redis_call **asked;      /* owned; the calls of this turn, in order; borrowed each */
    size_t n_asked, asked_room;
    bool turning;            /* on_turn is on its way */
    bool watching;           /* loop_watch is under way */
    size_t n_watched;
    rl_want watched[RL_WANTS_MAX]; /* what the loop watches for us */
    rl_want wanted[RL_WANTS_MAX];  /* of loop_watch */
} loop_object;

/* The first exception of several steps that must all be taken. Starts as zeros. */
typedef struct loop_failure {
    PyObject *type, *error, *trace; /* strong, or NULL */
} loop_failure;

/* A step has set an exception: keep it, or report it as unraisable when there is a first one. */
void loop_failed(loop_failure *failure, PyObject *where);

/* Let the event loop watch what the topology wants. Nothing when closed. */
void loop_watch(loop_object *self, loop_failure *failure);

/* Let it watch nothing any more. Leaves no exception set. */
void loop_unwatch(loop_object *self);

/* Have one timer for all deadlines: it rings at the earliest one, or before. Nothing when
 * closed. */
void loop_set_timer(loop_object *self, loop_failure *failure);

/* Leaves no exception set. */
void loop_cancel_timer(loop_object *self);

#endif
