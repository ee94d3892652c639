/* python/redis/failure.h -- the first exception of several steps that must all run.
 *
 * Each step may fail, and the next one runs all the same. At the end the first exception is
 * raised; the others were reported as unraisable. */
#ifndef RL_PYTHON_REDIS_FAILURE_H
#define RL_PYTHON_REDIS_FAILURE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Starts as zeros. Must end in loop_failure_result(). */
typedef struct loop_failure {
    PyObject *type, *error, *trace; /* strong, or NULL */
} loop_failure;

/* A step has set an exception: keep it, or report it as unraisable if one is kept already. */
void loop_failure_add(loop_failure *failure, PyObject *where);

/* None, or NULL with the first exception set. */
PyObject *loop_failure_result(loop_failure failure);

#endif
