#include "engine/shared.h"

#ifdef __linux__

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/alloc.h"
#include "engine/blocks.h"
#include "engine/file.h"
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
    uint8_t kind;
    uint8_t unit;
    uint8_t starts_first;
    uint8_t counts_denied;
    uint8_t none[4];
} limit_mark;

/* At the beginning of a file. All but the secret and what follows must be equal when it is opened again. */
typedef struct header {
    _Atomic uint64_t magic; /* written last */
    char boot_id[BOOT_ID_SIZE];
    uint64_t shard_size;
    uint64_t n_shards;
    uint64_t lines_min;
    uint64_t lines_max;
    uint64_t line_words;
    uint64_t n_limits;
    limit_mark limits[RL_LIMITS_MAX];
    rl_secret secret;
    uint64_t order;                   /* random */
    _Atomic int64_t blocked_until_ns; /* changes later, see engine/blocks.h */
} header;

_Static_assert(sizeof(header) <= PAGE, "the header has a page");

static size_t shards_bytes(const rl_table *plan)
{
    size_t bytes = rl_table_shards(plan) * sizeof(shard);
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

/* The shards and the lines of a table, or of its blocks, in whole pages. */
static size_t part_bytes(const rl_table *plan)
{
    size_t lines = rl_table_shards(plan) * lines_bytes(plan, plan->lines_max);
    return shards_bytes(plan) + (lines + PAGE - 1) / PAGE * PAGE;
}

static size_t file_bytes(const rl_table *plan)
{
    return PAGE + part_bytes(plan) + part_bytes(atomic_load(&plan->blocks));
}

/* A host's clock restarts when it boots, so the counts must restart as well. */
static rl_shared_status read_boot_id(char *boot_id)
{
    memset(boot_id, 0, BOOT_ID_SIZE);
    int fd = open(RL_BOOT_ID_PATH, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return RL_SHARED_EBOOT;
    }
    ssize_t len = read(fd, boot_id, BOOT_ID_SIZE - 1);
    int kept = len == 0 ? ENODATA : errno;
    close(fd);
    errno = kept;
    return len > 0 ? RL_SHARED_OK : RL_SHARED_EBOOT;
}

/* What the header of a file for this table must be, but for the magic number and the secret. */
static rl_shared_status shared_describe(const rl_table *plan, header *out)
{
    memset(out, 0, sizeof *out);
    out->shard_size = sizeof(shard);
    out->n_shards = rl_table_shards(plan);
    out->lines_min = plan->lines_min;
    out->lines_max = plan->lines_max;
    out->line_words = plan->line_words;
    out->n_limits = plan->set.n;
    for (size_t i = 0; i < plan->set.n; i++) {
        const rl_limit *limit = &plan->set.limits[i];
        out->limits[i] = (limit_mark){
            .capacity = limit->capacity,
            .refill_rate = limit->refill_rate,
            .window_ns = limit->window_ns,
            .kind = (uint8_t)limit->kind, /* first, as in files of an earlier version */
            .unit = limit->calendar,
            .starts_first = limit->starts_first,
            .counts_denied = limit->counts_denied,
        };
    }
    return read_boot_id(out->boot_id);
}

static bool shared_is_same(const header *found, const header *wanted)
{
    return found->shard_size == wanted->shard_size && found->n_shards == wanted->n_shards &&
           found->lines_min == wanted->lines_min && found->lines_max == wanted->lines_max &&
           found->line_words == wanted->line_words && found->n_limits == wanted->n_limits &&
           memcmp(found->limits, wanted->limits, sizeof found->limits) == 0;
}

static void point_part_into(rl_table *table, char *base)
{
    table->shards = (shard *)(void *)base;
    table->region = (uint64_t *)(void *)(base + shards_bytes(table));
}

static void point_into(rl_table *table, void *mapping, size_t bytes)
{
    char *base = mapping;
    rl_table *blocks = atomic_load(&table->blocks);
    table->mapping = mapping;
    table->mapping_bytes = bytes;
    table->blocked_until_ns = &((header *)mapping)->blocked_until_ns;
    point_part_into(table, base + PAGE);
    point_part_into(blocks, base + PAGE + part_bytes(table));
    blocks->secret = table->secret;
}

static void shared_unmap(rl_table *table)
{
    munmap(table->mapping, table->mapping_bytes);
    table->mapping = NULL;
}

static rl_shared_status shared_map(int fd, rl_table *table)
{
    size_t bytes = file_bytes(table);
    void *mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED) {
        return RL_SHARED_ESYSTEM;
    }
    point_into(table, mapping, bytes);
    table->unmap = shared_unmap;
    return RL_SHARED_OK;
}

/* What rl_shared_open is asked for. */
typedef struct shared_request {
    const char *path;
    header wanted;
    rl_table *table;
    rl_table *from; /* whose keys a new file starts with; NULL: none */
    rl_time now;
} shared_request;

static bool shared_has_as_many_lines(const rl_table *one, const rl_table *other)
{
    return one->shard_bits == other->shard_bits && one->lines_min == other->lines_min &&
           one->lines_max == other->lines_max;
}

/* Make the table in an empty file: the locks of the shards, and everything else, start as 0. */
static rl_shared_status shared_fill(int fd, shared_request *request)
{
    rl_table *table = request->table;
    if (request->from != NULL) {
        table->secret = request->from->secret; /* the tags of the entries depend on it */
    } else if (rl_secret_init(&table->secret) != RL_OK) {
        return RL_SHARED_ERANDOM;
    }
    rl_secret order;
    if (rl_secret_init(&order) != RL_OK) {
        return RL_SHARED_ERANDOM;
    }
    table->order = order.k0;
    request->wanted.secret = table->secret;
    request->wanted.order = table->order;
    if (rl_file_reserve(fd, file_bytes(table)) != 0) {
        return RL_SHARED_ESYSTEM;
    }
    rl_shared_status status = shared_map(fd, table);
    if (status != RL_SHARED_OK) {
        return status;
    }
    header *made = table->mapping;
    memcpy(made, &request->wanted, sizeof request->wanted);
    if (request->from != NULL) {
        rl_table_copy(request->from, table, request->now); /* a file needs no memory for it */
    }
    atomic_store(&made->magic, MAGIC);
    return RL_SHARED_OK;
}

static rl_shared_status shared_make(int fd, shared_request *request)
{
    rl_shared_status status = shared_fill(fd, request);
    if (status != RL_SHARED_OK) { /* a part may have been reserved */
        int kept = errno;
        unlink(request->path);
        errno = kept;
    }
    return status;
}

/* ---- the file -------------------------------------------------------------------- */

/* What to do with a file that was found. */
typedef enum shared_found { FOUND_EMPTY, FOUND_TABLE, FOUND_OLD, FOUND_OTHER } shared_found;

/* A file that was not finished has no magic number yet. Neither it nor one from before the last
 * boot is of use. Its bytes may still be mapped, if they are not what they seem. */
static shared_found shared_inspect(const struct stat *file, int fd, const header *wanted,
                                   size_t bytes, header *found)
{
    if (file->st_size == 0) {
        return FOUND_EMPTY;
    }
    if (pread(fd, found, sizeof *found, 0) != (ssize_t)sizeof *found ||
        (found->magic != MAGIC && found->magic != 0)) {
        return FOUND_OTHER;
    }
    if (found->magic == 0 || memcmp(found->boot_id, wanted->boot_id, BOOT_ID_SIZE) != 0) {
        return FOUND_OLD;
    }
    bool is_same = (size_t)file->st_size == bytes && shared_is_same(found, wanted);
    return is_same ? FOUND_TABLE : FOUND_OTHER;
}

/* Lock the file that a descriptor refers to. Only opening takes this lock, not deciding. */
static rl_shared_status shared_lock_file(int fd, struct stat *file)
{
    if (fstat(fd, file) != 0) {
        return RL_SHARED_ESYSTEM;
    }
    if (!rl_file_is_own(file, 077)) {
        return RL_SHARED_EOWNER;
    }
    if (flock(fd, LOCK_EX) != 0) {
        return errno == EINTR ? RL_SHARED_EINTR : RL_SHARED_ESYSTEM;
    }
    return fstat(fd, file) == 0 ? RL_SHARED_OK : RL_SHARED_ESYSTEM; /* its size now */
}

static bool is_at_path(const struct stat *file, const char *path)
{
    struct stat found;
    return lstat(path, &found) == 0 && found.st_dev == file->st_dev && found.st_ino == file->st_ino;
}

/* Use, make or remove the file of a descriptor. *again: it is no longer at the path. */
static rl_shared_status shared_use(int fd, shared_request *request, bool *again)
{
    rl_table *table = request->table;
    struct stat file;
    header found;
    rl_shared_status status = shared_lock_file(fd, &file);
    if (status != RL_SHARED_OK) {
        return status;
    }
    *again = !is_at_path(&file, request->path);
    if (*again) {
        return RL_SHARED_OK;
    }
    switch (shared_inspect(&file, fd, &request->wanted, file_bytes(table), &found)) {
    case FOUND_EMPTY:
        return shared_make(fd, request);
    case FOUND_TABLE:
        table->secret = found.secret;
        table->order = found.order;
        return shared_map(fd, table);
    case FOUND_OLD:
        *again = true;
        return unlink(request->path) == 0 ? RL_SHARED_OK : RL_SHARED_ESYSTEM;
    default:
        return RL_SHARED_EOTHER;
    }
}

/* Open or make the file, and map it into the table. */
static rl_shared_status shared_attach(shared_request *request)
{
    rl_shared_status status = RL_SHARED_OK;
    bool again = true;
    while (again && status == RL_SHARED_OK) {
        int fd = open(request->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) {
            return errno == EINTR ? RL_SHARED_EINTR : RL_SHARED_ESYSTEM;
        }
        status = shared_use(fd, request, &again);
        int kept = errno;
        flock(fd, LOCK_UN); /* the mapping keeps the file open, and with it the lock */
        close(fd);
        errno = kept;
    }
    return status;
}

rl_shared_status rl_shared_open(const char *path, const rl_limit *limits, size_t n_limits,
                                size_t max_keys, rl_table *from, rl_time now, rl_table **out)
{
    *out = NULL;
    rl_table *table = rl_alloc_zeroed(sizeof *table);
    rl_table *blocks = rl_alloc_zeroed(sizeof *blocks);
    if (table == NULL || blocks == NULL) {
        rl_free(table);
        rl_free(blocks);
        return RL_SHARED_ENOMEM;
    }
    rl_table_plan(table, limits, n_limits, max_keys);
    rl_blocks_plan(blocks, max_keys);
    atomic_store(&table->blocks, blocks);
    shared_request request = {.path = path, .table = table, .from = from, .now = now};
    rl_shared_status status = RL_SHARED_EOTHER;
    if (from == NULL || shared_has_as_many_lines(table, from)) {
        status = shared_describe(table, &request.wanted);
    }
    if (status == RL_SHARED_OK) {
        status = shared_attach(&request);
    }
    if (status == RL_SHARED_OK) {
        *out = table;
    } else {
        rl_free(blocks);
        rl_free(table);
    }
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
