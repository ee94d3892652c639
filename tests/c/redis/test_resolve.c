/* test_resolve.c -- looking up names: descriptors, also those of a child forked during a look-up. */
#include <dirent.h>
#include <netdb.h>
#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "redis/resolve.h"

static atomic_bool hangs;

/* In place of the one of the C library: a name service that does not answer, or has no address. */
int getaddrinfo(const char *restrict node, const char *restrict service,
                const struct addrinfo *restrict hints, struct addrinfo **restrict result)
{
    (void)node;
    (void)service;
    (void)hints;
    *result = NULL;
    while (atomic_load(&hangs)) {
        usleep(1000);
    }
    return EAI_NONAME;
}

static int count_descriptors(void)
{
    int n = 0;
    DIR *folder = opendir("/dev/fd");
    CHECK(folder != NULL);
    while (folder != NULL && readdir(folder) != NULL) {
        n++;
    }
    closedir(folder);
    return n;
}

/* The thread may be the last one to leave a question, and then it closes the descriptor. */
static void wait_for_descriptors(int n)
{
    for (int i = 0; i < 60000 && count_descriptors() != n; i++) {
        usleep(1000);
    }
    CHECK_EQUAL(count_descriptors(), n);
}

static void wait_for_answer(const rl_resolve *question)
{
    const char *reason = NULL;
    struct pollfd answer = {.fd = rl_resolve_fd(question), .events = POLLIN};
    CHECK(poll(&answer, 1, 60000) > 0);
    const rl_addresses *found = rl_resolve_answer(question, &reason);
    CHECK(found != NULL && found->n == 0 && reason != NULL);
}

static void test_answer(void)
{
    const rl_server server = {"name.invalid", 6379};
    int before = count_descriptors();
    rl_resolve *question = rl_resolve_start(&server);
    CHECK(question != NULL);
    wait_for_answer(question);
    rl_resolve_free(question);
    wait_for_descriptors(before);
}

static void test_fork(bool answered)
{
    const rl_server server = {"name.invalid", 6379};
    int before = count_descriptors();
    atomic_store(&hangs, !answered);
    rl_resolve *question = rl_resolve_start(&server);
    CHECK(question != NULL);
    if (answered) {
        wait_for_answer(question);
    }
    pid_t child = fork();
    if (child == 0) {
        rl_resolve_free(question);
        _exit(count_descriptors() == before ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQUAL(status, 0);
    atomic_store(&hangs, false);
    wait_for_answer(question);
    rl_resolve_free(question);
    wait_for_descriptors(before);
}

int main(void)
{
    test_answer();
    test_fork(false);
    test_fork(true);
    return report("resolve");
}
