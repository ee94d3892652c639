#include "http/client_address.h"

#include <arpa/inet.h>
#include <string.h>

static bool is_v4_mapped(const unsigned char bytes[16])
{
    static const unsigned char prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return memcmp(bytes, prefix, sizeof prefix) == 0;
}

bool rl_client_address(const char *text, size_t len, char out[RL_CLIENT_ADDRESS_MAX])
{
    char address[INET6_ADDRSTRLEN];
    unsigned char bytes[16];
    const char *zone = memchr(text, '%', len);
    size_t address_len = zone != NULL ? (size_t)(zone - text) : len;
    if (address_len >= sizeof address || memchr(text, '\0', address_len) != NULL) {
        return false;
    }
    memcpy(address, text, address_len);
    address[address_len] = '\0';
    if (inet_pton(AF_INET6, address, bytes) != 1) {
        return false;
    }
    if (is_v4_mapped(bytes)) {
        return inet_ntop(AF_INET, bytes + 12, out, RL_CLIENT_ADDRESS_MAX) != NULL;
    }
    memset(bytes + 8, 0, 8);
    if (inet_ntop(AF_INET6, bytes, out, RL_CLIENT_ADDRESS_MAX) == NULL) {
        return false;
    }
    strcat(out, "/64"); /* at most 45 characters so far */
    return true;
}
