/*
 * The block formats of ggml that llama.cpp offers for its cache: q8_0, q4_0, q4_1. Source: ggml's published
 * definitions of the three. A rival, to be compared with: encode and dequantize, nothing faster.
 *
 * A row is ceil(D / 32) blocks of 32 channels; what the last one lacks is 0. h() rounds to half, trunc()
 * towards 0; id = 1 / d, and 0 where d is 0. All in float, and d enters id before it is rounded to half:
 *
 *   q8_0   34 bytes: half d, int8 code[32]        d = max |x| / 127         x ~ h(d) code
 *          code = x id, rounded to nearest, halves away from zero
 *   q4_0   18 bytes: half d, nibbles[16]          d = m / -8, m the x of the largest |x|, the first such
 *          code = min(15, trunc(x id + 8.5))      x ~ h(d) (code - 8)
 *   q4_1   20 bytes: half d, half min, nibbles    d = (max x - min x) / 15
 *          code = min(15, trunc((x - min) id + 0.5))        x ~ h(d) code + h(min)
 *
 * Nibbles: byte i holds channel i in its low half and channel 16 + i in its high half. Where we deviate, in
 * what ggml leaves to overflow: halves saturate, and id is 0 also where 1 / d is not finite.
 */
#include "quant/rows.h"

#include <math.h>

enum { BLOCK = 32 };

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

static float inverse_of(float d)
{
    float id = d != 0.0f ? 1.0f / d : 0.0f;
    return fabsf(id) <= FLT_MAX ? id : 0.0f;
}

/* The code of y >= 0, which may have come out NaN where the range of a block overflowed. */
static uint32_t nibble_of(float y)
{
    return y > 0.0f ? (y < 15.0f ? (uint32_t)y : 15u) : 0u;
}

static uint32_t nibble_at(const uint8_t *nibbles, size_t i)
{
    return (uint32_t)nibbles[i % 16] >> (i < 16 ? 0u : 4u) & 15u;
}

/* ---- One block: 32 numbers and their bytes ---- */

typedef struct format {
    uint32_t bits;
    size_t bytes; /* of a block */
    void (*encode)(const float *x, uint8_t *block);
    void (*decode)(const uint8_t *block, float *x);
    bool (*is_valid)(const uint8_t *block, size_t n_channels);
} format;

static void q8_0_encode_block(const float *x, uint8_t *block)
{
    float amax = 0.0f;
    for (size_t i = 0; i < BLOCK; i++)
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    float d = amax / 127.0f, id = inverse_of(d);
    kvq_store_u16(block, kvq_f16_from_f32_saturating(d));
    for (size_t i = 0; i < BLOCK; i++) {
        int magnitude = (int)((double)fabsf(x[i] * id) + 0.5); /* exact in double */
        block[2 + i] = (uint8_t)(int8_t)(x[i] < 0.0f ? -magnitude : magnitude);
    }
}

static void q8_0_decode_block(const uint8_t *block, float *x)
{
    float d = kvq_load_f16(block);
    for (size_t i = 0; i < BLOCK; i++)
        x[i] = d * (float)(int8_t)block[2 + i];
}

static bool q8_0_block_is_valid(const uint8_t *block, size_t n_channels)
{
    for (size_t i = 0; i < n_channels; i++)
        if (block[2 + i] == 0x80) /* -128 */
            return false;
    return kvq_f16_is_scale(kvq_load_u16(block)) &&
           kvq_bytes_are_zero(block + 2 + n_channels, BLOCK - n_channels);
}

static void q4_0_encode_block(const float *x, uint8_t *block)
{
    float most = 0.0f;
    for (size_t i = 0; i < BLOCK; i++)
        most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
    float d = most / -8.0f, id = inverse_of(d);
    kvq_store_u16(block, kvq_f16_from_f32_saturating(d));
    for (size_t i = 0; i < BLOCK; i++)
        block[2 + i % 16] |= (uint8_t)(nibble_of(x[i] * id + 8.5f) << (i < 16 ? 0 : 4));
}

static void q4_0_decode_block(const uint8_t *block, float *x)
{
    float d = kvq_load_f16(block);
    for (size_t i = 0; i < BLOCK; i++)
        x[i] = d * ((float)nibble_at(block + 2, i) - 8.0f);
}

static bool q4_0_block_is_valid(const uint8_t *block, size_t n_channels)
{
    for (size_t i = n_channels; i < BLOCK; i++)
        if (nibble_at(block + 2, i) != 8)
            return false;
    return kvq_f16_is_finite(kvq_load_u16(block));
}

static void q4_1_encode_block(const float *x, uint8_t *block)
{
    float lo = x[0], hi = x[0];
    for (size_t i = 1; i < BLOCK; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    float d = (hi - lo) / 15.0f, id = inverse_of(d);
    kvq_store_u16(block, kvq_f16_from_f32_saturating(d));
    kvq_store_u16(block + 2, kvq_f16_from_f32_saturating(lo));
    for (size_t i = 0; i < BLOCK; i++)
        block[4 + i % 16] |= (uint8_t)(nibble_of((x[i] - lo) * id + 0.5f) << (i < 16 ? 0 : 4));
}

static void q4_1_decode_block(const uint8_t *block, float *x)
{
    float d = kvq_load_f16(block), min = kvq_load_f16(block + 2);
    for (size_t i = 0; i < BLOCK; i++)
        x[i] = d * (float)nibble_at(block + 4, i) + min;
}

/* What zeros behind D became depends on the block's float d, which is not stored. */
static bool q4_1_block_is_valid(const uint8_t *block, size_t n_channels)
{
    (void)n_channels;
    return kvq_f16_is_scale(kvq_load_u16(block)) && kvq_f16_is_finite(kvq_load_u16(block + 2));
}

static const format q8_0 = {8, 34, q8_0_encode_block, q8_0_decode_block, q8_0_block_is_valid};
static const format q4_0 = {4, 18, q4_0_encode_block, q4_0_decode_block, q4_0_block_is_valid};
static const format q4_1 = {4, 20, q4_1_encode_block, q4_1_decode_block, q4_1_block_is_valid};

/* ---- Rows of blocks ---- */

static const char *blocks_init(kvq_side *s, const format *f)
{
    size_t n = (s->dim + BLOCK - 1) / BLOCK;
    kvq_rows_init(s, n * BLOCK * f->bits / 8, n * (f->bytes - BLOCK * f->bits / 8));
    memcpy(s->own, &f, sizeof f);
    s->bits = f->bits;
    return NULL;
}

static const format *format_of(const kvq_side *s)
{
    const format *f;
    memcpy(&f, s->own, sizeof f);
    return f;
}

static size_t channels_at(const kvq_side *s, size_t c)
{
    return s->dim - c < BLOCK ? s->dim - c : BLOCK;
}

static void blocks_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                          const float *x, size_t stride, const kvq_evidence *evidence)
{
    (void)k, (void)evidence;
    const format *f = format_of(s);
    for (size_t i = 0; i < n; i++) {
        uint8_t *block = superblock + (t0 + i) * kvq_side_row_bytes(s);
        memset(block, 0, kvq_side_row_bytes(s));
        for (size_t c = 0; c < s->dim; c += BLOCK, block += f->bytes) {
            float padded[BLOCK] = {0};
            memcpy(padded, x + i * stride + c, channels_at(s, c) * sizeof *x);
            f->encode(padded, block);
        }
    }
}

static void blocks_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                              size_t n, float *out, size_t stride)
{
    (void)k;
    const format *f = format_of(s);
    for (size_t i = 0; i < n; i++) {
        const uint8_t *block = superblock + (t0 + i) * kvq_side_row_bytes(s);
        for (size_t c = 0; c < s->dim; c += BLOCK, block += f->bytes) {
            float x[BLOCK];
            f->decode(block, x);
            memcpy(out + i * stride + c, x, channels_at(s, c) * sizeof *x);
        }
    }
}

static bool blocks_are_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    const format *f = format_of(s);
    for (size_t t = 0; t < n; t++) {
        const uint8_t *block = superblock + t * kvq_side_row_bytes(s);
        for (size_t c = 0; c < s->dim; c += BLOCK, block += f->bytes)
            if (!f->is_valid(block, channels_at(s, c)))
                return false;
    }
    return kvq_rows_end_at(s, superblock, n);
}

static const char *q8_0_init(kvq_side *s)
{
    return blocks_init(s, &q8_0);
}

static const char *q4_0_init(kvq_side *s)
{
    return blocks_init(s, &q4_0);
}

static const char *q4_1_init(kvq_side *s)
{
    return blocks_init(s, &q4_1);
}

const kvq_codec kvq_codec_q8_0 = {
    .name = "q8_0",
    .parse = no_parameters,
    .print = print_name,
    .init = q8_0_init,
    .encode = blocks_encode,
    .dequantize = blocks_dequantize,
    .clear = kvq_rows_clear,
    .is_valid = blocks_are_valid,
};

const kvq_codec kvq_codec_q4_0 = {
    .name = "q4_0",
    .parse = no_parameters,
    .print = print_name,
    .init = q4_0_init,
    .encode = blocks_encode,
    .dequantize = blocks_dequantize,
    .clear = kvq_rows_clear,
    .is_valid = blocks_are_valid,
};

const kvq_codec kvq_codec_q4_1 = {
    .name = "q4_1",
    .parse = no_parameters,
    .print = print_name,
    .init = q4_1_init,
    .encode = blocks_encode,
    .dequantize = blocks_dequantize,
    .clear = kvq_rows_clear,
    .is_valid = blocks_are_valid,
};
