/* http/route_map.h -- the tree of rules as one map: what the files of rl_routes share.
 *
 *     route_map.c     the map of edges, the nodes, segments of paths
 *     route.c         patterns; adding a rule
 *     route_find.c    the readings of a path; the search
 *
 * An edge leads from a node, by a text or by numbers, to a value: a node, a rule or a number. */
#ifndef RL_HTTP_ROUTE_MAP_H
#define RL_HTTP_ROUTE_MAP_H

#include "http/route.h"

typedef enum edge_kind {
    EDGE_FREE,    /* an empty place of the map */
    EDGE_WORD,    /* from a node, by a segment, to a node */
    EDGE_KEY,     /* by a key of clients to the two roots of their trees */
    EDGE_NETWORK, /* the same by a network, see rl_route_network_label */
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

/* Return the edge of these numbers and this text; a new one gets the value. NULL: out of memory. */
edge *rl_routes_add_edge(rl_routes *routes, edge wanted, rl_text label, uint32_t value);

/* Return the value of the edge of these numbers and this text; RL_ROUTE_NONE: there is none. */
uint32_t rl_routes_follow(const rl_routes *routes, edge wanted, rl_text label);

/* Return the first of `count` new nodes; RL_ROUTE_NONE: out of memory. */
uint32_t rl_routes_add_nodes(rl_routes *routes, size_t count);

/* Take the next segment of a path, behind its slash. False: none is left. */
bool rl_next_segment(const char **at, const char *end, rl_text *out);

bool rl_text_is(rl_text text, const char *wanted);
bool rl_text_has(rl_text text, char wanted);

/* Return true if all readings of a path are the same, as for "/" and the empty path. */
bool rl_path_is_plain(rl_text path);

/* 16 bytes of the address, of which only the prefix counts, and the length of the prefix. */
#define NETWORK_LABEL 17

/* Write the label of a network; false: the address is in no network of this length. */
bool rl_route_network_label(const rl_address *address, unsigned prefix, char out[NETWORK_LABEL]);

#endif
