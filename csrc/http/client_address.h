/* http/client_address.h -- which client a request comes from, over trusted proxies.
 *
 * A proxy adds the address that it got a request from at the right end of
 * X-Forwarded-For, or of Forwarded (RFC 7239). Everything further left may be the
 * client's invention. So the header counts only when the peer is trusted, and is read
 * from the right, over the trusted addresses, to the first that is not.
 *
 *     client 203.0.113.7 --> proxy 10.0.0.2 --> proxy 10.0.0.1 --> this program
 *                            X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.2
 *                                             invented  the client   trusted
 *
 * An element that is no address ends the walk: what stands left of it cannot be
 * attributed to any proxy. A Forwarded line that does not follow the grammar of RFC 7239,
 * section 4, counts as one such element, because its elements cannot be told apart. */
#ifndef RL_HTTP_CLIENT_ADDRESS_H
#define RL_HTTP_CLIENT_ADDRESS_H

#include "http/address.h"

typedef enum rl_proxy_header { RL_X_FORWARDED_FOR, RL_FORWARDED } rl_proxy_header;

/* Who is trusted to say where a request comes from. */
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
    RL_CLIENT_NONE,      /* no address: a peer without one, or with a name of its own */
} rl_client_source;

/* Find the client. `peer` is the address of the peer, NULL where there is none; `lines` are
 * the values of the proxies' header in order. *out is written but for RL_CLIENT_NONE. With
 * a unix peer and a malformed header there is no address either: RL_CLIENT_NONE. */
rl_client_source rl_client_find(const rl_proxies *proxies, const rl_text *peer,
                                const rl_text *lines, size_t n_lines, rl_address *out);

#define RL_CLIENT_ADDRESS_MAX RL_ADDRESS_TEXT_MAX

/* Without proxies: write the client of a peer, "2001:db8::/64", NUL-terminated. One IPv6
 * client usually holds a whole /64 and could otherwise leave its bucket behind with every
 * request (RFC 6177). False: the text is no IPv6 address and stands for itself; `out` is
 * not written. */
bool rl_client_address(const char *text, size_t len, char out[RL_CLIENT_ADDRESS_MAX]);

#endif
