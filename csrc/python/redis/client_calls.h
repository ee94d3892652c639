/* python/redis/client_calls.h -- the calls of a RedisClient.
 *
 *     client.c ──> client_calls.c ──> call.c
 *
 * A thread submits a call, and waits for it without the GIL except for checks for signals. A thread
 * between before_fork() and after_fork_...() has the client's lock, so it makes none. */
#ifndef RL_PYTHON_REDIS_CLIENT_CALLS_H
#define RL_PYTHON_REDIS_CLIENT_CALLS_H

#include "python/redis/redis.h"

static inline client_object *client_of(PyObject *self)
{
    return (client_object *)self;
}

/* Return 1 if it was initialised, else 0 with an exception set. */
static inline int client_ready(const client_object *self)
{
    if (self->client == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this client was not initialised: call __init__ first");
        return 0;
    }
    return 1;
}

/* Return true in a thread between before_fork() and after_fork_...(), which has the client's lock. */
static inline bool client_is_forking(const client_object *self)
{
    return self->forking_thread == PyThread_get_thread_ident();
}

/* Run a command of `nargs` words and return its answer; NULL with an exception set. `near`: the first
 * word is a key that is not sent, and selects the node. */
PyObject *client_run_words(PyObject *object, PyObject *const *args, Py_ssize_t nargs, bool near);

/* Decide; the arguments are buckets of the client, a key and a cost. A new reference, or NULL with an
 * exception set. */
PyObject *client_decide(PyObject *object, bucket_operation operation, PyObject *const *args,
                        Py_ssize_t nargs);

/* The method allow_many(). */
PyObject *client_allow_many(PyObject *object, PyObject *const *args, Py_ssize_t nargs);

#endif
