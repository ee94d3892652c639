/* python/redis/loop.h -- what the files of RedisLoop share.
 *
 *     loop.c ──> loop_calls.c ──> watch.c ──> failure.c
 *
 *     loop.c         the type: its methods, making and closing
 *     loop_calls.c   calls: sent in batches, and their futures resolved
 *     watch.c        the descriptors and the timer that the event loop watches for us
 *     failure.c      the first exception of several steps
 *
 * A method of an event loop, of a future or of a timer is Python code. It may call the same
 * RedisLoop again, close it, or fork and drop it in the child, which continues from there.
 * So after such a call check `topology` before using anything that a close frees. */
#ifndef RL_PYTHON_REDIS_LOOP_H
#define RL_PYTHON_REDIS_LOOP_H

#include "python/redis/failure.h"
#include "python/redis/redis.h"

typedef struct loop_object {
    PyObject_HEAD
    core_state *state; /* borrowed from the type */
    PyObject *weakrefs;
    client_object *client; /* strong: address and TLS context; NULL before __init__ */
    PyObject *loop;        /* strong */
    PyObject *create_future, *call_soon, *call_later; /* strong: methods of the loop */
    PyObject *on_turn, *on_ready, *on_timer;          /* strong: methods of ours */
    PyObject *timer;          /* strong; the handle of call_later, NULL: none */
    int64_t timer_ns;         /* when it fires */
    rl_topology *topology;    /* owned; NULL before __init__ and when closed */
    redis_call *first;        /* owned; all calls without a result, the newest first */
    redis_batch *first_batch; /* owned; all batches under way */
    redis_call **unsent; /* owned; the calls to send in the next turn, in order; each borrowed */
    size_t n_unsent, unsent_room;
    bool turning;  /* on_turn is scheduled */
    bool watching; /* loop_watch is running */
    size_t n_watched;
    rl_want watched[RL_WANTS_MAX]; /* by the event loop */
    rl_want wanted[RL_WANTS_MAX];  /* of loop_watch */
} loop_object;

/* ---- loop_calls.c ---- */

/* Add a call, which has a future, to those that the next turn sends. Takes over the call. Return
 * 0, or -1 with an exception set and the call still the caller's. */
int loop_add_call(loop_object *self, redis_call *call);

/* Free the call of a future, if it is not sent yet. */
void loop_withdraw_call(loop_object *self, const PyObject *future);

/* Send all calls that are not sent yet, as few scripts as possible. Not when closed. */
void loop_send_calls(loop_object *self);

/* Read and write (`step`) or only write, resolve the futures of finished calls, and update what
 * the event loop watches. Return None, or NULL with an exception set. Fine when closed. */
PyObject *loop_go_on(loop_object *self, bool step);

/* Free all calls. Close first, as freeing a future runs Python code. */
void loop_drop_calls(loop_object *self);

/* The same, and their futures get StoreError. */
void loop_end_calls(loop_object *self);

/* ---- watch.c ---- */

/* Make the event loop watch what the topology wants. Does nothing when closed. */
void loop_watch(loop_object *self, loop_failure *failure);

/* Stop watching. Leaves no exception set. */
void loop_unwatch(loop_object *self);

/* Set one timer for all deadlines: it fires at the earliest one, or before. Does nothing when
 * closed. */
void loop_set_timer(loop_object *self, loop_failure *failure);

/* Cancel the timer, if one is set. Leaves no exception set. */
void loop_cancel_timer(loop_object *self);

#endif
