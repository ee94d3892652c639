/* python/asgi.h -- what AsgiMiddleware and Sender share. */
#ifndef RL_PYTHON_ASGI_H
#define RL_PYTHON_ASGI_H

#include "python/core.h"

/* Return true if a text equals this name. */
bool asgi_is_name(const core_state *state, PyObject *text, core_name name);

/* A value of a dict: a new reference, NULL without an exception when the key is
 * missing, or NULL with an exception set. */
PyObject *asgi_get(const core_state *state, PyObject *dict, core_name name);

/* Wrap the `send` of a request, so that the response has the headers of a decision. NULL with
 * an exception set. */
PyObject *asgi_sender_new(core_state *state, PyObject *send, const rl_decision *decision);

#endif
