/* test_address.c -- addresses and networks: read, compared, written. */
#include <string.h>

#include "check.h"
#include "http/address.h"

static rl_text text_of(const char *text)
{
    return (rl_text){text, strlen(text)};
}

static const struct {
    const char *text;
    const char *written; /* with all 128 bits; NULL: not an address */
} ADDRESSES[] = {
    {"192.0.2.1", "192.0.2.1"},
    {"0.0.0.0", "0.0.0.0"},
    {"255.255.255.255", "255.255.255.255"},
    {"2001:DB8::1", "2001:db8::1"},
    {"2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"}, /* the first of two equal runs */
    {"2001:0:0:1::1", "2001:0:0:1::1"},
    {"2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"}, /* one zero group stays */
    {"1::", "1::"},
    {"::", "::"},
    {"::1.2.3.4", "::102:304"},
    {"::ffff:192.0.2.1", "192.0.2.1"},
    {"::ffff:c000:201", "192.0.2.1"},
    {"1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"},
    {"", NULL},
    {"192.0.2.01", NULL},
    {"192.0.2", NULL},
    {"192.0.2.256", NULL},
    {"192.0.2.1.", NULL},
    {" 192.0.2.1", NULL},
    {"0x7f.0.0.1", NULL},
    {"1:2:3:4:5:6:7:8:9", NULL},
    {"1::2::3", NULL},
    {"12345::", NULL},
    {":1", NULL},
    {"fe80::1%eth0", NULL},
    {"::ffff:192.0.2.1:80", NULL},
    {"unknown", NULL},
};

static void test_addresses(void)
{
    for (size_t i = 0; i < sizeof ADDRESSES / sizeof ADDRESSES[0]; i++) {
        rl_address address;
        char out[RL_ADDRESS_TEXT_MAX];
        bool found = rl_address_parse(text_of(ADDRESSES[i].text), &address);
        CHECK(found == (ADDRESSES[i].written != NULL));
        if (found) {
            CHECK_EQUAL(rl_address_format(&address, 128, out), strlen(ADDRESSES[i].written));
            CHECK(strcmp(out, ADDRESSES[i].written) == 0);
        }
    }
    rl_address address;
    CHECK(!rl_address_parse((rl_text){"::1\0", 4}, &address)); /* a NUL ends no address */
}

static const struct {
    const char *text;
    const char *written; /* NULL: not a node with an address */
} NODES[] = {
    {"192.0.2.1:80", "192.0.2.1"},
    {" \t192.0.2.1 ", "192.0.2.1"},
    {"[2001:db8::1]", "2001:db8::1"},
    {"[2001:db8::1]:4711", "2001:db8::1"},
    {"2001:db8::1", "2001:db8::1"},
    {"fe80::1%eth0", "fe80::1"},
    {"[fe80::1%25eth0]:80", "fe80::1"},
    {"[::ffff:192.0.2.1]:80", "192.0.2.1"},
    {"192.0.2.1:", NULL},
    {"192.0.2.1:123456", NULL},
    {"192.0.2.1:8a", NULL},
    {"[192.0.2.1]", NULL},
    {"[2001:db8::1", NULL},
    {"[2001:db8::1]x", NULL},
    {"[2001:db8::1]:", NULL},
    {"192.0.2.1%eth0", NULL},
    {"fe80::1%", NULL},
    {"unknown", NULL},
    {"_hidden", NULL},
    {"_hidden:80", NULL},
    {"", NULL},
    {"[]", NULL},
    {"                                                              192.0.2.1", NULL},
};

static void test_nodes(void)
{
    for (size_t i = 0; i < sizeof NODES / sizeof NODES[0]; i++) {
        rl_address address;
        char out[RL_ADDRESS_TEXT_MAX];
        bool found = rl_address_parse_node(text_of(NODES[i].text), &address);
        CHECK(found == (NODES[i].written != NULL));
        if (found) {
            rl_address_format(&address, 128, out);
            CHECK(strcmp(out, NODES[i].written) == 0);
        }
    }
}

static const struct {
    const char *network;
    const char *inside;
    const char *outside;
} NETWORKS[] = {
    {"10.0.0.0/8", "10.255.0.1", "11.0.0.0"},
    {"10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"},
    {"192.0.2.128/25", "192.0.2.200", "192.0.2.127"},
    {"192.0.2.7", "192.0.2.7", "192.0.2.6"},
    {"0.0.0.0/0", "1.2.3.4", "::1"},
    {"::/0", "2001:db8::", "1.2.3.4"}, /* IPv6 only */
    {"2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"},
    {"2001:db8::1", "2001:db8::1", "2001:db8::2"},
    {"::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"},
};

static void test_networks(void)
{
    for (size_t i = 0; i < sizeof NETWORKS / sizeof NETWORKS[0]; i++) {
        rl_network network;
        rl_address inside, outside;
        CHECK(rl_network_parse(text_of(NETWORKS[i].network), &network));
        CHECK(rl_address_parse(text_of(NETWORKS[i].inside), &inside));
        CHECK(rl_address_parse(text_of(NETWORKS[i].outside), &outside));
        CHECK(rl_network_contains(&network, &inside));
        CHECK(!rl_network_contains(&network, &outside));
    }
    static const char *const wrong[] = {
        "",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/8 ",
        "2001:db8::/129",
        "2001:db8::1/64",
        "10.0.0.0/0x8",
        "10.0.0.0/1000",
        "/8",
        "*",
        "10.0.0.0/8/8",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        rl_network network;
        CHECK(!rl_network_parse(text_of(wrong[i]), &network));
    }
}

static void test_prefixes(void)
{
    static const struct {
        unsigned prefix;
        const char *written;
    } cases[] = {
        {64, "2001:db8:1234:5678::/64"},
        {56, "2001:db8:1234:5600::/56"},
        {60, "2001:db8:1234:5670::/60"},
        {16, "2001::/16"},
        {127, "2001:db8:1234:5678:9abc:def0:1234:5678/127"},
        {0, "::/0"},
    };
    rl_address address;
    char out[RL_ADDRESS_TEXT_MAX];
    CHECK(rl_address_parse(text_of("2001:db8:1234:5678:9abc:def0:1234:5679"), &address));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_EQUAL(rl_address_format(&address, cases[i].prefix, out), strlen(cases[i].written));
        CHECK(strcmp(out, cases[i].written) == 0);
    }
}

int main(void)
{
    test_addresses();
    test_nodes();
    test_networks();
    test_prefixes();
    return report("test_address");
}
