/* loop.c -- RedisLoop: decisions for the tasks of one event loop.
 *
 *     task ── hit() ──> Future      all calls of one turn of the loop go out in one write,
 *       ^                 │         from a call_soon, and as few scripts as can be; what comes
 *       └──── await ──────┘         back is read when the loop says that there is something
 *
 * Only the thread of the loop may use it. A task that is cancelled cancels its future; the
 * answer is read and dropped, so the others stay in step. */
#include "python/redis/loop.h"

#include <structmember.h>

static loop_object *loop_of(PyObject *self)
{
    return (loop_object *)self;
}

/* ---- exceptions --------------------------------------------------------------------------- */

void loop_failed(loop_failure *failure, PyObject *where)
{
    if (failure->type == NULL) {
        PyErr_Fetch(&failure->type, &failure->error, &failure->trace);
    } else {
        PyErr_WriteUnraisable(where);
    }
}

/* None, or NULL with the first exception set. */
static PyObject *none_or(loop_failure failure)
{
    if (failure.type == NULL) {
        Py_RETURN_NONE;
    }
    PyErr_Restore(failure.type, failure.error, failure.trace);
    return NULL;
}

/* ---- results -------------------------------------------------------------------------------- */

static void loop_take_out(loop_object *self, redis_call *call)
{
    *(call->previous != NULL ? &call->previous->next : &self->first) = call->next;
    if (call->next != NULL) {
        call->next->previous = call->previous;
    }
}

/* A future that is done was cancelled: nobody waits. The call is the caller's. Steals `result`,
 * which may be NULL with an exception set. */
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
        PyObject *told = PyObject_CallMethodOneArg(
            call->future, names[result != NULL ? NAME_SET_RESULT : NAME_SET_EXCEPTION],
            result != NULL ? result : error);
        status = told != NULL ? 0 : -1;
        Py_XDECREF(told);
    }
    if (status < 0) {
        loop_failed(failure, call->future);
    }
    Py_XDECREF(result);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
}

/* Resolve the future of a call that is done, as number `i` of a batch (NULL: alone). Taken out
 * first: a close frees the calls that it finds, and Python code that closes may run from here on. */
static void end(loop_object *self, redis_call *call, const redis_batch *batch, size_t i,
                loop_failure *failure)
{
    loop_take_out(self, call);
    PyObject *result = batch != NULL ? redis_batch_result(batch, i) : redis_call_result(call);
    loop_resolve(self, call, result, failure);
    redis_call_free(call);
}

static void submit_call(loop_object *self, rl_call *call)
{
    int64_t now_ns = rl_now_ns();
    call->deadline_ns = now_ns + self->client->options.timeout_ns;
    rl_topology_submit(self->topology, call, now_ns);
}

static void take_out_batch(loop_object *self, redis_batch *batch)
{
    *(batch->previous != NULL ? &batch->previous->next : &self->first_batch) = batch->next;
    if (batch->next != NULL) {
        batch->next->previous = batch->previous;
    }
}

/* As end(), of all its calls: a close in between has freed those that are left. */
static void end_batch(loop_object *self, redis_batch *batch, loop_failure *failure)
{
    take_out_batch(self, batch);
    for (size_t i = 0; i < batch->n && self->topology != NULL; i++) {
        redis_call *call = batch->calls[i];
        if (redis_batch_decided(batch, i)) {
            end(self, call, batch, i, failure);
        } else {
            call->alone = true;
            submit_call(self, &call->thread.call);
        }
    }
    redis_batch_free(batch);
}

/* Both kinds begin with their call, so that is what tells them apart. */
static redis_batch *batch_of(const loop_object *self, const rl_call *call)
{
    for (redis_batch *batch = self->first_batch; batch != NULL; batch = batch->next) {
        if (&batch->call == call) {
            return batch;
        }
    }
    return NULL;
}

static void resolve_all(loop_object *self, loop_failure *failure)
{
    rl_call *finished;
    while (self->topology != NULL && (finished = rl_topology_finished(self->topology)) != NULL) {
        redis_batch *batch = batch_of(self, finished);
        if (batch != NULL) {
            end_batch(self, batch, failure);
        } else {
            end(self, (redis_call *)(void *)finished, NULL, 0, failure);
        }
    }
}

/* ---- turns, descriptors, deadlines ------------------------------------------------------------- */

static PyObject *go_on(loop_object *self, bool step)
{
    loop_failure failure = {NULL, NULL, NULL};
    if (self->topology != NULL && step) {
        rl_topology_step(self->topology, rl_now_ns());
    } else if (self->topology != NULL) {
        rl_topology_flush(self->topology);
    }
    resolve_all(self, &failure);
    loop_watch(self, &failure);
    loop_set_timer(self, &failure);
    return none_or(failure);
}

/* How many of the calls, from the first on, go into one script. */
static size_t batch_len(redis_call **calls, size_t n)
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

static void submit_asked(loop_object *self)
{
    size_t len;
    for (size_t i = 0; i < self->n_asked; i += len) {
        redis_call **calls = self->asked + i;
        len = batch_len(calls, self->n_asked - i);
        redis_batch *batch = len > 1 ? redis_batch_new(calls, len) : NULL;
        if (batch != NULL) {
            batch->next = self->first_batch;
            if (self->first_batch != NULL) {
                self->first_batch->previous = batch;
            }
            self->first_batch = batch;
            submit_call(self, &batch->call);
        } else {
            PyErr_Clear(); /* no memory for a batch: they go alone */
            len = 1;
            submit_call(self, &calls[0]->thread.call);
        }
    }
    self->n_asked = 0;
}

static PyObject *loop_turn(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    loop_object *self = loop_of(object);
    self->turning = false;
    if (self->topology == NULL) {
        Py_RETURN_NONE;
    }
    submit_asked(self);
    return go_on(self, rl_topology_waits(self->topology));
}

static PyObject *loop_ready(PyObject *object, PyObject *fd)
{
    loop_object *self = loop_of(object);
    int number = (int)PyLong_AsLong(fd);
    if (number == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (self->topology != NULL) {
        rl_topology_mark(self->topology, number);
    }
    return go_on(self, true);
}

static PyObject *loop_timer(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(loop_of(object)->timer);
    return go_on(loop_of(object), true);
}

/* ---- calls ---------------------------------------------------------------------------------------- */

static int is_open(const loop_object *self)
{
    if (self->topology == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this connection is closed, or was never initialised");
        return 0;
    }
    return 1;
}

static int turn_soon(loop_object *self)
{
    if (self->turning) {
        return 0;
    }
    self->turning = true;
    PyObject *handle = PyObject_CallOneArg(self->call_soon, self->on_turn);
    if (handle == NULL) {
        self->turning = false;
        return -1;
    }
    Py_DECREF(handle);
    return 0;
}

static int loop_make_room(loop_object *self)
{
    if (self->n_asked < self->asked_room) {
        return 0;
    }
    size_t room = self->asked_room != 0 ? 2 * self->asked_room : BATCH_MAX;
    redis_call **asked = PyMem_Realloc(self->asked, room * sizeof *asked);
    if (asked == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->asked = asked;
    self->asked_room = room;
    return 0;
}

static PyObject *submit(PyObject *object, bucket_operation operation, PyObject *const *args,
                        Py_ssize_t nargs)
{
    loop_object *self = loop_of(object);
    if (!is_open(self)) {
        return NULL;
    }
    if (nargs < 2 || nargs > 3 || Py_TYPE(args[0]) != self->state->redis_buckets_type ||
        ((buckets_object *)args[0])->client != self->client) {
        PyErr_SetString(PyExc_TypeError, "expected (buckets of this client, key, cost=1)");
        return NULL;
    }
    redis_call *call = redis_call_new((buckets_object *)args[0], operation, args[1],
                                      nargs == 3 ? args[2] : NULL);
    if (call == NULL) {
        return NULL;
    }
    /* The loop's methods may have closed this, and the cost's; or have filled the room. */
    call->future = PyObject_CallNoArgs(self->create_future);
    if (call->future == NULL || turn_soon(self) < 0 || !is_open(self) || loop_make_room(self) < 0) {
        redis_call_free(call);
        return NULL;
    }
    PyObject *future = Py_NewRef(call->future);
    self->asked[self->n_asked++] = call;
    call->next = self->first;
    if (self->first != NULL) {
        self->first->previous = call;
    }
    self->first = call;
    return future;
}

static PyObject *loop_allow(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return submit(self, BUCKET_ALLOW, args, nargs);
}

static PyObject *loop_hit(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return submit(self, BUCKET_HIT, args, nargs);
}

static PyObject *loop_peek(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return submit(self, BUCKET_PEEK, args, nargs);
}

static PyObject *loop_hit_each(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return submit(self, BUCKET_HIT_EACH, args, nargs);
}

static PyObject *loop_peek_each(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return submit(self, BUCKET_PEEK_EACH, args, nargs);
}

static PyObject *loop_charge(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return submit(self, BUCKET_CHARGE, args, nargs);
}

static PyObject *loop_refund(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return submit(self, BUCKET_REFUND, args, nargs);
}

static PyObject *loop_reset(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return submit(self, BUCKET_RESET, args, nargs);
}

/* ---- life -------------------------------------------------------------------------------------------- */

/* Free what is left of calls. Closed by now, as Python code runs when a future is freed. */
static void drop_calls(loop_object *self)
{
    self->n_asked = 0;
    while (self->first_batch != NULL) {
        redis_batch *batch = self->first_batch;
        take_out_batch(self, batch);
        redis_batch_free(batch);
    }
    while (self->first != NULL) {
        redis_call *call = self->first;
        loop_take_out(self, call);
        redis_call_free(call);
    }
}

static void drop(loop_object *self)
{
    rl_topology *topology = self->topology;
    self->topology = NULL;
    rl_topology_free(topology);
    drop_calls(self);
}

/* Closed first, and then what the loop watches is taken back, while it is open descriptors. */
static PyObject *loop_close(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    loop_object *self = loop_of(object);
    rl_topology *topology = self->topology;
    self->topology = NULL;
    if (topology != NULL) {
        loop_cancel_timer(self);
        loop_unwatch(self);
        rl_topology_free(topology);
        drop_calls(self);
    }
    Py_RETURN_NONE;
}

/* The loop of the parent is not ours to tell: it may share what it watches with us. */
static PyObject *loop_after_fork_in_child(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    loop_of(object)->n_watched = 0;
    drop(loop_of(object));
    Py_RETURN_NONE;
}

static PyObject *loop_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    core_state *state = core_state_of(type);
    PyObject *self = state == NULL ? NULL : type->tp_alloc(type, 0);
    if (self != NULL) {
        loop_of(self)->state = state;
    }
    return self;
}

static int loop_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"client", "loop", NULL};
    loop_object *self = loop_of(object);
    PyObject *client, *loop;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O:RedisLoop", names,
                                     self->state->redis_client_type, &client, &loop)) {
        return -1;
    }
    const struct {
        PyObject *of;
        const char *name;
    } wanted[] = {{loop, "create_future"}, {loop, "call_soon"}, {loop, "call_later"},
                  {object, "_turn"},       {object, "_ready"},  {object, "_timer"}};
    enum { N_METHODS = sizeof wanted / sizeof wanted[0] };
    PyObject *methods[N_METHODS] = {NULL}; /* strong */
    const client_object *of = (client_object *)client;
    for (size_t i = 0; i < N_METHODS; i++) {
        methods[i] = PyObject_GetAttrString(wanted[i].of, wanted[i].name);
        if (methods[i] == NULL) {
            goto fail;
        }
    }
    /* Checked here, because any of the above may have called this method. */
    if (self->client != NULL || of->client == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "cannot be initialised twice, nor for a client that is not");
        goto fail;
    }
    self->topology = rl_topology_new(&of->options, of->tls);
    if (self->topology == NULL) {
        PyErr_NoMemory();
        goto fail;
    }
    PyObject **slots[N_METHODS] = {&self->create_future, &self->call_soon, &self->call_later,
                                   &self->on_turn,       &self->on_ready,  &self->on_timer};
    for (size_t i = 0; i < N_METHODS; i++) {
        *slots[i] = methods[i];
    }
    self->client = (client_object *)Py_NewRef(client);
    self->loop = Py_NewRef(loop);
    return 0;
fail:
    for (size_t i = 0; i < N_METHODS; i++) {
        Py_XDECREF(methods[i]);
    }
    return -1;
}

static int loop_traverse(PyObject *object, visitproc visit, void *arg)
{
    loop_object *self = loop_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->client);
    Py_VISIT(self->loop);
    Py_VISIT(self->create_future);
    Py_VISIT(self->call_soon);
    Py_VISIT(self->call_later);
    Py_VISIT(self->on_turn);
    Py_VISIT(self->on_ready);
    Py_VISIT(self->on_timer);
    Py_VISIT(self->timer);
    for (const redis_call *call = self->first; call != NULL; call = call->next) {
        Py_VISIT(call->future);
        Py_VISIT(call->buckets);
    }
    return 0;
}

static int loop_clear(PyObject *object)
{
    loop_object *self = loop_of(object);
    drop(self);
    Py_CLEAR(self->timer);
    Py_CLEAR(self->on_turn);
    Py_CLEAR(self->on_ready);
    Py_CLEAR(self->on_timer);
    Py_CLEAR(self->create_future);
    Py_CLEAR(self->call_soon);
    Py_CLEAR(self->call_later);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->client);
    return 0;
}

static void loop_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (loop_of(object)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(object);
    }
    loop_clear(object);
    PyMem_Free(loop_of(object)->asked);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *get_pending(PyObject *object, void *Py_UNUSED(closure))
{
    size_t n = 0;
    for (const redis_call *call = loop_of(object)->first; call != NULL; call = call->next) {
        n++;
    }
    return PyLong_FromSize_t(n);
}

static PyGetSetDef loop_getset[] = {
    {"pending", get_pending, NULL, PyDoc_STR("Calls without an answer yet (int)."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef loop_members[] = {
    {"loop", T_OBJECT_EX, offsetof(loop_object, loop), READONLY, PyDoc_STR("The event loop.")},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(loop_object, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

#define FAST_ONLY(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL

static PyMethodDef loop_methods[] = {
    {"allow", FAST_ONLY(loop_allow),
     PyDoc_STR("allow($self, buckets, key, cost=1, /)\n--\n\n"
               "Take `cost` tokens; return a Future of whether that was allowed (bool).\n\n"
               "The Future gets StoreError when there is no decision. Raises TypeError or\n"
               "ValueError for a bad key or cost at once.")},
    {"hit", FAST_ONLY(loop_hit),
     PyDoc_STR("hit($self, buckets, key, cost=1, /)\n--\n\n"
               "Take `cost` tokens; return a Future of a Decision. As allow().")},
    {"peek", FAST_ONLY(loop_peek),
     PyDoc_STR("peek($self, buckets, key, cost=1, /)\n--\n\n"
               "Return a Future of what hit() would decide, consuming nothing. As allow().")},
    {"hit_each", FAST_ONLY(loop_hit_each),
     PyDoc_STR("hit_each($self, buckets, key, cost=1, /)\n--\n\n"
               "Take `cost` tokens; return a Future of its Decision and one of each limit. As allow().")},
    {"peek_each", FAST_ONLY(loop_peek_each),
     PyDoc_STR("peek_each($self, buckets, key, cost=1, /)\n--\n\n"
               "Return a Future of what hit_each() would decide, consuming nothing. As allow().")},
    {"charge", FAST_ONLY(loop_charge),
     PyDoc_STR("charge($self, buckets, key, cost=1, /)\n--\n\n"
               "Take `cost` tokens, there or not; return a Future of a Decision. As allow().")},
    {"refund", FAST_ONLY(loop_refund),
     PyDoc_STR("refund($self, buckets, key, cost=1, /)\n--\n\n"
               "Give `cost` tokens back; return a Future of None. As allow().")},
    {"reset", FAST_ONLY(loop_reset),
     PyDoc_STR("reset($self, buckets, key, /)\n--\n\n"
               "Make the buckets of `key` full; return a Future of None. As allow().")},
    {"close", loop_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nClose the connections. Futures without a result stay so.")},
    {"after_fork_in_child", loop_after_fork_in_child, METH_NOARGS,
     PyDoc_STR("after_fork_in_child($self, /)\n--\n\n"
               "Close what was inherited, without a word to server or loop.")},
    {"_turn", loop_turn, METH_NOARGS, PyDoc_STR("_turn($self, /)\n--\n\nSend what was submitted.")},
    {"_ready", loop_ready, METH_O,
     PyDoc_STR("_ready($self, fd, /)\n--\n\nRead and write what can be, of a descriptor.")},
    {"_timer", loop_timer, METH_NOARGS, PyDoc_STR("_timer($self, /)\n--\n\nKeep deadlines.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot loop_slots[] = {
    {Py_tp_doc, PyDoc_STR("RedisLoop(client, loop)\n--\n\n"
                          "Talk to the Redis of a client from one event loop.\n\n"
                          "loop: an asyncio or uvloop event loop with add_reader and add_writer.")},
    {Py_tp_new, loop_new},
    {Py_tp_init, loop_init},
    {Py_tp_dealloc, loop_dealloc},
    {Py_tp_traverse, loop_traverse},
    {Py_tp_clear, loop_clear},
    {Py_tp_methods, loop_methods},
    {Py_tp_members, loop_members},
    {Py_tp_getset, loop_getset},
    {0, NULL},
};

PyType_Spec redis_loop_spec = {
    .name = "rate_limiter._core.RedisLoop",
    .basicsize = sizeof(loop_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = loop_slots,
};
