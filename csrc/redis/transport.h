/* redis/transport.h -- a non-blocking stream of bytes to one server: TCP, a unix
 * socket, or TLS over TCP.
 *
 * Nothing here waits. Each operation goes on as far as it can; RL_IO_AGAIN means that
 * rl_transport_fd() must become ready for rl_transport_wants() first. Deadlines are up
 * to the owner, which frees a stream that takes too long.
 *
 *     resolving ──> connecting ──> TLS handshake ──> open
 *                     │    ^
 *                     └────┘ next address of the host */
#ifndef RL_REDIS_TRANSPORT_H
#define RL_REDIS_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>

#include "redis/options.h"

#define RL_ERROR_SIZE 256 /* room for a message, with its zero byte */

typedef enum rl_io { RL_IO_DONE, RL_IO_AGAIN, RL_IO_CLOSED, RL_IO_FAILED } rl_io;

#define RL_WANT_READ 1u
#define RL_WANT_WRITE 2u

typedef struct rl_tls rl_tls;             /* see redis/tls.h */
typedef struct rl_transport rl_transport; /* opaque: see transport.c */

/* Make a stream that is not open yet. `tls` may be NULL: not encrypted; else it
 * must outlive the stream. NULL: out of memory. */
rl_transport *rl_transport_new(const rl_server *server, rl_tls *tls);

/* Close without sending anything. NULL is fine. */
void rl_transport_free(rl_transport *transport);

/* Continue opening. RL_IO_DONE: open. RL_IO_FAILED: rl_transport_error returns the cause. */
rl_io rl_transport_open(rl_transport *transport);

/* Read the available bytes, at most `room`; *n is their number. RL_IO_CLOSED: the end. */
rl_io rl_transport_read(rl_transport *transport, void *buffer, size_t room, size_t *n);

/* Write as much as there is room for; *n is the number of bytes. */
rl_io rl_transport_write(rl_transport *transport, const void *data, size_t len, size_t *n);

/* Return the descriptor to wait on, -1: none. It changes with each address that is tried. */
int rl_transport_fd(const rl_transport *transport);

/* Return how many descriptors were used: a new one may have the number of an old one. */
unsigned rl_transport_generation(const rl_transport *transport);

/* Return the events to wait for (RL_WANT_*); has_output: there are bytes to write. */
unsigned rl_transport_wants(const rl_transport *transport, bool has_output);

/* Return true if one of these events is there now. */
bool rl_transport_is_ready(const rl_transport *transport);

/* Return the error message, which names the server. */
const char *rl_transport_error(const rl_transport *transport);

#endif
