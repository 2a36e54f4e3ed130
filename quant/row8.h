/*
 * Rows of int8: a scale as half (little-endian), then dim codes, xhat = code * scale. Rows stand anywhere,
 * without alignment. The kernels convert_f32_i8, convert_i8_f32, dot_i8 and accumulate_i8 (kernels.h) make
 * and read them.
 */
#ifndef KVQ_QUANT_ROW8_H
#define KVQ_QUANT_ROW8_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "quant/layout.h"

enum {
    KVQ_ROW8_HEAD = 2,      /* bytes of the scale */
    KVQ_ROW8_LARGEST = 127, /* code; the smallest is its negative */
};

static inline size_t kvq_row8_bytes(size_t dim)
{
    return KVQ_ROW8_HEAD + dim;
}

static inline float kvq_row8_scale(const uint8_t *row)
{
    return kvq_f32_from_f16(kvq_load_u16(row));
}

/** Could convert_f32_i8 have written this? A scale that is finite and has no sign, and no code below -127. */
static inline bool kvq_row8_is_valid(const uint8_t *row, size_t dim)
{
    bool valid = kvq_load_u16(row) < 0x7c00u;
    for (size_t c = 0; c < dim; c++)
        valid = valid && row[KVQ_ROW8_HEAD + c] != 0x80u;
    return valid;
}

/**
 * |x - xhat| of a row with this scale is at most this; +Inf for a scale that may have saturated. Codes are
 * the nearest, so within scale / 2, and 127 * 2^-23 scale for the division's rounding and the range's (code *
 * scale is exact). Only a scale that was rounded down leaves numbers to clamp: a normal one is short by 2^-11
 * of 127 scale, which is less than scale / 2, a subnormal one by up to 127 * 2^-25.
 */
static inline float kvq_row8_error_bound(float scale)
{
    if (scale >= KVQ_F16_MAX)
        return INFINITY;
    float half = 0.5f * scale, clamped = scale < 0x1p-14f ? 127 * 0x1.01p-25f : 0.0f;
    return (half > clamped ? half : clamped) + scale * 0x1p-15f;
}

#endif /* KVQ_QUANT_ROW8_H */
