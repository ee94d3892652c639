/* asgi_args.c -- the arguments of an ASGI application: (scope, receive, send). */
#include "python/path.h"

int asgi_read_args(PyObject *const *args, Py_ssize_t nargs, Py_ssize_t nkwargs, asgi_args *out)
{
    if (nargs != 3 || nkwargs != 0 || !PyDict_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError,
                        "an ASGI application is called with (scope: dict, receive, send)");
        return -1;
    }
    *out = (asgi_args){args[0], args[1], args[2]};
    return 0;
}

int asgi_is_request(const core_state *state, PyObject *scope)
{
    PyObject *type = core_get_type(state, scope);
    if (type == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    bool is_request =
        core_is_name(state, type, NAME_HTTP) || core_is_name(state, type, NAME_WEBSOCKET);
    Py_DECREF(type);
    return is_request;
}

PyObject *asgi_call_app(PyObject *app, const asgi_args *args, PyObject *send)
{
    PyObject *call[] = {args->scope, args->receive, send};
    return PyObject_Vectorcall(app, call, 3, NULL);
}
