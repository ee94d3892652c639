/* test_address.c -- which client an address stands for. */
#include <string.h>

#include "check.h"
#include "http/client_address.h"

static const struct {
    const char *text;
    const char *client; /* NULL: the text stands for itself */
} CASES[] = {
    {"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"},
    {"2001:DB8:1:2::", "2001:db8:1:2::/64"},
    {"2001:db8:0:0:1::1", "2001:db8::/64"},
    {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff::/64"},
    {"::1", "::/64"},
    {"::", "::/64"},
    {"fe80::1%eth0", "fe80::/64"},
    {"fe80::1%a very long zone id that somebody made up to be longer than any buffer could be",
     "fe80::/64"},
    {"::ffff:192.0.2.1", "192.0.2.1"},
    {"::ffff:c000:201", "192.0.2.1"},
    {"::FFFF:192.0.2.1%1", "192.0.2.1"},
    {"::192.0.2.1", "::/64"},
    {"192.0.2.1", NULL},
    {"", NULL},
    {":", NULL},
    {"[::1]", NULL},
    {"::1/64", NULL},
    {"::1 ", NULL},
    {"1:2:3:4:5:6:7:8:9", NULL},
    {"12345::", NULL},
    {"::ffff:999.0.2.1", NULL},
    {"testclient", NULL},
    {"/run/app.sock:1", NULL},
    {"::1:::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::", NULL},
};

int main(void)
{
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        char out[RL_CLIENT_ADDRESS_MAX] = "untouched";
        bool found = rl_client_address(CASES[i].text, strlen(CASES[i].text), out);
        CHECK(found == (CASES[i].client != NULL));
        CHECK(strcmp(out, found ? CASES[i].client : "untouched") == 0);
    }
    char out[RL_CLIENT_ADDRESS_MAX];
    CHECK(!rl_client_address("::1\0x", 5, out)); /* a NUL does not end an address */
    return report("test_address");
}
