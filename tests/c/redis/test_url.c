/* test_url.c -- addresses: valid ones, their beginnings, and wrong ones. */
#include <string.h>

#include "check.h"
#include "redis/url.h"

static rl_options parsed(const char *text)
{
    char error[RL_URL_ERROR_SIZE] = "";
    rl_options options;
    rl_status status = rl_url_parse(text, strlen(text), &options, error);
    if (status != RL_OK) {
        printf("%s: %s\n", text, error);
    }
    CHECK_EQUAL(status, RL_OK);
    return options;
}

static void check_server(const rl_options *options, size_t i, const char *host, unsigned port)
{
    CHECK(i < options->n_servers && strcmp(options->servers[i].host, host) == 0);
    CHECK_EQUAL(options->servers[i].port, port);
}

static void test_good(void)
{
    rl_options o = parsed("redis://");
    check_server(&o, 0, "localhost", 6379);
    CHECK(o.kind == RL_STANDALONE && o.n_servers == 1 && o.database == 0 && !o.tls.on);
    CHECK(o.timeout_ns == 100000000 && o.connect_timeout_ns == 2000000000);
    CHECK(strcmp(o.client_name, "rate_limiter") == 0);
    o = parsed("redis://user:p%40%3a@[fe80::1%25eth0]:7/3?timeout=.25&client_name=");
    check_server(&o, 0, "fe80::1%eth0", 7);
    CHECK(strcmp(o.redis.user, "user") == 0 && strcmp(o.redis.password, "p@:") == 0);
    CHECK(o.database == 3 && o.timeout_ns == 250000000 && o.client_name[0] == 0);
    o = parsed("redis://[fe80::1%eth0]");
    check_server(&o, 0, "fe80::1%eth0", 6379);
    o = parsed("redis://[fe80::1%25]");
    check_server(&o, 0, "fe80::1%25", 6379);
    o = parsed("redis://x@h?client_name=a@b");
    CHECK(strcmp(o.redis.user, "x") == 0 && o.redis.password[0] == 0);
    CHECK(strcmp(o.client_name, "a@b") == 0);
    o = parsed("redis://h?password=p@q");
    CHECK(strcmp(o.redis.password, "p@q") == 0);
    o = parsed("rediss://h?ssl_check_hostname=FALSE");
    CHECK(o.tls.any_name);
    o = parsed("rediss://h?ssl_check_hostname=Yes");
    CHECK(!o.tls.any_name);
    o = parsed("valkey+unix:///a.sock");
    check_server(&o, 0, "/a.sock", 0);
    o = parsed("redis+cluster://a,:7");
    check_server(&o, 1, "localhost", 7);
    o = parsed("redis://:only@h");
    CHECK(o.redis.user[0] == 0 && strcmp(o.redis.password, "only") == 0);
    o = parsed("valkeys://h?ssl_cert_reqs=none&ssl_check_hostname=no&ssl_ca_certs=/a%20b");
    CHECK(o.tls.on && o.tls.any_certificate && o.tls.any_name);
    CHECK(strcmp(o.tls.ca_file, "/a b") == 0);
    o = parsed("unix://:pw@/run/r.sock?db=2&connect_timeout=3600");
    check_server(&o, 0, "/run/r.sock", 0);
    CHECK(o.database == 2 && strcmp(o.redis.password, "pw") == 0);
    o = parsed("redis+sentinel://a,b:5,[::1]/my%2Fmaster/9?sentinel_password=s");
    CHECK(o.kind == RL_SENTINEL && o.n_servers == 3 && o.database == 9);
    check_server(&o, 0, "a", 26379);
    check_server(&o, 1, "b", 5);
    check_server(&o, 2, "::1", 26379);
    CHECK(strcmp(o.master_name, "my/master") == 0 && strcmp(o.sentinel.password, "s") == 0);
    o = parsed("rediss+cluster://a:1,b/0?protocol=3&decode_responses=True");
    CHECK(o.kind == RL_CLUSTER && o.tls.on && o.n_servers == 2);
    check_server(&o, 1, "b", 6379);
}

/* Every beginning of an address is read or refused, in memory of exactly its length. */
static void test_beginnings(void)
{
    static const char *const texts[] = {
        "redis://user:p%40%3a@[fe80::1]:7/3?timeout=.25&client_name=x",
        "rediss+sentinel://a,b:5,[::1]/my%2Fmaster/9?sentinel_password=s&ssl_ca_certs=%2Fa",
        "unix://:pw@/run/r.sock?db=2",
    };
    for (size_t i = 0; i < 3; i++) {
        for (size_t len = 0; len <= strlen(texts[i]); len++) {
            char error[RL_URL_ERROR_SIZE] = "";
            rl_options options;
            char *copy = malloc(len + (len == 0));
            memcpy(copy, texts[i], len);
            rl_status status = rl_url_parse(copy, len, &options, error);
            CHECK(status == RL_OK || (status == RL_EURL && error[0] != 0));
            free(copy);
        }
    }
}

/* The message names the wrong part and never shows a password. */
static void test_bad(void)
{
    static const struct {
        const char *text;
        const char *message;
    } bad[] = {
        {"", "scheme://host"},
        {"http://h", "scheme must be"},
        {"redis://h h", "spaces or control characters"},
        {"redis://h#x", "'%23'"},
        {"redis://h:65536", "port must be"},
        {"redis://h:-1", "port must be"},
        {"redis://user:SECRET", "port must be"},
        {"redis://user:9SECRET", "port must be"},
        {"redis://h?password=x&SECRET=1", "'&' must be written %26"},
        {"redis://h/2147483648", "database must be"},
        {"redis+cluster://h/1", "database of a cluster"},
        {"redis://%zz@h", "user name has a '%'"},
        {"redis://:SECRET%00@h", "password has a '%'"},
        {"redis://:SECRET@x@h", "'@' must be written %40"},
        {"redis://:SECRET/x@h", "'/' %2F"},
        {"redis://u:SECRET?x@h", "'?' %3F"},
        {"redis://:1234?SECRET=x@h", "'?' %3F"},
        {"redis://u:12/SECRET?x@h/0", "'?' %3F"},
        {"redis+cluster://u:pa,SE!CRET?x@h", "'?' %3F"},
        {"redis://a,b", "several hosts"},
        {"redis+cluster://a,,b", "host 2 of the list is empty"},
        {"redis+cluster://,a", "host 1 of the list is empty"},
        {"redis+sentinel://a,/m", "host 2 of the list is empty"},
        {"redis://[h]", "host must be"},
        {"redis://[::1]x", "address in brackets"},
        {"redis+sentinel://h", "name of the master"},
        {"unix://tmp/a.sock", "path of a socket"},
        {"unix:///a%", "path of the socket has a '%'"},
        {"redis://h?timeout=1e3", "timeout must be seconds"},
        {"redis://h?timeout=3600.000000001", "timeout must be seconds"},
        {"redis://h?db=1&db=1", "option db is there twice"},
        {"redis://h?timeout=1&socket_timeout=2", "option socket_timeout is there twice"},
        {"redis://h?socket_connect_timeout=1&connect_timeout=2",
         "option connect_timeout is there twice"},
        {"redis://h?nope=1", "known are db"},
        {"redis://h?db", "name=value"},
        {"redis://h?ssl_certfile=/c", "needs TLS"},
        {"rediss://h?ssl_check_hostname=truth", "ssl_check_hostname must be"},
        {"rediss://h?ssl_cert_reqs=optional", "ssl_cert_reqs must be"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char error[RL_URL_ERROR_SIZE] = "";
        rl_options options;
        rl_status status = rl_url_parse(bad[i].text, strlen(bad[i].text), &options, error);
        bool named = status == RL_EURL && strstr(error, bad[i].message) != NULL;
        if (!named) {
            printf("%s: %s\n", bad[i].text, error);
        }
        CHECK(named);
        CHECK(strstr(error, "SE") == NULL);
    }
}

static void test_too_much(void)
{
    char text[9000] = "redis+cluster://";
    char error[RL_URL_ERROR_SIZE];
    rl_options options;
    for (int i = 0; i <= RL_SERVERS_MAX; i++) {
        strcat(text, "h,");
    }
    CHECK_EQUAL(rl_url_parse(text, strlen(text), &options, error), RL_EURL);
    CHECK(strstr(error, "more than 32 hosts") != NULL);
    strcpy(text, "redis://:");
    memset(text + 9, 'p', 5000);
    strcpy(text + 5009, "@h");
    CHECK_EQUAL(rl_url_parse(text, strlen(text), &options, error), RL_EURL);
    CHECK(strstr(error, "password is longer than 4095 bytes") != NULL);
    CHECK(strstr(error, "ppp") == NULL);
}

int main(void)
{
    test_good();
    test_beginnings();
    test_bad();
    test_too_much();
    return report("url");
}
