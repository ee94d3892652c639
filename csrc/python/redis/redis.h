/* python/redis/redis.h -- what the Redis side of the binding shares.
 *
 *     RedisClient    an address, and the connections of all threads
 *     RedisBuckets   limits, and how a client key becomes the keys in Redis
 *     RedisLoop      the connections of one event loop
 *
 *     client.c ─> client_calls.c ───┬─> call.c, call_result.c ──> buckets.c
 *     loop.c ─> ... ─> batch.c ─────┘
 *
 * A decision is one redis_call: made for some buckets, run by a client or a loop, then
 * converted to a Python value. A loop puts several calls into one redis_batch. */
#ifndef RL_PYTHON_REDIS_H
#define RL_PYTHON_REDIS_H

#include "python/core.h"

#include "redis/redis_bucket.h"
#include "redis/client.h"
#include "redis/turns.h"

/* SCRIPT_RESET is for windows: buckets are reset by DEL. */
enum {
    SCRIPT_TAKE,
    SCRIPT_PEEK,
    SCRIPT_REFUND,
    SCRIPT_CHARGE,
    SCRIPT_TAKE_MANY,
    SCRIPT_RESET,
    SCRIPT_BLOCK,
    N_SCRIPTS
};
#define NUMBER_SIZE 24

typedef struct client_object {
    PyObject_HEAD
    core_state *state; /* borrowed from the type */
    rl_options options;
    rl_tls *tls;                          /* owned; NULL: not encrypted */
    rl_client *client;                    /* owned; NULL before __init__ */
    rl_turns turns;                       /* of threads that take the GIL back; like `client` */
    _Atomic unsigned long forking_thread; /* from before_fork to after_fork_...; 0: none */
    unsigned forks;                       /* of that thread, each within the hooks of the last */
} client_object;

typedef enum bucket_operation {
    BUCKET_ALLOW,
    BUCKET_HIT,
    BUCKET_TRY,      /* the same, but denied requests do not count */
    BUCKET_HIT_EACH, /* a Decision, and one of each limit */
    BUCKET_PEEK,
    BUCKET_PEEK_EACH,
    BUCKET_CHARGE,
    BUCKET_REFUND,
    BUCKET_RESET,
    BUCKET_HIT_ALL, /* of joined buckets: a Decision of each part */
    BUCKET_BLOCK,   /* the cost is a time in seconds */
} bucket_operation;

/* A limit as the scripts take it. */
typedef struct redis_limit {
    rl_redis_bucket bucket;
    rl_limit window; /* kind RL_BUCKET: not a window */
    bool counts_denied;
    /* the constant arguments of the scripts: see bucket.lua and window.lua */
    char scale[NUMBER_SIZE];
    char token[NUMBER_SIZE];
    char cap[NUMBER_SIZE];
    char min_ttl_ms[NUMBER_SIZE];
} redis_limit;

/* Immutable after __init__, but for the counts. */
typedef struct buckets_object {
    PyObject_HEAD
    core_state *state;            /* borrowed from the type */
    client_object *client;        /* strong; NULL before __init__ */
    PyObject *sources;            /* strong; the tuple of the scripts' texts */
    rl_script scripts[N_SCRIPTS]; /* of texts in `sources` */
    size_t n_limits;
    size_t n_windows;   /* of the limits */
    bool counts_denied; /* one of the limits does */
    PyObject *zones;    /* strong; a tuple, from which the limits borrow */
    redis_limit limits[RL_TABLE_LIMITS_MAX];
    PyObject *before; /* strong; bytes before a client key, */
    PyObject *after;  /* strong; and a tuple of bytes after it, for each limit */
    bool tagged;      /* put the client key between braces, and escape those in it */
    PyObject
        *parts; /* strong; a tuple of RedisBuckets that this one joins, each with a client key of
                       * its own; NULL: none. Then `before` and `after` are NULL */
    uint8_t part_of[RL_TABLE_LIMITS_MAX]; /* of each limit */
    _Atomic uint64_t n_allowed;           /* decisions that take tokens: allow, hit and hit_each */
    _Atomic uint64_t n_denied;
} buckets_object;

static inline size_t redis_buckets_n_parts(const buckets_object *self)
{
    return self->parts != NULL ? (size_t)PyTuple_GET_SIZE(self->parts) : 1;
}

/* One decision under way, followed by the room for its texts. */
typedef struct redis_call {
    rl_thread_call thread;   /* first, so that a finished rl_call can be cast back */
    buckets_object *buckets; /* strong */
    bucket_operation operation;
    uint64_t costs[RL_TABLE_LIMITS_MAX];
    size_t n_keys; /* different ones: limits of joined buckets may share a key, and then its cost */
    uint8_t key_of[RL_TABLE_LIMITS_MAX]; /* of each limit */
    PyObject *future;                    /* strong; NULL unless of a loop */
    bool alone;                          /* a batch could not decide it */
    struct redis_call *previous, *next;  /* of a loop */
} redis_call;

/* Return the size of the keys in Redis of client keys, one for each part. */
size_t redis_buckets_key_room(const buckets_object *self, const core_text *keys);

/* Write the key in Redis of limit number `i`; return its end. */
char *redis_buckets_put_key(const buckets_object *self, size_t i, const core_text *keys, char *out);

/* Count a decision if the operation takes tokens. */
void redis_buckets_count(buckets_object *self, bucket_operation operation, bool allowed);

/* Raise StoreError about a server; NULL: about none. Return NULL. */
PyObject *redis_raise(core_state *state, rl_fault fault, const char *message,
                      const rl_server *server);

/* Raise the StoreError of a call that ended with a fault. Return NULL. */
PyObject *redis_raise_fault(core_state *state, const rl_call *call);

/* Return a server as text, such as "10.0.0.1:6379", or a socket's path; or NULL with an exception
 * set. */
PyObject *redis_server_text(const rl_server *server);

/* The same of several, as a tuple. */
PyObject *redis_servers_text(const rl_server *servers, size_t n);

/* Make a call. `cost` may be NULL: 1. NULL with an exception set. */
redis_call *redis_call_new(buckets_object *buckets, bucket_operation operation, PyObject *key,
                           PyObject *cost);

/* Free it, with the answer. NULL is fine. */
void redis_call_free(redis_call *call);

/* Return the result of a finished call: a bool, a Decision, a tuple of them or None; or NULL with
 * StoreError set. */
PyObject *redis_call_result(redis_call *call);

#define BATCH_MAX 64

/* Several calls that one script decides. The loop owns the calls. */
typedef struct redis_batch {
    rl_call call; /* first: as in redis_call */
    size_t n;
    redis_call *calls[BATCH_MAX]; /* borrowed */
    char count[4];
    struct redis_batch *previous, *next; /* of a loop */
} redis_batch;

/* Return true if a call can share a batch with others for the same buckets. */
bool redis_batch_takes(const redis_call *call);

/* Make a batch of 2 to BATCH_MAX calls. NULL with an exception set. */
redis_batch *redis_batch_new(redis_call **calls, size_t n);

/* Free it, with the answer. NULL is fine. */
void redis_batch_free(redis_batch *batch);

/* Return true if a finished batch decided call number i. If not, the call must be sent alone. */
bool redis_batch_decided(const redis_batch *batch, size_t i);

/* Return the result of call number i, as redis_call_result() does. */
PyObject *redis_batch_result(const redis_batch *batch, size_t i);

#endif
