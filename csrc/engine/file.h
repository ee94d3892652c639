/* engine/file.h -- files that processes map into their memory. */
#ifndef RL_ENGINE_FILE_H
#define RL_ENGINE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* Return true for a plain file of this user on which others have none of the rights in `denied`. */
bool rl_file_is_own(const struct stat *file, mode_t denied);

/* Make a file `bytes` long and reserve its space, so that no write to the mapping raises SIGBUS
 * later because the file system is full. Return 0, or -1 with errno set and a file of any length
 * up to that. A signal does not end it. */
int rl_file_reserve(int fd, size_t bytes);

#endif
