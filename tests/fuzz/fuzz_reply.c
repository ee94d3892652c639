/* fuzz_reply.c -- any bytes as a server's answers, to a standalone, a Sentinel and a Cluster
 * client: it neither crashes nor spins, and each call ends.
 *
 * The first byte chooses the kind, the second how the rest is split. */
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "redis/topology.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MS INT64_C(1000000)
#define STEPS 60

static int listener = -1;
static char path[64];

static void listen_once(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (listener >= 0) {
        return;
    }
    snprintf(path, sizeof path, "/tmp/fuzz_reply.%ld", (long)getpid());
    unlink(path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 16) != 0) {
        abort();
    }
}

static void mark_all(rl_topology *topology)
{
    rl_want wants[RL_WANTS_MAX];
    size_t n = rl_topology_wants(topology, wants);
    for (size_t i = 0; i < n; i++) {
        rl_topology_mark(topology, wants[i].fd);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    listen_once();
    rl_options options = {.kind = (rl_topology_kind)(data[0] % 3), .n_servers = 1};
    strcpy(options.servers[0].host, path);
    strcpy(options.master_name, "mymaster");
    if (data[0] & 64) {
        strcpy(options.redis.password, "secret");
        strcpy(options.client_name, "fuzz");
    }
    options.timeout_ns = 20 * MS;
    options.connect_timeout_ns = 200 * MS;
    size_t piece = 1 + data[1] % 64;
    data += 2;
    size -= 2;

    rl_topology *topology = rl_topology_new(&options, NULL);
    const char *texts[2][4] = {{"", "", "1", "{k}"}, {"", "", "1", "{l}"}};
    size_t lens[2][4] = {{0, 0, 1, 3}, {0, 0, 1, 3}};
    const rl_script script = {"return 1", 8, "0123456789012345678901234567890123456789"};
    rl_call calls[2];
    memset(calls, 0, sizeof calls);
    int64_t now_ns = 1000 * MS;
    for (int i = 0; i < 2; i++) {
        calls[i].arguments = (rl_arguments){4, texts[i], lens[i]};
        calls[i].script = &script;
        calls[i].key = 3;
        calls[i].deadline_ns = now_ns + options.timeout_ns;
        rl_topology_submit(topology, &calls[i], now_ns);
    }
    int peers[64];
    int n_peers = 0;
    for (int step = 0; step < STEPS; step++) {
        now_ns += MS / 2;
        mark_all(topology);
        rl_topology_step(topology, now_ns);
        int peer = accept(listener, NULL, NULL);
        if (peer >= 0 && n_peers < 64) {
            peers[n_peers++] = peer;
        } else if (peer >= 0) {
            close(peer);
        }
        for (int i = 0; i < n_peers && size != 0; i++) {
            size_t len = size < piece ? size : piece;
            if (send(peers[i], data, len, MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
                data += len;
                size -= len;
            }
        }
        for (rl_call *done; (done = rl_topology_finished(topology)) != NULL;) {
            if (done->state != RL_CALL_DONE ||
                (done->fault == RL_FAULT_NONE) != (done->reply != NULL)) {
                abort();
            }
            if (done->reply != NULL) {
                freeReplyObject(done->reply);
            }
        }
    }
    now_ns += options.timeout_ns;
    rl_topology_step(topology, now_ns);
    for (rl_call *done; (done = rl_topology_finished(topology)) != NULL;) {
        if (done->reply != NULL) {
            freeReplyObject(done->reply);
        }
    }
    if (rl_topology_calls(topology) != 0) {
        abort(); /* each call ends at its deadline, at the latest */
    }
    rl_topology_free(topology);
    for (int i = 0; i < n_peers; i++) {
        close(peers[i]);
    }
    for (int peer; (peer = accept(listener, NULL, NULL)) >= 0;) {
        close(peer);
    }
    return 0;
}
