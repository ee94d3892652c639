/* async_method.c -- AsyncMethod, AsyncCall and AsyncLimiter: `await limiter.allow(key)` without a
 * coroutine, which would cost twice as much as the decision.
 *
 *     class AsyncRateLimiter(_core.AsyncLimiter):
 *         @_core.AsyncMethod
 *         async def allow(self, key, cost=1, limits=None): ...
 *
 * For a limiter whose `_engine` is set, limiter.allow(key) returns an AsyncCall: when that is awaited,
 * it calls the method of the same name of the engine, and never waits. For any other the function
 * is called. An AsyncMethod has the attributes of its function, so inspect takes it for one. */
#include "python/core.h"

#include <structmember.h>

typedef struct async_limiter {
    PyObject_HEAD
    PyObject *engine; /* strong; a limiter that decides at once; NULL: there is none */
} async_limiter;

typedef struct async_method {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    core_state *state;  /* borrowed from the type */
    PyObject *function; /* strong */
    PyObject *name;     /* strong; a str */
    const char *text;   /* of the name */
    PyObject *direct;   /* strong; the method of Limiter with this name; NULL: it has none */
} async_method;

/* It is in no cycle, so the collector of cycles need not know it: nothing refers to a call but who
 * awaits it. So a call keeps its method, the types of both, and their state. */
typedef struct async_call {
    PyObject_HEAD
    async_method *method; /* strong */
    PyObject *engine;     /* strong; NULL: it was awaited or closed */
    PyObject *key;        /* strong, as the engine */
    PyObject *cost;       /* strong, or NULL: not given */
    PyObject *limits;     /* strong, or NULL: not given; with limits there is a cost */
} async_call;

/* ---- AsyncLimiter ----------------------------------------------------------- */

static int async_limiter_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((async_limiter *)self)->engine);
    return 0;
}

static int async_limiter_clear(PyObject *self)
{
    Py_CLEAR(((async_limiter *)self)->engine);
    return 0;
}

static void async_limiter_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    async_limiter_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef async_limiter_members[] = {
    {"_engine", T_OBJECT, offsetof(async_limiter, engine), 0,
     PyDoc_STR("The limiter that decides at once, or None.")},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot async_limiter_slots[] = {
    {Py_tp_doc, PyDoc_STR("Hold the limiter that AsyncMethods call.")},
    {Py_tp_dealloc, async_limiter_dealloc},
    {Py_tp_traverse, async_limiter_traverse},
    {Py_tp_clear, async_limiter_clear},
    {Py_tp_members, async_limiter_members},
    {0, NULL},
};

PyType_Spec async_limiter_spec = {
    .name = "rate_limiter._core.AsyncLimiter",
    .basicsize = sizeof(async_limiter),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = async_limiter_slots,
};

/* ---- AsyncMethod ------------------------------------------------------------ */

static PyObject *async_call_new(async_method *method, PyObject *engine, const core_key_cost *given)
{
    core_state *state = method->state;
    PyTypeObject *type = state->async_call_type;
    async_call *self = (async_call *)core_take_spare(state, SPARE_ASYNC_CALL, type);
    if (self == NULL) {
        self = PyObject_New(async_call, type);
    }
    if (self != NULL) {
        self->method = (async_method *)Py_NewRef((PyObject *)method);
        self->engine = Py_NewRef(engine);
        self->key = Py_NewRef(given->key);
        self->limits = Py_XNewRef(given->limits);
        bool has_cost = given->cost != NULL || given->limits == NULL;
        self->cost = has_cost ? Py_XNewRef(given->cost) : Py_NewRef(state->one);
    }
    return (PyObject *)self;
}

static PyObject *async_method_call(PyObject *object, PyObject *const *args, size_t nargsf,
                                   PyObject *kwnames)
{
    async_method *self = (async_method *)object;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    core_key_cost given;
    if (nargs > 0 && core_is_a(args[0], self->state->async_limiter_type)) {
        PyObject *engine = ((async_limiter *)args[0])->engine;
        if (engine != NULL && engine != Py_None) {
            if (core_parse_key_cost_limits(self->text, "key", args + 1, nargs - 1, kwnames,
                                           &given) < 0) {
                return NULL;
            }
            return async_call_new(self, engine, &given);
        }
    }
    return PyObject_Vectorcall(self->function, args, nargsf, kwnames);
}

/* Return the method of Limiter with this name if it is one that takes its arguments as an array, else
 * NULL. Borrowed: Limiter is immutable. */
static PyObject *async_method_direct(const core_state *state, PyObject *name)
{
    PyObject *found = _PyType_Lookup(state->limiter_type, name);
    bool takes_array =
        found != NULL && Py_IS_TYPE(found, &PyMethodDescr_Type) &&
        ((PyMethodDescrObject *)found)->d_method->ml_flags == (METH_FASTCALL | METH_KEYWORDS);
    return takes_array ? found : NULL;
}

/* Return true if `engine` is a Limiter whose method of the name is that of Limiter. */
static bool async_method_is_direct(const async_method *self, PyObject *engine)
{
    const PyTypeObject *type = Py_TYPE(engine);
    return self->direct != NULL && type->tp_dictoffset == 0 &&
           type->tp_getattro == PyObject_GenericGetAttr &&
           _PyType_Lookup(Py_TYPE(engine), self->name) == self->direct &&
           core_is_a(engine, self->state->limiter_type);
}

/* Call the method of the engine args[0] with the `n` - 1 arguments behind it. */
static PyObject *async_method_decide(const async_method *self, PyObject *const *args, size_t n)
{
    if (async_method_is_direct(self, args[0])) {
        const PyMethodDef *method = ((PyMethodDescrObject *)self->direct)->d_method;
        return ((_PyCFunctionFastWithKeywords)(void (*)(void))method->ml_meth)(
            args[0], args + 1, (Py_ssize_t)n - 1, NULL);
    }
    return PyObject_VectorcallMethod(self->name, args, n, NULL);
}

static PyObject *async_method_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"function", NULL};
    core_state *state = core_state_of(type);
    PyObject *function;
    if (state == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "O:AsyncMethod", names, &function)) {
        return NULL;
    }
    PyObject *name = PyObject_GetAttrString(function, "__name__");
    const char *text = name != NULL ? PyUnicode_AsUTF8(name) : NULL;
    async_method *self = text != NULL ? (async_method *)type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        Py_XDECREF(name);
        return NULL;
    }
    self->vectorcall = async_method_call;
    self->state = state;
    self->function = Py_NewRef(function);
    PyUnicode_InternInPlace(&name);
    self->text = PyUnicode_AsUTF8(name); /* of the name that is kept */
    self->name = name;
    self->direct = Py_XNewRef(async_method_direct(state, name));
    if (self->text == NULL) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *async_method_get(PyObject *self, PyObject *object, PyObject *Py_UNUSED(type))
{
    return object == NULL ? Py_NewRef(self) : PyMethod_New(self, object);
}

/* What the type has for itself, and not for its methods. */
static bool async_method_is_of_type(PyObject *name)
{
    return PyUnicode_CompareWithASCIIString(name, "__doc__") == 0 ||
           PyUnicode_CompareWithASCIIString(name, "__module__") == 0;
}

static PyObject *async_method_getattro(PyObject *self, PyObject *name)
{
    PyObject *found = async_method_is_of_type(name) ? NULL : PyObject_GenericGetAttr(self, name);
    if (found != NULL || (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_AttributeError))) {
        return found;
    }
    PyErr_Clear();
    return PyObject_GetAttr(((async_method *)self)->function, name);
}

static PyObject *async_method_repr(PyObject *self)
{
    return PyUnicode_FromFormat("<async method %U>", ((async_method *)self)->name);
}

static int async_method_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((async_method *)self)->function);
    return 0;
}

/* A method is in a cycle with its class only through its function, which clears itself. */
static void async_method_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((async_method *)self)->function);
    Py_XDECREF(((async_method *)self)->name);
    Py_XDECREF(((async_method *)self)->direct);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef async_method_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(async_method, vectorcall), READONLY, NULL},
    {"__wrapped__", T_OBJECT_EX, offsetof(async_method, function), READONLY,
     PyDoc_STR("The function.")},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot async_method_slots[] = {
    {Py_tp_doc,
     PyDoc_STR(
         "AsyncMethod(function)\n--\n\n"
         "Make an async function a method of AsyncLimiters that needs no coroutine.\n\n"
         "For a limiter with an `_engine` it calls the method of the same name of that, with\n"
         "a key, a cost and limits, as soon as the call is awaited.")},
    {Py_tp_new, async_method_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, async_method_get},
    {Py_tp_getattro, async_method_getattro},
    {Py_tp_repr, async_method_repr},
    {Py_tp_dealloc, async_method_dealloc},
    {Py_tp_traverse, async_method_traverse},
    {Py_tp_members, async_method_members},
    {0, NULL},
};

PyType_Spec async_method_spec = {
    .name = "rate_limiter._core.AsyncMethod",
    .basicsize = sizeof(async_method),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = async_method_slots,
};

/* ---- AsyncCall -------------------------------------------------------------- */

static async_call *async_call_of(PyObject *self)
{
    return (async_call *)self;
}

/* The engine, and the arguments for it. */
#define ASYNC_CALL_ARGS 4

/* Move the arguments of a call to `out`, so that no other thread decides too. Return false if they
 * were moved before. */
static bool async_call_take_args(PyObject *self, PyObject **out)
{
    async_call *call = async_call_of(self);
    LOCKED(self);
    out[0] = call->engine;
    out[1] = call->key;
    out[2] = call->cost;
    out[3] = call->limits;
    call->engine = call->key = call->cost = call->limits = NULL;
    UNLOCKED;
    return out[0] != NULL;
}

static void async_call_free_args(PyObject **args)
{
    for (int i = 0; i < ASYNC_CALL_ARGS; i++) {
        Py_XDECREF(args[i]);
    }
}

/* Take the arguments, or raise RuntimeError if the call was awaited or closed. */
static bool async_call_begin(PyObject *self, PyObject **args)
{
    if (!async_call_take_args(self, args)) {
        PyErr_Format(PyExc_RuntimeError, "cannot reuse already awaited %S()",
                     async_call_of(self)->method->name);
        return false;
    }
    return true;
}

/* Replace a StopIteration that is set, which would end the await with a value. */
static void async_call_hide_stop(void)
{
    if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
        PyErr_SetString(PyExc_RuntimeError, "coroutine raised StopIteration");
    }
}

static PySendResult async_call_send_value(PyObject *self, PyObject *value, PyObject **result)
{
    PyObject *args[ASYNC_CALL_ARGS];
    *result = NULL;
    if (value != Py_None) {
        PyErr_SetString(PyExc_TypeError, "can't send non-None value to a just-started coroutine");
        return PYGEN_ERROR;
    }
    if (!async_call_begin(self, args)) {
        return PYGEN_ERROR;
    }
    size_t n = args[2] == NULL ? 2 : args[3] == NULL ? 3 : 4;
    *result = async_method_decide(async_call_of(self)->method, args, n);
    async_call_free_args(args);
    if (*result == NULL) {
        async_call_hide_stop();
        return PYGEN_ERROR;
    }
    return PYGEN_RETURN;
}

/* Return as a generator does: by StopIteration. */
static PyObject *async_call_send(PyObject *self, PyObject *value)
{
    PyObject *result;
    if (async_call_send_value(self, value, &result) == PYGEN_RETURN) {
        PyObject *error = PyObject_CallOneArg(PyExc_StopIteration, result);
        if (error != NULL) {
            PyErr_SetObject(PyExc_StopIteration, error);
            Py_DECREF(error);
        }
        Py_DECREF(result);
    }
    return NULL;
}

static PyObject *async_call_next(PyObject *self)
{
    return async_call_send(self, Py_None);
}

static void async_call_raise(PyObject *type, PyObject *value)
{
    if (PyExceptionInstance_Check(type) && (value == NULL || value == Py_None)) {
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
    } else if (PyExceptionClass_Check(type)) {
        PyErr_SetObject(type, value);
    } else {
        PyErr_SetString(PyExc_TypeError, "exceptions must be classes or instances deriving from "
                                         "BaseException");
    }
}

/* Raise the exception in place of the decision. */
static PyObject *async_call_throw(PyObject *self, PyObject *args)
{
    PyObject *type, *value = NULL, *trace = NULL;
    PyObject *moved[ASYNC_CALL_ARGS];
    if (!PyArg_ParseTuple(args, "O|OO:throw", &type, &value, &trace) ||
        !async_call_begin(self, moved)) {
        return NULL;
    }
    async_call_free_args(moved);
    async_call_raise(type, value);
    async_call_hide_stop();
    return NULL;
}

static PyObject *async_call_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *moved[ASYNC_CALL_ARGS];
    async_call_take_args(self, moved);
    async_call_free_args(moved);
    Py_RETURN_NONE;
}

static PyObject *async_call_get_qualname(PyObject *self, void *Py_UNUSED(closure))
{
    return PyObject_GetAttrString(async_call_of(self)->method->function, "__qualname__");
}

static PyObject *async_call_get_name(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(async_call_of(self)->method->name);
}

static PyObject *async_call_repr(PyObject *self)
{
    PyObject *name = async_call_get_qualname(self, NULL);
    PyObject *repr =
        name != NULL ? PyUnicode_FromFormat("<call of %S at %p>", name, (void *)self) : NULL;
    Py_XDECREF(name);
    return repr;
}

/* Free the arguments of a call that was never awaited, with a warning as for a coroutine. */
RL_APART static void async_call_free_unused(PyObject *self)
{
    const async_call *call = async_call_of(self);
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyObject *name = async_call_get_qualname(self, NULL);
    if (name == NULL ||
        PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%S' was never awaited", name) < 0) {
        PyErr_WriteUnraisable((PyObject *)call->method);
    }
    Py_XDECREF(name);
    async_call_free_args(
        (PyObject *[ASYNC_CALL_ARGS]){call->engine, call->key, call->cost, call->limits});
    PyErr_Restore(type, error, trace);
}

static void async_call_dealloc(PyObject *self)
{
    async_call *call = async_call_of(self);
    core_state *state = call->method->state; /* which the type keeps, too */
    if (call->engine != NULL) {
        async_call_free_unused(self);
    }
    Py_DECREF((PyObject *)call->method);
    core_free_object_of(state, self, SPARE_ASYNC_CALL);
}

static PyMethodDef async_call_methods[] = {
    {"send", async_call_send, METH_O,
     PyDoc_STR("send($self, value, /)\n--\n\nDecide, and raise StopIteration with the result.")},
    {"throw", async_call_throw, METH_VARARGS,
     PyDoc_STR("throw($self, type, value=None, traceback=None, /)\n--\n\n"
               "Raise an exception in place of the decision.")},
    {"close", async_call_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nDecide nothing any more.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef async_call_getset[] = {
    {"__name__", async_call_get_name, NULL, PyDoc_STR("The name of the method."), NULL},
    {"__qualname__", async_call_get_qualname, NULL, PyDoc_STR("The same with its class."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot async_call_slots[] = {
    {Py_tp_doc, PyDoc_STR("Decide when it is awaited: asyncio takes it for a coroutine.")},
    {Py_tp_dealloc, async_call_dealloc},
    {Py_tp_repr, async_call_repr},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, async_call_next},
    {Py_tp_methods, async_call_methods},
    {Py_tp_getset, async_call_getset},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, async_call_send_value},
    {0, NULL},
};

PyType_Spec async_call_spec = {
    .name = "rate_limiter._core.AsyncCall",
    .basicsize = sizeof(async_call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = async_call_slots,
};
