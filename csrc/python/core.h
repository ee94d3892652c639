/* python/core.h -- what the files of the extension module share.
 *
 *     core.h <─┬─ clock.h, meter.h <─ limiter.h <─ path.h    decide in this process; handle requests
 *              └─ redis/redis.h                              decide on Redis
 *
 * The binding turns Python arguments into calls of the C core and results into
 * Python objects. In-memory decisions hold the GIL throughout, where there is one:
 * a decision is shorter than handing the GIL over. Waiting for Redis releases it.
 * Python is never called with a lock of the core held, so a fork by Python (which
 * stops other threads in a free-threaded build, and needs the GIL in the other)
 * never happens while one is held. */
#ifndef RL_PYTHON_CORE_H
#define RL_PYTHON_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "engine/table.h"
#include "http/fields.h"
#include "python/names.h"

/* A header field of an earlier response. */
typedef struct core_last_field {
    PyObject *pair; /* strong; NULL: there is none */
    int64_t number; /* the value, if it is a number */
} core_last_field;

/* Objects that requests and decisions make, of which the memory of one is kept. */
typedef enum core_spare {
    SPARE_DECISION,
    SPARE_VERDICT, /* of one limit */
    SPARE_RECORD,
    SPARE_SENDER,
    SPARE_ASYNC_CALL,
    SPARE_COUNT
} core_spare;

/* Everything that belongs to one import of the module in one interpreter. */
typedef struct core_state {
    PyTypeObject *limiter_type;       /* strong */
    PyTypeObject *given_type;         /* strong */
    PyTypeObject *decision_type;      /* strong */
    PyTypeObject *clock_type;         /* strong */
    PyTypeObject *meter_type;         /* strong */
    PyTypeObject *sketch_type;        /* strong */
    PyTypeObject *asgi_type;          /* strong */
    PyTypeObject *sender_type;        /* strong */
    PyTypeObject *walk_type;          /* strong */
    PyTypeObject *style_type;         /* strong */
    PyTypeObject *routes_type;        /* strong */
    PyTypeObject *version_type;       /* strong */
    PyTypeObject *policy_type;        /* strong */
    PyTypeObject *check_type;         /* strong */
    PyTypeObject *verdict_type;       /* strong */
    PyTypeObject *record_type;        /* strong */
    PyTypeObject *recorder_type;      /* strong */
    PyTypeObject *start_type;         /* strong */
    PyTypeObject *wsgi_type;          /* strong */
    PyTypeObject *async_limiter_type; /* strong */
    PyTypeObject *async_method_type;  /* strong */
    PyTypeObject *async_call_type;    /* strong */
    PyObject *store_error;            /* strong; StoreError */
#ifndef RL_NO_REDIS
    PyTypeObject *redis_client_type;  /* strong */
    PyTypeObject *redis_buckets_type; /* strong */
    PyTypeObject *redis_loop_type;    /* strong */
#endif
    PyObject *spares[SPARE_COUNT]; /* owned; the memory of freed objects, or NULL */
    bool keeps_spares;             /* true until the types are cleared */
    PyObject *one;                 /* strong; the int 1 */
    PyObject *names[NAME_COUNT];   /* strong */
    core_last_field last_fields[2][RL_FIELD_COUNT]; /* see record_fields.c */
} core_state;

extern PyModuleDef core_module;
extern PyType_Spec limiter_spec;
extern PyType_Spec given_limits_spec;
extern PyType_Spec decision_spec;
extern PyType_Spec clock_spec;
extern PyType_Spec meter_spec;
extern PyType_Spec sketch_spec;
extern PyType_Spec asgi_spec;
extern PyType_Spec sender_spec;
extern PyType_Spec walk_spec;
extern PyType_Spec style_spec;
extern PyType_Spec routes_spec;
extern PyType_Spec version_spec;
extern PyType_Spec policy_spec;
extern PyType_Spec check_spec;
extern PyType_Spec verdict_spec;
extern PyType_Spec record_spec;
extern PyType_Spec recorder_spec;
extern PyType_Spec start_spec;
extern PyType_Spec wsgi_spec;
extern PyType_Spec async_limiter_spec;
extern PyType_Spec async_method_spec;
extern PyType_Spec async_call_spec;
#ifndef RL_NO_REDIS
extern PyType_Spec redis_client_spec;
extern PyType_Spec redis_buckets_spec;
extern PyType_Spec redis_loop_spec;
#endif

/* client_key(address): the key of the client at an address (str or None). */
PyObject *walk_client_key(PyObject *module, PyObject *address);

/* The state of the module that a type or one of its bases belongs to. Borrowed: it
 * lives as long as the type. NULL with an exception set. */
core_state *core_state_of(PyTypeObject *type);

/* Let the module dataclasses and `match` read a Decision as (allowed, remaining, retry_after_ms),
 * the parameters of its constructor by position. 0, or -1 with an exception set. */
int decision_describe_fields(PyTypeObject *type);

/* A new Decision, or NULL with an exception set. */
PyObject *decision_new(core_state *state, const rl_decision *value);

/* Return the memory of the last object that was freed as a new one, or NULL: there is none. The
 * GIL guards it; without one no memory is kept. */
static inline PyObject *core_take_spare(core_state *state, core_spare which, PyTypeObject *type)
{
    PyObject *spare = state->spares[which];
    if (spare != NULL) {
        state->spares[which] = NULL;
        Py_INCREF(type);
        _Py_NewReference(spare); /* PyObject_Init() would set the same type again */
    }
    return spare;
}

/* Keep or free the memory of an object: the end of its tp_dealloc. `state` is that of its type, or
 * NULL. */
static inline void core_free_object_of(core_state *state, PyObject *dead, core_spare which)
{
    PyTypeObject *type = Py_TYPE(dead);
#ifndef Py_GIL_DISABLED
    if (state != NULL && state->keeps_spares && state->spares[which] == NULL) {
        state->spares[which] = dead;
        Py_DECREF(type);
        return;
    }
#else
    (void)state;
    (void)which;
#endif
    type->tp_free(dead);
    Py_DECREF(type);
}

/* The same for an object of a type that the collector of cycles may clear before the object. */
static inline void core_free_object(PyObject *dead, core_spare which)
{
    core_free_object_of(PyType_GetModuleState(Py_TYPE(dead)), dead, which);
}

/* As PyObject_TypeCheck(), but cheaper for objects of direct subclasses. */
static inline bool core_is_a(PyObject *object, PyTypeObject *type)
{
    return Py_TYPE(object) == type || Py_TYPE(object)->tp_base == type ||
           PyType_IsSubtype(Py_TYPE(object), type);
}

/* A tuple of Decisions: the tightest one, and behind it `n`, one of each limit. NULL with an
 * exception set. */
PyObject *decisions_new(core_state *state, const rl_decision *tightest, const rl_decision *each,
                        size_t n);

/* The value of a Decision. Borrowed: it lives as long as the Decision. NULL with an exception set
 * when the object is no Decision. */
const rl_decision *decision_value(core_state *state, PyObject *decision);

/* Return true if two decisions have the same fields. */
bool decision_equals(const rl_decision *a, const rl_decision *b);

/* Restore a pickled Decision: see decision_reduce. */
PyObject *decision_restore(PyObject *module, PyObject *args);

/* Read a limit: (capacity, refill_rate), or (count, window_s, sliding) of a window, or the general
 * form (capacity, refill_rate or window_s, kind, count_denied, unit, zone), where kind is "bucket",
 * "fixed", "first" or "sliding" and zone is the bytes of an rl_zone for a unit. The limit borrows
 * its zone, which core_limit_zones() keeps. 0, or -1 with an exception set. */
int core_parse_limit(PyObject *limit, rl_limit *out);

/* Return a tuple of the zones of limits that core_parse_limit() has read, or NULL with an exception
 * set. */
PyObject *core_limit_zones(PyObject *limits);

/* A key as bytes: those of the key itself, or of `owner`. Free it with
 * Py_XDECREF(owner). */
typedef struct core_text {
    const char *data;
    size_t len;
    PyObject *owner; /* strong, or NULL */
} core_text;

/* Read a key (str or bytes). 0, or -1 with an exception set. */
int core_parse_any_key(PyObject *key, core_text *out);

/* Return the characters of a key that is ASCII, as most are, and so UTF-8 already; else NULL. */
static inline const char *core_ascii_of(PyObject *key)
{
    return PyUnicode_Check(key) && PyUnicode_IS_COMPACT_ASCII(key)
               ? (const char *)((PyASCIIObject *)key + 1)
               : NULL;
}

/* The same as core_parse_any_key(), faster for most keys. */
static inline int core_parse_key(PyObject *key, core_text *out)
{
    const char *data = core_ascii_of(key);
    if (data != NULL) {
        *out = (core_text){data, (size_t)PyUnicode_GET_LENGTH(key), NULL};
        return 0;
    }
    return core_parse_any_key(key, out);
}

/* Read a cost in tokens: a finite number >= 0. 0, or -1 with an exception set. */
int core_parse_cost(PyObject *cost, double *tokens);

/* Read a time in seconds, a finite number >= 0, as nanoseconds, rounded up; 100 years at most. 0, or -1
 * with an exception set. */
int core_parse_block(PyObject *seconds, int64_t *ns);

/* Read a cost for each of `n` limits into `tokens`: one number for all, or a tuple with a number for
 * each. NULL: 1 for all. 0, or -1 with an exception set. */
int core_parse_costs(PyObject *cost, size_t n, double *tokens);

/* Read a count, an int from 0 to 2**64 - 1, into a uint64_t: for "O&" of PyArg_Parse. 1, or 0 with an
 * exception set. */
int core_parse_count(PyObject *count, void *out);

/* The arguments (key, cost=1, limits=None), each by position or name. */
typedef struct core_key_cost {
    PyObject *key;    /* borrowed from args */
    PyObject *cost;   /* borrowed from args; NULL: not given */
    PyObject *limits; /* borrowed from args; NULL: not given, or None */
} core_key_cost;

/* Read the arguments (first, second), of which the second one may be missing. 0, or -1 with an
 * exception set. */
int core_parse_pair(const char *function, const char *first, const char *second,
                    PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, core_key_cost *out);

/* Read (first, cost); most calls give only the first one, by position. */
static inline int core_parse_key_cost(const char *function, const char *first,
                                      PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                                      core_key_cost *out)
{
    if (nargs == 1 && kwnames == NULL) {
        *out = (core_key_cost){args[0], NULL, NULL};
        return 0;
    }
    return core_parse_pair(function, first, "cost", args, nargs, kwnames, out);
}

/* The same of the arguments (first, cost, limits), of which only the first one may not be missing. */
int core_parse_three(const char *function, const char *first, PyObject *const *args,
                     Py_ssize_t nargs, PyObject *kwnames, core_key_cost *out);

static inline int core_parse_key_cost_limits(const char *function, const char *first,
                                             PyObject *const *args, Py_ssize_t nargs,
                                             PyObject *kwnames, core_key_cost *out)
{
    if (nargs == 1 && kwnames == NULL) {
        *out = (core_key_cost){args[0], NULL, NULL};
        return 0;
    }
    return core_parse_three(function, first, args, nargs, kwnames, out);
}

#define CORE_FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

#if PY_VERSION_HEX >= 0x030D0000
#define LOCKED(object) Py_BEGIN_CRITICAL_SECTION(object)
#define UNLOCKED Py_END_CRITICAL_SECTION()
#else /* the GIL */
#define LOCKED(object) {
#define UNLOCKED }
#endif

#endif
