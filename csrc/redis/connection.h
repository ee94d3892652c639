/* redis/connection.h -- one connection to one Redis server, with commands in a pipeline.
 *
 * hiredis formats what goes out and parses what comes in; rl_transport moves
 * the bytes. Nothing here waits or locks. The owner calls rl_connection_step when
 * rl_connection_fd() is ready or rl_connection_deadline_ns() has passed, then fetches the
 * answers with rl_connection_next.
 *
 *     OPENING ── transport, then AUTH, SELECT, CLIENT SETNAME, ROLE ──> READY ──> FAILED
 *
 * Answers arrive in the order of the commands, so each command leaves a ticket in
 * a queue. A caller that stops waiting cancels its ticket; the answer is then
 * read and dropped, and the others stay in order. On a connection that failed,
 * rl_connection_lost returns for each ticket whether the server may have received the
 * command. */
#ifndef RL_REDIS_CONNECTION_H
#define RL_REDIS_CONNECTION_H

#include <hiredis/hiredis.h>

#include "engine/bucket.h"
#include "redis/transport.h"

/* The most commands that may wait for their answers on one connection, */
#define RL_PIPELINE_MAX ((size_t)1 << 17)
/* and the most bytes that may wait for the socket. */
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
    RL_FAULT_TIMEOUT,  /* no answer in time: the command may still be executed */
    RL_FAULT_ANSWER,   /* the server answered with an error */
    RL_FAULT_PROTOCOL, /* the answer violated the protocol of Redis, or was unusable */
    RL_FAULT_BUSY,     /* too many commands wait already */
    RL_FAULT_NOMEM,
    RL_FAULT_CLOSED, /* the client was closed during the call: the command may be executed */
} rl_fault;

typedef struct rl_connection_config {
    rl_server server;
    rl_credentials credentials;
    uint32_t database;
    char client_name[RL_NAME_SIZE];
    bool must_be_master; /* else the connection fails: Sentinel's answer may be out of date */
    rl_tls *tls;         /* borrowed; NULL: not encrypted */
    /* Until the connection is ready. Without progress (redis/reply.h) for as long while answers are
     * due, the connection fails. */
    int64_t connect_timeout_ns;
} rl_connection_config;

typedef struct rl_connection rl_connection; /* opaque: see connection.c */

/* A command's arguments, with their lengths. */
typedef struct rl_arguments {
    int n;
    const char **texts;
    const size_t *lens;
} rl_arguments;

/* Begin to connect. NULL: out of memory. */
rl_connection *rl_connection_new(const rl_connection_config *config, int64_t now_ns);

/* Close at once and forget the remaining tickets. NULL is fine. */
void rl_connection_free(rl_connection *redis);

/* Connect, shake hands, write and read, as far as possible without waiting. The connection
 * fails when a deadline has passed or the server exceeds the bounds of redis/reply.h. Reads
 * about 64 KB at most: the descriptor stays ready while there is more. */
void rl_connection_step(rl_connection *redis, int64_t now_ns);

/* Give a connection that is opening, and whose server has answered, more time: it was not stepped
 * for so long. */
void rl_connection_resume(rl_connection *redis, int64_t away_ns);

/* Write the appended commands, as far as the socket has room. */
void rl_connection_flush(rl_connection *redis);

rl_connection_state rl_connection_state_of(const rl_connection *redis);

/* The cause of a failure: the kind (CONNECT when the connection never was ready) and a
 * message that names the server. */
rl_fault rl_connection_fault(const rl_connection *redis);
const char *rl_connection_error(const rl_connection *redis);
const rl_server *rl_connection_server(const rl_connection *redis);

/* Append a command to a connection that is ready. `ticket` (not NULL) is returned with
 * the answer; *number identifies it for rl_connection_forget. Nothing is written before
 * rl_connection_flush or the next step. Other than RL_FAULT_NONE: the command was not
 * taken, for example when an idle connection was found closed. */
rl_fault rl_connection_send(rl_connection *redis, const rl_arguments *arguments, void *ticket,
                            int64_t now_ns, uint64_t *number);

/* Cancel a ticket. */
void rl_connection_forget(rl_connection *redis, uint64_t number);

/* Fetch the next answer and its ticket; the caller frees the answer with
 * freeReplyObject. On a connection that listens to messages, ticket is NULL.
 * False: none has arrived. */
bool rl_connection_next(rl_connection *redis, void **ticket, redisReply **reply);

/* End a connection that is no longer wanted, so that rl_connection_lost returns its
 * tickets. Without effect on a connection that has failed. */
void rl_connection_break(rl_connection *redis, const char *why);

/* Fetch the next ticket of a connection that failed. *sent: the server may have
 * received the command. False: none is left. */
bool rl_connection_lost(rl_connection *redis, void **ticket, bool *sent);

/* From now on the server sends messages without a command for each (SUBSCRIBE). */
void rl_connection_listen(rl_connection *redis);

/* Return the number of tickets in the queue. */
size_t rl_connection_waiting(const rl_connection *redis);

/* The descriptor to wait on (-1: none), the events (RL_WANT_*), and the deadline. */
int rl_connection_fd(const rl_connection *redis);
unsigned rl_connection_generation(const rl_connection *redis); /* see rl_transport_generation */
unsigned rl_connection_wants(const rl_connection *redis);
int64_t rl_connection_deadline_ns(const rl_connection *redis);

#endif
