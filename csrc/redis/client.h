/* redis/client.h -- one client of Redis for all threads of a process.
 *
 * Callers share the connections of one topology. The first one that waits becomes
 * the leader: it polls, reads and writes for all, and wakes those whose answers have
 * arrived. When its own has arrived, another waiting thread becomes the leader.
 *
 *     thread A  submit ─ lead: poll, step ────────── done, hand on
 *     thread B    submit ─ sleep ───────── done         │
 *     thread C      submit ─ sleep ─────────────── lead: poll, step ─ done
 *
 * The client starts no thread: between calls it does nothing. */
#ifndef RL_REDIS_CLIENT_H
#define RL_REDIS_CLIENT_H

#include <pthread.h>

#include "redis/condition.h"
#include "redis/topology.h"

typedef struct rl_client rl_client; /* opaque: see client.c */

/* A call, and the thread that waits for it. It is on that thread's stack. */
typedef struct rl_thread_call {
    rl_call call; /* filled in by the caller as redis/topology.h says */
    bool done;    /* this and all below: guarded by the client's lock */
    pthread_cond_t wake;
    struct rl_thread_call *previous, *next; /* in the list of sleeping threads */
} rl_thread_call;

/* Make a client that is not connected yet. The TLS context is borrowed, NULL when
 * the options ask for none. NULL: out of memory (ENOMEM) or file descriptors, see errno. */
rl_client *rl_client_new(const rl_options *options, rl_tls *tls);

/* Close everything. No call may be under way. NULL is fine. */
void rl_client_free(rl_client *client);

/* Submit a call; the client sets its deadline. Then call rl_client_wait until it returns
 * true, or rl_client_leave. */
void rl_client_submit(rl_client *client, rl_thread_call *call);

/* Wait until the call is done, at most `most_ns`. Return true if it is done. */
bool rl_client_wait(rl_client *client, rl_thread_call *call, int64_t most_ns);

/* Stop waiting for a call. Its result is dropped. */
void rl_client_leave(rl_client *client, rl_thread_call *call);

/* As rl_topology_server_of and rl_topology_servers. */
rl_server rl_client_server_of(rl_client *client, const char *key, size_t len);
size_t rl_client_servers(rl_client *client, rl_server *servers);

/* Call these around fork(). The client is locked during the fork, so the child gets a
 * consistent one. The child closes the inherited connections without sending anything,
 * ends pending calls as lost, and forgets the parent's threads. */
void rl_client_before_fork(rl_client *client);
void rl_client_after_fork_in_parent(rl_client *client);
void rl_client_after_fork_in_child(rl_client *client);

#endif
