/* python/core.h -- what the files of the extension module share.
 *
 * The binding turns Python arguments into calls of the C core and results into
 * Python objects. For memory it holds the GIL throughout, where there is one: a
 * decision is shorter than handing the GIL over. While it waits for Redis it does not. It never calls Python with a lock of the
 * core held, so a fork by Python (which stops other threads in a free-threaded
 * build, and needs the GIL in the other) never happens while one is held. */
#ifndef RL_PYTHON_CORE_H
#define RL_PYTHON_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdatomic.h>
#include <time.h>

#include "engine/meter.h"
#include "engine/table.h"

/* Strings and bytes that are needed at every request: see asgi_sender.c. */
typedef enum core_name {
    NAME_TYPE,
    NAME_HTTP,
    NAME_WEBSOCKET,
    NAME_PATH,
    NAME_ROOT_PATH,
    NAME_CLIENT,
    NAME_UNKNOWN,
    NAME_HEADERS,
    NAME_RESPONSE_START,
    NAME_ACCEPT,
    NAME_DENIAL_START,
    NAME_DENY,
    NAME_FORWARD,
    NAME_PROBE,
    NAME_RESOLVE,
    NAME_DONE,
    NAME_SET_RESULT,
    NAME_SET_EXCEPTION,
    NAME_NAME,
    NAME_LIMIT,
    NAME_DECISION,
    NAME_CAPACITY,
    NAME_PERIOD_S,
    NAME_WINDOW_S,
    NAME_HEADER_LIMIT, /* from here on bytes */
    NAME_HEADER_REMAINING,
    NAME_HEADER_RESET,
    NAME_HEADER_RETRY_AFTER,
    NAME_HEADER_CACHE_CONTROL,
    NAME_NO_STORE,
    NAME_COUNT
} core_name;

/* Everything that belongs to one import of the module in one interpreter. */
typedef struct core_state {
    PyTypeObject *limiter_type;  /* strong */
    PyTypeObject *decision_type; /* strong */
    PyTypeObject *clock_type;    /* strong */
    PyTypeObject *meter_type;    /* strong */
    PyTypeObject *asgi_type;     /* strong */
    PyTypeObject *sender_type;   /* strong */
    PyTypeObject *walk_type;     /* strong */
    PyTypeObject *style_type;    /* strong */
    PyTypeObject *routes_type;   /* strong */
    PyObject *store_error;       /* strong; StoreError */
#ifndef RL_NO_REDIS
    PyTypeObject *redis_client_type;  /* strong */
    PyTypeObject *redis_buckets_type; /* strong */
    PyTypeObject *redis_loop_type;    /* strong */
#endif
    PyObject *names[NAME_COUNT]; /* strong */
} core_state;

extern PyModuleDef core_module;
extern PyType_Spec limiter_spec;
extern PyType_Spec decision_spec;
extern PyType_Spec clock_spec;
extern PyType_Spec meter_spec;
extern PyType_Spec asgi_spec;
extern PyType_Spec sender_spec;
extern PyType_Spec walk_spec;
extern PyType_Spec style_spec;
extern PyType_Spec routes_spec;
#ifndef RL_NO_REDIS
extern PyType_Spec redis_client_spec;
extern PyType_Spec redis_buckets_spec;
extern PyType_Spec redis_loop_spec;
#endif

/* Make the names of a new state. 0, or -1 with an exception set. */
int asgi_names_init(core_state *state);

/* client_key(address): the client that an address (str or None) stands for. */
PyObject *asgi_client_key(PyObject *module, PyObject *address);

/* The state behind a type of this module or a subclass of one. Borrowed: it
 * lives as long as the type. NULL with an exception set. */
core_state *core_state_of(PyTypeObject *type);

/* A new Decision, or NULL with an exception set. */
PyObject *decision_new(core_state *state, const rl_decision *value);

/* A tuple of Decisions: the one to tell of, and behind it `n` of all limits. NULL with an
 * exception set. */
PyObject *decisions_new(core_state *state, const rl_decision *told, const rl_decision *each,
                        size_t n);

/* The value of a Decision, which lives as long as that. NULL with an exception set when it is
 * something else. */
const rl_decision *decision_value(core_state *state, PyObject *decision);

/* Restore a pickled Decision: see decision_reduce. */
PyObject *decision_restore(PyObject *module, PyObject *args);

/* Read a limit: (capacity, refill_rate), or (count, window_s, sliding) of a window. 0, or -1 with
 * an exception set. */
int core_parse_limit(PyObject *limit, rl_limit *out);

/* A key as bytes. `owner` keeps them, where they are not the key's own: free it
 * with Py_XDECREF. */
typedef struct core_text {
    const char *data;
    size_t len;
    PyObject *owner; /* strong, or NULL */
} core_text;

/* Read a key (str or bytes). 0, or -1 with an exception set. */
int core_parse_key(PyObject *key, core_text *out);

/* Read a cost in tokens: a finite number >= 0. 0, or -1 with an exception set. */
int core_parse_cost(PyObject *cost, double *tokens);

/* The arguments (key, cost=1), each by position or name. */
typedef struct core_key_cost {
    PyObject *key;  /* borrowed from args */
    PyObject *cost; /* borrowed from args; NULL: not given */
} core_key_cost;

/* Read them; `first` is the name of the first one. 0, or -1 with an exception set. */
int core_parse_key_cost(const char *function, const char *first, PyObject *const *args,
                        Py_ssize_t nargs, PyObject *kwnames, core_key_cost *out);

#define CORE_FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

/* The numbers of a Meter, which live as long as that. NULL with an exception set when it is
 * something else. */
rl_meter *meter_value(core_state *state, PyObject *meter);

/* Add METER_BOUNDS_NS to the module. 0, or -1 with an exception set. */
int meter_add_bounds(PyObject *module);

/* The time of a ManualClock. */
int64_t clock_now_ns(PyObject *clock);

/* Cheaper than the exact one, in steps of some milliseconds. */
#if defined(CLOCK_MONOTONIC_COARSE)
#define CORE_COARSE_CLOCK CLOCK_MONOTONIC_COARSE
#elif defined(CLOCK_MONOTONIC_RAW_APPROX)
#define CORE_COARSE_CLOCK CLOCK_MONOTONIC_RAW_APPROX
#endif

/* How a limiter tells the time. */
typedef enum clock_kind { CLOCK_KIND_MONOTONIC, CLOCK_KIND_COARSE, CLOCK_KIND_MANUAL } clock_kind;

/* The C half of a rate limiter in process memory. Immutable but for the table, and for the meter,
 * which is set once. */
typedef struct limiter_object {
    PyObject_HEAD
    core_state *state; /* borrowed from the type */
    rl_table *table;   /* owned; NULL before __init__ */
    size_t n_limits;
    rl_limit limits[RL_TABLE_LIMITS_MAX];
    uint64_t one[RL_TABLE_LIMITS_MAX]; /* the default cost, 1 token */
    bool has_windows;                  /* among the limits, which go by the wall clock */
    clock_kind clock_kind;
    PyObject *clock;                 /* strong; NULL unless manual */
    _Atomic(PyObject *) measured_by; /* strong; a Meter, or NULL */
    _Atomic(rl_meter *) meter;       /* of measured_by; NULL: nothing is measured */
} limiter_object;

/* Was it initialised? 1, or 0 with an exception set. */
int limiter_ready(const limiter_object *self);

/* The time that it goes by. */
rl_time limiter_now(const limiter_object *self);

extern PyMethodDef limiter_methods[];

/* Decide for a key given as str or bytes, at a cost in tokens (NULL: 1), by the
 * limiter's clock. 0, or -1 with an exception set and nothing taken. */
int limiter_decide(limiter_object *self, PyObject *key, PyObject *cost, bool *allowed,
                   rl_decision *out);

#endif
