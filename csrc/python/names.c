/* names.c -- the strings and bytes that are needed at every request. */
#include "python/names.h"

static const char *const TEXTS[NAME_COUNT] = {
    [NAME_TYPE] = "type",
    [NAME_HTTP] = "http",
    [NAME_WEBSOCKET] = "websocket",
    [NAME_PATH] = "path",
    [NAME_ROOT_PATH] = "root_path",
    [NAME_CLIENT] = "client",
    [NAME_UNKNOWN] = "unknown",
    [NAME_HEADERS] = "headers",
    [NAME_RESPONSE_START] = "http.response.start",
    [NAME_ACCEPT] = "websocket.accept",
    [NAME_DENIAL_START] = "websocket.http.response.start",
    [NAME_DENY] = "_deny",
    [NAME_FORWARD] = "_forward",
    [NAME_PROBE] = "_probe",
    [NAME_RESOLVE] = "_resolve",
    [NAME_DONE] = "done",
    [NAME_SET_RESULT] = "set_result",
    [NAME_SET_EXCEPTION] = "set_exception",
    [NAME_NAME] = "name",
    [NAME_LIMIT] = "limit",
    [NAME_DECISION] = "decision",
    [NAME_CAPACITY] = "capacity",
    [NAME_PERIOD_S] = "period_s",
    [NAME_BEHIND_WAITERS] = "_behind_waiters",
    [NAME_EDGE_S] = "edge_s",
    [NAME_METHOD] = "method",
    [NAME_STATE] = "state",
    [NAME_RATE_LIMIT] = "rate_limit",
    [NAME_RATE_LIMITER] = "rate_limiter",
    [NAME_RULE] = "rule",
    [NAME_ALL] = "all",
    [NAME_UPPER] = "upper",
    [NAME_WEBSOCKET_METHOD] = "WEBSOCKET",
    [NAME_PATH_INFO] = "PATH_INFO",
    [NAME_REQUEST_METHOD] = "REQUEST_METHOD",
    [NAME_REMOTE_ADDR] = "REMOTE_ADDR",
    [NAME_REFRESH] = "_refresh",
    [NAME_SHADOWED] = "_shadowed",
    [NAME_FAILED] = "_failed",
    [NAME_FAIL] = "_fail",
    [NAME_CONCLUDE_NOW] = "_conclude_now",
    [NAME_SETTLEMENT] = "rate_limiter.settlement",
    [NAME_WAKE] = "_wake",
    [NAME_READ_LIMITS] = "_read_limits",
    [NAME_LIMITER_FOR] = "_limiter_for",
    [NAME_WATCH] = "_watch",
    [NAME_STATUS] = "_status",
    [NAME_OPTIONS] = "OPTIONS",
    [NAME_FIELD_LIMIT] = "X-RateLimit-Limit",
    [NAME_FIELD_REMAINING] = "X-RateLimit-Remaining",
    [NAME_FIELD_RESET] = "X-RateLimit-Reset",
    [NAME_FIELD_POLICY] = "RateLimit-Policy",
    [NAME_FIELD_STATE] = "RateLimit",
    [NAME_FIELD_RETRY_AFTER] = "Retry-After",
    [NAME_FIELD_CACHE_CONTROL] = "Cache-Control",
    [NAME_FIELD_EXPOSE] = "Access-Control-Expose-Headers",
    [NAME_HEADER_LIMIT] = "x-ratelimit-limit",
    [NAME_HEADER_REMAINING] = "x-ratelimit-remaining",
    [NAME_HEADER_RESET] = "x-ratelimit-reset",
    [NAME_HEADER_POLICY] = "ratelimit-policy",
    [NAME_HEADER_STATE] = "ratelimit",
    [NAME_HEADER_RETRY_AFTER] = "retry-after",
    [NAME_HEADER_CACHE_CONTROL] = "cache-control",
    [NAME_HEADER_EXPOSE] = "access-control-expose-headers",
    [NAME_ORIGIN] = "origin",
    [NAME_REQUESTED_METHOD] = "access-control-request-method",
};

int core_names_init(PyObject *names[NAME_COUNT])
{
    for (int i = 0; i < NAME_COUNT; i++) {
        names[i] = i < NAME_HEADER_LIMIT ? PyUnicode_InternFromString(TEXTS[i])
                                         : PyBytes_FromString(TEXTS[i]);
        if (names[i] == NULL) {
            return -1;
        }
    }
    return 0;
}
