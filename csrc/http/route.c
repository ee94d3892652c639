#include "http/route.h"

#include <string.h>

#include "engine/alloc.h"

/* ---- a map from (node, kind, numbers or text) to a number -------------------------------- */

typedef enum edge_kind {
    EDGE_FREE,    /* an empty place of the map */
    EDGE_WORD,    /* from a node, by a segment, to a node */
    EDGE_KEY,     /* by a key of clients to the two roots of their trees */
    EDGE_NETWORK, /* the same by a network, see network_label */
    EDGE_METHOD,  /* by a name to its number */
    EDGE_END,     /* from a node where a path ends, by method and tier, to a rule */
    EDGE_REST,    /* the same where a path ends or goes on */
} edge_kind;

typedef struct edge {
    edge_kind kind;
    uint32_t node;
    uint32_t method; /* 0: any */
    int tier;        /* -1: any */
    char *label;     /* owned; a copy of the text */
    size_t label_len;
    uint32_t value;
} edge;

typedef struct node {
    uint32_t one; /* the child for any one segment; 0: none */
    bool has_words;
    bool has_end;
    bool has_rest;
} node;

#define PREFIXES 129 /* lengths of networks, 0 to 128 bits */

/* Nodes 0 and 1 are the roots for any key. */
struct rl_routes {
    edge *edges; /* owned; a power of two of places, at most half of them used */
    size_t n_places;
    size_t n_edges;
    node *nodes; /* owned */
    size_t n_nodes;
    size_t nodes_room;
    uint32_t n_methods;
    uint32_t get;               /* the number of "GET"; 0: no rule names it */
    size_t depth;               /* segments of the longest pattern */
    bool has_odd_patterns;      /* some pattern is not the same in all readings */
    uint8_t prefixes[PREFIXES]; /* the different lengths of networks, the longest first */
    size_t n_prefixes;
};

/* FNV-1a. The labels come from the configuration: a client cannot add any. */
static uint64_t hash_of(const edge *edge)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    const uint64_t numbers[] = {(uint64_t)edge->kind << 32 | edge->node,
                                (uint64_t)edge->method << 32 | (uint32_t)edge->tier};
    for (size_t i = 0; i < 2; i++) {
        hash = (hash ^ numbers[i]) * UINT64_C(0x100000001b3);
        hash ^= hash >> 29;
    }
    for (size_t i = 0; i < edge->label_len; i++) {
        hash = (hash ^ (unsigned char)edge->label[i]) * UINT64_C(0x100000001b3);
    }
    return hash ^ hash >> 32;
}

static bool is_same_edge(const edge *a, const edge *b)
{
    return a->kind == b->kind && a->node == b->node && a->method == b->method &&
           a->tier == b->tier && a->label_len == b->label_len &&
           (a->label_len == 0 || memcmp(a->label, b->label, a->label_len) == 0);
}

/* Return the place of an edge, or the free place for it. */
static edge *place_of(edge *edges, size_t n_places, const edge *wanted)
{
    size_t i = hash_of(wanted) & (n_places - 1);
    while (edges[i].kind != EDGE_FREE && !is_same_edge(&edges[i], wanted)) {
        i = (i + 1) & (n_places - 1);
    }
    return &edges[i];
}

static bool grow_edges(rl_routes *routes)
{
    size_t n_places = routes->n_places * 2;
    edge *edges = rl_alloc_zeroed(n_places * sizeof *edges);
    if (edges == NULL) {
        return false;
    }
    for (size_t i = 0; i < routes->n_places; i++) {
        if (routes->edges[i].kind != EDGE_FREE) {
            *place_of(edges, n_places, &routes->edges[i]) = routes->edges[i];
        }
    }
    rl_free(routes->edges);
    routes->edges = edges;
    routes->n_places = n_places;
    return true;
}

/* Return the edge of these numbers and this text; a new one gets the value. NULL: out of memory. */
static edge *add_edge(rl_routes *routes, edge wanted, rl_text label, uint32_t value)
{
    if ((routes->n_edges + 1) * 2 > routes->n_places && !grow_edges(routes)) {
        return NULL;
    }
    wanted.label = (char *)(uintptr_t)label.data; /* only compared; a new edge gets a copy */
    wanted.label_len = label.len;
    edge *place = place_of(routes->edges, routes->n_places, &wanted);
    if (place->kind != EDGE_FREE) {
        return place;
    }
    wanted.label = NULL;
    if (label.len > 0) {
        wanted.label = rl_alloc_zeroed(label.len);
        if (wanted.label == NULL) {
            return NULL;
        }
        memcpy(wanted.label, label.data, label.len);
    }
    wanted.value = value;
    *place = wanted;
    routes->n_edges++;
    return place;
}

static uint32_t routes_follow(const rl_routes *routes, edge wanted, rl_text label)
{
    wanted.label = (char *)(uintptr_t)label.data;
    wanted.label_len = label.len;
    const edge *place = place_of(routes->edges, routes->n_places, &wanted);
    return place->kind != EDGE_FREE ? place->value : RL_ROUTE_NONE;
}

/* ---- nodes ------------------------------------------------------------------------------- */

/* Return the first of `count` new nodes; RL_ROUTE_NONE: out of memory. */
static uint32_t add_nodes(rl_routes *routes, size_t count)
{
    if (routes->n_nodes + count > routes->nodes_room) {
        size_t room = routes->nodes_room * 2 + count;
        node *nodes = rl_alloc_zeroed(room * sizeof *nodes);
        if (nodes == NULL) {
            return RL_ROUTE_NONE;
        }
        if (routes->n_nodes > 0) {
            memcpy(nodes, routes->nodes, routes->n_nodes * sizeof *nodes);
        }
        rl_free(routes->nodes);
        routes->nodes = nodes;
        routes->nodes_room = room;
    }
    routes->n_nodes += count;
    return (uint32_t)(routes->n_nodes - count);
}

rl_routes *rl_routes_new(void)
{
    rl_routes *routes = rl_alloc_zeroed(sizeof *routes);
    if (routes == NULL) {
        return NULL;
    }
    routes->n_places = 64;
    routes->edges = rl_alloc_zeroed(routes->n_places * sizeof *routes->edges);
    if (routes->edges == NULL || add_nodes(routes, 2) == RL_ROUTE_NONE) {
        rl_routes_free(routes);
        return NULL;
    }
    return routes;
}

void rl_routes_free(rl_routes *routes)
{
    if (routes == NULL) {
        return;
    }
    for (size_t i = 0; routes->edges != NULL && i < routes->n_places; i++) {
        rl_free(routes->edges[i].label);
    }
    rl_free(routes->edges);
    rl_free(routes->nodes);
    rl_free(routes);
}

/* ---- segments ---------------------------------------------------------------------------- */

/* Take the next segment of a path, behind its slash. False: none is left. */
static bool next_segment(const char **at, const char *end, rl_text *out)
{
    if (*at > end) {
        return false;
    }
    const char *slash = *at < end ? memchr(*at, '/', (size_t)(end - *at)) : NULL;
    const char *stop = slash != NULL ? slash : end;
    *out = (rl_text){*at, (size_t)(stop - *at)};
    *at = stop + 1;
    return true;
}

static bool is_text(rl_text text, const char *wanted)
{
    return text.len == strlen(wanted) && memcmp(text.data, wanted, text.len) == 0;
}

static bool has_char(rl_text text, char wanted)
{
    return text.len > 0 && memchr(text.data, wanted, text.len) != NULL;
}

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
    if (is_text(segment, "*")) {
        return SEGMENT_ONE;
    }
    if (is_text(segment, "**")) {
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
    bool is_word = !has_char(segment, '*') && !has_char(segment, '{') && !has_char(segment, '}');
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
    while (next_segment(&at, end, &segment)) {
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
            uint32_t child = add_nodes(routes, 1);
            if (child == RL_ROUTE_NONE) {
                return RL_ROUTE_NONE;
            }
            routes->nodes[parent].one = child;
        }
        return routes->nodes[parent].one;
    }
    const edge wanted = {.kind = EDGE_WORD, .node = parent};
    uint32_t child = routes_follow(routes, wanted, segment);
    if (child == RL_ROUTE_NONE) {
        child = add_nodes(routes, 1);
        if (child == RL_ROUTE_NONE || add_edge(routes, wanted, segment, child) == NULL) {
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
    edge *found = add_edge(routes, last, (rl_text){NULL, 0}, rule);
    if (found == NULL) {
        return RL_ROUTE_ENOMEM;
    }
    routes->nodes[at].has_rest |= pattern->is_rest;
    routes->nodes[at].has_end |= !pattern->is_rest;
    *other = found->value;
    return found->value == rule ? RL_ROUTE_OK : RL_ROUTE_ETAKEN;
}

/* ---- networks ---------------------------------------------------------------------------- */

/* 16 bytes of the address, of which only the prefix counts, and the length of the prefix. */
#define NETWORK_LABEL 17

/* Bits of a network that contains all IPv4 addresses, which are v4-mapped. A shorter network
 * contains none: see rl_network_contains. */
#define V4_BITS 96

/* Write the label of a network; false: the address is in no network of this length. */
static bool network_label(const rl_address *address, unsigned prefix, char out[NETWORK_LABEL])
{
    if (address->is_v4 && prefix < V4_BITS) {
        return false;
    }
    memset(out, 0, NETWORK_LABEL);
    memcpy(out, address->bytes, prefix / 8);
    if (prefix % 8 != 0) {
        out[prefix / 8] = (char)(address->bytes[prefix / 8] & (0xff00u >> (prefix % 8)));
    }
    out[NETWORK_LABEL - 1] = (char)prefix;
    return true;
}

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
    uint32_t roots = routes_follow(routes, wanted, label);
    if (roots == RL_ROUTE_NONE) {
        roots = add_nodes(routes, 2);
        if (roots != RL_ROUTE_NONE && add_edge(routes, wanted, label, roots) == NULL) {
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
        network_label(&network->base, network->prefix, label);
        add_prefix(routes, network->prefix);
        return add_roots_of(routes, EDGE_NETWORK, (rl_text){label, sizeof label});
    }
    return route->key != NULL ? add_roots_of(routes, EDGE_KEY, *route->key) : 0;
}

/* Return true if all readings of a path are the same, as for "/" and the empty path. */
static bool is_plain(rl_text path)
{
    if (path.len == 0) {
        return true;
    }
    if (path.data[0] != '/' || has_char(path, '\n')) {
        return false;
    }
    const char *at = path.data + 1;
    const char *end = path.data + path.len;
    rl_text segment;
    while (path.len > 1 && next_segment(&at, end, &segment)) {
        if (segment.len == 0 || is_text(segment, ".") || is_text(segment, "..")) {
            return false;
        }
    }
    return true;
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
        const edge *method = add_edge(routes, wanted, route->method, routes->n_methods + 1);
        if (method == NULL) {
            return RL_ROUTE_ENOMEM;
        }
        last.method = method->value;
        routes->n_methods += method->value > routes->n_methods;
        routes->get = is_text(route->method, "GET") ? method->value : routes->get;
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
    routes->has_odd_patterns |= !is_plain(route->pattern);
    return RL_ROUTE_OK;
}

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
    while (out->n < most && next_segment(&at, end, &segment)) {
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
        bool is_up = is_text(segment, "..");
        bool is_dot = is_text(segment, ".");
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
    while (out->n < most && next_segment(&at, end, &out->segments[out->n])) {
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
    uint32_t number = routes_follow(search->routes, wanted, method);
    if (number != RL_ROUTE_NONE) {
        search->methods[search->n_methods++] = number;
    }
    if (search->routes->get != 0 && is_text(method, "HEAD")) {
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
            uint32_t rule = routes_follow(search->routes, wanted, none);
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
            node->has_words ? routes_follow(search->routes, wanted, segment) : RL_ROUTE_NONE;
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
        roots = routes_follow(routes, (edge){.kind = EDGE_KEY}, *request->key);
        search->n_roots += roots != RL_ROUTE_NONE;
        search->roots[0] = roots;
    }
    for (size_t i = 0; request->address != NULL && i < routes->n_prefixes; i++) {
        char label[NETWORK_LABEL];
        if (!network_label(request->address, routes->prefixes[i], label)) {
            break; /* all others are shorter */
        }
        roots = routes_follow(routes, (edge){.kind = EDGE_NETWORK}, (rl_text){label, sizeof label});
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
    if (!routes->has_odd_patterns && !reading.was_nothing && is_plain(request->path)) {
        return n;
    }
    if (read_resolved(request->path, most, &reading)) {
        n = add_rule(rules, n, find_rule(&search, &reading));
    }
    read_exact(request->path, most, request->routes_like_werkzeug, &reading);
    return add_rule(rules, n, find_rule(&search, &reading));
}
