#include "rl_topology.h"

#include <stdio.h>
#include <string.h>

#include "rl_alloc.h"
#include "rl_cluster.h"

#define TRIES_MAX 8
#define UNKNOWN_NODE UINT16_MAX
#define MS INT64_C(1000000)
/* How long to wait before asking again: who is master, and a slot that moves. */
#define ASK_AGAIN_NS (50 * MS)
#define TRY_AGAIN_NS (5 * MS)
#define LISTEN_AGAIN_NS (1000 * MS)

typedef struct node {
    rl_server server;
    rl_redis *redis; /* owned; NULL: not connected */
    uint64_t serial; /* of the connection */
    bool ready;      /* its descriptor is */
    bool used;       /* by the map of the cluster */
} node;

struct rl_topology {
    rl_options options;
    const rl_tls *tls; /* borrowed; NULL: not encrypted */
    node *nodes;       /* owned; room for one, or RL_NODES_MAX in a cluster */
    size_t n_nodes;
    uint16_t *slots; /* owned; NULL but in a cluster */

    bool known;         /* we know where to send calls; */
    bool stale;         /* and should ask whether that has changed, */
    int64_t ask_at_ns;  /* not before this time, */
    int64_t rest_ns;    /* nor before this one: the last answer is fresh */
    rl_redis *guide;    /* owned; the connection on which we ask; NULL: none */
    uint64_t guide_serial;
    uint64_t connections; /* how many there have been */
    bool guide_ready;   /* its descriptor is */
    bool guide_asked;   /* the question is on its way */
    bool guide_listens; /* a sentinel that will tell of a new master */
    size_t guide_index; /* whom we ask */
    size_t guide_tries; /* how many did not know */

    rl_call *first, *last; /* all calls that are not done, the oldest first */
    size_t n_calls;
    rl_call *first_waiting, *last_waiting;
    rl_call *finished, *last_finished;
};

rl_topology *rl_topology_new(const rl_options *options, const rl_tls *tls)
{
    rl_topology *topology = rl_alloc_zeroed(sizeof *topology);
    if (topology == NULL) {
        return NULL;
    }
    bool cluster = options->kind == RL_CLUSTER;
    topology->options = *options;
    topology->tls = tls;
    topology->nodes = rl_alloc_zeroed((cluster ? RL_NODES_MAX : 1) * sizeof *topology->nodes);
    topology->slots = cluster ? rl_alloc_zeroed(RL_SLOTS * sizeof *topology->slots) : NULL;
    if (topology->nodes == NULL || (cluster && topology->slots == NULL)) {
        rl_topology_free(topology);
        return NULL;
    }
    if (cluster) {
        memset(topology->slots, 0xff, RL_SLOTS * sizeof *topology->slots);
    } else {
        topology->n_nodes = 1;
        topology->nodes[0] = (node){.server = options->servers[0], .used = true};
    }
    topology->known = options->kind == RL_STANDALONE;
    return topology;
}

void rl_topology_free(rl_topology *topology)
{
    if (topology != NULL) {
        for (size_t i = 0; i < topology->n_nodes; i++) {
            rl_redis_free(topology->nodes[i].redis);
        }
        rl_redis_free(topology->guide);
        rl_free(topology->nodes);
        rl_free(topology->slots);
        rl_free(topology);
    }
}

/* ---- the lists of calls ------------------------------------------------------ */

static void start_waiting(rl_topology *topology, rl_call *call)
{
    call->state = RL_CALL_WAITING;
    call->next_waiting = NULL;
    call->previous_waiting = topology->last_waiting;
    *(topology->last_waiting != NULL ? &topology->last_waiting->next_waiting
                                     : &topology->first_waiting) = call;
    topology->last_waiting = call;
}

static void stop_waiting(rl_topology *topology, rl_call *call)
{
    *(call->previous_waiting != NULL ? &call->previous_waiting->next_waiting
                                     : &topology->first_waiting) = call->next_waiting;
    *(call->next_waiting != NULL ? &call->next_waiting->previous_waiting
                                 : &topology->last_waiting) = call->previous_waiting;
}

static void take_out(rl_topology *topology, rl_call *call)
{
    if (call->state == RL_CALL_WAITING) {
        stop_waiting(topology, call);
    } else if (call->state == RL_CALL_SENT && topology->nodes[call->node].redis != NULL) {
        rl_redis_forget(topology->nodes[call->node].redis, call->number);
    }
    *(call->previous != NULL ? &call->previous->next : &topology->first) = call->next;
    *(call->next != NULL ? &call->next->previous : &topology->last) = call->previous;
    topology->n_calls--;
}

void rl_topology_forget(rl_topology *topology, rl_call *call)
{
    if (call->state == RL_CALL_WAITING || call->state == RL_CALL_SENT) {
        take_out(topology, call);
        call->state = RL_CALL_IDLE;
    }
}

/* `reply` becomes the caller's. */
static void finish(rl_topology *topology, rl_call *call, redisReply *reply, rl_fault fault,
                   const char *error)
{
    take_out(topology, call);
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

/* It has not been executed, so it may be sent again: now, or after a pause. */
static void try_again(rl_topology *topology, rl_call *call, int64_t not_before_ns,
                      const char *error)
{
    if (++call->tries > TRIES_MAX) {
        finish(topology, call, NULL, RL_FAULT_ANSWER, error);
        return;
    }
    call->not_before_ns = not_before_ns;
    start_waiting(topology, call);
}

static void expire(rl_topology *topology, int64_t now_ns)
{
    while (topology->first != NULL && topology->first->deadline_ns <= now_ns) {
        char error[RL_ERROR_SIZE];
        const rl_call *call = topology->first;
        bool sent = call->state == RL_CALL_SENT;
        const rl_server *server = sent ? &topology->nodes[call->node].server
                                       : &topology->options.servers[0];
        snprintf(error, sizeof error, "%s %.150s:%u within %lld ms",
                 sent ? "no answer from" : "no connection to", server->host,
                 (unsigned)server->port, (long long)(topology->options.timeout_ns / MS));
        finish(topology, topology->first, NULL, RL_FAULT_TIMEOUT, error);
    }
}

/* ---- what we know ------------------------------------------------------------- */

static void ask_soon(rl_topology *topology, int64_t ask_at_ns)
{
    if (topology->options.kind != RL_STANDALONE) {
        if (!topology->stale || ask_at_ns < topology->ask_at_ns) {
            topology->ask_at_ns = ask_at_ns;
        }
        topology->stale = true;
    }
}

/* ---- sending ----------------------------------------------------------------- */

static rl_redis *connect_to(const rl_topology *topology, const rl_server *server, bool is_guide,
                            int64_t now_ns)
{
    const rl_options *options = &topology->options;
    bool is_sentinel = is_guide && options->kind == RL_SENTINEL;
    rl_redis_config config = {
        .server = *server,
        .credentials = is_sentinel ? options->sentinel : options->redis,
        .database = is_sentinel ? 0 : options->database,
        .must_be_master = options->kind == RL_SENTINEL && !is_guide,
        .tls = topology->tls,
        /* A guide that is silent must leave time for the next one. */
        .connect_timeout_ns = options->connect_timeout_ns / (is_guide ? 4 : 1),
    };
    memcpy(config.client_name, options->client_name, sizeof config.client_name);
    return rl_redis_new(&config, now_ns);
}

/* Where the call goes; -1: not known yet. */
static int route(const rl_topology *topology, const rl_call *call)
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

static rl_fault send_asking(rl_topology *topology, rl_redis *redis, int64_t now_ns)
{
    const char *text = "ASKING";
    size_t len = 6;
    uint64_t number;
    rl_fault fault = rl_redis_send(redis, &(rl_arguments){1, &text, &len}, topology, now_ns, &number);
    if (fault == RL_FAULT_NONE) {
        rl_redis_forget(redis, number);
    }
    return fault;
}

static void send_call(rl_topology *topology, rl_call *call, size_t i, int64_t now_ns)
{
    rl_redis *redis = topology->nodes[i].redis;
    rl_fault fault = call->ask >= 0 ? send_asking(topology, redis, now_ns) : RL_FAULT_NONE;
    if (fault == RL_FAULT_NONE) {
        fault = rl_redis_send(redis, &call->arguments, call, now_ns, &call->number);
    }
    switch (fault) {
    case RL_FAULT_NONE:
        stop_waiting(topology, call);
        call->state = RL_CALL_SENT;
        call->node = i;
        call->ask = -1;
        break;
    case RL_FAULT_CONNECT: /* it has ended; the next step connects anew */
        break;
    case RL_FAULT_BUSY:
        finish(topology, call, NULL, fault, "too many calls wait for an answer already");
        break;
    default:
        finish(topology, call, NULL, fault, "out of memory");
    }
}

/* A slot that nobody serves may soon be served by another server. */
static void ask_where(rl_topology *topology, const rl_call *call, int64_t now_ns)
{
    if (topology->known && call->not_before_ns <= now_ns) {
        ask_soon(topology, now_ns);
    }
}

static void dispatch(rl_topology *topology, int64_t now_ns)
{
    rl_call *next;
    for (rl_call *call = topology->first_waiting; call != NULL; call = next) {
        next = call->next_waiting;
        int i = call->not_before_ns <= now_ns ? route(topology, call) : -1;
        if (i < 0) {
            ask_where(topology, call, now_ns);
            continue;
        }
        node *to = &topology->nodes[i];
        if (to->redis == NULL) {
            to->redis = connect_to(topology, &to->server, false, now_ns);
            to->serial = topology->connections++;
            if (to->redis == NULL) {
                finish(topology, call, NULL, RL_FAULT_NOMEM, "out of memory");
                continue;
            }
        }
        if (rl_redis_state_of(to->redis) == RL_REDIS_READY) {
            send_call(topology, call, (size_t)i, now_ns);
        }
    }
}

static void fill_script(rl_call *call, bool whole)
{
    const rl_script *script = call->script;
    const char **texts = call->arguments.texts;
    size_t *lens = (size_t *)call->arguments.lens;
    texts[0] = whole ? "EVAL" : "EVALSHA";
    lens[0] = strlen(texts[0]);
    texts[1] = whole ? script->body : script->sha1;
    lens[1] = whole ? script->body_len : 40;
}

void rl_topology_submit(rl_topology *topology, rl_call *call, int64_t now_ns)
{
    call->fault = RL_FAULT_NONE;
    call->reply = NULL;
    call->tries = 0;
    call->ask = -1;
    call->slot = -1;
    call->not_before_ns = 0;
    if (topology->slots != NULL && call->key != 0) {
        call->slot =
            rl_cluster_slot(call->arguments.texts[call->key], call->arguments.lens[call->key]);
    }
    if (call->script != NULL) {
        fill_script(call, false);
    }
    call->next = NULL;
    call->previous = topology->last;
    *(topology->last != NULL ? &topology->last->next : &topology->first) = call;
    topology->last = call;
    topology->n_calls++;
    start_waiting(topology, call);
    /* The way is clear, nearly always: nobody waits, and there is a connection. */
    int i = topology->first_waiting == call ? route(topology, call) : -1;
    if (i >= 0 && topology->nodes[i].redis != NULL &&
        rl_redis_state_of(topology->nodes[i].redis) == RL_REDIS_READY) {
        send_call(topology, call, (size_t)i, now_ns);
    }
}

void rl_topology_flush(rl_topology *topology)
{
    for (size_t i = 0; i < topology->n_nodes; i++) {
        if (topology->nodes[i].redis != NULL) {
            rl_redis_flush(topology->nodes[i].redis);
        }
    }
}

/* ---- the map: who is master, who has which slot -------------------------------- */

/* -1: there is no room for one more. */
static int find_node(rl_topology *topology, const rl_server *server)
{
    int unused = -1;
    for (size_t i = 0; i < topology->n_nodes; i++) {
        const node *each = &topology->nodes[i];
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
    topology->nodes[unused] = (node){.server = *server, .used = true};
    return unused;
}

static bool read_slots(rl_topology *topology, const redisReply *reply, const rl_server *from)
{
    bool any = false;
    if (reply->type != REDIS_REPLY_ARRAY) {
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
            at = find_node(topology, &range.master);
        }
        if (at < 0) {
            continue;
        }
        topology->nodes[at].used = true;
        any = true;
        for (int slot = range.first; slot <= range.last; slot++) {
            topology->slots[slot] = (uint16_t)at;
        }
    }
    return any;
}

static void drop_node(rl_topology *topology, size_t i, int64_t now_ns);

static void set_master(rl_topology *topology, const rl_server *server, int64_t now_ns)
{
    node *master = &topology->nodes[0];
    if (master->server.port != server->port || strcmp(master->server.host, server->host) != 0) {
        drop_node(topology, 0, now_ns);
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

/* ---- the guide ----------------------------------------------------------------- */

static size_t guides(const rl_topology *topology)
{
    size_t known = topology->slots != NULL ? topology->n_nodes : 0;
    return known + topology->options.n_servers;
}

static const rl_server *guide_server(const rl_topology *topology, size_t index)
{
    size_t i = index % guides(topology);
    size_t n = topology->options.n_servers;
    return i < n ? &topology->options.servers[i] : &topology->nodes[i - n].server;
}

static void close_guide(rl_topology *topology)
{
    rl_redis_free(topology->guide);
    topology->guide = NULL;
    topology->guide_asked = false;
    topology->guide_listens = false;
}

/* The guide did not help. Ask the next; when none is left, nobody knows. */
static void lose_guide(rl_topology *topology, const char *error, int64_t now_ns)
{
    char message[RL_ERROR_SIZE];
    snprintf(message, sizeof message, "no %s knows the %s; %.180s",
             topology->slots != NULL ? "node" : "sentinel",
             topology->slots != NULL ? "cluster" : "master", error);
    close_guide(topology);
    topology->guide_index++;
    if (++topology->guide_tries < guides(topology)) {
        return;
    }
    topology->guide_tries = 0;
    topology->stale = true;
    topology->rest_ns = now_ns + ASK_AGAIN_NS;
    while (!topology->known && topology->first_waiting != NULL) {
        finish(topology, topology->first_waiting, NULL, RL_FAULT_CONNECT, message);
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
    if (rl_redis_send(topology->guide, &(rl_arguments){n, texts, lens}, topology, now_ns,
                      &number) == RL_FAULT_NONE) {
        topology->guide_asked = true;
        rl_redis_flush(topology->guide);
    }
}

/* A sentinel tells by itself when there is another master. */
static void subscribe(rl_topology *topology, int64_t now_ns)
{
    const char *texts[] = {"SUBSCRIBE", "+switch-master"};
    const size_t lens[] = {9, 14};
    uint64_t number;
    if (rl_redis_send(topology->guide, &(rl_arguments){2, texts, lens}, topology, now_ns,
                      &number) == RL_FAULT_NONE) {
        rl_redis_forget(topology->guide, number);
        rl_redis_flush(topology->guide);
        rl_redis_listen(topology->guide);
        topology->guide_listens = true;
    }
}

static void read_answer(rl_topology *topology, const redisReply *reply, int64_t now_ns)
{
    bool good;
    if (topology->slots != NULL) {
        good = read_slots(topology, reply, rl_redis_server(topology->guide));
    } else {
        good = read_master(topology, reply, now_ns);
    }
    if (!good) {
        char error[RL_ERROR_SIZE];
        snprintf(error, sizeof error, "%.100s says: %.120s",
                 rl_redis_server(topology->guide)->host,
                 reply->type == REDIS_REPLY_ERROR ? reply->str : "nothing of it");
        lose_guide(topology, error, now_ns);
        return;
    }
    topology->known = true;
    topology->stale = false;
    topology->rest_ns = now_ns + ASK_AGAIN_NS;
    topology->guide_tries = 0;
    if (topology->slots != NULL) {
        close_guide(topology);
    } else {
        subscribe(topology, now_ns);
    }
}

static void serve_guide(rl_topology *topology, int64_t now_ns)
{
    rl_redis *guide = topology->guide;
    rl_redis_step(guide, now_ns);
    topology->guide_ready = false;
    if (rl_redis_state_of(guide) == RL_REDIS_READY && !topology->guide_asked) {
        send_question(topology, now_ns);
    }
    void *owner;
    redisReply *reply;
    while (topology->guide == guide && rl_redis_next(guide, &owner, &reply)) {
        if (owner != NULL) {
            read_answer(topology, reply, now_ns);
        } else {
            read_message(topology, reply, now_ns);
        }
        freeReplyObject(reply);
    }
    if (topology->guide == guide && rl_redis_state_of(guide) == RL_REDIS_FAILED) {
        if (topology->guide_listens) {
            close_guide(topology);
            topology->guide_index++;
            ask_soon(topology, now_ns + LISTEN_AGAIN_NS);
        } else {
            char error[RL_ERROR_SIZE];
            snprintf(error, sizeof error, "%s", rl_redis_error(guide));
            lose_guide(topology, error, now_ns);
        }
    }
}

static bool must_ask(const rl_topology *topology, int64_t now_ns)
{
    bool needed = topology->known ? topology->stale : topology->first_waiting != NULL;
    return needed && now_ns >= topology->ask_at_ns && now_ns >= topology->rest_ns;
}

static void follow_guide(rl_topology *topology, int64_t now_ns)
{
    if (topology->options.kind == RL_STANDALONE) {
        return;
    }
    /* One that listens cannot be asked again. */
    if (topology->guide_listens && must_ask(topology, now_ns)) {
        close_guide(topology);
    }
    size_t tries = guides(topology);
    do {
        if (topology->guide == NULL) {
            if (!must_ask(topology, now_ns)) {
                return;
            }
            topology->guide = connect_to(
                topology, guide_server(topology, topology->guide_index), true, now_ns);
            topology->guide_serial = topology->connections++;
            if (topology->guide == NULL) {
                lose_guide(topology, "out of memory", now_ns);
                return;
            }
        } else if (!topology->guide_ready && now_ns < rl_redis_deadline_ns(topology->guide) &&
                   rl_redis_state_of(topology->guide) == RL_REDIS_READY) {
            return;
        }
        serve_guide(topology, now_ns);
    } while (topology->guide == NULL && tries-- > 0);
}

/* ---- answers ------------------------------------------------------------------- */

static bool says(const redisReply *reply, const char *word)
{
    return strncmp(reply->str, word, strlen(word)) == 0;
}

static bool redirect(rl_topology *topology, rl_call *call, const redisReply *reply, int64_t now_ns)
{
    bool moved = says(reply, "MOVED ");
    rl_server to;
    int slot;
    if (topology->slots == NULL || (!moved && !says(reply, "ASK ")) ||
        !rl_cluster_redirection(reply->str + (moved ? 6 : 4), &topology->nodes[call->node].server,
                                &slot, &to)) {
        return false;
    }
    int i = find_node(topology, &to);
    if (i < 0) {
        return false;
    }
    topology->nodes[i].used = true;
    if (moved) {
        topology->slots[slot] = (uint16_t)i;
        ask_soon(topology, now_ns);
    } else {
        call->ask = i;
    }
    try_again(topology, call, 0, reply->str);
    return true;
}

/* An error that is no verdict on the command: it was not executed. */
static bool recover(rl_topology *topology, rl_call *call, const redisReply *reply, int64_t now_ns)
{
    if (call->script != NULL && says(reply, "NOSCRIPT")) {
        fill_script(call, true);
        try_again(topology, call, 0, reply->str);
        return true;
    }
    if (redirect(topology, call, reply, now_ns)) {
        return true;
    }
    if (says(reply, "TRYAGAIN")) {
        try_again(topology, call, now_ns + TRY_AGAIN_NS, reply->str);
        return true;
    }
    if (topology->options.kind == RL_SENTINEL && says(reply, "READONLY")) {
        topology->known = false;
        ask_soon(topology, now_ns);
        try_again(topology, call, now_ns + ASK_AGAIN_NS, reply->str);
        return true;
    }
    if (says(reply, "CLUSTERDOWN") || says(reply, "READONLY")) {
        ask_soon(topology, now_ns + ASK_AGAIN_NS);
    }
    return false;
}

static void take_answers(rl_topology *topology, node *from, int64_t now_ns)
{
    void *owner;
    redisReply *reply;
    while (rl_redis_next(from->redis, &owner, &reply)) {
        rl_call *call = owner;
        if (reply->type != REDIS_REPLY_ERROR) {
            finish(topology, call, reply, RL_FAULT_NONE, NULL);
            continue;
        }
        if (!recover(topology, call, reply, now_ns)) {
            finish(topology, call, NULL, RL_FAULT_ANSWER, reply->str);
        }
        freeReplyObject(reply);
    }
}

/* ---- connections that ended ------------------------------------------------------ */

static void drop_node(rl_topology *topology, size_t i, int64_t now_ns)
{
    node *lost = &topology->nodes[i];
    rl_redis *redis = lost->redis;
    if (redis == NULL) {
        return;
    }
    bool failed = rl_redis_state_of(redis) == RL_REDIS_FAILED;
    bool never_ready = failed && rl_redis_fault(redis) == RL_FAULT_CONNECT;
    const char *error = failed ? rl_redis_error(redis) : "there is another master";
    rl_redis_break(redis, "there is another master");
    void *owner;
    bool sent;
    while (rl_redis_lost(redis, &owner, &sent)) {
        if (sent) {
            rl_fault fault = failed ? rl_redis_fault(redis) : RL_FAULT_LOST;
            finish(topology, owner, NULL, fault, error);
        } else {
            try_again(topology, owner, 0, error);
        }
    }
    rl_call *next;
    for (rl_call *call = topology->first_waiting; never_ready && call != NULL; call = next) {
        next = call->next_waiting;
        if (route(topology, call) == (int)i) {
            finish(topology, call, NULL, RL_FAULT_CONNECT, error);
        }
    }
    rl_redis_free(redis);
    lost->redis = NULL;
    if (topology->options.kind == RL_SENTINEL && failed) {
        topology->known = false;
    }
    ask_soon(topology, never_ready ? now_ns + ASK_AGAIN_NS : now_ns);
}

static void serve_node(rl_topology *topology, size_t i, int64_t now_ns)
{
    node *each = &topology->nodes[i];
    bool due = each->ready || now_ns >= rl_redis_deadline_ns(each->redis) ||
               rl_redis_state_of(each->redis) != RL_REDIS_READY;
    if (due) {
        each->ready = false;
        rl_redis_step(each->redis, now_ns);
        take_answers(topology, each, now_ns);
    }
    bool idle = !each->used && rl_redis_waiting(each->redis) == 0;
    if (rl_redis_state_of(each->redis) == RL_REDIS_FAILED || idle) {
        drop_node(topology, i, now_ns);
    }
}

/* ---- what the owner calls ---------------------------------------------------------- */

void rl_topology_mark(rl_topology *topology, int fd)
{
    for (size_t i = 0; i < topology->n_nodes; i++) {
        node *each = &topology->nodes[i];
        if (each->redis != NULL && rl_redis_fd(each->redis) == fd) {
            each->ready = true;
            return;
        }
    }
    if (topology->guide != NULL && rl_redis_fd(topology->guide) == fd) {
        topology->guide_ready = true;
    }
}

void rl_topology_step(rl_topology *topology, int64_t now_ns)
{
    for (size_t i = 0; i < topology->n_nodes; i++) {
        if (topology->nodes[i].redis != NULL) {
            serve_node(topology, i, now_ns);
        }
    }
    follow_guide(topology, now_ns);
    expire(topology, now_ns);
    if (topology->first_waiting != NULL) {
        dispatch(topology, now_ns);
        /* A new connection begins at once, and fails at once where nobody listens. */
        for (size_t i = 0; i < topology->n_nodes; i++) {
            if (topology->nodes[i].redis != NULL &&
                rl_redis_state_of(topology->nodes[i].redis) != RL_REDIS_READY) {
                serve_node(topology, i, now_ns);
            }
        }
        dispatch(topology, now_ns);
    }
    rl_topology_flush(topology);
}

static size_t add_want(rl_want *wants, size_t n, const rl_redis *redis, uint64_t serial)
{
    if (redis != NULL && rl_redis_fd(redis) >= 0) {
        wants[n++] = (rl_want){rl_redis_fd(redis), rl_redis_wants(redis),
                               (serial << 16) + rl_redis_turn(redis)};
    }
    return n;
}

size_t rl_topology_wants(const rl_topology *topology, rl_want *wants)
{
    size_t n = 0;
    for (size_t i = 0; i < topology->n_nodes; i++) {
        n = add_want(wants, n, topology->nodes[i].redis, topology->nodes[i].serial);
    }
    return add_want(wants, n, topology->guide, topology->guide_serial);
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t rl_topology_deadline_ns(const rl_topology *topology)
{
    int64_t deadline_ns = topology->first != NULL ? topology->first->deadline_ns : INT64_MAX;
    for (size_t i = 0; i < topology->n_nodes; i++) {
        if (topology->nodes[i].redis != NULL) {
            deadline_ns = earlier(deadline_ns, rl_redis_deadline_ns(topology->nodes[i].redis));
        }
    }
    if (topology->guide != NULL) {
        deadline_ns = earlier(deadline_ns, rl_redis_deadline_ns(topology->guide));
    } else if (topology->stale || !topology->known) {
        if (topology->first != NULL) {
            int64_t ask_ns = topology->ask_at_ns;
            deadline_ns = earlier(deadline_ns, ask_ns > topology->rest_ns ? ask_ns : topology->rest_ns);
        }
    }
    for (const rl_call *call = topology->first_waiting; call != NULL; call = call->next_waiting) {
        if (call->not_before_ns != 0) {
            deadline_ns = earlier(deadline_ns, call->not_before_ns);
        }
    }
    return deadline_ns;
}

bool rl_topology_waits(const rl_topology *topology)
{
    return topology->first_waiting != NULL || topology->finished != NULL;
}

size_t rl_topology_calls(const rl_topology *topology)
{
    return topology->n_calls;
}
