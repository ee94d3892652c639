/* fuzz_route.c -- any patterns and any path: a path is found in bounded steps, and a path
 * that equals a pattern has the rule of that pattern in some reading. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "http/route.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Take the bytes up to the next zero. */
static rl_text next_text(const uint8_t **data, size_t *size)
{
    const uint8_t *end = *size > 0 ? memchr(*data, 0, *size) : NULL;
    rl_text text = {(const char *)*data, end != NULL ? (size_t)(end - *data) : *size};
    size_t used = text.len + (end != NULL ? 1 : 0);
    *data += used;
    *size -= used;
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rl_routes *routes = rl_routes_new();
    rl_text path = next_text(&data, &size);
    rl_text key = next_text(&data, &size);
    uint32_t n_rules = 0, other;
    rl_network network = {.prefix = 0};
    bool has_network = rl_network_parse(key, &network);
    while (routes != NULL && size > 0 && n_rules < 32) {
        rl_route route = {next_text(&data, &size), next_text(&data, &size), (int)(size % 3) - 1,
                          size % 5 == 0 ? &key : NULL,
                          has_network && size % 5 == 1 ? &network : NULL};
        rl_route_status status = rl_routes_add(routes, &route, n_rules, &other);
        if (status != RL_ROUTE_OK) { /* such routes can only be freed */
            rl_routes_free(routes);
            return 0;
        }
        n_rules++;
        bool is_word = route.pattern.len > 0 &&
                       memchr(route.pattern.data, '{', route.pattern.len) == NULL &&
                       memchr(route.pattern.data, '*', route.pattern.len) == NULL;
        rl_request_line request = {.path = route.pattern, .method = route.method};
        uint32_t rules[RL_ROUTE_READINGS];
        size_t n = rl_routes_find(routes, &request, rules);
        bool is_found = false;
        for (size_t i = 0; i < n; i++) {
            is_found = is_found || rules[i] == n_rules - 1;
        }
        if (is_word && route.tier < 0 && route.key == NULL && route.network == NULL && !is_found) {
            abort();
        }
    }
    for (int i = 0; routes != NULL && i < 4; i++) {
        const int tiers[] = {1, 0};
        rl_request_line request = {path,
                                   key,
                                   tiers,
                                   (size_t)(i % 3),
                                   i % 2 == 0 ? NULL : &key,
                                   has_network && i > 0 ? &network.base : NULL,
                                   i > 1};
        uint32_t rules[RL_ROUTE_READINGS];
        size_t n = rl_routes_find(routes, &request, rules);
        if (n < 1 || n > RL_ROUTE_READINGS) {
            abort();
        }
        for (size_t j = 0; j < n; j++) {
            if (rules[j] != RL_ROUTE_NONE && rules[j] >= n_rules) {
                abort();
            }
        }
    }
    rl_routes_free(routes);
    return 0;
}
