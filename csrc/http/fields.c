#include "http/fields.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Integers of structured fields have 15 digits at most (RFC 9651, section 3.3.1). */
#define SF_INTEGER_MAX INT64_C(999999999999999)
#define NS_PER_S INT64_C(1000000000)

const char *const rl_field_names[RL_FIELD_COUNT] = {
    [RL_FIELD_LIMIT] = "X-RateLimit-Limit",
    [RL_FIELD_REMAINING] = "X-RateLimit-Remaining",
    [RL_FIELD_RESET] = "X-RateLimit-Reset",
    [RL_FIELD_POLICY] = "RateLimit-Policy",
    [RL_FIELD_STATE] = "RateLimit",
    [RL_FIELD_RETRY_AFTER] = "Retry-After",
    [RL_FIELD_CACHE_CONTROL] = "Cache-Control",
    [RL_FIELD_EXPOSE] = "Access-Control-Expose-Headers",
};

/* ---- a buffer that also counts bytes beyond its end -------------------------------------- */

typedef struct writer {
    char *buffer;
    size_t size;
    size_t len; /* bytes that were put, with or without room for them */
} writer;

static void writer_put(writer *writer, const char *data, size_t len)
{
    if (len > 0 && writer->len + len <= writer->size) {
        memcpy(writer->buffer + writer->len, data, len);
    }
    writer->len += len;
}

static void writer_put_text(writer *writer, const char *text)
{
    writer_put(writer, text, strlen(text));
}

static void writer_put_unsigned(writer *writer, uint64_t value)
{
    char digits[20];
    size_t i = sizeof digits;
    do {
        digits[--i] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    writer_put(writer, digits + i, sizeof digits - i);
}

static void writer_put_integer(writer *writer, int64_t value)
{
    if (value < 0) {
        writer_put(writer, "-", 1);
    }
    writer_put_unsigned(writer, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

/* Whole tokens. A decision that a user made may have any finite number. */
static void writer_put_tokens(writer *writer, double tokens)
{
    uint64_t most = tokens < 0x1p64 ? (uint64_t)(tokens > 0 ? tokens : 0) : UINT64_MAX;
    writer_put_unsigned(writer, most);
}

/* ---- numbers ----------------------------------------------------------------------------- */

static int64_t seconds_up(int64_t ns)
{
    return ns / NS_PER_S + (ns % NS_PER_S != 0);
}

/* Tokens of any engine are below 2^53. */
static int64_t whole_tokens(double tokens)
{
    const double most = 9e18;
    return (int64_t)floor(tokens < -most ? -most : tokens > most ? most : tokens);
}

int64_t rl_retry_after_s(const rl_decision *decision, double jitter_s, double spread)
{
    if (decision->retry_after_ns == RL_NEVER) {
        return -1;
    }
    int64_t seconds = seconds_up(decision->retry_after_ns);
    if (jitter_s > 0) {
        double exact = (double)decision->retry_after_ns / 1e9 + jitter_s * spread;
        seconds = exact < 9e15 ? (int64_t)ceil(exact) : INT64_C(9000000000000000);
    }
    return seconds > 1 ? seconds : 1;
}

int64_t rl_reset_at_s(const rl_decision *decision, int64_t window_s, double now_s)
{
    double at_s = now_s + (double)decision->reset_after_ns / 1e9;
    if (window_s > 0) { /* the duration of a decision must not move the end */
        return (int64_t)rint(at_s / (double)window_s) * window_s;
    }
    return (int64_t)ceil(at_s);
}

/* ---- structured fields ------------------------------------------------------------------- */

/* sf-string of RFC 9651, section 3.3.3 */
static void put_sf_string(writer *writer, rl_text text)
{
    writer_put(writer, "\"", 1);
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c >= 0x80 && c < 0xc0) {
            continue; /* the rest of a character that was written as one "_" */
        }
        if (c < ' ' || c > '~') {
            writer_put(writer, "_", 1);
            continue;
        }
        if (c == '"' || c == '\\') {
            writer_put(writer, "\\", 1);
        }
        writer_put(writer, text.data + i, 1);
    }
    writer_put(writer, "\"", 1);
}

static void put_parameter(writer *writer, const char *name, int64_t value)
{
    writer_put_text(writer, name);
    writer_put_integer(writer, value < SF_INTEGER_MAX ? value : SF_INTEGER_MAX);
}

static void put_policy(writer *writer, const rl_limit_state *state)
{
    put_sf_string(writer, state->name);
    put_parameter(writer, ";q=", whole_tokens(state->capacity));
    if (isfinite(state->period_s)) {
        double period_s = ceil(state->period_s);
        put_parameter(writer, ";w=", period_s < 1e15 ? (int64_t)period_s : SF_INTEGER_MAX);
    }
}

static void put_state(writer *writer, const rl_limit_state *state)
{
    const rl_decision *decision = &state->decision;
    int64_t after_ns = decision->allowed ? decision->reset_after_ns : decision->retry_after_ns;
    put_sf_string(writer, state->name);
    put_parameter(writer, ";r=", whole_tokens(decision->remaining));
    if (after_ns != RL_NEVER) {
        put_parameter(writer, ";t=", seconds_up(after_ns));
    }
}

/* Return true if a limit is tighter than another. */
static bool is_tighter(const rl_decision *a, const rl_decision *b)
{
    if (a->allowed != b->allowed) {
        return !a->allowed;
    }
    if (a->retry_after_ns != b->retry_after_ns) {
        return a->retry_after_ns > b->retry_after_ns;
    }
    return a->remaining < b->remaining;
}

/* The tightest limits first, RL_FIELD_LIMITS_MAX at most; of equals the first stays first.
 * Returns how many. */
static size_t sort_limits(const rl_field_input *input, const rl_limit_state *sorted[])
{
    size_t n = 0;
    for (size_t i = 0; i < input->n_limits; i++) {
        const rl_limit_state *limit = &input->limits[i];
        size_t at = n;
        if (n == RL_FIELD_LIMITS_MAX) {
            at = n - 1;
            if (!is_tighter(&limit->decision, &sorted[at]->decision)) {
                continue;
            }
        } else {
            n++;
        }
        while (at > 0 && is_tighter(&limit->decision, &sorted[at - 1]->decision)) {
            sorted[at] = sorted[at - 1];
            at--;
        }
        sorted[at] = limit;
    }
    return n;
}

/* ---- all fields -------------------------------------------------------------------------- */

typedef struct fields {
    writer writer;
    size_t begins[RL_FIELD_COUNT];
    rl_field_name names[RL_FIELD_COUNT];
    size_t n;
} fields;

static writer *begin_field(fields *fields, rl_field_name name)
{
    fields->names[fields->n] = name;
    fields->begins[fields->n++] = fields->writer.len;
    return &fields->writer;
}

static void write_x_ratelimit(fields *fields, const rl_field_style *style,
                              const rl_field_input *input)
{
    const rl_decision *tightest = &input->tightest;
    writer_put_tokens(begin_field(fields, RL_FIELD_LIMIT), tightest->limit);
    writer_put_tokens(begin_field(fields, RL_FIELD_REMAINING), tightest->remaining);
    if (tightest->reset_after_ns != RL_NEVER) {
        int64_t reset = style->is_epoch ? rl_reset_at_s(tightest, input->window_s, input->now_s)
                                        : seconds_up(tightest->reset_after_ns);
        writer_put_integer(begin_field(fields, RL_FIELD_RESET), reset);
    }
}

static void write_ietf(fields *fields, const rl_field_input *input)
{
    const rl_limit_state *sorted[RL_FIELD_LIMITS_MAX];
    size_t n = sort_limits(input, sorted);
    writer *writer = begin_field(fields, RL_FIELD_POLICY);
    for (size_t i = 0; i < n; i++) {
        writer_put_text(writer, i > 0 ? ", " : "");
        put_policy(writer, sorted[i]);
    }
    begin_field(fields, RL_FIELD_STATE);
    for (size_t i = 0; i < n; i++) {
        writer_put_text(writer, i > 0 ? ", " : "");
        put_state(writer, sorted[i]);
    }
}

static void write_denial(fields *fields, const rl_field_style *style, const rl_field_input *input)
{
    int64_t retry_after_s = rl_retry_after_s(&input->tightest, style->jitter_s, input->spread);
    if (retry_after_s >= 0) {
        writer_put_integer(begin_field(fields, RL_FIELD_RETRY_AFTER), retry_after_s);
    }
    writer_put_text(begin_field(fields, RL_FIELD_CACHE_CONTROL), "no-store");
}

/* Write the names of the other fields but Cache-Control, if there are any. */
static void write_exposed(fields *fields)
{
    size_t n = fields->n;
    writer *writer = NULL;
    for (size_t i = 0; i < n; i++) {
        if (fields->names[i] != RL_FIELD_CACHE_CONTROL) {
            if (writer == NULL) {
                writer = begin_field(fields, RL_FIELD_EXPOSE);
            } else {
                writer_put_text(writer, ", ");
            }
            writer_put_text(writer, rl_field_names[fields->names[i]]);
        }
    }
}

size_t rl_fields_write(const rl_field_style *style, const rl_field_input *input, char *buffer,
                       size_t size, rl_field out[RL_FIELD_COUNT], size_t *n)
{
    fields fields = {.writer = {buffer, size, 0}, .n = 0};
    *n = 0;
    if (!style->x_ratelimit && !style->ietf) {
        return 0;
    }
    if (style->x_ratelimit) {
        write_x_ratelimit(&fields, style, input);
    }
    if (style->ietf && input->n_limits > 0) {
        write_ietf(&fields, input);
    }
    if (!input->tightest.allowed) {
        write_denial(&fields, style, input);
    }
    if (style->exposes) {
        write_exposed(&fields);
    }
    if (fields.writer.len <= size) {
        for (size_t i = 0; i < fields.n; i++) {
            size_t end = i + 1 < fields.n ? fields.begins[i + 1] : fields.writer.len;
            rl_text value = {buffer + fields.begins[i], end - fields.begins[i]};
            out[i] = (rl_field){fields.names[i], value};
        }
        *n = fields.n;
    }
    return fields.writer.len;
}
