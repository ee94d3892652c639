#include "redis/client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "engine/alloc.h"
#include "redis/descriptors.h"
#include "redis/tls.h"

#define NS_PER_MS INT64_C(1000000)

struct rl_client {
    rl_options options;
    rl_tls *tls;                  /* borrowed */
    pthread_mutex_t lock;         /* guards everything below */
    rl_topology *topology;        /* owned */
    bool led;                     /* a thread is the leader: it polls, or is about to */
    bool polling;                 /* the leader polls `polled`, without the lock */
    bool nudged;                  /* a byte for the leader is in the pipe */
    int64_t served_ns;            /* when the last leader stopped */
    int nudge[2];                 /* owned; a pipe that wakes the leader */
    rl_thread_call *first, *last; /* those whose threads sleep */
    size_t n_polled;
    rl_want polled[RL_WANTS_MAX];
    rl_want wanted[RL_WANTS_MAX];
    struct pollfd fds[RL_WANTS_MAX + 1]; /* used only by the leader while it polls */
};

/* ---- making, freeing, forking -------------------------------------------------- */

static void close_nudge(rl_client *client)
{
    rl_descriptor_close(&client->nudge[0]);
    rl_descriptor_close(&client->nudge[1]);
}

rl_client *rl_client_new(const rl_options *options, rl_tls *tls)
{
    rl_client *client = rl_alloc_zeroed(sizeof *client);
    if (client == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    client->options = *options;
    client->tls = tls;
    pthread_mutex_init(&client->lock, NULL);
    client->topology = rl_topology_new(options, tls);
    if (!rl_pipe_open(client->nudge, false) || client->topology == NULL) {
        int kept = client->topology == NULL ? ENOMEM : errno;
        rl_client_free(client);
        errno = kept;
        return NULL;
    }
    return client;
}

void rl_client_free(rl_client *client)
{
    if (client != NULL) {
        rl_topology_free(client->topology);
        close_nudge(client);
        pthread_mutex_destroy(&client->lock);
        rl_free(client);
    }
}

void rl_client_before_fork(rl_client *client)
{
    pthread_mutex_lock(&client->lock);
    if (client->tls != NULL) {
        rl_tls_before_fork(client->tls);
    }
}

static void client_unlock(rl_client *client)
{
    if (client->tls != NULL) {
        rl_tls_after_fork(client->tls);
    }
    pthread_mutex_unlock(&client->lock);
}

void rl_client_after_fork_in_parent(rl_client *client)
{
    client_unlock(client);
}

/* The forking thread may be waiting for a call below a signal handler, and goes on in the child.
 * The other threads do not exist there, so no thread is woken. */
static void client_lose_calls(rl_client *client)
{
    rl_call *lost;
    if (client->topology == NULL) {
        return;
    }
    rl_topology_lose_all(client->topology, "the process forked during the call");
    while ((lost = rl_topology_finished(client->topology)) != NULL) {
        ((rl_thread_call *)(void *)lost)->done = true;
    }
}

void rl_client_after_fork_in_child(rl_client *client)
{
    client_unlock(client);
    client_lose_calls(client);
    rl_topology_free(client->topology);
    client->topology = rl_topology_new(&client->options, client->tls);
    close_nudge(client);
    if (client->topology == NULL || !rl_pipe_open(client->nudge, false)) {
        rl_topology_free(client->topology);
        client->topology = NULL; /* calls fail with RL_FAULT_NOMEM */
    }
    client->led = client->polling = client->nudged = false;
    client->first = client->last = NULL;
}

/* ---- sleeping and waking --------------------------------------------------------- */

static void sleep_until(rl_client *client, rl_thread_call *call, int64_t until_ns)
{
    call->next = NULL;
    call->previous = client->last;
    *(client->last != NULL ? &client->last->next : &client->first) = call;
    client->last = call;
    rl_condition_wait(&call->wake, &client->lock, until_ns);
    *(call->previous != NULL ? &call->previous->next : &client->first) = call->next;
    *(call->next != NULL ? &call->next->previous : &client->last) = call->previous;
}

static void client_hand_on(const rl_client *client)
{
    if (!client->led && client->first != NULL) {
        pthread_cond_signal(&client->first->wake);
    }
}

/* ---- leading --------------------------------------------------------------------- */

static void wake_finished(rl_client *client)
{
    rl_call *finished;
    while ((finished = rl_topology_finished(client->topology)) != NULL) {
        rl_thread_call *call = (rl_thread_call *)(void *)finished; /* its first member */
        call->done = true;
        pthread_cond_signal(&call->wake);
    }
}

static int poll_timeout_ms(int64_t until_ns)
{
    int64_t left_ns = until_ns - rl_now_ns();
    if (left_ns <= 0) {
        return 0;
    }
    int64_t left_ms = (left_ns + NS_PER_MS - 1) / NS_PER_MS;
    return left_ms < 1000 ? (int)left_ms : 1000;
}

static void drain_nudge(rl_client *client)
{
    char bytes[16];
    while (read(client->nudge[0], bytes, sizeof bytes) > 0) {}
    client->nudged = false;
}

static void poll_all(rl_client *client, int64_t until_ns)
{
    int64_t deadline_ns = rl_topology_deadline_ns(client->topology);
    size_t n = rl_topology_wants(client->topology, client->polled);
    client->n_polled = n;
    for (size_t i = 0; i < n; i++) {
        unsigned wants = client->polled[i].wants;
        client->fds[i] = (struct pollfd){
            .fd = client->polled[i].fd,
            .events = (short)((wants & RL_WANT_READ ? POLLIN : 0) |
                              (wants & RL_WANT_WRITE ? POLLOUT : 0)),
        };
    }
    client->fds[n] = (struct pollfd){.fd = client->nudge[0], .events = POLLIN};
    client->polling = true;
    pthread_mutex_unlock(&client->lock);
    int ready = poll(client->fds, (nfds_t)(n + 1),
                     poll_timeout_ms(deadline_ns < until_ns ? deadline_ns : until_ns));
    pthread_mutex_lock(&client->lock);
    client->polling = false;
    for (size_t i = 0; ready > 0 && i < n; i++) {
        if (client->fds[i].revents != 0) {
            rl_topology_mark(client->topology, client->fds[i].fd);
        }
    }
    if (client->nudged) {
        drain_nudge(client);
    }
}

static void client_lead(rl_client *client, const rl_thread_call *call, int64_t until_ns)
{
    client->led = true;
    while (!call->done && rl_now_ns() < until_ns) {
        poll_all(client, until_ns);
        rl_topology_step(client->topology, rl_now_ns());
        wake_finished(client);
    }
    client->led = false;
    client->served_ns = rl_now_ns();
}

/* Wake the leader if it polls other descriptors or events than are wanted now. */
static void nudge_leader(rl_client *client)
{
    if (!client->polling || client->nudged) {
        return;
    }
    size_t n = rl_topology_wants(client->topology, client->wanted);
    if (n != client->n_polled || memcmp(client->wanted, client->polled, n * sizeof(rl_want)) != 0) {
        client->nudged = write(client->nudge[1], "", 1) == 1;
    }
}

/* ---- calls ----------------------------------------------------------------------- */

void rl_client_submit(rl_client *client, rl_thread_call *call)
{
    call->done = false;
    rl_condition_init(&call->wake);
    pthread_mutex_lock(&client->lock);
    int64_t now_ns = rl_now_ns();
    if (client->topology == NULL) {
        call->call.fault = RL_FAULT_NOMEM;
        strcpy(call->call.error, "no memory or file descriptor was left after a fork");
        call->done = true;
    } else {
        if (!client->led) {
            rl_topology_resume(client->topology, now_ns - client->served_ns);
        }
        call->call.deadline_ns = now_ns + rl_topology_timeout_ns(client->topology);
        rl_topology_submit(client->topology, &call->call, now_ns);
        if (call->call.state == RL_CALL_SENT) {
            rl_topology_flush(client->topology);
        } else {
            rl_topology_step(client->topology, now_ns);
            wake_finished(client);
        }
        nudge_leader(client);
    }
    pthread_mutex_unlock(&client->lock);
}

bool rl_client_wait(rl_client *client, rl_thread_call *call, int64_t most_ns)
{
    pthread_mutex_lock(&client->lock);
    int64_t until_ns = rl_now_ns() + most_ns;
    while (!call->done && rl_now_ns() < until_ns) {
        if (client->led) {
            sleep_until(client, call, until_ns);
        } else {
            client_lead(client, call, until_ns);
        }
    }
    bool done = call->done;
    client_hand_on(client);
    pthread_mutex_unlock(&client->lock);
    if (done) {
        pthread_cond_destroy(&call->wake);
    }
    return done;
}

void rl_client_leave(rl_client *client, rl_thread_call *call)
{
    pthread_mutex_lock(&client->lock);
    if (client->topology != NULL && !call->done) {
        rl_topology_forget(client->topology, &call->call);
    }
    client_hand_on(client);
    pthread_mutex_unlock(&client->lock);
    if (call->call.reply != NULL) {
        freeReplyObject(call->call.reply);
        call->call.reply = NULL;
    }
    pthread_cond_destroy(&call->wake);
}

/* ---- the map --------------------------------------------------------------------- */

rl_server rl_client_server_of(rl_client *client, const char *key, size_t len)
{
    rl_server server = {{0}, 0};
    pthread_mutex_lock(&client->lock);
    if (client->topology != NULL) {
        server = rl_topology_server_of(client->topology, key, len);
    }
    pthread_mutex_unlock(&client->lock);
    return server;
}

size_t rl_client_servers(rl_client *client, rl_server *servers)
{
    pthread_mutex_lock(&client->lock);
    size_t n = client->topology != NULL ? rl_topology_servers(client->topology, servers) : 0;
    pthread_mutex_unlock(&client->lock);
    return n;
}
