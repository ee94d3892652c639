#include "http/masked_key.h"

#include <stdbool.h>
#include <string.h>

#include "http/address.h"

#define LABEL_MAX 40u
#define CHARACTERS_MAX 4u
#define IPV6_PREFIX 48u

_Static_assert(LABEL_MAX + sizeof "ffff:ffff:ffff::/48" - 1 <= RL_MASKED_KEY_MAX,
               "there is room for a label and an address");
_Static_assert(LABEL_MAX + CHARACTERS_MAX * 4 <= RL_MASKED_KEY_MAX,
               "there is room for a label and characters");

static bool begins_with(const char *key, size_t len, const char *text)
{
    return len >= strlen(text) && memcmp(key, text, strlen(text)) == 0;
}

/* Return the length of the label of a source of keys: see label_of() in policy/keys.py. */
static size_t label_length(const char *key, size_t len)
{
    static const char *const named[] = {"header:", "cookie:", "jwt:"};
    if (begins_with(key, len, "ip:")) {
        return strlen("ip:");
    }
    if (begins_with(key, len, "user:")) {
        return strlen("user:");
    }
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        size_t kind = strlen(named[i]);
        if (begins_with(key, len, named[i])) {
            const char *colon = memchr(key + kind, ':', len - kind);
            return colon != NULL ? (size_t)(colon - key) + 1 : kind;
        }
    }
    return 0;
}

static bool begins_character(char c)
{
    return ((unsigned char)c & 0xc0) != 0x80;
}

/* Return the length of the first `count` characters, or of all. */
static size_t characters_length(const char *text, size_t len, size_t count)
{
    size_t end = 0;
    while (end < len && count > 0) {
        size_t begin = end++;
        while (end < len && end < begin + 4 && !begins_character(text[end])) {
            end++;
        }
        count--;
    }
    return end;
}

static size_t write_characters(const char *text, size_t len, char *out)
{
    size_t most = 3 * CHARACTERS_MAX;
    size_t count = 0;
    for (size_t at = 0; at < len && count < most; count++) {
        at += characters_length(text + at, len - at, 1);
    }
    size_t kept = characters_length(text, len, count / 3);
    memcpy(out, text, kept);
    return kept;
}

/* Return the length of a dotted IPv4 address up to its last dot, 0 if the text is none. A sketch
 * masks many of them, so this is faster than rl_address_parse. */
static size_t v4_length(const char *text, size_t len)
{
    size_t dots = 0;
    size_t begin = 0; /* of the current number */
    unsigned value = 0;
    if (len > sizeof "255.255.255.255" - 1) {
        return 0;
    }
    for (size_t i = 0; i < len; i++) {
        bool is_digit = text[i] >= '0' && text[i] <= '9';
        if (text[i] == '.' && i > begin && dots < 3) {
            dots++;
            begin = i + 1;
            value = 0;
            continue;
        }
        value = value * 10 + (unsigned)(text[i] - '0');
        if (!is_digit || value > 255 || (i > begin && text[begin] == '0')) {
            return 0;
        }
    }
    return dots == 3 && begin < len ? begin : 0;
}

/* Write the network of the length of IPv4. */
static size_t write_v4(const char *text, size_t kept, char *out)
{
    memcpy(out, text, kept);
    memcpy(out + kept, "0/24", strlen("0/24"));
    return kept + strlen("0/24");
}

/* Write the network of an address, or of a network as client_key() writes it. 0: it is none. */
static size_t write_network(const char *text, size_t len, char *out)
{
    rl_address address;
    char formatted[RL_ADDRESS_TEXT_MAX];
    size_t kept = v4_length(text, len);
    if (kept > 0) {
        return write_v4(text, kept, out);
    }
    if (len == 0 || len > RL_NODE_MAX || memchr(text, ':', len) == NULL) {
        return 0;
    }
    const char *slash = memchr(text, '/', len);
    size_t address_len = slash != NULL ? (size_t)(slash - text) : len;
    if (!rl_address_parse((rl_text){text, address_len}, &address)) {
        return 0;
    }
    size_t written = rl_address_format(&address, IPV6_PREFIX, formatted);
    if (address.is_v4) { /* v4-mapped */
        return write_v4(formatted, v4_length(formatted, written), out);
    }
    memcpy(out, formatted, written);
    return written;
}

size_t rl_masked_key(const char *key, size_t len, char *out)
{
    size_t label = label_length(key, len);
    size_t kept = characters_length(key, label, LABEL_MAX / 4);
    if (label <= LABEL_MAX) {
        kept = label;
    }
    memcpy(out, key, kept);
    size_t written = write_network(key + label, len - label, out + kept);
    if (written == 0) {
        written = write_characters(key + label, len - label, out + kept);
    }
    return kept + written;
}
