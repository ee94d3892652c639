/* failure.c -- the first exception of several steps that must all run. */
#include "python/redis/failure.h"

void loop_failure_add(loop_failure *failure, PyObject *where)
{
    if (failure->type == NULL) {
        PyErr_Fetch(&failure->type, &failure->error, &failure->trace);
    } else {
        PyErr_WriteUnraisable(where);
    }
}

PyObject *loop_failure_result(loop_failure failure)
{
    if (failure.type == NULL) {
        Py_RETURN_NONE;
    }
    PyErr_Restore(failure.type, failure.error, failure.trace);
    return NULL;
}
