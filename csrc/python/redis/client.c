/* client.c -- RedisClient: an address, and the connections that all threads share. */
#include "python/redis/client_calls.h"

#include "redis/tls.h"
#include "redis/url.h"

/* ---- commands and decisions -------------------------------------------------------------- */

static PyObject *client_command(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_run_words(self, args, nargs, false);
}

static PyObject *client_command_near(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_run_words(self, args, nargs, true);
}

static PyObject *client_allow(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_decide(self, BUCKET_ALLOW, args, nargs);
}

static PyObject *client_hit(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_decide(self, BUCKET_HIT, args, nargs);
}

static PyObject *client_try(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_decide(self, BUCKET_TRY, args, nargs);
}

static PyObject *client_peek(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_decide(self, BUCKET_PEEK, args, nargs);
}

static PyObject *client_hit_each(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_decide(self, BUCKET_HIT_EACH, args, nargs);
}

static PyObject *client_peek_each(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_decide(self, BUCKET_PEEK_EACH, args, nargs);
}

static PyObject *client_charge(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_decide(self, BUCKET_CHARGE, args, nargs);
}

static PyObject *client_refund(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_decide(self, BUCKET_REFUND, args, nargs);
}

static PyObject *client_reset(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_decide(self, BUCKET_RESET, args, nargs);
}

static PyObject *client_hit_all(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return client_decide(self, BUCKET_HIT_ALL, args, nargs);
}

static PyObject *client_block(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3) {
        return PyErr_Format(PyExc_TypeError, "expected (buckets, key, seconds)");
    }
    return client_decide(self, BUCKET_BLOCK, args, nargs);
}

/* ---- fork -------------------------------------------------------------------------------- */

/* The at-fork hooks of other code run between these, and so do signal handlers. They may use the
 * client, or fork: then the client stays locked, and in that child a new one is, until the hooks
 * of the first fork have run. */

static PyObject *client_before_fork(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    client_object *self = client_of(object);
    if (!client_ready(self)) {
        return NULL;
    }
    if (!client_is_forking(self)) {
        Py_BEGIN_ALLOW_THREADS rl_client_before_fork(self->client);
        Py_END_ALLOW_THREADS self->forking_thread = PyThread_get_thread_ident();
    }
    self->forks++;
    Py_RETURN_NONE;
}

/* Return 1 if the last fork of this thread ends now, 0 if another one has begun before it, or -1
 * with an exception set. */
static int client_end_fork(client_object *self)
{
    if (!client_is_forking(self)) {
        PyErr_SetString(PyExc_RuntimeError, "before_fork() was not called in this thread");
        return -1;
    }
    if (--self->forks > 0) {
        return 0;
    }
    self->forking_thread = 0;
    return 1;
}

static PyObject *client_after_fork_in_parent(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    client_object *self = client_of(object);
    int is_last = client_end_fork(self);
    if (is_last < 0) {
        return NULL;
    }
    if (is_last) {
        rl_client_after_fork_in_parent(self->client);
    }
    Py_RETURN_NONE;
}

static PyObject *client_after_fork_in_child(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    client_object *self = client_of(object);
    int is_last = client_end_fork(self);
    if (is_last < 0) {
        return NULL;
    }
    rl_client_after_fork_in_child(self->client);
    rl_turns_init(&self->turns);
    if (!is_last) {
        rl_client_before_fork(self->client);
    }
    Py_RETURN_NONE;
}

/* ---- life ---------------------------------------------------------------------------------- */

static PyObject *client_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                            PyObject *Py_UNUSED(kwargs))
{
    core_state *state = core_state_of(type);
    PyObject *self = state == NULL ? NULL : type->tp_alloc(type, 0);
    if (self != NULL) {
        client_of(self)->state = state;
    }
    return self;
}

static void client_raise_not_made(int number)
{
    if (number == ENOMEM) {
        PyErr_NoMemory();
    } else {
        errno = number;
        PyErr_SetFromErrno(PyExc_OSError);
    }
}

static int client_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"address", NULL};
    client_object *self = client_of(object);
    PyObject *text;
    Py_ssize_t len;
    char error[RL_URL_ERROR_SIZE];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U:RedisClient", names, &text)) {
        return -1;
    }
    if (self->client != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a client cannot be initialised twice");
        return -1;
    }
    const char *address = PyUnicode_AsUTF8AndSize(text, &len);
    if (address == NULL) {
        return -1;
    }
    if (rl_url_parse(address, (size_t)len, &self->options, error) != RL_OK) {
        PyErr_Format(PyExc_ValueError, "the address of the store is wrong: %s", error);
        return -1;
    }
    if (self->options.tls.on) {
        self->tls = rl_tls_new(&self->options.tls, error);
        if (self->tls == NULL) {
            PyErr_Format(PyExc_ValueError, "the address of the store is wrong: %s", error);
            return -1;
        }
    }
    self->client = rl_client_new(&self->options, self->tls);
    if (self->client == NULL) {
        int number = errno;
        rl_tls_free(self->tls);
        self->tls = NULL;
        client_raise_not_made(number);
        return -1;
    }
    rl_turns_init(&self->turns);
    return 0;
}

static void client_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (client_of(self)->client != NULL) {
        rl_client_free(client_of(self)->client);
        rl_turns_destroy(&client_of(self)->turns);
    }
    rl_tls_free(client_of(self)->tls);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *client_get_timeout(PyObject *self, void *Py_UNUSED(closure))
{
    return PyFloat_FromDouble((double)client_of(self)->options.timeout_ns / 1e9);
}

/* Without user and password, as it is logged. */
static PyObject *client_get_servers(PyObject *self, void *Py_UNUSED(closure))
{
    return redis_servers_text(client_of(self)->options.servers, client_of(self)->options.n_servers);
}

/* ---- the map ---- */

/* In a thread that is forking, no server is known. */

static PyObject *client_node_of(PyObject *object, PyObject *name)
{
    const client_object *self = client_of(object);
    rl_server server = {{0}, 0};
    if (!client_ready(self)) {
        return NULL;
    }
    if (!PyBytes_Check(name)) {
        return PyErr_Format(PyExc_TypeError, "a key in Redis is a bytes object");
    }
    if (!client_is_forking(self)) {
        Py_BEGIN_ALLOW_THREADS server = rl_client_server_of(self->client, PyBytes_AS_STRING(name),
                                                            (size_t)PyBytes_GET_SIZE(name));
        Py_END_ALLOW_THREADS
    }
    return redis_server_text(&server);
}

static PyObject *client_nodes(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const client_object *self = client_of(object);
    size_t n = 0;
    if (!client_ready(self)) {
        return NULL;
    }
    rl_server *servers = PyMem_New(rl_server, RL_WANTS_MAX);
    if (servers == NULL) {
        return PyErr_NoMemory();
    }
    if (!client_is_forking(self)) {
        Py_BEGIN_ALLOW_THREADS n = rl_client_servers(self->client, servers);
        Py_END_ALLOW_THREADS
    }
    PyObject *texts = redis_servers_text(servers, n);
    PyMem_Free(servers);
    return texts;
}

static PyObject *client_get_kind(PyObject *self, void *Py_UNUSED(closure))
{
    static const char *const kinds[] = {"standalone", "sentinel", "cluster"};
    return PyUnicode_FromString(kinds[client_of(self)->options.kind]);
}

static PyGetSetDef client_getset[] = {
    {"timeout", client_get_timeout, NULL,
     PyDoc_STR("Longest time for a decision, in seconds (float)."), NULL},
    {"servers", client_get_servers, NULL,
     PyDoc_STR("Servers of the address: Redis, the sentinels or the nodes (tuple of str)."), NULL},
    {"kind", client_get_kind, NULL, PyDoc_STR("'standalone', 'sentinel' or 'cluster'."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define FAST_ONLY(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL

static PyMethodDef client_methods[] = {
    {"allow", FAST_ONLY(client_allow),
     PyDoc_STR("allow($self, buckets, key, cost=1, /)\n--\n\n"
               "Take `cost` tokens; return whether that was allowed (bool).\n\n"
               "Waits for the server, without the GIL. Raises StoreError when there is no\n"
               "decision, TypeError or ValueError for a bad key or cost.")},
    {"hit", FAST_ONLY(client_hit),
     PyDoc_STR("hit($self, buckets, key, cost=1, /)\n--\n\n"
               "Take `cost` tokens; return a Decision. As allow().")},
    {"peek", FAST_ONLY(client_peek),
     PyDoc_STR("peek($self, buckets, key, cost=1, /)\n--\n\n"
               "Return the Decision that hit() would make, consuming nothing. As allow().")},
    {"take", FAST_ONLY(client_try),
     PyDoc_STR("take($self, buckets, key, cost=1, /)\n--\n\n"
               "Do what hit() does, but a denial takes nothing from limits that count denied\n"
               "requests.")},
    {"hit_each", FAST_ONLY(client_hit_each),
     PyDoc_STR("hit_each($self, buckets, key, cost=1, /)\n--\n\n"
               "Take `cost` tokens; return its Decision and one of each limit. As allow().")},
    {"peek_each", FAST_ONLY(client_peek_each),
     PyDoc_STR("peek_each($self, buckets, key, cost=1, /)\n--\n\n"
               "Return what hit_each() would decide, consuming nothing. As allow().")},
    {"charge", FAST_ONLY(client_charge),
     PyDoc_STR("charge($self, buckets, key, cost=1, /)\n--\n\n"
               "Take `cost` tokens even if there are fewer; return a Decision. As allow().")},
    {"refund", FAST_ONLY(client_refund),
     PyDoc_STR("refund($self, buckets, key, cost=1, /)\n--\n\n"
               "Give `cost` tokens back, up to the capacity. As allow().")},
    {"reset", FAST_ONLY(client_reset),
     PyDoc_STR("reset($self, buckets, key, /)\n--\n\nMake the buckets of `key` full. As allow().")},
    {"hit_all", FAST_ONLY(client_hit_all),
     PyDoc_STR("hit_all($self, buckets, keys, cost, /)\n--\n\n"
               "Take the costs of all parts of joined buckets, or of none; return a tuple\n"
               "with a Decision of each part. `cost` has a number for each limit. As allow().")},
    {"block", FAST_ONLY(client_block),
     PyDoc_STR("block($self, buckets, key, seconds, /)\n--\n\n"
               "Deny all requests for `key` in the next `seconds`. As allow().")},
    {"allow_many", FAST_ONLY(client_allow_many),
     PyDoc_STR("allow_many($self, buckets, keys, cost=1, /)\n--\n\n"
               "Decide for each of several keys at once; return a list of bools. As allow().")},
    {"node_of", client_node_of, METH_O,
     PyDoc_STR("node_of($self, name, /)\n--\n\n"
               "Return the server that has a key in Redis (bytes), as in StoreError.node (str).")},
    {"nodes", client_nodes, METH_NOARGS,
     PyDoc_STR("nodes($self, /)\n--\n\n"
               "Return the servers that keys of a cluster have now (tuple of str). Empty while\n"
               "they are not known, and unless this is a cluster.")},
    {"command", FAST_ONLY(client_command),
     PyDoc_STR("command($self, /, *words)\n--\n\n"
               "Run a command whose first argument is its key; return its answer.\n\n"
               "Words are str or bytes. Raises StoreError, also if the answer is an error.")},
    {"command_near", FAST_ONLY(client_command_near),
     PyDoc_STR("command_near($self, key, /, *words)\n--\n\n"
               "Run a command on the node that serves a key in Redis. As command() else.")},
    {"before_fork", client_before_fork, METH_NOARGS,
     PyDoc_STR("before_fork($self, /)\n--\n\nStop all connections until the process has forked.")},
    {"after_fork_in_parent", client_after_fork_in_parent, METH_NOARGS,
     PyDoc_STR("after_fork_in_parent($self, /)\n--\n\nUse the connections again.")},
    {"after_fork_in_child", client_after_fork_in_child, METH_NOARGS,
     PyDoc_STR("after_fork_in_child($self, /)\n--\n\nClose inherited connections; send nothing.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot client_slots[] = {
    {Py_tp_doc,
     PyDoc_STR(
         "RedisClient(address)\n--\n\n"
         "Talk to a Redis, for all threads of the process over the same connections.\n\n"
         "address: str, see docs. It connects when first used. Raises ValueError that names the\n"
         "wrong part of an address, and OSError when no file descriptor is left.")},
    {Py_tp_new, client_new},
    {Py_tp_init, client_init},
    {Py_tp_dealloc, client_dealloc},
    {Py_tp_methods, client_methods},
    {Py_tp_getset, client_getset},
    {0, NULL},
};

PyType_Spec redis_client_spec = {
    .name = "rate_limiter._core.RedisClient",
    .basicsize = sizeof(client_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = client_slots,
};
