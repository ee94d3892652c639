/* client_calls.c -- the calls of a RedisClient: commands and decisions, for which a thread waits. */
#include "python/redis/client_calls.h"

/* A waiting thread checks for signals at this interval; this is also the longest wait for a turn. */
#define SLICE_NS INT64_C(50000000)
#define COMMAND_ARGUMENTS_MAX 1024
#ifdef Py_GIL_DISABLED
#define HAS_GIL false
#else
#define HAS_GIL true
#endif

/* ---- waiting -------------------------------------------------------------------------- */

/* Without the GIL: a thread that forks holds the client's lock, and needs the GIL to continue. */
static void client_leave(const client_object *self, rl_thread_call *call)
{
    Py_BEGIN_ALLOW_THREADS rl_client_leave(self->client, call);
    Py_END_ALLOW_THREADS
}

/* Wait for a call, which may be done already, with the GIL released except for checks for signals.
 * 0, or -1 with an exception set and the call left. */
static int client_wait_for(const client_object *self, rl_thread_call *call, bool done)
{
    while (!done) {
        if (PyErr_CheckSignals() < 0) {
            client_leave(self, call);
            return -1;
        }
        Py_BEGIN_ALLOW_THREADS done = rl_client_wait(self->client, call, SLICE_NS);
        Py_END_ALLOW_THREADS
    }
    return 0;
}

/* Return 1, or 0 with StoreError set in a thread between before_fork() and after_fork_...(), which
 * would wait for itself. */
static int client_is_not_forking(const client_object *self)
{
    if (client_is_forking(self)) {
        redis_raise(self->state, RL_FAULT_BUSY, "this thread is forking the process", NULL);
        return 0;
    }
    return 1;
}

static int client_run(client_object *self, rl_thread_call *call)
{
    bool done, has_turn;
    if (!client_is_not_forking(self)) {
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS rl_client_submit(self->client, call);
    done = rl_client_wait(self->client, call, SLICE_NS);
    has_turn = HAS_GIL && done && rl_turns_begin(&self->turns, SLICE_NS);
    Py_END_ALLOW_THREADS if (has_turn)
    {
        rl_turns_end(&self->turns);
    }
    return client_wait_for(self, call, done);
}

/* ---- any command --------------------------------------------------------------------- */

/* Append an item. Steals both; `item` may be NULL with an exception set. Return the list, or NULL
 * with an exception set. */
static PyObject *appended(PyObject *list, PyObject *item)
{
    if (item == NULL || PyList_Append(list, item) < 0) {
        Py_CLEAR(list);
    }
    Py_XDECREF(item);
    return list;
}

static PyObject *python_of(const redisReply *reply)
{
    switch (reply->type) {
    case REDIS_REPLY_INTEGER:
        return PyLong_FromLongLong(reply->integer);
    case REDIS_REPLY_NIL:
        Py_RETURN_NONE;
    case REDIS_REPLY_ARRAY: {
        /* Never with unset items: the garbage collector may run and expose the list. */
        PyObject *list = PyList_New(0);
        for (size_t i = 0; list != NULL && i < reply->elements; i++) {
            list = appended(list, python_of(reply->element[i]));
        }
        return list;
    }
    default:
        return PyBytes_FromStringAndSize(reply->str, (Py_ssize_t)reply->len);
    }
}

/* Run a command. `near`: the first of `args` is a key that is not sent, and selects the node. */
static PyObject *client_run_command(client_object *self, PyObject *const *args, Py_ssize_t nargs,
                                    bool near, const char **texts, size_t *lens)
{
    rl_thread_call call = {.call = {.arguments = {(int)(nargs - near), texts, lens},
                                    .key = near ? (int)nargs - 1 : nargs > 1}};
    for (Py_ssize_t i = 0; i < nargs; i++) {
        core_text text;
        if (core_parse_key(args[near ? (i + 1) % nargs : i], &text) < 0) {
            return NULL;
        }
        texts[i] = text.data;
        lens[i] = text.len;
        if (text.owner != NULL) {
            Py_DECREF(text.owner);
            PyErr_SetString(PyExc_ValueError, "an argument of a command has lone surrogates");
            return NULL;
        }
    }
    if (client_run(self, &call) < 0) {
        return NULL;
    }
    if (call.call.fault != RL_FAULT_NONE) {
        return redis_raise_fault(self->state, &call.call);
    }
    PyObject *result = python_of(call.call.reply);
    freeReplyObject(call.call.reply);
    return result;
}

PyObject *client_run_words(PyObject *object, PyObject *const *args, Py_ssize_t nargs, bool near)
{
    client_object *self = client_of(object);
    if (!client_ready(self)) {
        return NULL;
    }
    if (nargs < 1 + near || nargs - near > COMMAND_ARGUMENTS_MAX) {
        return PyErr_Format(PyExc_TypeError, "a command has 1 to %d words, got %zd",
                            COMMAND_ARGUMENTS_MAX, nargs - near);
    }
    const char **texts = PyMem_New(const char *, (size_t)nargs);
    size_t *lens = PyMem_New(size_t, (size_t)nargs);
    PyObject *result = NULL;
    if (texts == NULL || lens == NULL) {
        PyErr_NoMemory();
    } else {
        result = client_run_command(self, args, nargs, near, texts, lens);
    }
    PyMem_Free(texts);
    PyMem_Free(lens);
    return result;
}

/* ---- decisions ------------------------------------------------------------------------- */

PyObject *client_decide(PyObject *object, bucket_operation operation, PyObject *const *args,
                        Py_ssize_t nargs)
{
    client_object *self = client_of(object);
    if (!client_ready(self)) {
        return NULL;
    }
    if (nargs < 2 || nargs > 3 || Py_TYPE(args[0]) != self->state->redis_buckets_type ||
        ((buckets_object *)args[0])->client != self) {
        PyErr_SetString(PyExc_TypeError, "expected (buckets of this client, key, cost=1)");
        return NULL;
    }
    redis_call *call =
        redis_call_new((buckets_object *)args[0], operation, args[1], nargs == 3 ? args[2] : NULL);
    PyObject *result = NULL;
    if (call != NULL && client_run(self, &call->thread) == 0) {
        result = redis_call_result(call);
    }
    redis_call_free(call);
    return result;
}

/* Wait for all calls. If one fails, the earlier ones have taken their tokens. */
static PyObject *client_run_many(const client_object *self, redis_call **calls, Py_ssize_t n)
{
    if (!client_is_not_forking(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS for (Py_ssize_t i = 0; i < n; i++)
    {
        rl_client_submit(self->client, &calls[i]->thread);
    }
    Py_END_ALLOW_THREADS PyObject *result = PyList_New(0);
    for (Py_ssize_t i = 0; i < n; i++) {
        if (result == NULL) {
            client_leave(self, &calls[i]->thread);
        } else if (client_wait_for(self, &calls[i]->thread, false) < 0) {
            Py_CLEAR(result);
        } else {
            result = appended(result, redis_call_result(calls[i]));
        }
    }
    return result;
}

PyObject *client_allow_many(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    client_object *self = client_of(object);
    if (!client_ready(self)) {
        return NULL;
    }
    if (nargs < 2 || nargs > 3 || Py_TYPE(args[0]) != self->state->redis_buckets_type ||
        ((buckets_object *)args[0])->client != self) {
        PyErr_SetString(PyExc_TypeError, "expected (buckets of this client, keys, cost=1)");
        return NULL;
    }
    PyObject *keys = PySequence_Tuple(args[1]);
    if (keys == NULL) {
        return NULL;
    }
    Py_ssize_t n = PyTuple_GET_SIZE(keys), made = 0;
    PyObject *result = NULL;
    redis_call **calls = PyMem_New(redis_call *, (size_t)n + 1);
    if (calls == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (; made < n; made++) {
        calls[made] = redis_call_new((buckets_object *)args[0], BUCKET_ALLOW,
                                     PyTuple_GET_ITEM(keys, made), nargs == 3 ? args[2] : NULL);
        if (calls[made] == NULL) {
            goto done;
        }
    }
    result = client_run_many(self, calls, n);
done:
    for (Py_ssize_t i = 0; i < made; i++) {
        redis_call_free(calls[i]);
    }
    PyMem_Free(calls);
    Py_DECREF(keys);
    return result;
}
