/* pending_calls.c -- the lists of a topology's calls, and how a call ends. */
#include "redis/pending_calls.h"

#include <stdio.h>

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

void rl_call_add(rl_topology *topology, rl_call *call)
{
    call->next = NULL;
    call->previous = topology->last;
    *(topology->last != NULL ? &topology->last->next : &topology->first) = call;
    topology->last = call;
    topology->n_calls++;
    call_start_waiting(topology, call);
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
    *(call->previous != NULL ? &call->previous->next : &topology->first) = call->next;
    *(call->next != NULL ? &call->next->previous : &topology->last) = call->previous;
    topology->n_calls--;
}

void rl_topology_forget(rl_topology *topology, rl_call *call)
{
    if (call->state == RL_CALL_WAITING || call->state == RL_CALL_SENT) {
        call_take_out(topology, call);
        call->state = RL_CALL_IDLE;
    }
}

void rl_call_finish(rl_topology *topology, rl_call *call, redisReply *reply, rl_fault fault,
                    const char *error)
{
    call_take_out(topology, call);
    call->state = RL_CALL_DONE;
    call->reply = reply;
    call->fault = fault;
    if (fault != RL_FAULT_NONE) {
        snprintf(call->error, sizeof call->error, "%s", error);
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

void rl_call_expire_all(rl_topology *topology, int64_t now_ns)
{
    while (topology->first != NULL && topology->first->deadline_ns <= now_ns) {
        char error[RL_ERROR_SIZE];
        const rl_call *call = topology->first;
        bool sent = call->state == RL_CALL_SENT;
        const rl_server *server =
            sent ? &topology->nodes[call->node].server : &topology->options.servers[0];
        snprintf(error, sizeof error, "%s %.150s:%u within %lld ms",
                 sent ? "no answer from" : "no connection to", server->host, (unsigned)server->port,
                 (long long)(topology->options.timeout_ns / RL_MS));
        rl_call_finish(topology, topology->first, NULL, RL_FAULT_TIMEOUT, error);
    }
}
