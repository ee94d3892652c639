/* redis/resolve.h -- the addresses of a host, without waiting for the name service.
 *
 * getaddrinfo() has no deadline and may hang for half a minute. It runs in a
 * thread that lives as long as the question; whoever asked waits for a
 * descriptor, as for any socket, and may stop waiting at any time. An address
 * in digits needs no thread. */
#ifndef RL_REDIS_RESOLVE_H
#define RL_REDIS_RESOLVE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "redis/options.h"

#define RL_ADDRESSES_MAX 8

typedef struct rl_addresses {
    size_t n;
    struct {
        struct sockaddr_storage address;
        socklen_t len;
    } list[RL_ADDRESSES_MAX];
} rl_addresses;

typedef struct rl_resolve rl_resolve; /* opaque: see resolve.c */

/* Fill *out for a unix socket or an address in digits. False for a name. */
bool rl_resolve_literal(const rl_server *server, rl_addresses *out);

/* Begin to ask for a name. NULL: no memory, descriptor or thread for it. */
rl_resolve *rl_resolve_start(const rl_server *server);

/* Readable as soon as there is an answer. */
int rl_resolve_fd(const rl_resolve *question);

/* The answer: NULL while there is none; with n == 0 and the reason in *reason
 * when the name is not known. */
const rl_addresses *rl_resolve_answer(const rl_resolve *question, const char **reason);

/* NULL is fine, and so is a question without an answer yet. */
void rl_resolve_free(rl_resolve *question);

#endif
