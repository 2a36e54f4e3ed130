/* Turns stored weights into float32, one block of each type after the other.
 *
 * Sources: IEEE 754 and bfloat16; for the block types ggml's layouts, which the comments below draw. Every
 * product and sum is rounded once, in the order written here, so that the bits are those of ggml's reference
 * (as gguf-py has it). Codes are unsigned numbers of the width in the type's name.
 */
#include "eval/model/tensor_type.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensor data is little-endian; conversion on other machines is not written"
#endif

enum { BLOCK = 32, SUPERBLOCK = 256, SUPERBLOCK_HALF = SUPERBLOCK / 2 };

/* ---- plain types ---- */

static inline float float_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Moves exponent and mantissa to their float32 places, then adds to the exponent what the biases differ by,
 * and the same again for infinity and NaN, which takes 31 to 255. A subnormal half has no leading 1: given
 * one, it is 2^-14 too large, and the difference is exact. (One product with 2^112 would do for both, but
 * processors are slow with subnormal factors.) Masks, because compilers make jumps of conditions here. */
static inline float float_from_half(uint16_t half)
{
    const int32_t magnitude = (half & 0x7fff) << 13; /* signed: SSE2 compares nothing else */
    const int32_t is_special = -(magnitude >= 31 << 23), is_normal = -(magnitude >= 1 << 23);
    const int32_t normal = magnitude + (112 << 23) + (is_special & 112 << 23);
    const float difference = float_from_bits((uint32_t)magnitude + (113u << 23)) - 0x1p-14f;
    int32_t subnormal;
    memcpy(&subnormal, &difference, sizeof subnormal);
    const int32_t bits = (normal & is_normal) | (subnormal & ~is_normal);
    return float_from_bits((uint32_t)(half & 0x8000) << 16 | (uint32_t)bits);
}

static inline uint16_t load_u16(const uint8_t *bytes)
{
    uint16_t x;
    memcpy(&x, bytes, sizeof x);
    return x;
}

static inline float load_half(const uint8_t *bytes)
{
    return float_from_half(load_u16(bytes));
}

static void f16_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = load_half(src + 2 * i);
}

static void bf16_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = float_from_bits((uint32_t)load_u16(src + 2 * i) << 16);
}

/* ---- blocks of 32 ----
 *
 * Q4 and Q5 keep the low four bits of elements i and i + 16 in byte i; Q5 has the fifth bit of element i in
 * bit i of a 32-bit word. The _0 types are scale * (code - offset), the _1 types scale * code + minimum.
 *
 *   Q4_0  half scale, 16 bytes                    Q5_0  half scale, word, 16 bytes
 *   Q4_1  half scale, half minimum, 16 bytes      Q5_1  half scale, half minimum, word, 16 bytes
 *   Q8_0  half scale, 32 signed bytes
 */

static void q4_0_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i += BLOCK, src += 18, dst += BLOCK) {
        const float scale = load_half(src);
        for (size_t j = 0; j < BLOCK / 2; j++) {
            dst[j] = scale * (float)((src[2 + j] & 15) - 8);
            dst[BLOCK / 2 + j] = scale * (float)((src[2 + j] >> 4) - 8);
        }
    }
}

static void q4_1_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i += BLOCK, src += 20, dst += BLOCK) {
        const float scale = load_half(src), minimum = load_half(src + 2);
        for (size_t j = 0; j < BLOCK / 2; j++) {
            dst[j] = scale * (float)(src[4 + j] & 15) + minimum;
            dst[BLOCK / 2 + j] = scale * (float)(src[4 + j] >> 4) + minimum;
        }
    }
}

/* The codes of a block of Q5, from the word and the 16 bytes behind it. */
static inline void load_q5(const uint8_t *src, uint8_t code[BLOCK])
{
    uint32_t fifth;
    memcpy(&fifth, src, sizeof fifth);
    for (unsigned j = 0; j < BLOCK / 2; j++) {
        code[j] = (uint8_t)((src[4 + j] & 15u) | (fifth >> j & 1u) << 4);
        code[BLOCK / 2 + j] = (uint8_t)((uint32_t)src[4 + j] >> 4 | (fifth >> (BLOCK / 2 + j) & 1u) << 4);
    }
}

static void q5_0_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i += BLOCK, src += 22, dst += BLOCK) {
        const float scale = load_half(src);
        uint8_t code[BLOCK];
        load_q5(src + 2, code);
        for (size_t j = 0; j < BLOCK; j++)
            dst[j] = scale * (float)(code[j] - 16);
    }
}

static void q5_1_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i += BLOCK, src += 24, dst += BLOCK) {
        const float scale = load_half(src), minimum = load_half(src + 2);
        uint8_t code[BLOCK];
        load_q5(src + 4, code);
        for (size_t j = 0; j < BLOCK; j++)
            dst[j] = scale * (float)code[j] + minimum;
    }
}

static void q8_0_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i += BLOCK, src += 34, dst += BLOCK) {
        const float scale = load_half(src);
        int8_t code[BLOCK];
        memcpy(code, src + 2, sizeof code);
        for (size_t j = 0; j < BLOCK; j++)
            dst[j] = scale * (float)code[j];
    }
}

/* ---- superblocks of 256 ----
 *
 * One half scale (and one for the minimums) for all, times small whole scales of their own for each run of 16
 * or 32 elements. Where codes are split, `low` and `high` are their low and high bits.
 */

/* Q2_K: 16 bytes, each the scale (low nibble) and minimum (high) of 16 elements; 64 bytes of codes; half
 * scale, half scale of minimums. Of each 128 elements, element 32j + i is bits 2j of byte i. */
static void q2_k_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i += SUPERBLOCK, src += 84) {
        const uint8_t *scales = src, *codes = src + 16;
        const float d = load_half(src + 80), d_min = load_half(src + 82);
        for (unsigned run = 0; run < SUPERBLOCK / 16; run++, dst += 16) {
            const uint8_t *code = codes + run / 8 * 32 + run % 2 * 16;
            const unsigned shift = run / 2 % 4 * 2;
            const float scale = d * (float)(scales[run] & 15), minimum = d_min * (float)(scales[run] >> 4);
            for (size_t j = 0; j < 16; j++)
                dst[j] = scale * (float)(code[j] >> shift & 3) - minimum;
        }
    }
}

/* The 16 signed scales of Q3_K, 6 bits each with an offset of 32: scale i has its low nibble in byte i % 8
 * (the high half of it from i = 8 on) and its high two bits in byte 8 + i % 4, at bit 2 (i / 4). */
static inline void load_q3_scales(const uint8_t *src, int scale[16])
{
    for (unsigned i = 0; i < 16; i++) {
        const unsigned low = (unsigned)src[i % 8] >> (i / 8 * 4) & 15;
        const unsigned high = (unsigned)src[8 + i % 4] >> (i / 4 * 2) & 3;
        scale[i] = (int)(low | high << 4) - 32;
    }
}

/* Q3_K: 32 bytes of third bits; 64 bytes of low bits, placed as in Q2_K; 12 bytes of scales; half scale.
 * Element 32j + i of the superblock has its third bit at bit j of byte i. The value is scale * (code - 4). */
static void q3_k_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i += SUPERBLOCK, src += 110) {
        const uint8_t *highs = src, *lows = src + 32;
        const float d = load_half(src + 108);
        int scales[16];
        load_q3_scales(src + 96, scales);
        for (unsigned run = 0; run < SUPERBLOCK / 16; run++, dst += 16) {
            const uint8_t *low = lows + run / 8 * 32 + run % 2 * 16, *high = highs + run % 2 * 16;
            const unsigned low_shift = run / 2 % 4 * 2, high_shift = run / 2;
            const float scale = d * (float)scales[run];
            for (size_t j = 0; j < 16; j++) {
                const int code = (low[j] >> low_shift & 3) | (high[j] >> high_shift & 1) << 2;
                dst[j] = scale * (float)(code - 4);
            }
        }
    }
}

/* The 8 scales and 8 minimums of Q4_K and Q5_K, 6 bits each, in 12 bytes. The first four scales are the low 6
 * bits of bytes 0 to 3, the first four minimums those of bytes 4 to 7. The other four have their low nibbles
 * in bytes 8 to 11 (minimums in the high half) and their high two bits above those of the first four. */
static inline void load_scales_and_minimums(const uint8_t *src, float d, float d_min, float scale[8],
                                            float minimum[8])
{
    for (unsigned i = 0; i < 4; i++) {
        scale[i] = d * (float)(src[i] & 63);
        minimum[i] = d_min * (float)(src[4 + i] & 63);
        scale[4 + i] = d * (float)((src[8 + i] & 15) | (src[i] >> 6) << 4);
        minimum[4 + i] = d_min * (float)(src[8 + i] >> 4 | (src[4 + i] >> 6) << 4);
    }
}

/* Q4_K: half scale, half scale of minimums; 12 bytes of scales; 128 bytes of codes. Of each 64 elements,
 * element i is the low nibble of byte i, and element 32 + i the high one. */
static void q4_k_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i += SUPERBLOCK, src += 144) {
        float scale[8], minimum[8];
        load_scales_and_minimums(src + 4, load_half(src), load_half(src + 2), scale, minimum);
        const uint8_t *code = src + 16;
        for (unsigned run = 0; run < 8; run += 2, code += 32, dst += 64) {
            const float scale_0 = scale[run], minimum_0 = minimum[run];
            const float scale_1 = scale[run + 1], minimum_1 = minimum[run + 1];
            for (size_t j = 0; j < 32; j++) {
                dst[j] = scale_0 * (float)(code[j] & 15) - minimum_0;
                dst[32 + j] = scale_1 * (float)(code[j] >> 4) - minimum_1;
            }
        }
    }
}

/* Q5_K: as Q4_K, with 32 bytes of fifth bits before the 128: element 32j + i has it at bit j of byte i. */
static void q5_k_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i += SUPERBLOCK, src += 176) {
        float scale[8], minimum[8];
        load_scales_and_minimums(src + 4, load_half(src), load_half(src + 2), scale, minimum);
        const uint8_t *high = src + 16, *low = src + 48;
        for (unsigned run = 0; run < 8; run += 2, low += 32, dst += 64) {
            const float scale_0 = scale[run], minimum_0 = minimum[run];
            const float scale_1 = scale[run + 1], minimum_1 = minimum[run + 1];
            for (size_t j = 0; j < 32; j++) {
                const int code_0 = (low[j] & 15) | (high[j] >> run & 1) << 4;
                const int code_1 = low[j] >> 4 | (high[j] >> (run + 1) & 1) << 4;
                dst[j] = scale_0 * (float)code_0 - minimum_0;
                dst[32 + j] = scale_1 * (float)code_1 - minimum_1;
            }
        }
    }
}

/* Q6_K: 128 bytes of low nibbles, 64 bytes of high bits, 16 signed bytes of scales (one for 16 elements),
 * half scale. Of each 128 elements, element i < 64 has its low nibble in the low half of byte i, and element
 * 64 + i in the high half; element 32j + i has its high bits at bit 2j of byte i. scale * (code - 32). */
static void q6_k_to_f32(const uint8_t *restrict src, size_t n, float *restrict dst)
{
    for (size_t i = 0; i < n; i += SUPERBLOCK, src += 210) {
        const float d = load_half(src + 208);
        int8_t scales[16];
        memcpy(scales, src + 192, sizeof scales);
        for (unsigned run = 0; run < SUPERBLOCK / 16; run++, dst += 16) {
            const uint8_t *low = src + run / 8 * 64 + run % 4 * 16;
            const uint8_t *high = src + 128 + run / 8 * 32 + run % 2 * 16;
            const unsigned low_shift = run / 4 % 2 * 4, high_shift = run / 2 % 4 * 2;
            const float scale = d * (float)scales[run];
            for (size_t j = 0; j < 16; j++) {
                const int code = (low[j] >> low_shift & 15) | (high[j] >> high_shift & 3) << 4;
                dst[j] = scale * (float)(code - 32);
            }
        }
    }
}

/* ---- all of them ---- */

typedef void converter(const uint8_t *src, size_t n, float *dst);

static const struct {
    tensor_type_info info;
    converter *convert;
} types[] = {
    [TENSOR_F32] = {{"F32", 1, 4}, NULL},
    [TENSOR_F16] = {{"F16", 1, 2}, f16_to_f32},
    [TENSOR_BF16] = {{"BF16", 1, 2}, bf16_to_f32},
    [TENSOR_Q4_0] = {{"Q4_0", BLOCK, 2 + 16}, q4_0_to_f32},
    [TENSOR_Q4_1] = {{"Q4_1", BLOCK, 2 + 2 + 16}, q4_1_to_f32},
    [TENSOR_Q5_0] = {{"Q5_0", BLOCK, 2 + 4 + 16}, q5_0_to_f32},
    [TENSOR_Q5_1] = {{"Q5_1", BLOCK, 2 + 2 + 4 + 16}, q5_1_to_f32},
    [TENSOR_Q8_0] = {{"Q8_0", BLOCK, 2 + 32}, q8_0_to_f32},
    [TENSOR_Q2_K] = {{"Q2_K", SUPERBLOCK, 16 + 64 + 2 + 2}, q2_k_to_f32},
    [TENSOR_Q3_K] = {{"Q3_K", SUPERBLOCK, 32 + 64 + 12 + 2}, q3_k_to_f32},
    [TENSOR_Q4_K] = {{"Q4_K", SUPERBLOCK, 2 + 2 + 12 + 128}, q4_k_to_f32},
    [TENSOR_Q5_K] = {{"Q5_K", SUPERBLOCK, 2 + 2 + 12 + 32 + 128}, q5_k_to_f32},
    [TENSOR_Q6_K] = {{"Q6_K", SUPERBLOCK, 128 + 64 + 16 + 2}, q6_k_to_f32},
    [TENSOR_UNREADABLE] = {{"unreadable", 1, 0}, NULL},
};

const tensor_type_info *tensor_type_of(tensor_type type)
{
    assert(type <= TENSOR_UNREADABLE);
    return &types[type].info;
}

void tensor_to_f32(tensor_type type, const void *bytes, size_t n, float *dst)
{
    assert(type < TENSOR_UNREADABLE && n % types[type].info.block_elems == 0);
    if (types[type].convert)
        types[type].convert(bytes, n, dst);
    else if (n > 0)
        memcpy(dst, bytes, n * sizeof *dst);
}
