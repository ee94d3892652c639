/* engine/line.h -- find a tag among the eight of one line, which is one cache line.
 *
 * Both functions return a mask: bit i is set where tags[i] == tag. They must
 * agree; tests compare them. */
#ifndef RL_ENGINE_LINE_H
#define RL_ENGINE_LINE_H

#include <stdint.h>

#if defined(__SSE2__) && !defined(RL_NO_SIMD)
#define RL_LINE_SSE2 1
#include <emmintrin.h>
#endif

#define RL_LINE_SLOTS 8u

static inline unsigned rl_line_match_plain(const uint64_t *tags, uint64_t tag)
{
    unsigned mask = 0;
    for (unsigned i = 0; i < RL_LINE_SLOTS; i++) {
        mask |= (unsigned)(tags[i] == tag) << i;
    }
    return mask;
}

#ifdef RL_LINE_SSE2
/* SSE2 compares 32-bit halves; a tag matches where both of its halves do.
 * `tags` starts on a cache line. */
static inline unsigned rl_line_match_sse2(const uint64_t *tags, uint64_t tag)
{
    const __m128i wanted = _mm_set1_epi64x((long long)tag);
    unsigned mask = 0;
    for (unsigned i = 0; i < RL_LINE_SLOTS; i += 2) {
        __m128i pair = _mm_load_si128((const __m128i *)(const void *)(tags + i));
        __m128i halves = _mm_cmpeq_epi32(pair, wanted);
        __m128i swapped = _mm_shuffle_epi32(halves, _MM_SHUFFLE(2, 3, 0, 1));
        __m128i whole = _mm_and_si128(halves, swapped);
        mask |= (unsigned)_mm_movemask_pd(_mm_castsi128_pd(whole)) << i;
    }
    return mask;
}
#endif

static inline unsigned rl_line_match(const uint64_t *tags, uint64_t tag)
{
#ifdef RL_LINE_SSE2
    return rl_line_match_sse2(tags, tag);
#else
    return rl_line_match_plain(tags, tag);
#endif
}

#endif
