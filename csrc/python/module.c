/* module.c -- the extension module rate_limiter._core: its types and constants. */
#include "python/limiter.h"
#include "engine/shared.h"
#ifndef RL_NO_REDIS
#include "redis/libraries.h"
#endif

#define TEXT_OF(macro) TEXT_OF_TOKENS(macro)
#define TEXT_OF_TOKENS(tokens) #tokens

/* How the package was built; setup.py defines it. */
#ifndef RL_BUILD
#define RL_BUILD built from source
#endif
#ifdef __clang__
#define BUILD_COMPILER __VERSION__
#else
#define BUILD_COMPILER "gcc " __VERSION__
#endif

core_state *core_state_of(PyTypeObject *type)
{
    /* PyType_GetModuleByDef does the same from Python 3.11 on. No type of the module
     * has more than one base, so a Python subclass finds it along tp_base. */
    for (PyTypeObject *base = type; base != NULL; base = base->tp_base) {
        if (!PyType_HasFeature(base, Py_TPFLAGS_HEAPTYPE)) {
            break;
        }
        PyObject *module = ((PyHeapTypeObject *)base)->ht_module; /* borrowed */
        if (module != NULL && PyModule_GetDef(module) == &core_module) {
            return PyModule_GetState(module);
        }
    }
    PyErr_Format(PyExc_TypeError, "%s is not a type of rate_limiter._core", type->tp_name);
    return NULL;
}

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **slot)
{
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *slot == NULL ? -1 : PyModule_AddType(module, *slot);
}

static int add_float(PyObject *module, const char *name, double value)
{
    PyObject *number = PyFloat_FromDouble(value);
    if (number == NULL) {
        return -1;
    }
    int status = PyModule_AddObjectRef(module, name, number);
    Py_DECREF(number);
    return status;
}

static int add_meter_bounds(PyObject *module)
{
    PyObject *bounds = PyTuple_New(RL_METER_BOUNDS);
    for (Py_ssize_t i = 0; bounds != NULL && i < RL_METER_BOUNDS; i++) {
        PyObject *bound = PyLong_FromLongLong(rl_meter_bounds_ns[i]);
        if (bound == NULL) {
            Py_CLEAR(bounds);
            break;
        }
        PyTuple_SET_ITEM(bounds, i, bound);
    }
    int status = bounds == NULL ? -1 : PyModule_AddObjectRef(module, "METER_BOUNDS_NS", bounds);
    Py_XDECREF(bounds);
    return status;
}

static int add_store_error(PyObject *module, core_state *state)
{
    PyObject *members = Py_BuildValue("{s:s}", "node", "");
    if (members == NULL) {
        return -1;
    }
    state->store_error = PyErr_NewExceptionWithDoc(
        "rate_limiter.StoreError",
        "Signal that a store gave no decision.\n\n"
        "Attributes:\n"
        "    kind: 'connect', 'lost', 'timeout', 'answer', 'protocol', 'busy', 'memory' or 'closed'\n"
        "        (str). After 'lost', 'timeout' and 'closed' the store may have counted the request.\n"
        "    node: the server that failed, such as '10.0.0.1:6379'; empty where there is none (str).",
        PyExc_RuntimeError, members);
    Py_DECREF(members);
    return state->store_error == NULL
               ? -1
               : PyModule_AddObjectRef(module, "StoreError", state->store_error);
}

#ifdef RL_NO_REDIS
static int add_redis(PyObject *module, core_state *state)
{
    (void)state;
    if (PyModule_AddStringConstant(module, "HIREDIS_VERSION", "") < 0 ||
        PyModule_AddStringConstant(module, "OPENSSL_VERSION", "") < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "HAS_REDIS", 0);
}
#else
static int add_redis(PyObject *module, core_state *state)
{
    if (add_type(module, &redis_client_spec, &state->redis_client_type) < 0 ||
        add_type(module, &redis_buckets_spec, &state->redis_buckets_type) < 0 ||
        add_type(module, &redis_loop_spec, &state->redis_loop_type) < 0 ||
        PyModule_AddStringConstant(module, "HIREDIS_VERSION", rl_hiredis_version()) < 0 ||
        PyModule_AddStringConstant(module, "OPENSSL_VERSION", rl_openssl_version()) < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "HAS_REDIS", 1);
}
#endif

static int core_exec(PyObject *module)
{
    core_state *state = PyModule_GetState(module);
    state->keeps_spares = true;
    if (add_type(module, &decision_spec, &state->decision_type) < 0 ||
        decision_describe_fields(state->decision_type) < 0 ||
        add_type(module, &clock_spec, &state->clock_type) < 0 ||
        add_type(module, &meter_spec, &state->meter_type) < 0 || add_meter_bounds(module) < 0 ||
        add_type(module, &sketch_spec, &state->sketch_type) < 0 ||
        add_type(module, &limiter_spec, &state->limiter_type) < 0 ||
        add_type(module, &given_limits_spec, &state->given_type) < 0 ||
        add_type(module, &asgi_spec, &state->asgi_type) < 0 ||
        add_type(module, &sender_spec, &state->sender_type) < 0 ||
        add_type(module, &walk_spec, &state->walk_type) < 0 ||
        add_type(module, &style_spec, &state->style_type) < 0 ||
        add_type(module, &routes_spec, &state->routes_type) < 0 ||
        add_type(module, &version_spec, &state->version_type) < 0 ||
        add_type(module, &policy_spec, &state->policy_type) < 0 ||
        add_type(module, &check_spec, &state->check_type) < 0 ||
        add_type(module, &verdict_spec, &state->verdict_type) < 0 ||
        add_type(module, &record_spec, &state->record_type) < 0 ||
        add_type(module, &recorder_spec, &state->recorder_type) < 0 ||
        add_type(module, &start_spec, &state->start_type) < 0 ||
        add_type(module, &wsgi_spec, &state->wsgi_type) < 0 ||
        add_type(module, &async_limiter_spec, &state->async_limiter_type) < 0 ||
        add_type(module, &async_method_spec, &state->async_method_type) < 0 ||
        add_type(module, &async_call_spec, &state->async_call_type) < 0 ||
        (state->one = PyLong_FromLong(1)) == NULL || core_names_init(state->names) < 0 ||
        add_store_error(module, state) < 0 || add_redis(module, state) < 0 ||
        PyModule_AddStringConstant(module, "BUILD", TEXT_OF(RL_BUILD) ", " BUILD_COMPILER) < 0 ||
        add_float(module, "MAX_CAPACITY", RL_CAPACITY_MAX) < 0 ||
        add_float(module, "MAX_REFILL_RATE", RL_RATE_MAX) < 0 ||
        PyModule_AddIntConstant(module, "MAX_LIMITS", RL_TABLE_LIMITS_MAX) < 0 ||
        PyModule_AddIntConstant(module, "METER_LAYOUT", RL_METER_LAYOUT) < 0 ||
        PyModule_AddIntConstant(module, "SKETCH_LAYOUT", RL_TOP_LAYOUT) < 0 ||
        PyModule_AddIntConstant(module, "SHARED_LAYOUT", RL_SHARED_LAYOUT) < 0) {
        return -1;
    }
    return 0;
}

static int core_traverse(PyObject *module, visitproc visit, void *arg)
{
    core_state *state = PyModule_GetState(module);
    Py_VISIT(state->limiter_type);
    Py_VISIT(state->given_type);
    Py_VISIT(state->decision_type);
    Py_VISIT(state->clock_type);
    Py_VISIT(state->meter_type);
    Py_VISIT(state->sketch_type);
    Py_VISIT(state->asgi_type);
    Py_VISIT(state->sender_type);
    Py_VISIT(state->walk_type);
    Py_VISIT(state->style_type);
    Py_VISIT(state->routes_type);
    Py_VISIT(state->version_type);
    Py_VISIT(state->policy_type);
    Py_VISIT(state->check_type);
    Py_VISIT(state->verdict_type);
    Py_VISIT(state->record_type);
    Py_VISIT(state->recorder_type);
    Py_VISIT(state->start_type);
    Py_VISIT(state->wsgi_type);
    Py_VISIT(state->async_limiter_type);
    Py_VISIT(state->async_method_type);
    Py_VISIT(state->async_call_type);
    Py_VISIT(state->store_error);
#ifndef RL_NO_REDIS
    Py_VISIT(state->redis_client_type);
    Py_VISIT(state->redis_buckets_type);
    Py_VISIT(state->redis_loop_type);
#endif
    return 0;
}

/* Free the memory of objects while their types are there, and keep none from now on. */
static void core_free_spares(core_state *state)
{
    state->keeps_spares = false;
    for (int i = 0; i < SPARE_COUNT; i++) {
        PyObject *spare = state->spares[i];
        state->spares[i] = NULL;
        if (spare != NULL) {
            Py_TYPE(spare)->tp_free(spare);
        }
    }
}

static int core_clear(PyObject *module)
{
    core_state *state = PyModule_GetState(module);
    core_free_spares(state);
    Py_CLEAR(state->limiter_type);
    Py_CLEAR(state->given_type);
    Py_CLEAR(state->decision_type);
    Py_CLEAR(state->clock_type);
    Py_CLEAR(state->meter_type);
    Py_CLEAR(state->sketch_type);
    Py_CLEAR(state->asgi_type);
    Py_CLEAR(state->sender_type);
    Py_CLEAR(state->walk_type);
    Py_CLEAR(state->style_type);
    Py_CLEAR(state->routes_type);
    Py_CLEAR(state->version_type);
    Py_CLEAR(state->policy_type);
    Py_CLEAR(state->check_type);
    Py_CLEAR(state->verdict_type);
    Py_CLEAR(state->record_type);
    Py_CLEAR(state->recorder_type);
    Py_CLEAR(state->start_type);
    Py_CLEAR(state->wsgi_type);
    Py_CLEAR(state->async_limiter_type);
    Py_CLEAR(state->async_method_type);
    Py_CLEAR(state->async_call_type);
    Py_CLEAR(state->one);
    Py_CLEAR(state->store_error);
#ifndef RL_NO_REDIS
    Py_CLEAR(state->redis_client_type);
    Py_CLEAR(state->redis_buckets_type);
    Py_CLEAR(state->redis_loop_type);
#endif
    for (int i = 0; i < NAME_COUNT; i++) {
        Py_CLEAR(state->names[i]);
    }
    for (int i = 0; i < RL_FIELD_COUNT; i++) {
        Py_CLEAR(state->last_fields[0][i].pair);
        Py_CLEAR(state->last_fields[1][i].pair);
    }
    return 0;
}

static void core_free(void *module)
{
    core_clear(module);
}

static PyMethodDef core_methods[] = {
    {"_restore_decision", decision_restore, METH_VARARGS, PyDoc_STR("Restore a pickled Decision.")},
    {"client_secret", core_client_secret, METH_O,
     PyDoc_STR(
         "client_secret(path, /)\n--\n\n"
         "Return the 16 random bytes that the users of a file share; the first one makes it.")},
    {"take_all", core_take_all, METH_O,
     PyDoc_STR(
         "take_all($module, requests, /)\n--\n\n"
         "Take the costs of all requests, or of none; return a tuple with a Decision of each.\n\n"
         "requests: a tuple of (limiter, key, cost), each with a Limiter, or of (limiter, key,\n"
         "cost, limits) with GivenLimits that are windows.")},
    {"client_key", walk_client_key, METH_O,
     PyDoc_STR("client_key($module, address, /)\n--\n\n"
               "Return the key of the client at an address (str).\n\n"
               "address: str; None or empty for a peer without an address, whose key is\n"
               "'unknown'. The key of an IPv6 address is its /64 network; any other text is\n"
               "returned unchanged.")},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
#ifdef Py_MOD_PER_INTERPRETER_GIL_SUPPORTED
    /* kept by tests/engine/test_interpreters.py: a subinterpreter with its own GIL */
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_MOD_GIL_NOT_USED
    /* kept by tests/engine/test_threads.py on a free-threaded build, tests/c under TSan */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "rate_limiter._core",
    .m_doc = PyDoc_STR("Token buckets in process memory: the C engine of rate_limiter."),
    .m_size = sizeof(core_state),
    .m_methods = core_methods,
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
