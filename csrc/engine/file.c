#include "engine/file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define STEP ((size_t)1 << 20)

bool rl_file_is_own(const struct stat *file, mode_t denied)
{
    return S_ISREG(file->st_mode) && file->st_uid == geteuid() && (file->st_mode & denied) == 0;
}

static int reserve_range(int fd, size_t from, size_t bytes)
{
#ifdef __linux__
    errno = posix_fallocate(fd, (off_t)from, (off_t)bytes);
    return errno == 0 ? 0 : -1;
#else
    return ftruncate(fd, (off_t)(from + bytes));
#endif
}

/* A file system in memory gives up when a signal arrives, so a large file would never be made
 * while a profiler sends signals. A small part takes less time than they leave. */
static int reserve_in_steps(int fd, size_t bytes)
{
    for (size_t from = 0; from < bytes;) {
        size_t part = bytes - from < STEP ? bytes - from : STEP;
        if (reserve_range(fd, from, part) == 0) {
            from += part;
        } else if (errno != EINTR) {
            return -1;
        }
    }
    return 0;
}

int rl_file_reserve(int fd, size_t bytes)
{
    /* All at once first: too large a file is refused before any space is used. */
    if (reserve_range(fd, 0, bytes) == 0) {
        return 0;
    }
    return errno == EINTR ? reserve_in_steps(fd, bytes) : -1;
}
