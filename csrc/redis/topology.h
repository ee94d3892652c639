/* redis/topology.h -- which server holds a key, and the calls to it.
 *
 *     call ──> waiting ──> sent ──> finished          one server, or
 *                 ^          │                        Sentinel: the current master, or
 *                 └──────────┘ MOVED, ASK, TRYAGAIN,  Cluster: a server for each slot
 *                              NOSCRIPT, never sent
 *
 * A topology is a state machine without threads, locks or waiting. Its owner submits
 * calls, waits until one of its descriptors is ready or its deadline has passed, marks
 * the ready ones (rl_topology_mark), calls rl_topology_step and fetches the finished
 * calls. redis/client.h does that for threads, the binding for event loops.
 *
 * A command without an answer is not repeated: it may have been executed. A command that
 * cannot have been executed is repeated, within its deadline. */
#ifndef RL_REDIS_TOPOLOGY_H
#define RL_REDIS_TOPOLOGY_H

#include "redis/connection.h"

#define RL_NODES_MAX 512
#define RL_WANTS_MAX (RL_NODES_MAX + 1)
/* The host of no server, for slots that no node serves. */
#define RL_NO_SERVER "slots without a node"

/* A Lua script, sent by its digest first, and in full when the server does not have it. */
typedef struct rl_script {
    const char *body;
    size_t body_len;
    char sha1[41]; /* in hexadecimal */
} rl_script;

typedef enum rl_call_state {
    RL_CALL_IDLE,
    RL_CALL_WAITING,
    RL_CALL_SENT,
    RL_CALL_DONE
} rl_call_state;

/* One command and its result. Everything that the first part points to must stay valid
 * until the call is done or forgotten. */
typedef struct rl_call {
    rl_arguments arguments;  /* of a script, the topology fills in the first two */
    const rl_script *script; /* NULL: any other command */
    int key; /* index of the argument that is the key; 0: none, any server serves it */
    int64_t deadline_ns;

    rl_fault fault;
    redisReply *reply; /* owned by the caller once done; NULL with a fault */
    char error[RL_ERROR_SIZE];
    rl_server server; /* where it ended, as rl_topology_server_of; in a cluster, or with a fault */

    /* private to the topology */
    rl_call_state state;
    int tries;
    bool postponed;  /* a server wants it later: `error` is what that server answered */
    int slot;        /* of the cluster, -1: any */
    int node;        /* where it was sent, or will be sent; -1: not known yet */
    uint64_t number; /* of its ticket */
    int ask;         /* a node that must get ASKING first, -1: none */
    int64_t submitted_ns;
    int64_t not_before_ns;
    struct rl_call *previous, *next; /* of all, in the order of deadlines; or finished */
    struct rl_call *previous_waiting, *next_waiting; /* of those that wait to be sent */
} rl_call;

typedef struct rl_want {
    int fd;
    unsigned wants;  /* of RL_WANT_* */
    uint64_t serial; /* differs when a new descriptor has the number of an old one */
} rl_want;

typedef struct rl_topology rl_topology; /* opaque: see topology.c */

/* Make a topology that is not connected yet. The TLS context is borrowed, NULL
 * when the options ask for none. NULL: out of memory. */
rl_topology *rl_topology_new(const rl_options *options, rl_tls *tls);

/* Close everything. Its calls stay unchanged. NULL is fine. */
void rl_topology_free(rl_topology *topology);

/* Return how long a call may take: the timeout of a decision, but until one call has ended the
 * timeout of a connection if that is longer. Then a short process gets its first decision. Once
 * such a call is sent, its answer is due within the timeout of a decision. */
int64_t rl_topology_timeout_ns(const rl_topology *topology);

/* Add a call. It is sent at the next flush or step. */
void rl_topology_submit(rl_topology *topology, rl_call *call, int64_t now_ns);

/* Remove a call whose result is no longer wanted. In pending_calls.c. */
void rl_topology_forget(rl_topology *topology, rl_call *call);

/* Finish all calls as lost: they may have been executed. In pending_calls.c. */
void rl_topology_lose_all(rl_topology *topology, const char *error);

/* Write the submitted calls that have a connection. */
void rl_topology_flush(rl_topology *topology);

/* Mark a descriptor as ready: the next step serves it. */
void rl_topology_mark(rl_topology *topology, int fd);

/* Call this before a step if the descriptors have not been polled for a while. Connections whose
 * servers have answered since then get that much longer to be ready. */
void rl_topology_resume(rl_topology *topology, int64_t away_ns);

/* Connect, send, read and expire calls, as far as possible without waiting. */
void rl_topology_step(rl_topology *topology, int64_t now_ns);

/* Fetch the next call that is done; NULL: none. In pending_calls.c. */
rl_call *rl_topology_finished(rl_topology *topology);

/* Write the descriptors and events to wait for. Return how many, at most RL_WANTS_MAX. */
size_t rl_topology_wants(const rl_topology *topology, rl_want *wants);

/* Return the time until which to wait at most; INT64_MAX: no deadline. */
int64_t rl_topology_deadline_ns(const rl_topology *topology);

/* Return true if a step is needed: calls wait that no flush sends, or are finished. */
bool rl_topology_waits(const rl_topology *topology);

/* Return the server that calls for a key go to, RL_NO_SERVER while a cluster has none for its slot,
 * and an empty host while there is no map. */
rl_server rl_topology_server_of(const rl_topology *topology, const char *key, size_t len);

/* Write the servers that keys of a cluster have, as above. Return how many, at most RL_WANTS_MAX; 0
 * while there is no map, and 0 where all keys have the same server. */
size_t rl_topology_servers(const rl_topology *topology, rl_server *servers);

/* Return the number of calls that are not done. */
size_t rl_topology_calls(const rl_topology *topology);

#endif
