/* fuzz_top.c -- a sketch of the clients with the most decisions whose bytes the input overwrites
 * while it is in use: every client that is read has a valid text and count. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/top.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A place in the sketch (two bytes), what to do (one), the length of a key (one), a time (four). */
typedef struct fuzz_step {
    uint16_t place;
    uint8_t action, length;
    uint32_t time;
} fuzz_step;

static rl_top *top;

static void check_clients(bool allowed, int64_t now_ns)
{
    static rl_top_client found[RL_TOP_SLOTS];
    size_t n = rl_top_read(top, allowed, now_ns, found);
    for (size_t i = 0; i < n; i++) {
        if (found[i].length > RL_TOP_TEXT || !isfinite(found[i].count) || found[i].error < 0 ||
            found[i].error > found[i].count || (i > 0 && found[i].count > found[i - 1].count)) {
            abort();
        }
    }
}

static void run_step(fuzz_step step, const uint8_t *key)
{
    int64_t now_ns = (int64_t)step.time << (step.action >> 4) * 2;
    bool allowed = step.action & 1;
    switch (step.action >> 1 & 3) {
    case 0:
        memcpy((char *)top->sets + step.place % (sizeof top->sets - sizeof step), &step,
               sizeof step);
        break;
    case 1:
        check_clients(allowed, now_ns);
        break;
    default:
        rl_top_record(top, allowed, key, step.length, step.place, now_ns, step.place % 3);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_step step;
    if (top == NULL && (top = rl_top_new()) == NULL) {
        abort();
    }
    memset(top->sets, 0, sizeof top->sets);
    while (size >= sizeof step) {
        memcpy(&step, data, sizeof step);
        data += sizeof step;
        size -= sizeof step;
        step.length = (uint8_t)(step.length < size ? step.length : size);
        run_step(step, data);
    }
    check_clients(true, 1);
    check_clients(false, 1);
    return 0;
}
