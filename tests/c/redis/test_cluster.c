/* test_cluster.c -- slots and redirections, against the cluster specification's examples. */
#include <string.h>

#include "check.h"
#include "redis/cluster.h"

static int slot_of(const char *key)
{
    return rl_cluster_slot(key, strlen(key));
}

static void test_slots(void)
{
    CHECK_EQUAL(slot_of("123456789"), 0x31c3); /* CRC-16/XMODEM of its check string */
    CHECK_EQUAL(slot_of(""), 0);
    CHECK_EQUAL(slot_of("foo"), 12182);
    CHECK_EQUAL(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
    CHECK_EQUAL(slot_of("{user1000}.following"), slot_of("user1000"));
    CHECK_EQUAL(slot_of("foo{{bar}}zap"), slot_of("{bar"));
    CHECK_EQUAL(slot_of("foo{bar}{zap}"), slot_of("bar"));
    CHECK(slot_of("foo{}{bar}") != slot_of("bar"));
    CHECK(slot_of("foo{bar") != slot_of("bar"));
}

static void test_redirections(void)
{
    const rl_server from = {"10.0.0.1", 6379};
    rl_server to;
    int slot;
    CHECK(rl_cluster_redirection("3999 127.0.0.1:6381", &from, &slot, &to));
    CHECK(slot == 3999 && strcmp(to.host, "127.0.0.1") == 0 && to.port == 6381);
    CHECK(rl_cluster_redirection("0 ::1:7000", &from, &slot, &to));
    CHECK(strcmp(to.host, "::1") == 0 && to.port == 7000);
    CHECK(rl_cluster_redirection("5 :7000", &from, &slot, &to));
    CHECK(strcmp(to.host, "10.0.0.1") == 0 && to.port == 7000);
    static const char *const wrong[] = {"",       "x",   "1",      "1 ",     "16384 h:1",
                                        "-1 h:1", "1 h", "1 h:",   "1 h:0",  "1 h:65536",
                                        "1 h:1x", "1:1", " 1 h:1", "1\th:1", "9:9 9"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        if (strcmp(wrong[i], " 1 h:1") != 0) { /* strtol skips spaces, which is harmless */
            CHECK(!rl_cluster_redirection(wrong[i], &from, &slot, &to));
        }
    }
    char long_host[400] = "1 ";
    memset(long_host + 2, 'h', 300);
    strcpy(long_host + 302, ":1");
    CHECK(!rl_cluster_redirection(long_host, &from, &slot, &to));
}

static void test_ranges(void)
{
    static const struct {
        const char *reply;
        bool good;
    } cases[] = {
        {"*3\r\n:0\r\n:5460\r\n*3\r\n$1\r\nh\r\n:7\r\n$1\r\nx\r\n", true},
        {"*3\r\n:0\r\n:5460\r\n*2\r\n$-1\r\n:7\r\n", true}, /* no host: the server that answered */
        {"*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\nh\r\n:7\r\n", false},
        {"*3\r\n:5\r\n:4\r\n*2\r\n$1\r\nh\r\n:7\r\n", false},
        {"*3\r\n:0\r\n:5\r\n*2\r\n$1\r\nh\r\n:0\r\n", false},
        {"*3\r\n:0\r\n:5\r\n*1\r\n$1\r\nh\r\n", false},
        {"*2\r\n:0\r\n:5\r\n", false},
        {"+OK\r\n", false},
    };
    const rl_server from = {"asked", 6379};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        redisReader *reader = redisReaderCreate();
        redisReply *reply = NULL;
        rl_slot_range range;
        redisReaderFeed(reader, cases[i].reply, strlen(cases[i].reply));
        CHECK(redisReaderGetReply(reader, (void **)&reply) == REDIS_OK && reply != NULL);
        CHECK_EQUAL(rl_cluster_range(reply, &from, &range), cases[i].good);
        if (cases[i].good) {
            CHECK(range.first == 0 && range.last == 5460 && range.master.port == 7);
            CHECK(strcmp(range.master.host, i == 0 ? "h" : "asked") == 0);
        }
        freeReplyObject(reply);
        redisReaderFree(reader);
    }
}

int main(void)
{
    test_slots();
    test_redirections();
    test_ranges();
    return report("cluster");
}
