#include "redis/cluster.h"

#include <stdlib.h>
#include <string.h>

static unsigned crc16(const char *data, size_t len)
{
    /* remainders of the sixteen four-bit values, for the polynomial 0x1021 */
    static const uint16_t step[16] = {0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5,
                                      0x60c6, 0x70e7, 0x8108, 0x9129, 0xa14a, 0xb16b,
                                      0xc18c, 0xd1ad, 0xe1ce, 0xf1ef};
    unsigned crc = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned byte = (unsigned char)data[i];
        crc = ((crc << 4) & 0xffffu) ^ step[(crc >> 12) ^ (byte >> 4)];
        crc = ((crc << 4) & 0xffffu) ^ step[(crc >> 12) ^ (byte & 15u)];
    }
    return crc;
}

int rl_cluster_slot(const char *key, size_t len)
{
    const char *open = memchr(key, '{', len);
    if (open != NULL) {
        const char *tag = open + 1;
        const char *close = memchr(tag, '}', len - (size_t)(tag - key));
        if (close != NULL && close != tag) {
            return (int)(crc16(tag, (size_t)(close - tag)) % RL_SLOTS);
        }
    }
    return (int)(crc16(key, len) % RL_SLOTS);
}

static bool set_server(rl_server *out, const char *host, size_t host_len, long long port,
                       const rl_server *from)
{
    if (host_len >= RL_HOST_SIZE || port < 1 || port > 65535) {
        return false;
    }
    *out = *from;
    if (host_len != 0) {
        memcpy(out->host, host, host_len);
        out->host[host_len] = 0;
    }
    out->port = (uint16_t)port;
    return true;
}

bool rl_cluster_redirection(const char *text, const rl_server *from, int *slot, rl_server *to)
{
    char *end;
    long number = strtol(text, &end, 10);
    const char *colon = strrchr(text, ':');
    if (end == text || *end != ' ' || number < 0 || number >= RL_SLOTS || colon == NULL ||
        colon < end + 1) {
        return false;
    }
    char *port_end;
    long port = strtol(colon + 1, &port_end, 10);
    *slot = (int)number;
    return port_end != colon + 1 && *port_end == 0 &&
           set_server(to, end + 1, (size_t)(colon - end - 1), port, from);
}

static bool is_integer(const redisReply *reply, long long last)
{
    return reply->type == REDIS_REPLY_INTEGER && reply->integer >= 0 && reply->integer <= last;
}

bool rl_cluster_range(const redisReply *entry, const rl_server *from, rl_slot_range *out)
{
    if (entry->type != REDIS_REPLY_ARRAY || entry->elements < 3 ||
        !is_integer(entry->element[0], RL_SLOTS - 1) ||
        !is_integer(entry->element[1], RL_SLOTS - 1) ||
        entry->element[2]->type != REDIS_REPLY_ARRAY || entry->element[2]->elements < 2) {
        return false;
    }
    const redisReply *host = entry->element[2]->element[0];
    const redisReply *port = entry->element[2]->element[1];
    if (!is_integer(port, 65535) ||
        (host->type != REDIS_REPLY_STRING && host->type != REDIS_REPLY_NIL)) {
        return false;
    }
    out->first = (int)entry->element[0]->integer;
    out->last = (int)entry->element[1]->integer;
    bool named = host->type == REDIS_REPLY_STRING && strcmp(host->str, "?") != 0;
    return out->first <= out->last &&
           set_server(&out->master, named ? host->str : "", named ? strlen(host->str) : 0,
                      port->integer, from);
}
