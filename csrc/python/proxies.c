/* proxies.c -- ProxyWalk: the client of a request behind trusted proxies, as a Python type. */
#include "python/asgi.h"

#include <string.h>

#include "engine/alloc.h"
#include "http/client_address.h"

/* Immutable. */
typedef struct walk_object {
    PyObject_HEAD
    core_state *state;    /* borrowed from the type */
    rl_network *networks; /* owned; those of `proxies` */
    rl_proxies proxies;
    unsigned ipv6_prefix;
    bool is_plain; /* no proxy is trusted, and a peer's key is that of client_key() */
} walk_object;

static walk_object *walk_of(PyObject *self)
{
    return (walk_object *)self;
}

/* ---- texts: the bytes of a header are Latin-1 in Python ------------------------------- */

/* Read a str or bytes as Latin-1. Another character becomes "?": no address has either.
 * *owner, a new reference, keeps the bytes. 0, or -1 with an exception set. */
static int read_text(const char *what, PyObject *object, PyObject **owner, rl_text *out)
{
    if (PyUnicode_Check(object) && PyUnicode_KIND(object) == PyUnicode_1BYTE_KIND) {
        *owner = Py_NewRef(object);
        *out = (rl_text){(const char *)PyUnicode_1BYTE_DATA(object),
                         (size_t)PyUnicode_GET_LENGTH(object)};
        return 0;
    }
    if (PyUnicode_Check(object)) {
        *owner = PyUnicode_AsEncodedString(object, "latin-1", "replace");
    } else if (PyBytes_Check(object)) {
        *owner = Py_NewRef(object);
    } else {
        PyErr_Format(PyExc_TypeError, "%s must be str or bytes, not %.200s", what,
                     Py_TYPE(object)->tp_name);
        *owner = NULL;
    }
    if (*owner == NULL) {
        return -1;
    }
    *out = (rl_text){PyBytes_AS_STRING(*owner), (size_t)PyBytes_GET_SIZE(*owner)};
    return 0;
}

/* ---- the lines of the proxies' header --------------------------------------------------- */

#define FEW_LINES 8

typedef struct lines {
    rl_text *texts;    /* `few`, or owned */
    PyObject **owners; /* strong; `few_owners`, or behind the texts */
    size_t n;
    size_t room;
    rl_text few[FEW_LINES];
    PyObject *few_owners[FEW_LINES];
} lines;

static void lines_init(lines *lines)
{
    lines->texts = lines->few;
    lines->owners = lines->few_owners;
    lines->n = 0;
    lines->room = FEW_LINES;
}

static void lines_clear(lines *lines)
{
    for (size_t i = 0; i < lines->n; i++) {
        Py_DECREF(lines->owners[i]);
    }
    if (lines->texts != lines->few) {
        PyMem_Free(lines->texts);
    }
}

static int lines_grow(lines *lines)
{
    size_t room = lines->room * 2;
    rl_text *texts = PyMem_Calloc(room, sizeof *lines->texts + sizeof *lines->owners);
    if (texts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject **owners = (PyObject **)(void *)(texts + room);
    memcpy(texts, lines->texts, lines->n * sizeof *texts);
    memcpy(owners, lines->owners, lines->n * sizeof(PyObject *));
    if (lines->texts != lines->few) {
        PyMem_Free(lines->texts);
    }
    lines->texts = texts;
    lines->owners = owners;
    lines->room = room;
    return 0;
}

static int lines_add(lines *lines, PyObject *value)
{
    if ((lines->n == lines->room && lines_grow(lines) < 0) ||
        read_text("a header", value, &lines->owners[lines->n], &lines->texts[lines->n]) < 0) {
        return -1;
    }
    lines->n++;
    return 0;
}

/* Add a (name, value) of a scope's headers if it has the wanted name. */
static int lines_add_header(lines *lines, const char *wanted, PyObject *header)
{
    PyObject *pair = PyTuple_CheckExact(header) ? Py_NewRef(header) : PySequence_Tuple(header);
    int status = 0;
    if (pair == NULL) {
        return -1;
    }
    if (PyTuple_GET_SIZE(pair) != 2) {
        PyErr_SetString(PyExc_ValueError, "a header must be a pair of a name and a value");
        status = -1;
    } else {
        PyObject *name = PyTuple_GET_ITEM(pair, 0);
        size_t len = strlen(wanted);
        if (PyBytes_Check(name) && (size_t)PyBytes_GET_SIZE(name) == len &&
            memcmp(PyBytes_AS_STRING(name), wanted, len) == 0) {
            status = lines_add(lines, PyTuple_GET_ITEM(pair, 1));
        }
    }
    Py_DECREF(pair);
    return status;
}

/* Add all of an iterable: values, or with `wanted` headers of a scope. */
static int lines_add_all(lines *lines, const char *wanted, PyObject *iterable)
{
    PyObject *iterator = PyObject_GetIter(iterable);
    PyObject *item;
    int status = 0;
    if (iterator == NULL) {
        return -1;
    }
    while (status == 0 && (item = PyIter_Next(iterator)) != NULL) {
        status = wanted != NULL ? lines_add_header(lines, wanted, item) : lines_add(lines, item);
        Py_DECREF(item);
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : 0;
}

/* ---- the walk ---------------------------------------------------------------------------- */

/* The peer of a request: None, or a str that may be empty. */
typedef struct peer {
    PyObject *object; /* borrowed */
    PyObject *owner;  /* strong, or NULL without an address */
    rl_text text;
} peer;

static int read_peer(PyObject *object, peer *out)
{
    *out = (peer){.object = object};
    if (object == Py_None || (PyUnicode_Check(object) && PyUnicode_GET_LENGTH(object) == 0)) {
        return 0;
    }
    if (!PyUnicode_Check(object)) {
        PyErr_Format(PyExc_TypeError, "peer must be str or None, not %.200s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    return read_text("peer", object, &out->owner, &out->text);
}

/* The key of a peer that is not read as an address. */
static PyObject *key_of_name(const walk_object *self, const peer *peer)
{
    return Py_NewRef(peer->owner != NULL ? peer->object : self->state->names[NAME_UNKNOWN]);
}

static PyObject *key_of_address(const rl_address *address, unsigned ipv6_prefix)
{
    char text[RL_ADDRESS_TEXT_MAX];
    size_t len = rl_address_format(address, ipv6_prefix, text);
    return PyUnicode_FromStringAndSize(text, (Py_ssize_t)len);
}

static PyObject *plain_key(const walk_object *self, const peer *peer)
{
    char client[RL_CLIENT_ADDRESS_MAX];
    if (peer->owner == NULL || !rl_client_address(peer->text.data, peer->text.len, client)) {
        return key_of_name(self, peer);
    }
    return PyUnicode_FromString(client);
}

static rl_client_source find(const walk_object *self, const peer *peer, const lines *lines,
                             rl_address *out)
{
    const rl_text *text = peer->owner != NULL ? &peer->text : NULL;
    return rl_client_find(&self->proxies, text, lines->texts, lines->n, out);
}

/* `wanted` as for lines_add_all; `iterable` may be NULL. */
static PyObject *key_of(const walk_object *self, PyObject *peer_object, const char *wanted,
                        PyObject *iterable)
{
    peer peer;
    lines lines;
    rl_address address;
    PyObject *key = NULL;
    if (read_peer(peer_object, &peer) < 0) {
        return NULL;
    }
    lines_init(&lines);
    if (self->is_plain) {
        key = plain_key(self, &peer);
    } else if (iterable == NULL || lines_add_all(&lines, wanted, iterable) == 0) {
        bool has_address = find(self, &peer, &lines, &address) != RL_CLIENT_NONE;
        key = has_address ? key_of_address(&address, self->ipv6_prefix) : key_of_name(self, &peer);
    }
    lines_clear(&lines);
    Py_XDECREF(peer.owner);
    return key;
}

static PyObject *walk_key(PyObject *object, PyObject *args)
{
    PyObject *peer;
    PyObject *values = NULL;
    if (!PyArg_ParseTuple(args, "O|O:key", &peer, &values)) {
        return NULL;
    }
    return key_of(walk_of(object), peer, NULL, values);
}

static PyObject *walk_address(PyObject *object, PyObject *args)
{
    const walk_object *self = walk_of(object);
    PyObject *peer_object;
    PyObject *values = NULL;
    int strict = 0;
    peer peer;
    lines lines;
    rl_address address;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "O|Op:address", &peer_object, &values, &strict) ||
        read_peer(peer_object, &peer) < 0) {
        return NULL;
    }
    lines_init(&lines);
    if (values == NULL || lines_add_all(&lines, NULL, values) == 0) {
        rl_client_source source = find(self, &peer, &lines, &address);
        bool is_none = source == RL_CLIENT_NONE || (strict && source == RL_CLIENT_MALFORMED);
        result = is_none ? Py_NewRef(Py_None) : key_of_address(&address, 128);
    }
    lines_clear(&lines);
    Py_XDECREF(peer.owner);
    return result;
}

/* scope["client"][0]; None where there is none. */
static PyObject *host_of_scope(const walk_object *self, PyObject *scope)
{
    PyObject *client = asgi_get(self->state, scope, NAME_CLIENT);
    if (client == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    int is_some = PyObject_IsTrue(client);
    PyObject *host = is_some < 0    ? NULL
                     : is_some == 0 ? Py_NewRef(Py_None)
                                    : PySequence_GetItem(client, 0);
    Py_DECREF(client);
    return host;
}

static PyObject *walk_key_of_scope(PyObject *object, PyObject *scope)
{
    const walk_object *self = walk_of(object);
    if (!PyDict_Check(scope)) {
        return PyErr_Format(PyExc_TypeError, "scope must be a dict, not %.200s",
                            Py_TYPE(scope)->tp_name);
    }
    PyObject *host = host_of_scope(self, scope);
    if (host == NULL) {
        return NULL;
    }
    PyObject *headers = self->is_plain ? NULL : asgi_get(self->state, scope, NAME_HEADERS);
    const char *wanted = self->proxies.header == RL_FORWARDED ? "forwarded" : "x-forwarded-for";
    PyObject *key = PyErr_Occurred() ? NULL : key_of(self, host, wanted, headers);
    Py_XDECREF(headers);
    Py_DECREF(host);
    return key;
}

/* ---- the type ------------------------------------------------------------------------------ */

static int read_network(PyObject *text, rl_network *out)
{
    PyObject *owner;
    rl_text bytes;
    if (read_text("a network", text, &owner, &bytes) < 0) {
        return -1;
    }
    bool is_network = rl_network_parse(bytes, out);
    Py_DECREF(owner);
    if (!is_network) {
        PyErr_Format(PyExc_ValueError, "expected a network such as '10.0.0.0/8', got %R", text);
        return -1;
    }
    return 0;
}

/* The networks of a tuple, which the caller owns; NULL with an exception set. */
static rl_network *read_networks(PyObject *texts)
{
    size_t n = (size_t)PyTuple_GET_SIZE(texts);
    rl_network *networks = rl_alloc_zeroed((n + 1) * sizeof *networks);
    if (networks == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        if (read_network(PyTuple_GET_ITEM(texts, (Py_ssize_t)i), &networks[i]) < 0) {
            rl_free(networks);
            return NULL;
        }
    }
    return networks;
}

static int read_header(PyObject *name, rl_proxy_header *out)
{
    if (PyUnicode_CompareWithASCIIString(name, "forwarded") == 0) {
        *out = RL_FORWARDED;
        return 0;
    }
    if (PyUnicode_CompareWithASCIIString(name, "x-forwarded-for") == 0) {
        *out = RL_X_FORWARDED_FOR;
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "header must be 'x-forwarded-for' or 'forwarded', got %R", name);
    return -1;
}

static PyObject *walk_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"networks", "trust_unix", "header", "ipv6_prefix", NULL};
    PyObject *networks = NULL;
    PyObject *header = NULL;
    int trust_unix = 0;
    int ipv6_prefix = 64;
    rl_proxies proxies = {.header = RL_X_FORWARDED_FOR};
    core_state *state = core_state_of(type);
    if (state == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "|O$pUi:ProxyWalk", names, &networks,
                                     &trust_unix, &header, &ipv6_prefix) ||
        (header != NULL && read_header(header, &proxies.header) < 0)) {
        return NULL;
    }
    if (ipv6_prefix < 16 || ipv6_prefix > 128) {
        return PyErr_Format(PyExc_ValueError, "ipv6_prefix must be from 16 to 128, got %d",
                            ipv6_prefix);
    }
    PyObject *texts = networks != NULL ? PySequence_Tuple(networks) : PyTuple_New(0);
    rl_network *owned = texts != NULL ? read_networks(texts) : NULL;
    PyObject *self = owned != NULL ? type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        rl_free(owned);
        Py_XDECREF(texts);
        return NULL;
    }
    proxies.networks = owned;
    proxies.n_networks = (size_t)PyTuple_GET_SIZE(texts);
    proxies.trust_unix = trust_unix != 0;
    walk_of(self)->state = state;
    walk_of(self)->networks = owned;
    walk_of(self)->proxies = proxies;
    walk_of(self)->ipv6_prefix = (unsigned)ipv6_prefix;
    walk_of(self)->is_plain = proxies.n_networks == 0 && !trust_unix && ipv6_prefix == 64;
    Py_DECREF(texts);
    return self;
}

static void walk_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    rl_free(walk_of(object)->networks);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef walk_methods[] = {
    {"key", walk_key, METH_VARARGS,
     PyDoc_STR("key($self, peer, values=(), /)\n--\n\n"
               "Return the key of the client (str).\n\n"
               "peer: the address at the other end of the connection (str), None where it has\n"
               "none. values: those of the proxies' header, in order (str or bytes).\n"
               "Without an address the key is the peer as it is, or 'unknown'.")},
    {"address", walk_address, METH_VARARGS,
     PyDoc_STR("address($self, peer, values=(), strict=False, /)\n--\n\n"
               "Return the address of the client as text, or None if it has none.\n\n"
               "peer, values: as for key(). strict: return None if the header is malformed, not\n"
               "the address of the peer.")},
    {"key_of_scope", walk_key_of_scope, METH_O,
     PyDoc_STR("key_of_scope($self, scope, /)\n--\n\n"
               "Return the key of the client of an ASGI scope (dict), as key() does.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot walk_slots[] = {
    {Py_tp_doc,
     PyDoc_STR("ProxyWalk(networks=(), *, trust_unix=False, header='x-forwarded-for',\n"
               "          ipv6_prefix=64)\n--\n\n"
               "Find the client of a request behind trusted proxies. Immutable.\n\n"
               "networks: those of the proxies, such as '10.0.0.0/8' (str). trust_unix: trust a\n"
               "peer without an address. header: the one that the proxies set. ipv6_prefix: bits\n"
               "of an IPv6 address in a key. Raises TypeError or ValueError for another value.")},
    {Py_tp_new, walk_tp_new},
    {Py_tp_dealloc, walk_dealloc},
    {Py_tp_methods, walk_methods},
    {0, NULL},
};

PyType_Spec walk_spec = {
    .name = "rate_limiter._core.ProxyWalk",
    .basicsize = sizeof(walk_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = walk_slots,
};
