/* at.h -- times for tests: both clocks show the same. */
#ifndef AT_H
#define AT_H

#include "engine/bucket.h"

static inline rl_time at(int64_t ns)
{
    return (rl_time){ns, ns};
}

#endif
