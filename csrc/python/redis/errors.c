/* errors.c -- StoreError, with its kind and the server it is about. */
#include "python/redis/redis.h"

PyObject *redis_server_text(const rl_server *server)
{
    return server->port != 0 ? PyUnicode_FromFormat("%s:%d", server->host, (int)server->port)
                             : PyUnicode_FromString(server->host);
}

PyObject *redis_servers_text(const rl_server *servers, size_t n)
{
    PyObject *texts = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; texts != NULL && i < n; i++) {
        PyObject *text = redis_server_text(&servers[i]);
        if (text == NULL) {
            Py_CLEAR(texts);
            break;
        }
        PyTuple_SET_ITEM(texts, (Py_ssize_t)i, text);
    }
    return texts;
}

PyObject *redis_raise(core_state *state, rl_fault fault, const char *message,
                      const rl_server *server)
{
    static const rl_server none;
    static const char *const kinds[] = {
        [RL_FAULT_NONE] = "none",     [RL_FAULT_CONNECT] = "connect",
        [RL_FAULT_LOST] = "lost",     [RL_FAULT_TIMEOUT] = "timeout",
        [RL_FAULT_ANSWER] = "answer", [RL_FAULT_PROTOCOL] = "protocol",
        [RL_FAULT_BUSY] = "busy",     [RL_FAULT_NOMEM] = "memory",
        [RL_FAULT_CLOSED] = "closed",
    };
    PyObject *text = PyUnicode_DecodeUTF8(message, (Py_ssize_t)strlen(message), "replace");
    PyObject *error = text != NULL ? PyObject_CallOneArg(state->store_error, text) : NULL;
    PyObject *kind = error != NULL ? PyUnicode_FromString(kinds[fault]) : NULL;
    PyObject *node = kind != NULL ? redis_server_text(server != NULL ? server : &none) : NULL;
    if (node != NULL && PyObject_SetAttrString(error, "kind", kind) == 0 &&
        PyObject_SetAttrString(error, "node", node) == 0) {
        PyErr_SetObject(state->store_error, error);
    }
    Py_XDECREF(node);
    Py_XDECREF(kind);
    Py_XDECREF(error);
    Py_XDECREF(text);
    return NULL;
}

PyObject *redis_raise_fault(core_state *state, const rl_call *call)
{
    return redis_raise(state, call->fault, call->error, &call->server);
}
