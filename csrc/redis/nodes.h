/* redis/nodes.h -- the map of a topology: its servers and who serves what.
 *
 *     standalone, Sentinel   nodes[0] serves every key
 *     Cluster                slots[0..16383] ──> nodes[i], or no node yet
 *
 * A node's connection opens with the first call for it. When the connection ends, each of
 * its calls either ends too or waits again, see rl_nodes_drop. */
#ifndef RL_REDIS_NODES_H
#define RL_REDIS_NODES_H

#include "redis/topology_state.h"

/* Allocate the map, from the servers of the options. False: out of memory. */
bool rl_nodes_init(rl_topology *topology);

/* Close the connections and free the map, also one that rl_nodes_init left half made. */
void rl_nodes_free(rl_topology *topology);

/* Return the index of a server's node, a new one where there is none. -1: no room. */
int rl_nodes_find(rl_topology *topology, const rl_server *server);

#define RL_NODE_PLACES ((size_t)4 * RL_NODES_MAX)

/* The nodes by a hash of their servers, for the many searches of one map. */
typedef struct rl_node_index {
    uint16_t places[RL_NODE_PLACES]; /* 0: empty, else 1 + the index of a node */
    size_t first_free;               /* no node before it is free */
} rl_node_index;

/* Make the index of the present nodes. */
void rl_nodes_index(const rl_topology *topology, rl_node_index *index);

/* Do what rl_nodes_find does, and mark the node as used. Until the last search no connection may
 * be closed. */
int rl_nodes_use(rl_topology *topology, rl_node_index *index, const rl_server *server);

/* Return the index of the node that serves a call. -1: not known yet. */
int rl_nodes_route(const rl_topology *topology, const rl_call *call);

/* Return true if each slot of the cluster has a node. */
bool rl_nodes_serve_all(const rl_topology *topology);

/* Forget who serves which slot, before a new map of the cluster is read. */
void rl_nodes_clear_slots(rl_topology *topology);

/* With Sentinel: send calls to this master, and drop the connection to another one. */
void rl_nodes_set_master(rl_topology *topology, const rl_server *server, int64_t now_ns);

/* Mark the map as stale: it may be wrong, so ask for a new one, not before this time.
 * Without effect on a standalone server. */
void rl_nodes_mark_stale(rl_topology *topology, int64_t ask_at_ns);

/* Return the settings of a connection to a server of the topology. */
rl_connection_config rl_nodes_config(const rl_topology *topology, const rl_server *server);

/* Return true if calls can be sent to a node now. */
bool rl_nodes_is_ready(const rl_node *node);

/* Begin to connect to a node. False: out of memory. */
bool rl_nodes_connect(rl_topology *topology, size_t i, int64_t now_ns);

/* Return true if a node's connection is no longer needed: no answer is due, no call waits for it,
 * and the map does not use the node, or the node cannot serve. */
bool rl_nodes_is_idle(const rl_topology *topology, size_t i);

/* Close a node's connection, if any, and mark the map as stale if it uses the node. Calls that
 * were sent are lost: they may have been executed. The others wait again. When the connection
 * never became ready, the calls that wait for this node end as well. */
void rl_nodes_drop(rl_topology *topology, size_t i, int64_t now_ns);

#endif
