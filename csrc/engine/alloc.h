/* engine/alloc.h -- the only functions that allocate memory in the core.
 *
 * With RL_TEST_ALLOC they call the test program, which makes any chosen allocation fail.
 * Nothing else in the core may call malloc. */
#ifndef RL_ENGINE_ALLOC_H
#define RL_ENGINE_ALLOC_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define RL_CACHE_LINE 64

#ifdef RL_TEST_ALLOC
void *rl_test_alloc(size_t align, size_t size);
void rl_test_free(void *block);
#endif

/* Return zeroed memory that starts on a cache line, or NULL. Free with rl_free. */
static inline void *rl_alloc_zeroed(size_t size)
{
    void *block = NULL;
#ifdef RL_TEST_ALLOC
    block = rl_test_alloc(RL_CACHE_LINE, size);
#else
    if (posix_memalign(&block, RL_CACHE_LINE, size) != 0) {
        return NULL;
    }
#endif
    return block != NULL ? memset(block, 0, size) : NULL;
}

/* Free memory of rl_alloc_zeroed. NULL is fine. */
static inline void rl_free(void *block)
{
#ifdef RL_TEST_ALLOC
    rl_test_free(block);
#else
    free(block);
#endif
}

#endif
