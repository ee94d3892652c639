/* discovery.c -- where to send calls: what sentinels and nodes of a cluster tell. */
#include "redis/topology_parts.h"

#include <stdio.h>
#include <string.h>

#include "redis/cluster.h"

#define LISTEN_AGAIN_NS (1000 * RL_MS)

/* ---- the map: who is master, who has which slot -------------------------------- */

void rl_discovery_ask_soon(rl_topology *topology, int64_t ask_at_ns)
{
    if (topology->options.kind != RL_STANDALONE) {
        if (!topology->stale || ask_at_ns < topology->ask_at_ns) {
            topology->ask_at_ns = ask_at_ns;
        }
        topology->stale = true;
    }
}

int rl_discovery_find_node(rl_topology *topology, const rl_server *server)
{
    int unused = -1;
    for (size_t i = 0; i < topology->n_nodes; i++) {
        const rl_node *each = &topology->nodes[i];
        if (each->server.port == server->port && strcmp(each->server.host, server->host) == 0) {
            return (int)i;
        }
        if (!each->used && each->redis == NULL && unused < 0) {
            unused = (int)i;
        }
    }
    if (unused < 0) {
        if (topology->n_nodes == RL_NODES_MAX) {
            return -1;
        }
        unused = (int)topology->n_nodes++;
    }
    topology->nodes[unused] = (rl_node){.server = *server, .used = true};
    return unused;
}

static bool read_slots(rl_topology *topology, const redisReply *reply, const rl_server *from)
{
    int n_slots = 0;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements > RL_SLOTS) {
        return false;
    }
    for (size_t i = 0; i < topology->n_nodes; i++) {
        topology->nodes[i].used = false;
    }
    memset(topology->slots, 0xff, RL_SLOTS * sizeof *topology->slots);
    for (size_t i = 0; i < reply->elements; i++) {
        rl_slot_range range;
        int at = -1;
        if (rl_cluster_range(reply->element[i], from, &range)) {
            at = rl_discovery_find_node(topology, &range.master);
        }
        if (at < 0) {
            continue;
        }
        n_slots += range.last - range.first + 1;
        if (n_slots > RL_SLOTS) {
            return false; /* ranges overlap */
        }
        topology->nodes[at].used = true;
        for (int slot = range.first; slot <= range.last; slot++) {
            topology->slots[slot] = (uint16_t)at;
        }
    }
    return n_slots > 0;
}

static void set_master(rl_topology *topology, const rl_server *server, int64_t now_ns)
{
    rl_node *master = &topology->nodes[0];
    if (master->server.port != server->port || strcmp(master->server.host, server->host) != 0) {
        rl_topology_drop(topology, 0, now_ns);
        master->server = *server;
    }
    topology->known = true;
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
    /* in the words of a redirection, whose reader checks them */
    snprintf(text, sizeof text, "0 %.255s:%.6s", reply->element[0]->str, reply->element[1]->str);
    if (!rl_cluster_redirection(text, &server, &slot, &server)) {
        return false;
    }
    set_master(topology, &server, now_ns);
    return true;
}

/* "mymaster 127.0.0.1 6379 127.0.0.1 6380", the last two being the new master */
static void read_message(rl_topology *topology, const redisReply *reply, int64_t now_ns)
{
    char name[RL_NAME_SIZE], host[RL_HOST_SIZE];
    unsigned port;
    if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 &&
        reply->element[2]->type == REDIS_REPLY_STRING &&
        sscanf(reply->element[2]->str, "%127s %*s %*s %255s %u", name, host, &port) == 3 &&
        strcmp(name, topology->options.master_name) == 0 && port > 0 && port <= 65535) {
        rl_server server = {{0}, (uint16_t)port};
        memcpy(server.host, host, strlen(host) + 1);
        set_master(topology, &server, now_ns);
    }
}

/* ---- the discovery ----------------------------------------------------------------- */

static size_t discovery_candidates(const rl_topology *topology)
{
    size_t known = topology->slots != NULL ? topology->n_nodes : 0;
    return known + topology->options.n_servers;
}

static const rl_server *discovery_server(const rl_topology *topology, size_t index)
{
    size_t i = index % discovery_candidates(topology);
    size_t n = topology->options.n_servers;
    return i < n ? &topology->options.servers[i] : &topology->nodes[i - n].server;
}

static void close_discovery(rl_topology *topology)
{
    rl_connection_free(topology->discovery);
    topology->discovery = NULL;
    topology->discovery_asked = false;
    topology->discovery_listens = false;
}

/* The discovery did not help. Ask the next; when none is left, nobody knows. */
static void lose_discovery(rl_topology *topology, const char *error, int64_t now_ns)
{
    char message[RL_ERROR_SIZE];
    snprintf(message, sizeof message, "no %s knows the %s; %.180s",
             topology->slots != NULL ? "node" : "sentinel",
             topology->slots != NULL ? "cluster" : "master", error);
    close_discovery(topology);
    topology->discovery_index++;
    if (++topology->discovery_tries < discovery_candidates(topology)) {
        return;
    }
    topology->discovery_tries = 0;
    topology->stale = true;
    topology->rest_ns = now_ns + RL_ASK_AGAIN_NS;
    while (!topology->known && topology->first_waiting != NULL) {
        rl_call_finish(topology, topology->first_waiting, NULL, RL_FAULT_CONNECT, message);
    }
}

static void send_question(rl_topology *topology, int64_t now_ns)
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
    if (rl_connection_send(topology->discovery, &(rl_arguments){n, texts, lens}, topology, now_ns,
                           &number) == RL_FAULT_NONE) {
        topology->discovery_asked = true;
        rl_connection_flush(topology->discovery);
    }
}

/* A sentinel tells by itself when there is another master. */
static void subscribe(rl_topology *topology, int64_t now_ns)
{
    const char *texts[] = {"SUBSCRIBE", "+switch-master"};
    const size_t lens[] = {9, 14};
    uint64_t number;
    if (rl_connection_send(topology->discovery, &(rl_arguments){2, texts, lens}, topology, now_ns,
                           &number) == RL_FAULT_NONE) {
        rl_connection_forget(topology->discovery, number);
        rl_connection_flush(topology->discovery);
        rl_connection_listen(topology->discovery);
        topology->discovery_listens = true;
    }
}

static void read_answer(rl_topology *topology, const redisReply *reply, int64_t now_ns)
{
    bool good;
    if (topology->slots != NULL) {
        good = read_slots(topology, reply, rl_connection_server(topology->discovery));
    } else {
        good = read_master(topology, reply, now_ns);
    }
    if (!good) {
        char error[RL_ERROR_SIZE];
        snprintf(error, sizeof error, "%.100s says: %.120s",
                 rl_connection_server(topology->discovery)->host,
                 reply->type == REDIS_REPLY_ERROR ? reply->str : "nothing of it");
        lose_discovery(topology, error, now_ns);
        return;
    }
    topology->known = true;
    topology->stale = false;
    topology->rest_ns = now_ns + RL_ASK_AGAIN_NS;
    topology->discovery_tries = 0;
    if (topology->slots != NULL) {
        close_discovery(topology);
    } else {
        subscribe(topology, now_ns);
    }
}

static void serve_discovery(rl_topology *topology, int64_t now_ns)
{
    rl_connection *discovery = topology->discovery;
    rl_connection_step(discovery, now_ns);
    topology->discovery_ready = false;
    if (rl_connection_state_of(discovery) == RL_CONNECTION_READY && !topology->discovery_asked) {
        send_question(topology, now_ns);
    }
    void *owner;
    redisReply *reply;
    while (topology->discovery == discovery && rl_connection_next(discovery, &owner, &reply)) {
        if (owner != NULL) {
            read_answer(topology, reply, now_ns);
        } else {
            read_message(topology, reply, now_ns);
        }
        freeReplyObject(reply);
    }
    if (topology->discovery == discovery &&
        rl_connection_state_of(discovery) == RL_CONNECTION_FAILED) {
        if (topology->discovery_listens) {
            close_discovery(topology);
            topology->discovery_index++;
            rl_discovery_ask_soon(topology, now_ns + LISTEN_AGAIN_NS);
        } else {
            char error[RL_ERROR_SIZE];
            snprintf(error, sizeof error, "%s", rl_connection_error(discovery));
            lose_discovery(topology, error, now_ns);
        }
    }
}

bool rl_discovery_is_needed(const rl_topology *topology)
{
    return topology->first != NULL &&
           (topology->known ? topology->stale : topology->first_waiting != NULL);
}

static bool must_ask(const rl_topology *topology, int64_t now_ns)
{
    return rl_discovery_is_needed(topology) && now_ns >= topology->ask_at_ns &&
           now_ns >= topology->rest_ns;
}

void rl_discovery_follow(rl_topology *topology, int64_t now_ns)
{
    if (topology->options.kind == RL_STANDALONE) {
        return;
    }
    /* One that listens cannot be asked again. */
    if (topology->discovery_listens && must_ask(topology, now_ns)) {
        close_discovery(topology);
    }
    size_t tries = discovery_candidates(topology);
    do {
        if (topology->discovery == NULL) {
            if (!must_ask(topology, now_ns)) {
                return;
            }
            topology->discovery = rl_topology_connect(
                topology, discovery_server(topology, topology->discovery_index), true, now_ns);
            topology->discovery_serial = topology->connections++;
            if (topology->discovery == NULL) {
                lose_discovery(topology, "out of memory", now_ns);
                return;
            }
        } else if (!topology->discovery_ready &&
                   now_ns < rl_connection_deadline_ns(topology->discovery) &&
                   rl_connection_state_of(topology->discovery) == RL_CONNECTION_READY) {
            return;
        }
        serve_discovery(topology, now_ns);
    } while (topology->discovery == NULL && tries-- > 0);
}
