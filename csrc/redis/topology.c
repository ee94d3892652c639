/* topology.c -- sending calls to the nodes of a topology, and reading their answers. */
#include "redis/topology.h"

#include <string.h>

#include "engine/alloc.h"
#include "redis/cluster.h"
#include "redis/discovery.h"
#include "redis/nodes.h"
#include "redis/pending_calls.h"
#include "redis/topology_state.h"

/* How long to wait for a slot that is being moved. */
#define TRY_AGAIN_NS (5 * RL_MS)
/* How often a step may try to connect. */
#define ROUNDS_MAX 10

rl_topology *rl_topology_new(const rl_options *options, rl_tls *tls)
{
    rl_topology *topology = rl_alloc_zeroed(sizeof *topology);
    if (topology == NULL) {
        return NULL;
    }
    topology->options = *options;
    topology->tls = tls;
    if (!rl_nodes_init(topology)) {
        rl_topology_free(topology);
        return NULL;
    }
    return topology;
}

void rl_topology_free(rl_topology *topology)
{
    if (topology != NULL) {
        rl_discovery_close(topology);
        rl_nodes_free(topology);
        rl_free(topology);
    }
}

/* ---- sending ----------------------------------------------------------------- */

static rl_fault send_asking(rl_topology *topology, rl_connection *redis, int64_t now_ns)
{
    const char *text = "ASKING";
    size_t len = 6;
    uint64_t number;
    rl_fault fault =
        rl_connection_send(redis, &(rl_arguments){1, &text, &len}, topology, now_ns, &number);
    if (fault == RL_FAULT_NONE) {
        rl_connection_forget(redis, number);
    }
    return fault;
}

static int64_t earlier_ns(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A first call had longer to be sent, see rl_topology_timeout_ns. */
static void set_deadline_of_answer(rl_topology *topology, rl_call *call, int64_t now_ns)
{
    int64_t last_ns = topology->settled ? call->deadline_ns
                                        : call->submitted_ns + rl_topology_timeout_ns(topology);
    rl_call_set_deadline(topology, call,
                         earlier_ns(last_ns, now_ns + topology->options.timeout_ns));
}

static void send_call(rl_topology *topology, rl_call *call, size_t i, int64_t now_ns)
{
    rl_connection *redis = topology->nodes[i].redis;
    rl_fault fault = call->ask >= 0 ? send_asking(topology, redis, now_ns) : RL_FAULT_NONE;
    if (fault == RL_FAULT_NONE) {
        fault = rl_connection_send(redis, &call->arguments, call, now_ns, &call->number);
    }
    switch (fault) {
    case RL_FAULT_NONE:
        rl_call_stop_waiting(topology, call);
        call->state = RL_CALL_SENT;
        call->node = (int)i;
        set_deadline_of_answer(topology, call, now_ns);
        break;
    case RL_FAULT_CONNECT: /* it has ended; the next step connects again */
        break;
    case RL_FAULT_BUSY:
        rl_call_finish(topology, call, NULL, fault, "too many calls wait for an answer already");
        break;
    default:
        rl_call_finish(topology, call, NULL, fault, "out of memory");
    }
}

/* A slot without a node may soon be served by another server. */
static void mark_unrouted(rl_topology *topology, const rl_call *call, int64_t now_ns)
{
    if (topology->known && call->not_before_ns == 0) {
        rl_nodes_mark_stale(topology, now_ns);
    }
}

static void topology_dispatch(rl_topology *topology, int64_t now_ns)
{
    rl_call *next;
    for (rl_call *call = topology->first_waiting; call != NULL; call = next) {
        next = call->next_waiting;
        if (call->not_before_ns <= now_ns) {
            call->not_before_ns = 0; /* has passed: no longer a deadline */
        }
        int i = rl_nodes_route(topology, call);
        call->node = i;
        if (i < 0 || call->not_before_ns != 0) {
            mark_unrouted(topology, call, now_ns);
            continue;
        }
        rl_node *to = &topology->nodes[i];
        if (to->redis == NULL && !rl_nodes_connect(topology, (size_t)i, now_ns)) {
            rl_call_finish(topology, call, NULL, RL_FAULT_NOMEM, "out of memory");
            continue;
        }
        if (rl_nodes_is_ready(to)) {
            send_call(topology, call, (size_t)i, now_ns);
        }
    }
}

int64_t rl_topology_timeout_ns(const rl_topology *topology)
{
    const rl_options *options = &topology->options;
    bool longer = !topology->settled && options->connect_timeout_ns > options->timeout_ns;
    return longer ? options->connect_timeout_ns : options->timeout_ns;
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
    call->postponed = false;
    call->ask = -1;
    call->node = -1;
    call->slot = -1;
    call->submitted_ns = now_ns;
    call->not_before_ns = 0;
    if (topology->slots != NULL && call->key != 0) {
        call->slot =
            rl_cluster_slot(call->arguments.texts[call->key], call->arguments.lens[call->key]);
    }
    if (call->script != NULL) {
        fill_script(call, false);
    }
    rl_call_add(topology, call);
    /* The usual case: no other call waits, and the connection is ready. */
    int i = topology->first_waiting == call ? rl_nodes_route(topology, call) : -1;
    if (i >= 0 && rl_nodes_is_ready(&topology->nodes[i])) {
        send_call(topology, call, (size_t)i, now_ns);
    }
}

void rl_topology_flush(rl_topology *topology)
{
    for (size_t i = 0; i < topology->n_nodes; i++) {
        if (topology->nodes[i].redis != NULL) {
            rl_connection_flush(topology->nodes[i].redis);
        }
    }
}

/* ---- answers ------------------------------------------------------------------- */

static bool error_begins_with(const redisReply *reply, const char *word)
{
    return strncmp(reply->str, word, strlen(word)) == 0;
}

/* The error of the command that failed. Up to Redis 6 the error of a script contains it. */
static bool command_error_begins_with(const redisReply *reply, const char *word)
{
    bool of_script = error_begins_with(reply, "ERR Error running script");
    const char *inner = of_script ? strstr(reply->str, ": -") : NULL;
    return strncmp(inner != NULL ? inner + 3 : reply->str, word, strlen(word)) == 0;
}

/* Such as a former master. Its address may lead to another server by now. */
static bool server_is_unfit(const redisReply *reply)
{
    static const char *const words[] = {"READONLY", "MASTERDOWN", "NOREPLICAS", "LOADING"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (command_error_begins_with(reply, words[i])) {
            return true;
        }
    }
    return false;
}

static bool topology_redirect(rl_topology *topology, rl_call *call, const redisReply *reply,
                              int64_t now_ns)
{
    bool moved = error_begins_with(reply, "MOVED ");
    rl_server to;
    int slot;
    if (topology->slots == NULL || (!moved && !error_begins_with(reply, "ASK ")) ||
        !rl_cluster_redirection(reply->str + (moved ? 6 : 4), &topology->nodes[call->node].server,
                                &slot, &to)) {
        return false;
    }
    int i = rl_nodes_find(topology, &to);
    if (i < 0) {
        return false;
    }
    topology->nodes[i].used = true;
    if (moved) {
        topology->slots[slot] = (uint16_t)i;
        rl_nodes_mark_stale(topology, now_ns);
    }
    call->ask = moved ? -1 : i;
    call->node = i;
    rl_call_try_again(topology, call, 0, RL_FAULT_ANSWER, reply->str);
    return true;
}

/* Try a command again that was not executed. False: the error is its answer. */
static bool topology_recover(rl_topology *topology, rl_call *call, const redisReply *reply,
                             int64_t now_ns)
{
    if (call->script != NULL && error_begins_with(reply, "NOSCRIPT")) {
        fill_script(call, true);
        rl_call_try_again(topology, call, 0, RL_FAULT_ANSWER, reply->str);
        return true;
    }
    if (topology_redirect(topology, call, reply, now_ns)) {
        return true;
    }
    if (topology->slots != NULL && error_begins_with(reply, "TRYAGAIN")) {
        rl_call_postpone(topology, call, now_ns + TRY_AGAIN_NS, reply->str);
        return true;
    }
    if (server_is_unfit(reply)) {
        topology->nodes[call->node].retired = true;
    }
    if (topology->options.kind == RL_SENTINEL && command_error_begins_with(reply, "READONLY")) {
        topology->known = false;
        rl_nodes_mark_stale(topology, now_ns);
        rl_call_try_again(topology, call, now_ns + RL_ASK_AGAIN_NS, RL_FAULT_ANSWER, reply->str);
        return true;
    }
    if (error_begins_with(reply, "CLUSTERDOWN") || command_error_begins_with(reply, "READONLY")) {
        rl_nodes_mark_stale(topology, now_ns + RL_ASK_AGAIN_NS);
    }
    return false;
}

static void node_read_answers(rl_topology *topology, rl_node *from, int64_t now_ns)
{
    void *owner;
    redisReply *reply;
    while (rl_connection_next(from->redis, &owner, &reply)) {
        rl_call *call = owner;
        if (reply->type != REDIS_REPLY_ERROR) {
            rl_call_finish(topology, call, reply, RL_FAULT_NONE, NULL);
            continue;
        }
        if (!topology_recover(topology, call, reply, now_ns)) {
            rl_call_finish(topology, call, NULL, RL_FAULT_ANSWER, reply->str);
        }
        freeReplyObject(reply);
    }
}

/* ---- nodes --------------------------------------------------------------------- */

static void serve_node(rl_topology *topology, size_t i, int64_t now_ns)
{
    rl_node *each = &topology->nodes[i];
    bool due = each->ready || now_ns >= rl_connection_deadline_ns(each->redis) ||
               rl_connection_state_of(each->redis) != RL_CONNECTION_READY;
    if (due) {
        each->ready = false;
        rl_connection_step(each->redis, now_ns);
        node_read_answers(topology, each, now_ns);
    }
    if (rl_connection_state_of(each->redis) == RL_CONNECTION_FAILED ||
        rl_nodes_is_idle(topology, i)) {
        rl_nodes_drop(topology, i, now_ns);
    }
}

/* ---- descriptors, steps and deadlines ------------------------------------------- */

void rl_topology_mark(rl_topology *topology, int fd)
{
    for (size_t i = 0; i < topology->n_nodes; i++) {
        rl_node *each = &topology->nodes[i];
        if (each->redis != NULL && rl_connection_fd(each->redis) == fd) {
            each->ready = true;
            return;
        }
    }
    if (topology->discovery.redis != NULL && rl_connection_fd(topology->discovery.redis) == fd) {
        topology->discovery.ready = true;
    }
}

/* Serve the connections that are opening or have ended. Return true if calls can go on: one is
 * ready now, or gone. */
static bool serve_unready_nodes(rl_topology *topology, int64_t now_ns)
{
    bool changed = false;
    for (size_t i = 0; i < topology->n_nodes; i++) {
        rl_node *each = &topology->nodes[i];
        if (each->redis != NULL && rl_connection_state_of(each->redis) != RL_CONNECTION_READY) {
            serve_node(topology, i, now_ns);
            changed = changed || each->redis == NULL || rl_nodes_is_ready(each);
        }
    }
    return changed;
}

/* A new connection begins at once. It fails at once where no server listens, and is ready at once
 * on a unix socket. Then there is more to send, maybe on yet another connection. */
static void dispatch_all(rl_topology *topology, int64_t now_ns)
{
    for (int round = 0; topology->first_waiting != NULL && round < ROUNDS_MAX; round++) {
        topology_dispatch(topology, now_ns);
        if (!serve_unready_nodes(topology, now_ns)) {
            return;
        }
    }
}

void rl_topology_step(rl_topology *topology, int64_t now_ns)
{
    for (size_t i = 0; i < topology->n_nodes; i++) {
        if (topology->nodes[i].redis != NULL) {
            serve_node(topology, i, now_ns);
        }
    }
    rl_discovery_step(topology, now_ns);
    if (rl_call_expire_all(topology, now_ns) && topology->slots != NULL) {
        rl_nodes_mark_stale(topology, now_ns + RL_DOUBT_NS);
    }
    dispatch_all(topology, now_ns);
    rl_topology_flush(topology);
}

static size_t topology_add_want(rl_want *wants, size_t n, const rl_connection *redis,
                                uint64_t serial)
{
    if (redis != NULL && rl_connection_fd(redis) >= 0) {
        wants[n++] = (rl_want){rl_connection_fd(redis), rl_connection_wants(redis),
                               (serial << 16) + rl_connection_generation(redis)};
    }
    return n;
}

size_t rl_topology_wants(const rl_topology *topology, rl_want *wants)
{
    size_t n = 0;
    for (size_t i = 0; i < topology->n_nodes; i++) {
        n = topology_add_want(wants, n, topology->nodes[i].redis, topology->nodes[i].serial);
    }
    return topology_add_want(wants, n, topology->discovery.redis, topology->discovery.serial);
}

void rl_topology_resume(rl_topology *topology, int64_t away_ns)
{
    for (size_t i = 0; i < topology->n_nodes; i++) {
        if (topology->nodes[i].redis != NULL) {
            rl_connection_resume(topology->nodes[i].redis, away_ns);
        }
    }
    if (topology->discovery.redis != NULL) {
        rl_connection_resume(topology->discovery.redis, away_ns);
    }
}

int64_t rl_topology_deadline_ns(const rl_topology *topology)
{
    int64_t deadline_ns = topology->first != NULL ? topology->first->deadline_ns : INT64_MAX;
    for (size_t i = 0; i < topology->n_nodes; i++) {
        if (topology->nodes[i].redis != NULL) {
            deadline_ns =
                earlier_ns(deadline_ns, rl_connection_deadline_ns(topology->nodes[i].redis));
        }
    }
    if (topology->discovery.redis != NULL) {
        deadline_ns = earlier_ns(deadline_ns, rl_connection_deadline_ns(topology->discovery.redis));
    } else if (rl_discovery_is_needed(topology)) {
        int64_t ask_ns = topology->ask_at_ns;
        deadline_ns =
            earlier_ns(deadline_ns, ask_ns > topology->rest_ns ? ask_ns : topology->rest_ns);
    }
    for (const rl_call *call = topology->first_waiting; call != NULL; call = call->next_waiting) {
        if (call->not_before_ns != 0) {
            deadline_ns = earlier_ns(deadline_ns, call->not_before_ns);
        }
    }
    return deadline_ns;
}

bool rl_topology_waits(const rl_topology *topology)
{
    return topology->first_waiting != NULL || topology->finished != NULL;
}

rl_server rl_topology_server_of(const rl_topology *topology, const char *key, size_t len)
{
    rl_call call = {.ask = -1, .slot = topology->slots != NULL ? rl_cluster_slot(key, len) : -1};
    return rl_call_server(topology, rl_nodes_route(topology, &call));
}

size_t rl_topology_servers(const rl_topology *topology, rl_server *servers)
{
    size_t n = 0;
    if (topology->slots == NULL || !topology->known) {
        return 0;
    }
    for (size_t i = 0; i < topology->n_nodes; i++) {
        if (topology->nodes[i].used) {
            servers[n++] = topology->nodes[i].server;
        }
    }
    if (!rl_nodes_serve_all(topology)) {
        servers[n++] = rl_call_server(topology, -1);
    }
    return n;
}

size_t rl_topology_calls(const rl_topology *topology)
{
    return topology->n_calls;
}
