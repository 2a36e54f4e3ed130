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

static const char *rows_init(kvq_side *s, size_t element_bytes)
{
    s->bits = (uint32_t)(8 * element_bytes);
    s->payload_per_run = s->dim * element_bytes;
    s->tokens_per_run = s->sliding_step = 1;
    s->bytes = KVQ_SUPERBLOCK * s->payload_per_run; /* 128 rows: a multiple of KVQ_ALIGNMENT for any D */
    return NULL;
}

static bool no_parameters(const kvq_codec *codec, kvq_text *t, kvq_role role, uint32_t *parameter)
{
    (void)codec, (void)role, (void)parameter;
    return t->at[-1] != ':' || kvq_text_fail(t, t->at, "this codec takes no parameters");
}

static void print_name(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter)
{
    (void)role, (void)parameter;
    kvq_put(p, codec->name);
}

static void rows_clear(const kvq_side *s, uint8_t *superblock, size_t t0)
{
    memset(superblock + t0 * s->payload_per_run, 0, (KVQ_SUPERBLOCK - t0) * s->payload_per_run);
}

static bool rest_is_zero(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    for (size_t i = n * s->payload_per_run; i < s->bytes; i++)
        if (superblock[i] != 0)
            return false;
    return true;
}

/* Superblocks are 64-byte aligned, so that their rows can be used as arrays of their type. */
static const float *f32_row(const kvq_side *s, const uint8_t *superblock, size_t t)
{
    return (const float *)(const void *)superblock + t * s->dim;
}

static const uint16_t *f16_row(const kvq_side *s, const uint8_t *superblock, size_t t)
{
    return (const uint16_t *)(const void *)superblock + t * s->dim;
}

/* ---- f32 ---- */

static const char *f32_init(kvq_side *s)
{
    return rows_init(s, sizeof(float));
}

static void f32_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                       const float *x, size_t stride, const kvq_evidence *evidence)
{
    (void)k, (void)evidence;
    for (size_t i = 0; i < n; i++)
        memcpy(superblock + (t0 + i) * s->payload_per_run, x + i * stride, s->payload_per_run);
}

static void f32_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                           size_t n, float *out, size_t stride)
{
    (void)k;
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * stride, f32_row(s, superblock, t0 + i), s->payload_per_run);
}

static void f32_error_bound(const kvq_side *s, const uint8_t *superblock, size_t t0, size_t n, float *out,
                            size_t stride)
{
    (void)superblock, (void)t0;
    for (size_t i = 0; i < n; i++)
        memset(out + i * stride, 0, s->payload_per_run);
}

static bool f32_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    return kvq_kernels_portable.all_finite_f32(f32_row(s, superblock, 0), n * s->dim) &&
           rest_is_zero(s, superblock, n);
}

static void f32_score(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                      size_t n_q, float *scores)
{
    k->dot_f32(f32_row(s, tokens->superblock, 0), s->dim, tokens->n, tokens->next, q, n_q, s->dim, scores);
}

static void f32_accumulate(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *p,
                           size_t n_q, float *acc)
{
    k->accumulate_f32(f32_row(s, tokens->superblock, 0), s->dim, tokens->n, tokens->next, p, n_q, s->dim,
                      acc);
}

const kvq_codec kvq_codec_f32 = {
    .name = "f32",
    .parse = no_parameters,
    .print = print_name,
    .init = f32_init,
    .encode = f32_encode,
    .dequantize = f32_dequantize,
    .error_bound = f32_error_bound,
    .clear = rows_clear,
    .is_valid = f32_is_valid,
    .score_float = f32_score,
    .accumulate_float = f32_accumulate,
};

/* ---- f16 ---- */

static const char *f16_init(kvq_side *s)
{
    return rows_init(s, sizeof(uint16_t));
}

static void f16_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                       const float *x, size_t stride, const kvq_evidence *evidence)
{
    (void)evidence;
    uint16_t *rows = (uint16_t *)(void *)superblock;
    for (size_t i = 0; i < n; i++)
        k->convert_f32_f16(x + i * stride, s->dim, rows + (t0 + i) * s->dim);
}

static void f16_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                           size_t n, float *out, size_t stride)
{
    for (size_t i = 0; i < n; i++)
        k->convert_f16_f32(f16_row(s, superblock, t0 + i), s->dim, out + i * stride);
}

static void f16_error_bound(const kvq_side *s, const uint8_t *superblock, size_t t0, size_t n, float *out,
                            size_t stride)
{
    for (size_t i = 0; i < n; i++) {
        const uint16_t *row = f16_row(s, superblock, t0 + i);
        for (size_t c = 0; c < s->dim; c++)
            out[i * stride + c] = kvq_f16_error_bound(kvq_f32_from_f16(row[c]));
    }
}

static bool f16_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    const uint16_t *values = f16_row(s, superblock, 0);
    for (size_t i = 0; i < n * s->dim; i++)
        if ((values[i] & 0x7c00u) == 0x7c00u)
            return false;
    return rest_is_zero(s, superblock, n);
}

static void f16_score(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                      size_t n_q, float *scores)
{
    k->dot_f16(f16_row(s, tokens->superblock, 0), s->dim, tokens->n, tokens->next, q, n_q, s->dim, scores);
}

static void f16_accumulate(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *p,
                           size_t n_q, float *acc)
{
    k->accumulate_f16(f16_row(s, tokens->superblock, 0), s->dim, tokens->n, tokens->next, p, n_q, s->dim,
                      acc);
}

const kvq_codec kvq_codec_f16 = {
    .name = "f16",
    .parse = no_parameters,
    .print = print_name,
    .init = f16_init,
    .encode = f16_encode,
    .dequantize = f16_dequantize,
    .error_bound = f16_error_bound,
    .clear = rows_clear,
    .is_valid = f16_is_valid,
    .score_float = f16_score,
    .accumulate_float = f16_accumulate,
};
