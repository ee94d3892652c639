#include "engine/rate.h"

#include <math.h>

#include "engine/bucket.h"

#define DENOMINATOR_MAX 10000000u

rl_fraction rl_rate_fraction(double rate)
{
    int exponent;
    double fraction = frexp(rate, &exponent); /* in [0.5, 1) */
    rl_fraction exact = {(uint64_t)ldexp(fraction, 53), 1, exponent - 53};
    if (exact.exponent >= 0 || exact.exponent < -120) {
        return exact;
    }
    rl_u128 numerator = exact.p;
    rl_u128 denominator = (rl_u128)1 << -exact.exponent;
    rl_fraction last = {0, 1, 0};
    rl_fraction convergent = {1, 0, 0};
    while (denominator != 0) {
        rl_u128 term = numerator / denominator;
        rl_u128 p = term * convergent.p + last.p;
        rl_u128 q = term * convergent.q + last.q;
        if (p >> 53 != 0 || q > DENOMINATOR_MAX) {
            break;
        }
        last = convergent;
        convergent = (rl_fraction){(uint64_t)p, (uint64_t)q, 0};
        if ((double)convergent.p / (double)convergent.q == rate) { /* rounds correctly */
            return convergent;
        }
        rl_u128 rest = numerator - term * denominator;
        numerator = denominator;
        denominator = rest;
    }
    return exact;
}
