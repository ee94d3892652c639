/* test_meter.c -- counting decisions: bounds, threads, processes that share a file, odd files. */
#include "check.h"
#include "engine/meter.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 8
#define ROUNDS 20000

static char path[64];

static uint64_t total(rl_meter *meter, bool allowed)
{
    uint64_t sum = 0;
    for (int i = 0; i <= RL_METER_BOUNDS; i++) {
        sum += meter->decisions[allowed][i];
    }
    return sum;
}

static void test_bounds(void)
{
    for (int i = 0; i < RL_METER_BOUNDS; i++) {
        rl_meter meter = {0};
        CHECK(i == 0 || rl_meter_bounds_ns[i] > rl_meter_bounds_ns[i - 1]);
        rl_meter_record(&meter, true, 1, rl_meter_bounds_ns[i]);
        rl_meter_record(&meter, true, 2, rl_meter_bounds_ns[i] + 1);
        CHECK_EQUAL(meter.decisions[1][i], 1);
        CHECK_EQUAL(meter.decisions[1][i + 1], 2);
        CHECK_EQUAL(meter.sum_ns, 3 * rl_meter_bounds_ns[i] + 2);
    }
}

static void test_how_they_ended(void)
{
    rl_meter meter = {0};
    rl_meter_record(&meter, false, 3, 100);
    rl_meter_record(&meter, true, 1, -5); /* a clock that went back */
    rl_meter_record(&meter, true, 0, 100);
    CHECK_EQUAL(meter.decisions[0][0], 3);
    CHECK_EQUAL(meter.decisions[1][0], 1);
    CHECK_EQUAL(meter.sum_ns, 300);
}

static void *record_often(void *context)
{
    for (int i = 0; i < ROUNDS; i++) {
        rl_meter_record(context, i % 4 != 0, 1, i);
    }
    return NULL;
}

static void check_rounds(rl_meter *meter, uint64_t times)
{
    CHECK_EQUAL(total(meter, false), times * (ROUNDS / 4));
    CHECK_EQUAL(total(meter, true), times * (ROUNDS - ROUNDS / 4));
    CHECK_EQUAL(meter->sum_ns, times * ROUNDS * (ROUNDS - 1) / 2);
}

static void test_threads(void)
{
    rl_meter meter = {0};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQUAL(pthread_create(&threads[i], NULL, record_often, &meter), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    check_rounds(&meter, THREADS);
}

static void test_processes(void)
{
    for (int i = 0; i < 4; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            rl_meter *meter;
            int failed = rl_meter_open(path, &meter) != RL_FILE_OK;
            if (!failed) {
                record_often(meter);
                rl_meter_close(meter);
            }
            _exit(failed);
        }
        CHECK(pid > 0);
    }
    int status;
    while (wait(&status) > 0) {
        CHECK_EQUAL(status, 0);
    }
    rl_meter *meter;
    CHECK_EQUAL(rl_meter_open(path, &meter), RL_FILE_OK);
    check_rounds(meter, 4);
    rl_meter_close(meter);
    unlink(path);
}

static void write_file(const char *text, size_t len, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, text, len) == (ssize_t)len && fchmod(fd, mode) == 0);
    close(fd);
}

static void check_refused(rl_file_status expected)
{
    rl_meter *meter = (rl_meter *)path; /* to be overwritten */
    CHECK_EQUAL(rl_meter_open(path, &meter), expected);
    CHECK(meter == NULL);
}

static void test_odd_files(void)
{
    static char other[sizeof(rl_meter) + 8];
    write_file("x", 1, 0600);
    check_refused(RL_FILE_EOTHER);
    memset(other, 'x', sizeof other);
    write_file(other, sizeof other, 0600); /* as long, but no meter */
    check_refused(RL_FILE_EOTHER);
    write_file("", 0, 0666);
    check_refused(RL_FILE_EOWNER);
    unlink(path);
    CHECK_EQUAL(symlink("/dev/null", path), 0);
    check_refused(RL_FILE_ESYSTEM);
    CHECK(errno == ELOOP || errno == EMLINK);
    unlink(path);
    CHECK_EQUAL(mkdir(path, 0700), 0);
    check_refused(RL_FILE_ESYSTEM);
    rmdir(path);
    rl_meter_close(NULL);
}

#ifdef __linux__
static bool disk_is_full;

/* Replaces the function of the C library. */
int posix_fallocate(int fd, off_t offset, off_t len)
{
    off_t reserved = disk_is_full ? len / 2 : len;
    return ftruncate(fd, offset + reserved) != 0 ? errno : disk_is_full ? ENOSPC : 0;
}

/* Without room for the counts the file is refused: a hole in it would be SIGBUS later. */
static void test_a_full_disk(void)
{
    disk_is_full = true;
    check_refused(RL_FILE_ESYSTEM);
    CHECK_EQUAL(errno, ENOSPC);
    CHECK_EQUAL(access(path, F_OK), -1); /* else it would be refused even with room */
    disk_is_full = false;
    rl_meter *meter;
    CHECK_EQUAL(rl_meter_open(path, &meter), RL_FILE_OK);
    rl_meter_close(meter);
    unlink(path);
}
#endif

int main(void)
{
    snprintf(path, sizeof path, "/tmp/rl_test_meter.%ld", (long)getpid());
    unlink(path);
    test_bounds();
    test_how_they_ended();
    test_threads();
    test_processes();
    test_odd_files();
#ifdef __linux__
    test_a_full_disk();
#endif
    return report("meter");
}
