#include "engine/shared.h"

#ifdef __linux__

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/alloc.h"
#include "engine/shard.h"

/* "rltable" and the number of the layout. */
#define MAGIC (UINT64_C(0x00656c6261746c72) | ((uint64_t)('0' + RL_SHARED_LAYOUT) << 56))
#define BOOT_ID_SIZE 40
#define PAGE 4096

/* Two limits are the same if these are equal. */
typedef struct limit_mark {
    double capacity;
    double refill_rate;
    int64_t window_ns;
    int64_t kind;
} limit_mark;

/* At the beginning of a file. All but the secret must be equal when it is opened again. */
typedef struct header {
    _Atomic uint64_t magic; /* written last */
    char boot_id[BOOT_ID_SIZE];
    uint64_t shard_size;
    uint64_t n_shards;
    uint64_t lines_max;
    uint64_t line_words;
    uint64_t n_limits;
    limit_mark limits[RL_LIMITS_MAX];
    rl_secret secret;
} header;

_Static_assert(sizeof(header) <= PAGE, "the header has a page");

static size_t shards_bytes(const rl_table *plan)
{
    size_t bytes = rl_table_shards(plan) * sizeof(shard);
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

static size_t file_bytes(const rl_table *plan)
{
    return PAGE + shards_bytes(plan) + rl_table_shards(plan) * lines_bytes(plan, plan->lines_max);
}

/* A host's clock restarts when it boots, so the counts must restart as well. */
static void read_boot_id(char *boot_id)
{
    memset(boot_id, 0, BOOT_ID_SIZE);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t len = read(fd, boot_id, BOOT_ID_SIZE - 1);
        if (len < 0) {
            boot_id[0] = 0;
        }
        close(fd);
    }
}

static void shared_describe(const rl_table *plan, header *out)
{
    memset(out, 0, sizeof *out);
    read_boot_id(out->boot_id);
    out->shard_size = sizeof(shard);
    out->n_shards = rl_table_shards(plan);
    out->lines_max = plan->lines_max;
    out->line_words = plan->line_words;
    out->n_limits = plan->set.n;
    for (size_t i = 0; i < plan->set.n; i++) {
        const rl_limit *limit = &plan->set.limits[i];
        out->limits[i] = (limit_mark){limit->capacity, limit->refill_rate, limit->window_ns,
                                      (int64_t)limit->kind};
    }
}

static bool shared_is_same(const header *found, const header *wanted)
{
    return found->shard_size == wanted->shard_size && found->n_shards == wanted->n_shards &&
           found->lines_max == wanted->lines_max && found->line_words == wanted->line_words &&
           found->n_limits == wanted->n_limits &&
           memcmp(found->limits, wanted->limits, sizeof found->limits) == 0;
}

static bool init_locks(rl_table *table)
{
    pthread_mutexattr_t shared;
    if (pthread_mutexattr_init(&shared) != 0) {
        return false;
    }
    bool ok = pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED) == 0 &&
              pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST) == 0;
    for (size_t i = 0; ok && i < rl_table_shards(table); i++) {
        table->shards[i].n_lines = table->lines_max;
        ok = pthread_mutex_init(&table->shards[i].lock, &shared) == 0;
    }
    pthread_mutexattr_destroy(&shared);
    return ok;
}

static void point_into(rl_table *table, void *mapping, size_t bytes)
{
    char *base = mapping;
    table->mapping = mapping;
    table->mapping_bytes = bytes;
    table->shards = (shard *)(void *)(base + PAGE);
    table->region = (uint64_t *)(void *)(base + PAGE + shards_bytes(table));
}

static void shared_unmap(rl_table *table)
{
    munmap(table->mapping, table->mapping_bytes);
    table->mapping = NULL;
}

/* Fill a new file, with the entries of `from` if there is one. */
static rl_shared_status shared_fill(rl_table *table, header *wanted, rl_table *from, rl_time now)
{
    if (from != NULL) {
        wanted->secret = from->secret; /* the tags of the entries depend on it */
    } else if (rl_secret_init(&wanted->secret) != RL_OK) {
        return RL_SHARED_ERANDOM;
    }
    if (!init_locks(table)) {
        return RL_SHARED_ESYSTEM;
    }
    header *found = table->mapping;
    memcpy(found, wanted, sizeof *wanted);
    if (from != NULL && rl_table_copy(from, table, now) != RL_OK) {
        return RL_SHARED_ENOMEM;
    }
    atomic_store(&found->magic, MAGIC);
    return RL_SHARED_OK;
}

static bool shared_is_as_large(const rl_table *one, const rl_table *other)
{
    return one->shard_bits == other->shard_bits && one->lines_max == other->lines_max &&
           one->line_words == other->line_words;
}

/* With the file's lock: fill an empty file, or check the present content. */
static rl_shared_status shared_attach(int fd, bool is_new, rl_table *table, rl_table *from,
                                      rl_time now)
{
    size_t bytes = file_bytes(table);
    header wanted;
    shared_describe(table, &wanted);
    /* Reserve the space now: on a full file system a decision would raise SIGBUS later. */
    int refused = is_new ? posix_fallocate(fd, 0, (off_t)bytes) : 0;
    if (refused != 0) {
        errno = refused;
        return RL_SHARED_ESYSTEM;
    }
    void *mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED) {
        return RL_SHARED_ESYSTEM;
    }
    point_into(table, mapping, bytes);
    table->unmap = shared_unmap;
    header *found = mapping;
    if (is_new) {
        rl_shared_status status = shared_fill(table, &wanted, from, now);
        if (status != RL_SHARED_OK) {
            return status;
        }
    } else if (!shared_is_same(found, &wanted)) {
        return RL_SHARED_EOTHER;
    }
    table->secret = found->secret;
    return RL_SHARED_OK;
}

/* Return true if the file must be filled: it is empty, half made, or from before the last boot. */
static rl_shared_status shared_inspect(int fd, size_t bytes, bool *is_new)
{
    struct stat found;
    header head;
    char boot_id[BOOT_ID_SIZE];
    if (fstat(fd, &found) != 0) {
        return RL_SHARED_ESYSTEM;
    }
    if (!S_ISREG(found.st_mode) || found.st_uid != geteuid() || (found.st_mode & 077) != 0) {
        return RL_SHARED_EOWNER;
    }
    *is_new = found.st_size == 0;
    if (*is_new) {
        return RL_SHARED_OK;
    }
    if (pread(fd, &head, sizeof head, 0) != (ssize_t)sizeof head ||
        (head.magic != MAGIC && head.magic != 0)) {
        return RL_SHARED_EOTHER;
    }
    read_boot_id(boot_id);
    if (head.magic == 0 || memcmp(head.boot_id, boot_id, BOOT_ID_SIZE) != 0) {
        *is_new = true;
        return ftruncate(fd, 0) == 0 ? RL_SHARED_OK : RL_SHARED_ESYSTEM;
    }
    return (size_t)found.st_size == bytes ? RL_SHARED_OK : RL_SHARED_EOTHER;
}

rl_shared_status rl_shared_open(const char *path, const rl_limit *limits, size_t n_limits,
                                size_t max_keys, rl_table *from, rl_time now, rl_table **out)
{
    rl_table plan;
    rl_table_plan(&plan, limits, n_limits, max_keys);
    *out = NULL;
    if (from != NULL && !shared_is_as_large(&plan, from)) {
        return RL_SHARED_EOTHER;
    }
    rl_table *table = rl_alloc_zeroed(sizeof *table);
    if (table == NULL) {
        return RL_SHARED_ENOMEM;
    }
    *table = plan;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool is_new = false;
    rl_shared_status status = RL_SHARED_ESYSTEM;
    if (fd >= 0 && flock(fd, LOCK_EX) == 0) {
        status = shared_inspect(fd, file_bytes(table), &is_new);
        if (status == RL_SHARED_OK) {
            status = shared_attach(fd, is_new, table, from, now);
        }
        if (status != RL_SHARED_OK && is_new) {
            int kept = errno;
            if (ftruncate(fd, 0) != 0) {
                kept = errno;
            }
            errno = kept;
        }
    }
    int kept = errno;
    if (fd >= 0) {
        flock(fd, LOCK_UN); /* the mapping keeps the file open, and with it the lock */
        close(fd);
    }
    if (status != RL_SHARED_OK) {
        if (table->mapping != NULL) {
            shared_unmap(table);
        }
        rl_free(table);
        table = NULL;
    }
    errno = kept;
    *out = table;
    return status;
}

#else

rl_shared_status rl_shared_open(const char *path, const rl_limit *limits, size_t n_limits,
                                size_t max_keys, rl_table *from, rl_time now, rl_table **out)
{
    (void)path, (void)limits, (void)n_limits, (void)max_keys, (void)from, (void)now;
    *out = NULL;
    return RL_SHARED_ENOWHERE;
}

#endif
