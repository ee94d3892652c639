/* test_reply.c -- the bounds on replies: which bytes are refused, and that hiredis reads everything
 * that is accepted, for any split of the stream. */
#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "redis/reply.h"

static bool feed(rl_reply_scan *scan, const char *text)
{
    const char *error;
    size_t len = strlen(text);
    return rl_reply_scan_bytes(scan, text, len, &error) == len && error == NULL;
}

/* Return the error for a stream, NULL for none; *at: the number of bytes before the refused one. */
static const char *error_in(const char *text, size_t *at)
{
    rl_reply_scan scan = {0};
    const char *error = NULL;
    for (*at = 0; text[*at] != 0; ++*at) {
        rl_reply_scan_bytes(&scan, text + *at, 1, &error);
        if (error != NULL) {
            break;
        }
    }
    return error;
}

static void test_accepted(void)
{
    static const struct {
        const char *text;
        uint64_t replies;
    } cases[] = {
        {"+OK\r\n", 1},
        {"+\r\n", 1},
        {"+a\rb\nc\r\r\n", 1},
        {"-ERR no\r\n:-5\r\n", 2},
        {"$0\r\n\r\n$-1\r\n*0\r\n*-1\r\n", 4},
        {"$5\r\n*1\r\n:\r\n", 1}, /* a string that looks like a header */
        {"*2\r\n:1\r\n:1000\r\n*2\r\n:0\r\n:9\r\n", 2},
        {"*2\r\n*2\r\n*0\r\n$1\r\nx\r\n*-1\r\n", 1},
        {"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", 1},
        {"*3\r\n:1\r\n", 0},
        {"$3\r\nab", 0},
        {"+OK\r", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t len = strlen(cases[i].text);
        for (size_t cut = 0; cut <= len; cut++) {
            rl_reply_scan scan = {0};
            const char *error;
            CHECK_EQUAL(rl_reply_scan_bytes(&scan, cases[i].text, cut, &error), cut);
            CHECK(error == NULL);
            CHECK_EQUAL(rl_reply_scan_bytes(&scan, cases[i].text + cut, len - cut, &error),
                        len - cut);
            CHECK(error == NULL);
            CHECK_EQUAL(scan.ended, cases[i].replies);
        }
    }
}

static void test_refused_at_the_header(void)
{
    static const struct {
        const char *text; /* the last byte is the first refused one */
        const char *why;
    } cases[] = {
        {"$500000000000\r\n", "larger than 8 MB"},
        {"$8388609\r\n", "larger than 8 MB"},
        {"$99999999999999999999\r\n", "larger than 8 MB"},
        {"*1\r\n$18446744073709551617\r\n", "larger than 8 MB"},
        {"*1000000000\r\n", "too many elements"},
        {"*524289\r\n", "too many elements"},
        {"*2\r\n*524286\r\n:1\r\n*0\r\n*", NULL}, /* the most that are allowed */
        {"*2\r\n*524287\r\n", "too many elements"},
        {"*4294967297\r\n", "too many elements"},
        {"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", "nested too deeply"},
        {"*0000000000000000000000001", "Redis"},
        {"*01\r\n", "Redis"},
        {"*-2\r\n", "Redis"},
        {"*\r\n", "Redis"},
        {"$+1\r\n", "Redis"},
        {"$-0\r\n", "Redis"},
        {"$1 \r\n", "Redis"},
        {"H", "Redis"},
        {"\n", "Redis"},
        {"+OK\r\n\x16", "Redis"},
        {">", "Redis"}, /* the types of RESP3: a push, */
        {"|", "Redis"}, /* an attribute, */
        {"_", "Redis"}, /* nil, */
        {"%", "Redis"}, /* a map */
        {"*2\r\n:1\r\n#", "Redis"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t at;
        const char *error = error_in(cases[i].text, &at);
        if (cases[i].why == NULL) {
            CHECK(error == NULL);
            continue;
        }
        CHECK(error != NULL && strstr(error, cases[i].why) != NULL);
        CHECK_EQUAL(at, strlen(cases[i].text) - 1);
    }
}

static void test_what_came_before_goes_on(void)
{
    rl_reply_scan scan = {0};
    const char *error;
    CHECK_EQUAL(rl_reply_scan_bytes(&scan, "+OK\r\n:1\r\n$9999999999\r\n", 22, &error), 9);
    CHECK(error != NULL);
    scan = (rl_reply_scan){0};
    CHECK(feed(&scan, "*2\r\n:1\r\n"));
    CHECK_EQUAL(rl_reply_scan_bytes(&scan, ":2\r\n>", 5, &error), 4);
    CHECK(error != NULL);
}

/* Feed the same bytes until they are refused. Return how many were accepted. */
static size_t fill(const char *begin, const char *more)
{
    rl_reply_scan scan = {0};
    const char *error = NULL;
    size_t n = 0;
    CHECK(feed(&scan, begin));
    for (size_t len = strlen(more); error == NULL && n < 2 * RL_REPLY_SIZE_MAX; n += len) {
        rl_reply_scan_bytes(&scan, more, len, &error);
    }
    CHECK(error != NULL);
    return n;
}

static void test_endless(void)
{
    CHECK(fill("+", "xxxxxxxx") <= RL_REPLY_LINE_MAX + 8);
    CHECK(fill("-", "\r\r\r\r") <= RL_REPLY_LINE_MAX + 8);
    CHECK(fill(":", "11111111") <= RL_REPLY_LINE_MAX + 8);
    CHECK(fill("$", "0") <= 32);
    CHECK(fill("*", "1") <= 32);
    CHECK(fill("", "*1\r\n") <= 4 * (RL_REPLY_DEPTH_MAX + 1));
    CHECK(fill("", "*2\r\n:1\r\n") <= 8 * (RL_REPLY_DEPTH_MAX + 1));
    /* Each string is within the bound, but not all of them together. */
    char big[4096];
    snprintf(big, sizeof big, "$%d\r\n%04000d\r\n", 4000, 0);
    CHECK(fill("*500000\r\n", big) <= RL_REPLY_SIZE_MAX + sizeof big);
}

static void test_progress(void)
{
    rl_reply_scan scan = {0};
    uint64_t before = rl_reply_progress(&scan);
    CHECK(feed(&scan, "*2\r\n:1\r\n"));
    CHECK_EQUAL(rl_reply_progress(&scan), before);
    CHECK(feed(&scan, ":1\r\n$100000\r\n"));
    CHECK(rl_reply_progress(&scan) != before);
    static const char part[RL_REPLY_PART];
    const char *error;
    before = rl_reply_progress(&scan);
    CHECK_EQUAL(rl_reply_scan_bytes(&scan, part, 100, &error), 100);
    CHECK_EQUAL(rl_reply_progress(&scan), before);
    CHECK_EQUAL(rl_reply_scan_bytes(&scan, part, sizeof part, &error), sizeof part);
    CHECK(rl_reply_progress(&scan) != before);
}

/* ---- against hiredis ------------------------------------------------------------------------ */

static size_t put_random(uint64_t *random, char *out, int depth)
{
    switch (next_random(random) % (depth < RL_REPLY_DEPTH_MAX ? 7 : 5)) {
    case 0:
        return (size_t)sprintf(out, "+%.*s\r\n", (int)(next_random(random) % 4), "OK!!");
    case 1:
        return (size_t)sprintf(out, "-ERR %d\r\n", (int)(next_random(random) % 100));
    case 2:
        return (size_t)sprintf(out, ":%d\r\n", (int)(next_random(random) % 1000) - 500);
    case 3:
        return (size_t)sprintf(out, "%c-1\r\n", next_random(random) % 2 ? '$' : '*');
    case 4: {
        static const char bytes[] = "\r\n*1\r\n$2:+-";
        int len = (int)(next_random(random) % sizeof bytes);
        return (size_t)sprintf(out, "$%d\r\n%.*s\r\n", len, len, bytes);
    }
    default: {
        int n = (int)(next_random(random) % 3);
        size_t len = (size_t)sprintf(out, "*%d\r\n", n);
        for (int i = 0; i < n; i++) {
            len += put_random(random, out + len, depth + 1);
        }
        return len;
    }
    }
}

/* Valid replies, also with one byte changed: hiredis reads as many as were counted, and accepts all
 * bytes that were accepted here. */
static void test_hiredis_agrees(bool changed)
{
    static char text[1 << 16];
    uint64_t seed = 11, *random = &seed, read = 0;
    for (int round = 0; round < 20000; round++) {
        size_t len = 0;
        for (uint64_t n = 1 + next_random(random) % 3; n > 0; n--) {
            len += put_random(random, text + len, 0);
        }
        if (changed) {
            static const char letters[] = "*$+-:0123456789\r\n>_";
            text[next_random(random) % len] = letters[next_random(random) % (sizeof letters - 1)];
        }
        rl_reply_scan scan = {0};
        const char *error = NULL;
        redisReader *reader = redisReaderCreate();
        uint64_t replies = 0;
        bool fine = true;
        for (size_t i = 0; i < len && error == NULL;) {
            size_t piece = 1 + next_random(random) % 40;
            piece = piece < len - i ? piece : len - i;
            size_t good = rl_reply_scan_bytes(&scan, text + i, piece, &error);
            CHECK(error != NULL || good == piece);
            redisReaderFeed(reader, text + i, good);
            i += piece;
            redisReply *reply = NULL;
            while (fine && (fine = redisReaderGetReply(reader, (void **)&reply) == REDIS_OK) &&
                   reply != NULL) {
                replies++;
                freeReplyObject(reply);
            }
        }
        CHECK(fine || changed); /* hiredis also checks integers and texts */
        CHECK(!fine || replies == scan.ended);
        read += replies;
        redisReaderFree(reader);
    }
    CHECK(read > 5000);
}

int main(void)
{
    test_accepted();
    test_refused_at_the_header();
    test_what_came_before_goes_on();
    test_endless();
    test_progress();
    test_hiredis_agrees(false);
    test_hiredis_agrees(true);
    return report("reply");
}
