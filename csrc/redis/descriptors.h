/* redis/descriptors.h -- descriptors that no other program inherits.
 *
 * Another thread may start a program at any time, so a descriptor is made with FD_CLOEXEC where the
 * system can do that in one call. */
#ifndef RL_REDIS_DESCRIPTORS_H
#define RL_REDIS_DESCRIPTORS_H

#include <stdbool.h>

/* Open a pipe: read end, write end. False, with errno set: there is none, and both are -1. */
bool rl_pipe_open(int *ends, bool blocks);

/* Open a non-blocking stream socket. -1, with errno set: there is none. */
int rl_socket_open(int family);

/* Close one, if it is open, and set it to -1. */
void rl_descriptor_close(int *fd);

#endif
