/* test_fields.c -- header fields that describe limits, in every style. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "http/fields.h"

#define S INT64_C(1000000000)

static rl_text text_of(const char *text)
{
    return (rl_text){text, strlen(text)};
}

static rl_limit_state state_of(const char *name, double capacity, double period_s,
                               rl_decision decision)
{
    decision.limit = capacity;
    return (rl_limit_state){text_of(name), decision, capacity, period_s, 0};
}

/* Return all fields as "name: value" lines; the buffer has exactly the needed size. */
static const char *written(rl_field_style style, rl_field_input input)
{
    static char lines[8192];
    static char buffer[4096];
    rl_field out[RL_FIELD_COUNT];
    size_t n, len = 0;
    size_t needed = rl_fields_write(&style, &input, NULL, 0, out, &n);
    CHECK(needed == 0 || n == 0);
    CHECK(needed <= sizeof buffer);
    memset(buffer, '!', sizeof buffer);
    CHECK_EQUAL(rl_fields_write(&style, &input, buffer, needed, out, &n), needed);
    CHECK(buffer[needed] == '!');
    lines[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        char digits[RL_NUMBER_MAX];
        rl_text value = rl_field_value(&out[i], digits);
        len += (size_t)snprintf(lines + len, sizeof lines - len, "%s: %.*s\n",
                                rl_field_names[out[i].name], (int)value.len, value.data);
    }
    return lines;
}

static const rl_decision ALLOWED = {.allowed = true,
                                    .limit = 10.9,
                                    .remaining = 3.99,
                                    .reset_after_ns = 6 * S + 1};
static const rl_decision DENIED = {.allowed = false,
                                   .limit = 10,
                                   .remaining = 0.5,
                                   .retry_after_ns = 12 * S,
                                   .reset_after_ns = 60 * S};
static const rl_decision NEVER = {.allowed = false,
                                  .limit = 10,
                                  .retry_after_ns = RL_NEVER,
                                  .reset_after_ns = RL_NEVER};

static void test_x_ratelimit(void)
{
    rl_field_style style = {.x_ratelimit = true};
    CHECK(strcmp(written(style, (rl_field_input){.tightest = ALLOWED}),
                 "X-RateLimit-Limit: 10\nX-RateLimit-Remaining: 3\nX-RateLimit-Reset: 7\n") == 0);
    CHECK(strcmp(written(style, (rl_field_input){.tightest = DENIED}),
                 "X-RateLimit-Limit: 10\nX-RateLimit-Remaining: 0\nX-RateLimit-Reset: 60\n"
                 "Retry-After: 12\nCache-Control: no-store\n") == 0);
    CHECK(strcmp(written(style, (rl_field_input){.tightest = NEVER}),
                 "X-RateLimit-Limit: 10\nX-RateLimit-Remaining: 0\nCache-Control: no-store\n") ==
          0);
    CHECK(strcmp(written((rl_field_style){0}, (rl_field_input){.tightest = DENIED}), "") == 0);
}

static void test_epoch(void)
{
    rl_field_style style = {.x_ratelimit = true, .is_epoch = true};
    rl_field_input input = {.tightest = ALLOWED, .now_s = 1000.5};
    CHECK(strstr(written(style, input), "X-RateLimit-Reset: 1007\n") != NULL);
    input.window_s = 60; /* a window ends on a whole minute */
    input.now_s = 1013.9999;
    CHECK(strstr(written(style, input), "X-RateLimit-Reset: 1020\n") != NULL);
}

static void test_ietf(void)
{
    rl_field_style style = {.ietf = true};
    rl_decision roomy = {.allowed = true, .remaining = 40, .reset_after_ns = 1};
    rl_limit_state limits[] = {
        state_of("hour", 1000, 3600, roomy),
        state_of("a \"b\" \\ \xc3\xa9\n", 10, 0.5, ALLOWED),
        state_of("frozen", 5e15, INFINITY, NEVER),
    };
    rl_field_input input = {.tightest = NEVER, .limits = limits, .n_limits = 3};
    CHECK(strcmp(written(style, input),
                 "RateLimit-Policy: \"frozen\";q=999999999999999, "
                 "\"a \\\"b\\\" \\\\ __\";q=10;w=1, \"hour\";q=1000;w=3600\n"
                 "RateLimit: \"frozen\";r=0, \"a \\\"b\\\" \\\\ __\";r=3;t=7, \"hour\";r=40;t=1\n"
                 "Cache-Control: no-store\n") == 0);
    input.n_limits = 0;
    CHECK(strcmp(written(style, input), "Cache-Control: no-store\n") == 0);
}

static void test_order_of_equals(void)
{
    rl_limit_state limits[RL_FIELD_LIMITS_MAX];
    for (size_t i = 0; i < RL_FIELD_LIMITS_MAX; i++) {
        limits[i] = state_of(i % 2 == 0 ? "even" : "odd", 10, 1, ALLOWED);
        limits[i].decision.remaining = (double)(i / 2);
    }
    rl_field_input input = {ALLOWED, 0, limits, RL_FIELD_LIMITS_MAX, 0, 0};
    const char *lines = written((rl_field_style){.ietf = true}, input);
    const char *even = strstr(lines, "\"even\";r=31");
    const char *odd = strstr(lines, "\"odd\";r=31");
    CHECK(even != NULL && odd != NULL && even < odd);
    CHECK(strstr(lines, "RateLimit: \"even\";r=0;t=7, \"odd\";r=0;t=7, \"even\";r=1;t=7") != NULL);
}

static void test_exposed(void)
{
    rl_limit_state limits[] = {state_of("api", 10, 60, DENIED)};
    rl_field_style style = {.x_ratelimit = true, .ietf = true, .exposes = true};
    rl_field_input input = {.tightest = DENIED, .limits = limits, .n_limits = 1};
    CHECK(strstr(written(style, input),
                 "Access-Control-Expose-Headers: X-RateLimit-Limit, X-RateLimit-Remaining, "
                 "X-RateLimit-Reset, RateLimit-Policy, RateLimit, Retry-After\n") != NULL);
}

static void test_retry_after(void)
{
    rl_decision decision = {.retry_after_ns = 1};
    CHECK_EQUAL(rl_retry_after_s(&decision, 0, 0.9), 1);
    decision.retry_after_ns = 0;
    CHECK_EQUAL(rl_retry_after_s(&decision, 0, 0), 1);
    decision.retry_after_ns = 10 * S;
    CHECK_EQUAL(rl_retry_after_s(&decision, 5, 0), 10);
    CHECK_EQUAL(rl_retry_after_s(&decision, 5, 0.5), 13);
    CHECK_EQUAL(rl_retry_after_s(&decision, 1e300, 1), INT64_C(9000000000000000));
    CHECK_EQUAL(rl_retry_after_s(&NEVER, 5, 0.5), -1);
}

int main(void)
{
    test_x_ratelimit();
    test_epoch();
    test_ietf();
    test_order_of_equals();
    test_exposed();
    test_retry_after();
    return report("test_fields");
}
