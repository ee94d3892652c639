/* redis/topology_state.h -- the struct of a topology, for the files that implement it:
 *
 *     topology.c        sending calls, reading answers, what the owner calls
 *        │
 *     discovery.c       asking sentinels or nodes for the map
 *        │
 *     nodes.c           the map: servers, their connections, who serves which slot
 *        │
 *     pending_calls.c   the lists of calls, and how a call ends
 *
 * Each file calls only those below it. Nothing here locks: the owner of the topology does. */
#ifndef RL_REDIS_TOPOLOGY_STATE_H
#define RL_REDIS_TOPOLOGY_STATE_H

#include "redis/topology.h"

#define RL_MS INT64_C(1000000)
/* How long to wait before asking for the map again. */
#define RL_ASK_AGAIN_NS (50 * RL_MS)
/* The same, when a node of the cluster gave no answer. */
#define RL_DOUBT_NS (1000 * RL_MS)

/* A server that commands go to. */
typedef struct rl_node {
    rl_server server;
    rl_connection *redis; /* owned; NULL: not connected */
    uint64_t serial;      /* of the connection */
    bool ready;           /* its descriptor was marked as ready */
    bool used;            /* by the map of the cluster */
    bool retired; /* it answered that it cannot serve: closed after the last answer that is due */
} rl_node;

/* The discovery connection: to a sentinel, or to a node that is asked for the slots. */
typedef struct rl_discovery {
    rl_connection *redis; /* owned; NULL: not connected */
    uint64_t serial;      /* of the connection */
    bool ready;           /* its descriptor was marked as ready */
    bool asked;           /* the question was sent */
    bool subscribed;      /* to a sentinel's messages about a new master */
    size_t candidate;     /* the server to ask, counted up without end */
    size_t failures;      /* candidates in a row that gave no map */
} rl_discovery;

struct rl_topology {
    rl_options options;
    rl_tls *tls;    /* borrowed; NULL: not encrypted */
    rl_node *nodes; /* owned; room for one, or RL_NODES_MAX in a cluster */
    size_t n_nodes;
    uint16_t *slots;      /* owned; the node of each slot; NULL but in a cluster */
    uint64_t connections; /* how many were opened: the next serial */

    bool known;        /* there is a map to send calls by */
    bool stale;        /* the map may be wrong: ask for a new one, */
    int64_t ask_at_ns; /* not before this time, */
    int64_t rest_ns;   /* and not before this one: the last answer is fresh */
    rl_discovery discovery;

    rl_call *first, *last; /* all calls that are not done, the earliest deadline first */
    size_t n_calls;
    bool settled; /* a call has ended */
    rl_call *first_waiting, *last_waiting;
    rl_call *finished, *last_finished;
};

#endif
