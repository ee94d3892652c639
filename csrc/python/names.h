/* python/names.h -- the strings and bytes that are needed at every request.
 *
 * They are made once for each import of the module (core_state.names), so that a request compares
 * and passes objects and makes none. Texts are interned; header fields are bytes, as in ASGI. */
#ifndef RL_PYTHON_NAMES_H
#define RL_PYTHON_NAMES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

typedef enum core_name {
    NAME_TYPE,
    NAME_HTTP,
    NAME_WEBSOCKET,
    NAME_PATH,
    NAME_ROOT_PATH,
    NAME_CLIENT,
    NAME_UNKNOWN,
    NAME_HEADERS,
    NAME_RESPONSE_START,
    NAME_ACCEPT,
    NAME_DENIAL_START,
    NAME_DENY,
    NAME_FORWARD,
    NAME_PROBE,
    NAME_RESOLVE,
    NAME_DONE,
    NAME_SET_RESULT,
    NAME_SET_EXCEPTION,
    NAME_NAME,
    NAME_LIMIT,
    NAME_DECISION,
    NAME_CAPACITY,
    NAME_PERIOD_S,
    NAME_BEHIND_WAITERS,
    NAME_EDGE_S,
    NAME_METHOD,
    NAME_STATE,
    NAME_RATE_LIMIT,
    NAME_RATE_LIMITER,
    NAME_RULE,
    NAME_ALL,
    NAME_UPPER,
    NAME_WEBSOCKET_METHOD,
    NAME_PATH_INFO,
    NAME_REQUEST_METHOD,
    NAME_REMOTE_ADDR,
    NAME_REFRESH,
    NAME_SHADOWED,
    NAME_FAILED,
    NAME_FAIL,
    NAME_CONCLUDE_NOW,
    NAME_SETTLEMENT,
    NAME_WAKE,
    NAME_READ_LIMITS,
    NAME_LIMITER_FOR,
    NAME_WATCH,
    NAME_STATUS,
    NAME_OPTIONS,
    NAME_FIELD_LIMIT, /* the fields in the order of rl_field_name */
    NAME_FIELD_REMAINING,
    NAME_FIELD_RESET,
    NAME_FIELD_POLICY,
    NAME_FIELD_STATE,
    NAME_FIELD_RETRY_AFTER,
    NAME_FIELD_CACHE_CONTROL,
    NAME_FIELD_EXPOSE,
    NAME_HEADER_LIMIT, /* the same in lower case; from here on bytes */
    NAME_HEADER_REMAINING,
    NAME_HEADER_RESET,
    NAME_HEADER_POLICY,
    NAME_HEADER_STATE,
    NAME_HEADER_RETRY_AFTER,
    NAME_HEADER_CACHE_CONTROL,
    NAME_HEADER_EXPOSE,
    NAME_ORIGIN,
    NAME_REQUESTED_METHOD,
    NAME_COUNT
} core_name;

/* Make all names (strong references). Return 0, or -1 with an exception set; the names made until
 * then are the caller's, and the rest are unchanged. */
int core_names_init(PyObject *names[NAME_COUNT]);

#endif
