/* http/fields.h -- header fields that describe the limits of a request.
 *
 *     X-RateLimit-Limit, -Remaining, -Reset    of the tightest limit
 *     RateLimit-Policy, RateLimit              of all limits, structured fields (RFC 9651) of
 *                                              draft-ietf-httpapi-ratelimit-headers-11
 *     Retry-After, Cache-Control               of a denied request (RFC 9110, 10.2.3)
 *     Access-Control-Expose-Headers            the names of the others but Cache-Control
 *
 * Tokens are rounded down and times up to whole numbers. A time that never comes has no field. */
#ifndef RL_HTTP_FIELDS_H
#define RL_HTTP_FIELDS_H

#include "engine/bucket.h"
#include "http/address.h"

typedef enum rl_field_name {
    RL_FIELD_LIMIT,
    RL_FIELD_REMAINING,
    RL_FIELD_RESET,
    RL_FIELD_POLICY,
    RL_FIELD_STATE,
    RL_FIELD_RETRY_AFTER,
    RL_FIELD_CACHE_CONTROL,
    RL_FIELD_EXPOSE,
    RL_FIELD_COUNT
} rl_field_name;

/* "X-RateLimit-Limit", ... */
extern const char *const rl_field_names[RL_FIELD_COUNT];

typedef struct rl_field_style {
    bool x_ratelimit;
    bool ietf;
    bool is_epoch;   /* X-RateLimit-Reset as seconds since the epoch, not from now */
    bool exposes;    /* Access-Control-Expose-Headers */
    double jitter_s; /* Retry-After is up to so many seconds longer */
} rl_field_style;

/* One limit of a request, and its decision. */
typedef struct rl_limit_state {
    rl_text name; /* UTF-8; characters other than visible ASCII are written as "_" */
    rl_decision decision;
    double capacity;
    double period_s;  /* in which the capacity refills; INFINITY for never */
    int64_t window_s; /* length of a window, which ends on a multiple of it; 0: a bucket */
} rl_limit_state;

/* Of more limits the fields describe the tightest. */
#define RL_FIELD_LIMITS_MAX 64

typedef struct rl_field_input {
    rl_decision tightest;
    int64_t window_s;             /* of the tightest limit; 0: a bucket */
    const rl_limit_state *limits; /* borrowed; all of them, for the fields of the draft */
    size_t n_limits;
    double now_s;  /* since the epoch, for is_epoch */
    double spread; /* share of the jitter, from 0 to 1 */
} rl_field_input;

/* A field whose value is a text, or a number: its digits are written on demand, so that a caller
 * with a field of the same number from before needs none. */
typedef struct rl_field {
    rl_field_name name;
    bool is_number;
    int64_t number;
    rl_text text; /* in the buffer, or a constant; undefined for a number */
} rl_field;

/* Write the fields of a response into `out`, in the order above, *n of them, and their texts into
 * `buffer`. Return the bytes that the texts need: above `size`, *n is 0. */
size_t rl_fields_write(const rl_field_style *style, const rl_field_input *input, char *buffer,
                       size_t size, rl_field out[RL_FIELD_COUNT], size_t *n);

/* Return the value of a field as text; `room` gets the digits of a number. */
#define RL_NUMBER_MAX 20
rl_text rl_field_value(const rl_field *field, char room[RL_NUMBER_MAX]);

/* Return the seconds of Retry-After, at least 1, with jitter; -1 for never. */
int64_t rl_retry_after_s(const rl_decision *decision, double jitter_s, double spread);

/* Return when all tokens are back or the window ends, in seconds since the epoch, rounded up. */
int64_t rl_reset_at_s(const rl_decision *decision, int64_t window_s, double now_s);

#endif
