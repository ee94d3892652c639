/* test_top.c -- the clients with the most decisions: bounds, fading, texts, threads, processes and
 * files with any content. */
#include "check.h"
#include "engine/top.h"

#include <errno.h>
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
static const rl_secret SECRET = {1, 2};
static rl_top_client found[RL_TOP_SLOTS_MAX];

static rl_top opened(const char *file, unsigned clients, rl_top_writer write)
{
    rl_top top;
    CHECK_EQUAL(rl_top_open(&top, file, clients, SECRET, write), RL_FILE_OK);
    return top;
}

static rl_top in_memory(void)
{
    return opened(NULL, RL_TOP_CLIENTS_MAX, rl_top_write_plain);
}

static void record(rl_top *top, bool allowed, const char *key, uint64_t n, int64_t now_ns)
{
    rl_top_record(top, allowed, key, strlen(key), 0, n, now_ns);
}

static int compare_counts(const void *one, const void *other)
{
    double a = ((const rl_top_client *)one)->count;
    double b = ((const rl_top_client *)other)->count;
    return (a < b) - (a > b);
}

/* Read the clients, the highest count first. */
static size_t read_sorted(rl_top *top, bool allowed, int64_t now_ns)
{
    size_t n = rl_top_read(top, allowed, now_ns, found);
    qsort(found, n, sizeof *found, compare_counts);
    return n;
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
    rl_top top = in_memory();
    record(&top, true, "ann", 3, NOW);
    record(&top, true, "bob", 5, NOW);
    record(&top, true, "ann", 1, NOW);
    record(&top, false, "ann", 7, NOW);
    CHECK_EQUAL(read_sorted(&top, true, NOW), 2);
    CHECK(find(2, "bob") == &found[0] && found[0].count == 5 && found[0].error == 0);
    CHECK(find(2, "ann") == &found[1] && found[1].count == 4 && !found[1].is_cut);
    CHECK_EQUAL(read_sorted(&top, false, NOW), 1);
    CHECK(found[0].count == 7);
    rl_top_close(&top);
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

/* Record Zipf traffic, and check each count against the truth; the sketch may have `clients`. */
static void check_zipf(unsigned clients, size_t first, size_t among)
{
    static uint32_t truth[CLIENTS];
    rl_top top = opened(NULL, clients, rl_top_write_plain);
    uint64_t state = clients;
    char key[32];
    memset(truth, 0, sizeof truth);
    for (int i = 0; i < 300000; i++) {
        size_t client = zipf(&state);
        truth[client]++;
        snprintf(key, sizeof key, "client-%zu", client);
        record(&top, false, key, 1, NOW);
    }
    size_t n = read_sorted(&top, false, NOW);
    for (size_t i = 0; i < n; i++) {
        size_t client = (size_t)atol(found[i].text + strlen("client-"));
        CHECK(found[i].count >= truth[client]);
        CHECK(found[i].count - found[i].error <= truth[client]);
    }
    for (size_t client = 0; client < first; client++) {
        snprintf(key, sizeof key, "client-%zu", client);
        const rl_top_client *one = find(n, key);
        CHECK(one != NULL && (size_t)(one - found) < among);
    }
    rl_top_close(&top);
}

static void test_the_top_of_zipf_traffic(void)
{
    check_zipf(RL_TOP_CLIENTS_MAX, 20, 24);
    check_zipf(20, 5, 8);
}

/* A flood of clients that come once replaces each other, not those that come often. */
static void test_a_flood_of_clients(void)
{
    rl_top top = in_memory();
    char key[32];
    for (int i = 0; i < 200000; i++) {
        snprintf(key, sizeof key, "flood-%d", i);
        record(&top, true, key, 1, NOW);
        if (i % 100 == 0) {
            record(&top, true, "regular", 1, NOW);
        }
    }
    size_t n = read_sorted(&top, true, NOW);
    const rl_top_client *regular = find(n, "regular");
    CHECK(regular != NULL && regular->count >= 2000 && regular->count - regular->error <= 2000);
    rl_top_close(&top);
}

static void test_counts_fade(void)
{
    rl_top top = in_memory();
    record(&top, true, "ann", 1000, NOW);
    size_t n = read_sorted(&top, true, NOW + RL_TOP_HALF_LIFE_S * NS_PER_S);
    CHECK(n == 1 && fabs(found[0].count - 500) < 1e-6);
    /* A clock that goes back changes nothing. */
    CHECK(read_sorted(&top, true, NOW) == 1 && fabs(found[0].count - 500) < 1e-6);
    /* Nothing is left of a client after a while, and its slot is free. */
    CHECK_EQUAL(read_sorted(&top, true, NOW + 3600 * NS_PER_S), 0);
    /* A steady rate of 2 per second. */
    for (int i = 0; i < 1200; i++) {
        record(&top, false, "bob", 2, NOW + i * NS_PER_S);
    }
    n = read_sorted(&top, false, NOW + 1199 * NS_PER_S);
    CHECK(n == 1 && fabs(found[0].count * log(2) / RL_TOP_HALF_LIFE_S - 2) < 0.02);
    rl_top_close(&top);
}

/* The clocks of two processes differ a little; that of a restarted host begins again. */
static void test_times_of_before(void)
{
    rl_top top = in_memory();
    record(&top, true, "ann", 4, NOW);
    record(&top, true, "ann", 4, NOW - NS_PER_S);
    CHECK(read_sorted(&top, true, NOW) == 1 && found[0].count == 8);
    record(&top, true, "ann", 1, NOW / 2);
    CHECK(read_sorted(&top, true, NOW / 2) == 1 && found[0].count == 1);
    rl_top_close(&top);
}

/* An alias stands for a key that is recorded, until another alias takes its place. */
static void test_aliases(void)
{
    rl_top top = in_memory();
    uint64_t alias = 77;
    CHECK(!rl_top_record_known(&top, true, alias, 1, NOW));
    for (int i = 0; i < 2; i++) { /* the first decision may be the only one */
        rl_top_record(&top, true, "ann", 3, alias, 1, NOW);
    }
    CHECK(rl_top_record_known(&top, true, alias, 5, NOW));
    CHECK(!rl_top_record_known(&top, false, alias, 1, NOW)); /* not among the denied ones */
    CHECK(!rl_top_record_known(&top, true, alias + RL_TOP_ALIASES, 1, NOW));
    CHECK(read_sorted(&top, true, NOW) == 1 && found[0].count == 7);
    for (int i = 0; i < 2; i++) {
        rl_top_record(&top, true, "bob", 3, alias + RL_TOP_ALIASES, 1, NOW);
    }
    CHECK(!rl_top_record_known(&top, true, alias, 1, NOW));
    CHECK(!rl_top_record_known(&top, true, alias, 1, NOW + 3600 * NS_PER_S));
    CHECK(!rl_top_record_known(&top, true, alias + RL_TOP_ALIASES, 1, NOW + 3600 * NS_PER_S));
    rl_top_close(&top);
}

/* The two results do not mix, and a client that replaces another one appears with its second
 * decision. */
static void test_replacing(void)
{
    rl_top top = opened(NULL, 1, rl_top_write_plain); /* one set */
    char key[2] = "a";
    for (int i = 0; i < RL_TOP_WAYS; i++, key[0]++) {
        record(&top, true, key, (uint64_t)i + 1, NOW);
    }
    record(&top, true, "new", 1, NOW);
    CHECK_EQUAL(read_sorted(&top, true, NOW), RL_TOP_WAYS - 1);
    CHECK(find(RL_TOP_WAYS - 1, "a") == NULL && find(RL_TOP_WAYS - 1, "new") == NULL);
    record(&top, true, "new", 1, NOW);
    CHECK_EQUAL(read_sorted(&top, true, NOW), RL_TOP_WAYS);
    const rl_top_client *one = find(RL_TOP_WAYS, "new");
    CHECK(one != NULL && one->count == 3 && one->error == 1);
    CHECK_EQUAL(read_sorted(&top, false, NOW), 0);
    rl_top_close(&top);
}

static void check_text(const char *key, rl_top_writer write, const char *expected, bool is_cut)
{
    rl_top top = opened(NULL, 1, write);
    record(&top, true, key, 1, NOW);
    CHECK_EQUAL(read_sorted(&top, true, NOW), 1);
    CHECK_EQUAL(found[0].length, strlen(expected));
    CHECK(memcmp(found[0].text, expected, strlen(expected)) == 0);
    CHECK_EQUAL(found[0].is_cut, is_cut);
    rl_top_close(&top);
}

#define TEN "0123456789"
#define SIXTY TEN TEN TEN TEN TEN TEN

static void test_texts(void)
{
    check_text("ann", rl_top_write_plain, "ann", false);
    check_text("", rl_top_write_plain, "", false);
    check_text(SIXTY "abc", rl_top_write_plain, SIXTY "abc", false);
    check_text(SIXTY "abcd", rl_top_write_plain, SIXTY "abc", true);
    /* 61 bytes and a character of three: it is left out as a whole. */
    check_text(SIXTY "a\xe2\x82\xac", rl_top_write_plain, SIXTY "a", true);
    /* Not UTF-8. */
    check_text(SIXTY "\x80\x80\x80\x80\x80", rl_top_write_plain, SIXTY, true);
    check_text("ann", rl_top_write_nothing, "", true);
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
    double sum = (double)top->file->missed;
    size_t n = read_sorted(top, true, NOW);
    for (size_t i = 0; i < n; i++) {
        sum += found[i].count;
    }
    CHECK_EQUAL(n, 10);
    CHECK(sum == times * ROUNDS);
}

static void test_threads(void)
{
    rl_top top = in_memory();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQUAL(pthread_create(&threads[i], NULL, record_often, &top), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    check_rounds(&top, THREADS);
    rl_top_close(&top);
}

static void test_processes(void)
{
    for (int i = 0; i < 3; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            rl_top top = opened(path, 50, rl_top_write_plain);
            record_often(&top);
            rl_top_close(&top);
            _exit(checks_failed != 0);
        }
        CHECK(pid > 0);
    }
    int status;
    while (wait(&status) > 0) {
        CHECK_EQUAL(status, 0);
    }
    rl_top top = opened(path, 50, rl_top_write_plain);
    check_rounds(&top, 3);
    rl_top_close(&top);
    unlink(path);
}

/* A process was killed while it recorded: others go on after a second. */
static void test_a_lock_without_a_holder(void)
{
    rl_top top = in_memory();
    for (size_t i = 0; i < 2 * top.n_sets; i++) {
        top.file->sets[i].lock = (uint64_t)NOW;
    }
    record(&top, true, "ann", 1, NOW + NS_PER_S / 2);
    CHECK_EQUAL(top.file->missed, 1);
    CHECK_EQUAL(read_sorted(&top, true, NOW), 0);
    record(&top, true, "ann", 1, NOW + 2 * NS_PER_S);
    CHECK_EQUAL(top.file->missed, 1);
    CHECK_EQUAL(read_sorted(&top, true, NOW + 2 * NS_PER_S), 1);
    rl_top_close(&top);
}

static void check_found(size_t n)
{
    CHECK(n <= RL_TOP_SLOTS_MAX);
    for (size_t i = 0; i < n; i++) {
        CHECK(found[i].length <= RL_TOP_TEXT && isfinite(found[i].count) && found[i].error >= 0 &&
              found[i].error <= found[i].count);
    }
}

static void test_any_content_is_safe(void)
{
    rl_top top = in_memory();
    uint64_t state = 7;
    for (int round = 0; round < 20; round++) {
        unsigned char *bytes = (unsigned char *)top.file->sets;
        for (size_t i = 0; i < top.bytes - sizeof *top.file; i++) {
            bytes[i] = round == 0 ? 0xff : (unsigned char)next_random(&state);
        }
        for (int i = 0; i < 500; i++) {
            char key[16];
            snprintf(key, sizeof key, "%d", i);
            record(&top, i % 2 == 0, key, 1, NOW);
        }
        for (int allowed = 0; allowed < 2; allowed++) {
            check_found(read_sorted(&top, allowed != 0, NOW + round * NS_PER_S));
        }
    }
    rl_top_close(&top);
}

static void write_file(const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void test_odd_files(void)
{
    rl_top top;
    rl_secret secret;
    write_file("x");
    CHECK_EQUAL(rl_top_open(&top, path, 10, SECRET, rl_top_write_plain), RL_FILE_EOTHER);
    rl_top_close(&top);
    CHECK_EQUAL(rl_top_read_secret(path, &secret), RL_FILE_EOTHER);
    unlink(path);
    top = opened(path, 10, rl_top_write_plain);
    rl_top other;
    CHECK_EQUAL(rl_top_open(&other, path, 20, SECRET, rl_top_write_plain), RL_FILE_EOTHER);
    rl_top_close(&top);
    unlink(path);
    rl_top_close(&(rl_top){0});
}

/* All processes that open the file have one secret, which differs from that of another file. */
static void test_secrets(void)
{
    rl_secret one, same, other;
    CHECK_EQUAL(rl_top_read_secret(path, &one), RL_FILE_OK);
    CHECK_EQUAL(rl_top_read_secret(path, &same), RL_FILE_OK);
    unlink(path);
    CHECK_EQUAL(rl_top_read_secret(path, &other), RL_FILE_OK);
    unlink(path);
    CHECK(one.k0 == same.k0 && one.k1 == same.k1 && one.k0 != 0 && one.k1 != 0);
    CHECK(one.k0 != other.k0 && one.k1 != other.k1);
}

static void test_without_memory(void)
{
    rl_top top;
    seam_fail(0, 1);
    CHECK_EQUAL(rl_top_open(&top, NULL, 10, SECRET, rl_top_write_plain), RL_FILE_ESYSTEM);
    CHECK_EQUAL(errno, ENOMEM);
    rl_top_close(&top);
    seam_fail(0, 0);
}

int main(void)
{
    snprintf(path, sizeof path, "/tmp/rl_test_top.%ld", (long)getpid());
    unlink(path);
    test_few_clients_are_exact();
    test_the_top_of_zipf_traffic();
    test_a_flood_of_clients();
    test_counts_fade();
    test_times_of_before();
    test_aliases();
    test_replacing();
    test_texts();
    test_threads();
    test_processes();
    test_a_lock_without_a_holder();
    test_any_content_is_safe();
    test_odd_files();
    test_secrets();
    test_without_memory();
    return report("top");
}
