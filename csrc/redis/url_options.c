/* url_options.c -- values of an address, and the options after the '?'. */
#include "redis/url_parts.h"

#include <stdarg.h>
#include <stdio.h>

#define NS_PER_S INT64_C(1000000000)
#define TIMEOUT_MAX_S 3600

bool rl_url_complain(const rl_url_reader *in, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(in->error, RL_URL_ERROR_SIZE, format, arguments);
    va_end(arguments);
    return false;
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

bool rl_url_decode(const rl_url_reader *in, const char *name, rl_url_part text, char *out,
                   size_t room)
{
    size_t n = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.at[i];
        if (c == '%') {
            int high = text.len - i > 2 ? hex_digit(text.at[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(text.at[i + 2]) : -1;
            if (low < 0 || (high == 0 && low == 0)) {
                return rl_url_complain(
                    in,
                    "the %s has a '%%' that two hexadecimal digits other than 00 "
                    "must follow; write '%%25' for the character itself",
                    name);
            }
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (n + 1 >= room) {
            return rl_url_complain(in, "the %s is longer than %zu bytes", name, room - 1);
        }
        out[n++] = c;
    }
    out[n] = 0;
    return true;
}

bool rl_url_read_number(rl_url_part text, uint64_t most, uint64_t *out)
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

bool rl_url_read_database(const rl_url_reader *in, rl_url_part text)
{
    uint64_t number;
    if (!rl_url_read_number(text, INT32_MAX, &number)) {
        return rl_url_complain(in, "the database must be a whole number from 0, got '%.*s'",
                               rl_url_shown(text), text.at);
    }
    if (in->out->kind == RL_CLUSTER && number != 0) {
        return rl_url_complain(in, "the database of a cluster is 0, got '%.*s'", rl_url_shown(text),
                               text.at);
    }
    in->out->database = (uint32_t)number;
    return true;
}

/* Seconds with up to nine decimals. */
static bool read_timeout(const rl_url_reader *in, const char *name, rl_url_part text, int64_t *out)
{
    rl_url_part rest = text, whole;
    rl_url_split(&rest, '.', &whole);
    uint64_t seconds = 0, fraction = 0;
    bool good = whole.len + rest.len != 0 && rest.len <= 9 &&
                (whole.len == 0 || rl_url_read_number(whole, TIMEOUT_MAX_S, &seconds)) &&
                (rest.len == 0 || rl_url_read_number(rest, UINT64_MAX, &fraction));
    for (size_t i = rest.len; i < 9; i++) {
        fraction *= 10;
    }
    *out = (int64_t)(seconds * (uint64_t)NS_PER_S + fraction);
    if (!good || *out <= 0 || *out > TIMEOUT_MAX_S * NS_PER_S) {
        return rl_url_complain(in, "%s must be seconds above 0 and at most %d, got '%.*s'", name,
                               TIMEOUT_MAX_S, rl_url_shown(text), text.at);
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
    O_CA_CERTS, /* from here on only for TLS */
    O_CA_PATH,
    O_CERTFILE,
    O_KEYFILE,
    O_KEY_PASSWORD,
    O_SERVER_NAME,
    O_CHECK_HOSTNAME,
    O_CERT_REQS,
    O_IGNORED /* from here on ignored */
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
    [O_KEY_PASSWORD] = "ssl_password",
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

static bool equals_in_any_case(rl_url_part text, const char *word)
{
    bool same = text.len == strlen(word);
    for (size_t i = 0; same && i < text.len; i++) {
        char c = text.at[i];
        same = (c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) == word[i];
    }
    return same;
}

static bool read_switch(const rl_url_reader *in, const char *name, rl_url_part text, bool *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (equals_in_any_case(text, words[i])) {
            *out = i % 2 == 1;
            return true;
        }
    }
    return rl_url_complain(in, "%s must be true or false, got '%.*s'", name, rl_url_shown(text),
                           text.at);
}

static bool read_verification(const rl_url_reader *in, rl_url_part text)
{
    in->out->tls.any_certificate = rl_url_equals(text, "none");
    if (!in->out->tls.any_certificate && !rl_url_equals(text, "required")) {
        return rl_url_complain(in, "ssl_cert_reqs must be required or none, got '%.*s'",
                               rl_url_shown(text), text.at);
    }
    return true;
}

static bool set_option(const rl_url_reader *in, option which, rl_url_part value)
{
    rl_options *out = in->out;
    const char *name = OPTIONS[which];
    bool check = true;
    switch (which) {
    case O_DB:
        return rl_url_read_database(in, value);
    case O_USERNAME:
        return rl_url_decode(in, name, value, out->redis.user, RL_USER_SIZE);
    case O_PASSWORD:
        return rl_url_decode(in, name, value, out->redis.password, RL_PASSWORD_SIZE);
    case O_CLIENT_NAME:
        return rl_url_decode(in, name, value, out->client_name, RL_NAME_SIZE);
    case O_TIMEOUT:
    case O_SOCKET_TIMEOUT:
        return read_timeout(in, name, value, &out->timeout_ns);
    case O_CONNECT_TIMEOUT:
    case O_SOCKET_CONNECT_TIMEOUT:
        return read_timeout(in, name, value, &out->connect_timeout_ns);
    case O_SENTINEL_USERNAME:
        return rl_url_decode(in, name, value, out->sentinel.user, RL_USER_SIZE);
    case O_SENTINEL_PASSWORD:
        return rl_url_decode(in, name, value, out->sentinel.password, RL_PASSWORD_SIZE);
    case O_CA_CERTS:
        return rl_url_decode(in, name, value, out->tls.ca_file, RL_PATH_SIZE);
    case O_CA_PATH:
        return rl_url_decode(in, name, value, out->tls.ca_folder, RL_PATH_SIZE);
    case O_CERTFILE:
        return rl_url_decode(in, name, value, out->tls.certificate_file, RL_PATH_SIZE);
    case O_KEYFILE:
        return rl_url_decode(in, name, value, out->tls.key_file, RL_PATH_SIZE);
    case O_KEY_PASSWORD:
        return rl_url_decode(in, name, value, out->tls.key_password, RL_KEY_PASSWORD_SIZE);
    case O_SERVER_NAME:
        return rl_url_decode(in, name, value, out->tls.server_name, RL_HOST_SIZE);
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

static bool complain_unknown(const rl_url_reader *in, rl_url_part name)
{
    /* It may be a piece of a password in which '&' is not written %26. */
    const uint64_t passwords = UINT64_C(1) << O_PASSWORD | UINT64_C(1) << O_SENTINEL_PASSWORD |
                               UINT64_C(1) << O_KEY_PASSWORD;
    if (in->seen & passwords) {
        return rl_url_complain(in, "an option behind the password is not known; in a password '&' "
                                   "must be written %%26");
    }
    char known[RL_URL_ERROR_SIZE] = "";
    size_t len = 0;
    for (size_t i = 0; i < O_IGNORED; i++) {
        len += (size_t)snprintf(known + len, sizeof known - len, " %s", OPTIONS[i]);
    }
    return rl_url_complain(in, "there is no option '%.*s'; known are%s", rl_url_shown(name),
                           name.at, known);
}

bool rl_url_read_option(rl_url_reader *in, rl_url_part text)
{
    rl_url_part name;
    if (!rl_url_split(&text, '=', &name)) {
        return rl_url_complain(in, "an option after the '?' must be name=value");
    }
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (!rl_url_equals(name, OPTIONS[i])) {
            continue;
        }
        bool other_name = i == O_SOCKET_TIMEOUT || i == O_SOCKET_CONNECT_TIMEOUT;
        uint64_t bit = UINT64_C(1) << (other_name ? i - 1 : i);
        if (in->seen & bit) {
            return rl_url_complain(
                in, "the option %s is there twice%s", OPTIONS[i],
                i >= O_TIMEOUT && i <= O_SOCKET_CONNECT_TIMEOUT ? ", with or without socket_" : "");
        }
        in->seen |= bit;
        if (i >= O_CA_CERTS && i < O_IGNORED && !in->out->tls.on) {
            return rl_url_complain(in, "the option %s needs TLS, which rediss:// asks for",
                                   OPTIONS[i]);
        }
        return set_option(in, (option)i, text);
    }
    return complain_unknown(in, name);
}
