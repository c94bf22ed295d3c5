#include "common/rng.h"

#include <string.h>

uint64_t mix64_inverse(uint64_t mixed)
{
    uint64_t x = mixed;
    x ^= x >> 31 ^ x >> 62;
    x *= 0x319642b2d24d8ec3ull; /* the inverse of 0x94d049bb133111eb modulo 2^64 */
    x ^= x >> 27 ^ x >> 54;
    x *= 0x96de1b173f119089ull; /* the inverse of 0xbf58476d1ce4e5b9 */
    return x ^ x >> 30 ^ x >> 60;
}

uint64_t rng_key(uint64_t seed, const char *purpose, uint64_t index)
{
    uint64_t hash = 0xcbf29ce484222325ull; /* FNV-1a */
    for (; *purpose != '\0'; purpose++)
        hash = (hash ^ (uint8_t)*purpose) * 0x100000001b3ull;
    return rng_at(rng_at(seed, hash), index);
}

/* A whole number below 2^52, exactly; unlike a cast it has a vector form everywhere. */
static inline double to_double(uint64_t n)
{
    uint64_t bits = n | 0x4330000000000000ull; /* 2^52 + n */
    double value;
    memcpy(&value, &bits, sizeof value);
    return value - 0x1p52;
}

/*
 * The natural logarithm of n * 2^-32 for n in [1, 2^32], to about 1e-12: n = 2^e m with m near 1,
 * and log m = 2 atanh((m - 1) / (m + 1)) by its series.
 */
static inline double log_fraction(uint64_t n)
{
    double value = to_double(n);
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    /* Shifted so that m is in [sqrt(1/2), sqrt(2)). */
    bits += 0x3ff0000000000000ull - 0x3fe6a09e00000000ull;
    double exponent = to_double(bits >> 52) - (0x3ff + 32);
    bits = (bits & 0x000fffffffffffffull) + 0x3fe6a09e00000000ull;
    double m;
    memcpy(&m, &bits, sizeof m);
    double f = (m - 1.0) / (m + 1.0);
    double s = f * f;
    double series = 1.0 / 15.0;
    series = series * s + 1.0 / 13.0;
    series = series * s + 1.0 / 11.0;
    series = series * s + 1.0 / 9.0;
    series = series * s + 1.0 / 7.0;
    series = series * s + 1.0 / 5.0;
    series = series * s + 1.0 / 3.0;
    series = series * s + 1.0;
    return 2.0 * f * series + exponent * 0x1.62e42fefa39efp-1;
}

/*
 * cos(2 pi turns * 2^-32) as the sine of the angle to a quarter turn, which lies in [-pi/2, pi/2].
 */
static inline double cos_turns(uint64_t turns)
{
    /* The distance to a whole turn, at most 2^31. */
    uint64_t distance = turns > 0x80000000u ? 0x100000000ull - turns : turns;
    double x = (0x1p30 - to_double(distance)) * (0x1.921fb54442d18p+2 * 0x1p-32);
    double s = x * x;
    double series = -1.0 / 1307674368000.0; /* 1 / 15! and so on */
    series = series * s + 1.0 / 6227020800.0;
    series = series * s - 1.0 / 39916800.0;
    series = series * s + 1.0 / 362880.0;
    series = series * s - 1.0 / 5040.0;
    series = series * s + 1.0 / 120.0;
    series = series * s - 1.0 / 6.0;
    return x + x * s * series;
}

/*
 * Every step is one IEEE operation on doubles, and the build allows neither contraction nor
 * reordering, so vectorized and scalar code agree in every bit. Square roots are correctly rounded
 * everywhere.
 */
void rng_normal_fill(uint64_t key, uint64_t counter, float *out, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t bits = rng_at(key, counter + i);
        double radius = __builtin_sqrt(-2.0 * log_fraction((bits >> 32) + 1));
        out[i] = (float)(radius * cos_turns(bits & 0xffffffffu));
    }
}
