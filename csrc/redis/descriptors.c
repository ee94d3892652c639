#define _GNU_SOURCE /* pipe2 */

#include "redis/descriptors.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#if !defined(__linux__)
static bool descriptor_prepare(int fd, bool blocks)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 &&
           (blocks || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
}
#endif

bool rl_pipe_open(int *ends, bool blocks)
{
    ends[0] = ends[1] = -1;
#if defined(__linux__)
    return pipe2(ends, O_CLOEXEC | (blocks ? 0 : O_NONBLOCK)) == 0;
#else
    if (pipe(ends) != 0) {
        return false;
    }
    if (descriptor_prepare(ends[0], blocks) && descriptor_prepare(ends[1], blocks)) {
        return true;
    }
    rl_descriptor_close(&ends[0]);
    rl_descriptor_close(&ends[1]);
    return false;
#endif
}

int rl_socket_open(int family)
{
#if defined(__linux__)
    return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
#else
    int fd = socket(family, SOCK_STREAM, 0);
    if (fd >= 0 && !descriptor_prepare(fd, false)) {
        rl_descriptor_close(&fd);
    }
    return fd;
#endif
}

void rl_descriptor_close(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}
