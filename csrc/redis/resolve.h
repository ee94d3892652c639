/* redis/resolve.h -- the addresses of a host, without waiting for the name service.
 *
 * getaddrinfo() has no deadline and may hang for half a minute. So it runs in a
 * thread for each question. The caller waits for a descriptor, as for any socket,
 * and may stop waiting at any time. A numeric address needs no thread. */
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

/* Fill *out for a unix socket or a numeric address. False for a name. */
bool rl_resolve_literal(const rl_server *server, rl_addresses *out);

/* Begin to look up a name. NULL: no memory, descriptor or thread for it. */
rl_resolve *rl_resolve_start(const rl_server *server);

/* Return a descriptor that becomes readable with the answer. */
int rl_resolve_fd(const rl_resolve *question);

/* Return the answer, or NULL while there is none. When the look-up failed, n is 0 and
 * *reason is the cause. */
const rl_addresses *rl_resolve_answer(const rl_resolve *question, const char **reason);

/* Free a question, with or without an answer. NULL is fine. */
void rl_resolve_free(rl_resolve *question);

#endif
