/*
 * Steps and scales as whole logarithms: 2^(n/8) and 2^(n/16), by tables and the bits of floats, so that they
 * are the same everywhere.
 */
#ifndef KVQ_QUANT_LOGSTEP_H
#define KVQ_QUANT_LOGSTEP_H

#include <stddef.h>
#include <stdint.h>

#include "quant/half.h"

/** 2^(n/8) at the byte of the int8 n. */
extern const float kvq_eighths[256];

/** What rounds x to eighths when it is added, |x| < 2^19: n, of n/8, is in the low bits of the sum. */
#define KVQ_TO_EIGHTHS 0x1.8p20f

/** 2^(n/8) of the sum KVQ_TO_EIGHTHS + n/8, -1008 <= n < 1024. */
static inline float kvq_exp2_of_eighths(float x)
{
    const uint32_t n = kvq_bits_of_f32(x);
    return kvq_f32_of_bits(kvq_bits_of_f32(kvq_eighths[n & 7u]) + ((n & ~7u) << 20));
}

/** 2^(n/16) at n, but 0 at 0. */
extern const float kvq_sixteenths[256];

/** 2^(n/8), n an int8. */
static inline float kvq_exp2_8th(int32_t n)
{
    return kvq_eighths[(uint8_t)n];
}

/** 2^(n/16), for -2016 <= n < 2048. */
static inline float kvq_exp2_16th(int32_t n)
{
    uint32_t in_octave = (uint32_t)n & 15u;
    int32_t octave = (n - (int32_t)in_octave) / 16;
    return kvq_sixteenths[16 + in_octave] * 0.5f * kvq_f32_of_bits((uint32_t)(octave + 127) << 23);
}

/* The fractions where log2 is half-way between two sixteenths, as bits. */
static const uint32_t kvq_half_sixteenths[16] = {
    0x02cd87u, 0x08980fu, 0x0ea43au, 0x14f4f0u, 0x1b8d3au, 0x227043u, 0x29a15bu, 0x3123f6u,
    0x38fbafu, 0x412c4du, 0x49b9beu, 0x52a81eu, 0x5bfbb8u, 0x65b907u, 0x6fe4bau, 0x7a83b3u};

/** The n for which 2^(n/16) is nearest to x > 0, by its logarithm; at most 2048, and anything below -2016 for
 * subnormal numbers. */
static inline int32_t kvq_log2_16th(float x)
{
    uint32_t bits = kvq_bits_of_f32(x), fraction = bits & 0x7fffffu;
    int32_t n = 16 * ((int32_t)(bits >> 23) - 127);
    for (size_t k = 0; k < 16; k++)
        n += fraction > kvq_half_sixteenths[k];
    return n;
}

/* Likewise for eighths. */
static const uint32_t kvq_half_eighths[8] = {0x05aac3u, 0x11c3d3u, 0x1ef532u, 0x2d583fu,
                                             0x3d08a4u, 0x4e248cu, 0x60ccdfu, 0x75257du};

/** The int8 n for which 2^(n/8) is nearest to x >= 0, by its logarithm. Without branches, for loops that must
 * vectorise. */
static inline int32_t kvq_log2_8th(float x)
{
    uint32_t bits = kvq_bits_of_f32(x), fraction = bits & 0x7fffffu;
    int32_t n = 8 * ((int32_t)(bits >> 23) - 127);
    for (size_t k = 0; k < 8; k++)
        n += fraction > kvq_half_eighths[k];
    n = n < -128 ? -128 : n;
    return n > 127 ? 127 : n;
}

#endif /* KVQ_QUANT_LOGSTEP_H */
