/* tiers.c -- the tiers of a request, by the ranks that rules give them. */
#include "python/path.h"

/* Keep the ranks in order, the highest first, each once. */
static void tier_ranks_insert(tier_ranks *tiers, int rank)
{
    size_t at = 0;
    while (at < tiers->n && tiers->ranks[at] > rank) {
        at++;
    }
    if (at == TIERS_MAX || (at < tiers->n && tiers->ranks[at] == rank)) {
        return;
    }
    tiers->n += tiers->n < TIERS_MAX;
    for (size_t i = tiers->n - 1; i > at; i--) {
        tiers->ranks[i] = tiers->ranks[i - 1];
    }
    tiers->ranks[at] = rank;
}

/* 0, or -1 with an exception set. A tier that no rule names counts for nothing. */
static int tier_ranks_add_one(tier_ranks *tiers, PyObject *known, PyObject *tier)
{
    PyObject *text = PyObject_Str(tier);
    PyObject *rank = /* borrowed */
        text != NULL ? PyDict_GetItemWithError(known, text) : NULL;
    long number = rank != NULL ? PyLong_AsLong(rank) : 0;
    if (rank != NULL && !PyErr_Occurred()) {
        tier_ranks_insert(tiers, (int)number);
    }
    Py_XDECREF(text);
    return PyErr_Occurred() ? -1 : 0;
}

int tier_ranks_add(tier_ranks *tiers, PyObject *known, PyObject *value)
{
    if (value == Py_None) {
        return 0;
    }
    if (!PyList_Check(value) && !PyTuple_Check(value) && !PyAnySet_Check(value)) {
        return tier_ranks_add_one(tiers, known, value);
    }
    PyObject *all = PySequence_Tuple(value);
    int status = all != NULL ? 0 : -1;
    for (Py_ssize_t i = 0; status == 0 && i < PyTuple_GET_SIZE(all); i++) {
        status = tier_ranks_add_one(tiers, known, PyTuple_GET_ITEM(all, i));
    }
    Py_XDECREF(all);
    return status;
}
