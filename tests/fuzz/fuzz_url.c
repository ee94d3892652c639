/* fuzz_url.c -- any bytes as an address: it is read or refused, with a message. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "redis/url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static rl_options options; /* large */
    char error[RL_URL_ERROR_SIZE] = "";
    rl_status status = rl_url_parse((const char *)data, size, &options, error);
    if (status != RL_OK && (error[0] == 0 || strlen(error) >= sizeof error)) {
        abort();
    }
    if (status == RL_OK && (options.n_servers == 0 || options.servers[0].host[0] == 0)) {
        abort();
    }
    return 0;
}
