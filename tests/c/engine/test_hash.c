/* test_hash.c -- SipHash against published vectors, and its use by rl_hash. */
#include "check.h"
#include "engine/hash.h"

/* SipHash-2-4 of 00 01 .. (len - 1) under the key 00 01 .. 0f: the vectors of
 * the reference implementation, confirmed with OpenSSL's SipHash. */
static const struct {
    size_t len;
    const char *hex;
} VECTORS[] = {
    {0, "310e0edd47db6f72"},  {1, "fd67dc93c539f874"},  {2, "5a4fa9d909806c0d"},
    {7, "37d1018bf50002ab"},  {8, "6224939a79f5f593"},  {15, "e545be4961ca29a1"},
    {16, "db9bc2577fcc2a3f"}, {63, "724506eb4c328a95"},
};

static const rl_secret KEY = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};

static void to_hex(rl_key key, char hex[17])
{
    for (unsigned i = 0; i < 8; i++) {
        sprintf(hex + 2 * i, "%02x", (unsigned)(key.hash >> (8 * i)) & 0xff);
    }
}

static void test_vectors(void)
{
    unsigned char data[64];
    char hex[17];
    for (unsigned i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)i;
    }
    for (size_t i = 0; i < sizeof VECTORS / sizeof VECTORS[0]; i++) {
        to_hex(rl_sip(KEY, data, VECTORS[i].len, 2, 4), hex);
        CHECK(strcmp(hex, VECTORS[i].hex) == 0);
    }
}

static void test_place_in_memory_does_not_matter(void)
{
    unsigned char buffer[128];
    for (size_t len = 0; len <= 64; len++) {
        for (size_t i = 0; i < len; i++) {
            buffer[i] = (unsigned char)(i * 7);
        }
        rl_key aligned = rl_hash(KEY, buffer, len);
        for (size_t shift = 1; shift < 8; shift++) {
            memmove(buffer + shift, buffer + shift - 1, len);
            rl_key moved = rl_hash(KEY, buffer + shift, len);
            CHECK(moved.hash == aligned.hash);
        }
    }
}

static void test_length_secret_and_content_matter(void)
{
    const unsigned char zeros[64] = {0};
    rl_key keys[66];
    for (size_t len = 0; len <= 64; len++) {
        keys[len] = rl_hash(KEY, zeros, len);
    }
    keys[65] = rl_hash((rl_secret){1, 2}, zeros, 0);
    for (size_t i = 0; i < 66; i++) {
        for (size_t j = 0; j < i; j++) {
            CHECK(keys[i].hash != keys[j].hash);
        }
    }
}

int main(void)
{
    test_vectors();
    test_place_in_memory_does_not_matter();
    test_length_secret_and_content_matter();
    return report("test_hash");
}
