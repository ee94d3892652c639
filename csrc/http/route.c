/* route.c -- patterns, and adding a rule. */
#include "http/route_map.h"

#include <string.h>

/* ---- patterns ---------------------------------------------------------------------------- */

typedef enum segment_kind { SEGMENT_WORD, SEGMENT_ONE, SEGMENT_REST, SEGMENT_WRONG } segment_kind;

static bool is_name(rl_text text)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.data[i];
        bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!is_letter && (i == 0 || c < '0' || c > '9')) {
            return false;
        }
    }
    return text.len > 0;
}

/* A word, "*" or "{name}", "**" or "{name:path}". */
static segment_kind kind_of(rl_text segment)
{
    if (rl_text_is(segment, "*")) {
        return SEGMENT_ONE;
    }
    if (rl_text_is(segment, "**")) {
        return SEGMENT_REST;
    }
    if (segment.len > 2 && segment.data[0] == '{' && segment.data[segment.len - 1] == '}') {
        static const char path[] = ":path";
        rl_text name = {segment.data + 1, segment.len - 2};
        segment_kind kind = SEGMENT_ONE;
        if (name.len > 5 && memcmp(name.data + name.len - 5, path, 5) == 0) {
            name.len -= 5;
            kind = SEGMENT_REST;
        }
        return is_name(name) ? kind : SEGMENT_WRONG;
    }
    bool is_word =
        !rl_text_has(segment, '*') && !rl_text_has(segment, '{') && !rl_text_has(segment, '}');
    return is_word ? SEGMENT_WORD : SEGMENT_WRONG;
}

/* A pattern, as written in one of the two trees. */
typedef struct pattern {
    rl_text segments[RL_ROUTE_DEPTH_MAX];
    segment_kind kinds[RL_ROUTE_DEPTH_MAX];
    size_t n;
    bool is_rest; /* "**" follows them */
} pattern;

static rl_route_status read_pattern(rl_text text, bool is_exact, pattern *out)
{
    out->n = 0;
    out->is_rest = false;
    if (text.len == 0 || text.data[0] != '/') {
        return RL_ROUTE_EPATTERN;
    }
    const char *at = text.data + 1;
    const char *end = text.data + text.len;
    rl_text segment;
    while (rl_next_segment(&at, end, &segment)) {
        if (out->is_rest ? segment.len == 0 : segment.len == 0 && !is_exact) {
            continue;
        }
        segment_kind kind = kind_of(segment);
        if (out->is_rest || kind == SEGMENT_WRONG) {
            return RL_ROUTE_EPATTERN;
        }
        if (kind == SEGMENT_REST) {
            out->is_rest = true;
            continue;
        }
        if (out->n == RL_ROUTE_DEPTH_MAX) {
            return RL_ROUTE_EDEPTH;
        }
        out->segments[out->n] = segment;
        out->kinds[out->n++] = kind;
    }
    return RL_ROUTE_OK;
}

static uint32_t add_child(rl_routes *routes, uint32_t parent, rl_text segment, segment_kind kind)
{
    if (kind == SEGMENT_ONE) {
        if (routes->nodes[parent].one == 0) {
            uint32_t child = rl_routes_add_nodes(routes, 1);
            if (child == RL_ROUTE_NONE) {
                return RL_ROUTE_NONE;
            }
            routes->nodes[parent].one = child;
        }
        return routes->nodes[parent].one;
    }
    const edge wanted = {.kind = EDGE_WORD, .node = parent};
    uint32_t child = rl_routes_follow(routes, wanted, segment);
    if (child == RL_ROUTE_NONE) {
        child = rl_routes_add_nodes(routes, 1);
        if (child == RL_ROUTE_NONE || rl_routes_add_edge(routes, wanted, segment, child) == NULL) {
            return RL_ROUTE_NONE;
        }
        routes->nodes[parent].has_words = true;
    }
    return child;
}

static rl_route_status add_pattern(rl_routes *routes, uint32_t root, const pattern *pattern,
                                   edge last, uint32_t rule, uint32_t *other)
{
    uint32_t at = root;
    for (size_t i = 0; i < pattern->n; i++) {
        at = add_child(routes, at, pattern->segments[i], pattern->kinds[i]);
        if (at == RL_ROUTE_NONE) {
            return RL_ROUTE_ENOMEM;
        }
    }
    last.kind = pattern->is_rest ? EDGE_REST : EDGE_END;
    last.node = at;
    edge *found = rl_routes_add_edge(routes, last, (rl_text){NULL, 0}, rule);
    if (found == NULL) {
        return RL_ROUTE_ENOMEM;
    }
    routes->nodes[at].has_rest |= pattern->is_rest;
    routes->nodes[at].has_end |= !pattern->is_rest;
    *other = found->value;
    return found->value == rule ? RL_ROUTE_OK : RL_ROUTE_ETAKEN;
}

/* ---- networks -------------------------------------------------------------------------- */

/* Keep the lengths in order, the longest first, each once. */
static void add_prefix(rl_routes *routes, unsigned prefix)
{
    size_t at = 0;
    while (at < routes->n_prefixes && routes->prefixes[at] > prefix) {
        at++;
    }
    if (at < routes->n_prefixes && routes->prefixes[at] == prefix) {
        return;
    }
    memmove(&routes->prefixes[at + 1], &routes->prefixes[at], routes->n_prefixes - at);
    routes->prefixes[at] = (uint8_t)prefix;
    routes->n_prefixes++;
}

bool rl_routes_use_networks(const rl_routes *routes)
{
    return routes->n_prefixes > 0;
}

/* ---- adding a rule ----------------------------------------------------------------------- */

static uint32_t add_roots_of(rl_routes *routes, edge_kind kind, rl_text label)
{
    const edge wanted = {.kind = kind};
    uint32_t roots = rl_routes_follow(routes, wanted, label);
    if (roots == RL_ROUTE_NONE) {
        roots = rl_routes_add_nodes(routes, 2);
        if (roots != RL_ROUTE_NONE && rl_routes_add_edge(routes, wanted, label, roots) == NULL) {
            return RL_ROUTE_NONE;
        }
    }
    return roots;
}

/* The roots for a client: the first for paths without extra slashes, the next for exact ones. */
static uint32_t add_roots(rl_routes *routes, const rl_route *route)
{
    if (route->network != NULL) {
        char label[NETWORK_LABEL];
        const rl_network *network = route->network;
        rl_route_network_label(&network->base, network->prefix, label);
        add_prefix(routes, network->prefix);
        return add_roots_of(routes, EDGE_NETWORK, (rl_text){label, sizeof label});
    }
    return route->key != NULL ? add_roots_of(routes, EDGE_KEY, *route->key) : 0;
}

rl_route_status rl_routes_add(rl_routes *routes, const rl_route *route, uint32_t rule,
                              uint32_t *other)
{
    uint32_t roots = add_roots(routes, route);
    if (roots == RL_ROUTE_NONE) {
        return RL_ROUTE_ENOMEM;
    }
    edge last = {.tier = route->tier};
    if (route->method.len > 0) {
        const edge wanted = {.kind = EDGE_METHOD};
        const edge *method =
            rl_routes_add_edge(routes, wanted, route->method, routes->n_methods + 1);
        if (method == NULL) {
            return RL_ROUTE_ENOMEM;
        }
        last.method = method->value;
        routes->n_methods += method->value > routes->n_methods;
        routes->get = rl_text_is(route->method, "GET") ? method->value : routes->get;
    }
    for (uint32_t is_exact = 0; is_exact < 2; is_exact++) {
        pattern pattern;
        rl_route_status status = read_pattern(route->pattern, is_exact == 1, &pattern);
        if (status == RL_ROUTE_OK) {
            routes->depth = pattern.n > routes->depth ? pattern.n : routes->depth;
            status = add_pattern(routes, roots + is_exact, &pattern, last, rule, other);
        }
        if (status != RL_ROUTE_OK) {
            return status;
        }
    }
    routes->has_odd_patterns |= !rl_path_is_plain(route->pattern);
    return RL_ROUTE_OK;
}
