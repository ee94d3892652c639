/* redis/topology.h -- which server holds a key, and what becomes of a call to it.
 *
 *     call ──> waiting ──> sent ──> finished          one server, or
 *                 ^          │                        Sentinel: the master of the day, or
 *                 └──────────┘ MOVED, ASK, NOSCRIPT,  Cluster: a server for each slot
 *                              never left this host
 *
 * A topology is a machine without threads, locks or waiting. Its owner submits
 * calls, waits until one of its descriptors is ready or its deadline has come,
 * says which (rl_topology_mark), calls rl_topology_step and fetches what is
 * finished. redis/client.h does that for threads, the binding for event loops.
 *
 * A command whose answer never came is not repeated: it may have been executed.
 * A command that cannot have been executed is, within its deadline. */
#ifndef RL_REDIS_TOPOLOGY_H
#define RL_REDIS_TOPOLOGY_H

#include "redis/connection.h"

#define RL_NODES_MAX 512
#define RL_WANTS_MAX (RL_NODES_MAX + 1)

/* A Lua script, sent by its digest first and whole when the server lacks it. */
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

/* One command and what became of it. All that the first part points to must stay
 * until the call is done or forgotten. */
typedef struct rl_call {
    rl_arguments arguments;  /* of a script, the first two are filled in for it */
    const rl_script *script; /* NULL: any other command */
    int key;                 /* the argument that is the key; 0: none, any server will do */
    int64_t deadline_ns;

    rl_fault fault;
    redisReply *reply; /* owned by the caller once done; NULL with a fault */
    char error[RL_ERROR_SIZE];

    /* the topology's own */
    rl_call_state state;
    int tries;
    int slot;        /* of the cluster, -1: any */
    size_t node;     /* where it was sent, */
    uint64_t number; /* and the number of its ticket */
    int ask;         /* a node that must be told ASKING first, -1: none */
    int64_t not_before_ns;
    struct rl_call *previous, *next; /* of all, in order of submission; or finished */
    struct rl_call *previous_waiting, *next_waiting; /* of those that wait to be sent */
} rl_call;

typedef struct rl_want {
    int fd;
    unsigned wants;  /* of RL_WANT_* */
    uint64_t serial; /* another one, when a new descriptor has the number of an old one */
} rl_want;

typedef struct rl_topology rl_topology; /* opaque: see topology.c */

/* Make a topology that is not connected yet. The TLS context is borrowed, NULL
 * when the options ask for none. NULL: out of memory. */
rl_topology *rl_topology_new(const rl_options *options, const rl_tls *tls);

/* Close everything. Calls in it are left as they are. NULL is fine. */
void rl_topology_free(rl_topology *topology);

/* Take a call in. It is sent at the next flush or step. All calls of one topology
 * must have the same timeout: they expire in order. */
void rl_topology_submit(rl_topology *topology, rl_call *call, int64_t now_ns);

/* Take a call out that nobody waits for any more. */
void rl_topology_forget(rl_topology *topology, rl_call *call);

/* Finish all calls as lost: they may have been executed. */
void rl_topology_lose_all(rl_topology *topology, const char *error);

/* Write what was submitted, where there is a connection for it. */
void rl_topology_flush(rl_topology *topology);

/* A descriptor is ready: it will be served by the next step. */
void rl_topology_mark(rl_topology *topology, int fd);

/* Do all that can be done without waiting. */
void rl_topology_step(rl_topology *topology, int64_t now_ns);

/* The next call that is done; NULL: none. */
rl_call *rl_topology_finished(rl_topology *topology);

/* What to wait for; returns how many, at most RL_WANTS_MAX. */
size_t rl_topology_wants(const rl_topology *topology, rl_want *wants);

/* Until when to wait at most; INT64_MAX: for ever. */
int64_t rl_topology_deadline_ns(const rl_topology *topology);

/* Tell whether calls wait that no flush sends: a step must see to them. */
bool rl_topology_waits(const rl_topology *topology);

/* Number of calls that are not done. */
size_t rl_topology_calls(const rl_topology *topology);

#endif
