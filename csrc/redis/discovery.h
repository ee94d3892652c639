/* redis/discovery.h -- asking sentinels or nodes of a cluster who serves what.
 *
 *     candidates: the servers of the options, then the nodes of the cluster
 *
 *     ask one ── answer ──> the map ── Sentinel: stay connected, for messages about a new master
 *        ^  │                          Cluster: close
 *        └──┘ no useful answer: the next one; after all of them the calls that wait fail */
#ifndef RL_REDIS_DISCOVERY_H
#define RL_REDIS_DISCOVERY_H

#include "redis/topology_state.h"

/* Return true if there is something to ask, now or later. There is not while no call is
 * pending, or while the map is good. */
bool rl_discovery_is_needed(const rl_topology *topology);

/* Do what can be done without waiting: connect, ask, read the answer and the messages. */
void rl_discovery_step(rl_topology *topology, int64_t now_ns);

/* Close the discovery connection, if any. */
void rl_discovery_close(rl_topology *topology);

#endif
