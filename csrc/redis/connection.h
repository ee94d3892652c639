/* rl_redis.h -- one connection to one Redis server, with commands in a pipeline.
 *
 * hiredis formats what goes out and parses what comes in; rl_transport moves
 * the bytes. Nothing here waits or locks. The owner calls rl_redis_step when
 * rl_redis_fd() is ready or rl_redis_deadline_ns() has come, then fetches what
 * arrived with rl_redis_next.
 *
 *     OPENING ── transport, then AUTH, SELECT, CLIENT SETNAME, ROLE ──> READY ──> FAILED
 *
 * Answers come in the order of the commands, so each command leaves a ticket in
 * a queue. A caller that stops waiting tears up its ticket; the answer is then
 * read and dropped, and the others stay in step. On a connection that failed,
 * rl_redis_lost tells for each ticket whether the server may have got the command. */
#ifndef RL_REDIS_H
#define RL_REDIS_H

#include <hiredis/hiredis.h>

#include "rl_bucket.h"
#include "rl_transport.h"

/* So many commands may wait for their answers on one connection, */
#define RL_PIPELINE_MAX ((size_t)1 << 17)
/* and so many bytes for the socket. */
#define RL_OUTPUT_MAX ((size_t)64 << 20)

typedef enum rl_redis_state { RL_REDIS_OPENING, RL_REDIS_READY, RL_REDIS_FAILED } rl_redis_state;

/* Why a command or a connection failed. */
typedef enum rl_fault {
    RL_FAULT_NONE,
    RL_FAULT_CONNECT,  /* there was no connection: the command was not sent */
    RL_FAULT_LOST,     /* the connection broke: the command may have been executed */
    RL_FAULT_TIMEOUT,  /* no answer in time: the command may yet be executed */
    RL_FAULT_ANSWER,   /* the server answered with an error */
    RL_FAULT_PROTOCOL, /* the answer was not the protocol of Redis, or of no use */
    RL_FAULT_BUSY,     /* too many commands wait already */
    RL_FAULT_NOMEM,
} rl_fault;

typedef struct rl_redis_config {
    rl_server server;
    rl_credentials credentials;
    uint32_t database;
    char client_name[RL_NAME_SIZE];
    bool must_be_master; /* else the connection fails: Sentinel's answer may be old */
    const rl_tls *tls;   /* borrowed; NULL: not encrypted */
    /* Until it is ready. As long without progress (rl_reply.h) while answers are due ends it. */
    int64_t connect_timeout_ns;
} rl_redis_config;

typedef struct rl_redis rl_redis; /* opaque: see rl_redis.c */

/* A command's arguments, by length. */
typedef struct rl_arguments {
    int n;
    const char **texts;
    const size_t *lens;
} rl_arguments;

/* Begin to connect. NULL: out of memory. */
rl_redis *rl_redis_new(const rl_redis_config *config, int64_t now_ns);

/* Close at once. Tickets that are still there are forgotten. NULL is fine. */
void rl_redis_free(rl_redis *redis);

/* Do what can be done without waiting: connect, shake hands, write, read, and
 * fail where a deadline has passed or the server exceeds the bounds of rl_reply.h. Reads about
 * 64 KB at most: the descriptor stays ready while there is more. */
void rl_redis_step(rl_redis *redis, int64_t now_ns);

/* Write what was appended, as far as there is room. */
void rl_redis_flush(rl_redis *redis);

rl_redis_state rl_redis_state_of(const rl_redis *redis);

/* What went wrong, once it has failed: the kind (CONNECT when it never was
 * ready) and a message that names the server. */
rl_fault rl_redis_fault(const rl_redis *redis);
const char *rl_redis_error(const rl_redis *redis);
const rl_server *rl_redis_server(const rl_redis *redis);

/* Append a command, of a connection that is ready. `ticket` (not NULL) comes back
 * with the answer; *number names it to rl_redis_forget. Nothing is written before
 * rl_redis_flush or the next step. Anything but RL_FAULT_NONE: the command was not taken, be it
 * that a connection which was quiet for a while turns out to have ended. */
rl_fault rl_redis_send(rl_redis *redis, const rl_arguments *arguments, void *ticket,
                       int64_t now_ns, uint64_t *number);

/* Tear up a ticket. */
void rl_redis_forget(rl_redis *redis, uint64_t number);

/* Fetch the next answer and its ticket; the caller frees the answer with
 * freeReplyObject. On a connection that listens to messages, ticket is NULL.
 * False: there is none yet. */
bool rl_redis_next(rl_redis *redis, void **ticket, redisReply **reply);

/* End a connection that is no longer wanted, so that rl_redis_lost tells of its
 * tickets. Nothing happens to one that has failed already. */
void rl_redis_break(rl_redis *redis, const char *why);

/* Fetch the next ticket of a connection that failed. *sent: the server may have
 * got the command. False: there is none left. */
bool rl_redis_lost(rl_redis *redis, void **ticket, bool *sent);

/* From now on answers are messages that nobody asked for (SUBSCRIBE). */
void rl_redis_listen(rl_redis *redis);

/* Number of tickets in the queue. */
size_t rl_redis_waiting(const rl_redis *redis);

/* What to wait on (-1: nothing), for what (RL_WANT_*), and until when at most. */
int rl_redis_fd(const rl_redis *redis);
unsigned rl_redis_turn(const rl_redis *redis); /* see rl_transport_turn */
unsigned rl_redis_wants(const rl_redis *redis);
int64_t rl_redis_deadline_ns(const rl_redis *redis);

#endif
