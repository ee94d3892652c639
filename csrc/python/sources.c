/* sources.c -- where a key, a tier or a bypass comes from.
 *
 * Plain values are read here. One that an application may also read in another spelling (a quoted
 * cookie, a signed token, credentials) goes to the source's function in Python, which normalises
 * it: see policy/request_fields.py. */
#include "python/path.h"

#include <string.h>

/* Longest value of a key in characters; a longer one is replaced by its digest. */
#define VALUE_MAX 128

/* ---- values --------------------------------------------------------------------------------- */

static rl_text without_blanks(rl_text text)
{
    while (text.len > 0 && (text.data[0] == ' ' || text.data[0] == '\t')) {
        text.data++;
        text.len--;
    }
    while (text.len > 0 && (text.data[text.len - 1] == ' ' || text.data[text.len - 1] == '\t')) {
        text.len--;
    }
    return text;
}

static bool begins_with(rl_text text, const char *prefix, size_t len)
{
    return text.len >= len && memcmp(text.data, prefix, len) == 0;
}

/* Return true for visible ASCII and spaces. Other bytes may count as blanks to an application. */
static bool is_visible(rl_text text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < ' ' || text.data[i] > '~') {
            return false;
        }
    }
    return true;
}

/* Return true for a value with one spelling: visible, and no token with a signature. */
static bool is_plain(rl_text text)
{
    return text.len <= VALUE_MAX && !begins_with(text, "eyJ", 3) && !begins_with(text, ".eJ", 3) &&
           is_visible(text);
}

/* Return true for "Bearer abc" with a plain token. */
static bool is_plain_bearer(rl_text text)
{
    if (!begins_with(text, "Bearer ", 7)) {
        return false;
    }
    rl_text token = {text.data + 7, text.len - 7};
    return token.len > 0 && token.data[0] != ' ' && is_plain(token);
}

/* The key of a value: the label and the value. */
static PyObject *labelled(const source *source, rl_text value)
{
    if (source->label == NULL) {
        return PyUnicode_DecodeLatin1(value.data, (Py_ssize_t)value.len, NULL);
    }
    Py_ssize_t label = PyUnicode_GET_LENGTH(source->label);
    if (!PyUnicode_IS_COMPACT_ASCII(source->label)) {
        PyObject *text = PyUnicode_DecodeLatin1(value.data, (Py_ssize_t)value.len, NULL);
        PyObject *key = text != NULL ? PyUnicode_Concat(source->label, text) : NULL;
        Py_XDECREF(text);
        return key;
    }
    PyObject *key = PyUnicode_New(label + (Py_ssize_t)value.len, 127);
    if (key != NULL) {
        memcpy(PyUnicode_1BYTE_DATA(key), PyUnicode_1BYTE_DATA(source->label), (size_t)label);
        memcpy(PyUnicode_1BYTE_DATA(key) + label, value.data, value.len);
    }
    return key;
}

static source_status found(PyObject *value, PyObject **out)
{
    *out = value;
    return value != NULL ? SOURCE_FOUND : SOURCE_ERROR;
}

/* ---- headers and cookies ----------------------------------------------------------------------- */

static bool is_authorization(const source *source)
{
    return PyBytes_GET_SIZE(source->header.bytes) == 13 &&
           memcmp(PyBytes_AS_STRING(source->header.bytes), "authorization", 13) == 0;
}

static source_status read_header(const source *source, const request *request, PyObject **out)
{
    request_values values;
    source_status status = SOURCE_ERROR;
    request_values_init(&values);
    if (request_header(request, &source->header, &values) == 0) {
        rl_text value = values.n == 1 ? without_blanks(values.texts[0]) : (rl_text){NULL, 0};
        bool is_usual = is_authorization(source) ? is_plain_bearer(value) : is_plain(value);
        if (values.n == 0 || (values.n == 1 && value.len == 0)) {
            status = SOURCE_ABSENT;
        } else {
            status =
                values.n == 1 && is_usual ? found(labelled(source, value), out) : SOURCE_UNUSUAL;
        }
    }
    request_values_clear(&values);
    return status;
}

static bool has_blank(rl_text text)
{
    return memchr(text.data, ' ', text.len) != NULL;
}

/* Return true for cookies that every framework reads alike: no quotes, no commas. */
static bool is_usual_cookies(rl_text line)
{
    for (size_t i = 0; i < line.len; i++) {
        if (line.data[i] == '"' || line.data[i] == ',' || line.data[i] == '\\') {
            return false;
        }
    }
    return is_visible(line);
}

/* Take the next "name=value" of a Cookie header. False: none is left. */
static bool next_cookie(rl_text *rest, rl_text *name, rl_text *value)
{
    if (rest->data == NULL) {
        return false;
    }
    const char *end = rest->len > 0 ? memchr(rest->data, ';', rest->len) : NULL;
    size_t len = end != NULL ? (size_t)(end - rest->data) : rest->len;
    const char *equals = len > 0 ? memchr(rest->data, '=', len) : NULL;
    size_t name_len = equals != NULL ? (size_t)(equals - rest->data) : 0;
    *name = without_blanks((rl_text){rest->data, name_len});
    *value = equals != NULL ? without_blanks((rl_text){equals + 1, len - name_len - 1})
                            : (rl_text){rest->data, 0};
    rest->data = end != NULL ? end + 1 : NULL;
    rest->len = end != NULL ? rest->len - len - 1 : 0;
    return true;
}

static source_status read_cookie(const source *source, const request *request, PyObject **out)
{
    request_values lines;
    source_status status = SOURCE_ERROR;
    request_values_init(&lines);
    if (request_header(request, &source->header, &lines) == 0) {
        rl_text wanted = {PyBytes_AS_STRING(source->cookie),
                          (size_t)PyBytes_GET_SIZE(source->cookie)};
        rl_text rest = lines.n > 0 ? lines.texts[0] : (rl_text){NULL, 0};
        rl_text name, value, sought = {NULL, 0};
        bool is_usual = lines.n < 2 && is_usual_cookies(rest);
        while (is_usual && next_cookie(&rest, &name, &value)) {
            if (name.len == wanted.len && memcmp(name.data, wanted.data, name.len) == 0) {
                is_usual =
                    sought.data == NULL && is_plain(value) && value.len > 0 && !has_blank(value);
                sought = value;
            }
        }
        status = !is_usual             ? SOURCE_UNUSUAL
                 : sought.data == NULL ? SOURCE_ABSENT
                                       : found(labelled(source, sought), out);
    }
    request_values_clear(&lines);
    return status;
}

/* ---- bypasses ------------------------------------------------------------------------------------ */

static source_status read_network(const source *source, const walk_object *walk,
                                  const request *request, PyObject **out)
{
    rl_client_source from;
    rl_address address;
    if (walk_request_address(walk, request, &from, &address) < 0) {
        return SOURCE_ERROR;
    }
    if (from == RL_CLIENT_NONE || !rl_network_contains(&source->network, &address)) {
        return SOURCE_ABSENT;
    }
    return found(Py_NewRef(Py_True), out);
}

/* Compare in a time that depends only on the length of the secret. */
static bool is_secret(rl_text value, PyObject *secret)
{
    volatile unsigned char differs = 0;
    const char *bytes = PyBytes_AS_STRING(secret);
    if (value.len != (size_t)PyBytes_GET_SIZE(secret)) {
        return false;
    }
    for (size_t i = 0; i < value.len; i++) {
        differs = (unsigned char)(differs | (value.data[i] ^ bytes[i]));
    }
    return differs == 0;
}

static source_status read_secret(const source *source, const request *request, PyObject **out)
{
    request_values values;
    source_status status = SOURCE_ERROR;
    request_values_init(&values);
    if (request_header(request, &source->header, &values) == 0) {
        bool is_known = values.n == 1 && is_secret(without_blanks(values.texts[0]), source->secret);
        status = is_known ? found(Py_NewRef(Py_True), out) : SOURCE_ABSENT;
    }
    request_values_clear(&values);
    return status;
}

/* ---- any source ------------------------------------------------------------------------------------ */

static source_status read_address(const source *source, const walk_object *walk,
                                  const request *request, PyObject **out)
{
    PyObject *key = walk_request_key(walk, request);
    if (key != NULL && source->label != NULL) {
        Py_SETREF(key, PyUnicode_Concat(source->label, key));
    }
    return found(key, out);
}

source_status source_read(const source *source, const walk_object *walk, const request *request,
                          PyObject **out)
{
    switch (source->kind) {
    case SOURCE_IP:
        return read_address(source, walk, request, out);
    case SOURCE_ALL:
        return found(source->label != NULL
                         ? PyUnicode_Concat(source->label, request->state->names[NAME_ALL])
                         : Py_NewRef(request->state->names[NAME_ALL]),
                     out);
    case SOURCE_HEADER:
        return read_header(source, request, out);
    case SOURCE_COOKIE:
        return read_cookie(source, request, out);
    case SOURCE_NETWORK:
        return read_network(source, walk, request, out);
    case SOURCE_SECRET:
        return read_secret(source, request, out);
    case SOURCE_CALL:
    default:
        return SOURCE_UNUSUAL;
    }
}

/* The only value of a list; NULL for several or none. Borrowed. */
static PyObject *only_value(PyObject *value)
{
    if (!PyList_Check(value)) {
        return value;
    }
    return PyList_GET_SIZE(value) == 1 ? PyList_GET_ITEM(value, 0) : NULL;
}

PyObject *source_key(const source *source, PyObject *shortened, PyObject *value)
{
    if (value == Py_None) {
        return NULL;
    }
    if (source->label == NULL) {
        return Py_NewRef(value);
    }
    PyObject *only = only_value(value);
    int is_some = only != NULL ? PyObject_IsTrue(only) : 0;
    if (is_some <= 0) {
        return NULL;
    }
    PyObject *text = PyObject_Str(only);
    if (text != NULL && PyUnicode_GET_LENGTH(text) > VALUE_MAX) {
        Py_SETREF(text, PyObject_CallOneArg(shortened, text));
    }
    PyObject *key = text != NULL ? PyUnicode_Concat(source->label, text) : NULL;
    Py_XDECREF(text);
    return key;
}

/* ---- descriptions ------------------------------------------------------------------------------------ */

static const char *const KINDS[] = {
    [SOURCE_IP] = "ip",         [SOURCE_ALL] = "all",   [SOURCE_HEADER] = "header",
    [SOURCE_COOKIE] = "cookie", [SOURCE_CALL] = "call", [SOURCE_NETWORK] = "network",
    [SOURCE_SECRET] = "secret",
};

static int read_kind(const char *name, source_kind *out)
{
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        if (strcmp(name, KINDS[i]) == 0) {
            *out = (source_kind)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "unknown kind of source: %s", name);
    return -1;
}

static int read_network_text(PyObject *text, rl_network *out)
{
    core_text utf8;
    if (core_parse_key(text, &utf8) < 0) {
        return -1;
    }
    bool is_network = rl_network_parse((rl_text){utf8.data, utf8.len}, out);
    Py_XDECREF(utf8.owner);
    if (!is_network) {
        PyErr_Format(PyExc_ValueError, "expected a network such as '10.0.0.0/8', got %R", text);
        return -1;
    }
    return 0;
}

/* Read the part of a description that depends on the kind: a name, a (name, secret), a network. */
static int read_name(PyObject *name, source *out)
{
    if (out->kind == SOURCE_NETWORK) {
        return read_network_text(name, &out->network);
    }
    if (out->kind == SOURCE_SECRET) {
        PyObject *header;
        PyObject *secret;
        if (!PyArg_ParseTuple(name, "SS:source", &header, &secret)) {
            return -1;
        }
        out->secret = Py_NewRef(secret);
        return header_name_init(&out->header, header);
    }
    if (out->kind == SOURCE_HEADER || out->kind == SOURCE_COOKIE) {
        if (!PyBytes_Check(name)) {
            PyErr_SetString(PyExc_TypeError, "the name of a header or cookie must be bytes");
            return -1;
        }
        if (out->kind == SOURCE_HEADER) {
            return header_name_init(&out->header, name);
        }
        out->cookie = Py_NewRef(name);
        PyObject *header = PyBytes_FromString("cookie");
        int status = header != NULL ? header_name_init(&out->header, header) : -1;
        Py_XDECREF(header);
        return status;
    }
    return 0;
}

/* A (kind, label, name, call, of_subject). */
static int source_init(PyObject *description, source *out)
{
    const char *kind;
    PyObject *label;
    PyObject *name;
    PyObject *call;
    int of_subject;
    if (!PyTuple_Check(description)) {
        PyErr_SetString(PyExc_TypeError, "a source must be a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(description, "sOOOp:source", &kind, &label, &name, &call, &of_subject) ||
        read_kind(kind, &out->kind) < 0) {
        return -1;
    }
    if (label != Py_None && !PyUnicode_Check(label)) {
        PyErr_SetString(PyExc_TypeError, "the label of a source must be str or None");
        return -1;
    }
    bool calls =
        out->kind == SOURCE_HEADER || out->kind == SOURCE_COOKIE || out->kind == SOURCE_CALL;
    if (calls && !PyCallable_Check(call)) {
        PyErr_SetString(PyExc_TypeError, "a source needs a callable");
        return -1;
    }
    out->label = label != Py_None ? Py_NewRef(label) : NULL;
    out->call = call != Py_None ? Py_NewRef(call) : NULL;
    out->of_subject = of_subject != 0;
    return read_name(name, out);
}

int source_chain_read(PyObject *descriptions, source_chain *out)
{
    *out = (source_chain){NULL, 0};
    if (!PyTuple_Check(descriptions)) {
        PyErr_SetString(PyExc_TypeError, "sources must be a tuple");
        return -1;
    }
    size_t n = (size_t)PyTuple_GET_SIZE(descriptions);
    out->items = PyMem_Calloc(n + 1, sizeof *out->items);
    if (out->items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; out->n < n; out->n++) {
        if (source_init(PyTuple_GET_ITEM(descriptions, (Py_ssize_t)out->n), &out->items[out->n]) <
            0) {
            out->n++; /* cleared too */
            return -1;
        }
    }
    return 0;
}

bool source_chain_is_total(const source_chain *chain)
{
    const source *last = chain->n > 0 ? &chain->items[chain->n - 1] : NULL;
    return last != NULL && (last->kind == SOURCE_IP || last->kind == SOURCE_ALL);
}

void source_chain_clear(source_chain *chain)
{
    for (size_t i = 0; i < chain->n; i++) {
        source *source = &chain->items[i];
        Py_CLEAR(source->label);
        Py_CLEAR(source->call);
        header_name_clear(&source->header);
        Py_CLEAR(source->cookie);
        Py_CLEAR(source->secret);
    }
    PyMem_Free(chain->items);
    *chain = (source_chain){NULL, 0};
}

int source_chain_traverse(const source_chain *chain, visitproc visit, void *arg)
{
    for (size_t i = 0; i < chain->n; i++) {
        Py_VISIT(chain->items[i].call);
    }
    return 0;
}
