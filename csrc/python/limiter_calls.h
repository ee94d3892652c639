/* python/limiter_calls.h -- what the files with the methods of Limiter share.
 *
 *     limiter_methods.c ──┬─> limiter_decide.c    take tokens: allow, hit, allow_many
 *                         └─> limiter_tables.c    all buckets: stats, reset
 *
 * The other functions of limiter_decide.c are declared in limiter.h. */
#ifndef RL_PYTHON_LIMITER_CALLS_H
#define RL_PYTHON_LIMITER_CALLS_H

#include "python/limiter.h"

/* ---- limiter_decide.c */

/* Hash a key (str or bytes) for the tables of a limiter. 0, or -1 with an exception set. */
RL_APART int limiter_hash_any_key(const limiter_object *self, PyObject *key, rl_key *out);

/* The same, faster for most keys. */
static inline int limiter_hash_key(const limiter_object *self, PyObject *key, rl_key *out)
{
    const char *data = core_ascii_of(key);
    if (data != NULL) {
        *out = rl_table_key(self->table, data, (size_t)PyUnicode_GET_LENGTH(key));
        return 0;
    }
    return limiter_hash_any_key(self, key, out);
}

/* Convert tokens to units: rl_limit_cost(), rl_limit_charge() or rl_limit_refund(). */
typedef uint64_t (*cost_converter)(const rl_limit *limit, double tokens);

/* Read a key and a cost as limiter_read_request() does. `convert` turns a charge or a refund into
 * units; NULL: it is a cost. */
int limiter_read(const limiter_object *self, PyObject *key, PyObject *cost, cost_converter convert,
                 rl_key *hash, uint64_t *room, const uint64_t **costs);

/* Decide, without regard to others who wait; `name` is the key before it was hashed. Record the
 * decision if a meter is set. 0, or -1 with an exception set and nothing taken. */
int limiter_take(limiter_object *self, PyObject *name, rl_key key, const uint64_t *costs,
                 bool *allowed, rl_decision *out, rl_decision *each);

/* The same, but denied requests do not count: as rl_table_try(). */
int limiter_try(limiter_object *self, PyObject *name, rl_key key, const uint64_t *costs,
                bool *allowed, rl_decision *out, rl_decision *each);

/* Methods: see limiter_methods. */
PyObject *limiter_allow(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *limiter_hit(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *limiter_allow_many(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames);

/* ---- limiter_tables.c */

/* Methods: see limiter_methods. */
PyObject *limiter_reset(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames);
PyObject *limiter_reset_all(PyObject *object, PyObject *none);
PyObject *limiter_stats(PyObject *object, PyObject *ignored);
PyObject *limiter_counts(PyObject *object, PyObject *ignored);

#endif
