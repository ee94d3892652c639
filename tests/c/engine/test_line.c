/* test_line.c -- the two ways to search a line agree. */
#include "check.h"
#include "engine/line.h"

static void test_line(const uint64_t *tags, uint64_t tag)
{
    unsigned plain = rl_line_match_plain(tags, tag);
    CHECK_EQUAL(rl_line_match(tags, tag), plain);
#ifdef RL_LINE_SSE2
    CHECK_EQUAL(rl_line_match_sse2(tags, tag), plain);
#endif
    for (unsigned i = 0; i < RL_LINE_SLOTS; i++) {
        CHECK_EQUAL((plain >> i) & 1, tags[i] == tag);
    }
}

int main(void)
{
    /* Tags that share one half with the wanted one must not match. */
    const uint64_t near[] = {0,          1,          UINT64_C(1) << 32, (UINT64_C(1) << 32) + 1,
                             UINT64_MAX, UINT32_MAX, UINT64_MAX << 32};
    _Alignas(RL_CACHE_LINE) uint64_t tags[RL_LINE_SLOTS];
    uint64_t random = 1;
    for (int round = 0; round < 20000; round++) {
        for (unsigned i = 0; i < RL_LINE_SLOTS; i++) {
            tags[i] = near[next_random(&random) % 7];
        }
        test_line(tags, near[next_random(&random) % 7]);
    }
    return report("test_line");
}
