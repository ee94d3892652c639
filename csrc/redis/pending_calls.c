/* pending_calls.c -- the lists of a topology's calls, and how a call ends. */
#include "redis/pending_calls.h"

#include <stdio.h>
#include <string.h>

#define TRIES_MAX 8

static void call_start_waiting(rl_topology *topology, rl_call *call)
{
    call->state = RL_CALL_WAITING;
    call->next_waiting = NULL;
    call->previous_waiting = topology->last_waiting;
    *(topology->last_waiting != NULL ? &topology->last_waiting->next_waiting
                                     : &topology->first_waiting) = call;
    topology->last_waiting = call;
}

/* Add a call to the list of all calls. */
static void call_insert(rl_topology *topology, rl_call *call)
{
    rl_call *before = topology->last; /* usually the one: most calls have the same timeout */
    while (before != NULL && before->deadline_ns > call->deadline_ns) {
        before = before->previous;
    }
    call->previous = before;
    call->next = before != NULL ? before->next : topology->first;
    *(before != NULL ? &before->next : &topology->first) = call;
    *(call->next != NULL ? &call->next->previous : &topology->last) = call;
    topology->n_calls++;
}

static void call_remove(rl_topology *topology, rl_call *call)
{
    *(call->previous != NULL ? &call->previous->next : &topology->first) = call->next;
    *(call->next != NULL ? &call->next->previous : &topology->last) = call->previous;
    topology->n_calls--;
}

void rl_call_add(rl_topology *topology, rl_call *call)
{
    call_insert(topology, call);
    call_start_waiting(topology, call);
}

void rl_call_set_deadline(rl_topology *topology, rl_call *call, int64_t deadline_ns)
{
    if (call->deadline_ns != deadline_ns) {
        call_remove(topology, call);
        call->deadline_ns = deadline_ns;
        call_insert(topology, call);
    }
}

void rl_call_stop_waiting(rl_topology *topology, rl_call *call)
{
    *(call->previous_waiting != NULL ? &call->previous_waiting->next_waiting
                                     : &topology->first_waiting) = call->next_waiting;
    *(call->next_waiting != NULL ? &call->next_waiting->previous_waiting
                                 : &topology->last_waiting) = call->previous_waiting;
}

static void call_take_out(rl_topology *topology, rl_call *call)
{
    if (call->state == RL_CALL_WAITING) {
        rl_call_stop_waiting(topology, call);
    } else if (call->state == RL_CALL_SENT && topology->nodes[call->node].redis != NULL) {
        rl_connection_forget(topology->nodes[call->node].redis, call->number);
    }
    call_remove(topology, call);
}

void rl_topology_forget(rl_topology *topology, rl_call *call)
{
    if (call->state == RL_CALL_WAITING || call->state == RL_CALL_SENT) {
        call_take_out(topology, call);
        call->state = RL_CALL_IDLE;
    }
}

rl_server rl_call_server(const rl_topology *topology, int node)
{
    rl_server server = {{0}, 0};
    if (node >= 0) {
        return topology->nodes[node].server;
    }
    if (topology->known) {
        memcpy(server.host, RL_NO_SERVER, sizeof RL_NO_SERVER);
    }
    return server;
}

void rl_call_finish(rl_topology *topology, rl_call *call, redisReply *reply, rl_fault fault,
                    const char *error)
{
    call_take_out(topology, call);
    topology->settled = true;
    call->state = RL_CALL_DONE;
    call->reply = reply;
    call->fault = fault;
    if (fault != RL_FAULT_NONE) {
        snprintf(call->error, sizeof call->error, "%s", error);
    }
    if (fault != RL_FAULT_NONE || topology->slots != NULL) {
        call->server = rl_call_server(topology, call->node);
    }
    call->next = NULL;
    *(topology->last_finished != NULL ? &topology->last_finished->next : &topology->finished) =
        call;
    topology->last_finished = call;
}

void rl_topology_lose_all(rl_topology *topology, const char *error)
{
    while (topology->first != NULL) {
        rl_call_finish(topology, topology->first, NULL, RL_FAULT_LOST, error);
    }
}

rl_call *rl_topology_finished(rl_topology *topology)
{
    rl_call *call = topology->finished;
    if (call != NULL) {
        topology->finished = call->next;
        if (topology->finished == NULL) {
            topology->last_finished = NULL;
        }
    }
    return call;
}

void rl_call_try_again(rl_topology *topology, rl_call *call, int64_t not_before_ns, rl_fault fault,
                       const char *error)
{
    if (++call->tries > TRIES_MAX) {
        rl_call_finish(topology, call, NULL, fault, error);
        return;
    }
    call->not_before_ns = not_before_ns;
    call_start_waiting(topology, call);
}

void rl_call_postpone(rl_topology *topology, rl_call *call, int64_t not_before_ns,
                      const char *error)
{
    snprintf(call->error, sizeof call->error, "%s", error);
    call->postponed = true;
    call->not_before_ns = not_before_ns;
    call_start_waiting(topology, call);
}

/* The server that a call waits for: its own, or the one that is asked for the map. */
static const rl_server *call_awaited_server(const rl_topology *topology, const rl_call *call)
{
    if (call->node >= 0) {
        return &topology->nodes[call->node].server;
    }
    return topology->discovery.redis != NULL ? rl_connection_server(topology->discovery.redis)
                                             : &topology->options.servers[0];
}

static void call_expire(rl_topology *topology, rl_call *call)
{
    char error[RL_ERROR_SIZE];
    const rl_server *server = call_awaited_server(topology, call);
    char port[8] = "";
    if (server->port != 0) {
        snprintf(port, sizeof port, ":%u", (unsigned)server->port);
    }
    snprintf(error, sizeof error, "%s %.150s%s within %lld ms",
             call->state == RL_CALL_SENT ? "no answer from" : "no connection to", server->host,
             port, (long long)((call->deadline_ns - call->submitted_ns) / RL_MS));
    rl_call_finish(topology, call, NULL, RL_FAULT_TIMEOUT, error);
}

bool rl_call_expire_all(rl_topology *topology, int64_t now_ns)
{
    bool silent = false;
    while (topology->first != NULL && topology->first->deadline_ns <= now_ns) {
        rl_call *call = topology->first;
        if (call->postponed) {
            char error[RL_ERROR_SIZE];
            memcpy(error, call->error, sizeof error);
            rl_call_finish(topology, call, NULL, RL_FAULT_ANSWER, error);
        } else {
            call_expire(topology, call);
            silent = true;
        }
    }
    return silent;
}
