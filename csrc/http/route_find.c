/* route_find.c -- the rules of a request. */
#include "http/route_map.h"

#include <string.h>

/* ---- readings of a path ------------------------------------------------------------------ */

typedef struct reading {
    rl_text segments[RL_ROUTE_DEPTH_MAX + 1]; /* no more than a pattern can have, and one */
    size_t n;
    bool is_exact;
    bool may_be_empty;   /* exact: "**" may stand for one empty segment */
    const char *newline; /* exact: the last one that "**" cannot contain; NULL: none */
    bool was_nothing;    /* "**" was tried for no segment */
} reading;

/* Read the segments that are not empty, without a newline at the end of the path. */
static void read_tidy(rl_text path, size_t most, reading *out)
{
    size_t len = path.len > 0 && path.data[path.len - 1] == '\n' ? path.len - 1 : path.len;
    const char *at = path.data;
    const char *end = path.data + len;
    rl_text segment;
    *out = (reading){.n = 0};
    while (out->n < most && rl_next_segment(&at, end, &segment)) {
        if (segment.len > 0) {
            out->segments[out->n++] = segment;
        }
    }
}

/* The same without "." and "..". Read from the right, where each ".." drops the next other
 * segment; the last `most` of the kept ones are the first from the left. */
static bool read_resolved(rl_text path, size_t most, reading *out)
{
    rl_text ring[RL_ROUTE_DEPTH_MAX + 1];
    size_t kept = 0, dropping = 0;
    bool has_dots = false;
    size_t end = path.len > 0 && path.data[path.len - 1] == '\n' ? path.len - 1 : path.len;
    for (;;) {
        size_t begin = end;
        while (begin > 0 && path.data[begin - 1] != '/') {
            begin--;
        }
        rl_text segment = {path.data + begin, end - begin};
        bool is_up = rl_text_is(segment, "..");
        bool is_dot = rl_text_is(segment, ".");
        has_dots = has_dots || is_up || is_dot;
        if (is_up) {
            dropping++;
        } else if (segment.len > 0 && !is_dot && dropping > 0) {
            dropping--;
        } else if (segment.len > 0 && !is_dot) {
            ring[kept++ % most] = segment;
        }
        if (begin == 0) {
            break;
        }
        end = begin - 1;
    }
    *out = (reading){.n = kept < most ? kept : most};
    for (size_t i = 0; i < out->n; i++) {
        out->segments[i] = ring[(kept - 1 - i) % most];
    }
    return has_dots;
}

static void read_exact(rl_text path, size_t most, bool like_werkzeug, reading *out)
{
    *out = (reading){.is_exact = true, .may_be_empty = !like_werkzeug};
    const char *at = path.data;
    const char *end = path.data + path.len;
    if (path.len > 0 && path.data[0] == '/') {
        at++;
    } else {
        out->segments[out->n++] = (rl_text){path.data, 0};
    }
    while (out->n < most && rl_next_segment(&at, end, &out->segments[out->n])) {
        out->n++;
    }
    /* Starlette's pattern ends in $, which matches before a newline at the end */
    size_t i = path.len > 0 && !like_werkzeug ? path.len - 1 : path.len;
    while (i > 0 && path.data[i - 1] != '\n') {
        i--;
    }
    out->newline = i > 0 ? path.data + i - 1 : NULL;
}

/* Return true if "**" may stand for the segments from an index on. */
static bool is_rest(reading *reading, size_t at)
{
    if (at == 0) {
        return true;
    }
    if (!reading->is_exact) {
        reading->was_nothing |= at == reading->n;
        return true;
    }
    return at < reading->n &&
           (reading->newline == NULL || reading->segments[at].data > reading->newline) &&
           (reading->may_be_empty || reading->segments[at].len > 0);
}

/* ---- the search -------------------------------------------------------------------------- */

typedef struct search {
    const rl_routes *routes;
    const int *tiers;
    size_t n_tiers;
    uint32_t methods[3]; /* from the most specific to 0, any */
    size_t n_methods;
    uint32_t roots[PREFIXES + 2]; /* of a key, of networks, of any */
    size_t n_roots;
} search;

static void find_methods(search *search, rl_text method)
{
    const edge wanted = {.kind = EDGE_METHOD};
    uint32_t number = rl_routes_follow(search->routes, wanted, method);
    if (number != RL_ROUTE_NONE) {
        search->methods[search->n_methods++] = number;
    }
    if (search->routes->get != 0 && rl_text_is(method, "HEAD")) {
        search->methods[search->n_methods++] = search->routes->get;
    }
    search->methods[search->n_methods++] = 0;
}

static uint32_t search_pick(const search *search, edge_kind kind, uint32_t node)
{
    const rl_text none = {NULL, 0};
    for (size_t i = 0; i < search->n_methods; i++) {
        for (size_t j = 0; j <= search->n_tiers; j++) {
            int tier = j < search->n_tiers ? search->tiers[j] : -1;
            const edge wanted = {
                .kind = kind, .node = node, .method = search->methods[i], .tier = tier};
            uint32_t rule = rl_routes_follow(search->routes, wanted, none);
            if (rule != RL_ROUTE_NONE) {
                return rule;
            }
        }
    }
    return RL_ROUTE_NONE;
}

/* A node is visited once at most, so a search of a tree takes at most as many steps as there
 * are matching nodes, and is never deeper than the deepest pattern. */
static uint32_t search_descend(const search *search, uint32_t node_index, reading *reading,
                               size_t at)
{
    const node *node = &search->routes->nodes[node_index];
    uint32_t rule = RL_ROUTE_NONE;
    if (at == reading->n) {
        rule = node->has_end ? search_pick(search, EDGE_END, node_index) : RL_ROUTE_NONE;
    } else {
        rl_text segment = reading->segments[at];
        const edge wanted = {.kind = EDGE_WORD, .node = node_index};
        uint32_t child =
            node->has_words ? rl_routes_follow(search->routes, wanted, segment) : RL_ROUTE_NONE;
        if (child != RL_ROUTE_NONE) {
            rule = search_descend(search, child, reading, at + 1);
        }
        if (rule == RL_ROUTE_NONE && node->one != 0 && segment.len > 0) {
            rule = search_descend(search, node->one, reading, at + 1);
        }
    }
    if (rule == RL_ROUTE_NONE && node->has_rest && is_rest(reading, at)) {
        rule = search_pick(search, EDGE_REST, node_index);
    }
    return rule;
}

/* Find all roots of the trees for a client, the most specific first. */
static void find_roots(search *search, const rl_request_line *request)
{
    const rl_routes *routes = search->routes;
    uint32_t roots = RL_ROUTE_NONE;
    if (request->key != NULL) {
        roots = rl_routes_follow(routes, (edge){.kind = EDGE_KEY}, *request->key);
        search->n_roots += roots != RL_ROUTE_NONE;
        search->roots[0] = roots;
    }
    for (size_t i = 0; request->address != NULL && i < routes->n_prefixes; i++) {
        char label[NETWORK_LABEL];
        if (!rl_route_network_label(request->address, routes->prefixes[i], label)) {
            break; /* all others are shorter */
        }
        roots =
            rl_routes_follow(routes, (edge){.kind = EDGE_NETWORK}, (rl_text){label, sizeof label});
        if (roots != RL_ROUTE_NONE) {
            search->roots[search->n_roots++] = roots;
        }
    }
    search->roots[search->n_roots++] = 0;
}

static uint32_t find_rule(const search *search, reading *reading)
{
    uint32_t is_exact = reading->is_exact ? 1 : 0;
    uint32_t rule = RL_ROUTE_NONE;
    for (size_t i = 0; rule == RL_ROUTE_NONE && i < search->n_roots; i++) {
        rule = search_descend(search, search->roots[i] + is_exact, reading, 0);
    }
    return rule;
}

static size_t add_rule(uint32_t rules[], size_t n, uint32_t rule)
{
    for (size_t i = 0; i < n; i++) {
        if (rules[i] == rule) {
            return n;
        }
    }
    rules[n] = rule;
    return n + 1;
}

size_t rl_routes_find(const rl_routes *routes, const rl_request_line *request,
                      uint32_t rules[RL_ROUTE_READINGS])
{
    search search;
    search.routes = routes;
    search.tiers = request->tiers;
    search.n_tiers = request->n_tiers;
    search.n_methods = search.n_roots = 0;
    find_methods(&search, request->method);
    find_roots(&search, request);
    size_t most = routes->depth + 1;
    reading reading;
    read_tidy(request->path, most, &reading);
    size_t n = add_rule(rules, 0, find_rule(&search, &reading));
    if (!routes->has_odd_patterns && !reading.was_nothing && rl_path_is_plain(request->path)) {
        return n;
    }
    if (read_resolved(request->path, most, &reading)) {
        n = add_rule(rules, n, find_rule(&search, &reading));
    }
    read_exact(request->path, most, request->routes_like_werkzeug, &reading);
    return add_rule(rules, n, find_rule(&search, &reading));
}
