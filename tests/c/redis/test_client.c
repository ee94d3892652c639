/* test_client.c -- the client for threads: each one gets its own answer, in time, despite
 * connections that break, answers in pieces, failing allocations, and a fork. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fake_redis.h"
#include "lookups.h"
#include "redis/client.h"

#define MS INT64_C(1000000)

static rl_options options_for(uint16_t port, int64_t timeout_ms)
{
    rl_options options = {.kind = RL_STANDALONE, .n_servers = 1, .client_name = "test"};
    options.servers[0] = (rl_server){"127.0.0.1", port};
    options.timeout_ns = timeout_ms * MS;
    options.connect_timeout_ns = 2000 * MS;
    return options;
}

/* "ECHO number" is answered with the number. */
static int echo(void *context, unsigned number, const redisReply *command, char *out)
{
    unsigned breaks_after = *(const unsigned *)context;
    int handshake = fake_handshake(command, out);
    if (handshake != -2) {
        return handshake;
    }
    if (breaks_after != 0 && number == breaks_after) {
        return FAKE_CLOSE;
    }
    return snprintf(out, 4096, ":%s\r\n", command->element[1]->str);
}

/* Send an echo. Return the answer, or -1 with the fault. */
static long long ask(rl_client *client, long long number, rl_fault *fault)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", number);
    const char *texts[] = {"ECHO", text};
    const size_t lens[] = {4, strlen(text)};
    rl_thread_call call = {.call = {.arguments = {2, texts, lens}, .key = 1}};
    rl_client_submit(client, &call);
    while (!rl_client_wait(client, &call, 50 * MS)) {}
    *fault = call.call.fault;
    if (call.call.fault != RL_FAULT_NONE) {
        CHECK(call.call.reply == NULL && call.call.error[0] != 0);
        return -1;
    }
    long long answer = call.call.reply->type == REDIS_REPLY_INTEGER ? call.call.reply->integer : -2;
    freeReplyObject(call.call.reply);
    return answer;
}

typedef struct asker {
    rl_client *client;
    int number, rounds;
    unsigned long wrong, failed, answered;
} asker;

static void *ask_many(void *argument)
{
    asker *self = argument;
    for (int i = 0; i < self->rounds; i++) {
        rl_fault fault;
        long long number = (long long)self->number * 1000000 + i;
        long long answer = ask(self->client, number, &fault);
        self->answered += fault == RL_FAULT_NONE;
        self->failed += fault != RL_FAULT_NONE;
        self->wrong += fault == RL_FAULT_NONE && answer != number;
    }
    return NULL;
}

static void test_threads(size_t piece, unsigned breaks_after, int rounds)
{
    fake_redis *server = fake_redis_start(echo, &breaks_after, piece);
    rl_options options = options_for(fake_redis_port(server), 5000);
    rl_client *client = rl_client_new(&options, NULL);
    CHECK(client != NULL);
    pthread_t threads[8];
    asker askers[8];
    for (int i = 0; i < 8; i++) {
        askers[i] = (asker){.client = client, .number = i + 1, .rounds = rounds};
        CHECK_EQUAL(pthread_create(&threads[i], NULL, ask_many, &askers[i]), 0);
    }
    unsigned long answered = 0;
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        CHECK_EQUAL(askers[i].wrong, 0);
        CHECK(breaks_after != 0 || askers[i].failed == 0);
        answered += askers[i].answered;
    }
    CHECK(answered > 0);
    rl_client_free(client);
    fake_redis_stop(server);
}

static int silent(void *context, unsigned number, const redisReply *command, char *out)
{
    (void)context;
    (void)number;
    int handshake = fake_handshake(command, out);
    return handshake != -2 ? handshake : 0;
}

static void test_deadline(void)
{
    fake_redis *server = fake_redis_start(silent, NULL, 1);
    rl_options options = options_for(fake_redis_port(server), 50);
    rl_client *client = rl_client_new(&options, NULL);
    rl_fault fault;
    int64_t started_ns = rl_now_ns();
    CHECK_EQUAL(ask(client, 1, &fault), -1);
    CHECK_EQUAL(fault, RL_FAULT_TIMEOUT);
    CHECK(rl_now_ns() - started_ns >= 50 * MS);
    rl_client_free(client);
    fake_redis_stop(server);
}

static void test_leaving(void)
{
    unsigned never = 0;
    fake_redis *server = fake_redis_start(echo, &never, 3);
    rl_options options = options_for(fake_redis_port(server), 5000);
    rl_client *client = rl_client_new(&options, NULL);
    rl_fault fault;
    for (int i = 0; i < 50; i++) {
        const char *texts[] = {"ECHO", "999"};
        const size_t lens[] = {4, 3};
        rl_thread_call call = {.call = {.arguments = {2, texts, lens}}};
        rl_client_submit(client, &call);
        rl_client_leave(client, &call);
        CHECK_EQUAL(ask(client, i, &fault), i);
    }
    rl_client_free(client);
    fake_redis_stop(server);
}

static int garbage(void *context, unsigned number, const redisReply *command, char *out)
{
    uint64_t seed = atomic_fetch_add((atomic_uint *)context, 1) + 1000 * number;
    uint64_t *random = &seed;
    int handshake = fake_handshake(command, out);
    if (handshake != -2 && next_random(random) % 4 != 0) {
        return handshake;
    }
    static const char letters[] = "*$+-:0123456789\r\n\r\nOK_";
    int len = (int)(next_random(random) % 64);
    for (int i = 0; i < len; i++) {
        out[i] = letters[next_random(random) % (sizeof letters - 1)];
    }
    return next_random(random) % 8 != 0 ? len : FAKE_CLOSE;
}

static void test_garbage(void)
{
    atomic_uint turn = 7;
    fake_redis *server = fake_redis_start(garbage, &turn, 5);
    rl_options options = options_for(fake_redis_port(server), 10);
    options.connect_timeout_ns = 20 * MS;
    rl_client *client = rl_client_new(&options, NULL);
    for (int i = 0; i < 100; i++) {
        rl_fault fault;
        ask(client, i, &fault);
        CHECK(fault <= RL_FAULT_NOMEM);
    }
    rl_client_free(client);
    fake_redis_stop(server);
}

/* Each allocation of the core fails once; then it works again. */
static void test_without_memory(void)
{
    unsigned never = 0;
    fake_redis *server = fake_redis_start(echo, &never, 100);
    rl_options options = options_for(fake_redis_port(server), 5000);
    unsigned long failures = 0;
    for (unsigned long first = 0; first < 12; first++) {
        seam_fail(first, 1);
        rl_client *client = rl_client_new(&options, NULL);
        if (client == NULL) {
            failures++;
        } else {
            rl_fault fault;
            if (ask(client, 5, &fault) != 5) {
                CHECK(fault == RL_FAULT_NOMEM || fault == RL_FAULT_CONNECT);
                failures++;
            }
            seam_fail(0, 0);
            CHECK_EQUAL(ask(client, 6, &fault), 6);
        }
        seam_fail(0, 0);
        rl_client_free(client);
        CHECK_EQUAL(seam_live_blocks(), 0);
    }
    CHECK(failures >= 5);
    fake_redis_stop(server);
}

static void test_fork(void)
{
    unsigned never = 0;
    fake_redis *server = fake_redis_start(echo, &never, 100);
    rl_options options = options_for(fake_redis_port(server), 5000);
    rl_client *client = rl_client_new(&options, NULL);
    rl_fault fault;
    CHECK_EQUAL(ask(client, 1, &fault), 1);
    int result[2];
    CHECK_EQUAL(pipe(result), 0);
    rl_client_before_fork(client);
    pid_t child = fork();
    if (child == 0) {
        rl_client_after_fork_in_child(client);
        char good = ask(client, 77, &fault) == 77;
        if (write(result[1], &good, 1) == 1) {
            raise(SIGKILL); /* before a leak check sees the parent's server */
        }
        _exit(1);
    }
    rl_client_after_fork_in_parent(client);
    CHECK_EQUAL(ask(client, 2, &fault), 2);
    char good = 0;
    CHECK_EQUAL(read(result[0], &good, 1), 1);
    CHECK(good);
    CHECK_EQUAL(waitpid(child, NULL, 0), child);
    close(result[0]);
    close(result[1]);
    CHECK_EQUAL(ask(client, 3, &fault), 3);
    rl_client_free(client);
    fake_redis_stop(server);
}

static void test_no_server(void)
{
    int threads_before = threads_now();
    rl_options options = options_for(1, 1000);
    rl_client *client = rl_client_new(&options, NULL);
    rl_fault fault;
    CHECK_EQUAL(ask(client, 1, &fault), -1);
    CHECK_EQUAL(fault, RL_FAULT_CONNECT);
    rl_client_free(client);
    options.servers[0] = (rl_server){"no such host", 6379}; /* spaces: no name server is asked */
    client = rl_client_new(&options, NULL);
    CHECK_EQUAL(ask(client, 1, &fault), -1);
    CHECK(fault == RL_FAULT_CONNECT || fault == RL_FAULT_TIMEOUT);
    rl_client_free(client);
    wait_for_lookups(threads_before);
    options.servers[0] = (rl_server){"/no/such/socket", 0};
    client = rl_client_new(&options, NULL);
    CHECK_EQUAL(ask(client, 1, &fault), -1);
    CHECK_EQUAL(fault, RL_FAULT_CONNECT);
    rl_client_free(client);
}

int main(void)
{
    test_threads(4096, 0, 500);
    test_threads(1, 0, 50);
    test_threads(7, 100, 200);
    test_deadline();
    test_leaving();
    test_garbage();
    test_without_memory();
    test_fork();
    test_no_server();
    return report("client");
}
