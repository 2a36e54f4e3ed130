/*
 * What the codecs share that are here to be compared with: superblocks as rows of bytes, codes as a stream of
 * bits, numbers that saturate.
 */
#ifndef KVQ_QUANT_ROWS_H
#define KVQ_QUANT_ROWS_H

#include "quant/codec.h"

#include <float.h>
#include <math.h>

/* ---- Codes of b = 1 to 8 bits as a stream: code i at bits [b i, b i + b), low bits first ---- */

static inline size_t kvq_stream_bytes(size_t n, uint32_t bits)
{
    return (n * bits + 7) / 8;
}

/** Into bytes that are 0 there. */
static inline void kvq_stream_put(uint8_t *stream, size_t i, uint32_t bits, uint32_t code)
{
    size_t at = i * bits;
    uint32_t shifted = code << at % 8;
    stream[at / 8] = (uint8_t)(stream[at / 8] | shifted);
    if (at % 8 + bits > 8)
        stream[at / 8 + 1] = (uint8_t)(stream[at / 8 + 1] | shifted >> 8);
}

static inline uint32_t kvq_stream_get(const uint8_t *stream, size_t i, uint32_t bits)
{
    size_t at = i * bits;
    uint32_t shifted = stream[at / 8];
    if (at % 8 + bits > 8)
        shifted |= (uint32_t)stream[at / 8 + 1] << 8;
    return shifted >> at % 8 & ((1u << bits) - 1u);
}

/** The first n codes, a byte each. */
static inline void kvq_stream_read(const uint8_t *stream, size_t n, uint32_t bits, uint8_t *codes)
{
    if (bits == 8)
        memcpy(codes, stream, n);
    else if (bits == 4)
        for (size_t i = 0; i < n; i++)
            codes[i] = stream[i / 2] >> 4 * (i % 2) & 15;
    else if (bits == 2)
        for (size_t i = 0; i < n; i++)
            codes[i] = stream[i / 4] >> 2 * (i % 4) & 3;
    else
        for (size_t i = 0; i < n; i++)
            codes[i] = (uint8_t)kvq_stream_get(stream, i, bits);
}

/** Are the bits behind n codes 0, up to the end of their last byte? */
static inline bool kvq_stream_ends_in_zeros(const uint8_t *stream, size_t n, uint32_t bits)
{
    size_t end = n * bits;
    return end % 8 == 0 || stream[end / 8] >> end % 8 == 0;
}

/* ---- Numbers ---- */

/** The nearest finite float; x is not NaN. */
static inline float kvq_f32_saturating(double x)
{
    return x > (double)FLT_MAX ? FLT_MAX : x < -(double)FLT_MAX ? -FLT_MAX : (float)x;
}

/** The nearest finite half, by way of float. */
static inline uint16_t kvq_f16_from_f64_saturating(double x)
{
    return kvq_f16_from_f32_saturating(kvq_f32_saturating(x));
}

static inline float kvq_load_f16(const uint8_t *at)
{
    return kvq_f32_from_f16(kvq_load_u16(at));
}

static inline bool kvq_f16_is_finite(uint16_t half)
{
    return (half & 0x7c00u) != 0x7c00u;
}

/** Finite and of positive sign: what a scale is. */
static inline bool kvq_f16_is_scale(uint16_t half)
{
    return half < 0x7c00u;
}

/** Are n halves from `at` on finite, and scales if they must be? */
static inline bool kvq_halves_are_valid(const uint8_t *at, size_t n, bool scales)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half = kvq_load_u16(at + 2 * i);
        if (scales ? !kvq_f16_is_scale(half) : !kvq_f16_is_finite(half))
            return false;
    }
    return true;
}

static inline bool kvq_bytes_are_zero(const uint8_t *at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (at[i] != 0)
            return false;
    return true;
}

/** The code of x on the grid min, min + scale, ..., in the affine codec's default arithmetic; `most` is the
 * largest code. */
static inline uint32_t kvq_grid_code(float x, float scale, float min, uint32_t most)
{
    float inverse = scale > 0.0f ? 1.0f / scale : 0.0f, code = (x - min) * inverse;
    code = code > 0.0f ? code : 0.0f;
    return (uint32_t)rintf(code < (float)most ? code : (float)most);
}

/* ---- Superblocks of 128 rows, one per token ---- */

static inline void kvq_rows_init(kvq_side *s, size_t payload, size_t metadata)
{
    s->payload_per_run = payload;
    s->metadata_per_run = metadata;
    s->tokens_per_run = 1;
    s->sliding_step = KVQ_SUPERBLOCK; /* as codecs of whole pages have it, so that residuals are the same */
    s->bytes = KVQ_SUPERBLOCK * (payload + metadata); /* a multiple of KVQ_ALIGNMENT */
}

static inline size_t kvq_side_row_bytes(const kvq_side *s)
{
    return s->payload_per_run + s->metadata_per_run;
}

static inline void kvq_rows_clear(const kvq_side *s, uint8_t *superblock, size_t t0)
{
    memset(superblock + t0 * kvq_side_row_bytes(s), 0, s->bytes - t0 * kvq_side_row_bytes(s));
}

/** Is nothing written behind the first n rows? */
static inline bool kvq_rows_end_at(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    return kvq_bytes_are_zero(superblock + n * kvq_side_row_bytes(s), s->bytes - n * kvq_side_row_bytes(s));
}

/* ---- Superblocks that are encoded whole: `used` bytes, rounded up ---- */

static inline void kvq_page_init(kvq_side *s, size_t payload, size_t used)
{
    s->bytes = (used + KVQ_ALIGNMENT - 1) / KVQ_ALIGNMENT * KVQ_ALIGNMENT;
    s->payload_per_run = payload;
    s->metadata_per_run = s->bytes - payload;
    s->tokens_per_run = s->sliding_step = KVQ_SUPERBLOCK;
}

/* ---- Parameters ---- */

/** BITS, one of those whose bit in `allowed` is set. */
static inline bool kvq_parse_bits(kvq_text *t, uint32_t allowed, const char *problem, uint32_t *bits)
{
    const char *start = t->at;
    if (!kvq_text_number(t, 31, bits))
        return false;
    return (allowed >> *bits & 1u) != 0 || kvq_text_fail(t, start, problem);
}

#endif /* KVQ_QUANT_ROWS_H */
