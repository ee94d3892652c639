/* engine/rate.h -- the exact number that a rate, given as a double, stands for. */
#ifndef RL_ENGINE_RATE_H
#define RL_ENGINE_RATE_H

#include <stdint.h>

/* p / q * 2^exponent, with p and q below 2^53. */
typedef struct rl_fraction {
    uint64_t p, q;
    int exponent;
} rl_fraction;

/* Return the fraction that a rate > 0 stands for: the first convergent of its continued
 * fraction that has a small denominator and rounds to the very same double. So
 * 1 / 3600.0 is one token in 3600 s, and not in 3600 s and a nanosecond. A rate
 * without such a fraction stands for itself; then exponent is not 0, or q is 1. */
rl_fraction rl_rate_fraction(double rate);

#endif
