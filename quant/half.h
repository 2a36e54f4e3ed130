/*
 * IEEE 754 binary16 ("half") in software: conversions to and from float in every rounding this project needs.
 *
 * A half is held as its raw bits in a uint16_t: 1 sign, 5 exponent (bias 15), 10 fraction bits. Everything
 * here is branch-free or nearly so, so that loops over it vectorise, and gives the same bits on every
 * machine.
 */
#ifndef KVQ_QUANT_HALF_H
#define KVQ_QUANT_HALF_H

#include <stdint.h>
#include <string.h>

#define KVQ_F16_MAX 65504.0f /* largest finite half */

static inline uint32_t kvq_bits_of_f32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float kvq_f32_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/**
 * Exact. Inf and NaN are kept. No subnormal float is touched on the way: a program that flushes those to zero
 * (linked with -ffast-math, say) would otherwise lose every small scale.
 */
static inline float kvq_f32_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t magnitude = half & 0x7fffu;
    uint32_t normal = (magnitude << 13) + (112u << 23); /* the exponent's bias is 127 - 15 = 112 larger */
    uint32_t subnormal = kvq_bits_of_f32((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t bits = magnitude < 0x400u ? subnormal : normal;
    bits |= magnitude >= 0x7c00u ? 0x7f800000u : 0u;
    return kvq_f32_of_bits(bits | sign);
}

/** Round to nearest, ties to even; overflow gives Inf, NaN stays NaN (quiet). */
static inline uint16_t kvq_f16_from_f32(float x)
{
    uint32_t bits = kvq_bits_of_f32(x);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t half;
    if (magnitude > 0x7f800000u) {
        half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    } else if (magnitude >= 0x477ff000u) { /* 65520, halfway between 65504 and what would come next */
        half = 0x7c00u;
    } else if (magnitude >= 0x38800000u) { /* 2^-14, the smallest normal half */
        uint32_t rebiased = magnitude - (112u << 23);
        half = (rebiased + 0xfffu + ((rebiased >> 13) & 1u)) >> 13;
    } else { /* 0.5f has units of 2^-24, just as subnormal halves have: adding it does the rounding */
        half = kvq_bits_of_f32(kvq_f32_of_bits(magnitude) + 0.5f) - kvq_bits_of_f32(0.5f);
    }
    return (uint16_t)(half | sign);
}

/** Round to nearest even, but overflow gives the largest finite half of that sign. x must not be NaN. */
static inline uint16_t kvq_f16_from_f32_saturating(float x)
{
    uint16_t half = kvq_f16_from_f32(x);
    return (half & 0x7fffu) == 0x7c00u ? (uint16_t)(half - 1u) : half;
}

/** Largest finite half <= x, or -65504 if there is none. x must not be NaN. */
static inline uint16_t kvq_f16_round_down(float x)
{
    uint16_t half = kvq_f16_from_f32_saturating(x);
    if (kvq_f32_from_f16(half) <= x || half == 0xfbffu)
        return half;
    /* The sign of half is that of x, so the step down is away from zero exactly if x is negative. */
    return half & 0x8000u ? (uint16_t)(half + 1u) : (uint16_t)(half - 1u);
}

/** Smallest finite half >= x, or 65504 if there is none. x must not be NaN. */
static inline uint16_t kvq_f16_round_up(float x)
{
    return kvq_f16_round_down(-x) ^ 0x8000u;
}

/**
 * The float nearest to x that a finite half can hold (ties to even, saturating): one rounded operation of
 * half arithmetic is this function around the float operation. Without branches, for loops that must
 * vectorise.
 */
static inline float kvq_round_to_f16(float x)
{
    uint32_t bits = kvq_bits_of_f32(x);
    uint32_t sign = bits & 0x80000000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u)) & ~0x1fffu;
    uint32_t subnormal = kvq_bits_of_f32(kvq_f32_of_bits(magnitude) + 0.5f - 0.5f);
    uint32_t rounded = magnitude >= 0x38800000u ? normal : subnormal;
    uint32_t largest = 0x477fe000u; /* 65504 */
    rounded = rounded > largest ? largest : rounded;
    return kvq_f32_of_bits(rounded | sign);
}

#endif /* KVQ_QUANT_HALF_H */
