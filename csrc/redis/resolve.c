#include "redis/resolve.h"

#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/alloc.h"
#include "redis/descriptors.h"

struct rl_resolve {
    atomic_int owners; /* the caller and the thread: the last one frees */
    atomic_bool answered;
    int pipe[2];   /* the thread closes the write end when it has the answer */
    pid_t process; /* where the thread is */
    rl_server server;
    int error; /* of getaddrinfo; this and `addresses` are valid when answered */
    rl_addresses addresses;
};

static void copy_addresses(const struct addrinfo *found, rl_addresses *out)
{
    out->n = 0;
    for (; found != NULL && out->n < RL_ADDRESSES_MAX; found = found->ai_next) {
        if (found->ai_addrlen <= sizeof out->list[0].address) {
            memcpy(&out->list[out->n].address, found->ai_addr, found->ai_addrlen);
            out->list[out->n++].len = found->ai_addrlen;
        }
    }
}

static int resolve_look_up(const rl_server *server, int flags, rl_addresses *out)
{
    char port[8];
    snprintf(port, sizeof port, "%u", (unsigned)server->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int error = getaddrinfo(server->host, port, &hints, &found);
    copy_addresses(found, out);
    if (found != NULL) {
        freeaddrinfo(found);
    }
    return error;
}

bool rl_resolve_literal(const rl_server *server, rl_addresses *out)
{
    if (server->port != 0) {
        return resolve_look_up(server, AI_NUMERICHOST, out) == 0;
    }
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    size_t len = strlen(server->host);
    out->n = len < sizeof path.sun_path; /* 0 if too long: connecting then fails */
    if (out->n != 0) {
        memcpy(path.sun_path, server->host, len + 1);
        memcpy(&out->list[0].address, &path, sizeof path);
        out->list[0].len = sizeof path;
    }
    return true;
}

static void resolve_release(rl_resolve *question)
{
    if (atomic_fetch_sub(&question->owners, 1) == 1) {
        close(question->pipe[0]);
        rl_free(question);
    }
}

static void *resolve_run(void *argument)
{
    rl_resolve *question = argument;
    question->error = resolve_look_up(&question->server, 0, &question->addresses);
    atomic_store(&question->answered, true);
    close(question->pipe[1]);
    resolve_release(question);
    return NULL;
}

/* The thread blocks all signals, so no handler of the program runs in it. */
static int resolve_start_thread(rl_resolve *question)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, resolve_run, question);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) {
        pthread_detach(thread);
    }
    return error;
}

rl_resolve *rl_resolve_start(const rl_server *server)
{
    rl_resolve *question = rl_alloc_zeroed(sizeof *question);
    if (question == NULL) {
        return NULL;
    }
    question->server = *server;
    atomic_init(&question->owners, 2);
    atomic_init(&question->answered, false);
    question->process = getpid();
    if (!rl_pipe_open(question->pipe, true)) {
        goto fail;
    }
    if (resolve_start_thread(question) != 0) {
        close(question->pipe[0]);
        close(question->pipe[1]);
        goto fail;
    }
    return question;
fail:
    rl_free(question);
    return NULL;
}

int rl_resolve_fd(const rl_resolve *question)
{
    return question->pipe[0];
}

const rl_addresses *rl_resolve_answer(const rl_resolve *question, const char **reason)
{
    if (!atomic_load(&question->answered)) {
        return NULL;
    }
    *reason = question->error != 0 ? gai_strerror(question->error) : "it has no address";
    return &question->addresses;
}

/* In a forked child the thread does not exist. If it has answered, it has closed the pipe. */
static void resolve_free_in_child(rl_resolve *question)
{
    if (!atomic_load(&question->answered)) {
        close(question->pipe[1]);
    }
    close(question->pipe[0]);
    rl_free(question);
}

void rl_resolve_free(rl_resolve *question)
{
    if (question != NULL && question->process != getpid()) {
        resolve_free_in_child(question);
    } else if (question != NULL) {
        resolve_release(question);
    }
}
