/* http/route.h -- which rule applies to a request, found without trying every rule.
 *
 * A rule may name a client's key, a path, a method and a tier. The most specific wins:
 *
 *     1. one for this key, before one for a network of the client's address (the longest first),
 *        before one for any
 *     2. one for this path, segment by segment from the left: a word, before {one segment},
 *        before ** (any number of them)
 *     3. one for this method, before one for any
 *     4. one for this tier, the highest first, before one for any
 *
 * A network is compared with the client's address, whatever its key is, so a client that
 * changes its key stays in its network.
 *
 * So rules are in trees of path segments, two for each key or network that is named and two
 * for all others. A look-up in a tree takes as many steps as the path has segments, at most as
 * many as the deepest pattern has, for any number of rules. The trees of the networks of an
 * address are found with one look-up for each length of a network that the rules name.
 *
 * A path is read in three ways, which differ only for unusual ones:
 *
 *     as received      "//health/" has three segments, two of them empty; to Starlette that
 *                      is another route than "/health"
 *     without extra    "//health/" and "/health\n" are "/health": some frameworks ignore
 *                      slashes, and the $ of a regular expression matches before a newline
 *     dots resolved    "/a/../health" is "/health" (RFC 3986, section 5.2.4), as a server
 *                      behind this one may read it
 *
 * The rules of all readings count, so an unusual spelling can tighten a limit and never
 * lift one: a rule that exempts frees a request only when no other reading is limited.
 *
 * Immutable after the last rl_routes_add, and then safe to share between threads. */
#ifndef RL_HTTP_ROUTE_H
#define RL_HTTP_ROUTE_H

#include <stdint.h>

#include "engine/bucket.h"
#include "http/address.h"

/* Segments of the longest pattern. */
#define RL_ROUTE_DEPTH_MAX 64

/* No rule. */
#define RL_ROUTE_NONE UINT32_MAX

/* Readings of a path, and so the most rules that apply to a request. */
#define RL_ROUTE_READINGS 3

typedef struct rl_routes rl_routes;

/* One combination of conditions of a rule. */
typedef struct rl_route {
    rl_text pattern;           /* such as "/items/{id}" or "/static/{rest:path}" */
    rl_text method;            /* in upper case; len 0: any */
    int tier;                  /* a number of the caller's; -1: any */
    const rl_text *key;        /* of the client; NULL: any */
    const rl_network *network; /* of the client, instead of a key; NULL: any */
} rl_route;

typedef struct rl_request_line {
    rl_text path;
    rl_text method;   /* in upper case */
    const int *tiers; /* those of the client, the highest first */
    size_t n_tiers;
    const rl_text *key;        /* NULL: the client has none */
    const rl_address *address; /* NULL: the client has none */
    bool routes_like_werkzeug; /* else like Starlette, to which "**" may be empty */
} rl_request_line;

/* Make routes without rules. NULL: out of memory. */
rl_routes *rl_routes_new(void);

/* Free routes. NULL is fine. */
void rl_routes_free(rl_routes *routes);

typedef enum rl_route_status {
    RL_ROUTE_OK,
    RL_ROUTE_ENOMEM,
    RL_ROUTE_EPATTERN, /* malformed: no leading slash, something behind "**", a stray brace */
    RL_ROUTE_EDEPTH,   /* more than RL_ROUTE_DEPTH_MAX segments */
    RL_ROUTE_ETAKEN,   /* another rule has the same conditions: *other */
} rl_route_status;

/* Add a rule. After an error the routes can only be freed. */
rl_route_status rl_routes_add(rl_routes *routes, const rl_route *route, uint32_t rule,
                              uint32_t *other);

/* Return true if a rule names a network: rl_routes_find then needs the client's address. */
bool rl_routes_use_networks(const rl_routes *routes);

/* Find the different rules of all readings of a request, RL_ROUTE_NONE for a reading without
 * one. Return how many, 1 to RL_ROUTE_READINGS. */
size_t rl_routes_find(const rl_routes *routes, const rl_request_line *request,
                      uint32_t rules[RL_ROUTE_READINGS]);

#endif
