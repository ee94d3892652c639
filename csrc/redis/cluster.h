/* redis/cluster.h -- formats of Redis Cluster: hash slots, the answer of CLUSTER SLOTS,
 * and redirections. No state, no I/O.
 * See https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/ */
#ifndef RL_REDIS_CLUSTER_H
#define RL_REDIS_CLUSTER_H

#include <hiredis/hiredis.h>

#include "redis/options.h"

#define RL_SLOTS 16384

/* Return the slot of a key: CRC-16/XMODEM of the part in its first braces, or of all. */
int rl_cluster_slot(const char *key, size_t len);

/* Read "3999 127.0.0.1:6381", the text after MOVED or ASK. An empty host means the
 * server that sent it. False: not a redirection. */
bool rl_cluster_redirection(const char *text, const rl_server *from, int *slot, rl_server *to);

/* One range of CLUSTER SLOTS, and its master. */
typedef struct rl_slot_range {
    int first, last;
    rl_server master;
} rl_slot_range;

/* Read an element of CLUSTER SLOTS. An empty host means the server that sent it. False: not
 * a range. */
bool rl_cluster_range(const redisReply *entry, const rl_server *from, rl_slot_range *out);

#endif
