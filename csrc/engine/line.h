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
/* Return 32 bits of ones or zeros for each of four tags. SSE2 compares halves of 32 bits, so the
 * low and the high halves of two pairs are gathered first; a tag matches where both do. */
static inline __m128i rl_line_match_four(const uint64_t *tags, __m128i low, __m128i high)
{
    __m128 first = _mm_load_ps((const float *)(const void *)tags);
    __m128 second = _mm_load_ps((const float *)(const void *)(tags + 2));
    __m128i lows = _mm_castps_si128(_mm_shuffle_ps(first, second, _MM_SHUFFLE(2, 0, 2, 0)));
    __m128i highs = _mm_castps_si128(_mm_shuffle_ps(first, second, _MM_SHUFFLE(3, 1, 3, 1)));
    return _mm_and_si128(_mm_cmpeq_epi32(lows, low), _mm_cmpeq_epi32(highs, high));
}

/* `tags` starts on a cache line. */
static inline unsigned rl_line_match_sse2(const uint64_t *tags, uint64_t tag)
{
    const __m128i low = _mm_set1_epi32((int)(uint32_t)tag);
    const __m128i high = _mm_set1_epi32((int)(uint32_t)(tag >> 32));
    __m128i eight = _mm_packs_epi32(rl_line_match_four(tags, low, high),
                                    rl_line_match_four(tags + 4, low, high));
    return (unsigned)_mm_movemask_epi8(_mm_packs_epi16(eight, _mm_setzero_si128()));
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
