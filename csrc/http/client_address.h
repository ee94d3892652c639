/* http/client_address.h -- which client an address stands for.
 *
 * One IPv4 address is one client. One IPv6 client usually holds a whole /64 and
 * could otherwise leave its bucket behind with every request (RFC 6177), so its
 * network is the client. A v4-mapped IPv6 address (RFC 4291, 2.5.5.2) is the
 * IPv4 address that it maps, and a zone id ("%eth0") is left out. */
#ifndef RL_HTTP_CLIENT_ADDRESS_H
#define RL_HTTP_CLIENT_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

/* Room for "ffff:ffff:ffff:ffff::/64" or a dotted IPv4 address, and its NUL. */
#define RL_CLIENT_ADDRESS_MAX 64

/* Write the client of an IPv6 address of `len` bytes to `out`, NUL-terminated.
 * False: the text is no IPv6 address and stands for itself; `out` is not written. */
bool rl_client_address(const char *text, size_t len, char out[RL_CLIENT_ADDRESS_MAX]);

#endif
