/* python/asgi.h -- what AsgiMiddleware and Sender share. */
#ifndef RL_PYTHON_ASGI_H
#define RL_PYTHON_ASGI_H

#include "python/core.h"

/* Is a text this name? */
bool asgi_is_name(const core_state *state, PyObject *text, core_name name);

/* A value of a dict: new reference, or NULL without an exception when it is not
 * there, or NULL with one. */
PyObject *asgi_get(const core_state *state, PyObject *dict, core_name name);

/* Wrap the `send` of a request, so that the response tells of a decision. NULL with an
 * exception set. */
PyObject *asgi_sender_new(core_state *state, PyObject *send, const rl_decision *decision);

#endif
