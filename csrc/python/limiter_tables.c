/* limiter_tables.c -- the methods of Limiter for all its buckets, including those of limits that came
 * with calls. */
#include "python/limiter_calls.h"

/* Return the next limiter with buckets of given limits, from number *i on. Borrowed; NULL: there are
 * no more. */
static limiter_object *limiter_next_given(const limiter_object *self, size_t *i)
{
    limiter_object *one = NULL;
    while (one == NULL && *i < LIMITER_TABLES_MAX) {
        one = atomic_load_explicit(&self->given[(*i)++], memory_order_acquire);
    }
    return one;
}

/* Make the buckets of a key full, whatever limits came with its calls. */
static PyObject *limiter_reset_given(const limiter_object *self, PyObject *key)
{
    size_t i = 0;
    limiter_object *one;
    while ((one = limiter_next_given(self, &i)) != NULL) {
        rl_key hash;
        if (limiter_hash_key(one, key, &hash) < 0) {
            return NULL;
        }
        rl_table_reset(one->table, hash);
    }
    Py_RETURN_NONE;
}

PyObject *limiter_reset(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames)
{
    limiter_object *self = limiter_of(object);
    core_key_cost given;
    rl_key hash;
    if (core_parse_key_cost("reset", "key", args, nargs, kwnames, &given) < 0) {
        return NULL;
    }
    if (given.cost != NULL) {
        PyErr_SetString(PyExc_TypeError, "reset() takes a key and no cost");
        return NULL;
    }
    if (!limiter_ready(self) || limiter_hash_key(self, given.key, &hash) < 0) {
        return NULL;
    }
    rl_table_reset(self->table, hash);
    return limiter_reset_given(self, given.key);
}

static PyObject *stats_as_dict(rl_table_stats stats)
{
    return Py_BuildValue("{sKsKsKsKsKsKsKsK}", "keys", stats.keys, "slots", stats.slots, "bytes",
                         stats.bytes, "allowed", stats.allowed, "denied", stats.denied, "inserted",
                         stats.inserted, "evicted_active", stats.evicted_active, "grow_failures",
                         stats.grow_failures);
}

/* Slots that are swept in about half a millisecond. */
#define SLOTS_AT_ONCE 16384u

/* Long enough for a thread that waits for the GIL to wake up and take it. */
static void let_threads_run(void)
{
    const struct timespec pause = {.tv_nsec = 20000};
    Py_BEGIN_ALLOW_THREADS;
    nanosleep(&pause, NULL);
    Py_END_ALLOW_THREADS;
}

/* Add the counts of one limiter. Locks are held only with the GIL, so that a fork copies none that is
 * locked. So a large table is swept in parts, and other threads run between them. */
static int limiter_add_stats(const limiter_object *self, rl_table_stats *total)
{
    size_t next = 0;
    rl_time now;
    bool more = true;
    while (more) {
        if (limiter_now(self, &now) < 0) {
            return -1;
        }
        more = rl_table_sweep_part(self->table, now, SLOTS_AT_ONCE, &next, total);
        if (more) {
            let_threads_run();
        }
    }
    return 0;
}

PyObject *limiter_stats(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    limiter_object *self = limiter_of(object);
    if (!limiter_ready(self)) {
        return NULL;
    }
    rl_table_stats stats = {0};
    size_t i = 0;
    const limiter_object *one = self;
    do {
        if (limiter_add_stats(one, &stats) < 0) {
            return NULL;
        }
        one = limiter_next_given(self, &i);
    } while (one != NULL);
    return stats_as_dict(stats);
}

/* In parts, as limiter_stats. */
PyObject *limiter_reset_all(PyObject *object, PyObject *Py_UNUSED(none))
{
    limiter_object *self = limiter_of(object);
    if (!limiter_ready(self)) {
        return NULL;
    }
    size_t i = 0;
    const limiter_object *one = self;
    do {
        size_t next = 0;
        while (rl_table_reset_part(one->table, &next)) {
            let_threads_run();
        }
        one = limiter_next_given(self, &i);
    } while (one != NULL);
    Py_RETURN_NONE;
}

static void stats_add(rl_table_stats *total, rl_table_stats more)
{
    total->keys += more.keys;
    total->slots += more.slots;
    total->bytes += more.bytes;
    total->allowed += more.allowed;
    total->denied += more.denied;
    total->inserted += more.inserted;
    total->evicted_active += more.evicted_active;
    total->grow_failures += more.grow_failures;
}

PyObject *limiter_counts(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    limiter_object *self = limiter_of(object);
    if (!limiter_ready(self)) {
        return NULL;
    }
    rl_table_stats stats = rl_table_count(self->table);
    size_t i = 0;
    const limiter_object *one;
    while ((one = limiter_next_given(self, &i)) != NULL) {
        stats_add(&stats, rl_table_count(one->table));
    }
    return stats_as_dict(stats);
}
