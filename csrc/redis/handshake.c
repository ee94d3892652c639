#include "redis/handshake.h"

#include <stdio.h>
#include <string.h>

size_t rl_handshake_commands(const rl_credentials *who, uint32_t database, const char *client_name,
                             bool must_be_master, rl_handshake_command *out)
{
    size_t n = 0;
    if (who->user[0] != 0) {
        out[n++] =
            (rl_handshake_command){RL_HANDSHAKE_AUTH, 3, {"AUTH", who->user, who->password}, {0}};
    } else if (who->password[0] != 0) {
        out[n++] = (rl_handshake_command){RL_HANDSHAKE_AUTH, 2, {"AUTH", who->password}, {0}};
    }
    if (database != 0) {
        rl_handshake_command *select = &out[n++];
        *select = (rl_handshake_command){RL_HANDSHAKE_SELECT, 2, {"SELECT", select->number}, {0}};
        snprintf(select->number, sizeof select->number, "%u", (unsigned)database);
    }
    if (client_name[0] != 0) {
        out[n++] =
            (rl_handshake_command){RL_HANDSHAKE_NAME, 3, {"CLIENT", "SETNAME", client_name}, {0}};
    }
    if (must_be_master) {
        out[n++] = (rl_handshake_command){RL_HANDSHAKE_ROLE, 1, {"ROLE"}, {0}};
    }
    return n;
}

static bool reply_begins_with(const redisReply *reply, const char *word)
{
    return reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, word, strlen(word)) == 0;
}

static bool says_master(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_ARRAY && reply->elements > 0 &&
           reply->element[0]->type == REDIS_REPLY_STRING &&
           strcmp(reply->element[0]->str, "master") == 0;
}

/* Check an answer. CLIENT SETNAME may be forbidden: the connection also works without a name. */
static bool handshake_is_good(rl_handshake_step step, const redisReply *reply)
{
    switch (step) {
    case RL_HANDSHAKE_ROLE:
        return says_master(reply);
    case RL_HANDSHAKE_NAME:
        return reply->type == REDIS_REPLY_STATUS || reply_begins_with(reply, "NOPERM") ||
               reply_begins_with(reply, "ERR unknown");
    default:
        return reply->type == REDIS_REPLY_STATUS;
    }
}

const char *rl_handshake_complaint(rl_handshake_step step, const redisReply *reply,
                                   const char *password)
{
    if (handshake_is_good(step, reply)) {
        return NULL;
    }
    if (reply->type != REDIS_REPLY_ERROR) {
        return step == RL_HANDSHAKE_ROLE ? "it is no master"
                                         : "it answered the handshake with something else";
    }
    /* A server without AUTH may repeat the command, which contains the password. */
    bool repeats = strstr(reply->str, "with args") != NULL ||
                   (password[0] != 0 && strstr(reply->str, password) != NULL);
    return step == RL_HANDSHAKE_AUTH && repeats ? "it refused the command AUTH" : reply->str;
}
