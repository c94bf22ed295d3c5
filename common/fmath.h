/*
 * fmath.h - exp, log, sigmoid, tanh and the losses made of them, from additions and multiplications
 * alone.
 *
 * libm's functions have other bits in their vector twins, and other bits in other versions. These
 * are one sequence of IEEE operations each, without a branch, so that a loop over them has the same
 * bits in its vectorized body, in its tail and in a call for one number (the build forbids
 * contraction).
 *
 * Errors   fmath_exp: at most 2 ulp where the result is normal; 0 and infinity beyond. fmath_exp64,
 *          fmath_log64: about 1e-15 relative. fmath_tanh, fmath_sigmoid: about 3 ulp. NaN gives
 * NaN. Sources  exp: argument reduction after Cody & Waite, then Taylor's series to the width of
 * the type. log: m = 2^e f, log f = 2 atanh((f - 1) / (f + 1)). Threads  none; pure.
 */
#ifndef PARAMD_COMMON_FMATH_H
#define PARAMD_COMMON_FMATH_H

#include <stdint.h>
#include <string.h>

/* Where these run on a GPU too, its sources define this to what the compiler calls that. */
#ifndef DEVICE_CALL
#define DEVICE_CALL
#endif

DEVICE_CALL static inline float fmath_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

DEVICE_CALL static inline uint32_t fmath_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

DEVICE_CALL static inline double fmath_from_bits64(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

DEVICE_CALL static inline uint64_t fmath_bits64(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/*
 * Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum, without a conversion
 * that is undefined for NaN. 2^k is applied in two halves, so that results next to overflow and
 * underflow are right.
 */
DEVICE_CALL static inline float fmath_exp(float x)
{
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float shifted = x * 0x1.715476p+0f + 0x1.8p23f;
    uint32_t k = fmath_bits(shifted) - fmath_bits(0x1.8p23f);
    float n = shifted - 0x1.8p23f;
    float r = x - n * 0x1.62e4p-1f;
    r = r - n * 0x1.7f7d1cp-20f;
    float p = 0x1.a01a02p-13f;   /* 1/7! */
    p = p * r + 0x1.6c16c2p-10f; /* 1/6! */
    p = p * r + 0x1.111112p-7f;
    p = p * r + 0x1.555556p-5f;
    p = p * r + 0x1.555556p-3f;
    p = p * r + 0.5f;
    p = p * (r * r) + r;
    p = p + 1.0f;
    uint32_t half = (uint32_t)((int32_t)k >> 1);
    float a = fmath_from_bits((half + 127u) << 23);
    float b = fmath_from_bits((k - half + 127u) << 23);
    return p * a * b;
}

DEVICE_CALL static inline double fmath_exp64(double x)
{
    x = x < -746.0 ? -746.0 : x;
    x = x > 710.0 ? 710.0 : x;
    double shifted = x * 0x1.71547652b82fep+0 + 0x1.8p52;
    uint64_t k = fmath_bits64(shifted) - fmath_bits64(0x1.8p52);
    double n = shifted - 0x1.8p52;
    double r = x - n * 0x1.62e42feep-1;
    r = r - n * 0x1.a39ef35793c76p-33;
    double p = 1.0 / 6227020800.0; /* 1/13! */
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * (r * r) + r;
    p = p + 1.0;
    uint64_t half = (uint64_t)((int64_t)k >> 1);
    double a = fmath_from_bits64((half + 1023u) << 52);
    double b = fmath_from_bits64((k - half + 1023u) << 52);
    return p * a * b;
}

/* 2 atanh(s) for |s| <= 1/3. */
DEVICE_CALL static inline double fmath_two_atanh(double s)
{
    double q = s * s;
    double p = 1.0 / 31.0;
    p = p * q + 1.0 / 29.0;
    p = p * q + 1.0 / 27.0;
    p = p * q + 1.0 / 25.0;
    p = p * q + 1.0 / 23.0;
    p = p * q + 1.0 / 21.0;
    p = p * q + 1.0 / 19.0;
    p = p * q + 1.0 / 17.0;
    p = p * q + 1.0 / 15.0;
    p = p * q + 1.0 / 13.0;
    p = p * q + 1.0 / 11.0;
    p = p * q + 1.0 / 9.0;
    p = p * q + 1.0 / 7.0;
    p = p * q + 1.0 / 5.0;
    p = p * q + 1.0 / 3.0;
    return 2.0 * (s + s * (q * p));
}

/* Of normal, positive numbers. */
DEVICE_CALL static inline double fmath_log64(double x)
{
    uint64_t bits = fmath_bits64(x) + (0x3ff0000000000000ull - 0x3fe6a09e667f3bcdull);
    double exponent = (double)((int64_t)(bits >> 52) - 0x3ff);
    double m = fmath_from_bits64((bits & 0x000fffffffffffffull) + 0x3fe6a09e667f3bcdull);
    return fmath_two_atanh((m - 1.0) / (m + 1.0)) + exponent * 0x1.62e42fefa39efp-1;
}

/* log(1 + exp(-|x|)), precise in relative terms however large x is. */
DEVICE_CALL static inline double fmath_log1p_exp(double x)
{
    double t = fmath_exp64(x < 0 ? x : -x);
    return fmath_two_atanh(t / (2.0 + t));
}

/* 1 / (1 + exp(-x)) */
DEVICE_CALL static inline float fmath_sigmoid(float x)
{
    return 1.0f / (1.0f + fmath_exp(-x));
}

DEVICE_CALL static inline float fmath_tanh(float x)
{
    /* The quotient loses digits near 0, where the series has them. */
    float q = x * x;
    float p = 21844.0f / 6081075.0f;
    p = p * q - 1382.0f / 155925.0f;
    p = p * q + 62.0f / 2835.0f;
    p = p * q - 17.0f / 315.0f;
    p = p * q + 2.0f / 15.0f;
    p = p * q - 1.0f / 3.0f;
    float near = x + x * (q * p);
    float magnitude = x < 0 ? -x : x;
    float e = fmath_exp(-2.0f * magnitude);
    float far = (1.0f - e) / (1.0f + e);
    far = x < 0 ? -far : far;
    return magnitude < 0.5f ? near : far;
}

/* The loss of a logit z for a label y in [0, 1]: log(1 + exp(z)) - y z. */
DEVICE_CALL static inline double fmath_logistic_loss(float z, float y)
{
    double logit = (double)z;
    double hinge = logit > 0 ? (1.0 - (double)y) * logit : -(double)y * logit;
    return hinge + fmath_log1p_exp(logit);
}

/* Half the square, so that its derivative is prediction - label. */
DEVICE_CALL static inline double fmath_squared_loss(float prediction, float label)
{
    double difference = (double)prediction - (double)label;
    return 0.5 * difference * difference;
}

/* log Σ exp(z_j) - z_class over `width` logits. */
DEVICE_CALL static inline double fmath_softmax_loss(const float *logits, uint32_t width,
                                                    uint32_t class_index)
{
    float largest = logits[0];
    for (uint32_t j = 1; j < width; j++)
        largest = logits[j] > largest ? logits[j] : largest;
    double sum = 0;
    for (uint32_t j = 0; j < width; j++)
        sum += fmath_exp64((double)logits[j] - (double)largest);
    return fmath_log64(sum) + ((double)largest - (double)logits[class_index]);
}

#endif
