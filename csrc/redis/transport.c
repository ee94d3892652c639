#define _POSIX_C_SOURCE 200809L /* the strerror_r that fills its buffer */
#define _DEFAULT_SOURCE

#include "redis/transport.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/alloc.h"
#include "redis/descriptors.h"
#include "redis/resolve.h"
#include "redis/tls.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS has SO_NOSIGPIPE instead */
#endif

typedef enum phase { RESOLVING, CONNECTING, HANDSHAKING, OPEN, BROKEN } phase;

struct rl_transport {
    phase phase;
    int fd; /* owned; -1: none */
    rl_server server;
    rl_tls *tls;             /* borrowed; NULL: not encrypted */
    rl_tls_session *session; /* owned; NULL but in HANDSHAKING and OPEN with TLS */
    rl_resolve *question;    /* owned; NULL but in RESOLVING */
    rl_addresses addresses;
    size_t next;         /* the address to try next */
    unsigned generation; /* how many descriptors were used */
    char error[RL_ERROR_SIZE];
};

rl_transport *rl_transport_new(const rl_server *server, rl_tls *tls)
{
    rl_transport *transport = rl_alloc_zeroed(sizeof *transport);
    if (transport == NULL) {
        return NULL;
    }
    transport->fd = -1;
    transport->server = *server;
    transport->tls = tls;
    return transport;
}

static void close_socket(rl_transport *transport)
{
    rl_tls_session_free(transport->session);
    transport->session = NULL;
    if (transport->fd >= 0) {
        close(transport->fd);
        transport->fd = -1;
    }
}

void rl_transport_free(rl_transport *transport)
{
    if (transport != NULL) {
        close_socket(transport);
        rl_resolve_free(transport->question);
        rl_free(transport);
    }
}

static rl_io transport_fail(rl_transport *transport, const char *doing, const char *reason)
{
    const rl_server *server = &transport->server;
    char port[8] = "";
    if (server->port != 0) {
        snprintf(port, sizeof port, ":%u", (unsigned)server->port);
    }
    snprintf(transport->error, sizeof transport->error, "%s %.120s%s: %s", doing, server->host,
             port, reason);
    close_socket(transport);
    transport->phase = BROKEN;
    return RL_IO_FAILED;
}

static rl_io fail_errno(rl_transport *transport, const char *doing, int error)
{
    char reason[80];
    snprintf(reason, sizeof reason, "error %d", error);
    strerror_r(error, reason, sizeof reason);
    return transport_fail(transport, doing, reason);
}

/* ---- opening --------------------------------------------------------------- */

static void set_socket_options(int fd, int family)
{
    int on = 1;
#ifdef SO_NOSIGPIPE
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    if (family != AF_UNIX) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    }
}

/* Start connecting to the next address. Return 0, or the errno of the last address. */
static int connect_next(rl_transport *transport)
{
    int error = transport->server.port == 0 ? ENAMETOOLONG : EADDRNOTAVAIL;
    while (transport->next < transport->addresses.n) {
        size_t i = transport->next++;
        const struct sockaddr *address = (const void *)&transport->addresses.list[i].address;
        transport->fd = rl_socket_open(address->sa_family);
        transport->generation++;
        if (transport->fd >= 0) {
            set_socket_options(transport->fd, address->sa_family);
            if (connect(transport->fd, address, transport->addresses.list[i].len) == 0 ||
                errno == EINPROGRESS) {
                return 0;
            }
        }
        error = errno;
        close_socket(transport);
    }
    return error;
}

static rl_io transport_resolve(rl_transport *transport)
{
    if (transport->question == NULL &&
        !rl_resolve_literal(&transport->server, &transport->addresses)) {
        transport->question = rl_resolve_start(&transport->server);
        transport->generation++;
        if (transport->question == NULL) {
            return transport_fail(transport, "cannot look up",
                                  "no memory, descriptor or thread is left");
        }
    }
    if (transport->question != NULL) {
        const char *reason = "";
        const rl_addresses *found = rl_resolve_answer(transport->question, &reason);
        if (found == NULL) {
            return RL_IO_AGAIN;
        }
        if (found->n == 0) {
            return transport_fail(transport, "cannot look up", reason);
        }
        transport->addresses = *found;
        rl_resolve_free(transport->question);
        transport->question = NULL;
    }
    int error = connect_next(transport);
    if (error != 0) {
        return fail_errno(transport, "cannot connect to", error);
    }
    transport->phase = CONNECTING;
    return RL_IO_DONE;
}

/* A socket that is still connecting has no peer, and no error. */
static rl_io finish_connecting(rl_transport *transport)
{
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(transport->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (error == 0) {
        struct sockaddr_storage peer;
        socklen_t peer_len = sizeof peer;
        if (getpeername(transport->fd, (struct sockaddr *)&peer, &peer_len) != 0) {
            return RL_IO_AGAIN;
        }
    } else {
        close_socket(transport);
        int next_error = connect_next(transport);
        if (next_error == 0) {
            return RL_IO_AGAIN;
        }
        return fail_errno(transport, "cannot connect to", error);
    }
    if (transport->tls == NULL) {
        transport->phase = OPEN;
        return RL_IO_DONE;
    }
    transport->session = rl_tls_session_new(transport->tls, transport->fd, transport->server.host);
    if (transport->session == NULL) {
        return transport_fail(transport, "cannot begin TLS with", "out of memory");
    }
    transport->phase = HANDSHAKING;
    return RL_IO_DONE;
}

static rl_io shake_hands(rl_transport *transport)
{
    char reason[RL_ERROR_SIZE] = "the server closed the connection";
    rl_io result = rl_tls_handshake(transport->session, reason);
    if (result == RL_IO_DONE) {
        transport->phase = OPEN;
    } else if (result != RL_IO_AGAIN) {
        return transport_fail(transport, "TLS failed with", reason);
    }
    return result;
}

rl_io rl_transport_open(rl_transport *transport)
{
    while (transport->phase != OPEN) {
        rl_io result = RL_IO_FAILED;
        switch (transport->phase) {
        case RESOLVING:
            result = transport_resolve(transport);
            break;
        case CONNECTING:
            result = finish_connecting(transport);
            break;
        case HANDSHAKING:
            result = shake_hands(transport);
            break;
        default:
            break;
        }
        if (result != RL_IO_DONE) {
            return result;
        }
    }
    return RL_IO_DONE;
}

/* ---- reading and writing --------------------------------------------------- */

static bool would_block(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

rl_io rl_transport_read(rl_transport *transport, void *buffer, size_t room, size_t *n)
{
    *n = 0;
    if (transport->phase != OPEN) {
        return RL_IO_FAILED;
    }
    if (transport->session != NULL) {
        char reason[RL_ERROR_SIZE] = "";
        rl_io result = rl_tls_read(transport->session, buffer, room, n, reason);
        return result == RL_IO_FAILED ? transport_fail(transport, "lost", reason) : result;
    }
    ssize_t got = recv(transport->fd, buffer, room, 0);
    if (got > 0) {
        *n = (size_t)got;
        return RL_IO_DONE;
    }
    if (got == 0) {
        return RL_IO_CLOSED;
    }
    return would_block(errno) ? RL_IO_AGAIN : fail_errno(transport, "lost", errno);
}

rl_io rl_transport_write(rl_transport *transport, const void *data, size_t len, size_t *n)
{
    *n = 0;
    if (transport->phase != OPEN) {
        return RL_IO_FAILED;
    }
    if (transport->session != NULL) {
        char reason[RL_ERROR_SIZE] = "";
        rl_io result = rl_tls_write(transport->session, data, len, n, reason);
        return result == RL_IO_FAILED ? transport_fail(transport, "lost", reason) : result;
    }
    ssize_t put = send(transport->fd, data, len, MSG_NOSIGNAL);
    if (put >= 0) {
        *n = (size_t)put;
        return RL_IO_DONE;
    }
    return would_block(errno) ? RL_IO_AGAIN : fail_errno(transport, "lost", errno);
}

int rl_transport_fd(const rl_transport *transport)
{
    return transport->question != NULL ? rl_resolve_fd(transport->question) : transport->fd;
}

unsigned rl_transport_generation(const rl_transport *transport)
{
    return transport->generation;
}

unsigned rl_transport_wants(const rl_transport *transport, bool has_output)
{
    unsigned output = has_output ? RL_WANT_WRITE : 0;
    switch (transport->phase) {
    case RESOLVING:
        return RL_WANT_READ;
    case CONNECTING:
        return RL_WANT_WRITE;
    case HANDSHAKING:
        return rl_tls_wants(transport->session);
    case OPEN:
        if (transport->session == NULL) {
            return RL_WANT_READ | output;
        }
        /* A write that waits for input would spin on a socket that has room. */
        if (has_output && rl_tls_wants(transport->session) == RL_WANT_READ) {
            return RL_WANT_READ;
        }
        return RL_WANT_READ | output | rl_tls_wants(transport->session);
    default:
        return 0;
    }
}

bool rl_transport_is_ready(const rl_transport *transport)
{
    unsigned wants = rl_transport_wants(transport, false);
    struct pollfd events = {
        .fd = rl_transport_fd(transport),
        .events =
            (short)((wants & RL_WANT_READ ? POLLIN : 0) | (wants & RL_WANT_WRITE ? POLLOUT : 0)),
    };
    return events.fd >= 0 && poll(&events, 1, 0) > 0;
}

const char *rl_transport_error(const rl_transport *transport)
{
    return transport->error;
}
