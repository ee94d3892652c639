/* http/address.h -- IP addresses and networks, read from text and written back.
 *
 * An IPv4 address is kept as its v4-mapped IPv6 address (RFC 4291, 2.5.5.2), so one
 * comparison serves both, and "::ffff:192.0.2.1" is the client 192.0.2.1. */
#ifndef RL_HTTP_ADDRESS_H
#define RL_HTTP_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of a header or scope; not NUL-terminated. */
typedef struct rl_text {
    const char *data; /* borrowed */
    size_t len;
} rl_text;

typedef struct rl_address {
    unsigned char bytes[16]; /* network order; v4-mapped for IPv4 */
    bool is_v4;
} rl_address;

/* Addresses whose first `prefix` bits are those of `base`. */
typedef struct rl_network {
    rl_address base;
    unsigned prefix; /* of 128 bits, also for IPv4 */
} rl_network;

/* Room for "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128" and its NUL. */
#define RL_ADDRESS_TEXT_MAX 64

/* Longest text that can be an address: with brackets, zone, port and blanks. */
#define RL_NODE_MAX 64

/* Read an address: dotted IPv4 without leading zeros, or IPv6 (RFC 4291, 2.2). */
bool rl_address_parse(rl_text text, rl_address *out);

/* Read an address as proxies write it: blanks around it, brackets around IPv6, a port,
 * a zone ("fe80::1%eth0"), which is left out. False: not an address, such as
 * "unknown" or an obfuscated node of RFC 7239, 6.3. */
bool rl_address_parse_node(rl_text text, rl_address *out);

/* Read "10.0.0.0/8", "2001:db8::/32" or an address, which is a network of one. False: not
 * a network, or bits are set behind the prefix. */
bool rl_network_parse(rl_text text, rl_network *out);

bool rl_network_contains(const rl_network *network, const rl_address *address);

/* Write an address in the form of RFC 5952, NUL-terminated; return its length. An IPv6
 * address is written as its network of `ipv6_prefix` bits, "2001:db8::/64"; with 128 as
 * an address. */
size_t rl_address_format(const rl_address *address, unsigned ipv6_prefix,
                         char out[RL_ADDRESS_TEXT_MAX]);

#endif
