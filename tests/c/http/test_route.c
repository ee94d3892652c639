/* test_route.c -- which rules apply to a request. */
#include <string.h>

#include "check.h"
#include "http/route.h"

static rl_text text_of(const char *text)
{
    return (rl_text){text, strlen(text)};
}

static rl_route_status add(rl_routes *routes, uint32_t rule, const char *pattern,
                           const char *method, int tier, const char *key)
{
    uint32_t other;
    rl_text key_text = text_of(key != NULL ? key : "");
    rl_route route = {text_of(pattern), text_of(method), tier, key != NULL ? &key_text : NULL,
                      NULL};
    return rl_routes_add(routes, &route, rule, &other);
}

static rl_route_status add_network(rl_routes *routes, uint32_t rule, const char *pattern,
                                   const char *network)
{
    uint32_t other;
    rl_network parsed;
    CHECK(rl_network_parse(text_of(network), &parsed));
    rl_route route = {text_of(pattern), text_of(""), -1, NULL, &parsed};
    return rl_routes_add(routes, &route, rule, &other);
}

/* Return the rules of a request as digits, "-" for none: "3" or "30-". */
static const char *found(const rl_routes *routes, const char *path, const char *method,
                         const int *tiers, size_t n_tiers, const char *key, bool werkzeug)
{
    static char result[RL_ROUTE_READINGS + 1];
    rl_text key_text = text_of(key != NULL ? key : "");
    rl_request_line request = {.path = text_of(path),
                               .method = text_of(method),
                               .tiers = tiers,
                               .n_tiers = n_tiers,
                               .key = key != NULL ? &key_text : NULL,
                               .routes_like_werkzeug = werkzeug};
    uint32_t rules[RL_ROUTE_READINGS];
    size_t n = rl_routes_find(routes, &request, rules);
    for (size_t i = 0; i < n; i++) {
        result[i] = rules[i] == RL_ROUTE_NONE ? '-' : (char)('0' + rules[i]);
    }
    result[n] = '\0';
    return result;
}

static const char *get(const rl_routes *routes, const char *path)
{
    return found(routes, path, "GET", NULL, 0, NULL, false);
}

#define CHECK_TEXT(actual, expected) CHECK(strcmp((actual), (expected)) == 0)

static void test_paths(void)
{
    rl_routes *routes = rl_routes_new();
    CHECK(add(routes, 0, "/**", "", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 1, "/items/{id}", "", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 2, "/items/first", "", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 3, "/static/{rest:path}", "", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 4, "/items/{id}/parts/*", "", -1, NULL) == RL_ROUTE_OK);
    CHECK_TEXT(get(routes, "/"), "0");
    CHECK_TEXT(get(routes, ""), "0");
    CHECK_TEXT(get(routes, "/items"), "0");
    CHECK_TEXT(get(routes, "/items/7"), "1");
    CHECK_TEXT(get(routes, "/items/first"), "2"); /* a word before any segment */
    CHECK_TEXT(get(routes, "/items/first/parts/3"), "4");
    CHECK_TEXT(get(routes, "/items/7/parts"), "0");
    CHECK_TEXT(get(routes, "/static/css/site.css"), "3");
    CHECK_TEXT(get(routes, "/static"), "30"); /* Starlette's {rest:path} needs the slash */
    CHECK_TEXT(get(routes, "/static/"), "3");
    CHECK_TEXT(found(routes, "/static/", "GET", NULL, 0, NULL, true), "30");
    rl_routes_free(routes);
}

/* All readings of an unusual path count, so it is never exempt by one of them. */
static void test_odd_paths(void)
{
    rl_routes *routes = rl_routes_new();
    CHECK(add(routes, 0, "/**", "", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 1, "/health", "", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 2, "/login", "", -1, NULL) == RL_ROUTE_OK);
    CHECK_TEXT(get(routes, "/health"), "1");
    CHECK_TEXT(get(routes, "/health/"), "10");
    CHECK_TEXT(get(routes, "//health"), "10");
    CHECK_TEXT(get(routes, "/health//"), "10");
    CHECK_TEXT(get(routes, "health"), "10");
    CHECK_TEXT(get(routes, "/login\n"), "20");
    CHECK_TEXT(get(routes, "/x/../login"), "02");
    CHECK_TEXT(get(routes, "/./login"), "02");
    CHECK_TEXT(get(routes, "/../login/x/.."), "02");
    CHECK_TEXT(get(routes, "/login/.."), "0");
    rl_routes_free(routes);
}

static void test_methods(void)
{
    rl_routes *routes = rl_routes_new();
    CHECK(add(routes, 0, "/x", "", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 1, "/x", "GET", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 2, "/x", "POST", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 3, "/y", "HEAD", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 4, "/y", "GET", -1, NULL) == RL_ROUTE_OK);
    CHECK_TEXT(found(routes, "/x", "GET", NULL, 0, NULL, false), "1");
    CHECK_TEXT(found(routes, "/x", "HEAD", NULL, 0, NULL, false), "1"); /* as GET */
    CHECK_TEXT(found(routes, "/x", "POST", NULL, 0, NULL, false), "2");
    CHECK_TEXT(found(routes, "/x", "DELETE", NULL, 0, NULL, false), "0");
    CHECK_TEXT(found(routes, "/x", "", NULL, 0, NULL, false), "0");
    CHECK_TEXT(found(routes, "/y", "HEAD", NULL, 0, NULL, false), "3");
    CHECK_TEXT(found(routes, "/y", "PUT", NULL, 0, NULL, false), "-");
    rl_routes_free(routes);
}

static void test_tiers_and_keys(void)
{
    const int both[] = {1, 0}; /* the highest first */
    const int low[] = {0};
    const int unknown[] = {7};
    rl_routes *routes = rl_routes_new();
    CHECK(add(routes, 0, "/**", "", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 1, "/**", "", 0, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 2, "/**", "", 1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 3, "/paid", "", -1, "key") == RL_ROUTE_OK);
    CHECK(add(routes, 4, "/**", "POST", 1, "key") == RL_ROUTE_OK);
    CHECK_TEXT(found(routes, "/x", "GET", NULL, 0, NULL, false), "0");
    CHECK_TEXT(found(routes, "/x", "GET", low, 1, NULL, false), "1");
    CHECK_TEXT(found(routes, "/x", "GET", both, 2, NULL, false), "2");
    CHECK_TEXT(found(routes, "/x", "GET", unknown, 1, NULL, false), "0");
    CHECK_TEXT(found(routes, "/paid", "GET", both, 2, "key", false), "3"); /* a key before all */
    CHECK_TEXT(found(routes, "/x", "GET", both, 2, "key", false), "2");
    CHECK_TEXT(found(routes, "/x", "POST", both, 2, "key", false), "4");
    CHECK_TEXT(found(routes, "/paid", "GET", NULL, 0, "other", false), "0");
    rl_routes_free(routes);
}

/* Return the rule of GET from an address, as a digit, '-' for none. */
static char rule_of_client(const rl_routes *routes, const char *path, const char *key,
                           const char *address)
{
    rl_address parsed;
    rl_text key_text = text_of(key != NULL ? key : "");
    bool has_address = address != NULL && rl_address_parse(text_of(address), &parsed);
    rl_request_line request = {.path = text_of(path),
                               .method = text_of("GET"),
                               .key = key != NULL ? &key_text : NULL,
                               .address = has_address ? &parsed : NULL};
    uint32_t rules[RL_ROUTE_READINGS];
    CHECK_EQUAL(rl_routes_find(routes, &request, rules), 1);
    return rules[0] == RL_ROUTE_NONE ? '-' : (char)('0' + rules[0]);
}

static void test_networks(void)
{
    rl_routes *routes = rl_routes_new();
    CHECK(add(routes, 0, "/**", "", -1, NULL) == RL_ROUTE_OK);
    CHECK(!rl_routes_use_networks(routes));
    CHECK(add(routes, 1, "/**", "", -1, "203.0.113.9") == RL_ROUTE_OK);
    CHECK(add_network(routes, 2, "/**", "203.0.113.0/24") == RL_ROUTE_OK);
    CHECK(add_network(routes, 3, "/paid", "203.0.113.64/27") == RL_ROUTE_OK);
    CHECK(add_network(routes, 4, "/**", "2001:db8::/33") == RL_ROUTE_OK);
    CHECK(add_network(routes, 5, "/**", "2001:db8::7") == RL_ROUTE_OK);
    CHECK(add_network(routes, 6, "/v6", "::/0") == RL_ROUTE_OK);
    CHECK(rl_routes_use_networks(routes));
    CHECK_EQUAL(rule_of_client(routes, "/", NULL, NULL), '0');
    CHECK_EQUAL(rule_of_client(routes, "/", NULL, "203.0.112.255"), '0');
    CHECK_EQUAL(rule_of_client(routes, "/", NULL, "203.0.113.0"), '2');
    CHECK_EQUAL(rule_of_client(routes, "/", "any key", "203.0.113.255"), '2');
    CHECK_EQUAL(rule_of_client(routes, "/", NULL, "::ffff:203.0.113.1"), '2');   /* v4-mapped */
    CHECK_EQUAL(rule_of_client(routes, "/", "203.0.113.9", "203.0.113.9"), '1'); /* a key first */
    CHECK_EQUAL(rule_of_client(routes, "/paid", NULL, "203.0.113.65"), '3'); /* the longest first */
    CHECK_EQUAL(rule_of_client(routes, "/x", NULL, "203.0.113.65"), '2'); /* then a shorter one */
    CHECK_EQUAL(rule_of_client(routes, "/paid", NULL, "203.0.113.96"), '2');
    CHECK_EQUAL(rule_of_client(routes, "/", NULL, "2001:db8:7fff::1"), '4');
    CHECK_EQUAL(rule_of_client(routes, "/", NULL, "2001:db8:8000::1"), '0'); /* bit 33 */
    CHECK_EQUAL(rule_of_client(routes, "/", NULL, "2001:db8::7"), '5');
    CHECK_EQUAL(rule_of_client(routes, "/v6", NULL, "fe80::1"), '6');
    CHECK_EQUAL(rule_of_client(routes, "/v6", NULL, "192.0.2.1"), '0'); /* IPv4 is not in ::/0 */
    CHECK(add_network(routes, 7, "/**", "203.0.113.0/24") == RL_ROUTE_ETAKEN);
    rl_routes_free(routes);
}

/* Networks of every length: each address has the longest one that contains it. */
static void test_all_lengths(void)
{
    static const char address[] = "2001:db8:85a3:8d3:1319:8a2e:370:7348";
    rl_address full;
    rl_routes *routes = rl_routes_new();
    CHECK(rl_address_parse(text_of(address), &full));
    for (unsigned prefix = 0; prefix <= 128; prefix++) {
        rl_network network = {full, prefix};
        for (unsigned i = prefix; i < 128; i++) {
            network.base.bytes[i / 8] &= (unsigned char)~(0x80u >> (i % 8));
        }
        uint32_t other;
        rl_route route = {text_of("/**"), text_of(""), -1, NULL, &network};
        CHECK(rl_routes_add(routes, &route, prefix, &other) == RL_ROUTE_OK);
    }
    for (unsigned same = 0; same <= 128; same++) { /* bits that are those of the address */
        rl_address client = full;
        if (same < 128) {
            client.bytes[same / 8] ^= (unsigned char)(0x80u >> (same % 8));
        }
        rl_request_line request = {
            .path = text_of("/"), .method = text_of("GET"), .address = &client};
        uint32_t rules[RL_ROUTE_READINGS];
        CHECK_EQUAL(rl_routes_find(routes, &request, rules), 1);
        CHECK_EQUAL(rules[0], same);
    }
    rl_routes_free(routes);
}

static void test_refused(void)
{
    static const char *const wrong[] = {
        "",      "x",   "/**/x", "/{rest:path}/x", "/a*",      "/{}", "/{1a}", "/{a-b}", "/{a:int}",
        "/a{b}", "/{a", "/a}",   "/***",           "/{:path}",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        rl_routes *routes = rl_routes_new();
        CHECK_EQUAL(add(routes, 0, wrong[i], "", -1, NULL), RL_ROUTE_EPATTERN);
        rl_routes_free(routes);
    }
    char deep[3 * RL_ROUTE_DEPTH_MAX] = "";
    rl_routes *routes = rl_routes_new();
    for (int i = 0; i < RL_ROUTE_DEPTH_MAX; i++) {
        strcat(deep, "/a");
    }
    CHECK_EQUAL(add(routes, 0, deep, "", -1, NULL), RL_ROUTE_OK);
    CHECK_TEXT(get(routes, deep), "0");
    strcat(deep, "/a");
    CHECK_TEXT(get(routes, deep), "-");
    CHECK_EQUAL(add(routes, 0, deep, "", -1, NULL), RL_ROUTE_EDEPTH);
    rl_routes_free(routes);
    routes = rl_routes_new();
    CHECK_EQUAL(add(routes, 0, "/a/{b}", "GET", -1, NULL), RL_ROUTE_OK);
    CHECK_EQUAL(add(routes, 0, "/a/{c}", "GET", -1, NULL), RL_ROUTE_OK); /* the same rule */
    CHECK_EQUAL(add(routes, 1, "/a/*", "GET", -1, NULL), RL_ROUTE_ETAKEN);
    rl_routes_free(routes);
}

static void test_many_rules(void)
{
    char pattern[64];
    rl_routes *routes = rl_routes_new();
    for (uint32_t i = 0; i < 10000; i++) {
        snprintf(pattern, sizeof pattern, "/v%u/%u/{id}/x%u", i % 7, i, i % 3);
        CHECK_EQUAL(add(routes, i, pattern, i % 2 == 0 ? "GET" : "", -1, NULL), RL_ROUTE_OK);
    }
    for (uint32_t i = 0; i < 10000; i++) {
        uint32_t rules[RL_ROUTE_READINGS];
        snprintf(pattern, sizeof pattern, "/v%u/%u/77/x%u", i % 7, i, i % 3);
        rl_request_line request = {.path = text_of(pattern), .method = text_of("GET")};
        CHECK_EQUAL(rl_routes_find(routes, &request, rules), 1);
        CHECK_EQUAL(rules[0], i);
    }
    rl_routes_free(routes);
}

/* A path of any length costs at most as much as the deepest pattern. */
static void test_long_paths(void)
{
    static char path[65537];
    rl_routes *routes = rl_routes_new();
    CHECK(add(routes, 0, "/**", "", -1, NULL) == RL_ROUTE_OK);
    CHECK(add(routes, 1, "/a/{b}", "", -1, NULL) == RL_ROUTE_OK);
    static const char *const parts[] = {"/", "/a", "/..", "/a/..", "/\n"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        path[0] = '\0';
        for (size_t len = 0; len + strlen(parts[i]) < sizeof path; len += strlen(parts[i])) {
            memcpy(path + len, parts[i], strlen(parts[i]) + 1);
        }
        CHECK(strchr(get(routes, path), '0') != NULL);
    }
    rl_routes_free(routes);
}

static void test_out_of_memory(void)
{
    for (unsigned long first = 0;; first++) {
        seam_fail(first, 1);
        rl_routes *routes = rl_routes_new();
        rl_route_status status = routes == NULL ? RL_ROUTE_ENOMEM : RL_ROUTE_OK;
        char pattern[32];
        for (uint32_t i = 0; i < 40 && status == RL_ROUTE_OK; i++) {
            snprintf(pattern, sizeof pattern, "/%u/{id}/**", i);
            status = add(routes, i, pattern, i % 2 == 0 ? "GET" : "POST", -1, i == 9 ? "k" : NULL);
            if (status == RL_ROUTE_OK && i == 20) {
                status = add_network(routes, i, "/**", "10.0.0.0/8");
            }
        }
        bool all_done = seam_calls() <= first;
        seam_fail(0, 0);
        CHECK(status == (all_done ? RL_ROUTE_OK : RL_ROUTE_ENOMEM));
        rl_routes_free(routes);
        CHECK_EQUAL(seam_live_blocks(), 0);
        if (all_done) {
            break;
        }
    }
}

int main(void)
{
    test_paths();
    test_odd_paths();
    test_methods();
    test_tiers_and_keys();
    test_networks();
    test_all_lengths();
    test_refused();
    test_many_rules();
    test_long_paths();
    test_out_of_memory();
    return report("test_route");
}
