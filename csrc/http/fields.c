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

/* Write the digits of a number into the end of `room`; return where they begin. */
static char *write_digits(uint64_t value, char room[RL_NUMBER_MAX])
{
    char *at = room + RL_NUMBER_MAX;
    do {
        *--at = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    return at;
}

static const char *write_number(int64_t value, char room[RL_NUMBER_MAX])
{
    char *at = write_digits(value < 0 ? 0 - (uint64_t)value : (uint64_t)value, room);
    if (value < 0) {
        *--at = '-';
    }
    return at;
}

static void writer_put_integer(writer *writer, int64_t value)
{
    char room[RL_NUMBER_MAX];
    const char *digits = write_number(value, room);
    writer_put(writer, digits, (size_t)(room + sizeof room - digits));
}

rl_text rl_field_value(const rl_field *field, char room[RL_NUMBER_MAX])
{
    if (!field->is_number) {
        return field->text;
    }
    const char *digits = write_number(field->number, room);
    return (rl_text){digits, (size_t)(room + RL_NUMBER_MAX - digits)};
}

/* ---- numbers ----------------------------------------------------------------------------- */

static int64_t seconds_up(int64_t ns)
{
    return ns / NS_PER_S + (ns % NS_PER_S != 0);
}

/* Tokens of any engine are below 2^53; a decision that a user made may have any number. */
static const double TOKENS_MAX = 9e18;

static int64_t whole_tokens(double tokens)
{
    return (int64_t)floor(tokens < -TOKENS_MAX  ? -TOKENS_MAX
                          : tokens > TOKENS_MAX ? TOKENS_MAX
                                                : tokens);
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

/* Return true for a character that stands for itself in an sf-string. */
static bool is_plain(unsigned char c)
{
    return c >= ' ' && c <= '~' && c != '"' && c != '\\';
}

/* sf-string of RFC 9651, section 3.3.3 */
static void put_sf_string(writer *writer, rl_text text)
{
    writer_put(writer, "\"", 1);
    for (size_t i = 0; i < text.len;) {
        size_t begin = i;
        while (i < text.len && is_plain((unsigned char)text.data[i])) {
            i++;
        }
        writer_put(writer, text.data + begin, i - begin);
        if (i == text.len) {
            break;
        }
        unsigned char c = (unsigned char)text.data[i++];
        if (c == '"' || c == '\\') {
            const char escaped[] = {'\\', (char)c};
            writer_put(writer, escaped, sizeof escaped);
        } else if (c < 0x80 || c >= 0xc0) { /* else the rest of a character: one "_" is written */
            writer_put(writer, "_", 1);
        }
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
    rl_field *out;
    size_t n;
} fields;

static void add_number(fields *fields, rl_field_name name, int64_t number)
{
    rl_field *field = &fields->out[fields->n++];
    field->name = name;
    field->is_number = true;
    field->number = number;
}

/* Begin a text, which end_text() ends. */
static writer *begin_text(fields *fields, rl_field_name name)
{
    rl_field *field = &fields->out[fields->n++];
    field->name = name;
    field->is_number = false;
    field->text.len = fields->writer.len;
    return &fields->writer;
}

static void end_text(fields *fields)
{
    const writer *writer = &fields->writer;
    rl_text *text = &fields->out[fields->n - 1].text;
    size_t begin = text->len;
    bool fits = writer->len <= writer->size;
    *text = (rl_text){fits ? writer->buffer + begin : NULL, writer->len - begin};
}

/* Add whole tokens, at least 0. A number above those of any engine is a text. */
static void add_tokens(fields *fields, rl_field_name name, double tokens)
{
    if (tokens <= TOKENS_MAX || isnan(tokens)) {
        add_number(fields, name, tokens > 0 ? (int64_t)tokens : 0);
        return;
    }
    char room[RL_NUMBER_MAX];
    char *digits = write_digits(tokens < 0x1p64 ? (uint64_t)tokens : UINT64_MAX, room);
    writer_put(begin_text(fields, name), digits, (size_t)(room + sizeof room - digits));
    end_text(fields);
}

static void add_x_ratelimit(fields *fields, const rl_field_style *style,
                            const rl_field_input *input)
{
    const rl_decision *tightest = &input->tightest;
    add_tokens(fields, RL_FIELD_LIMIT, tightest->limit);
    add_tokens(fields, RL_FIELD_REMAINING, tightest->remaining);
    if (tightest->reset_after_ns != RL_NEVER) {
        add_number(fields, RL_FIELD_RESET,
                   style->is_epoch ? rl_reset_at_s(tightest, input->window_s, input->now_s)
                                   : seconds_up(tightest->reset_after_ns));
    }
}

static void add_ietf(fields *fields, const rl_field_input *input)
{
    const rl_limit_state *sorted[RL_FIELD_LIMITS_MAX];
    size_t n = sort_limits(input, sorted);
    writer *writer = begin_text(fields, RL_FIELD_POLICY);
    for (size_t i = 0; i < n; i++) {
        writer_put(writer, ", ", i > 0 ? 2 : 0);
        put_policy(writer, sorted[i]);
    }
    end_text(fields);
    begin_text(fields, RL_FIELD_STATE);
    for (size_t i = 0; i < n; i++) {
        writer_put(writer, ", ", i > 0 ? 2 : 0);
        put_state(writer, sorted[i]);
    }
    end_text(fields);
}

static void add_denial(fields *fields, const rl_field_style *style, const rl_field_input *input)
{
    int64_t retry_after_s = rl_retry_after_s(&input->tightest, style->jitter_s, input->spread);
    if (retry_after_s >= 0) {
        add_number(fields, RL_FIELD_RETRY_AFTER, retry_after_s);
    }
    writer_put_text(begin_text(fields, RL_FIELD_CACHE_CONTROL), "no-store");
    end_text(fields);
}

/* Add the names of the other fields but Cache-Control, if there are any. */
static void add_exposed(fields *fields)
{
    size_t n = fields->n;
    writer *writer = NULL;
    for (size_t i = 0; i < n; i++) {
        if (fields->out[i].name != RL_FIELD_CACHE_CONTROL) {
            if (writer == NULL) {
                writer = begin_text(fields, RL_FIELD_EXPOSE);
            } else {
                writer_put_text(writer, ", ");
            }
            writer_put_text(writer, rl_field_names[fields->out[i].name]);
        }
    }
    if (writer != NULL) {
        end_text(fields);
    }
}

size_t rl_fields_write(const rl_field_style *style, const rl_field_input *input, char *buffer,
                       size_t size, rl_field out[RL_FIELD_COUNT], size_t *n)
{
    fields fields = {.writer = {buffer, size, 0}, .out = out, .n = 0};
    if (style->x_ratelimit) {
        add_x_ratelimit(&fields, style, input);
    }
    if (style->ietf && input->n_limits > 0) {
        add_ietf(&fields, input);
    }
    if (!input->tightest.allowed && (style->x_ratelimit || style->ietf)) {
        add_denial(&fields, style, input);
    }
    if (style->exposes) {
        add_exposed(&fields);
    }
    *n = fields.writer.len <= size ? fields.n : 0;
    return fields.writer.len;
}
