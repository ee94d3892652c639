/* request.c -- what is read of a request: an ASGI scope or a WSGI environ. */
#include "python/path.h"

#include <string.h>

/* ---- members ------------------------------------------------------------------------------- */

PyObject *core_get(const core_state *state, PyObject *dict, core_name name)
{
#if PY_VERSION_HEX >= 0x030D0000 /* without the GIL a thread may change the dict at any time */
    PyObject *value;
    (void)PyDict_GetItemRef(dict, state->names[name], &value); /* NULL where it fails */
    return value;
#else
    PyObject *value = PyDict_GetItemWithError(dict, state->names[name]); /* borrowed */
    return Py_XNewRef(value);
#endif
}

PyObject *core_get_type(const core_state *state, PyObject *dict)
{
    PyObject *key = NULL;
    PyObject *type = NULL;
    Py_ssize_t at = 0;
    bool is_first;
    LOCKED(dict);
    is_first = PyDict_Next(dict, &at, &key, &type) && key == state->names[NAME_TYPE];
    type = is_first ? Py_NewRef(type) : NULL;
    UNLOCKED;
    return is_first ? type : core_get(state, dict, NAME_TYPE);
}

PyObject *request_get(const request *request, core_name name)
{
    return core_get(request->state, request->scope, name);
}

/* A member that is a str; "" where it is missing or something else. NULL with an exception set. */
static PyObject *get_text(const request *request, core_name name)
{
    PyObject *text = request_get(request, name);
    if (text != NULL && PyUnicode_Check(text)) {
        return text;
    }
    Py_XDECREF(text);
    return PyErr_Occurred() ? NULL : PyUnicode_FromString("");
}

/* ---- path and method ------------------------------------------------------------------------- */

/* Return the part of `path` behind `root`, which it begins with; "/" for an empty one. A root ends
 * in the middle of a segment: the whole path. Steals the path. */
static PyObject *path_behind(PyObject *path, Py_ssize_t root)
{
    Py_ssize_t len = PyUnicode_GET_LENGTH(path);
    if (root < len && PyUnicode_READ_CHAR(path, root) != '/') {
        return path;
    }
    PyObject *rest = root < len ? PyUnicode_Substring(path, root, len) : PyUnicode_FromString("/");
    Py_DECREF(path);
    return rest;
}

static PyObject *asgi_path(const request *request)
{
    PyObject *path = get_text(request, NAME_PATH);
    PyObject *root = path != NULL ? get_text(request, NAME_ROOT_PATH) : NULL;
    if (root == NULL) {
        Py_XDECREF(path);
        return NULL;
    }
    Py_ssize_t len = PyUnicode_GET_LENGTH(root);
    Py_ssize_t begins = len == 0 ? 0 : PyUnicode_Tailmatch(path, root, 0, PY_SSIZE_T_MAX, -1);
    Py_DECREF(root);
    if (begins < 0) {
        Py_DECREF(path);
        return NULL;
    }
    return begins == 0 ? path : path_behind(path, len);
}

/* PEP 3333: the str has the bytes of the path as Latin-1, which are UTF-8. */
static PyObject *wsgi_path(const request *request)
{
    PyObject *path = get_text(request, NAME_PATH_INFO);
    if (path == NULL) {
        return NULL;
    }
    Py_ssize_t len = PyUnicode_GET_LENGTH(path);
    bool has_one_slash = len > 0 && PyUnicode_READ_CHAR(path, 0) == '/' &&
                         (len == 1 || PyUnicode_READ_CHAR(path, 1) != '/');
    if (PyUnicode_IS_COMPACT_ASCII(path) && (has_one_slash || !request->is_werkzeug)) {
        return path;
    }
    PyObject *bytes = PyUnicode_AsEncodedString(path, "latin-1", "replace");
    Py_DECREF(path);
    if (bytes == NULL) {
        return NULL;
    }
    const char *at = PyBytes_AS_STRING(bytes);
    const char *end = at + PyBytes_GET_SIZE(bytes);
    while (request->is_werkzeug && at < end && *at == '/') {
        at++;
    }
    PyObject *path_text = PyUnicode_DecodeUTF8(at, end - at, "replace");
    Py_DECREF(bytes);
    if (path_text != NULL && request->is_werkzeug) {
        Py_SETREF(path_text, PyUnicode_FromFormat("/%U", path_text));
    }
    return path_text;
}

PyObject *request_path(const request *request)
{
    return request->kind == REQUEST_ASGI ? asgi_path(request) : wsgi_path(request);
}

static bool is_upper(PyObject *text)
{
    if (!PyUnicode_IS_COMPACT_ASCII(text)) {
        return false;
    }
    const Py_UCS1 *data = PyUnicode_1BYTE_DATA(text);
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(text); i++) {
        if (data[i] >= 'a' && data[i] <= 'z') {
            return false;
        }
    }
    return true;
}

PyObject *request_method(const request *request)
{
    const core_state *state = request->state;
    if (request->kind == REQUEST_ASGI) {
        PyObject *type = get_text(request, NAME_TYPE);
        bool is_websocket = type != NULL && core_is_name(state, type, NAME_WEBSOCKET);
        Py_XDECREF(type);
        if (type == NULL || is_websocket) {
            return type == NULL ? NULL : Py_NewRef(state->names[NAME_WEBSOCKET_METHOD]);
        }
    }
    PyObject *given =
        get_text(request, request->kind == REQUEST_ASGI ? NAME_METHOD : NAME_REQUEST_METHOD);
    if (given == NULL) {
        return NULL;
    }
    PyObject *upper = is_upper(given) ? Py_NewRef(given)
                                      : PyObject_CallMethodNoArgs(given, state->names[NAME_UPPER]);
    Py_DECREF(given);
    if (upper != NULL && core_is_name(state, upper, NAME_WEBSOCKET_METHOD)) {
        Py_SETREF(upper, PyUnicode_FromString("")); /* a method of this name is no websocket */
    }
    return upper;
}

/* ---- peer -------------------------------------------------------------------------------------- */

PyObject *request_peer(const request *request)
{
    PyObject *client =
        request_get(request, request->kind == REQUEST_ASGI ? NAME_CLIENT : NAME_REMOTE_ADDR);
    PyObject *host = NULL;
    if (client == NULL && PyErr_Occurred()) {
        return NULL;
    }
    if (request->kind == REQUEST_WSGI) {
        host = Py_XNewRef(client);
    } else if (client != NULL && PyTuple_Check(client) && PyTuple_GET_SIZE(client) > 0) {
        host = Py_NewRef(PyTuple_GET_ITEM(client, 0));
    } else if (client != NULL && PyList_Check(client) && PyList_GET_SIZE(client) > 0) {
        host = PySequence_GetItem(client, 0);
        PyErr_Clear(); /* another thread emptied the list: no address */
    }
    Py_XDECREF(client);
    if (host != NULL && PyUnicode_Check(host) && PyUnicode_GET_LENGTH(host) > 0) {
        return host;
    }
    Py_XDECREF(host);
    return Py_NewRef(Py_None);
}

/* ---- the values of a header ---------------------------------------------------------------------- */

void request_values_init(request_values *values)
{
    values->texts = values->few;
    values->owners = values->few_owners;
    values->n = 0;
    values->room = REQUEST_FEW_VALUES;
}

void request_values_clear(request_values *values)
{
    for (size_t i = 0; i < values->n; i++) {
        Py_DECREF(values->owners[i]);
    }
    if (values->texts != values->few) {
        PyMem_Free(values->texts);
    }
}

static int values_grow(request_values *values)
{
    size_t room = values->room * 2;
    rl_text *texts = PyMem_Calloc(room, sizeof *values->texts + sizeof *values->owners);
    if (texts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject **owners = (PyObject **)(void *)(texts + room);
    memcpy(texts, values->texts, values->n * sizeof *texts);
    memcpy(owners, values->owners, values->n * sizeof(PyObject *));
    if (values->texts != values->few) {
        PyMem_Free(values->texts);
    }
    values->texts = texts;
    values->owners = owners;
    values->room = room;
    return 0;
}

/* Read a str or bytes as Latin-1. Another character becomes "?": no address has either.
 * *owner, a new reference, keeps the bytes. 0, or -1 with an exception set. */
static int read_latin1(const char *what, PyObject *object, PyObject **owner, rl_text *out)
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

int request_values_add(request_values *values, const char *what, PyObject *value)
{
    if ((values->n == values->room && values_grow(values) < 0) ||
        read_latin1(what, value, &values->owners[values->n], &values->texts[values->n]) < 0) {
        return -1;
    }
    values->n++;
    return 0;
}

static bool is_bytes(PyObject *name, PyObject *wanted)
{
    Py_ssize_t len = PyBytes_GET_SIZE(wanted);
    return PyBytes_Check(name) && PyBytes_GET_SIZE(name) == len &&
           memcmp(PyBytes_AS_STRING(name), PyBytes_AS_STRING(wanted), (size_t)len) == 0;
}

/* Add the value of a (name, value) with this name; anything else is no header. */
static int add_header(request_values *values, PyObject *wanted, PyObject *header)
{
    PyObject *pair = PyTuple_CheckExact(header) ? Py_NewRef(header)
                     : PyList_Check(header)     ? PyList_AsTuple(header)
                                                : NULL;
    int status = 0;
    if (pair == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (PyTuple_GET_SIZE(pair) == 2 && is_bytes(PyTuple_GET_ITEM(pair, 0), wanted)) {
        PyObject *value = PyTuple_GET_ITEM(pair, 1);
        if (PyBytes_Check(value) || PyUnicode_Check(value)) {
            status = request_values_add(values, "a header", value);
        }
    }
    Py_DECREF(pair);
    return status;
}

static int add_headers_of_list(request_values *values, PyObject *wanted, PyObject *list)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *header = Py_NewRef(PyList_GET_ITEM(list, i));
        int status = add_header(values, wanted, header);
        Py_DECREF(header);
        if (status < 0) {
            return -1;
        }
    }
    return 0;
}

static int add_headers(request_values *values, PyObject *wanted, PyObject *headers)
{
    if (PyList_CheckExact(headers)) {
        return add_headers_of_list(values, wanted, headers);
    }
    PyObject *list = PySequence_List(headers);
    if (list == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError)) {
            return -1;
        }
        PyErr_Clear(); /* no headers */
        return 0;
    }
    int status = add_headers_of_list(values, wanted, list);
    Py_DECREF(list);
    return status;
}

static int add_environ(const request *request, PyObject *name, request_values *out)
{
    PyObject *value = PyDict_GetItemWithError(request->scope, name); /* borrowed */
    if (value == NULL || !PyUnicode_Check(value)) {
        return PyErr_Occurred() ? -1 : 0;
    }
    return request_values_add(out, "a header", value);
}

int request_header(const request *request, const header_name *name, request_values *out)
{
    if (request->kind == REQUEST_WSGI) {
        return add_environ(request, name->environ, out);
    }
    PyObject *headers = request_get(request, NAME_HEADERS);
    if (headers == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    int status = add_headers(out, name->bytes, headers);
    Py_DECREF(headers);
    return status;
}

/* ---- names of headers ------------------------------------------------------------------------------ */

static PyObject *environ_name(const char *name, Py_ssize_t len)
{
    bool is_bare = (len == 12 && memcmp(name, "content-type", 12) == 0) ||
                   (len == 14 && memcmp(name, "content-length", 14) == 0);
    Py_ssize_t prefix = is_bare ? 0 : 5;
    PyObject *text = PyUnicode_New(prefix + len, 127);
    if (text == NULL) {
        return NULL;
    }
    Py_UCS1 *out = PyUnicode_1BYTE_DATA(text);
    memcpy(out, "HTTP_", (size_t)prefix);
    for (Py_ssize_t i = 0; i < len; i++) {
        char c = name[i];
        out[prefix + i] = (Py_UCS1)(c == '-'               ? '_'
                                    : c >= 'a' && c <= 'z' ? c - 'a' + 'A'
                                                           : c & 127);
    }
    return text;
}

int header_name_init(header_name *name, PyObject *bytes)
{
    name->bytes = Py_NewRef(bytes);
    name->environ = environ_name(PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes));
    return name->environ != NULL ? 0 : -1;
}

void header_name_clear(header_name *name)
{
    Py_CLEAR(name->bytes);
    Py_CLEAR(name->environ);
}
