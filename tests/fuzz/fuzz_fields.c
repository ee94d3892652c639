/* fuzz_fields.c -- any names, numbers and styles as header fields: values fit the
 * requested buffer, and contain visible ASCII only, so that no name can end a header line. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "http/fields.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take_bytes(const uint8_t **data, size_t *size, void *out, size_t len)
{
    memset(out, 0, len);
    size_t found = *size < len ? *size : len;
    memcpy(out, *data, found);
    *data += found;
    *size -= found;
}

/* Take a decision within the range of the engine. */
static rl_decision take_decision(const uint8_t **data, size_t *size)
{
    struct {
        uint64_t limit, remaining, retry, reset;
        uint8_t allowed;
    } raw;
    take_bytes(data, size, &raw, sizeof raw);
    return (rl_decision){
        .allowed = raw.allowed & 1,
        .limit = (double)(raw.limit >> 12),
        .remaining = (double)(raw.remaining >> 12) / 7,
        .retry_after_ns = (int64_t)(raw.retry >> 1),
        .reset_after_ns = (int64_t)(raw.reset >> 1),
    };
}

static void check_values(const rl_field *fields, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char digits[RL_NUMBER_MAX];
        rl_text value = rl_field_value(&fields[i], digits);
        if (value.len == 0) {
            abort();
        }
        for (size_t j = 0; j < value.len; j++) {
            if (value.data[j] < ' ' || value.data[j] > '~') {
                abort();
            }
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t flags[2];
    take_bytes(&data, &size, flags, sizeof flags);
    rl_field_style style = {(flags[0] & 1) != 0, (flags[0] & 2) != 0, (flags[0] & 4) != 0,
                            (flags[0] & 8) != 0, (double)(flags[0] >> 4)};
    rl_limit_state limits[8];
    rl_field_input input = {.tightest = take_decision(&data, &size),
                            .window_s = flags[1] & 0x80 ? 60 : 0,
                            .limits = limits,
                            .n_limits = flags[1] & 7,
                            .now_s = 1.7e9,
                            .spread = 0.5};
    for (size_t i = 0; i < input.n_limits; i++) {
        uint8_t len;
        limits[i].decision = take_decision(&data, &size);
        limits[i].capacity = limits[i].decision.limit;
        limits[i].period_s = (double)limits[i].decision.reset_after_ns;
        take_bytes(&data, &size, &len, 1);
        limits[i].name = (rl_text){(const char *)data, len < size ? len : size};
    }
    rl_field out[RL_FIELD_COUNT];
    size_t n;
    size_t needed = rl_fields_write(&style, &input, NULL, 0, out, &n);
    char *buffer = malloc(needed + 1);
    if (buffer == NULL || rl_fields_write(&style, &input, buffer, needed, out, &n) != needed) {
        abort();
    }
    check_values(out, n);
    free(buffer);
    return 0;
}
