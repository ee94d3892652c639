/* test_bounds.c -- a client against servers that send endless, oversized or unrequested answers:
 * the connection ends with a clear error, and the next one works. */
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "fake_redis.h"
#include "redis/client.h"

#define MS INT64_C(1000000)

/* The bytes that a server sends, and then its tail without end. */
typedef struct stream {
    const char *text;
    size_t tail;
    const char *why;
} stream;

static const stream streams[] = {
    {"$500000000000\r\nxxxxxxxx", 8, "larger than 8 MB"},
    {"*2\r\n:1\r\n$500000000000\r\nxxxxxxxx", 8, "larger than 8 MB"},
    {"*1000000000\r\n:0\r\n", 4, "too many elements"},
    {"*1\r\n", 4, "nested too deeply"},
    {"*2\r\n:1\r\n", 8, "nested too deeply"},
    {"*500000\r\n$4\r\nxxxx\r\n*30000\r\n:1\r\n", 4, "too many elements"},
    {"*500000\r\n$32\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n", 39, "larger than 8 MB"},
    {"+xxxxxxxx", 8, "longer than 64 KB"},
    {"-ERR xxxx", 4, "longer than 64 KB"},
    {":11111111", 8, "longer than 64 KB"},
    {"$11111111", 8, "protocol of Redis"},
    {"_\r\n", 3, "protocol of Redis"},
    {">2\r\n+message\r\n+x\r\n", 18, "protocol of Redis"},
    {"|1\r\n+a\r\n+b\r\n", 12, "protocol of Redis"},
    {"HTTP/1.1 400 Bad Request\r\n\r\n", 28, "protocol of Redis"},
    {"\r\n", 2, "protocol of Redis"},
};
#define N_STREAMS (sizeof streams / sizeof streams[0])

typedef struct server_state {
    const stream *sends; /* NULL: an echo */
    bool at_once;        /* in place of its first answer, before the client is ready */
} server_state;

static int answer(void *context, unsigned number, const redisReply *command, char *out)
{
    const server_state *state = *(const server_state *_Atomic *)context;
    int handshake = fake_handshake(command, out);
    if (state->sends != NULL && (handshake == -2 || state->at_once)) {
        size_t len = strlen(state->sends->text);
        memcpy(out, state->sends->text, len);
        return FAKE_ENDLESS(len, state->sends->tail);
    }
    (void)number;
    return handshake != -2 ? handshake : snprintf(out, 4096, ":%s\r\n", command->element[1]->str);
}

static rl_options options_for(uint16_t port, rl_topology_kind kind)
{
    rl_options options = {.kind = kind, .n_servers = 1, .client_name = "test"};
    options.servers[0] = (rl_server){"127.0.0.1", port};
    strcpy(options.master_name, "mymaster");
    options.timeout_ns = 20000 * MS;
    options.connect_timeout_ns = 20000 * MS;
    return options;
}

/* Send an echo. Return the answer, or -1 with the fault and its text. */
static long long ask(rl_client *client, const char *number, rl_fault *fault, char *error)
{
    const char *texts[] = {"ECHO", number};
    const size_t lens[] = {4, strlen(number)};
    rl_thread_call call = {.call = {.arguments = {2, texts, lens}, .key = 1}};
    rl_client_submit(client, &call);
    while (!rl_client_wait(client, &call, 50 * MS)) {}
    *fault = call.call.fault;
    strcpy(error, call.call.error);
    if (call.call.reply == NULL) {
        return -1;
    }
    long long echoed = call.call.reply->type == REDIS_REPLY_INTEGER ? call.call.reply->integer : -2;
    freeReplyObject(call.call.reply);
    return echoed;
}

static void test_streams(bool at_once)
{
    const server_state sane = {NULL, false};
    for (size_t i = 0; i < N_STREAMS; i++) {
        const server_state bad = {&streams[i], at_once};
        const server_state *_Atomic state = &bad;
        fake_redis *server = fake_redis_start(answer, (void *)&state, 4096);
        rl_options options = options_for(fake_redis_port(server), RL_STANDALONE);
        rl_client *client = rl_client_new(&options, NULL);
        rl_fault fault;
        char error[RL_ERROR_SIZE];
        CHECK_EQUAL(ask(client, "1", &fault, error), -1);
        CHECK_EQUAL(fault, at_once ? RL_FAULT_CONNECT : RL_FAULT_PROTOCOL);
        CHECK(strstr(error, streams[i].why) != NULL);
        atomic_store(&state, &sane);
        CHECK_EQUAL(ask(client, "2", &fault, error), 2);
        rl_client_free(client);
        fake_redis_stop(server);
    }
}

/* Answers of a sentinel or of a node of a cluster about other servers. */
static void test_discoverys(rl_topology_kind kind)
{
    for (size_t i = 0; i < N_STREAMS; i++) {
        const server_state bad = {&streams[i], false};
        const server_state *_Atomic state = &bad;
        fake_redis *server = fake_redis_start(answer, (void *)&state, 4096);
        rl_options options = options_for(fake_redis_port(server), kind);
        rl_client *client = rl_client_new(&options, NULL);
        rl_fault fault;
        char error[RL_ERROR_SIZE];
        CHECK_EQUAL(ask(client, "1", &fault, error), -1);
        CHECK_EQUAL(fault, RL_FAULT_CONNECT);
        CHECK(strstr(error, streams[i].why) != NULL);
        rl_client_free(client);
        fake_redis_stop(server);
    }
}

static rl_connection *connect_to(uint16_t port)
{
    rl_connection_config config = {.server = {"127.0.0.1", port}, .connect_timeout_ns = 20000 * MS};
    rl_connection *redis = rl_connection_new(&config, rl_now_ns());
    while (rl_connection_state_of(redis) == RL_CONNECTION_OPENING) {
        struct pollfd fd = {rl_connection_fd(redis), POLLIN | POLLOUT, 0};
        poll(&fd, 1, 10);
        rl_connection_step(redis, rl_now_ns());
    }
    CHECK_EQUAL(rl_connection_state_of(redis), RL_CONNECTION_READY);
    return redis;
}

/* A step reads only a part of a large answer. */
static void test_a_step_is_bounded(void)
{
    const stream numbers = {":1\r\n", 4, NULL};
    const server_state endless = {&numbers, false};
    const server_state *_Atomic state = &endless;
    fake_redis *server = fake_redis_start(answer, (void *)&state, 4096);
    rl_connection *redis = connect_to(fake_redis_port(server));
    int room = 1 << 20;
    setsockopt(rl_connection_fd(redis), SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    const char *texts[] = {"ECHO", "1"};
    const size_t lens[] = {4, 1};
    uint64_t ticket;
    CHECK_EQUAL(
        rl_connection_send(redis, &(rl_arguments){2, texts, lens}, &state, rl_now_ns(), &ticket),
        RL_FAULT_NONE);
    rl_connection_flush(redis);
    rl_connection_listen(redis);
    for (int step = 0; step < 20; step++) {
        int held = 0;
        while (held < 96 << 10 && ioctl(rl_connection_fd(redis), FIONREAD, &held) == 0) {
            usleep(100);
        }
        rl_connection_step(redis, rl_now_ns());
        size_t n = 0;
        void *owner;
        redisReply *reply;
        while (rl_connection_next(redis, &owner, &reply)) {
            freeReplyObject(reply);
            n++;
        }
        CHECK(n >= 1000 && 4 * n <= 80 << 10);
    }
    rl_connection_free(redis);
    fake_redis_stop(server);
}

int main(void)
{
    test_streams(false);
    test_streams(true);
    test_discoverys(RL_SENTINEL);
    test_discoverys(RL_CLUSTER);
    test_a_step_is_bounded();
    return report("bounds");
}
