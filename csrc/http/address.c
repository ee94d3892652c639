#include "http/address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#define V4_BITS 96 /* of the prefix that all v4-mapped addresses share */

static const unsigned char V4_MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool text_contains(rl_text text, char wanted)
{
    return text.len > 0 && memchr(text.data, wanted, text.len) != NULL;
}

/* ---- reading ------------------------------------------------------------------------- */

bool rl_address_parse(rl_text text, rl_address *out)
{
    char copy[INET6_ADDRSTRLEN];
    if (text.len == 0 || text.len >= sizeof copy || text_contains(text, '\0')) {
        return false;
    }
    memcpy(copy, text.data, text.len);
    copy[text.len] = '\0';
    if (text_contains(text, ':')) {
        if (inet_pton(AF_INET6, copy, out->bytes) != 1) {
            return false;
        }
        out->is_v4 = memcmp(out->bytes, V4_MAPPED, sizeof V4_MAPPED) == 0;
        return true;
    }
    memcpy(out->bytes, V4_MAPPED, sizeof V4_MAPPED);
    out->is_v4 = true;
    return inet_pton(AF_INET, copy, out->bytes + sizeof V4_MAPPED) == 1;
}

static rl_text without_blanks(rl_text text)
{
    while (text.len > 0 && (text.data[0] == ' ' || text.data[0] == '\t')) {
        text.data++;
        text.len--;
    }
    while (text.len > 0 && (text.data[text.len - 1] == ' ' || text.data[text.len - 1] == '\t')) {
        text.len--;
    }
    return text;
}

/* ":" and one to five digits */
static bool is_port(rl_text text)
{
    if (text.len < 2 || text.len > 6 || text.data[0] != ':') {
        return false;
    }
    for (size_t i = 1; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return false;
        }
    }
    return true;
}

/* Remove brackets and port from "[2001:db8::1]:4711" and "192.0.2.1:80". */
static bool strip_port(rl_text *text)
{
    if (text->len > 0 && text->data[0] == '[') {
        const char *bracket = memchr(text->data, ']', text->len);
        if (bracket == NULL) {
            return false;
        }
        rl_text inside = {text->data + 1, (size_t)(bracket - text->data) - 1};
        rl_text rest = {bracket + 1, text->len - inside.len - 2};
        *text = inside;
        return text_contains(inside, ':') && (rest.len == 0 || is_port(rest));
    }
    const char *colon = text->len > 0 ? memchr(text->data, ':', text->len) : NULL;
    if (colon != NULL) {
        rl_text rest = {colon, text->len - (size_t)(colon - text->data)};
        if (is_port(rest)) { /* then it is the only colon */
            text->len -= rest.len;
        }
    }
    return true;
}

static bool strip_zone(rl_text *text)
{
    const char *percent = text->len > 0 ? memchr(text->data, '%', text->len) : NULL;
    if (percent == NULL) {
        return true;
    }
    size_t zone_len = text->len - (size_t)(percent - text->data) - 1;
    text->len = (size_t)(percent - text->data);
    return zone_len > 0 && text_contains(*text, ':');
}

bool rl_address_parse_node(rl_text text, rl_address *out)
{
    if (text.len > RL_NODE_MAX) {
        return false;
    }
    text = without_blanks(text);
    return strip_port(&text) && strip_zone(&text) && rl_address_parse(text, out);
}

/* ---- networks ------------------------------------------------------------------------ */

static bool bit_of(const rl_address *address, unsigned i)
{
    return (address->bytes[i / 8] >> (7 - i % 8) & 1) != 0;
}

bool rl_network_contains(const rl_network *network, const rl_address *address)
{
    unsigned whole = network->prefix / 8;
    unsigned rest = network->prefix % 8;
    if (network->base.is_v4 != address->is_v4 ||
        memcmp(network->base.bytes, address->bytes, whole) != 0) {
        return false;
    }
    unsigned differ =
        rest == 0 ? 0u : (unsigned)(network->base.bytes[whole] ^ address->bytes[whole]);
    return differ >> (8 - rest) == 0;
}

/* One to three digits. */
static bool read_prefix(rl_text text, unsigned most, unsigned *out)
{
    unsigned value = 0;
    if (text.len == 0 || text.len > 3) {
        return false;
    }
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return false;
        }
        value = value * 10 + (unsigned)(text.data[i] - '0');
    }
    *out = value;
    return value <= most;
}

bool rl_network_parse(rl_text text, rl_network *out)
{
    const char *slash = text.len > 0 ? memchr(text.data, '/', text.len) : NULL;
    rl_text address = {text.data, slash != NULL ? (size_t)(slash - text.data) : text.len};
    if (!rl_address_parse(address, &out->base)) {
        return false;
    }
    /* "::ffff:10.0.0.0/104" counts its bits from the left of all 128 */
    bool is_dotted = !text_contains(address, ':');
    unsigned offset = is_dotted ? V4_BITS : 0;
    out->prefix = 128;
    if (slash != NULL) {
        rl_text digits = {slash + 1, text.len - address.len - 1};
        if (!read_prefix(digits, 128 - offset, &out->prefix)) {
            return false;
        }
        out->prefix += offset;
    }
    if (out->prefix < V4_BITS) {
        out->base.is_v4 = false; /* more than the v4-mapped ones */
    }
    for (unsigned i = out->prefix; i < 128; i++) {
        if (bit_of(&out->base, i)) {
            return false;
        }
    }
    return true;
}

/* ---- writing ------------------------------------------------------------------------- */

/* Find the longest run of two or more zero groups, the first of equals (RFC 5952, 4.2). */
static void find_zeros(const unsigned groups[8], unsigned *first, unsigned *len)
{
    *first = 8;
    *len = 1;
    for (unsigned i = 0; i < 8;) {
        unsigned end = i;
        while (end < 8 && groups[end] == 0) {
            end++;
        }
        if (end - i > *len) {
            *first = i;
            *len = end - i;
        }
        i = end > i ? end : i + 1;
    }
}

static size_t format_v6(const unsigned char bytes[16], char *out)
{
    unsigned groups[8];
    for (unsigned i = 0; i < 8; i++) {
        groups[i] = (unsigned)bytes[2 * i] << 8 | bytes[2 * i + 1];
    }
    unsigned zeros, n_zeros;
    find_zeros(groups, &zeros, &n_zeros);
    char *at = out;
    for (unsigned i = 0; i < 8; i++) {
        if (i == zeros) {
            *at++ = ':';
            if (i + n_zeros == 8) {
                *at++ = ':';
            }
            i += n_zeros - 1;
            continue;
        }
        at += sprintf(at, i > 0 ? ":%x" : "%x", groups[i]);
    }
    *at = '\0';
    return (size_t)(at - out);
}

size_t rl_address_format(const rl_address *address, unsigned ipv6_prefix,
                         char out[RL_ADDRESS_TEXT_MAX])
{
    const unsigned char *bytes = address->bytes;
    if (address->is_v4) {
        return (size_t)sprintf(out, "%u.%u.%u.%u", bytes[12], bytes[13], bytes[14], bytes[15]);
    }
    if (ipv6_prefix >= 128) {
        return format_v6(bytes, out);
    }
    unsigned char masked[16] = {0};
    memcpy(masked, bytes, ipv6_prefix / 8);
    if (ipv6_prefix % 8 != 0) {
        unsigned keep = 0xff00u >> (ipv6_prefix % 8) & 0xffu;
        masked[ipv6_prefix / 8] = (unsigned char)(bytes[ipv6_prefix / 8] & keep);
    }
    size_t len = format_v6(masked, out);
    return len + (size_t)sprintf(out + len, "/%u", ipv6_prefix);
}
