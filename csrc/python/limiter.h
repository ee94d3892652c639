/* python/limiter.h -- the C half of an in-memory rate limiter: see limiter.c. */
#ifndef RL_PYTHON_LIMITER_H
#define RL_PYTHON_LIMITER_H

#include "python/clock.h"
#include "python/meter.h"

/* Tables for limits that come with calls: one for all buckets, the others for windows. */
#define LIMITER_TABLES_MAX 17

/* The C half of an in-memory rate limiter. Immutable, except for the tables, and for the meter,
 * which is set once. */
typedef struct limiter_object {
    PyObject_HEAD
    core_state *state; /* borrowed from the type */
    rl_table *table;   /* owned; NULL before __init__ */
    size_t n_limits;
    PyObject *zones; /* strong; a tuple, from which the limits borrow */
    rl_limit limits[RL_TABLE_LIMITS_MAX];
    uint64_t one[RL_TABLE_LIMITS_MAX]; /* the default cost, 1 token */
    bool has_windows;                  /* among the limits; they follow the wall clock */
    bool waiters_first;                /* ask the Python half whether others wait for the key */
    clock_kind clock_kind;
    PyObject *clock;                 /* strong; NULL unless manual or a callable */
    _Atomic(PyObject *) measured_by; /* strong; a Meter, or NULL */
    _Atomic(core_meter *) meter;     /* of measured_by; NULL: not measured */
    /* strong; of limits that come with calls: the first for buckets, the others for windows, in
     * order; each is set once, NULL: none yet */
    _Atomic(struct limiter_object *) given[LIMITER_TABLES_MAX];
} limiter_object;

/* GivenLimits: limits that come with calls, prepared. Immutable. */
typedef struct given_limits_object {
    PyObject_HEAD
    rl_limit_set set;
    uint64_t one[RL_TABLE_LIMITS_MAX]; /* the default cost, 1 token */
    double period_s[RL_TABLE_LIMITS_MAX];
    int64_t edge_s[RL_TABLE_LIMITS_MAX];
    bool has_windows;
    PyObject *limits; /* strong; a tuple of what each was made of */
    PyObject *engine; /* strong; a tuple of the same as core_parse_limit() reads it */
    PyObject *zones;  /* strong; a tuple, from which the limits borrow */
} given_limits_object;

static inline limiter_object *limiter_of(PyObject *self)
{
    return (limiter_object *)self;
}

/* Return 1 if it was initialised, else 0 with an exception set. */
static inline int limiter_ready(const limiter_object *self)
{
    if (self->table == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this limiter was not initialised: call __init__ first");
        return 0;
    }
    return 1;
}

/* Read the time of a limiter that has another clock than the steady one alone. 0, or -1 with an
 * exception set. */
RL_APART int limiter_now_by_any(const limiter_object *self, rl_time *now);

/* Read the time by its clock, which may call Python. The wall clock is read only where a window
 * needs it. 0, or -1 with an exception set. */
static inline int limiter_now(const limiter_object *self, rl_time *now)
{
    if (self->clock_kind == CLOCK_KIND_MONOTONIC && !self->has_windows) {
        *now = (rl_time){core_steady_ns(), 0};
        return 0;
    }
    return limiter_now_by_any(self, now);
}

extern PyMethodDef limiter_methods[]; /* of limiter_methods.c */

/* Read a key and a cost (NULL: 1) of a limiter. The costs of each limit are in `room`, or those of
 * the limiter. 0, or -1 with an exception set. */
int limiter_read_request(const limiter_object *self, PyObject *key, PyObject *cost, rl_key *hash,
                         uint64_t *room, const uint64_t **costs);

/* Wake who waits for a key, since there may be tokens. */
void limiter_wake_waiters(limiter_object *self, PyObject *key);

/* ---- limiter_given.c */

/* The methods that take limits. */
typedef enum limiter_method {
    METHOD_ALLOW,
    METHOD_HIT,
    METHOD_TAKE,
    METHOD_HIT_EACH,
    METHOD_PEEK,
    METHOD_PEEK_EACH,
    METHOD_CHARGE,
    METHOD_REFUND,
} limiter_method;

/* Call a method with limits, which are not NULL. A new reference, or NULL with an exception set. */
PyObject *limiter_call_given(limiter_object *self, limiter_method method,
                             const core_key_cost *args);

/* Decide with limits for each of several keys, a tuple made by the caller. A list of bools, or NULL
 * with an exception set. */
PyObject *limiter_allow_many_given(limiter_object *self, PyObject *keys, const core_key_cost *args);

/* As limiter_decide() with limits. */
int limiter_decide_given(limiter_object *self, const core_key_cost *args, bool *allowed,
                         rl_decision *out, rl_decision *each);

/* As limiter_give_back() with limits. 0, or -1 with an exception set. */
int limiter_refund_given(limiter_object *self, PyObject *key, given_limits_object *given,
                         const double *tokens);

/* Read a key, a cost and GivenLimits, which the caller keeps, at the time of the limiter's clock. The
 * costs are in `room`, or in the limits. 0, or -1 with an exception set. */
int limiter_read_given(limiter_object *self, const core_key_cost *args, rl_request *out,
                       uint64_t *room);

/* Return the limiter that holds the buckets of given limits, made if there is none. Borrowed: it lives
 * as long as `self`. NULL with an exception set. */
limiter_object *limiter_table_for(limiter_object *self, given_limits_object *given);

/* Let a new limiter use the buckets of given limits that another one has. */
void limiter_share_tables(limiter_object *self, const limiter_object *other);

/* Return the denial of a request that may not overtake those who wait for its key: a tuple of
 * Decisions. NULL: there is none, or an exception is set. In limiter_shared.c. */
PyObject *limiter_behind(limiter_object *self, const core_key_cost *args);

/* Read the Decisions of a denial by `n` limits, which it frees; `out` and `each` may be NULL. 0, or -1
 * with an exception set. */
int limiter_read_denial(const limiter_object *self, PyObject *denial, size_t n, rl_decision *out,
                        rl_decision *each);

/* take_all(requests): see together.c. */
PyObject *core_take_all(PyObject *module, PyObject *requests);

/* Decide for a key (str or bytes) at a cost in tokens (NULL: 1), at the time of the
 * limiter's clock. *out, the decision of the tightest limit, and `each`, one of each limit, may be
 * NULL. 0, or -1 with an exception set and nothing taken. */
int limiter_decide(limiter_object *self, PyObject *key, PyObject *cost, bool *allowed,
                   rl_decision *out, rl_decision *each);

/* Give back what limiter_decide() took for a key, a number for each limit, and wake who waits for
 * it. No memory is needed, except for a key with lone surrogates. 0, or -1 with an exception set and
 * nothing given back. */
int limiter_give_back(limiter_object *self, PyObject *key, const double *tokens);

#endif
