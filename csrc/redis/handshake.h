/* redis/handshake.h -- the commands that begin a connection, and their answers.
 *
 *     AUTH, SELECT, CLIENT SETNAME, ROLE: each only if it is needed, in this order
 *
 * Nothing here sends or reads: see redis/connection.h. */
#ifndef RL_REDIS_HANDSHAKE_H
#define RL_REDIS_HANDSHAKE_H

#include <hiredis/hiredis.h>

#include "redis/options.h"

#define RL_HANDSHAKE_MAX 4
#define RL_HANDSHAKE_WORDS 3

typedef enum rl_handshake_step {
    RL_HANDSHAKE_AUTH,
    RL_HANDSHAKE_SELECT,
    RL_HANDSHAKE_NAME,
    RL_HANDSHAKE_ROLE
} rl_handshake_step;

typedef struct rl_handshake_command {
    rl_handshake_step step;
    int n;
    const char *words[RL_HANDSHAKE_WORDS]; /* borrowed, or `number` */
    char number[12];
} rl_handshake_command;

/* Write the commands of a handshake, at most RL_HANDSHAKE_MAX; return how many. Their words are
 * valid as long as the arguments, and as long as `out` stays where it is. */
size_t rl_handshake_commands(const rl_credentials *who, uint32_t database, const char *client_name,
                             bool must_be_master, rl_handshake_command *out);

/* Check the answer to a command. NULL if it is good, else what is wrong with it: a constant, or the
 * text of the answer, which may be that of AUTH only if it does not repeat the password. */
const char *rl_handshake_complaint(rl_handshake_step step, const redisReply *reply,
                                   const char *password);

#endif
