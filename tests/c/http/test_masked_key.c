/* test_masked_key.c -- keys that are shortened so that they do not name a person. */
#include <string.h>

#include "check.h"
#include "http/masked_key.h"

#define FORTY "0123456789012345678901234567890123456789"

static const struct {
    const char *key;
    const char *masked;
} KEYS[] = {
    {"203.0.113.9", "203.0.113.0/24"},
    {"255.255.255.255", "255.255.255.0/24"},
    {"2001:db8:1:2::/64", "2001:db8:1::/48"},
    {"2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"},
    {"::ffff:203.0.113.9", "203.0.113.0/24"},
    {"::1", "::/48"},
    {"ip:203.0.113.9", "ip:203.0.113.0/24"},
    {"ip:2001:db8:1:2::/64", "ip:2001:db8:1::/48"},
    {"header:x-real-ip:203.0.113.9", "header:x-real-ip:203.0.113.0/24"},
    {"header:x-api-key:5f3b9c2a77d1e0", "header:x-api-key:5f3b"},
    {"cookie:sid:0123456789", "cookie:sid:012"},
    {"jwt:sub:joanna", "jwt:sub:jo"},
    {"user:joanna.smith@example.com", "user:joan"},
    {"header:no-value", "header:no"}, /* no label of a source: nothing stands behind the name */
    {"header:", "header:"},
    {"joanna", "jo"},
    {"joanna.smith@example.com", "joan"},
    {"ab", ""},
    {"", ""},
    {"203.0.113.9:upload", "203."},
    {"203.0.113", "203"},
    {"203.0.113.999", "203."},
    {"tenant:42:user:7", "tena"},
    {"jwt:" FORTY ":joanna", "jwt:012345jo"}, /* a long label is cut, its value masked */
    {"\xc3\xa4\xc3\xb6\xc3\xbc", "\xc3\xa4"}, /* three characters */
    {"\xf0\x9f\x98\x80\xf0\x9f\x98\x80\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
    {"\x80\x80\x80\x80\x80\x80\x80\x80", ""}, /* not UTF-8 */
};

static void test_keys(void)
{
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        char out[RL_MASKED_KEY_MAX + 1] = "";
        size_t len = rl_masked_key(KEYS[i].key, strlen(KEYS[i].key), out);
        CHECK_EQUAL(len, strlen(KEYS[i].masked));
        CHECK(memcmp(out, KEYS[i].masked, len) == 0);
        if (strcmp(out, KEYS[i].masked) != 0) {
            printf("%s: %s\n", KEYS[i].key, out);
        }
    }
}

/* Any bytes: never more than there is room for, and at most a third of a value. */
static void test_any_bytes(void)
{
    static const char *const labels[] = {
        "", "ip:", "user:", "header:x:", "cookie:", ("jwt:" FORTY)};
    uint64_t state = 1;
    for (int round = 0; round < 20000; round++) {
        char key[128];
        char out[RL_MASKED_KEY_MAX];
        const char *label = labels[next_random(&state) % (sizeof labels / sizeof *labels)];
        size_t begin = strlen(label);
        size_t len = begin + next_random(&state) % (sizeof key - begin);
        memcpy(key, label, begin);
        for (size_t i = begin; i < len; i++) {
            key[i] = (char)(next_random(&state) % 3 == 0 ? 0x80 : next_random(&state));
        }
        CHECK(rl_masked_key(key, len, out) <= RL_MASKED_KEY_MAX);
    }
}

int main(void)
{
    test_keys();
    test_any_bytes();
    return report("masked_key");
}
