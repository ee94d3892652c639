/* client_sketch.c -- ClientSketch: the clients with the most decisions, as a Python type. */
#include "python/clock.h"
#include "python/meter.h"

#include "http/masked_key.h"

_Static_assert(RL_MASKED_KEY_MAX <= RL_TOP_TEXT, "a sketch has room for a shortened key");

/* Immutable, except for the counts. */
typedef struct sketch_object {
    PyObject_HEAD
    rl_top top;
} sketch_object;

static sketch_object *sketch_of(PyObject *self)
{
    return (sketch_object *)self;
}

rl_top *sketch_value(core_state *state, PyObject *sketch)
{
    if (!PyObject_TypeCheck(sketch, state->sketch_type)) {
        PyErr_Format(PyExc_TypeError, "sketch must be a ClientSketch, not %.200s",
                     Py_TYPE(sketch)->tp_name);
        return NULL;
    }
    return &sketch_of(sketch)->top;
}

int core_refuse_file(rl_file_status status, PyObject *path)
{
    switch (status) {
    case RL_FILE_OK:
        return 0;
    case RL_FILE_EOWNER:
        PyErr_Format(PyExc_PermissionError,
                     "%R must be a plain file of this user that no other user can write", path);
        return -1;
    case RL_FILE_EOTHER:
        PyErr_Format(PyExc_ValueError,
                     "%R is something else, or of another version: remove it, or take another path",
                     path);
        return -1;
    default:
        PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
        return -1;
    }
}

void sketch_record(rl_top *top, PyObject *key, uint64_t alias, bool allowed, uint64_t n,
                   int64_t now_ns)
{
    core_text text;
    if (alias != 0 && rl_top_record_known(top, allowed, alias, n, now_ns)) {
        return;
    }
    if (core_parse_key(key, &text) < 0) { /* it was read before: there is no memory for its bytes */
        PyErr_Clear();
        return;
    }
    rl_top_record(top, allowed, text.data, text.len, alias, n, now_ns);
    Py_XDECREF(text.owner);
}

/* Return the writer of a word, or NULL with an exception set. */
static rl_top_writer sketch_writer(const char *keys)
{
    if (strcmp(keys, "plain") == 0) {
        return rl_top_write_plain;
    }
    if (strcmp(keys, "masked") == 0) {
        return rl_masked_key;
    }
    if (strcmp(keys, "hashed") == 0) {
        return rl_top_write_nothing;
    }
    PyErr_Format(PyExc_ValueError, "keys must be 'plain', 'masked' or 'hashed', not '%.200s'",
                 keys);
    return NULL;
}

static int sketch_read_secret(const Py_buffer *bytes, rl_secret *out)
{
    if (bytes->len != sizeof *out) {
        PyErr_Format(PyExc_ValueError, "secret must have %zu bytes, got %zd", sizeof *out,
                     bytes->len);
        return -1;
    }
    memcpy(out, bytes->buf, sizeof *out);
    return 0;
}

static int sketch_open(rl_top *top, unsigned clients, rl_secret secret, rl_top_writer writer,
                       PyObject *path)
{
    PyObject *name = NULL; /* strong; bytes */
    if (path == Py_None) {
        if (rl_top_open(top, NULL, clients, secret, writer) != RL_FILE_OK) {
            PyErr_NoMemory();
            return -1;
        }
        return 0;
    }
    if (!PyUnicode_FSConverter(path, &name)) {
        return -1;
    }
    rl_file_status status = rl_top_open(top, PyBytes_AS_STRING(name), clients, secret, writer);
    Py_DECREF(name);
    return core_refuse_file(status, path);
}

static PyObject *sketch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"secret", "clients", "keys", "path", NULL};
    Py_buffer bytes;
    long clients;
    const char *keys;
    PyObject *path = Py_None;
    rl_secret secret;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*ls|O:ClientSketch", names, &bytes, &clients,
                                     &keys, &path)) {
        return NULL;
    }
    int status = sketch_read_secret(&bytes, &secret);
    PyBuffer_Release(&bytes);
    if (status < 0) {
        return NULL;
    }
    if (clients < 1 || clients > RL_TOP_CLIENTS_MAX) {
        return PyErr_Format(PyExc_ValueError, "clients must be from 1 to %d, got %ld",
                            RL_TOP_CLIENTS_MAX, clients);
    }
    rl_top_writer writer = sketch_writer(keys);
    PyObject *self = writer != NULL ? type->tp_alloc(type, 0) : NULL;
    if (self != NULL &&
        sketch_open(&sketch_of(self)->top, (unsigned)clients, secret, writer, path) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

static void sketch_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    rl_top_close(&sketch_of(object)->top);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *sketch_client(const rl_top_client *client)
{
    return Py_BuildValue("(Ky#Odd)", (unsigned long long)client->tag, client->text,
                         (Py_ssize_t)client->length, client->is_cut ? Py_True : Py_False,
                         client->count, client->error);
}

static PyObject *sketch_read(PyObject *object, PyObject *allowed)
{
    int is_allowed = PyObject_IsTrue(allowed);
    rl_top_client *found =
        is_allowed < 0 ? NULL : PyMem_New(rl_top_client, (size_t)RL_TOP_SLOTS_MAX);
    if (found == NULL) {
        return is_allowed < 0 ? NULL : PyErr_NoMemory();
    }
    size_t n = rl_top_read(&sketch_of(object)->top, is_allowed, core_steady_ns(), found);
    PyObject *clients = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; clients != NULL && i < n; i++) {
        PyObject *one = sketch_client(&found[i]);
        if (one == NULL) {
            Py_CLEAR(clients);
            break;
        }
        PyList_SET_ITEM(clients, (Py_ssize_t)i, one);
    }
    PyMem_Free(found);
    return clients;
}

PyObject *core_client_secret(PyObject *Py_UNUSED(module), PyObject *path)
{
    PyObject *name = NULL; /* strong; bytes */
    rl_secret secret;
    if (!PyUnicode_FSConverter(path, &name)) {
        return NULL;
    }
    rl_file_status status = rl_top_read_secret(PyBytes_AS_STRING(name), &secret);
    Py_DECREF(name);
    if (core_refuse_file(status, path) < 0) {
        return NULL;
    }
    return PyBytes_FromStringAndSize((const char *)&secret, sizeof secret);
}

static PyMethodDef sketch_methods[] = {
    {"read", sketch_read, METH_O,
     PyDoc_STR(
         "read($self, allowed, /)\n--\n\n"
         "Return the clients with allowed or denied decisions: a list, in any order.\n\n"
         "Items are (tag, text, is_cut, count, error). tag: keyed hash of the key, an int of\n"
         "64 bits. text: what is kept of the key, as bytes; is_cut: the key is longer.\n"
         "count: decisions, halved each minute; at most `error` too high. Both floats.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sketch_slots[] = {
    {Py_tp_doc,
     PyDoc_STR(
         "ClientSketch(secret, clients, keys, path=None)\n--\n\n"
         "Keep the clients with the most decisions, in at most 64 KB.\n\n"
         "secret: 16 bytes, the key of the hash. clients: how many the sketch finds, 1 to 100.\n"
         "keys: 'plain', 'masked' or 'hashed', what is kept of their keys. path: a file for\n"
         "counts that several processes share, with the same secret and clients. Raises\n"
         "OSError, PermissionError or ValueError for a file that cannot be used.")},
    {Py_tp_new, sketch_new},
    {Py_tp_dealloc, sketch_dealloc},
    {Py_tp_methods, sketch_methods},
    {0, NULL},
};

PyType_Spec sketch_spec = {
    .name = "rate_limiter._core.ClientSketch",
    .basicsize = sizeof(sketch_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sketch_slots,
};
