/* discovery.c -- asking sentinels or nodes of a cluster who serves what. */
#include "redis/discovery.h"

#include <stdio.h>
#include <string.h>

#include "redis/cluster.h"
#include "redis/nodes.h"
#include "redis/pending_calls.h"

/* How long to wait before subscribing again, after a sentinel has closed the connection. */
#define LISTEN_AGAIN_NS (1000 * RL_MS)

/* ---- reading the map: who is master, who serves which slot --------------------- */

/* Return how many slots a map assigns; 0: it is no map. */
static int count_slots(const redisReply *reply, const rl_server *from)
{
    int n_slots = 0;
    rl_slot_range range;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements > RL_SLOTS) {
        return 0;
    }
    for (size_t i = 0; i < reply->elements; i++) {
        if (rl_cluster_range(reply->element[i], from, &range)) {
            n_slots += range.last - range.first + 1;
        }
        if (n_slots > RL_SLOTS) {
            return 0; /* ranges overlap */
        }
    }
    return n_slots;
}

/* Checked first: a node that left the cluster reports no slots, and then the old map is better. */
static bool read_slots(rl_topology *topology, const redisReply *reply, const rl_server *from)
{
    if (count_slots(reply, from) == 0) {
        return false;
    }
    rl_node_index index;
    rl_nodes_clear_slots(topology);
    rl_nodes_index(topology, &index);
    for (size_t i = 0; i < reply->elements; i++) {
        rl_slot_range range;
        int at = -1;
        if (rl_cluster_range(reply->element[i], from, &range)) {
            at = rl_nodes_use(topology, &index, &range.master);
        }
        for (int slot = range.first; at >= 0 && slot <= range.last; slot++) {
            topology->slots[slot] = (uint16_t)at;
        }
    }
    return true;
}

static bool read_master(rl_topology *topology, const redisReply *reply, int64_t now_ns)
{
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
        reply->element[0]->type != REDIS_REPLY_STRING ||
        reply->element[1]->type != REDIS_REPLY_STRING) {
        return false;
    }
    char text[RL_HOST_SIZE + 16];
    int slot;
    rl_server server = {{0}, 0};
    /* Written as a redirection, whose reader checks host and port. */
    snprintf(text, sizeof text, "0 %.255s:%.6s", reply->element[0]->str, reply->element[1]->str);
    if (!rl_cluster_redirection(text, &server, &slot, &server)) {
        return false;
    }
    rl_nodes_set_master(topology, &server, now_ns);
    return true;
}

/* Read "mymaster 127.0.0.1 6379 127.0.0.1 6380": name, old master, new master. */
static void discovery_read_message(rl_topology *topology, const redisReply *reply, int64_t now_ns)
{
    char name[RL_NAME_SIZE], host[RL_HOST_SIZE];
    unsigned port;
    if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 &&
        reply->element[2]->type == REDIS_REPLY_STRING &&
        sscanf(reply->element[2]->str, "%127s %*s %*s %255s %u", name, host, &port) == 3 &&
        strcmp(name, topology->options.master_name) == 0 && port > 0 && port <= 65535) {
        rl_server server = {{0}, (uint16_t)port};
        memcpy(server.host, host, strlen(host) + 1);
        rl_nodes_set_master(topology, &server, now_ns);
    }
}

/* ---- the discovery connection -------------------------------------------------- */

static size_t discovery_candidates(const rl_topology *topology)
{
    size_t known = topology->slots != NULL ? topology->n_nodes : 0;
    return known + topology->options.n_servers;
}

static const rl_server *discovery_server(const rl_topology *topology)
{
    size_t i = topology->discovery.candidate % discovery_candidates(topology);
    size_t n = topology->options.n_servers;
    return i < n ? &topology->options.servers[i] : &topology->nodes[i - n].server;
}

void rl_discovery_close(rl_topology *topology)
{
    rl_connection_free(topology->discovery.redis);
    topology->discovery.redis = NULL;
    topology->discovery.asked = false;
    topology->discovery.subscribed = false;
}

/* A candidate gave no map. The next one is asked; after the last one the calls that wait for
 * the first map fail. */
static void discovery_fail(rl_topology *topology, const char *error, int64_t now_ns)
{
    char message[RL_ERROR_SIZE];
    snprintf(message, sizeof message, "%s; %.180s",
             topology->slots != NULL ? "no node returned the slots of the cluster"
                                     : "no sentinel returned the master",
             error);
    rl_discovery_close(topology);
    topology->discovery.candidate++;
    if (++topology->discovery.failures < discovery_candidates(topology)) {
        return;
    }
    topology->discovery.failures = 0;
    topology->stale = true;
    topology->rest_ns = now_ns + RL_ASK_AGAIN_NS;
    while (!topology->known && topology->first_waiting != NULL) {
        rl_call_finish(topology, topology->first_waiting, NULL, RL_FAULT_CONNECT, message);
    }
}

static void discovery_ask(rl_topology *topology, int64_t now_ns)
{
    const char *slots[] = {"CLUSTER", "SLOTS"};
    const char *master[] = {"SENTINEL", "get-master-addr-by-name", topology->options.master_name};
    bool cluster = topology->slots != NULL;
    const char **texts = cluster ? slots : master;
    int n = cluster ? 2 : 3;
    size_t lens[3];
    for (int i = 0; i < n; i++) {
        lens[i] = strlen(texts[i]);
    }
    uint64_t number;
    if (rl_connection_send(topology->discovery.redis, &(rl_arguments){n, texts, lens}, topology,
                           now_ns, &number) == RL_FAULT_NONE) {
        topology->discovery.asked = true;
        rl_connection_flush(topology->discovery.redis);
    }
}

/* A sentinel then sends a message when there is another master. */
static void discovery_subscribe(rl_topology *topology, int64_t now_ns)
{
    const char *texts[] = {"SUBSCRIBE", "+switch-master"};
    const size_t lens[] = {9, 14};
    uint64_t number;
    if (rl_connection_send(topology->discovery.redis, &(rl_arguments){2, texts, lens}, topology,
                           now_ns, &number) == RL_FAULT_NONE) {
        rl_connection_forget(topology->discovery.redis, number);
        rl_connection_flush(topology->discovery.redis);
        rl_connection_listen(topology->discovery.redis);
        topology->discovery.subscribed = true;
    }
}

static void discovery_read_answer(rl_topology *topology, const redisReply *reply, int64_t now_ns)
{
    bool good;
    if (topology->slots != NULL) {
        good = read_slots(topology, reply, rl_connection_server(topology->discovery.redis));
    } else {
        good = read_master(topology, reply, now_ns);
    }
    if (!good) {
        char error[RL_ERROR_SIZE];
        snprintf(error, sizeof error, "%.100s answered: %.120s",
                 rl_connection_server(topology->discovery.redis)->host,
                 reply->type == REDIS_REPLY_ERROR ? reply->str : "something else");
        discovery_fail(topology, error, now_ns);
        return;
    }
    topology->known = true;
    topology->stale = false;
    topology->rest_ns = now_ns + RL_ASK_AGAIN_NS;
    topology->discovery.failures = 0;
    if (topology->slots != NULL) {
        rl_discovery_close(topology);
    } else {
        discovery_subscribe(topology, now_ns);
    }
}

static bool discovery_connect(rl_topology *topology, int64_t now_ns)
{
    rl_connection_config config = rl_nodes_config(topology, discovery_server(topology));
    if (topology->options.kind == RL_SENTINEL) {
        config.credentials = topology->options.sentinel;
        config.database = 0;
        config.must_be_master = false;
    }
    config.connect_timeout_ns /= 4; /* a silent candidate leaves time for the next ones */
    topology->discovery.redis = rl_connection_new(&config, now_ns);
    topology->discovery.serial = topology->connections++;
    return topology->discovery.redis != NULL;
}

static void discovery_serve(rl_topology *topology, int64_t now_ns)
{
    rl_connection *redis = topology->discovery.redis;
    rl_connection_step(redis, now_ns);
    topology->discovery.ready = false;
    if (rl_connection_state_of(redis) == RL_CONNECTION_READY && !topology->discovery.asked) {
        discovery_ask(topology, now_ns);
    }
    void *owner;
    redisReply *reply;
    while (topology->discovery.redis == redis && rl_connection_next(redis, &owner, &reply)) {
        if (owner != NULL) {
            discovery_read_answer(topology, reply, now_ns);
        } else {
            discovery_read_message(topology, reply, now_ns);
        }
        freeReplyObject(reply);
    }
    if (topology->discovery.redis == redis &&
        rl_connection_state_of(redis) == RL_CONNECTION_FAILED) {
        if (topology->discovery.subscribed) {
            rl_discovery_close(topology);
            topology->discovery.candidate++;
            rl_nodes_mark_stale(topology, now_ns + LISTEN_AGAIN_NS);
        } else {
            char error[RL_ERROR_SIZE];
            snprintf(error, sizeof error, "%s", rl_connection_error(redis));
            discovery_fail(topology, error, now_ns);
        }
    }
}

bool rl_discovery_is_needed(const rl_topology *topology)
{
    return topology->first != NULL &&
           (topology->known ? topology->stale : topology->first_waiting != NULL);
}

static bool discovery_is_due(const rl_topology *topology, int64_t now_ns)
{
    return rl_discovery_is_needed(topology) && now_ns >= topology->ask_at_ns &&
           now_ns >= topology->rest_ns;
}

void rl_discovery_step(rl_topology *topology, int64_t now_ns)
{
    if (topology->options.kind == RL_STANDALONE) {
        return;
    }
    /* A subscribed connection takes no more questions. */
    if (topology->discovery.subscribed && discovery_is_due(topology, now_ns)) {
        rl_discovery_close(topology);
    }
    size_t tries = discovery_candidates(topology);
    do {
        if (topology->discovery.redis == NULL) {
            if (!discovery_is_due(topology, now_ns)) {
                return;
            }
            if (!discovery_connect(topology, now_ns)) {
                discovery_fail(topology, "out of memory", now_ns);
                return;
            }
        } else if (!topology->discovery.ready &&
                   now_ns < rl_connection_deadline_ns(topology->discovery.redis) &&
                   rl_connection_state_of(topology->discovery.redis) == RL_CONNECTION_READY) {
            return;
        }
        discovery_serve(topology, now_ns);
    } while (topology->discovery.redis == NULL && tries-- > 0);
}
