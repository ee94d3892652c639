#include "http/route_map.h"

#include <string.h>

#include "engine/alloc.h"

/* ---- edges ----------------------------------------------------------------------------- */

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

edge *rl_routes_add_edge(rl_routes *routes, edge wanted, rl_text label, uint32_t value)
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

uint32_t rl_routes_follow(const rl_routes *routes, edge wanted, rl_text label)
{
    wanted.label = (char *)(uintptr_t)label.data;
    wanted.label_len = label.len;
    const edge *place = place_of(routes->edges, routes->n_places, &wanted);
    return place->kind != EDGE_FREE ? place->value : RL_ROUTE_NONE;
}

/* ---- nodes ------------------------------------------------------------------------------- */

uint32_t rl_routes_add_nodes(rl_routes *routes, size_t count)
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
    if (routes->edges == NULL || rl_routes_add_nodes(routes, 2) == RL_ROUTE_NONE) {
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

bool rl_next_segment(const char **at, const char *end, rl_text *out)
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

bool rl_text_is(rl_text text, const char *wanted)
{
    return text.len == strlen(wanted) && memcmp(text.data, wanted, text.len) == 0;
}

bool rl_text_has(rl_text text, char wanted)
{
    return text.len > 0 && memchr(text.data, wanted, text.len) != NULL;
}

bool rl_path_is_plain(rl_text path)
{
    if (path.len == 0) {
        return true;
    }
    if (path.data[0] != '/' || rl_text_has(path, '\n')) {
        return false;
    }
    const char *at = path.data + 1;
    const char *end = path.data + path.len;
    rl_text segment;
    while (path.len > 1 && rl_next_segment(&at, end, &segment)) {
        if (segment.len == 0 || rl_text_is(segment, ".") || rl_text_is(segment, "..")) {
            return false;
        }
    }
    return true;
}

/* ---- networks -------------------------------------------------------------------------- */

/* Bits of a network that contains all IPv4 addresses, which are v4-mapped. A shorter network
 * contains none: see rl_network_contains. */
#define V4_BITS 96

bool rl_route_network_label(const rl_address *address, unsigned prefix, char out[NETWORK_LABEL])
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
