/* test_client_address.c -- which client a request comes from. */
#include <string.h>

#include "check.h"
#include "http/client_address.h"

static const struct {
    const char *text;
    const char *client; /* NULL: the text stands for itself */
} PEERS[] = {
    {"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"},
    {"2001:DB8:1:2::", "2001:db8:1:2::/64"},
    {"2001:db8:0:0:1::1", "2001:db8::/64"},
    {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff::/64"},
    {"::1", "::/64"},
    {"::", "::/64"},
    {"fe80::1%eth0", "fe80::/64"},
    {"fe80::1%a very long zone id that somebody made up to be longer than any buffer could be",
     "fe80::/64"},
    {"::ffff:192.0.2.1", "192.0.2.1"},
    {"::ffff:c000:201", "192.0.2.1"},
    {"::FFFF:192.0.2.1%1", "192.0.2.1"},
    {"::192.0.2.1", "::/64"},
    {"192.0.2.1", NULL},
    {"", NULL},
    {":", NULL},
    {"[::1]", NULL},
    {"::1/64", NULL},
    {"::1 ", NULL},
    {"1:2:3:4:5:6:7:8:9", NULL},
    {"12345::", NULL},
    {"::ffff:999.0.2.1", NULL},
    {"testclient", NULL},
    {"/run/app.sock:1", NULL},
    {"::1:::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::", NULL},
};

static void test_peers(void)
{
    for (size_t i = 0; i < sizeof PEERS / sizeof PEERS[0]; i++) {
        char out[RL_CLIENT_ADDRESS_MAX] = "untouched";
        bool found = rl_client_address(PEERS[i].text, strlen(PEERS[i].text), out);
        CHECK(found == (PEERS[i].client != NULL));
        CHECK(strcmp(out, found ? PEERS[i].client : "untouched") == 0);
    }
    char out[RL_CLIENT_ADDRESS_MAX];
    CHECK(!rl_client_address("::1\0x", 5, out)); /* a NUL does not end an address */
}

/* ---- behind proxies: 10.0.0.0/8 and 2001:db8:a::/48 are trusted ----------------------------- */

static rl_text text_of(const char *text)
{
    return (rl_text){text, strlen(text)};
}

static const char *const NAMES[] = {"peer", "forwarded", "malformed", "none"};

/* Return the client and how it was found, such as "203.0.113.7 forwarded". */
static const char *found_over(rl_proxy_header header, bool trust_unix, const char *peer,
                              const char *const *lines)
{
    static char result[RL_ADDRESS_TEXT_MAX + 16];
    rl_network networks[2];
    rl_text texts[8], peer_text;
    size_t n = 0;
    CHECK(rl_network_parse(text_of("10.0.0.0/8"), &networks[0]));
    CHECK(rl_network_parse(text_of("2001:db8:a::/48"), &networks[1]));
    rl_proxies proxies = {networks, 2, trust_unix, header};
    for (; lines[n] != NULL; n++) {
        texts[n] = text_of(lines[n]);
    }
    if (peer != NULL) {
        peer_text = text_of(peer);
    }
    rl_address address;
    char out[RL_ADDRESS_TEXT_MAX] = "";
    rl_client_source source =
        rl_client_find(&proxies, peer != NULL ? &peer_text : NULL, texts, n, &address);
    if (source != RL_CLIENT_NONE) {
        rl_address_format(&address, 128, out);
    }
    snprintf(result, sizeof result, "%s %s", out, NAMES[source]);
    return result;
}

static const struct {
    const char *peer;
    const char *lines[4];
    const char *result;
} CHAINS[] = {
    {"203.0.113.7", {"1.1.1.1"}, "203.0.113.7 peer"}, /* this peer is not trusted */
    {"10.0.0.1", {NULL}, "10.0.0.1 peer"},
    {"10.0.0.1", {"203.0.113.7"}, "203.0.113.7 forwarded"},
    {"10.0.0.1", {"6.6.6.6, 203.0.113.7, 10.0.0.2"}, "203.0.113.7 forwarded"},
    {"10.0.0.1", {"6.6.6.6", "203.0.113.7", "10.0.0.2,10.0.0.3"}, "203.0.113.7 forwarded"},
    {"10.0.0.1", {"10.0.0.9, 10.0.0.2"}, "10.0.0.9 forwarded"}, /* all of them trusted */
    {"10.0.0.1", {"203.0.113.7:1234"}, "203.0.113.7 forwarded"},
    {"10.0.0.1", {"[2001:db8::7]:1"}, "2001:db8::7 forwarded"},
    {"2001:db8:a::1", {"2001:db8::7"}, "2001:db8::7 forwarded"},
    {"::ffff:10.0.0.1", {"::ffff:203.0.113.7"}, "203.0.113.7 forwarded"},
    {"10.0.0.1", {""}, "10.0.0.1 malformed"},
    {"10.0.0.1", {"203.0.113.7,"}, "10.0.0.1 malformed"},
    {"10.0.0.1", {"203.0.113.7, unknown"}, "10.0.0.1 malformed"},
    {"10.0.0.1", {"203.0.113.7, junk, 10.0.0.2"}, "10.0.0.1 malformed"},
    {"10.0.0.1", {"junk, 203.0.113.7"}, "203.0.113.7 forwarded"}, /* left of the client */
    {"testclient", {"203.0.113.7"}, " none"},
    {NULL, {"203.0.113.7"}, " none"},
};

static const struct {
    const char *line;
    const char *result;
} FORWARDED[] = {
    {"for=203.0.113.7", "203.0.113.7 forwarded"},
    {"For=203.0.113.7;proto=https;by=10.0.0.1", "203.0.113.7 forwarded"},
    {"for=6.6.6.6, for=203.0.113.7, for=10.0.0.2", "203.0.113.7 forwarded"},
    {"for=\"203.0.113.7:80\"", "203.0.113.7 forwarded"},
    {"for=\"[2001:db8::7]:4711\"", "2001:db8::7 forwarded"},
    {"for=\"2\\03.0.113.7\"", "203.0.113.7 forwarded"}, /* a quoted pair is its character */
    {"by=\"a,b;c\\\"\";for=203.0.113.7", "203.0.113.7 forwarded"},
    {"host=x;;for=203.0.113.7;", "203.0.113.7 forwarded"},
    {"for=[2001:db8::7]", "10.0.0.1 malformed"}, /* must be quoted */
    {"for=203.0.113.7:80", "10.0.0.1 malformed"},
    {"for=_hidden", "10.0.0.1 malformed"},
    {"for=unknown", "10.0.0.1 malformed"},
    {"for=\"\"", "10.0.0.1 malformed"},
    {"proto=https", "10.0.0.1 malformed"},
    {"", "10.0.0.1 malformed"},
    {"for=203.0.113.7,", "10.0.0.1 malformed"},
    {"for=203.0.113.7;for=203.0.113.8", "10.0.0.1 malformed"},
    {"for=\"203.0.113.7", "10.0.0.1 malformed"},
    {"for=\"203.0.113.7\\", "10.0.0.1 malformed"},
    {"for = 203.0.113.7", "10.0.0.1 malformed"},
    {"for=203.0.113.7 for=1.1.1.1", "10.0.0.1 malformed"},
    {"garbage, for=203.0.113.7", "10.0.0.1 malformed"}, /* anywhere in the line */
    {"for=\"6.6.6.6666666666666666666666666666666666666666666666666666666666666666666666\"",
     "10.0.0.1 malformed"},
};

static void test_chains(void)
{
    for (size_t i = 0; i < sizeof CHAINS / sizeof CHAINS[0]; i++) {
        const char *result = found_over(RL_X_FORWARDED_FOR, false, CHAINS[i].peer, CHAINS[i].lines);
        CHECK(strcmp(result, CHAINS[i].result) == 0);
    }
    const char *const one[] = {"203.0.113.7", NULL};
    const char *const wrong[] = {"junk", NULL};
    const char *const none[] = {NULL};
    CHECK(strcmp(found_over(RL_X_FORWARDED_FOR, true, NULL, one), "203.0.113.7 forwarded") == 0);
    CHECK(strcmp(found_over(RL_X_FORWARDED_FOR, true, NULL, wrong), " none") == 0);
    CHECK(strcmp(found_over(RL_X_FORWARDED_FOR, true, NULL, none), " none") == 0);
    CHECK(strcmp(found_over(RL_X_FORWARDED_FOR, true, "testclient", one), " none") == 0);
}

static void test_forwarded(void)
{
    for (size_t i = 0; i < sizeof FORWARDED / sizeof FORWARDED[0]; i++) {
        const char *const lines[] = {FORWARDED[i].line, NULL};
        const char *result = found_over(RL_FORWARDED, false, "10.0.0.1", lines);
        CHECK(strcmp(result, FORWARDED[i].result) == 0);
    }
    const char *const two[] = {"for=203.0.113.7", "for=10.0.0.2", NULL};
    CHECK(strcmp(found_over(RL_FORWARDED, false, "10.0.0.1", two), "203.0.113.7 forwarded") == 0);
}

/* A chain of trusted proxies is followed to its beginning, at any length. */
static void test_long_chains(void)
{
    static char line[64 * 1024];
    for (size_t n = 1; n <= 1000; n = n * 3 / 2 + 1) {
        size_t len = (size_t)sprintf(line, "for=203.0.113.7");
        for (size_t i = 0; i < n; i++) {
            len += (size_t)sprintf(line + len, ", for=10.0.%zu.%zu", i / 256, i % 256);
        }
        const char *const forwarded[] = {line, NULL};
        const char *result = found_over(RL_FORWARDED, false, "10.0.0.1", forwarded);
        CHECK(strcmp(result, "203.0.113.7 forwarded") == 0);
    }
}

int main(void)
{
    test_peers();
    test_chains();
    test_forwarded();
    test_long_chains();
    return report("test_client_address");
}
