/* test_connection.c -- a connection to a name with two addresses: AUTH, SELECT and CLIENT SETNAME
 * precede all else on the address that answers. */
#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "fake_redis.h"
#include "lookups.h"
#include "redis/connection.h"

#define HOST "two.addresses"
#define TIMEOUT_NS INT64_C(60000000000)

static struct sockaddr_in refused, good;

/* In place of libc's, which would ask the machine: the first address refuses connections. */
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **found)
{
    static struct addrinfo list[2];
    (void)port;
    if ((hints->ai_flags & AI_NUMERICHOST) != 0 || strcmp(host, HOST) != 0) {
        return EAI_NONAME;
    }
    struct sockaddr *addresses[] = {(void *)&refused, (void *)&good};
    for (int i = 0; i < 2; i++) {
        list[i] = (struct addrinfo){.ai_family = AF_INET,
                                    .ai_addr = addresses[i],
                                    .ai_addrlen = sizeof(struct sockaddr_in),
                                    .ai_next = i == 0 ? &list[1] : NULL};
    }
    *found = list;
    return 0;
}

void freeaddrinfo(struct addrinfo *found)
{
    (void)found;
}

/* Let a port be bound but not listened on. Return the socket that holds it. */
static int hold_refused_port(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t len = sizeof refused;
    refused = (struct sockaddr_in){.sin_family = AF_INET};
    refused.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_EQUAL(bind(fd, (struct sockaddr *)&refused, sizeof refused), 0);
    CHECK_EQUAL(getsockname(fd, (struct sockaddr *)&refused, &len), 0);
    return fd;
}

/* Answer OK to the handshake, and to other commands how many of its commands preceded them. */
static int answer(void *context, unsigned number, const redisReply *command, char *out)
{
    int handshake = fake_handshake(command, out);
    (void)context;
    return handshake != -2 ? handshake : snprintf(out, 4096, ":%u\r\n", number);
}

static int64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

static void step(rl_connection *redis)
{
    unsigned wants = rl_connection_wants(redis);
    struct pollfd events = {.fd = rl_connection_fd(redis)};
    events.events =
        (short)((wants & RL_WANT_READ ? POLLIN : 0) | (wants & RL_WANT_WRITE ? POLLOUT : 0));
    poll(&events, 1, 10);
    rl_connection_step(redis, now());
}

/* Send a command. Return how many preceded it on its connection, or -1. */
static long long preceding(rl_connection *redis)
{
    const char *texts[] = {"PING"};
    const size_t lens[] = {4};
    uint64_t number;
    void *owner = NULL;
    redisReply *reply = NULL;
    if (rl_connection_send(redis, &(rl_arguments){1, texts, lens}, redis, now(), &number) !=
        RL_FAULT_NONE) {
        return -1;
    }
    while (!rl_connection_next(redis, &owner, &reply)) {
        if (rl_connection_state_of(redis) == RL_CONNECTION_FAILED) {
            return -1;
        }
        step(redis);
    }
    long long n = reply->integer;
    freeReplyObject(reply);
    return n;
}

int main(void)
{
    fake_redis *server = fake_redis_start(answer, NULL, 100);
    int threads_before = threads_now(); /* with those of the server and of a sanitizer */
    int held = hold_refused_port();
    good = refused;
    good.sin_port = htons(fake_redis_port(server));
    rl_connection_config config = {.server = {HOST, 6379},
                                   .credentials = {"", "secret"},
                                   .database = 3,
                                   .client_name = "test",
                                   .connect_timeout_ns = TIMEOUT_NS};
    for (int i = 0; i < 20; i++) {
        rl_connection *redis = rl_connection_new(&config, now());
        while (rl_connection_state_of(redis) == RL_CONNECTION_OPENING) {
            step(redis);
        }
        CHECK_EQUAL(preceding(redis), 3);
        rl_connection_free(redis);
    }
    wait_for_lookups(threads_before);
    fake_redis_stop(server);
    close(held);
    return report("connection");
}
