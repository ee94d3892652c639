/* url.c -- scheme, credentials, hosts and path of an address. */
#include "redis/url_parts.h"

#include <stdio.h>

#define NS_PER_S INT64_C(1000000000)
#define REDIS_PORT 6379
#define SENTINEL_PORT 26379

/* ---- who and where ------------------------------------------------------------------ */

static bool read_credentials(const rl_url_reader *in, rl_url_part text)
{
    rl_url_part user;
    rl_url_split(&text, ':', &user);
    return rl_url_decode(in, "user name", user, in->out->redis.user, RL_USER_SIZE) &&
           rl_url_decode(in, "password", text, in->out->redis.password, RL_PASSWORD_SIZE);
}

static bool read_port(const rl_url_reader *in, rl_url_part text, rl_server *server)
{
    uint64_t port;
    if (!rl_url_read_number(text, 65535, &port) || port == 0) {
        /* "redis://user:password", with the host forgotten, must not show the password. */
        bool is_number = text.len <= 5 && rl_url_read_number(text, UINT64_MAX, &port);
        return is_number
                   ? rl_url_complain(in, "the port must be a number from 1 to 65535, got '%.*s'",
                                     rl_url_shown(text), text.at)
                   : rl_url_complain(in, "the port must be a number from 1 to 65535; after a "
                                         "password, '@' and the host follow");
    }
    server->port = (uint16_t)port;
    return true;
}

static bool is_host(rl_url_part text, bool bracketed)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.at[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && memchr(bracketed ? ":.%-_" : ".-_", c, bracketed ? 5 : 3) == NULL) {
            return false;
        }
    }
    bool is_address = memchr(text.at, ':', text.len) != NULL;
    return text.len != 0 && text.len < RL_HOST_SIZE && bracketed == is_address;
}

/* A zone's '%' is written "%25" (RFC 6874) or, as redis-py does, "%". */
static void copy_host(rl_url_part host, char *out)
{
    const char *zone = memchr(host.at, '%', host.len);
    size_t head = zone == NULL ? host.len : (size_t)(zone - host.at) + 1;
    size_t skip = host.len > head + 2 && memcmp(host.at + head, "25", 2) == 0 ? 2 : 0;
    memcpy(out, host.at, head);
    memcpy(out + head, host.at + head + skip, host.len - head - skip);
}

/* host, host:port, [address], [address]:port, :port */
static bool read_server(const rl_url_reader *in, rl_url_part text, uint16_t port)
{
    if (in->out->n_servers == RL_SERVERS_MAX) {
        return rl_url_complain(in, "there are more than %d hosts", RL_SERVERS_MAX);
    }
    rl_server *server = &in->out->servers[in->out->n_servers++];
    *server = (rl_server){.port = port};
    rl_url_part host;
    bool bracketed = text.len != 0 && text.at[0] == '[';
    bool has_port;
    if (bracketed) {
        rl_url_part rest = {text.at + 1, text.len - 1};
        if (!rl_url_split(&rest, ']', &host) || (rest.len != 0 && rest.at[0] != ':')) {
            return rl_url_complain(in, "the host '%.*s' must be an address in brackets, then :port",
                                   rl_url_shown(text), text.at);
        }
        has_port = rest.len != 0;
        text = has_port ? (rl_url_part){rest.at + 1, rest.len - 1} : rest;
    } else {
        has_port = rl_url_split(&text, ':', &host);
        if (host.len == 0) {
            host = (rl_url_part){"localhost", 9};
        }
    }
    if (!is_host(host, bracketed)) {
        return rl_url_complain(
            in,
            "the host must be a name or an address (an IPv6 address in brackets), "
            "got '%.*s'",
            rl_url_shown(host), host.at);
    }
    copy_host(host, server->host);
    return !has_port || read_port(in, text, server);
}

static bool read_servers(const rl_url_reader *in, rl_url_part text)
{
    bool several = in->out->kind != RL_STANDALONE;
    uint16_t port = in->out->kind == RL_SENTINEL ? SENTINEL_PORT : REDIS_PORT;
    rl_url_part one;
    bool more = true;
    while (more) {
        more = rl_url_split(&text, ',', &one);
        if (more && !several) {
            return rl_url_complain(in, "several hosts need redis+sentinel:// or redis+cluster://");
        }
        if (one.len == 0 && (more || in->out->n_servers != 0)) {
            return rl_url_complain(in,
                                   "host %zu of the list is empty: write host or host:port between "
                                   "commas",
                                   in->out->n_servers + 1);
        }
        if (!read_server(in, one, port)) {
            return false;
        }
    }
    return true;
}

/* ---- the whole address ---------------------------------------------------------------- */

static bool read_scheme(rl_url_reader *in, rl_url_part scheme)
{
    static const struct {
        const char *ending;
        rl_topology_kind kind;
    } kinds[] = {{"", RL_STANDALONE}, {"+sentinel", RL_SENTINEL}, {"+cluster", RL_CLUSTER}};
    static const char *const names[] = {"redis", "valkey", "rediss", "valkeys"};
    char word[32];
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < 3; j++) {
            snprintf(word, sizeof word, "%s%s", names[i], kinds[j].ending);
            if (rl_url_equals(scheme, word)) {
                in->out->tls.on = i >= 2;
                in->out->kind = kinds[j].kind;
                return true;
            }
        }
    }
    in->is_unix = rl_url_equals(scheme, "unix") || rl_url_equals(scheme, "redis+unix") ||
                  rl_url_equals(scheme, "valkey+unix");
    if (!in->is_unix) {
        return rl_url_complain(
            in,
            "the scheme must be redis, rediss, unix, redis+sentinel, redis+cluster, "
            "rediss+sentinel or rediss+cluster, got '%.*s'",
            rl_url_shown(scheme), scheme.at);
    }
    return true;
}

static bool read_path(const rl_url_reader *in, rl_url_part path)
{
    rl_url_part master;
    if (in->out->kind == RL_SENTINEL) {
        rl_url_split(&path, '/', &master);
        if (master.len == 0) {
            return rl_url_complain(
                in, "the name of the master is missing: redis+sentinel://hosts/NAME");
        }
        if (!rl_url_decode(in, "name of the master", master, in->out->master_name, RL_NAME_SIZE)) {
            return false;
        }
    }
    return path.len == 0 || rl_url_read_database(in, path);
}

static bool read_socket(const rl_url_reader *in, rl_url_part path)
{
    rl_server *server = &in->out->servers[in->out->n_servers++];
    if (path.len == 0) {
        return rl_url_complain(in, "the path of the socket is missing: unix:///path/of.sock");
    }
    return rl_url_decode(in, "path of the socket", path, server->host, RL_HOST_SIZE);
}

static bool has_at(rl_url_part text)
{
    return text.len != 0 && memchr(text.at, '@', text.len) != NULL;
}

static bool read_all(rl_url_reader *in, rl_url_part text)
{
    rl_url_part scheme, authority, query = {NULL, 0};
    if (!rl_url_split(&text, ':', &scheme) || text.len < 2 || memcmp(text.at, "//", 2) != 0) {
        return rl_url_complain(in,
                               "an address is scheme://host..., such as redis://localhost:6379/0");
    }
    text = (rl_url_part){text.at + 2, text.len - 2};
    if (!read_scheme(in, scheme)) {
        return false;
    }
    rl_url_part before;
    if (rl_url_split(&text, '?', &before)) {
        query = text;
    }
    text = before;
    bool has_path = rl_url_split(&text, '/', &authority);
    if (has_path && in->is_unix) { /* the slash belongs to the path */
        text = (rl_url_part){text.at - 1, text.len + 1};
    }
    rl_url_part who, where = authority;
    /* Else the rest of a password would be shown as a host or a database. */
    bool has_credentials = rl_url_split(&where, '@', &who);
    if (has_at(text) || has_at(where)) {
        return rl_url_complain(in,
                               "in a user name or password '@' must be written %%40, '/' %%2F and "
                               "'?' %%3F");
    }
    in->is_doubtful = !has_credentials && has_at(query);
    if (has_credentials) {
        if (!read_credentials(in, who)) {
            return false;
        }
    } else {
        where = authority;
    }
    if (in->is_unix && where.len != 0) {
        return rl_url_complain(in, "the path of a socket begins with '/': unix:///path, got '%.*s'",
                               rl_url_shown(where), where.at);
    }
    if (!(in->is_unix ? read_socket(in, text) : read_servers(in, where) && read_path(in, text))) {
        return false;
    }
    rl_url_part one;
    bool more = query.len != 0;
    while (more) {
        more = rl_url_split(&query, '&', &one);
        if (!rl_url_read_option(in, one)) {
            return false;
        }
    }
    return true;
}

rl_status rl_url_parse(const char *text, size_t len, rl_options *out, char *error)
{
    rl_url_reader in = {.out = out, .error = error};
    memset(out, 0, sizeof *out);
    out->timeout_ns = NS_PER_S / 10;
    out->connect_timeout_ns = 2 * NS_PER_S;
    memcpy(out->client_name, "rate_limiter", 13);
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] <= ' ' || text[i] == 0x7f) {
            rl_url_complain(
                &in, "an address has no spaces or control characters, got one at place %zu", i + 1);
            return RL_EURL;
        }
        if (text[i] == '#') {
            rl_url_complain(&in, "a '#' in an address must be written '%%23'");
            return RL_EURL;
        }
    }
    if (read_all(&in, (rl_url_part){text, len})) {
        return RL_OK;
    }
    if (in.is_doubtful) { /* the wrong part may belong to the password: do not show it */
        rl_url_complain(&in,
                        "the address is wrong; where is not shown, as it may be in a password, in "
                        "which '@' must be written %%40 and '?' %%3F");
    }
    return RL_EURL;
}
