/* alloc_seam.c -- the allocator of the C tests, which fails on request. */
#include <stdatomic.h>

#include "check.h"

static atomic_ulong calls;
static atomic_ulong fail_first;
static atomic_ulong fail_count;
static atomic_long live_blocks;

void seam_fail(unsigned long first, unsigned long count)
{
    atomic_store(&calls, 0);
    atomic_store(&fail_first, first);
    atomic_store(&fail_count, count);
}

unsigned long seam_calls(void)
{
    return atomic_load(&calls);
}

long seam_live_blocks(void)
{
    return atomic_load(&live_blocks);
}

void *rl_test_alloc(size_t align, size_t size)
{
    void *block = NULL;
    unsigned long call = atomic_fetch_add(&calls, 1);
    unsigned long first = atomic_load(&fail_first);
    if (call >= first && call - first < atomic_load(&fail_count)) {
        return NULL;
    }
    if (posix_memalign(&block, align, size) != 0) {
        return NULL;
    }
    atomic_fetch_add(&live_blocks, 1);
    return block;
}

void rl_test_free(void *block)
{
    if (block != NULL) {
        atomic_fetch_sub(&live_blocks, 1);
    }
    free(block);
}
