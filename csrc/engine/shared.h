/* engine/shared.h -- a table in a file, that the processes of one host share.
 *
 *     file: header | shards, each with its lock | lines of every shard
 *
 * The file is mapped into the memory of each process, so a decision costs what it costs
 * in memory of one's own. Its size is fixed when it is made. Locks are robust: when a
 * process dies while it holds one, the next one puts the shard in order. All that can
 * be lost then is that one decision; a client never gets more than one request that
 * was not counted, for each such death.
 *
 * Time is CLOCK_MONOTONIC, the same in all processes of a host; a file that is left
 * from before the last boot starts anew. On Linux alone. */
#ifndef RL_ENGINE_SHARED_H
#define RL_ENGINE_SHARED_H

#include "engine/table.h"

/* The number of the layout of a file. Count it up when the header, a shard or an entry changes: it
 * goes into the names of files, so that a new version takes a new file and leaves running
 * processes theirs. */
#define RL_SHARED_LAYOUT 1

typedef enum rl_shared_status {
    RL_SHARED_OK,
    RL_SHARED_ENOMEM,
    RL_SHARED_ERANDOM,  /* the system gave no random secret */
    RL_SHARED_ESYSTEM,  /* errno tells */
    RL_SHARED_EOWNER,   /* the file is no plain file of this user's alone */
    RL_SHARED_EOTHER,   /* it is something else, or made for other limits or another max_keys */
    RL_SHARED_ENOWHERE, /* this system has no shared tables */
} rl_shared_status;

/* Open the table at a path, or make it. The arguments are those of rl_table_new, and must be the
 * same in all processes. On RL_SHARED_OK *out is a table, to be freed by rl_table_free, which
 * leaves the file. */
rl_shared_status rl_shared_open(const char *path, const rl_limit *limits, size_t n_limits,
                                size_t max_keys, rl_table **out);

#endif
