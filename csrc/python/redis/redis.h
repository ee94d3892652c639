/* python/redis/redis.h -- what the Redis side of the binding shares.
 *
 *     RedisClient    an address, and the connections of all threads
 *     RedisBuckets   limits, and how a client key becomes the keys in Redis
 *     RedisLoop      the connections of one event loop
 *
 * A decision is one redis_call: made for some buckets, run by a client or a loop,
 * and read again as a Python value. A loop puts several into one redis_batch. */
#ifndef RL_PYTHON_REDIS_H
#define RL_PYTHON_REDIS_H

#include "python/core.h"

#include "redis/redis_bucket.h"
#include "redis/client.h"

/* The last one is of windows alone: buckets are reset by DEL. */
enum { SCRIPT_TAKE, SCRIPT_PEEK, SCRIPT_REFUND, SCRIPT_CHARGE, SCRIPT_TAKE_MANY, SCRIPT_RESET, N_SCRIPTS };
#define NUMBER_SIZE 24

typedef struct client_object {
    PyObject_HEAD
    core_state *state; /* borrowed from the type */
    rl_options options;
    rl_tls *tls;       /* owned; NULL: not encrypted */
    rl_client *client; /* owned; NULL before __init__ */
    _Atomic unsigned long forking_thread; /* between before_fork and after_fork_...; 0: none */
} client_object;

typedef enum bucket_operation {
    BUCKET_ALLOW,
    BUCKET_HIT,
    BUCKET_HIT_EACH, /* a Decision, and one of each limit */
    BUCKET_PEEK,
    BUCKET_PEEK_EACH,
    BUCKET_CHARGE,
    BUCKET_REFUND,
    BUCKET_RESET,
} bucket_operation;

/* A limit as the scripts have it. */
typedef struct redis_limit {
    rl_redis_bucket bucket;
    rl_limit window; /* of kind RL_BUCKET: it is none */
    /* the arguments of the scripts that never change: see bucket.lua and window.lua */
    char scale[NUMBER_SIZE];
    char token[NUMBER_SIZE];
    char cap[NUMBER_SIZE];
    char min_ttl_ms[NUMBER_SIZE];
} redis_limit;

/* Immutable after __init__. */
typedef struct buckets_object {
    PyObject_HEAD
    core_state *state;       /* borrowed from the type */
    client_object *client;   /* strong; NULL before __init__ */
    PyObject *sources;       /* strong; the tuple of the scripts' texts */
    rl_script scripts[N_SCRIPTS]; /* of texts in `sources` */
    size_t n_limits;
    size_t n_windows; /* of the limits */
    redis_limit limits[RL_TABLE_LIMITS_MAX];
    PyObject *before; /* strong; bytes before a client key, */
    PyObject *after;  /* strong; and a tuple of bytes after it, for each limit */
    bool tagged;      /* the client key is put between braces, its own ones escaped */
} buckets_object;

/* One decision under way, with the room for its texts behind it. */
typedef struct redis_call {
    rl_thread_call thread; /* first: a rl_call finished by the core leads back here */
    buckets_object *buckets; /* strong */
    bucket_operation operation;
    uint64_t costs[RL_TABLE_LIMITS_MAX];
    PyObject *future;                   /* strong; NULL but on a loop */
    bool alone;                         /* a batch could not decide it */
    struct redis_call *previous, *next; /* of a loop */
} redis_call;

/* Make a call. `cost` may be NULL: 1. NULL with an exception set. */
redis_call *redis_call_new(buckets_object *buckets, bucket_operation operation, PyObject *key,
                           PyObject *cost);

/* Free it, with the answer. NULL is fine. */
void redis_call_free(redis_call *call);

/* What a call that is done returns: a bool, a Decision or None; or NULL with StoreError set. */
PyObject *redis_call_result(redis_call *call);

#define BATCH_MAX 64

/* Several calls that one script decides. The calls are their loop's. */
typedef struct redis_batch {
    rl_call call; /* first: as in redis_call */
    size_t n;
    redis_call *calls[BATCH_MAX]; /* borrowed */
    char count[4];
    struct redis_batch *previous, *next; /* of a loop */
} redis_batch;

/* May a call go into a batch with others for the same buckets? */
bool redis_batch_takes(const redis_call *call);

/* Make a batch of 2 to BATCH_MAX calls. NULL with an exception set. */
redis_batch *redis_batch_new(redis_call **calls, size_t n);

/* Free it, with the answer. NULL is fine. */
void redis_batch_free(redis_batch *batch);

/* Of a batch that is done: was call number i decided? If not, it must be asked alone. */
bool redis_batch_decided(const redis_batch *batch, size_t i);

/* What call number i returns, as redis_call_result. */
PyObject *redis_batch_result(const redis_batch *batch, size_t i);

/* Raise StoreError. Returns NULL. */
PyObject *redis_raise(core_state *state, rl_fault fault, const char *message);

#endif
