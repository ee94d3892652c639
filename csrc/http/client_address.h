/* http/client_address.h -- which client a request comes from, behind trusted proxies.
 *
 * A proxy adds the address that it got a request from at the right end of
 * X-Forwarded-For, or of Forwarded (RFC 7239). Everything further left may be forged by
 * the client. So the header counts only when the peer is trusted, and is read from the
 * right, past the trusted addresses, to the first one that is not trusted.
 *
 *     client 203.0.113.7 --> proxy 10.0.0.2 --> proxy 10.0.0.1 --> this program
 *                            X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.2
 *                                             forged    the client   trusted
 *
 * An element that is no address ends the walk: no proxy can be named for the elements left
 * of it. A Forwarded line that does not follow the grammar of RFC 7239, section 4, counts
 * as one such element, because it cannot be split into elements. */
#ifndef RL_HTTP_CLIENT_ADDRESS_H
#define RL_HTTP_CLIENT_ADDRESS_H

#include "http/address.h"

typedef enum rl_proxy_header { RL_X_FORWARDED_FOR, RL_FORWARDED } rl_proxy_header;

/* The peers whose header is trusted. */
typedef struct rl_proxies {
    const rl_network *networks; /* borrowed */
    size_t n_networks;
    bool trust_unix; /* a peer without an address, as behind a unix socket */
    rl_proxy_header header;
} rl_proxies;

typedef enum rl_client_source {
    RL_CLIENT_PEER,      /* the address of the peer */
    RL_CLIENT_FORWARDED, /* an address of the header */
    RL_CLIENT_MALFORMED, /* the peer, because the header is not understood */
    RL_CLIENT_NONE,      /* no address: the peer has none, or a name */
} rl_client_source;

/* Find the client. `peer` is the address of the peer, or NULL; `lines` are
 * the values of the proxies' header in order. *out is not written for RL_CLIENT_NONE. A
 * unix peer with a malformed header has no address either: RL_CLIENT_NONE. */
rl_client_source rl_client_find(const rl_proxies *proxies, const rl_text *peer,
                                const rl_text *lines, size_t n_lines, rl_address *out);

#define RL_CLIENT_ADDRESS_MAX RL_ADDRESS_TEXT_MAX

/* Without proxies: write the client of a peer, "2001:db8::/64", NUL-terminated. One IPv6
 * client usually has a whole /64 and could otherwise use a new bucket for every request
 * (RFC 6177). False: the text is no IPv6 address and stands for itself; `out` is not
 * written. */
bool rl_client_address(const char *text, size_t len, char out[RL_CLIENT_ADDRESS_MAX]);

#endif
