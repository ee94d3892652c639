/* fuzz_client_address.c -- any bytes as headers of proxies: prepending values changes nothing,
 * and the found address can be written and read again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "http/client_address.h"

#define LINES_MAX 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t split(const char *data, size_t size, rl_text *lines)
{
    size_t n = 0;
    const char *end = data + size;
    while (n < LINES_MAX) {
        const char *next = size > 0 ? memchr(data, '\n', (size_t)(end - data)) : NULL;
        lines[n++] = (rl_text){data, (size_t)((next != NULL ? next : end) - data)};
        if (next == NULL) {
            break;
        }
        data = next + 1;
    }
    return n;
}

static void check_written(const rl_address *address)
{
    char out[RL_ADDRESS_TEXT_MAX];
    rl_address again;
    size_t len = rl_address_format(address, 128, out);
    if (len != strlen(out) || !rl_address_parse((rl_text){out, len}, &again) ||
        memcmp(again.bytes, address->bytes, sizeof again.bytes) != 0) {
        abort();
    }
}

/* Lines in front of those of the proxies come from the client: they count only while every
 * address behind them is trusted. */
static void check_prepended(const rl_proxies *proxies, const rl_text *peer, const rl_text *lines,
                            size_t n, const rl_address *found)
{
    rl_text more[LINES_MAX + 1];
    rl_address again;
    bool is_trusted = false;
    for (size_t i = 0; i < proxies->n_networks; i++) {
        is_trusted = is_trusted || rl_network_contains(&proxies->networks[i], found);
    }
    more[0] = (rl_text){"for=1.2.3.4", 11};
    memcpy(more + 1, lines, n * sizeof *lines);
    if (!is_trusted && (rl_client_find(proxies, peer, more, n + 1, &again) == RL_CLIENT_NONE ||
                        memcmp(again.bytes, found->bytes, sizeof again.bytes) != 0)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char network_text[] = "10.0.0.0/8";
    static const char peer_text[] = "10.0.0.1";
    rl_network network;
    rl_text lines[LINES_MAX];
    rl_address found;
    if (size == 0 ||
        !rl_network_parse((rl_text){network_text, sizeof network_text - 1}, &network)) {
        return 0;
    }
    rl_proxies proxies = {&network, 1, (data[0] & 2) != 0,
                          (data[0] & 1) != 0 ? RL_FORWARDED : RL_X_FORWARDED_FOR};
    rl_text peer = {peer_text, sizeof peer_text - 1};
    const rl_text *from = (data[0] & 4) != 0 ? NULL : &peer;
    size_t n = split((const char *)data + 1, size - 1, lines);
    rl_client_source source = rl_client_find(&proxies, from, lines, n, &found);
    if (source != RL_CLIENT_NONE) {
        check_written(&found);
    }
    if (source == RL_CLIENT_FORWARDED) {
        check_prepended(&proxies, from, lines, n, &found);
    }
    if (rl_network_parse((rl_text){(const char *)data, size}, &network)) {
        check_written(&network.base);
    }
    return 0;
}
