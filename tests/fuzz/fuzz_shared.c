/* fuzz_shared.c -- a file of a table whose bytes the input overwrites, before it is opened and
 * while it is in use: it is used or refused, and every result is a decision. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../c/table_calls.h"
#include "engine/shared.h"

#define N_LIMITS 4
#define MAX_KEYS 100

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[64];
static rl_limit limits[N_LIMITS];

static void set_up(void)
{
    if (path[0] == 0) {
        snprintf(path, sizeof path, "/dev/shm/rl-fuzz-%ld", (long)getpid());
        rl_limit_init(&limits[0], 5, 1);
        rl_window_init(&limits[1], true, 20, 60);
        rl_window_init(&limits[2], false, RL_WINDOW_COUNT_MAX, 1);
        rl_window_init(&limits[3], true, 5, 60); /* with the time of each request */
        limits[1].counts_denied = limits[3].counts_denied = true;
    }
}

/* Eight bytes for a place in the file (two), a call (two) and the present time (four). */
typedef struct fuzz_step {
    uint16_t place, call;
    uint32_t time;
} fuzz_step;

static void overwrite(int fd, uint16_t place, uint32_t word)
{
    off_t words = lseek(fd, 0, SEEK_END) / (off_t)sizeof word;
    if (pwrite(fd, &word, sizeof word, place % words * (off_t)sizeof word) < 0) {
        abort();
    }
}

static void run_step(rl_table *table, int fd, fuzz_step step, bool overwrites)
{
    if (overwrites) {
        overwrite(fd, step.place, (uint32_t)step.call << 16 | (step.time & 0xffff));
    }
    uint64_t random = (uint64_t)step.call << 8 | step.place % 64;
    int64_t now_ns = (int64_t)step.time << (step.call % 31);
    if (!call_table(table, limits, N_LIMITS, random, (rl_time){now_ns, now_ns})) {
        abort();
    }
}

/* Take the next step of the input; false at its end. */
static bool take_step(const uint8_t **data, size_t *size, fuzz_step *out)
{
    if (*size < sizeof *out) {
        return false;
    }
    memcpy(out, *data, sizeof *out);
    *data += sizeof *out;
    *size -= sizeof *out;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rl_table *made = NULL, *opened = NULL;
    fuzz_step step;
    set_up();
    if (rl_shared_open(path, limits, N_LIMITS, MAX_KEYS, NULL, (rl_time){0, 0}, &made) !=
        RL_SHARED_OK) {
        abort();
    }
    int fd = open(path, O_RDWR | O_CLOEXEC);
    for (int i = 0; i < 8 && take_step(&data, &size, &step); i++) {
        run_step(made, fd, step, i % 2 == 0);
    }
    if (rl_shared_open(path, limits, N_LIMITS, MAX_KEYS, NULL, (rl_time){0, 0}, &opened) !=
        RL_SHARED_OK) {
        opened = NULL;
    }
    for (int i = 0; take_step(&data, &size, &step); i++) {
        run_step(opened != NULL && i % 2 == 0 ? opened : made, fd, step, i % 4 == 0);
    }
    rl_table_free(made);
    rl_table_free(opened);
    close(fd);
    unlink(path);
    return 0;
}
