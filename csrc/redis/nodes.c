/* nodes.c -- the map of a topology: servers, their connections, who serves which slot. */
#include "redis/nodes.h"

#include <string.h>

#include "engine/alloc.h"
#include "redis/cluster.h"
#include "redis/pending_calls.h"

#define UNKNOWN_NODE UINT16_MAX
#define OTHER_MASTER "there is another master"

bool rl_nodes_init(rl_topology *topology)
{
    bool cluster = topology->options.kind == RL_CLUSTER;
    topology->nodes = rl_alloc_zeroed((cluster ? RL_NODES_MAX : 1) * sizeof *topology->nodes);
    topology->slots = cluster ? rl_alloc_zeroed(RL_SLOTS * sizeof *topology->slots) : NULL;
    if (topology->nodes == NULL || (cluster && topology->slots == NULL)) {
        return false;
    }
    if (cluster) {
        rl_nodes_clear_slots(topology);
    } else {
        topology->n_nodes = 1;
        topology->nodes[0] = (rl_node){.server = topology->options.servers[0], .used = true};
    }
    topology->known = topology->options.kind == RL_STANDALONE;
    return true;
}

void rl_nodes_free(rl_topology *topology)
{
    for (size_t i = 0; i < topology->n_nodes; i++) {
        rl_connection_free(topology->nodes[i].redis);
    }
    rl_free(topology->nodes);
    rl_free(topology->slots);
}

/* ---- the map ------------------------------------------------------------------- */

static bool node_is(const rl_node *node, const rl_server *server)
{
    return node->server.port == server->port && strcmp(node->server.host, server->host) == 0;
}

/* Make a node at the first free place from `from` on. -1: there is none. */
static int node_make(rl_topology *topology, size_t from, const rl_server *server)
{
    size_t i = from;
    while (i < topology->n_nodes && (topology->nodes[i].used || topology->nodes[i].redis != NULL)) {
        i++;
    }
    if (i == RL_NODES_MAX) {
        return -1;
    }
    topology->n_nodes += i == topology->n_nodes;
    topology->nodes[i] = (rl_node){.server = *server, .used = true};
    return (int)i;
}

int rl_nodes_find(rl_topology *topology, const rl_server *server)
{
    for (size_t i = 0; i < topology->n_nodes; i++) {
        if (node_is(&topology->nodes[i], server)) {
            return (int)i;
        }
    }
    return node_make(topology, 0, server);
}

/* FNV-1a */
static size_t node_first_place(const rl_server *server)
{
    uint32_t hash = 2166136261u ^ server->port;
    for (const char *at = server->host; *at != 0; at++) {
        hash = (hash ^ (unsigned char)*at) * 16777619u;
    }
    return (hash ^ hash >> 16) % RL_NODE_PLACES;
}

/* Return the place of a server, or the empty one for it: at most half of them are taken, by the
 * present nodes and by one new node in the stead of each. */
static size_t node_place(const rl_topology *topology, const rl_node_index *index,
                         const rl_server *server)
{
    size_t place = node_first_place(server);
    while (index->places[place] != 0 &&
           !node_is(&topology->nodes[index->places[place] - 1], server)) {
        place = (place + 1) % RL_NODE_PLACES;
    }
    return place;
}

void rl_nodes_index(const rl_topology *topology, rl_node_index *index)
{
    memset(index, 0, sizeof *index);
    for (size_t i = 0; i < topology->n_nodes; i++) {
        size_t place = node_place(topology, index, &topology->nodes[i].server);
        if (index->places[place] == 0) {
            index->places[place] = (uint16_t)(i + 1);
        }
    }
}

int rl_nodes_use(rl_topology *topology, rl_node_index *index, const rl_server *server)
{
    size_t place = node_place(topology, index, server);
    int at = (int)index->places[place] - 1;
    if (at < 0) {
        at = node_make(topology, index->first_free, server);
        index->first_free = at < 0 ? RL_NODES_MAX : (size_t)at + 1;
        index->places[place] = (uint16_t)(at + 1);
    }
    if (at >= 0) {
        topology->nodes[at].used = true;
    }
    return at;
}

int rl_nodes_route(const rl_topology *topology, const rl_call *call)
{
    if (!topology->known) {
        return -1;
    }
    if (call->ask >= 0) {
        return call->ask;
    }
    if (topology->slots == NULL) {
        return 0;
    }
    if (call->slot >= 0) {
        uint16_t i = topology->slots[call->slot];
        return i != UNKNOWN_NODE ? i : -1;
    }
    for (size_t i = 0; i < topology->n_nodes; i++) {
        if (topology->nodes[i].used) {
            return (int)i;
        }
    }
    return -1;
}

bool rl_nodes_serve_all(const rl_topology *topology)
{
    size_t slot = 0;
    while (slot < RL_SLOTS && topology->slots[slot] != UNKNOWN_NODE) {
        slot++;
    }
    return slot == RL_SLOTS;
}

void rl_nodes_clear_slots(rl_topology *topology)
{
    for (size_t i = 0; i < topology->n_nodes; i++) {
        topology->nodes[i].used = false;
    }
    for (size_t slot = 0; slot < RL_SLOTS; slot++) {
        topology->slots[slot] = UNKNOWN_NODE;
    }
}

void rl_nodes_set_master(rl_topology *topology, const rl_server *server, int64_t now_ns)
{
    rl_node *master = &topology->nodes[0];
    if (master->server.port != server->port || strcmp(master->server.host, server->host) != 0) {
        rl_nodes_drop(topology, 0, now_ns);
        master->server = *server;
    }
    topology->known = true;
}

void rl_nodes_mark_stale(rl_topology *topology, int64_t ask_at_ns)
{
    if (topology->options.kind != RL_STANDALONE) {
        if (!topology->stale || ask_at_ns < topology->ask_at_ns) {
            topology->ask_at_ns = ask_at_ns;
        }
        topology->stale = true;
    }
}

/* ---- connections --------------------------------------------------------------- */

rl_connection_config rl_nodes_config(const rl_topology *topology, const rl_server *server)
{
    const rl_options *options = &topology->options;
    rl_connection_config config = {
        .server = *server,
        .credentials = options->redis,
        .database = options->database,
        .must_be_master = options->kind == RL_SENTINEL,
        .tls = topology->tls,
        .connect_timeout_ns = options->connect_timeout_ns,
    };
    memcpy(config.client_name, options->client_name, sizeof config.client_name);
    return config;
}

bool rl_nodes_is_ready(const rl_node *node)
{
    return node->redis != NULL && !node->retired &&
           rl_connection_state_of(node->redis) == RL_CONNECTION_READY;
}

bool rl_nodes_connect(rl_topology *topology, size_t i, int64_t now_ns)
{
    rl_node *to = &topology->nodes[i];
    rl_connection_config config = rl_nodes_config(topology, &to->server);
    to->redis = rl_connection_new(&config, now_ns);
    to->serial = topology->connections++;
    return to->redis != NULL;
}

/* A node that has no slots yet is used by calls that were redirected to it. */
static bool node_is_awaited(const rl_topology *topology, size_t i)
{
    const rl_call *call = topology->first_waiting;
    while (call != NULL && call->node != (int)i) {
        call = call->next_waiting;
    }
    return call != NULL;
}

bool rl_nodes_is_idle(const rl_topology *topology, size_t i)
{
    const rl_node *each = &topology->nodes[i];
    if (rl_connection_waiting(each->redis) != 0) {
        return false;
    }
    return each->retired || (!each->used && !node_is_awaited(topology, i));
}

/* Send a call again that the server did not get: first to the one that serves its slot. */
static void node_return_call(rl_topology *topology, rl_call *call, const char *error)
{
    call->ask = -1;
    rl_call_try_again(topology, call, 0, RL_FAULT_CONNECT, error);
}

void rl_nodes_drop(rl_topology *topology, size_t i, int64_t now_ns)
{
    rl_node *lost = &topology->nodes[i];
    rl_connection *redis = lost->redis;
    if (redis == NULL) {
        return;
    }
    bool failed = rl_connection_state_of(redis) == RL_CONNECTION_FAILED;
    bool never_ready = failed && rl_connection_fault(redis) == RL_FAULT_CONNECT;
    const char *error = failed ? rl_connection_error(redis) : OTHER_MASTER;
    rl_connection_break(redis, OTHER_MASTER);
    void *owner;
    bool sent;
    while (rl_connection_lost(redis, &owner, &sent)) {
        if (sent) {
            rl_fault fault = failed ? rl_connection_fault(redis) : RL_FAULT_LOST;
            rl_call_finish(topology, owner, NULL, fault, error);
        } else {
            node_return_call(topology, owner, error);
        }
    }
    rl_call *next;
    for (rl_call *call = topology->first_waiting; never_ready && call != NULL; call = next) {
        next = call->next_waiting;
        if (rl_nodes_route(topology, call) == (int)i) {
            call->node = (int)i;
            rl_call_finish(topology, call, NULL, RL_FAULT_CONNECT, error);
        }
    }
    rl_connection_free(redis);
    lost->redis = NULL;
    lost->retired = false;
    if (topology->options.kind == RL_SENTINEL && failed) {
        topology->known = false;
    }
    if (failed || lost->used) {
        rl_nodes_mark_stale(topology, never_ready ? now_ns + RL_ASK_AGAIN_NS : now_ns);
    }
}
