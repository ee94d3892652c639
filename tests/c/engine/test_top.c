/* test_top.c -- the clients with the most decisions: bounds, fading, texts, threads, processes and
 * files with any content. */
#include "check.h"
#include "engine/top.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)
#define NOW (1000 * NS_PER_S)
#define CLIENTS 20000
#define THREADS 4
#define ROUNDS 20000

static char path[64];
static rl_top_client found[RL_TOP_SLOTS];

static void record(rl_top *top, bool allowed, const char *key, uint64_t n, int64_t now_ns)
{
    rl_top_record(top, allowed, key, strlen(key), n, now_ns, RL_TOP_PLAIN);
}

static const rl_top_client *find(size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++) {
        if (found[i].length == strlen(key) && memcmp(found[i].text, key, found[i].length) == 0) {
            return &found[i];
        }
    }
    return NULL;
}

static void test_few_clients_are_exact(void)
{
    rl_top *top = rl_top_new();
    record(top, true, "ann", 3, NOW);
    record(top, true, "bob", 5, NOW);
    record(top, true, "ann", 1, NOW);
    record(top, false, "ann", 7, NOW);
    CHECK_EQUAL(rl_top_read(top, true, NOW, found), 2);
    CHECK(find(2, "bob") == &found[0] && found[0].count == 5 && found[0].error == 0);
    CHECK(find(2, "ann") == &found[1] && found[1].count == 4 && !found[1].is_cut);
    CHECK_EQUAL(rl_top_read(top, false, NOW, found), 1);
    CHECK(found[0].count == 7);
    rl_top_free(top);
}

/* The clients of a Zipf distribution: client i has a share that is proportional to 1 / i. */
static size_t zipf(uint64_t *state)
{
    static double sums[CLIENTS];
    if (sums[0] == 0) {
        for (size_t i = 0; i < CLIENTS; i++) {
            sums[i] = (i == 0 ? 0 : sums[i - 1]) + 1.0 / (double)(i + 1);
        }
    }
    double at = (double)(next_random(state) >> 11) * 0x1p-53 * sums[CLIENTS - 1];
    size_t low = 0, high = CLIENTS - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sums[middle] < at) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void test_the_bounds_and_the_top_twenty(void)
{
    static uint32_t truth[CLIENTS];
    rl_top *top = rl_top_new();
    uint64_t state = 1;
    char key[32];
    for (int i = 0; i < 1000000; i++) {
        size_t client = zipf(&state);
        truth[client]++;
        snprintf(key, sizeof key, "client-%zu", client);
        record(top, false, key, 1, NOW);
    }
    size_t n = rl_top_read(top, false, NOW, found);
    CHECK_EQUAL(n, RL_TOP_SLOTS);
    for (size_t i = 0; i < n; i++) {
        size_t client = (size_t)atol(found[i].text + strlen("client-"));
        CHECK(found[i].count >= truth[client]);
        CHECK(found[i].count - found[i].error <= truth[client]);
        CHECK(i == 0 || found[i].count <= found[i - 1].count);
    }
    for (size_t client = 0; client < 20; client++) {
        snprintf(key, sizeof key, "client-%zu", client);
        const rl_top_client *one = find(n, key);
        CHECK(one != NULL && one - found < 30);
    }
    rl_top_free(top);
}

/* A flood of clients that come once replaces each other, not those that come often. */
static void test_a_flood_of_clients(void)
{
    rl_top *top = rl_top_new();
    char key[32];
    for (int i = 0; i < 200000; i++) {
        snprintf(key, sizeof key, "flood-%d", i);
        record(top, true, key, 1, NOW);
        if (i % 100 == 0) {
            record(top, true, "regular", 1, NOW);
        }
    }
    size_t n = rl_top_read(top, true, NOW, found);
    const rl_top_client *regular = find(n, "regular");
    CHECK(regular != NULL && regular->count >= 2000 && regular->count - regular->error <= 2000);
    rl_top_free(top);
}

static void test_counts_fade(void)
{
    rl_top *top = rl_top_new();
    record(top, true, "ann", 1000, NOW);
    size_t n = rl_top_read(top, true, NOW + RL_TOP_HALF_LIFE_S * NS_PER_S, found);
    CHECK(n == 1 && fabs(found[0].count - 500) < 1e-6);
    /* A clock that goes back changes nothing. */
    CHECK(rl_top_read(top, true, NOW, found) == 1 && fabs(found[0].count - 500) < 1e-6);
    /* Nothing is left of a client after a while, and its slot is free. */
    CHECK_EQUAL(rl_top_read(top, true, NOW + 3600 * NS_PER_S, found), 0);
    /* A steady rate of 2 per second. */
    for (int i = 0; i < 1200; i++) {
        record(top, false, "bob", 2, NOW + i * NS_PER_S);
    }
    n = rl_top_read(top, false, NOW + 1199 * NS_PER_S, found);
    CHECK(n == 1 && fabs(found[0].count * log(2) / RL_TOP_HALF_LIFE_S - 2) < 0.02);
    rl_top_free(top);
}

static void check_text(const char *key, rl_top_form form, const char *expected, bool is_cut)
{
    rl_top *top = rl_top_new();
    rl_top_record(top, true, key, strlen(key), 1, NOW, form);
    CHECK_EQUAL(rl_top_read(top, true, NOW, found), 1);
    CHECK_EQUAL(found[0].length, strlen(expected));
    CHECK(memcmp(found[0].text, expected, strlen(expected)) == 0);
    CHECK_EQUAL(found[0].is_cut, is_cut);
    rl_top_free(top);
}

static void test_texts(void)
{
    check_text("ann", RL_TOP_PLAIN, "ann", false);
    check_text("", RL_TOP_PLAIN, "", false);
    check_text("0123456789012345678901234567890123456789", RL_TOP_PLAIN,
               "012345678901234567890123456789012345678", true);
    /* 37 bytes and a character of three: it is left out as a whole. */
    check_text("0123456789012345678901234567890123456\xe2\x82\xac", RL_TOP_PLAIN,
               "0123456789012345678901234567890123456", true);
    check_text("ann", RL_TOP_HASHED, "", true);
    check_text("203.0.113.9", RL_TOP_MASKED, "203.0.113.", true);
    check_text("2001:db8:0:1::", RL_TOP_MASKED, "2001:db8:", true);
    check_text("2001:db8::17", RL_TOP_MASKED, "2001:db8:", true);
    check_text("2001:", RL_TOP_MASKED, "2001:", false);
    check_text("secret-of-ann", RL_TOP_MASKED, "secr", true);
    check_text("a-very-long-key-that-somebody-has-made-up", RL_TOP_MASKED, "a-very-l", true);
    check_text("ab", RL_TOP_MASKED, "", true);
    check_text("\xe2\x82\xac\xe2\x82\xac", RL_TOP_MASKED, "", true);
}

static void *record_often(void *context)
{
    char key[16];
    for (int i = 0; i < ROUNDS; i++) {
        snprintf(key, sizeof key, "%d", i % 10);
        record(context, true, key, 1, NOW);
    }
    return NULL;
}

/* Every decision is counted or missed. */
static void check_rounds(rl_top *top, double times)
{
    double sum = (double)top->missed;
    size_t n = rl_top_read(top, true, NOW, found);
    for (size_t i = 0; i < n; i++) {
        sum += found[i].count;
    }
    CHECK_EQUAL(n, 10);
    CHECK(sum == times * ROUNDS);
}

static void test_threads(void)
{
    rl_top *top = rl_top_new();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQUAL(pthread_create(&threads[i], NULL, record_often, top), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    check_rounds(top, THREADS);
    rl_top_free(top);
}

static void test_processes(void)
{
    rl_top *top;
    for (int i = 0; i < 3; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            int failed = rl_top_open(path, &top) != RL_FILE_OK;
            if (!failed) {
                record_often(top);
                rl_top_close(top);
            }
            _exit(failed);
        }
        CHECK(pid > 0);
    }
    int status;
    while (wait(&status) > 0) {
        CHECK_EQUAL(status, 0);
    }
    CHECK_EQUAL(rl_top_open(path, &top), RL_FILE_OK);
    check_rounds(top, 3);
    rl_top_close(top);
    unlink(path);
}

/* A process was killed while it recorded: others go on after a second. */
static void test_a_lock_without_a_holder(void)
{
    rl_top *top = rl_top_new();
    for (size_t i = 0; i < RL_TOP_SETS; i++) {
        top->sets[1][i].lock = (uint64_t)NOW;
    }
    record(top, true, "ann", 1, NOW + NS_PER_S / 2);
    CHECK_EQUAL(top->missed, 1);
    CHECK_EQUAL(rl_top_read(top, true, NOW, found), 0);
    record(top, true, "ann", 1, NOW + 2 * NS_PER_S);
    CHECK_EQUAL(top->missed, 1);
    CHECK_EQUAL(rl_top_read(top, true, NOW + 2 * NS_PER_S, found), 1);
    rl_top_free(top);
}

static void test_any_content_is_safe(void)
{
    rl_top *top = rl_top_new();
    uint64_t state = 7;
    for (int round = 0; round < 50; round++) {
        unsigned char *bytes = (unsigned char *)top->sets;
        for (size_t i = 0; i < sizeof top->sets; i++) {
            bytes[i] = round == 0 ? 0xff : (unsigned char)next_random(&state);
        }
        for (int i = 0; i < 500; i++) {
            char key[16];
            snprintf(key, sizeof key, "%d", i);
            record(top, i % 2 == 0, key, 1, NOW);
        }
        for (int allowed = 0; allowed < 2; allowed++) {
            size_t n = rl_top_read(top, allowed != 0, NOW + round * NS_PER_S, found);
            CHECK(n <= RL_TOP_SLOTS);
            for (size_t i = 0; i < n; i++) {
                CHECK(found[i].length <= RL_TOP_TEXT && isfinite(found[i].count) &&
                      found[i].error >= 0 && found[i].error <= found[i].count);
            }
        }
    }
    rl_top_free(top);
}

static void test_odd_files(void)
{
    rl_top *top = (rl_top *)path; /* to be overwritten */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
    CHECK_EQUAL(rl_top_open(path, &top), RL_FILE_EOTHER);
    CHECK(top == NULL);
    unlink(path);
    rl_top_close(NULL);
    rl_top_free(NULL);
}

static void test_without_memory(void)
{
    seam_fail(0, 1);
    CHECK(rl_top_new() == NULL);
    seam_fail(0, 0);
}

int main(void)
{
    snprintf(path, sizeof path, "/tmp/rl_test_top.%ld", (long)getpid());
    unlink(path);
    test_few_clients_are_exact();
    test_the_bounds_and_the_top_twenty();
    test_a_flood_of_clients();
    test_counts_fade();
    test_texts();
    test_threads();
    test_processes();
    test_a_lock_without_a_holder();
    test_any_content_is_safe();
    test_odd_files();
    test_without_memory();
    return report("top");
}
