/* loop_calls.c -- the calls of a RedisLoop: sent in batches, and their futures resolved. */
#include "python/redis/loop.h"

/* ---- results ------------------------------------------------------------------------------ */

static void loop_take_out_call(loop_object *self, redis_call *call)
{
    *(call->previous != NULL ? &call->previous->next : &self->first) = call->next;
    if (call->next != NULL) {
        call->next->previous = call->previous;
    }
}

/* A future that is done was cancelled, so no task waits for it. The call stays the caller's.
 * Steals `result`, which may be NULL with an exception set. */
static void loop_resolve(const loop_object *self, const redis_call *call, PyObject *result,
                         loop_failure *failure)
{
    PyObject *type = NULL, *error = NULL, *trace = NULL;
    if (result == NULL) {
        PyErr_Fetch(&type, &error, &trace);
        PyErr_NormalizeException(&type, &error, &trace);
    }

    PyObject *const *names = self->state->names;
    PyObject *done = PyObject_CallMethodNoArgs(call->future, names[NAME_DONE]);
    int status = done != NULL ? PyObject_IsTrue(done) : -1;
    Py_XDECREF(done);
    if (status == 0) {
        PyObject *set = PyObject_CallMethodOneArg(
            call->future, names[result != NULL ? NAME_SET_RESULT : NAME_SET_EXCEPTION],
            result != NULL ? result : error);
        status = set != NULL ? 0 : -1;
        Py_XDECREF(set);
    }
    if (status < 0) {
        loop_failure_add(failure, call->future);
    }
    Py_XDECREF(result);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
}

/* Resolve the future of a finished call, number `i` of a batch (NULL: alone), and free the call. It
 * is taken out first: Python code runs from here on, and a close frees the calls that it finds. */
static void loop_end_call(loop_object *self, redis_call *call, const redis_batch *batch, size_t i,
                          loop_failure *failure)
{
    loop_take_out_call(self, call);
    PyObject *result = batch != NULL ? redis_batch_result(batch, i) : redis_call_result(call);
    loop_resolve(self, call, result, failure);
    redis_call_free(call);
}

static void loop_submit_call(loop_object *self, rl_call *call)
{
    int64_t now_ns = rl_now_ns();
    call->deadline_ns = now_ns + rl_topology_timeout_ns(self->topology);
    rl_topology_submit(self->topology, call, now_ns);
}

/* Send a call that its batch could not decide, within the deadline of the batch. */
static void loop_submit_alone(loop_object *self, redis_call *call, const redis_batch *batch)
{
    call->alone = true;
    call->thread.call.deadline_ns = batch->call.deadline_ns;
    rl_topology_submit(self->topology, &call->thread.call, rl_now_ns());
}

static void loop_take_out_batch(loop_object *self, redis_batch *batch)
{
    *(batch->previous != NULL ? &batch->previous->next : &self->first_batch) = batch->next;
    if (batch->next != NULL) {
        batch->next->previous = batch->previous;
    }
}

/* End all calls of a batch. A close in between has freed those that are left. */
static void loop_end_batch(loop_object *self, redis_batch *batch, loop_failure *failure)
{
    loop_take_out_batch(self, batch);
    for (size_t i = 0; i < batch->n && self->topology != NULL; i++) {
        redis_call *call = batch->calls[i];
        if (redis_batch_decided(batch, i)) {
            loop_end_call(self, call, batch, i, failure);
        } else {
            loop_submit_alone(self, call, batch);
        }
    }
    redis_batch_free(batch);
}

/* The batch of a call, or NULL: it is a redis_call. Both structs begin with their rl_call. */
static redis_batch *loop_batch_of(const loop_object *self, const rl_call *call)
{
    for (redis_batch *batch = self->first_batch; batch != NULL; batch = batch->next) {
        if (&batch->call == call) {
            return batch;
        }
    }
    return NULL;
}

static void loop_resolve_all(loop_object *self, loop_failure *failure)
{
    rl_call *finished;
    while (self->topology != NULL && (finished = rl_topology_finished(self->topology)) != NULL) {
        redis_batch *batch = loop_batch_of(self, finished);
        if (batch != NULL) {
            loop_end_batch(self, batch, failure);
        } else {
            loop_end_call(self, (redis_call *)(void *)finished, NULL, 0, failure);
        }
    }
}

/* ---- sending ---------------------------------------------------------------------- */

static int loop_make_room(loop_object *self)
{
    if (self->n_unsent < self->unsent_room) {
        return 0;
    }
    size_t room = self->unsent_room != 0 ? 2 * self->unsent_room : BATCH_MAX;
    redis_call **unsent = PyMem_Realloc(self->unsent, room * sizeof *unsent);
    if (unsent == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->unsent = unsent;
    self->unsent_room = room;
    return 0;
}

int loop_add_call(loop_object *self, redis_call *call)
{
    if (loop_make_room(self) < 0) {
        return -1;
    }
    self->unsent[self->n_unsent++] = call;
    call->next = self->first;
    if (self->first != NULL) {
        self->first->previous = call;
    }
    self->first = call;
    return 0;
}

void loop_withdraw_call(loop_object *self, const PyObject *future)
{
    for (size_t i = 0; i < self->n_unsent; i++) {
        redis_call *call = self->unsent[i];
        if (call->future == future) {
            size_t n_after = --self->n_unsent - i;
            memmove(&self->unsent[i], &self->unsent[i + 1], n_after * sizeof call);
            loop_take_out_call(self, call);
            redis_call_free(call);
            return;
        }
    }
}

/* The number of calls, from the first on, that go into one script. */
static size_t loop_batch_len(redis_call **calls, size_t n)
{
    size_t len = 1;
    if (redis_batch_takes(calls[0])) {
        while (len < n && len < BATCH_MAX && calls[len]->buckets == calls[0]->buckets &&
               redis_batch_takes(calls[len])) {
            len++;
        }
    }
    return len;
}

void loop_send_calls(loop_object *self)
{
    size_t len;
    for (size_t i = 0; i < self->n_unsent; i += len) {
        redis_call **calls = self->unsent + i;
        len = loop_batch_len(calls, self->n_unsent - i);
        redis_batch *batch = len > 1 ? redis_batch_new(calls, len) : NULL;
        if (batch != NULL) {
            batch->next = self->first_batch;
            if (self->first_batch != NULL) {
                self->first_batch->previous = batch;
            }
            self->first_batch = batch;
            loop_submit_call(self, &batch->call);
        } else {
            PyErr_Clear(); /* no memory for a batch: send each alone */
            len = 1;
            loop_submit_call(self, &calls[0]->thread.call);
        }
    }
    self->n_unsent = 0;
}

/* ---- one step -------------------------------------------------------------------------- */

PyObject *loop_go_on(loop_object *self, bool step)
{
    loop_failure failure = {NULL, NULL, NULL};
    if (self->topology != NULL && step) {
        rl_topology_step(self->topology, rl_now_ns());
    } else if (self->topology != NULL) {
        rl_topology_flush(self->topology);
    }
    loop_resolve_all(self, &failure);
    loop_watch(self, &failure);
    loop_set_timer(self, &failure);
    return loop_failure_result(failure);
}

static void loop_drop_batches(loop_object *self)
{
    self->n_unsent = 0;
    while (self->first_batch != NULL) {
        redis_batch *batch = self->first_batch;
        loop_take_out_batch(self, batch);
        redis_batch_free(batch);
    }
}

void loop_end_calls(loop_object *self)
{
    loop_drop_batches(self);
    while (self->first != NULL) {
        redis_call *call = self->first;
        loop_failure failure = {NULL, NULL, NULL};
        loop_take_out_call(self, call);
        redis_raise(self->state, RL_FAULT_CLOSED, "the store was closed during the call", NULL);
        loop_resolve(self, call, NULL, &failure);
        redis_call_free(call);
        /* Such as that of a closed event loop, in which no task waits. */
        Py_XDECREF(loop_failure_result(failure));
        PyErr_Clear();
    }
}

void loop_drop_calls(loop_object *self)
{
    loop_drop_batches(self);
    while (self->first != NULL) {
        redis_call *call = self->first;
        loop_take_out_call(self, call);
        redis_call_free(call);
    }
}
