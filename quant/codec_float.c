/*
 * The pass-through codecs, for controls: f32 keeps values as they are, f16 rounds them to IEEE half (nearest
 * even, saturating at 65504).
 *
 * Layout of a superblock: rows [128][D] of the type. f32 has error 0; f16 has at most 2^-11 |x| + 2^-25, that
 * is 2^-11 (1 + 2^-8) |xhat| + 2^-25 with room for |x| > |xhat|. A stored 65504 may be a saturated value: no
 * bound.
 */
#include "quant/codec.h"

#include <math.h>

static void rows_layout(kvq_layout *l, size_t element_bytes)
{
    l->dim_padded = l->dim;
    l->payload_per_token = l->dim * element_bytes;
    l->tokens_per_run = 1;
    l->bytes = KVQ_SUPERBLOCK * l->payload_per_token; /* 128 rows: a multiple of KVQ_ALIGNMENT for any D */
}

static void rows_clear(const kvq_layout *l, uint8_t *superblock, size_t t0)
{
    memset(superblock + t0 * l->payload_per_token, 0, (KVQ_SUPERBLOCK - t0) * l->payload_per_token);
}

static bool rest_is_zero(const kvq_layout *l, const uint8_t *superblock, size_t n)
{
    for (size_t i = n * l->payload_per_token; i < l->bytes; i++)
        if (superblock[i] != 0)
            return false;
    return true;
}

/* Superblocks are 64-byte aligned, so that their rows can be used as arrays of their type. */
static const float *f32_row(const kvq_layout *l, const uint8_t *superblock, size_t t)
{
    return (const float *)(const void *)superblock + t * l->dim;
}

static const uint16_t *f16_row(const kvq_layout *l, const uint8_t *superblock, size_t t)
{
    return (const uint16_t *)(const void *)superblock + t * l->dim;
}

/* ---- f32 ---- */

static void f32_layout(kvq_layout *l)
{
    rows_layout(l, sizeof(float));
}

static void f32_encode(const kvq_kernels *k, const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                       const float *x, size_t stride)
{
    (void)k;
    for (size_t i = 0; i < n; i++)
        memcpy(superblock + (t0 + i) * l->payload_per_token, x + i * stride, l->payload_per_token);
}

static void f32_dequantize(const kvq_kernels *k, const kvq_layout *l, const uint8_t *superblock, size_t t0,
                           size_t n, float *out, size_t stride)
{
    (void)k;
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * stride, f32_row(l, superblock, t0 + i), l->payload_per_token);
}

static void f32_error_bound(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n, float *out,
                            size_t stride)
{
    (void)superblock, (void)t0;
    for (size_t i = 0; i < n; i++)
        memset(out + i * stride, 0, l->payload_per_token);
}

static bool f32_is_valid(const kvq_layout *l, const uint8_t *superblock, size_t n)
{
    return kvq_kernels_portable.all_finite_f32(f32_row(l, superblock, 0), n * l->dim) &&
           rest_is_zero(l, superblock, n);
}

static void f32_score(const kvq_kernels *k, const kvq_layout *l, const kvq_tokens *tokens, const float *q,
                      size_t n_q, float *scores, float *score_rms_error, kvq_score_counts *counts)
{
    (void)counts;
    memset(score_rms_error, 0, n_q * sizeof *score_rms_error);
    for (size_t i = 0; i < n_q; i++)
        k->dot_f32(f32_row(l, tokens->superblock, 0), l->dim, tokens->n, q + i * l->dim, l->dim,
                   scores + i * KVQ_SUPERBLOCK);
}

static void f32_accumulate(const kvq_kernels *k, const kvq_layout *l, const kvq_tokens *tokens,
                           const float *p, size_t n_q, const float *score_rms_error, float *acc, float *error)
{
    (void)score_rms_error, (void)error;
    for (size_t i = 0; i < n_q; i++)
        k->accumulate_f32(f32_row(l, tokens->superblock, 0), l->dim, tokens->n, p + i * KVQ_SUPERBLOCK,
                          l->dim, acc + i * l->dim);
}

const kvq_codec kvq_codec_f32 = {
    .name = "f32",
    .layout = f32_layout,
    .encode = f32_encode,
    .dequantize = f32_dequantize,
    .error_bound = f32_error_bound,
    .clear = rows_clear,
    .is_valid = f32_is_valid,
    .score = f32_score,
    .accumulate = f32_accumulate,
};

/* ---- f16 ---- */

static void f16_layout(kvq_layout *l)
{
    rows_layout(l, sizeof(uint16_t));
}

static void f16_encode(const kvq_kernels *k, const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                       const float *x, size_t stride)
{
    uint16_t *rows = (uint16_t *)(void *)superblock;
    for (size_t i = 0; i < n; i++)
        k->convert_f32_f16(x + i * stride, l->dim, rows + (t0 + i) * l->dim);
}

static void f16_dequantize(const kvq_kernels *k, const kvq_layout *l, const uint8_t *superblock, size_t t0,
                           size_t n, float *out, size_t stride)
{
    for (size_t i = 0; i < n; i++)
        k->convert_f16_f32(f16_row(l, superblock, t0 + i), l->dim, out + i * stride);
}

static void f16_error_bound(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n, float *out,
                            size_t stride)
{
    for (size_t i = 0; i < n; i++) {
        const uint16_t *row = f16_row(l, superblock, t0 + i);
        for (size_t c = 0; c < l->dim; c++)
            out[i * stride + c] = kvq_f16_error_bound(kvq_f32_from_f16(row[c]));
    }
}

static bool f16_is_valid(const kvq_layout *l, const uint8_t *superblock, size_t n)
{
    const uint16_t *values = f16_row(l, superblock, 0);
    for (size_t i = 0; i < n * l->dim; i++)
        if ((values[i] & 0x7c00u) == 0x7c00u)
            return false;
    return rest_is_zero(l, superblock, n);
}

static void f16_score(const kvq_kernels *k, const kvq_layout *l, const kvq_tokens *tokens, const float *q,
                      size_t n_q, float *scores, float *score_rms_error, kvq_score_counts *counts)
{
    (void)counts;
    memset(score_rms_error, 0, n_q * sizeof *score_rms_error);
    for (size_t i = 0; i < n_q; i++)
        k->dot_f16(f16_row(l, tokens->superblock, 0), l->dim, tokens->n, q + i * l->dim, l->dim,
                   scores + i * KVQ_SUPERBLOCK);
}

static void f16_accumulate(const kvq_kernels *k, const kvq_layout *l, const kvq_tokens *tokens,
                           const float *p, size_t n_q, const float *score_rms_error, float *acc, float *error)
{
    (void)score_rms_error, (void)error;
    for (size_t i = 0; i < n_q; i++)
        k->accumulate_f16(f16_row(l, tokens->superblock, 0), l->dim, tokens->n, p + i * KVQ_SUPERBLOCK,
                          l->dim, acc + i * l->dim);
}

const kvq_codec kvq_codec_f16 = {
    .name = "f16",
    .layout = f16_layout,
    .encode = f16_encode,
    .dequantize = f16_dequantize,
    .error_bound = f16_error_bound,
    .clear = rows_clear,
    .is_valid = f16_is_valid,
    .score = f16_score,
    .accumulate = f16_accumulate,
};
