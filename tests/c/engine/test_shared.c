/* test_shared.c -- a table in a file: processes that share it, die in it, and find odd files. */
#include "at.h"
#include "check.h"
#include "engine/shard.h"
#include "engine/shared.h"

#ifdef __linux__

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char path[64];

static rl_limit limit_of(double capacity, double refill_rate)
{
    rl_limit limit = {0};
    CHECK_EQUAL(rl_limit_init(&limit, capacity, refill_rate), RL_OK);
    return limit;
}

static rl_table *opened(const rl_limit *limits, size_t n, size_t max_keys)
{
    rl_table *table = NULL;
    CHECK_EQUAL(rl_shared_open(path, limits, n, max_keys, NULL, at(0), &table), RL_SHARED_OK);
    CHECK(table != NULL && rl_table_is_shared(table));
    return table;
}

static rl_key number_key(const rl_table *table, uint64_t number)
{
    return rl_table_key(table, &number, sizeof number);
}

static void test_new_file_starts_with_the_entries_of_another(void)
{
    rl_limit before[2] = {limit_of(10, 1), {0}}, after[2] = {limit_of(20, 2), {0}};
    CHECK_EQUAL(rl_window_init(&before[1], false, 9, 60), RL_OK);
    CHECK_EQUAL(rl_window_init(&after[1], false, 12, 60), RL_OK);
    uint64_t costs[2] = {rl_limit_cost(&before[0], 1), 1};
    rl_table *kept = opened(before, 2, 100), *made = NULL, *again = NULL;
    bool allowed;
    for (uint64_t i = 0; i < 50; i++) {
        CHECK_EQUAL(rl_table_take(kept, number_key(kept, i), costs, at(5), &allowed, NULL, NULL),
                    RL_OK);
    }
    char other[sizeof path + 2];
    snprintf(other, sizeof other, "%s.2", path);
    CHECK_EQUAL(rl_shared_open(other, after, 2, 100, kept, at(5), &made), RL_SHARED_OK);
    CHECK_EQUAL(rl_shared_open(other, after, 2, 100, kept, at(5), &again), RL_SHARED_OK);
    CHECK_EQUAL(rl_table_sweep(made, at(5)).keys, 50);
    rl_decision decision, each[2];
    uint64_t none[2] = {0, 0};
    rl_table_peek(again, number_key(again, 7), none, at(5), &decision, each);
    CHECK(each[0].remaining == 18 && each[1].remaining == 11); /* full at the same time */
    rl_table_peek(again, number_key(again, 77), none, at(5), &decision, each);
    CHECK(each[0].remaining == 20 && each[1].remaining == 12);
    rl_table *none_made = NULL;
    CHECK_EQUAL(rl_shared_open("/tmp/x", after, 2, 100000, kept, at(5), &none_made),
                RL_SHARED_EOTHER);
    CHECK(none_made == NULL);
    rl_table_free(kept);
    rl_table_free(made);
    rl_table_free(again);
    unlink(path);
    unlink(other);
}

#define MANY_KEYS 3000

static void take_one_of_each(rl_table *table, const rl_limit *limit, uint64_t from, uint64_t to)
{
    uint64_t cost = rl_limit_cost(limit, 1);
    bool allowed;
    for (uint64_t i = from; i < to; i++) {
        CHECK_EQUAL(rl_table_take(table, number_key(table, i), &cost, at(0), &allowed, NULL, NULL),
                    RL_OK);
    }
}

static void check_each_has(rl_table *table, uint64_t from, uint64_t to, double remaining)
{
    uint64_t none = 0;
    rl_decision decision;
    for (uint64_t i = from; i < to; i++) {
        rl_table_peek(table, number_key(table, i), &none, at(0), &decision, NULL);
        CHECK(decision.remaining == remaining);
    }
}

static void test_lines_are_taken_as_keys_come(void)
{
    rl_limit limit = limit_of(5, 0);
    rl_table *table = opened(&limit, 1, 8000);
    take_one_of_each(table, &limit, 0, 30);
    CHECK(rl_table_count(table).slots < 200);
    take_one_of_each(table, &limit, 30, MANY_KEYS);
    CHECK(rl_table_count(table).slots > MANY_KEYS);
    CHECK_EQUAL(rl_table_count(table).keys, MANY_KEYS);
    check_each_has(table, 0, MANY_KEYS, 4);
    size_t next = 0;
    while (rl_table_reset_part(table, &next)) {}
    CHECK(rl_table_count(table).slots < 200);
    check_each_has(table, 0, MANY_KEYS, 5);
    rl_table_free(table);
    unlink(path);
}

/* What a process that is killed while it takes lines leaves: copies in the new ones, and then, before
 * it has removed them from the old ones, two of each entry that has moved. */
static void leave_half_taken(rl_table *table, bool in_use)
{
    shard *shard = &table->shards[0];
    uint32_t n = line_count(table, shard), mask = shard->mask * 2 + 1;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t *upper = line_at(table, table->region, i + n);
        memcpy(upper, line_at(table, table->region, i), table->line_words * sizeof *upper);
        for (unsigned j = 0; j < RL_LINE_SLOTS; j++) {
            uint32_t first = first_line(table, upper[j], mask);
            uint32_t second = second_line(table, upper[j], mask);
            bool stays = first == i || second == i || (first != i + n && second != i + n);
            upper[j] = stays ? 0 : upper[j];
        }
    }
    if (in_use) {
        shard->mask = mask;
    }
}

static void test_killed_while_it_takes_lines(bool in_use)
{
    rl_limit limit = limit_of(5, 0);
    rl_table *table = opened(&limit, 1, 8000);
    take_one_of_each(table, &limit, 0, 200);
    leave_half_taken(table, in_use);
    check_each_has(table, 0, 200, 4);
    take_one_of_each(table, &limit, 0, 200);
    check_each_has(table, 0, 200, 3);
    take_one_of_each(table, &limit, 200, MANY_KEYS);
    check_each_has(table, 0, 200, 3);
    check_each_has(table, 200, MANY_KEYS, 4);
    rl_table_free(table);
    unlink(path);
}

static void test_two_handles_are_one_table(void)
{
    rl_limit limits[2] = {limit_of(5, 0), {0}};
    CHECK_EQUAL(rl_window_init(&limits[1], true, 9, 60), RL_OK);
    uint64_t costs[2] = {rl_limit_cost(&limits[0], 1), 1};
    rl_table *one = opened(limits, 2, 100);
    rl_table *two = opened(limits, 2, 100);
    bool allowed;
    for (int i = 0; i < 8; i++) {
        rl_table *table = i % 2 ? one : two;
        rl_key key = rl_table_key(table, "k", 1);
        CHECK_EQUAL(rl_table_take(table, key, costs, at(5), &allowed, NULL, NULL), RL_OK);
        CHECK_EQUAL(allowed, i < 5);
    }
    CHECK_EQUAL(rl_table_sweep(one, at(5)).allowed, 5);
    CHECK_EQUAL(rl_table_sweep(two, at(5)).keys, 1);
    rl_table_free(one);
    rl_table_free(two);
    rl_table *again = opened(limits, 2, 100); /* it stays while it is open in no process */
    rl_decision decision;
    rl_table_peek(again, rl_table_key(again, "k", 1), costs, at(5), &decision, NULL);
    CHECK(!decision.allowed);
    rl_table_free(again);
    unlink(path);
}

/* A flood fills the file and no more. */
static void test_it_does_not_grow(void)
{
    rl_limit limit = limit_of(10, 1);
    uint64_t cost = rl_limit_cost(&limit, 1);
    rl_table *table = opened(&limit, 1, 1000);
    uint64_t bytes = rl_table_sweep(table, at(0)).bytes;
    uint64_t admitted = 0;
    bool allowed;
    for (uint64_t i = 0; i < 100000; i++) {
        CHECK_EQUAL(rl_table_take(table, number_key(table, i), &cost, at(0), &allowed, NULL, NULL),
                    RL_OK);
        admitted += allowed;
    }
    rl_table_stats stats = rl_table_sweep(table, at(0));
    CHECK_EQUAL(stats.bytes, bytes);
    CHECK(stats.evicted_active > 0 && admitted <= stats.slots * 10);
    CHECK_EQUAL(rl_table_sweep(table, at(INT64_C(20000000000))).keys, 0);
    rl_table_free(table);
    unlink(path);
}

static void test_files_that_are_something_else(void)
{
    rl_limit limit = limit_of(10, 1);
    rl_limit other = limit_of(11, 1);
    rl_table *table = NULL;
    rl_table_free(opened(&limit, 1, 1000));
    CHECK_EQUAL(rl_shared_open(path, &other, 1, 1000, NULL, at(0), &table), RL_SHARED_EOTHER);
    CHECK_EQUAL(rl_shared_open(path, &limit, 1, 100000, NULL, at(0), &table), RL_SHARED_EOTHER);
    CHECK_EQUAL(chmod(path, 0644), 0);
    CHECK_EQUAL(rl_shared_open(path, &limit, 1, 1000, NULL, at(0), &table), RL_SHARED_EOWNER);
    CHECK_EQUAL(chmod(path, 0600), 0);
    rl_table_free(opened(&limit, 1, 1000));
    CHECK_EQUAL(truncate(path, 5000), 0);
    CHECK_EQUAL(rl_shared_open(path, &limit, 1, 1000, NULL, at(0), &table), RL_SHARED_EOTHER);
    CHECK_EQUAL(truncate(path, 5), 0);
    CHECK_EQUAL(rl_shared_open(path, &limit, 1, 1000, NULL, at(0), &table), RL_SHARED_EOTHER);
    FILE *file = fopen(path, "w");
    fputs("somebody's diary, which is not to be lost", file);
    for (int i = 0; i < 1000; i++) {
        fputs("some more of it", file);
    }
    fclose(file);
    CHECK_EQUAL(rl_shared_open(path, &limit, 1, 1000, NULL, at(0), &table), RL_SHARED_EOTHER);
    unlink(path);
    CHECK_EQUAL(symlink("/etc/passwd", path), 0);
    CHECK_EQUAL(rl_shared_open(path, &limit, 1, 1000, NULL, at(0), &table), RL_SHARED_ESYSTEM);
    CHECK_EQUAL(errno, ELOOP);
    unlink(path);
    CHECK_EQUAL(rl_shared_open("/no/such/folder/file", &limit, 1, 1000, NULL, at(0), &table),
                RL_SHARED_ESYSTEM);
    CHECK_EQUAL(errno, ENOENT);
    CHECK_EQUAL(rl_shared_open("/tmp", &limit, 1, 1000, NULL, at(0), &table), RL_SHARED_ESYSTEM);
    seam_fail(0, 1);
    CHECK_EQUAL(rl_shared_open(path, &limit, 1, 1000, NULL, at(0), &table), RL_SHARED_ENOMEM);
    seam_fail(0, 0);
    CHECK(table == NULL);
    unlink(path);
}

/* A file from before the last boot, or one that was never finished, starts empty. */
static void test_files_that_are_made_again(void)
{
    rl_limit limit = limit_of(3, 0);
    uint64_t cost = rl_limit_cost(&limit, 1);
    bool allowed;
    for (long offset = 0; offset <= 8; offset += 8) { /* the magic number; the boot's id */
        rl_table *table = opened(&limit, 1, 100);
        rl_table_take(table, number_key(table, 1), &cost, at(0), &allowed, NULL, NULL);
        rl_table_free(table);
        int fd = open(path, O_RDWR);
        CHECK_EQUAL(pwrite(fd, "\0\0\0\0\0\0\0\0", 8, offset), 8);
        close(fd);
        table = opened(&limit, 1, 100);
        CHECK_EQUAL(rl_table_sweep(table, at(0)).keys, 0);
        rl_table_free(table);
        unlink(path);
    }
}

#define KEYS 20

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* In a child: take until killed, or `n` times; count in memory that all share. */
static void take_in_child(const rl_limit *limit, _Atomic uint64_t *admitted, int n)
{
    rl_table *table = NULL;
    if (rl_shared_open(path, limit, 1, 100, NULL, at(0), &table) != RL_SHARED_OK) {
        _exit(1);
    }
    uint64_t cost = rl_limit_cost(limit, 1);
    uint64_t random = (uint64_t)getpid();
    for (int i = 0; n == 0 || i < n; i++) {
        uint64_t number = next_random(&random) % KEYS;
        bool allowed = false;
        rl_table_take(table, number_key(table, number), &cost, at(now_ns()), &allowed, NULL, NULL);
        admitted[number] += allowed;
    }
    _exit(0);
}

static pid_t child(const rl_limit *limit, _Atomic uint64_t *admitted, int n)
{
    pid_t pid = fork();
    if (pid == 0) {
        take_in_child(limit, admitted, n);
    }
    return pid;
}

static void test_processes_admit_what_one_would(_Atomic uint64_t *admitted)
{
    rl_limit limit = limit_of(1000, 0);
    pid_t pids[4];
    for (int i = 0; i < 4; i++) {
        pids[i] = child(&limit, admitted, 30000);
    }
    for (int i = 0; i < 4; i++) {
        int status = -1;
        waitpid(pids[i], &status, 0);
        CHECK_EQUAL(status, 0);
    }
    for (int i = 0; i < KEYS; i++) {
        CHECK_EQUAL(admitted[i], 1000);
        admitted[i] = 0;
    }
    unlink(path);
}

static uint64_t sum_of(_Atomic uint64_t *admitted)
{
    uint64_t total = 0;
    for (int i = 0; i < KEYS; i++) {
        total += admitted[i];
    }
    return total;
}

/* Return true while there is more to see; a slow machine gets a minute. */
static bool goes_on(int64_t elapsed_ns, unsigned kills, _Atomic uint64_t *admitted)
{
    bool is_enough = kills > 100 && sum_of(admitted) > 1000;
    return elapsed_ns < 1500000000 || (!is_enough && elapsed_ns < INT64_C(60000000000));
}

/* Killed at any moment: no process hangs, and no key gets more than its limit. */
static void test_processes_that_are_killed(_Atomic uint64_t *admitted)
{
    rl_limit limit = limit_of(50, 2000);
    int64_t began_ns = now_ns();
    uint64_t random = 11;
    unsigned kills = 0;
    pid_t pids[4];
    rl_table *table = opened(&limit, 1, 100);
    for (int i = 0; i < 4; i++) {
        pids[i] = child(&limit, admitted, 0);
    }
    while (goes_on(now_ns() - began_ns, kills, admitted)) {
        /* It grows, so that a process begins to decide before it is killed on a slow machine too. */
        uint64_t most_ns = 2000000 + (uint64_t)(now_ns() - began_ns) / 100;
        struct timespec pause = {0, (long)(next_random(&random) % most_ns)};
        nanosleep(&pause, NULL);
        int victim = (int)(next_random(&random) % 4);
        kill(pids[victim], SIGKILL);
        waitpid(pids[victim], NULL, 0);
        pids[victim] = child(&limit, admitted, 0);
        kills++;
    }
    for (int i = 0; i < 4; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    double elapsed_s = (double)(now_ns() - began_ns) / 1e9;
    CHECK(kills > 100 && sum_of(admitted) > 1000);
    for (int i = 0; i < KEYS; i++) {
        CHECK((double)admitted[i] <= 50 + 2000 * elapsed_s);
        admitted[i] = 0;
    }
    uint64_t cost = rl_limit_cost(&limit, 1);
    bool allowed;
    for (uint64_t i = 0; i < KEYS; i++) { /* no lock is left */
        CHECK_EQUAL(
            rl_table_take(table, number_key(table, i), &cost, at(now_ns()), &allowed, NULL, NULL),
            RL_OK);
    }
    CHECK(rl_table_sweep(table, at(now_ns())).keys <= KEYS);
    CHECK_EQUAL(rl_table_sweep(table, at(now_ns() + INT64_C(3600000000000))).keys, 0);
    rl_table_free(table);
    unlink(path);
}

int main(void)
{
    snprintf(path, sizeof path, "/dev/shm/rl-test-%ld", (long)getpid());
    _Atomic uint64_t *admitted =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    test_new_file_starts_with_the_entries_of_another();
    test_lines_are_taken_as_keys_come();
    test_killed_while_it_takes_lines(false);
    test_killed_while_it_takes_lines(true);
    test_two_handles_are_one_table();
    test_it_does_not_grow();
    test_files_that_are_something_else();
    test_files_that_are_made_again();
    test_processes_admit_what_one_would(admitted);
    test_processes_that_are_killed(admitted);
    munmap((void *)admitted, 4096);
    CHECK_EQUAL(seam_live_blocks(), 0);
    return report("test_shared");
}

#else

int main(void)
{
    rl_table *table = NULL;
    CHECK_EQUAL(rl_shared_open("/tmp/x", NULL, 0, 1, NULL, at(0), &table), RL_SHARED_ENOWHERE);
    return report("test_shared");
}

#endif
