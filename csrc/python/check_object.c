/* check_object.c -- Check: a check of a request while something is awaited. */
#include "python/path.h"

typedef struct check_object {
    PyObject_HEAD
    check check;
} check_object;

PyObject *check_object_new(core_state *state, check *check)
{
    PyObject *self = state->check_type->tp_alloc(state->check_type, 0);
    if (self != NULL) {
        ((check_object *)self)->check = *check;
        *check = (struct check){.phase = CHECK_BYPASS};
    }
    return self;
}

check *check_object_value(const core_state *state, PyObject *object)
{
    if (!PyObject_TypeCheck(object, state->check_type)) {
        PyErr_Format(PyExc_TypeError, "expected a Check, not %.200s", Py_TYPE(object)->tp_name);
        return NULL;
    }
    return &((check_object *)object)->check;
}

static PyObject *check_get_awaitable(PyObject *self, void *Py_UNUSED(closure))
{
    PyObject *awaitable = ((check_object *)self)->check.awaitable;
    return Py_NewRef(awaitable != NULL ? awaitable : Py_None);
}

static PyObject *check_get_place(PyObject *self, void *Py_UNUSED(closure))
{
    return check_place(&((check_object *)self)->check);
}

static int check_traverse(PyObject *object, visitproc visit, void *arg)
{
    const check *check = &((check_object *)object)->check;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(check->version);
    Py_VISIT(check->scope);
    Py_VISIT(check->subject);
    Py_VISIT(check->found);
    Py_VISIT(check->own_key);
    Py_VISIT(check->key);
    Py_VISIT(check->given);
    Py_VISIT(check->cost);
    Py_VISIT(check->awaitable);
    Py_VISIT(check->record);
    Py_VISIT(check->verdict);
    Py_VISIT(check->pending);
    Py_VISIT(check->sender);
    return 0;
}

static int check_tp_clear(PyObject *object)
{
    check_clear(&((check_object *)object)->check);
    return 0;
}

static void check_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    check_clear(&((check_object *)object)->check);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyGetSetDef check_getset[] = {
    {"awaitable", check_get_awaitable, NULL,
     PyDoc_STR("What must be awaited before the check goes on."), NULL},
    {"place", check_get_place, NULL,
     PyDoc_STR("What is awaited, for messages: (\"cost\", its ActiveRule or None)."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot check_slots[] = {
    {Py_tp_doc, PyDoc_STR("Hold a check of a request that waits for something.")},
    {Py_tp_dealloc, check_dealloc},
    {Py_tp_traverse, check_traverse},
    {Py_tp_clear, check_tp_clear},
    {Py_tp_getset, check_getset},
    {0, NULL},
};

PyType_Spec check_spec = {
    .name = "rate_limiter._core.Check",
    .basicsize = sizeof(check_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = check_slots,
};
