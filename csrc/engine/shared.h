/* engine/shared.h -- a table in a file that the processes of one host share.
 *
 *     file: header | shards, each with its lock | lines of every shard | the same of the blocks
 *
 * The file is mapped into the memory of each process, so a decision costs the same as
 * in private memory. Its size is fixed when it is made, and it is never made shorter:
 * processes that have it mapped would get SIGBUS. But a shard begins with a few of its lines and
 * takes more as it fills, so few keys are on few pages. A file from before the last boot, or one
 * that was not finished, is replaced by a new one under the same name.
 *
 * When a process dies while it holds the lock of a shard, another one takes the lock over
 * after half a second (engine/lock.h). At most that one decision is lost: for each
 * such death a client gets at most one request that was not counted. A process that was only
 * stopped, and continues after that, may write what one key lacked before, or the eight of a line
 * if it was taking more lines: their clients then get up to one more burst.
 *
 * Nothing in the file is trusted, except that it has its size: see engine/shard.h.
 * Time is CLOCK_MONOTONIC, the same in all processes of a host. Linux only. */
#ifndef RL_ENGINE_SHARED_H
#define RL_ENGINE_SHARED_H

#include "engine/table.h"

/* The number of the layout of a file. Increase it when the header, a shard or an entry changes: it
 * is part of the file names, so a new version makes a new file and running processes keep
 * theirs. */
#define RL_SHARED_LAYOUT 4

/* Contains another text after each boot. */
#define RL_BOOT_ID_PATH "/proc/sys/kernel/random/boot_id"

typedef enum rl_shared_status {
    RL_SHARED_OK,
    RL_SHARED_ENOMEM,
    RL_SHARED_ERANDOM,  /* the system gave no random secret */
    RL_SHARED_ESYSTEM,  /* see errno */
    RL_SHARED_EBOOT,    /* RL_BOOT_ID_PATH cannot be read, see errno */
    RL_SHARED_EINTR,    /* a signal arrived during the wait for another process: call again */
    RL_SHARED_EOWNER,   /* not a plain file that only this user can use */
    RL_SHARED_EOTHER,   /* something else, or made for other limits or another max_keys */
    RL_SHARED_ENOWHERE, /* this system has no shared tables */
} rl_shared_status;

/* Open the table at a path, or make it. The arguments are those of rl_table_new, and must be the
 * same in all processes. On RL_SHARED_OK *out is a table; free it with rl_table_free, which
 * keeps the file. Waits while another process opens or makes the same file.
 *
 * A new file starts with the keys of `from` at the time `now`, see rl_table_copy: a table in a file
 * with as many limits of the same kinds and the same max_keys, else RL_SHARED_EOTHER. NULL: it
 * starts empty. */
rl_shared_status rl_shared_open(const char *path, const rl_limit *limits, size_t n_limits,
                                size_t max_keys, rl_table *from, rl_time now, rl_table **out);

#endif
