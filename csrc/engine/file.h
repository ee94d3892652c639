/* engine/file.h -- files that processes map into their memory. */
#ifndef RL_ENGINE_FILE_H
#define RL_ENGINE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* Return true for a plain file of this user on which others have none of the rights in `denied`. */
bool rl_file_is_own(const struct stat *file, mode_t denied);

/* Make a file `bytes` long and reserve its space, so that no write to the mapping raises SIGBUS
 * later because the file system is full. Return 0, or -1 with errno set and a file of any length
 * up to that. A signal does not end it. */
int rl_file_reserve(int fd, size_t bytes);

typedef enum rl_file_status {
    RL_FILE_OK,
    RL_FILE_ESYSTEM, /* see errno */
    RL_FILE_EOWNER,  /* not a plain file of this user that only this user can write */
    RL_FILE_EOTHER,  /* the file contains something else */
} rl_file_status;

/* Map a file of counts that all processes of a host share: `bytes` long, first a 64-bit `magic` that
 * names what it is and its layout. Make the file if it is missing; the rest of a new one is zeros, so
 * no process waits for another one to initialise it. Release with rl_file_unmap. Other than
 * RL_FILE_OK: *out is NULL, and no new file is left. */
rl_file_status rl_file_map(const char *path, uint64_t magic, size_t bytes, void **out);

/* Release a mapping of rl_file_map. NULL is fine. */
void rl_file_unmap(void *mapping, size_t bytes);

#endif
