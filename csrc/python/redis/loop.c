/* loop.c -- RedisLoop: decisions for the tasks of one event loop.
 *
 *     task ── hit() ──> Future      all calls of one turn of the loop are sent in one write,
 *       ^                 │         from a call_soon, with as few scripts as possible; answers
 *       └──── await ──────┘         are read when the loop reports a readable descriptor
 *
 * Only the thread of the loop may use it. A cancelled task cancels its future; the answer is
 * still read, and dropped, so that later answers match their calls. */
#include "python/redis/loop.h"

#include <structmember.h>

static loop_object *loop_of(PyObject *self)
{
    return (loop_object *)self;
}

/* ---- turns, descriptors, deadlines ------------------------------------------------------------- */

static PyObject *loop_turn(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    loop_object *self = loop_of(object);
    self->turning = false;
    if (self->topology == NULL) {
        Py_RETURN_NONE;
    }
    loop_send_calls(self);
    return loop_go_on(self, rl_topology_waits(self->topology));
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
    return loop_go_on(self, true);
}

static PyObject *loop_timer(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(loop_of(object)->timer);
    return loop_go_on(loop_of(object), true);
}

/* ---- calls ---------------------------------------------------------------------------------------- */

static int loop_is_open(const loop_object *self)
{
    if (self->topology == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this connection is closed, or was never initialised");
        return 0;
    }
    return 1;
}

static int loop_turn_soon(loop_object *self)
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

static PyObject *loop_submit(PyObject *object, bucket_operation operation, PyObject *const *args,
                             Py_ssize_t nargs)
{
    loop_object *self = loop_of(object);
    if (!loop_is_open(self)) {
        return NULL;
    }
    if (nargs < 2 || nargs > 3 || Py_TYPE(args[0]) != self->state->redis_buckets_type ||
        ((buckets_object *)args[0])->client != self->client) {
        PyErr_SetString(PyExc_TypeError, "expected (buckets of this client, key, cost=1)");
        return NULL;
    }
    redis_call *call =
        redis_call_new((buckets_object *)args[0], operation, args[1], nargs == 3 ? args[2] : NULL);
    if (call == NULL) {
        return NULL;
    }
    /* The methods of the loop and of the cost may have closed this. */
    PyObject *future = call->future = PyObject_CallNoArgs(self->create_future);
    if (future == NULL || !loop_is_open(self) || loop_add_call(self, call) < 0) {
        redis_call_free(call);
        return NULL;
    }
    /* From here on the loop may run the turn, which frees the call. */
    Py_INCREF(future);
    if (loop_turn_soon(self) < 0) {
        loop_withdraw_call(self, future);
        Py_CLEAR(future);
    } else if (!loop_is_open(self)) {
        Py_CLEAR(future);
    }
    return future;
}

static PyObject *loop_allow(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return loop_submit(self, BUCKET_ALLOW, args, nargs);
}

static PyObject *loop_hit(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return loop_submit(self, BUCKET_HIT, args, nargs);
}

static PyObject *loop_try(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return loop_submit(self, BUCKET_TRY, args, nargs);
}

static PyObject *loop_peek(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return loop_submit(self, BUCKET_PEEK, args, nargs);
}

static PyObject *loop_hit_each(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return loop_submit(self, BUCKET_HIT_EACH, args, nargs);
}

static PyObject *loop_peek_each(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return loop_submit(self, BUCKET_PEEK_EACH, args, nargs);
}

static PyObject *loop_charge(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return loop_submit(self, BUCKET_CHARGE, args, nargs);
}

static PyObject *loop_refund(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return loop_submit(self, BUCKET_REFUND, args, nargs);
}

static PyObject *loop_reset(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return loop_submit(self, BUCKET_RESET, args, nargs);
}

/* ---- the map ---------------------------------------------------------------------------------------- */

/* When closed, no server is known. */

static PyObject *loop_node_of(PyObject *object, PyObject *name)
{
    const loop_object *self = loop_of(object);
    rl_server server = {{0}, 0};
    if (!PyBytes_Check(name)) {
        return PyErr_Format(PyExc_TypeError, "a key in Redis is a bytes object");
    }
    if (self->topology != NULL) {
        server = rl_topology_server_of(self->topology, PyBytes_AS_STRING(name),
                                       (size_t)PyBytes_GET_SIZE(name));
    }
    return redis_server_text(&server);
}

static PyObject *loop_nodes(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const loop_object *self = loop_of(object);
    rl_server *servers = PyMem_New(rl_server, RL_WANTS_MAX);
    if (servers == NULL) {
        return PyErr_NoMemory();
    }
    size_t n = self->topology != NULL ? rl_topology_servers(self->topology, servers) : 0;
    PyObject *texts = redis_servers_text(servers, n);
    PyMem_Free(servers);
    return texts;
}

/* ---- life -------------------------------------------------------------------------------------------- */

static void loop_drop(loop_object *self)
{
    rl_topology *topology = self->topology;
    self->topology = NULL;
    rl_topology_free(topology);
    loop_drop_calls(self);
}

/* Closed first. Then stop watching, before the topology closes the descriptors. */
static PyObject *loop_close(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    loop_object *self = loop_of(object);
    rl_topology *topology = self->topology;
    self->topology = NULL;
    if (topology != NULL) {
        loop_cancel_timer(self);
        loop_unwatch(self);
        rl_topology_free(topology);
        loop_end_calls(self);
    }
    Py_RETURN_NONE;
}

/* Leave the event loop alone: its selector may be shared with the parent process. */
static PyObject *loop_after_fork_in_child(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    loop_of(object)->n_watched = 0;
    loop_drop(loop_of(object));
    Py_RETURN_NONE;
}

static PyObject *loop_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                          PyObject *Py_UNUSED(kwargs))
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
    /* Checked here, because any of the above may have called __init__. */
    if (self->client != NULL || of->client == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "cannot be initialised twice, and the client must be initialised");
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
    loop_drop(self);
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
    PyMem_Free(loop_of(object)->unsent);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *loop_get_pending(PyObject *object, void *Py_UNUSED(closure))
{
    size_t n = 0;
    for (const redis_call *call = loop_of(object)->first; call != NULL; call = call->next) {
        n++;
    }
    return PyLong_FromSize_t(n);
}

static PyGetSetDef loop_getset[] = {
    {"pending", loop_get_pending, NULL, PyDoc_STR("Number of calls without an answer (int)."),
     NULL},
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
    {"take", FAST_ONLY(loop_try),
     PyDoc_STR("take($self, buckets, key, cost=1, /)\n--\n\n"
               "Do what hit() does, but a denial takes nothing from limits that count denied\n"
               "requests.")},
    {"hit_each", FAST_ONLY(loop_hit_each),
     PyDoc_STR(
         "hit_each($self, buckets, key, cost=1, /)\n--\n\n"
         "Take `cost` tokens; return a Future of its Decision and one of each limit. As allow().")},
    {"peek_each", FAST_ONLY(loop_peek_each),
     PyDoc_STR("peek_each($self, buckets, key, cost=1, /)\n--\n\n"
               "Return a Future of what hit_each() would decide, consuming nothing. As allow().")},
    {"charge", FAST_ONLY(loop_charge),
     PyDoc_STR("charge($self, buckets, key, cost=1, /)\n--\n\n"
               "Take `cost` tokens even if there are fewer; return a Future of a Decision.\n"
               "As allow().")},
    {"refund", FAST_ONLY(loop_refund),
     PyDoc_STR("refund($self, buckets, key, cost=1, /)\n--\n\n"
               "Give `cost` tokens back; return a Future of None. As allow().")},
    {"reset", FAST_ONLY(loop_reset),
     PyDoc_STR("reset($self, buckets, key, /)\n--\n\n"
               "Make the buckets of `key` full; return a Future of None. As allow().")},
    {"node_of", loop_node_of, METH_O,
     PyDoc_STR("node_of($self, name, /)\n--\n\nAs RedisClient.node_of, for this event loop.")},
    {"nodes", loop_nodes, METH_NOARGS,
     PyDoc_STR("nodes($self, /)\n--\n\nAs RedisClient.nodes, for this event loop.")},
    {"close", loop_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nClose the connections. Pending futures get StoreError.")},
    {"after_fork_in_child", loop_after_fork_in_child, METH_NOARGS,
     PyDoc_STR("after_fork_in_child($self, /)\n--\n\n"
               "Close inherited connections; send nothing and leave the event loop alone.")},
    {"_turn", loop_turn, METH_NOARGS,
     PyDoc_STR("_turn($self, /)\n--\n\nSend the submitted calls.")},
    {"_ready", loop_ready, METH_O,
     PyDoc_STR("_ready($self, fd, /)\n--\n\nRead and write a ready descriptor.")},
    {"_timer", loop_timer, METH_NOARGS,
     PyDoc_STR("_timer($self, /)\n--\n\nEnd the calls whose deadline has passed.")},
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
