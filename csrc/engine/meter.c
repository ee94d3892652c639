#include "engine/meter.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/file.h"

/* "meter", the number of the layout and the number of bounds. */
#define MAGIC (UINT64_C(0x726574656d000000) | RL_METER_LAYOUT << 8 | RL_METER_BOUNDS)

#define US INT64_C(1000)
#define MS INT64_C(1000000)

const int64_t rl_meter_bounds_ns[RL_METER_BOUNDS] = {
    500,    1 * US,  10 * US, 100 * US, 250 * US, 500 * US, 1 * MS,    2500 * US,
    5 * MS, 10 * MS, 25 * MS, 50 * MS,  100 * MS, 250 * MS, 1000 * MS,
};

/* A file of zeros is a new meter, so opening one waits for no other process. */
typedef struct meter_file {
    _Atomic uint64_t magic; /* 0 before it has been opened */
    rl_meter meter;
} meter_file;

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2,
               "processes cannot share a lock that is not in the file");

static rl_meter_status meter_inspect(const char *path, int fd)
{
    struct stat found;
    if (fstat(fd, &found) != 0) {
        return RL_METER_ESYSTEM;
    }
    if (!rl_file_is_own(&found, 022)) {
        return RL_METER_EOWNER;
    }
    if (found.st_size == 0) {
        if (rl_file_reserve(fd, sizeof(meter_file)) != 0) {
            int kept = errno;
            unlink(path);
            errno = kept;
            return RL_METER_ESYSTEM;
        }
        return RL_METER_OK;
    }
    return found.st_size == sizeof(meter_file) ? RL_METER_OK : RL_METER_EOTHER;
}

static rl_meter_status meter_attach(int fd, rl_meter **out)
{
    meter_file *file = mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (file == MAP_FAILED) {
        return RL_METER_ESYSTEM;
    }
    uint64_t none = 0;
    if (!atomic_compare_exchange_strong(&file->magic, &none, MAGIC) && none != MAGIC) {
        munmap(file, sizeof *file);
        return RL_METER_EOTHER;
    }
    *out = &file->meter;
    return RL_METER_OK;
}

rl_meter_status rl_meter_open(const char *path, rl_meter **out)
{
    *out = NULL;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return RL_METER_ESYSTEM;
    }
    rl_meter_status status = meter_inspect(path, fd);
    if (status == RL_METER_OK) {
        status = meter_attach(fd, out);
    }
    int kept = errno;
    close(fd);
    errno = kept;
    return status;
}

void rl_meter_close(rl_meter *meter)
{
    if (meter != NULL) {
        meter_file *file = (meter_file *)(void *)((char *)meter - offsetof(meter_file, meter));
        munmap(file, sizeof *file);
    }
}
