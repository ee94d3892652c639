/* redis/connection.h -- one connection to one Redis server, with commands in a pipeline.
 *
 * hiredis formats what goes out and parses what comes in; rl_transport moves
 * the bytes. Nothing here waits or locks. The owner calls rl_connection_step when
 * rl_connection_fd() is ready or rl_connection_deadline_ns() has come, then fetches what
 * arrived with rl_connection_next.
 *
 *     OPENING ── transport, then AUTH, SELECT, CLIENT SETNAME, ROLE ──> READY ──> FAILED
 *
 * Answers come in the order of the commands, so each command leaves a ticket in
 * a queue. A caller that stops waiting tears up its ticket; the answer is then
 * read and dropped, and the others stay in step. On a connection that failed,
 * rl_connection_lost tells for each ticket whether the server may have got the command. */
#ifndef RL_REDIS_CONNECTION_H
#define RL_REDIS_CONNECTION_H

#include <hiredis/hiredis.h>

#include "engine/bucket.h"
#include "redis/transport.h"

/* So many commands may wait for their answers on one connection, */
#define RL_PIPELINE_MAX ((size_t)1 << 17)
/* and so many bytes for the socket. */
#define RL_OUTPUT_MAX ((size_t)64 << 20)

typedef enum rl_connection_state {
    RL_CONNECTION_OPENING,
    RL_CONNECTION_READY,
    RL_CONNECTION_FAILED
} rl_connection_state;

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

typedef struct rl_connection_config {
    rl_server server;
    rl_credentials credentials;
    uint32_t database;
    char client_name[RL_NAME_SIZE];
    bool must_be_master; /* else the connection fails: Sentinel's answer may be old */
    const rl_tls *tls;   /* borrowed; NULL: not encrypted */
    /* Until it is ready. As long without progress (redis/reply.h) while answers are due ends it. */
    int64_t connect_timeout_ns;
} rl_connection_config;

typedef struct rl_connection rl_connection; /* opaque: see connection.c */

/* A command's arguments, by length. */
typedef struct rl_arguments {
    int n;
    const char **texts;
    const size_t *lens;
} rl_arguments;

/* Begin to connect. NULL: out of memory. */
rl_connection *rl_connection_new(const rl_connection_config *config, int64_t now_ns);

/* Close at once. Tickets that are still there are forgotten. NULL is fine. */
void rl_connection_free(rl_connection *redis);

/* Do what can be done without waiting: connect, shake hands, write, read, and
 * fail where a deadline has passed or the server exceeds the bounds of redis/reply.h. Reads about
 * 64 KB at most: the descriptor stays ready while there is more. */
void rl_connection_step(rl_connection *redis, int64_t now_ns);

/* Write what was appended, as far as there is room. */
void rl_connection_flush(rl_connection *redis);

rl_connection_state rl_connection_state_of(const rl_connection *redis);

/* What went wrong, once it has failed: the kind (CONNECT when it never was
 * ready) and a message that names the server. */
rl_fault rl_connection_fault(const rl_connection *redis);
const char *rl_connection_error(const rl_connection *redis);
const rl_server *rl_connection_server(const rl_connection *redis);

/* Append a command, of a connection that is ready. `ticket` (not NULL) comes back
 * with the answer; *number names it to rl_connection_forget. Nothing is written before
 * rl_connection_flush or the next step. Anything but RL_FAULT_NONE: the command was not taken, be it
 * that a connection which was quiet for a while turns out to have ended. */
rl_fault rl_connection_send(rl_connection *redis, const rl_arguments *arguments, void *ticket,
                            int64_t now_ns, uint64_t *number);

/* Tear up a ticket. */
void rl_connection_forget(rl_connection *redis, uint64_t number);

/* Fetch the next answer and its ticket; the caller frees the answer with
 * freeReplyObject. On a connection that listens to messages, ticket is NULL.
 * False: there is none yet. */
bool rl_connection_next(rl_connection *redis, void **ticket, redisReply **reply);

/* End a connection that is no longer wanted, so that rl_connection_lost tells of its
 * tickets. Nothing happens to one that has failed already. */
void rl_connection_break(rl_connection *redis, const char *why);

/* Fetch the next ticket of a connection that failed. *sent: the server may have
 * got the command. False: there is none left. */
bool rl_connection_lost(rl_connection *redis, void **ticket, bool *sent);

/* From now on answers are messages that nobody asked for (SUBSCRIBE). */
void rl_connection_listen(rl_connection *redis);

/* Number of tickets in the queue. */
size_t rl_connection_waiting(const rl_connection *redis);

/* What to wait on (-1: nothing), for what (RL_WANT_*), and until when at most. */
int rl_connection_fd(const rl_connection *redis);
unsigned rl_connection_generation(const rl_connection *redis); /* see rl_transport_generation */
unsigned rl_connection_wants(const rl_connection *redis);
int64_t rl_connection_deadline_ns(const rl_connection *redis);

#endif
