#include "redis/connection.h"

#include <stdio.h>
#include <string.h>

#include "engine/alloc.h"
#include "redis/handshake.h"
#include "redis/reply.h"

/* At least a TLS record: then OpenSSL buffers no bytes that a poll would not report. */
#define READ_SIZE ((size_t)16 << 10)
/* A step reads about this many bytes and leaves the rest to the next one, because other sockets
 * and tasks of an event loop are waiting. */
#define STEP_SIZE ((size_t)64 << 10)
/* The cost of a read, in bytes: a server may send single bytes. */
#define READ_COST ((size_t)1 << 10)
#define QUEUE_MIN 64
/* A connection that was idle for this long is checked before it is used again. */
#define QUIET_NS INT64_C(10000000)
#define UNASKED "it sent an answer without a command"

typedef struct ticket {
    void *owner;  /* NULL: cancelled */
    uint64_t end; /* of the command, as a position in the stream of output */
} ticket;

struct rl_connection {
    rl_connection_config config;
    rl_connection_state state;
    rl_fault fault; /* the cause, once it has failed */
    char error[RL_ERROR_SIZE];
    rl_transport *transport; /* owned; NULL once it has failed */
    rl_reply_scan scan;      /* checks all input before the reader gets it */
    redisReader *reader;     /* owned */
    bool listening;
    bool was_ready;

    char *output; /* owned; [written, len) is not written yet */
    size_t output_len, output_room, output_written;
    uint64_t stream_end, stream_written; /* positions in the stream */

    ticket *queue; /* owned; a ring of queue_room, a power of two */
    size_t queue_room;
    uint64_t queue_head, queue_tail; /* numbers of the oldest ticket and of the next one */

    rl_handshake_step handshake[RL_HANDSHAKE_MAX]; /* for each answer that is due */
    int handshake_len, handshake_done;
    int64_t opened_ns;
    int64_t heard_ns; /* last progress of the answers, or first command after a pause */
};

/* ---- failing ---------------------------------------------------------------- */

static void connection_fail(rl_connection *redis, rl_fault fault, const char *message)
{
    if (redis->state == RL_CONNECTION_FAILED) {
        return;
    }
    redis->fault = redis->was_ready ? fault : RL_FAULT_CONNECT;
    redis->state = RL_CONNECTION_FAILED;
    snprintf(redis->error, sizeof redis->error, "%s", message);
    rl_transport_free(redis->transport);
    redis->transport = NULL;
}

static void connection_fail_at(rl_connection *redis, rl_fault fault, const char *what)
{
    char message[RL_ERROR_SIZE];
    const rl_server *server = &redis->config.server;
    if (server->port != 0) {
        snprintf(message, sizeof message, "%.100s:%u: %.130s", server->host, (unsigned)server->port,
                 what);
    } else {
        snprintf(message, sizeof message, "%.108s: %.130s", server->host, what);
    }
    connection_fail(redis, fault, message);
}

/* ---- memory ----------------------------------------------------------------- */

static bool connection_make_room(rl_connection *redis, size_t more)
{
    if (redis->output_written == redis->output_len) {
        redis->output_written = redis->output_len = 0;
    }
    if (redis->output_room - redis->output_len >= more) {
        return true;
    }
    size_t pending = redis->output_len - redis->output_written;
    if (redis->output_written >= redis->output_room / 2 && redis->output_room - pending >= more) {
        memmove(redis->output, redis->output + redis->output_written, pending);
        redis->output_written = 0;
        redis->output_len = pending;
        return true;
    }
    size_t room = redis->output_room != 0 ? redis->output_room : READ_SIZE;
    while (room < pending + more) {
        room *= 2;
    }
    char *output = rl_alloc_zeroed(room);
    if (output == NULL) {
        return false;
    }
    if (pending != 0) {
        memcpy(output, redis->output + redis->output_written, pending);
    }
    rl_free(redis->output);
    redis->output = output;
    redis->output_room = room;
    redis->output_len = pending;
    redis->output_written = 0;
    return true;
}

static ticket *ticket_at(const rl_connection *redis, uint64_t number)
{
    return &redis->queue[number & (redis->queue_room - 1)];
}

static bool make_queue_room(rl_connection *redis)
{
    size_t n = rl_connection_waiting(redis);
    if (n < redis->queue_room) {
        return true;
    }
    size_t room = redis->queue_room != 0 ? 2 * redis->queue_room : QUEUE_MIN;
    ticket *queue = rl_alloc_zeroed(room * sizeof *queue);
    if (queue == NULL) {
        return false;
    }
    for (uint64_t i = redis->queue_head; i != redis->queue_tail; i++) {
        queue[i & (room - 1)] = *ticket_at(redis, i);
    }
    rl_free(redis->queue);
    redis->queue = queue;
    redis->queue_room = room;
    return true;
}

rl_connection *rl_connection_new(const rl_connection_config *config, int64_t now_ns)
{
    rl_connection *redis = rl_alloc_zeroed(sizeof *redis);
    if (redis == NULL) {
        return NULL;
    }
    redis->config = *config;
    redis->opened_ns = now_ns;
    redis->heard_ns = now_ns;
    redis->reader = redisReaderCreate();
    redis->transport = rl_transport_new(&config->server, config->tls);
    if (redis->reader == NULL || redis->transport == NULL) {
        rl_connection_free(redis);
        return NULL;
    }
    return redis;
}

void rl_connection_free(rl_connection *redis)
{
    if (redis != NULL) {
        rl_transport_free(redis->transport);
        if (redis->reader != NULL) {
            redisReaderFree(redis->reader);
        }
        rl_free(redis->output);
        rl_free(redis->queue);
        rl_free(redis);
    }
}

/* ---- commands --------------------------------------------------------------- */

static rl_fault connection_append(rl_connection *redis, const rl_arguments *arguments)
{
    char *command = NULL;
    long long len =
        redisFormatCommandArgv(&command, arguments->n, arguments->texts, arguments->lens);
    if (len < 0) {
        return RL_FAULT_NOMEM;
    }
    rl_fault fault = RL_FAULT_NONE;
    if (redis->output_len - redis->output_written + (size_t)len > RL_OUTPUT_MAX) {
        fault = RL_FAULT_BUSY;
    } else if (!connection_make_room(redis, (size_t)len)) {
        fault = RL_FAULT_NOMEM;
    } else {
        memcpy(redis->output + redis->output_len, command, (size_t)len);
        redis->output_len += (size_t)len;
        redis->stream_end += (uint64_t)len;
    }
    redisFreeCommand(command);
    return fault;
}

rl_fault rl_connection_send(rl_connection *redis, const rl_arguments *arguments, void *owner,
                            int64_t now_ns, uint64_t *number)
{
    if (rl_connection_waiting(redis) == 0 && !redis->listening) {
        if (now_ns - redis->heard_ns > QUIET_NS) {
            rl_connection_step(redis, now_ns);
        }
        redis->heard_ns = now_ns;
    }
    if (redis->state != RL_CONNECTION_READY) {
        return RL_FAULT_CONNECT;
    }
    if (rl_connection_waiting(redis) >= RL_PIPELINE_MAX) {
        return RL_FAULT_BUSY;
    }
    if (!make_queue_room(redis)) {
        return RL_FAULT_NOMEM;
    }
    rl_fault fault = connection_append(redis, arguments);
    if (fault == RL_FAULT_NONE) {
        *number = redis->queue_tail++;
        *ticket_at(redis, *number) = (ticket){owner, redis->stream_end};
    }
    return fault;
}

void rl_connection_forget(rl_connection *redis, uint64_t number)
{
    if (number - redis->queue_head < rl_connection_waiting(redis)) {
        ticket_at(redis, number)->owner = NULL;
    }
}

void rl_connection_listen(rl_connection *redis)
{
    redis->listening = true;
}

/* ---- handshake -------------------------------------------------------------- */

/* All commands are sent at once; the answers are checked as they arrive. */
static bool append_handshake(rl_connection *redis)
{
    const rl_connection_config *config = &redis->config;
    rl_handshake_command commands[RL_HANDSHAKE_MAX];
    size_t n = rl_handshake_commands(&config->credentials, config->database, config->client_name,
                                     config->must_be_master, commands);
    for (size_t i = 0; i < n; i++) {
        size_t lens[RL_HANDSHAKE_WORDS];
        for (int word = 0; word < commands[i].n; word++) {
            lens[word] = strlen(commands[i].words[word]);
        }
        rl_arguments arguments = {commands[i].n, commands[i].words, lens};
        if (connection_append(redis, &arguments) != RL_FAULT_NONE) {
            return false;
        }
        redis->handshake[redis->handshake_len++] = commands[i].step;
    }
    return true;
}

static void check_handshake(rl_connection *redis)
{
    redisReply *reply = NULL;
    while (redis->state == RL_CONNECTION_OPENING && redis->handshake_done < redis->handshake_len) {
        if (redisReaderGetReply(redis->reader, (void **)&reply) != REDIS_OK) {
            connection_fail_at(redis, RL_FAULT_PROTOCOL, "it does not speak the protocol of Redis");
            return;
        }
        if (reply == NULL) {
            return;
        }
        const char *complaint = rl_handshake_complaint(redis->handshake[redis->handshake_done++],
                                                       reply, redis->config.credentials.password);
        if (complaint != NULL) {
            connection_fail_at(redis, RL_FAULT_ANSWER, complaint);
        }
        freeReplyObject(reply);
    }
    if (redis->state == RL_CONNECTION_OPENING) {
        redis->state = RL_CONNECTION_READY;
        redis->was_ready = true;
    }
}

/* ---- moving bytes ----------------------------------------------------------- */

static void write_output(rl_connection *redis)
{
    while (redis->state != RL_CONNECTION_FAILED && redis->output_written < redis->output_len) {
        size_t n;
        rl_io result = rl_transport_write(redis->transport, redis->output + redis->output_written,
                                          redis->output_len - redis->output_written, &n);
        redis->output_written += n;
        redis->stream_written += n;
        if (result == RL_IO_AGAIN) {
            return;
        }
        if (result == RL_IO_CLOSED) {
            connection_fail_at(redis, RL_FAULT_LOST, "the server closed the connection");
        } else if (result == RL_IO_FAILED) {
            connection_fail(redis, RL_FAULT_LOST, rl_transport_error(redis->transport));
        }
    }
}

/* Pass the bytes that are within bounds to hiredis. */
static void scan_input(rl_connection *redis, const char *bytes, size_t len, int64_t now_ns)
{
    if (redis->state == RL_CONNECTION_READY && rl_connection_waiting(redis) == 0 &&
        !redis->listening) {
        connection_fail_at(redis, RL_FAULT_PROTOCOL, UNASKED);
        return;
    }
    const char *error;
    uint64_t progress = rl_reply_progress(&redis->scan);
    size_t good = rl_reply_scan_bytes(&redis->scan, bytes, len, &error);
    if (rl_reply_progress(&redis->scan) != progress) {
        redis->heard_ns = now_ns;
    }
    if (redisReaderFeed(redis->reader, bytes, good) != REDIS_OK) {
        connection_fail_at(redis, RL_FAULT_PROTOCOL, "out of memory for its answer");
    } else if (error != NULL) {
        check_handshake(redis); /* answers before the bad one may name the cause */
        connection_fail_at(redis, RL_FAULT_PROTOCOL, error);
    }
}

static void read_input(rl_connection *redis, int64_t now_ns)
{
    char buffer[READ_SIZE];
    size_t n = sizeof buffer;
    /* A socket that filled only a part of the buffer has no more; TLS may have another record. */
    for (size_t used = 0; redis->state != RL_CONNECTION_FAILED && used < STEP_SIZE &&
                          (n == sizeof buffer || redis->config.tls != NULL);
         used += n + READ_COST) {
        rl_io result = rl_transport_read(redis->transport, buffer, sizeof buffer, &n);
        if (result == RL_IO_AGAIN) {
            return;
        }
        if (result == RL_IO_CLOSED) {
            check_handshake(redis); /* answers before the end may name the cause */
            connection_fail_at(redis, RL_FAULT_LOST, "the server closed the connection");
        } else if (result == RL_IO_FAILED) {
            connection_fail(redis, RL_FAULT_LOST, rl_transport_error(redis->transport));
        } else {
            scan_input(redis, buffer, n, now_ns);
        }
    }
}

/* Return true once the transport is open and the handshake is in the output. */
static bool open_transport(rl_connection *redis)
{
    rl_io result = rl_transport_open(redis->transport);
    if (result == RL_IO_FAILED) {
        connection_fail(redis, RL_FAULT_CONNECT, rl_transport_error(redis->transport));
    } else if (result == RL_IO_DONE && redis->stream_end == 0 && !append_handshake(redis)) {
        connection_fail_at(redis, RL_FAULT_NOMEM, "out of memory");
    }
    return result == RL_IO_DONE && redis->state != RL_CONNECTION_FAILED;
}

void rl_connection_flush(rl_connection *redis)
{
    if (redis->state == RL_CONNECTION_READY) {
        write_output(redis);
    }
}

void rl_connection_resume(rl_connection *redis, int64_t away_ns)
{
    if (redis->state == RL_CONNECTION_OPENING && rl_transport_is_ready(redis->transport)) {
        redis->opened_ns += away_ns;
    }
}

void rl_connection_step(rl_connection *redis, int64_t now_ns)
{
    /* One look at the transport: it may open at any moment, and nothing may go before AUTH and
     * SELECT. */
    if (redis->state == RL_CONNECTION_READY ||
        (redis->state == RL_CONNECTION_OPENING && open_transport(redis))) {
        write_output(redis);
        read_input(redis, now_ns);
        check_handshake(redis);
    }
    if (now_ns >= rl_connection_deadline_ns(redis)) {
        connection_fail_at(redis, RL_FAULT_LOST,
                           redis->was_ready ? "no answer for too long"
                                            : "connecting took too long");
    }
}

/* ---- answers and tickets ---------------------------------------------------- */

bool rl_connection_next(rl_connection *redis, void **owner, redisReply **reply)
{
    *reply = NULL;
    *owner = NULL;
    while (redis->was_ready) {
        if (redisReaderGetReply(redis->reader, (void **)reply) != REDIS_OK) {
            connection_fail_at(redis, RL_FAULT_PROTOCOL, "it does not speak the protocol of Redis");
            return false;
        }
        if (*reply == NULL) {
            return false;
        }
        if (rl_connection_waiting(redis) != 0) {
            *owner = ticket_at(redis, redis->queue_head++)->owner;
        } else if (!redis->listening) {
            connection_fail_at(redis, RL_FAULT_PROTOCOL, UNASKED);
            freeReplyObject(*reply);
            return false;
        }
        if (*owner != NULL || redis->listening) {
            return true;
        }
        freeReplyObject(*reply);
    }
    return false;
}

void rl_connection_break(rl_connection *redis, const char *why)
{
    connection_fail_at(redis, RL_FAULT_LOST, why);
}

bool rl_connection_lost(rl_connection *redis, void **owner, bool *sent)
{
    while (redis->state == RL_CONNECTION_FAILED && rl_connection_waiting(redis) != 0) {
        const ticket *lost = ticket_at(redis, redis->queue_head++);
        if (lost->owner != NULL) {
            *owner = lost->owner;
            *sent = lost->end <= redis->stream_written;
            return true;
        }
    }
    return false;
}

rl_connection_state rl_connection_state_of(const rl_connection *redis)
{
    return redis->state;
}

rl_fault rl_connection_fault(const rl_connection *redis)
{
    return redis->fault;
}

const char *rl_connection_error(const rl_connection *redis)
{
    return redis->error;
}

const rl_server *rl_connection_server(const rl_connection *redis)
{
    return &redis->config.server;
}

size_t rl_connection_waiting(const rl_connection *redis)
{
    return (size_t)(redis->queue_tail - redis->queue_head);
}

int rl_connection_fd(const rl_connection *redis)
{
    return redis->transport != NULL ? rl_transport_fd(redis->transport) : -1;
}

unsigned rl_connection_generation(const rl_connection *redis)
{
    return redis->transport != NULL ? rl_transport_generation(redis->transport) : 0;
}

unsigned rl_connection_wants(const rl_connection *redis)
{
    bool has_output = redis->output_written < redis->output_len;
    return redis->transport != NULL ? rl_transport_wants(redis->transport, has_output) : 0;
}

int64_t rl_connection_deadline_ns(const rl_connection *redis)
{
    if (redis->state == RL_CONNECTION_OPENING) {
        return redis->opened_ns + redis->config.connect_timeout_ns;
    }
    if (redis->state == RL_CONNECTION_READY && rl_connection_waiting(redis) != 0) {
        return redis->heard_ns + redis->config.connect_timeout_ns;
    }
    return INT64_MAX;
}
