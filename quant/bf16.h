/*
 * bfloat16: the upper half of a float, held as its raw bits in a uint16_t.
 */
#ifndef KVQ_QUANT_BF16_H
#define KVQ_QUANT_BF16_H

#include "quant/half.h"

/** Exact. Inf and NaN are kept. */
static inline float kvq_f32_from_bf16(uint16_t x)
{
    return kvq_f32_of_bits((uint32_t)x << 16);
}

/** Round to nearest, ties to even, but overflow gives the largest finite number of that sign. x must not be
 * NaN. */
static inline uint16_t kvq_bf16_from_f32_saturating(float x)
{
    uint32_t bits = kvq_bits_of_f32(x);
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t rounded = (magnitude + 0x7fffu + (magnitude >> 16 & 1u)) >> 16;
    rounded = rounded > 0x7f7fu ? 0x7f7fu : rounded;
    return (uint16_t)(rounded | (bits >> 16 & 0x8000u));
}

#endif /* KVQ_QUANT_BF16_H */
