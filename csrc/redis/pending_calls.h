/* redis/pending_calls.h -- the calls of a topology: waiting, sent or finished.
 *
 * A call is in the list of all calls from its submission until it is done, and also in
 * the list of waiting calls while it waits to be sent. Then it is in the list of finished
 * calls until the owner fetches it. The lists borrow the calls. */
#ifndef RL_REDIS_PENDING_CALLS_H
#define RL_REDIS_PENDING_CALLS_H

#include "redis/topology_state.h"

/* Add a new call to the list of all calls, and to those that wait. */
void rl_call_add(rl_topology *topology, rl_call *call);

/* Change the deadline of a call that is not done. */
void rl_call_set_deadline(rl_topology *topology, rl_call *call, int64_t deadline_ns);

/* Remove a waiting call from the list: it was sent. */
void rl_call_stop_waiting(rl_topology *topology, rl_call *call);

/* Return the server of a node; -1: as rl_topology_server_of for a slot without one. */
rl_server rl_call_server(const rl_topology *topology, int node);

/* End a call. `reply` passes to the call's owner; `error` counts with a fault. */
void rl_call_finish(rl_topology *topology, rl_call *call, redisReply *reply, rl_fault fault,
                    const char *error);

/* Let a call that was not executed be sent again, not before a time (0: now). After too
 * many tries it ends with the fault and the error of the last one. */
void rl_call_try_again(rl_topology *topology, rl_call *call, int64_t not_before_ns, rl_fault fault,
                       const char *error);

/* The same for a server that wants the call later: as often as its deadline permits. Then the call
 * ends with this error. */
void rl_call_postpone(rl_topology *topology, rl_call *call, int64_t not_before_ns,
                      const char *error);

/* End the calls whose deadlines have passed. Return true if a server gave no answer. */
bool rl_call_expire_all(rl_topology *topology, int64_t now_ns);

#endif
