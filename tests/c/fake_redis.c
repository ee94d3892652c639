#include "fake_redis.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 256

struct fake_redis {
    fake_answer *answer;
    void *context;
    size_t piece;
    int listener;
    uint16_t port;
    pthread_t acceptor;
    atomic_int n;
    struct connection {
        fake_redis *server;
        int fd;
        pthread_t thread;
    } connections[CONNECTIONS_MAX];
};

static int send_in_pieces(const fake_redis *server, int fd, const char *data, size_t len)
{
    while (len != 0) {
        size_t piece = len < server->piece ? len : server->piece;
        if (send(fd, data, piece, MSG_NOSIGNAL) != (ssize_t)piece) {
            return -1;
        }
        data += piece;
        len -= piece;
    }
    return 0;
}

static int send_for_ever(int fd, const char *tail, size_t len)
{
    char block[1 << 16];
    size_t n = sizeof block / len * len;
    for (size_t i = 0; i < n; i += len) {
        memcpy(block + i, tail, len);
    }
    for (size_t sent = 0;;) {
        ssize_t put = send(fd, block + sent, n - sent, MSG_NOSIGNAL);
        if (put <= 0) {
            return -1;
        }
        sent = (sent + (size_t)put) % n;
    }
}

static int send_answer(const fake_redis *server, int fd, const char *out, int answer)
{
    if (answer < 0) {
        return -1;
    }
    size_t len = (unsigned)answer & 0xffff, tail = (unsigned)answer >> 16;
    if (send_in_pieces(server, fd, out, len) < 0) {
        return -1;
    }
    return tail != 0 ? send_for_ever(fd, out + len - tail, tail) : 0;
}

static void *serve(void *argument)
{
    struct connection *connection = argument;
    fake_redis *server = connection->server;
    redisReader *reader = redisReaderCreate();
    char input[4096], out[4096];
    unsigned number = 0;
    ssize_t got;
    while ((got = recv(connection->fd, input, sizeof input, 0)) > 0) {
        redisReply *command = NULL;
        redisReaderFeed(reader, input, (size_t)got);
        while (redisReaderGetReply(reader, (void **)&command) == REDIS_OK && command != NULL) {
            int answer = server->answer(server->context, number++, command, out);
            freeReplyObject(command);
            if (send_answer(server, connection->fd, out, answer) < 0) {
                shutdown(connection->fd, SHUT_RDWR);
                break;
            }
        }
    }
    shutdown(connection->fd, SHUT_RDWR);
    redisReaderFree(reader);
    return NULL;
}

static void *accept_all(void *argument)
{
    fake_redis *server = argument;
    int fd;
    while ((fd = accept(server->listener, NULL, NULL)) >= 0) {
        int i = atomic_load(&server->n);
        if (i == CONNECTIONS_MAX) {
            abort();
        }
        struct connection *connection = &server->connections[i];
        *connection = (struct connection){.server = server, .fd = fd};
        if (pthread_create(&connection->thread, NULL, serve, connection) != 0) {
            abort();
        }
        atomic_store(&server->n, i + 1);
    }
    return NULL;
}

fake_redis *fake_redis_start(fake_answer *answer, void *context, size_t piece)
{
    fake_redis *server = calloc(1, sizeof *server);
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (server == NULL) {
        abort();
    }
    server->answer = answer;
    server->context = context;
    server->piece = piece;
    server->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(server->listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(server->listener, 128) != 0 ||
        getsockname(server->listener, (struct sockaddr *)&address, &len) != 0 ||
        pthread_create(&server->acceptor, NULL, accept_all, server) != 0) {
        abort();
    }
    server->port = ntohs(address.sin_port);
    return server;
}

uint16_t fake_redis_port(const fake_redis *server)
{
    return server->port;
}

void fake_redis_stop(fake_redis *server)
{
    shutdown(server->listener, SHUT_RDWR);
    pthread_join(server->acceptor, NULL);
    close(server->listener);
    for (int i = 0; i < atomic_load(&server->n); i++) {
        shutdown(server->connections[i].fd, SHUT_RDWR);
        pthread_join(server->connections[i].thread, NULL);
        close(server->connections[i].fd);
    }
    free(server);
}

int fake_handshake(const redisReply *command, char *out)
{
    const char *word = command->element[0]->str;
    if (strcmp(word, "AUTH") != 0 && strcmp(word, "SELECT") != 0 && strcmp(word, "CLIENT") != 0) {
        return -2;
    }
    memcpy(out, "+OK\r\n", 5);
    return 5;
}
