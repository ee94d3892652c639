/* python/meter.h -- what a Meter counts: decisions and their times, and the clients with the most. */
#ifndef RL_PYTHON_METER_H
#define RL_PYTHON_METER_H

#include <stdatomic.h>

#include "engine/meter.h"
#include "engine/top.h"
#include "python/core.h"

/* Raise the exception of a file that cannot be used: -1; RL_FILE_OK: 0. */
int core_refuse_file(rl_file_status status, PyObject *path);

/* The sketch of a ClientSketch. Borrowed: it lives as long as the object. NULL with an exception
 * set when the object is none. */
rl_top *sketch_value(core_state *state, PyObject *sketch);

/* Count `n` decisions with the same result for a key that was read before. `alias`: its hash in the
 * table that decided, or 0. */
void sketch_record(rl_top *top, PyObject *key, uint64_t alias, bool allowed, uint64_t n,
                   int64_t now_ns);

/* client_secret(path): the secret in a file, as bytes. */
PyObject *core_client_secret(PyObject *module, PyObject *path);

/* What a Meter counts. */
typedef struct core_meter {
    rl_meter *counts;
    _Atomic(rl_top *) clients; /* NULL: not counted; set once */
} core_meter;

/* The counts of a Meter. Borrowed: they live as long as the Meter. NULL with an exception set
 * when the object is no Meter, or is not initialised. */
core_meter *meter_value(core_state *state, PyObject *meter);

/* Count `n` decisions with the same result for a key, or for None; each took `elapsed_ns`. */
void meter_add(core_meter *meter, PyObject *key, bool allowed, uint64_t n, int64_t elapsed_ns);

/* Count a decision for a key, with its alias as for sketch_record; it took from `began_ns` until
 * `now_ns`. */
static inline void core_meter_record(core_meter *meter, PyObject *key, uint64_t alias, bool allowed,
                                     int64_t began_ns, int64_t now_ns)
{
    rl_meter_record(meter->counts, allowed, 1, now_ns - began_ns);
    rl_top *clients = atomic_load_explicit(&meter->clients, memory_order_acquire);
    if (clients != NULL) {
        sketch_record(clients, key, alias, allowed, 1, now_ns);
    }
}

#endif
