/* proxies.c -- ProxyWalk: the client of a request behind trusted proxies, as a Python type. */
#include "python/path.h"

#include <string.h>

#include "engine/alloc.h"

static walk_object *walk_of(PyObject *self)
{
    return (walk_object *)self;
}

/* Add all of an iterable of values. 0, or -1 with an exception set. */
static int add_all(request_values *values, PyObject *iterable)
{
    PyObject *iterator = PyObject_GetIter(iterable);
    PyObject *item;
    int status = 0;
    if (iterator == NULL) {
        return -1;
    }
    while (status == 0 && (item = PyIter_Next(iterator)) != NULL) {
        status = request_values_add(values, "a header", item);
        Py_DECREF(item);
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : 0;
}

/* ---- the walk ---------------------------------------------------------------------------- */

/* The peer of a request: None, or a str that may be empty. */
typedef struct peer {
    PyObject *object;    /* borrowed */
    request_values text; /* one, or none without an address */
} peer;

static int read_peer(const char *what, PyObject *object, peer *out)
{
    out->object = object;
    request_values_init(&out->text);
    if (object == Py_None || (PyUnicode_Check(object) && PyUnicode_GET_LENGTH(object) == 0)) {
        return 0;
    }
    if (!PyUnicode_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be str or None, not %.200s", what,
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    return request_values_add(&out->text, what, object);
}

/* The key of a peer that is not read as an address. */
static PyObject *key_of_name(const walk_object *self, const peer *peer)
{
    return Py_NewRef(peer->text.n > 0 ? peer->object : self->state->names[NAME_UNKNOWN]);
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
    const rl_text *text = peer->text.texts;
    if (peer->text.n == 0 || memchr(text->data, ':', text->len) == NULL ||
        !rl_client_address(text->data, text->len, client)) {
        return key_of_name(self, peer);
    }
    return PyUnicode_FromString(client);
}

static rl_client_source find(const walk_object *self, const peer *peer, const request_values *lines,
                             rl_address *out)
{
    const rl_text *text = peer->text.n > 0 ? peer->text.texts : NULL;
    return rl_client_find(&self->proxies, text, lines->texts, lines->n, out);
}

static PyObject *key_of(const walk_object *self, const peer *peer, const request_values *lines)
{
    rl_address address;
    if (self->is_plain) {
        return plain_key(self, peer);
    }
    bool has_address = find(self, peer, lines, &address) != RL_CLIENT_NONE;
    return has_address ? key_of_address(&address, self->ipv6_prefix) : key_of_name(self, peer);
}

/* ---- the client of a request --------------------------------------------------------------- */

/* Read a peer, and the proxies' header where it may count. 0, or -1 with an exception set; clear
 * both in both cases. */
static int read_request(const walk_object *self, const request *request, PyObject *host, peer *peer,
                        request_values *lines)
{
    request_values_init(lines);
    if (read_peer("peer", host, peer) < 0) {
        return -1;
    }
    bool has_proxies = self->proxies.n_networks > 0 || self->proxies.trust_unix;
    return has_proxies ? request_header(request, &self->header, lines) : 0;
}

/* Return true for a host that is its own key: an IPv4 address, or a name. */
static bool is_own_key(const walk_object *self, PyObject *host)
{
    if (!self->is_plain || !PyUnicode_Check(host) || !PyUnicode_IS_COMPACT_ASCII(host)) {
        return false;
    }
    size_t len = (size_t)PyUnicode_GET_LENGTH(host);
    return len > 0 && memchr(PyUnicode_1BYTE_DATA(host), ':', len) == NULL;
}

PyObject *walk_request_key(const walk_object *self, const request *request)
{
    PyObject *host = request_peer(request);
    peer peer;
    request_values lines;
    PyObject *key = NULL;
    if (host == NULL || is_own_key(self, host)) {
        return host;
    }
    if (read_request(self, request, host, &peer, &lines) == 0) {
        key = key_of(self, &peer, &lines);
    }
    request_values_clear(&lines);
    request_values_clear(&peer.text);
    Py_DECREF(host);
    return key;
}

int walk_request_address(const walk_object *self, const request *request, rl_client_source *source,
                         rl_address *out)
{
    PyObject *host = request_peer(request);
    peer peer;
    request_values lines;
    if (host == NULL) {
        return -1;
    }
    int status = read_request(self, request, host, &peer, &lines);
    if (status == 0) {
        *source = find(self, &peer, &lines, out);
        if (*source == RL_CLIENT_MALFORMED) {
            *source = RL_CLIENT_NONE;
        }
    }
    request_values_clear(&lines);
    request_values_clear(&peer.text);
    Py_DECREF(host);
    return status;
}

/* ---- methods --------------------------------------------------------------------------------- */

static PyObject *walk_key(PyObject *object, PyObject *args)
{
    PyObject *peer_object;
    PyObject *values = NULL;
    peer peer;
    request_values lines;
    PyObject *key = NULL;
    if (!PyArg_ParseTuple(args, "O|O:key", &peer_object, &values) ||
        read_peer("peer", peer_object, &peer) < 0) {
        return NULL;
    }
    request_values_init(&lines);
    if (values == NULL || add_all(&lines, values) == 0) {
        key = key_of(walk_of(object), &peer, &lines);
    }
    request_values_clear(&lines);
    request_values_clear(&peer.text);
    return key;
}

static PyObject *walk_address(PyObject *object, PyObject *args)
{
    const walk_object *self = walk_of(object);
    PyObject *peer_object;
    PyObject *values = NULL;
    int strict = 0;
    peer peer;
    request_values lines;
    rl_address address;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "O|Op:address", &peer_object, &values, &strict) ||
        read_peer("peer", peer_object, &peer) < 0) {
        return NULL;
    }
    request_values_init(&lines);
    if (values == NULL || add_all(&lines, values) == 0) {
        rl_client_source source = find(self, &peer, &lines, &address);
        bool is_none = source == RL_CLIENT_NONE || (strict && source == RL_CLIENT_MALFORMED);
        result = is_none ? Py_NewRef(Py_None) : key_of_address(&address, 128);
    }
    request_values_clear(&lines);
    request_values_clear(&peer.text);
    return result;
}

static PyObject *walk_key_of_scope(PyObject *object, PyObject *scope)
{
    const walk_object *self = walk_of(object);
    if (!PyDict_Check(scope)) {
        return PyErr_Format(PyExc_TypeError, "scope must be a dict, not %.200s",
                            Py_TYPE(scope)->tp_name);
    }
    const request request = {self->state, scope, REQUEST_ASGI, false};
    return walk_request_key(self, &request);
}

PyObject *walk_client_key(PyObject *module, PyObject *address)
{
    const walk_object plain = {.state = PyModule_GetState(module), .is_plain = true};
    peer peer;
    if (read_peer("address", address, &peer) < 0) {
        return NULL;
    }
    PyObject *key = key_of(&plain, &peer, NULL);
    request_values_clear(&peer.text);
    return key;
}

/* ---- the type ------------------------------------------------------------------------------ */

static int read_network(PyObject *text, rl_network *out)
{
    request_values bytes;
    request_values_init(&bytes);
    if (request_values_add(&bytes, "a network", text) < 0) {
        return -1;
    }
    bool is_network = rl_network_parse(bytes.texts[0], out);
    request_values_clear(&bytes);
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

static int read_header_name(const rl_proxies *proxies, header_name *out)
{
    const char *text = proxies->header == RL_FORWARDED ? "forwarded" : "x-forwarded-for";
    PyObject *bytes = PyBytes_FromString(text);
    int status = bytes != NULL ? header_name_init(out, bytes) : -1;
    Py_XDECREF(bytes);
    return status;
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
    if (self == NULL || read_header_name(&proxies, &walk_of(self)->header) < 0) {
        rl_free(owned);
        Py_XDECREF(texts);
        Py_XDECREF(self);
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
    header_name_clear(&walk_of(object)->header);
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
