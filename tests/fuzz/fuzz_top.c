/* fuzz_top.c -- a sketch of the clients with the most decisions whose bytes the input overwrites
 * while it is in use: every client that is read has a valid text and count. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/top.h"
#include "http/masked_key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A place in the sketch (two bytes), what to do (one), the length of a key (one), a time (four). */
typedef struct fuzz_step {
    uint16_t place;
    uint8_t action, length;
    uint32_t time;
} fuzz_step;

static rl_top top;

static void check_clients(bool allowed, int64_t now_ns)
{
    static rl_top_client found[RL_TOP_SLOTS_MAX];
    size_t n = rl_top_read(&top, allowed, now_ns, found);
    for (size_t i = 0; i < n; i++) {
        if (found[i].length > RL_TOP_TEXT || !isfinite(found[i].count) || found[i].error < 0 ||
            found[i].error > found[i].count) {
            abort();
        }
    }
}

static void run_step(fuzz_step step, const uint8_t *key)
{
    static const rl_top_writer writers[] = {rl_top_write_plain, rl_top_write_nothing,
                                            rl_masked_key};
    size_t sets_bytes = top.bytes - sizeof *top.file;
    int64_t now_ns = (int64_t)step.time << (step.action >> 4) * 2;
    bool allowed = step.action & 1;
    switch (step.action >> 1 & 3) {
    case 0:
        memcpy((char *)top.file->sets + step.place % (sets_bytes - sizeof step), &step,
               sizeof step);
        break;
    case 1:
        check_clients(allowed, now_ns);
        break;
    case 2:
        rl_top_record_known(&top, allowed, step.time, step.place, now_ns);
        break;
    default:
        top.write = writers[step.place % 3];
        rl_top_record(&top, allowed, (const char *)key, step.length, step.time, step.place, now_ns);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_step step;
    rl_secret secret = {1, 2};
    if (top.file == NULL && rl_top_open(&top, NULL, 10, secret, rl_top_write_plain) != RL_FILE_OK) {
        abort();
    }
    memset(top.file->sets, 0, top.bytes - sizeof *top.file);
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
