/* redis/topology_parts.h -- what the three parts of a topology share, and nobody else:
 *
 *     pending_calls.c      the lists of calls, and how a call ends
 *     discovery.c      the map: asking sentinels or nodes who serves what
 *     topology.c   connections to servers: sending, answers, ends */
#ifndef RL_REDIS_TOPOLOGY_PARTS_H
#define RL_REDIS_TOPOLOGY_PARTS_H

#include "redis/topology.h"

#define RL_MS INT64_C(1000000)
/* How long to wait before asking again who is master. */
#define RL_ASK_AGAIN_NS (50 * RL_MS)

typedef struct rl_node {
    rl_server server;
    rl_connection *redis; /* owned; NULL: not connected */
    uint64_t serial;      /* of the connection */
    bool ready;           /* its descriptor is */
    bool used;            /* by the map of the cluster */
} rl_node;

struct rl_topology {
    rl_options options;
    const rl_tls *tls; /* borrowed; NULL: not encrypted */
    rl_node *nodes;    /* owned; room for one, or RL_NODES_MAX in a cluster */
    size_t n_nodes;
    uint16_t *slots; /* owned; NULL but in a cluster */

    bool known;               /* we know where to send calls; */
    bool stale;               /* and should ask whether that has changed, */
    int64_t ask_at_ns;        /* not before this time, */
    int64_t rest_ns;          /* nor before this one: the last answer is fresh */
    rl_connection *discovery; /* owned; the connection on which we ask; NULL: none */
    uint64_t discovery_serial;
    uint64_t connections;   /* how many there have been */
    bool discovery_ready;   /* its descriptor is */
    bool discovery_asked;   /* the question is on its way */
    bool discovery_listens; /* a sentinel that will tell of a new master */
    size_t discovery_index; /* whom we ask */
    size_t discovery_tries; /* how many did not know */

    rl_call *first, *last; /* all calls that are not done, the oldest first */
    size_t n_calls;
    rl_call *first_waiting, *last_waiting;
    rl_call *finished, *last_finished;
};

/* ---- pending_calls.c ---------------------------------------------------------------- */

void rl_call_start_waiting(rl_topology *topology, rl_call *call);
void rl_call_stop_waiting(rl_topology *topology, rl_call *call);

/* End a call. `reply` becomes its owner's; `error` counts with a fault. */
void rl_call_finish(rl_topology *topology, rl_call *call, redisReply *reply, rl_fault fault,
                    const char *error);

/* It has not been executed, so let it be sent again: now, or after a pause. After too many
 * tries it ends with the fault and the error of the last one. */
void rl_call_try_again(rl_topology *topology, rl_call *call, int64_t not_before_ns, rl_fault fault,
                       const char *error);

/* End the calls whose deadlines have passed. */
void rl_call_expire_all(rl_topology *topology, int64_t now_ns);

/* ---- discovery.c ---------------------------------------------------------------- */

/* The map may be wrong: ask, not before this time. */
void rl_discovery_ask_soon(rl_topology *topology, int64_t ask_at_ns);

/* The node for a server, made if need be. -1: there is no room for one more. */
int rl_discovery_find_node(rl_topology *topology, const rl_server *server);

/* Is there something to ask, now or later? Not while nobody waits for the answer. */
bool rl_discovery_is_needed(const rl_topology *topology);

/* Ask where it is needed, and read what is told. */
void rl_discovery_follow(rl_topology *topology, int64_t now_ns);

/* ---- topology.c --------------------------------------------------------------- */

/* Begin a connection, to a server or to a discovery. NULL: out of memory. */
rl_connection *rl_topology_connect(const rl_topology *topology, const rl_server *server,
                                   bool is_discovery, int64_t now_ns);

/* Close a node's connection: calls that were sent are lost, the others wait again. */
void rl_topology_drop(rl_topology *topology, size_t i, int64_t now_ns);

#endif
