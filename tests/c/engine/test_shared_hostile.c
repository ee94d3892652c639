/* test_shared_hostile.c -- files of tables that are overwritten, replaced or locked while processes
 * have them open. */
#include "at.h"
#include "check.h"
#include "engine/shared.h"
#include "table_calls.h"

#ifdef __linux__

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/file.h"

#define USERS 3
#define OVERWRITTEN 4000 /* bits */

static char path[64];
static rl_limit limits[4];
static const size_t N_LIMITS = sizeof limits / sizeof *limits;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static rl_table *opened(void)
{
    rl_table *table = NULL;
    CHECK_EQUAL(rl_shared_open(path, limits, N_LIMITS, 100, NULL, at(0), &table), RL_SHARED_OK);
    return table;
}

/* Take one token of a key that has five. */
static bool take_one(rl_table *table)
{
    uint64_t costs[] = {rl_limit_cost(&limits[0], 1), 1, 1, 1};
    bool allowed = false;
    CHECK_EQUAL(
        rl_table_take(table, rl_table_key(table, "k", 1), costs, at(5), &allowed, NULL, NULL),
        RL_OK);
    return allowed;
}

static void overwrite(const char *bytes, size_t len, off_t offset)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK_EQUAL(pwrite(fd, bytes, len, offset), (ssize_t)len);
    close(fd);
}

/* The file of a running process is replaced, not made shorter: it would get SIGBUS. */
static void test_a_live_file_of_another_boot(void)
{
    for (off_t offset = 0; offset <= 8; offset += 8) { /* the magic number; the boot's id */
        rl_table *old = opened();
        CHECK(take_one(old) && take_one(old));
        overwrite("\0\0\0\0\0\0\0\0", 8, offset);
        rl_table *new = opened();
        CHECK_EQUAL(rl_table_sweep(new, at(5)).keys, 0);
        rl_table *same = opened();
        for (int i = 0; i < 6; i++) {
            CHECK_EQUAL(take_one(i % 2 ? new : same), i < 5);
            CHECK_EQUAL(take_one(old), i < 3);
        }
        rl_table_free(old);
        rl_table_free(new);
        rl_table_free(same);
        unlink(path);
    }
}

/* Open while only so many more descriptors may be open. */
static rl_shared_status open_with_descriptors(int n, rl_table **out)
{
    struct rlimit before, few;
    int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(lowest);
    CHECK_EQUAL(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = (struct rlimit){(rlim_t)(lowest + n), before.rlim_max};
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &few), 0);
    rl_shared_status status = rl_shared_open(path, limits, N_LIMITS, 100, NULL, at(0), out);
    int kept = errno;
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &before), 0);
    errno = kept;
    return status;
}

/* The table that others use is used or refused. */
static void test_a_boot_id_that_cannot_be_read(void)
{
    rl_table *table = opened(), *other = NULL;
    CHECK(take_one(table));
    CHECK_EQUAL(open_with_descriptors(0, &other), RL_SHARED_EBOOT);
    CHECK_EQUAL(errno, EMFILE);
    CHECK(other == NULL);
    CHECK_EQUAL(open_with_descriptors(1, &other), RL_SHARED_OK);
    for (int i = 1; i < 7; i++) {
        CHECK_EQUAL(take_one(i % 2 ? table : other), i < 5);
    }
    rl_table_free(table);
    rl_table_free(other);
    unlink(path);
}

/* ---- waiting for another process --------------------------------------------------- */

static void ignore(int number)
{
    (void)number;
}

/* Let a signal arrive after some milliseconds, again and again. 0: no more. */
static void set_timer(suseconds_t interval_us)
{
    struct sigaction action = {.sa_handler = ignore}; /* without SA_RESTART */
    struct itimerval timer = {{0, interval_us}, {0, interval_us}};
    CHECK_EQUAL(sigaction(SIGALRM, &action, NULL), 0);
    CHECK_EQUAL(setitimer(ITIMER_REAL, &timer, NULL), 0);
}

/* Another process that stopped while it opened the file. */
static void test_a_wait_that_a_signal_ends(void)
{
    rl_table_free(opened());
    int other = open(path, O_RDWR | O_CLOEXEC);
    CHECK_EQUAL(flock(other, LOCK_EX), 0);
    rl_table *table = NULL;
    set_timer(20000);
    CHECK_EQUAL(rl_shared_open(path, limits, N_LIMITS, 100, NULL, at(0), &table), RL_SHARED_EINTR);
    set_timer(0);
    CHECK(table == NULL);
    close(other);
    rl_table_free(opened());
    unlink(path);
}

/* While one process waits for a file, another one replaces it. */
static void test_a_file_that_is_replaced_during_the_wait(void)
{
    rl_table_free(opened());
    int old = open(path, O_RDWR | O_CLOEXEC);
    CHECK_EQUAL(flock(old, LOCK_EX), 0);
    pid_t waiter = fork();
    if (waiter == 0) {
        close(old);
        rl_table *table = opened();
        bool allowed = take_one(table);
        rl_table_free(table);
        _exit(allowed ? 0 : 1);
    }
    nanosleep(&(struct timespec){0, 50000000}, NULL);
    unlink(path);
    rl_table *table = opened();
    close(old);
    int status = -1;
    waitpid(waiter, &status, 0);
    CHECK_EQUAL(status, 0);
    CHECK_EQUAL(rl_table_sweep(table, at(5)).keys, 1);
    rl_table_free(table);
    unlink(path);
}

/* A file system in memory gives up a reservation when a signal arrives. */
static void test_signals_while_space_is_reserved(void)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat file;
    set_timer(1000);
    CHECK_EQUAL(rl_file_reserve(fd, ((size_t)64 << 20) + 5), 0);
    set_timer(0);
    CHECK_EQUAL(fstat(fd, &file), 0);
    CHECK_EQUAL(file.st_size, (64 << 20) + 5);
    close(fd);
    unlink(path);
}

/* ---- bytes that are overwritten ------------------------------------------------------ */

/* In a child: use the table until the parent ends it, and open it again now and then. */
static void use(rl_table *table, const _Atomic bool *end, uint64_t seed)
{
    bool sane = true;
    while (!*end && sane) {
        uint64_t random = next_random(&seed);
        int64_t ahead_ns = random >> 60 == 0 ? (int64_t)(random >> 20 & 0xffffffff) << 24 : 0;
        sane = call_table(table, limits, N_LIMITS, random, at(now_ns() + ahead_ns));
        if ((random >> 20) % 256 == 0) {
            rl_table *again = NULL;
            if (rl_shared_open(path, limits, N_LIMITS, 100, NULL, at(0), &again) == RL_SHARED_OK) {
                rl_table_free(table);
                table = again;
            }
        }
    }
    rl_table_free(table);
    _exit(sane ? 0 : 1);
}

static void overwrite_a_bit(uint64_t random)
{
    struct stat file;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &file) == 0 && file.st_size > 0) {
        off_t offset = (off_t)(random >> 8) % file.st_size;
        uint8_t byte = 0;
        CHECK_EQUAL(pread(fd, &byte, 1, offset), 1);
        byte ^= (uint8_t)(1u << random % 8);
        CHECK_EQUAL(pwrite(fd, &byte, 1, offset), 1);
    }
    close(fd);
}

/* No process crashes or hangs, whatever becomes of the file. */
static void test_any_bytes_under_processes(_Atomic bool *end)
{
    uint64_t random = 5;
    pid_t users[USERS];
    rl_table *table = opened();
    for (int i = 0; i < USERS; i++) {
        users[i] = fork();
        if (users[i] == 0) {
            use(table, end, (uint64_t)i);
        }
    }
    for (int i = 0; i < OVERWRITTEN; i++) {
        overwrite_a_bit(next_random(&random));
        if (i % 10 == 0) {
            nanosleep(&(struct timespec){0, 100000}, NULL);
        }
    }
    *end = true;
    for (int i = 0; i < USERS; i++) {
        int status = -1;
        waitpid(users[i], &status, 0);
        CHECK_EQUAL(status, 0);
    }
    rl_table_free(table);
    unlink(path);
}

int main(void)
{
    snprintf(path, sizeof path, "/dev/shm/rl-hostile-%ld", (long)getpid());
    CHECK_EQUAL(rl_limit_init(&limits[0], 5, 0), RL_OK);
    CHECK_EQUAL(rl_window_init(&limits[1], true, 1000000, 60), RL_OK);
    CHECK_EQUAL(rl_window_init(&limits[2], false, RL_WINDOW_COUNT_MAX, 1), RL_OK);
    CHECK_EQUAL(rl_window_init(&limits[3], true, 8, 60), RL_OK); /* with the time of each request */
    _Atomic bool *end = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    test_a_live_file_of_another_boot();
    test_a_boot_id_that_cannot_be_read();
    test_a_wait_that_a_signal_ends();
    test_a_file_that_is_replaced_during_the_wait();
    test_signals_while_space_is_reserved();
    test_any_bytes_under_processes(end);
    munmap((void *)end, 1);
    CHECK_EQUAL(seam_live_blocks(), 0);
    return report("test_shared_hostile");
}

#else

int main(void)
{
    CHECK(true);
    return report("test_shared_hostile");
}

#endif
