#include "engine/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
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

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2,
               "processes cannot share a lock that is not in the file");

static rl_file_status file_check(const char *path, int fd, size_t bytes)
{
    struct stat found;
    if (fstat(fd, &found) != 0) {
        return RL_FILE_ESYSTEM;
    }
    if (!rl_file_is_own(&found, 022)) {
        return RL_FILE_EOWNER;
    }
    if (found.st_size == 0) {
        if (rl_file_reserve(fd, bytes) != 0) {
            int kept = errno;
            unlink(path);
            errno = kept;
            return RL_FILE_ESYSTEM;
        }
        return RL_FILE_OK;
    }
    return found.st_size == (off_t)bytes ? RL_FILE_OK : RL_FILE_EOTHER;
}

static rl_file_status file_attach(int fd, uint64_t magic, size_t bytes, void **out)
{
    void *mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED) {
        return RL_FILE_ESYSTEM;
    }
    uint64_t none = 0;
    if (!atomic_compare_exchange_strong((_Atomic uint64_t *)mapping, &none, magic) &&
        none != magic) {
        munmap(mapping, bytes);
        return RL_FILE_EOTHER;
    }
    *out = mapping;
    return RL_FILE_OK;
}

rl_file_status rl_file_map(const char *path, uint64_t magic, size_t bytes, void **out)
{
    *out = NULL;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return RL_FILE_ESYSTEM;
    }
    rl_file_status status = file_check(path, fd, bytes);
    if (status == RL_FILE_OK) {
        status = file_attach(fd, magic, bytes, out);
    }
    int kept = errno;
    close(fd);
    errno = kept;
    return status;
}

void rl_file_unmap(void *mapping, size_t bytes)
{
    if (mapping != NULL) {
        munmap(mapping, bytes);
    }
}
