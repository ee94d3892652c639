/* redis/tls.h -- TLS over a non-blocking socket, by OpenSSL (1.1.1 or later).
 *
 * OpenSSL writes with send(MSG_NOSIGNAL) here, so writing to a closed peer never
 * raises SIGPIPE. Closing sends nothing, because after a fork the stream belongs to
 * the other process. */
#ifndef RL_REDIS_TLS_H
#define RL_REDIS_TLS_H

#include "redis/options.h"
#include "redis/transport.h"

typedef struct rl_tls_session rl_tls_session; /* opaque: see tls.c */

/* Load the files that the options name. On failure NULL, and *error (of
 * RL_ERROR_SIZE bytes) names the file and the cause. */
rl_tls *rl_tls_new(const rl_tls_options *options, char *error);
void rl_tls_free(rl_tls *tls);

/* Begin a session with a host over a connected socket. Files that have changed are loaded again;
 * if that fails, the session uses what was loaded before. Threads may share `tls`. NULL: out of
 * memory. */
rl_tls_session *rl_tls_session_new(rl_tls *tls, int fd, const char *host);

/* Call these around fork(), so that no other thread loads files in between. */
void rl_tls_before_fork(rl_tls *tls);
void rl_tls_after_fork(rl_tls *tls);
void rl_tls_session_free(rl_tls_session *session);

/* The same as in redis/transport.h. RL_IO_AGAIN: wait for rl_tls_wants. */
rl_io rl_tls_handshake(rl_tls_session *session, char *error);
rl_io rl_tls_read(rl_tls_session *session, void *buffer, size_t room, size_t *n, char *error);
rl_io rl_tls_write(rl_tls_session *session, const void *data, size_t len, size_t *n, char *error);

/* Return the events (RL_WANT_*) that the last unfinished operation waits for; 0: none. */
unsigned rl_tls_wants(const rl_tls_session *session);

#endif
