/*
 * rng.h - random numbers that are pure functions of a counter.
 *
 * rng_at(key, counter) has no state, so that initial values, dropout masks and permutations do not
 * depend on who asks, in which order, how often. mix64() is the bijection that keys pass on entry
 * (PROTOCOL.md 1).
 *
 * Sources  mix64: Stafford's variant 13 of the MurmurHash3 finalizer, as in SplitMix64 (Steele,
 *          Lea, Flood, OOPSLA 2014). Normal numbers: Box-Muller on two uniforms, with our own log
 *          and cos polynomials, so that no libm is in the result.
 * Threads  none needed; all functions are pure.
 */
#ifndef PARAMD_COMMON_RNG_H
#define PARAMD_COMMON_RNG_H

#include <stdint.h>

/* Where these run on a GPU too, its sources define this to what the compiler calls that. */
#ifndef DEVICE_CALL
#define DEVICE_CALL
#endif

DEVICE_CALL static inline uint64_t mix64(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

uint64_t mix64_inverse(uint64_t mixed);

/* 64 random bits: a pure function of both arguments. */
DEVICE_CALL static inline uint64_t rng_at(uint64_t key, uint64_t counter)
{
    return mix64(mix64(key + 0x9e3779b97f4a7c15ull) ^ mix64(counter + 0xd1b54a32d192ed03ull));
}

/* A key for a named purpose: rng_key(seed, "dropout", layer_index). */
uint64_t rng_key(uint64_t seed, const char *purpose, uint64_t index);

/* Uniform in [0, bound), without bias that matters (multiply-high of 64 bits). */
static inline uint64_t rng_below(uint64_t bits, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)bits * bound) >> 64);
}

/* Uniform in [0, 1): the upper 24 bits. */
DEVICE_CALL static inline float rng_uniform(uint64_t bits)
{
    return (float)(bits >> 40) * 0x1p-24f;
}

/* out[i] = the standard normal number at (key, counter + i). */
void rng_normal_fill(uint64_t key, uint64_t counter, float *out, uint32_t count);

#endif
