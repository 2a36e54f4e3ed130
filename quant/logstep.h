/*
 * Steps and scales as whole logarithms: 2^(n/8) and 2^(n/16), by tables and the bits of floats, so that they
 * are the same everywhere.
 */
#ifndef KVQ_QUANT_LOGSTEP_H
#define KVQ_QUANT_LOGSTEP_H

#include <stddef.h>
#include <stdint.h>

#include "quant/half.h"

/* 2^(k/16), rounded to float. */
static const float kvq_sixteenths[16] = {0x1.000000p0f, 0x1.0b5586p0f, 0x1.172b84p0f, 0x1.2387a6p0f,
                                         0x1.306fe0p0f, 0x1.3dea64p0f, 0x1.4bfdaep0f, 0x1.5ab07ep0f,
                                         0x1.6a09e6p0f, 0x1.7a1148p0f, 0x1.8ace54p0f, 0x1.9c4918p0f,
                                         0x1.ae89fap0f, 0x1.c199bep0f, 0x1.d5818ep0f, 0x1.ea4afap0f};

/** 2^(n/16), for -2016 <= n < 2048. */
static inline float kvq_exp2_16th(int32_t n)
{
    uint32_t in_octave = (uint32_t)n & 15u;
    int32_t octave = (n - (int32_t)in_octave) / 16;
    return kvq_sixteenths[in_octave] * kvq_f32_of_bits((uint32_t)(octave + 127) << 23);
}

/** 2^(n/8), n an int8. */
static inline float kvq_exp2_8th(int32_t n)
{
    return kvq_exp2_16th(2 * n);
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
