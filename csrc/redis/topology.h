/* redis/topology.h -- which server holds a key, and the calls to it.
 *
 *     call ──> waiting ──> sent ──> finished          one server, or
 *                 ^          │                        Sentinel: the current master, or
 *                 └──────────┘ MOVED, ASK, NOSCRIPT,  Cluster: a server for each slot
 *                              never sent
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

    /* private to the topology */
    rl_call_state state;
    int tries;
    int slot;        /* of the cluster, -1: any */
    size_t node;     /* where it was sent, */
    uint64_t number; /* and the number of its ticket */
    int ask;         /* a node that must get ASKING first, -1: none */
    int64_t not_before_ns;
    struct rl_call *previous, *next; /* of all, in order of submission; or finished */
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
rl_topology *rl_topology_new(const rl_options *options, const rl_tls *tls);

/* Close everything. Its calls stay unchanged. NULL is fine. */
void rl_topology_free(rl_topology *topology);

/* Add a call. It is sent at the next flush or step. All calls of one topology
 * must have the same timeout: they expire in order. */
void rl_topology_submit(rl_topology *topology, rl_call *call, int64_t now_ns);

/* Remove a call whose result is no longer wanted. In pending_calls.c. */
void rl_topology_forget(rl_topology *topology, rl_call *call);

/* Finish all calls as lost: they may have been executed. In pending_calls.c. */
void rl_topology_lose_all(rl_topology *topology, const char *error);

/* Write the submitted calls that have a connection. */
void rl_topology_flush(rl_topology *topology);

/* Mark a descriptor as ready: the next step serves it. */
void rl_topology_mark(rl_topology *topology, int fd);

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

/* Return the number of calls that are not done. */
size_t rl_topology_calls(const rl_topology *topology);

#endif
