#include "http/client_address.h"

#include <string.h>

/* Elements of one Forwarded line that are kept while it is read from the left. With a longer
 * chain of trusted proxies the line is read again. */
#define REMEMBERED 32

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* ---- the walk, element by element from the right ------------------------------------- */

typedef struct walk {
    const rl_proxies *proxies;
    rl_address found;
    rl_client_source source;
    bool has_address; /* `found` is an address */
    bool is_over;
} walk;

static bool is_trusted(const rl_proxies *proxies, const rl_address *address)
{
    for (size_t i = 0; i < proxies->n_networks; i++) {
        if (rl_network_contains(&proxies->networks[i], address)) {
            return true;
        }
    }
    return false;
}

static void walk_over(walk *walk, rl_text element)
{
    rl_address address;
    if (!rl_address_parse_node(element, &address)) {
        walk->source = RL_CLIENT_MALFORMED;
        walk->is_over = true;
        return;
    }
    walk->found = address;
    walk->has_address = true;
    walk->source = RL_CLIENT_FORWARDED;
    walk->is_over = !is_trusted(walk->proxies, &address);
}

/* ---- X-Forwarded-For --------------------------------------------------------------------- */

/* Blanks around an element do not count for its length. */
static rl_text trimmed(rl_text text)
{
    while (text.len > 0 && is_blank(text.data[text.len - 1])) {
        text.len--;
    }
    while (text.len > 0 && is_blank(text.data[0])) {
        text.data++;
        text.len--;
    }
    return text;
}

static void walk_x_forwarded_for(walk *walk, rl_text line)
{
    size_t end = line.len;
    do {
        size_t begin = end;
        while (begin > 0 && line.data[begin - 1] != ',') {
            begin--;
        }
        walk_over(walk, trimmed((rl_text){line.data + begin, end - begin}));
        if (begin == 0) {
            return;
        }
        end = begin - 1;
    } while (!walk->is_over);
}

/* ---- Forwarded: forwarded-element of RFC 7239, section 4 ----------------------------------- */

typedef struct parameter {
    rl_text name;
    rl_text value; /* of a quoted string the part between the quotes, with its escapes */
    bool is_quoted;
} parameter;

/* RFC 9110, section 5.6.2 */
static bool is_token_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+.^_`|~-", c) != NULL);
}

static rl_text read_token(const char **at, const char *end)
{
    const char *begin = *at;
    while (*at < end && is_token_char(**at)) {
        (*at)++;
    }
    return (rl_text){begin, (size_t)(*at - begin)};
}

/* Read on behind the opening quote. False: it is not closed. */
static bool read_quoted(const char **at, const char *end, rl_text *out)
{
    const char *begin = *at;
    while (*at < end && **at != '"') {
        if (**at == '\\' && *at + 1 < end && (*at)[1] == '\n') {
            return false; /* cannot be escaped */
        }
        *at += **at == '\\' ? 2 : 1;
    }
    if (*at >= end) {
        return false;
    }
    *out = (rl_text){begin, (size_t)(*at - begin)};
    (*at)++;
    return true;
}

static bool read_parameter(const char **at, const char *end, parameter *out)
{
    out->name = read_token(at, end);
    if (out->name.len == 0 || *at == end || **at != '=') {
        return false;
    }
    (*at)++;
    out->is_quoted = *at < end && **at == '"';
    if (out->is_quoted) {
        (*at)++;
        return read_quoted(at, end, &out->value);
    }
    out->value = read_token(at, end);
    return out->value.len > 0;
}

static void skip_blanks(const char **at, const char *end)
{
    while (*at < end && is_blank(**at)) {
        (*at)++;
    }
}

static bool is_for(const parameter *parameter)
{
    static const char name[] = "for";
    if (parameter->name.len != 3) {
        return false;
    }
    for (size_t i = 0; i < 3; i++) {
        if ((parameter->name.data[i] | 0x20) != name[i]) {
            return false;
        }
    }
    return true;
}

/* The `for` of the elements of one line, the last REMEMBERED of the first `wanted`. */
typedef struct elements {
    parameter at[REMEMBERED]; /* of element i at [i % REMEMBERED]; name.len 0: it has no `for` */
    size_t n;
} elements;

/* False: the line does not follow the grammar. It is always checked to its end. */
static bool read_elements(rl_text line, size_t wanted, elements *out)
{
    const char *at = line.data;
    const char *end = line.data + line.len;
    parameter current = {.name = {NULL, 0}};
    size_t n = 0;
    for (;;) {
        parameter next;
        skip_blanks(&at, end);
        if (at < end && *at != ';' && *at != ',') {
            if (!read_parameter(&at, end, &next) || (is_for(&next) && current.name.len > 0)) {
                return false; /* each parameter may occur once */
            }
            if (is_for(&next)) {
                current = next;
            }
            skip_blanks(&at, end);
        }
        if (at == end || *at == ',') {
            if (n < wanted) {
                out->at[n % REMEMBERED] = current;
                out->n = n + 1;
            }
            n++;
            current.name.len = 0;
        } else if (*at != ';') {
            return false;
        }
        if (at == end) {
            return true;
        }
        at++;
    }
}

static void walk_parameter(walk *walk, const parameter *parameter)
{
    char text[RL_NODE_MAX];
    size_t len = 0;
    const rl_text value = parameter->value;
    if (parameter->name.len == 0) { /* no `for` */
        walk_over(walk, (rl_text){text, 0});
        return;
    }
    for (size_t i = 0; i < value.len; i++) {
        if (parameter->is_quoted && value.data[i] == '\\') {
            i++;
        }
        if (len == sizeof text) { /* longer than any address */
            len = 0;
            break;
        }
        text[len++] = value.data[i];
    }
    walk_over(walk, (rl_text){text, len});
}

static void walk_forwarded(walk *walk, rl_text line)
{
    elements elements = {.n = 0};
    size_t left = (size_t)-1;
    do {
        if (!read_elements(line, left, &elements)) {
            walk_over(walk, (rl_text){NULL, 0});
            return;
        }
        size_t first = elements.n > REMEMBERED ? elements.n - REMEMBERED : 0;
        for (left = elements.n; left > first && !walk->is_over; left--) {
            walk_parameter(walk, &elements.at[(left - 1) % REMEMBERED]);
        }
    } while (left > 0 && !walk->is_over);
}

/* ---- the client --------------------------------------------------------------------------- */

rl_client_source rl_client_find(const rl_proxies *proxies, const rl_text *peer,
                                const rl_text *lines, size_t n_lines, rl_address *out)
{
    walk walk = {.proxies = proxies, .source = RL_CLIENT_PEER};
    walk.has_address = peer != NULL && rl_address_parse_node(*peer, &walk.found);
    if (!walk.has_address && (peer != NULL || !proxies->trust_unix)) {
        return RL_CLIENT_NONE;
    }
    rl_address peer_address = walk.found;
    bool peer_has_address = walk.has_address;
    if (peer_has_address && !is_trusted(proxies, &peer_address)) {
        *out = peer_address;
        return RL_CLIENT_PEER;
    }
    for (size_t i = n_lines; i > 0 && !walk.is_over; i--) {
        if (proxies->header == RL_FORWARDED) {
            walk_forwarded(&walk, lines[i - 1]);
        } else {
            walk_x_forwarded_for(&walk, lines[i - 1]);
        }
    }
    if (walk.source == RL_CLIENT_MALFORMED) {
        walk.found = peer_address;
        walk.has_address = peer_has_address;
    }
    *out = walk.found;
    return walk.has_address ? walk.source : RL_CLIENT_NONE;
}

bool rl_client_address(const char *text, size_t len, char out[RL_CLIENT_ADDRESS_MAX])
{
    rl_address address;
    const char *zone = len > 0 ? memchr(text, '%', len) : NULL;
    rl_text known = {text, zone != NULL ? (size_t)(zone - text) : len};
    if (known.len == 0 || memchr(text, ':', known.len) == NULL ||
        !rl_address_parse(known, &address)) {
        return false;
    }
    rl_address_format(&address, 64, out);
    return true;
}
