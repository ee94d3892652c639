#include "rl_url.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_S INT64_C(1000000000)
#define TIMEOUT_MAX_S 3600
#define REDIS_PORT 6379
#define SENTINEL_PORT 26379

/* A part of the text. */
typedef struct part {
    const char *at;
    size_t len;
} part;

/* What is read into, and where to complain. */
typedef struct reader {
    rl_options *out;
    char *error;
    uint64_t seen; /* bits of OPTIONS */
    bool is_unix;
    bool is_doubtful; /* an '@' after the '?' alone: is it a password that has a '?' */
} reader;

__attribute__((format(printf, 2, 3))) static bool complain(const reader *in, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(in->error, RL_URL_ERROR_SIZE, format, arguments);
    va_end(arguments);
    return false;
}

/* What of a part fits into a message. */
static int shown(part text)
{
    return text.len < 80 ? (int)text.len : 80;
}

static bool equals(part text, const char *word)
{
    return text.len == strlen(word) && memcmp(text.at, word, text.len) == 0;
}

/* Split *text at the first `separator`: *text becomes what follows it. False: there is none,
 * and *head is all of the text. */
static bool split(part *text, char separator, part *head)
{
    const char *found = text->len != 0 ? memchr(text->at, separator, text->len) : NULL;
    *head = *text;
    if (found == NULL) {
        *text = (part){text->at + text->len, 0};
        return false;
    }
    head->len = (size_t)(found - text->at);
    *text = (part){found + 1, text->len - head->len - 1};
    return true;
}

/* ---- values ---------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decode into `room` bytes. `name` is what the part is called in a message. */
static bool decode(const reader *in, const char *name, part text, char *out, size_t room)
{
    size_t n = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.at[i];
        if (c == '%') {
            int high = text.len - i > 2 ? hex_digit(text.at[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(text.at[i + 2]) : -1;
            if (low < 0 || (high == 0 && low == 0)) {
                return complain(in, "the %s has a '%%' that two hexadecimal digits other than 00 "
                                    "must follow; write '%%25' for the character itself", name);
            }
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (n + 1 >= room) {
            return complain(in, "the %s is longer than %zu bytes", name, room - 1);
        }
        out[n++] = c;
    }
    out[n] = 0;
    return true;
}

static bool read_number(part text, uint64_t most, uint64_t *out)
{
    uint64_t number = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.at[i] < '0' || text.at[i] > '9' || i >= 18) {
            return false;
        }
        number = 10 * number + (uint64_t)(text.at[i] - '0');
    }
    *out = number;
    return text.len != 0 && number <= most;
}

static bool read_database(const reader *in, part text)
{
    uint64_t number;
    if (!read_number(text, INT32_MAX, &number)) {
        return complain(in, "the database must be a whole number from 0, got '%.*s'", shown(text),
                        text.at);
    }
    if (in->out->kind == RL_CLUSTER && number != 0) {
        return complain(in, "the database of a cluster is 0, got '%.*s'", shown(text), text.at);
    }
    in->out->database = (uint32_t)number;
    return true;
}

/* Seconds with up to nine decimals. */
static bool read_timeout(const reader *in, const char *name, part text, int64_t *out)
{
    part rest = text, whole;
    split(&rest, '.', &whole);
    uint64_t seconds = 0, fraction = 0;
    bool good = whole.len + rest.len != 0 && rest.len <= 9 &&
                (whole.len == 0 || read_number(whole, TIMEOUT_MAX_S, &seconds)) &&
                (rest.len == 0 || read_number(rest, UINT64_MAX, &fraction));
    for (size_t i = rest.len; i < 9; i++) {
        fraction *= 10;
    }
    *out = (int64_t)(seconds * (uint64_t)NS_PER_S + fraction);
    if (!good || *out <= 0 || *out > TIMEOUT_MAX_S * NS_PER_S) {
        return complain(in, "%s must be seconds above 0 and at most %d, got '%.*s'", name,
                        TIMEOUT_MAX_S, shown(text), text.at);
    }
    return true;
}

/* ---- options ---------------------------------------------------------------------- */

typedef enum option {
    O_DB,
    O_USERNAME,
    O_PASSWORD,
    O_CLIENT_NAME,
    O_TIMEOUT,
    O_SOCKET_TIMEOUT,
    O_CONNECT_TIMEOUT,
    O_SOCKET_CONNECT_TIMEOUT,
    O_SENTINEL_USERNAME,
    O_SENTINEL_PASSWORD,
    O_CA_CERTS, /* from here on for TLS alone */
    O_CA_PATH,
    O_CERTFILE,
    O_KEYFILE,
    O_SERVER_NAME,
    O_CHECK_HOSTNAME,
    O_CERT_REQS,
    O_IGNORED /* from here on without meaning */
} option;

static const char *const OPTIONS[] = {
    [O_DB] = "db",
    [O_USERNAME] = "username",
    [O_PASSWORD] = "password",
    [O_CLIENT_NAME] = "client_name",
    [O_TIMEOUT] = "timeout",
    [O_SOCKET_TIMEOUT] = "socket_timeout",
    [O_CONNECT_TIMEOUT] = "connect_timeout",
    [O_SOCKET_CONNECT_TIMEOUT] = "socket_connect_timeout",
    [O_SENTINEL_USERNAME] = "sentinel_username",
    [O_SENTINEL_PASSWORD] = "sentinel_password",
    [O_CA_CERTS] = "ssl_ca_certs",
    [O_CA_PATH] = "ssl_ca_path",
    [O_CERTFILE] = "ssl_certfile",
    [O_KEYFILE] = "ssl_keyfile",
    [O_SERVER_NAME] = "ssl_server_name",
    [O_CHECK_HOSTNAME] = "ssl_check_hostname",
    [O_CERT_REQS] = "ssl_cert_reqs",
    [O_IGNORED] = "protocol",
    "decode_responses",
    "encoding",
    "health_check_interval",
    "retry_on_timeout",
    "max_connections",
    "socket_keepalive",
};
#define N_OPTIONS (sizeof OPTIONS / sizeof OPTIONS[0])

static bool equals_in_any_case(part text, const char *word)
{
    bool same = text.len == strlen(word);
    for (size_t i = 0; same && i < text.len; i++) {
        char c = text.at[i];
        same = (c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) == word[i];
    }
    return same;
}

static bool read_switch(const reader *in, const char *name, part text, bool *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (equals_in_any_case(text, words[i])) {
            *out = i % 2 == 1;
            return true;
        }
    }
    return complain(in, "%s must be true or false, got '%.*s'", name, shown(text), text.at);
}

static bool read_verification(const reader *in, part text)
{
    in->out->tls.any_certificate = equals(text, "none");
    if (!in->out->tls.any_certificate && !equals(text, "required")) {
        return complain(in, "ssl_cert_reqs must be required or none, got '%.*s'", shown(text),
                        text.at);
    }
    return true;
}

static bool set_option(const reader *in, option which, part value)
{
    rl_options *out = in->out;
    const char *name = OPTIONS[which];
    bool check = true;
    switch (which) {
    case O_DB:
        return read_database(in, value);
    case O_USERNAME:
        return decode(in, name, value, out->redis.user, RL_USER_SIZE);
    case O_PASSWORD:
        return decode(in, name, value, out->redis.password, RL_PASSWORD_SIZE);
    case O_CLIENT_NAME:
        return decode(in, name, value, out->client_name, RL_NAME_SIZE);
    case O_TIMEOUT:
    case O_SOCKET_TIMEOUT:
        return read_timeout(in, name, value, &out->timeout_ns);
    case O_CONNECT_TIMEOUT:
    case O_SOCKET_CONNECT_TIMEOUT:
        return read_timeout(in, name, value, &out->connect_timeout_ns);
    case O_SENTINEL_USERNAME:
        return decode(in, name, value, out->sentinel.user, RL_USER_SIZE);
    case O_SENTINEL_PASSWORD:
        return decode(in, name, value, out->sentinel.password, RL_PASSWORD_SIZE);
    case O_CA_CERTS:
        return decode(in, name, value, out->tls.ca_file, RL_PATH_SIZE);
    case O_CA_PATH:
        return decode(in, name, value, out->tls.ca_folder, RL_PATH_SIZE);
    case O_CERTFILE:
        return decode(in, name, value, out->tls.certificate_file, RL_PATH_SIZE);
    case O_KEYFILE:
        return decode(in, name, value, out->tls.key_file, RL_PATH_SIZE);
    case O_SERVER_NAME:
        return decode(in, name, value, out->tls.server_name, RL_HOST_SIZE);
    case O_CHECK_HOSTNAME:
        if (!read_switch(in, name, value, &check)) {
            return false;
        }
        out->tls.any_name = !check;
        return true;
    case O_CERT_REQS:
        return read_verification(in, value);
    default:
        return true;
    }
}

static bool complain_unknown(const reader *in, part name)
{
    char known[RL_URL_ERROR_SIZE] = "";
    size_t len = 0;
    for (size_t i = 0; i < O_IGNORED; i++) {
        len += (size_t)snprintf(known + len, sizeof known - len, " %s", OPTIONS[i]);
    }
    return complain(in, "there is no option '%.*s'; known are%s", shown(name), name.at, known);
}

static bool read_option(reader *in, part text)
{
    part name;
    if (!split(&text, '=', &name)) {
        return complain(in, "an option after the '?' must be name=value");
    }
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (!equals(name, OPTIONS[i])) {
            continue;
        }
        bool other_name = i == O_SOCKET_TIMEOUT || i == O_SOCKET_CONNECT_TIMEOUT;
        uint64_t bit = UINT64_C(1) << (other_name ? i - 1 : i);
        if (in->seen & bit) {
            return complain(in, "the option %s is there twice%s", OPTIONS[i],
                            i >= O_TIMEOUT && i <= O_SOCKET_CONNECT_TIMEOUT
                                ? ", with or without socket_" : "");
        }
        in->seen |= bit;
        if (i >= O_CA_CERTS && i < O_IGNORED && !in->out->tls.on) {
            return complain(in, "the option %s needs TLS, which rediss:// asks for", OPTIONS[i]);
        }
        return set_option(in, (option)i, text);
    }
    return complain_unknown(in, name);
}

/* ---- who and where ------------------------------------------------------------------ */

static bool read_credentials(const reader *in, part text)
{
    part user;
    split(&text, ':', &user);
    return decode(in, "user name", user, in->out->redis.user, RL_USER_SIZE) &&
           decode(in, "password", text, in->out->redis.password, RL_PASSWORD_SIZE);
}

static bool read_port(const reader *in, part text, rl_server *server)
{
    uint64_t port;
    if (!read_number(text, 65535, &port) || port == 0) {
        return complain(in, "the port must be a number from 1 to 65535, got '%.*s'", shown(text),
                        text.at);
    }
    server->port = (uint16_t)port;
    return true;
}

static bool is_host(part text, bool bracketed)
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

/* A zone's '%' is written "%25" (RFC 6874) or, as redis-py has it, as it is. */
static void copy_host(part host, char *out)
{
    const char *zone = memchr(host.at, '%', host.len);
    size_t head = zone == NULL ? host.len : (size_t)(zone - host.at) + 1;
    size_t skip = host.len > head + 2 && memcmp(host.at + head, "25", 2) == 0 ? 2 : 0;
    memcpy(out, host.at, head);
    memcpy(out + head, host.at + head + skip, host.len - head - skip);
}

/* host, host:port, [address], [address]:port, :port */
static bool read_server(const reader *in, part text, uint16_t port)
{
    if (in->out->n_servers == RL_SERVERS_MAX) {
        return complain(in, "there are more than %d hosts", RL_SERVERS_MAX);
    }
    rl_server *server = &in->out->servers[in->out->n_servers++];
    *server = (rl_server){.port = port};
    part host;
    bool bracketed = text.len != 0 && text.at[0] == '[';
    bool has_port;
    if (bracketed) {
        part rest = {text.at + 1, text.len - 1};
        if (!split(&rest, ']', &host) || (rest.len != 0 && rest.at[0] != ':')) {
            return complain(in, "the host '%.*s' must be an address in brackets, then :port",
                            shown(text), text.at);
        }
        has_port = rest.len != 0;
        text = has_port ? (part){rest.at + 1, rest.len - 1} : rest;
    } else {
        has_port = split(&text, ':', &host);
        if (host.len == 0) {
            host = (part){"localhost", 9};
        }
    }
    if (!is_host(host, bracketed)) {
        return complain(in, "the host must be a name or an address (an IPv6 address in brackets), "
                            "got '%.*s'", shown(host), host.at);
    }
    copy_host(host, server->host);
    return !has_port || read_port(in, text, server);
}

static bool read_servers(const reader *in, part text)
{
    bool several = in->out->kind != RL_STANDALONE;
    uint16_t port = in->out->kind == RL_SENTINEL ? SENTINEL_PORT : REDIS_PORT;
    part one;
    bool more = true;
    while (more) {
        more = split(&text, ',', &one);
        if (more && !several) {
            return complain(in, "several hosts need redis+sentinel:// or redis+cluster://");
        }
        if (one.len == 0 && (more || in->out->n_servers != 0)) {
            return complain(in, "host %zu of the list is empty: write host or host:port between "
                                "commas", in->out->n_servers + 1);
        }
        if (!read_server(in, one, port)) {
            return false;
        }
    }
    return true;
}

/* ---- the whole ------------------------------------------------------------------------ */

static bool read_scheme(reader *in, part scheme)
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
            if (equals(scheme, word)) {
                in->out->tls.on = i >= 2;
                in->out->kind = kinds[j].kind;
                return true;
            }
        }
    }
    in->is_unix = equals(scheme, "unix") || equals(scheme, "redis+unix") ||
                  equals(scheme, "valkey+unix");
    if (!in->is_unix) {
        return complain(in, "the scheme must be redis, rediss, unix, redis+sentinel, redis+cluster, "
                            "rediss+sentinel or rediss+cluster, got '%.*s'",
                        shown(scheme), scheme.at);
    }
    return true;
}

static bool read_path(const reader *in, part path)
{
    part master;
    if (in->out->kind == RL_SENTINEL) {
        split(&path, '/', &master);
        if (master.len == 0) {
            return complain(in, "the name of the master is missing: redis+sentinel://hosts/NAME");
        }
        if (!decode(in, "name of the master", master, in->out->master_name, RL_NAME_SIZE)) {
            return false;
        }
    }
    return path.len == 0 || read_database(in, path);
}

static bool read_socket(const reader *in, part path)
{
    rl_server *server = &in->out->servers[in->out->n_servers++];
    if (path.len == 0) {
        return complain(in, "the path of the socket is missing: unix:///path/of.sock");
    }
    return decode(in, "path of the socket", path, server->host, RL_HOST_SIZE);
}

static bool has_at(part text)
{
    return text.len != 0 && memchr(text.at, '@', text.len) != NULL;
}

static bool read_all(reader *in, part text)
{
    part scheme, authority, query = {NULL, 0};
    if (!split(&text, ':', &scheme) || text.len < 2 || memcmp(text.at, "//", 2) != 0) {
        return complain(in, "an address is scheme://host..., such as redis://localhost:6379/0");
    }
    text = (part){text.at + 2, text.len - 2};
    if (!read_scheme(in, scheme)) {
        return false;
    }
    part before;
    if (split(&text, '?', &before)) {
        query = text;
    }
    text = before;
    bool has_path = split(&text, '/', &authority);
    if (has_path && in->is_unix) { /* the slash belongs to the path */
        text = (part){text.at - 1, text.len + 1};
    }
    part who, where = authority;
    /* Else the rest of a password would be shown as a host or a database. */
    bool has_credentials = split(&where, '@', &who);
    if (has_at(text) || has_at(where)) {
        return complain(in, "in a user name or password '@' must be written %%40, '/' %%2F and "
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
        return complain(in, "the path of a socket begins with '/': unix:///path, got '%.*s'",
                        shown(where), where.at);
    }
    if (!(in->is_unix ? read_socket(in, text) : read_servers(in, where) && read_path(in, text))) {
        return false;
    }
    part one;
    bool more = query.len != 0;
    while (more) {
        more = split(&query, '&', &one);
        if (!read_option(in, one)) {
            return false;
        }
    }
    return true;
}

rl_status rl_url_parse(const char *text, size_t len, rl_options *out, char *error)
{
    reader in = {.out = out, .error = error};
    memset(out, 0, sizeof *out);
    out->timeout_ns = NS_PER_S / 10;
    out->connect_timeout_ns = 2 * NS_PER_S;
    memcpy(out->client_name, "rate_limiter", 13);
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] <= ' ' || text[i] == 0x7f) {
            complain(&in, "an address has no spaces or control characters, got one at place %zu",
                     i + 1);
            return RL_EURL;
        }
        if (text[i] == '#') {
            complain(&in, "a '#' in an address must be written '%%23'");
            return RL_EURL;
        }
    }
    if (read_all(&in, (part){text, len})) {
        return RL_OK;
    }
    if (in.is_doubtful) { /* what is wrong may be a piece of the password: do not show it */
        complain(&in, "the address is wrong; where is not shown, as it may be in a password, in "
                      "which '@' must be written %%40 and '?' %%3F");
    }
    return RL_EURL;
}
