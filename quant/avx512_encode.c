/*
 * Encoding and dequantizing of the affine codec with AVX-512 (F, BW, VL, DQ): the vocabulary of
 * vector_encode.h.
 */
#include <immintrin.h>

#include "quant/codec.h"
#include "quant/kernels_x86.h"
#include "quant/vector.h"

#define MM(name)     _mm512_##name
#define KERNEL(name) kvq_##name##_avx512

enum { LANES = 16 };
typedef __m512 floats;
typedef __m512i ints;
typedef __m256i halves;

static inline ints or_ints(ints a, ints b)
{
    return _mm512_or_si512(a, b);
}

static inline ints and_ints(ints a, ints b)
{
    return _mm512_and_si512(a, b);
}

static inline ints and_not_ints(ints a, ints b)
{
    return _mm512_andnot_si512(a, b);
}

static inline ints load_ints(const uint8_t *at)
{
    return _mm512_loadu_si512(at);
}

static inline void store_ints(uint8_t *at, ints x)
{
    _mm512_storeu_si512(at, x);
}

static inline void store_halves(uint8_t *at, halves x)
{
    _mm256_storeu_si256((__m256i *)(void *)at, x);
}

static inline floats load_halves(const uint8_t *at)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)at));
}

static inline floats broadcast_half(const uint8_t *at)
{
    return _mm512_cvtph_ps(_mm256_set1_epi16((int16_t)kvq_load_u16(at)));
}

/* Masked, because gcc without optimisation warns of a conversion inside _mm512_cvtps_ph. */
static inline halves round_down(floats x)
{
    return _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

static inline halves round_up(floats x)
{
    return _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
}

/* Vector v of the 16 bytes' numbers; here there is only one. */
static inline ints widen_bytes(__m128i bytes, size_t v)
{
    (void)v;
    return _mm512_cvtepu8_epi32(bytes);
}

/* Is any x >= limit? */
static inline bool any_reaches(floats x, floats limit)
{
    return _mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ) != 0;
}

/* Of each lane of 128 bits, numbers 0 and 1 of a, 2 and 3 of b. */
static inline floats blend_pairs(floats a, floats b)
{
    return _mm512_mask_blend_ps(0xcccc, a, b);
}

static inline floats extreme(floats a, floats b, bool largest)
{
    return largest ? _mm512_max_ps(a, b) : _mm512_min_ps(a, b);
}

/* Each x[j] down to four numbers that hold its extreme, in lane j of 128 bits. */
static inline floats lane_extremes(const floats x[4], bool largest)
{
    floats half[2];
    for (size_t j = 0; j < 2; j++) {
        floats a = x[2 * j], b = x[2 * j + 1];
        half[j] = extreme(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e), largest);
    }
    return extreme(_mm512_shuffle_f32x4(half[0], half[1], 0x88), _mm512_shuffle_f32x4(half[0], half[1], 0xdd),
                   largest);
}

/* From quad j of tokens 4i .. 4i + 3 in lane j of packed[i] to quad j of all 16 tokens. */
static inline void sort_quads(const ints packed[4], ints quad[4])
{
    ints a = _mm512_shuffle_i32x4(packed[0], packed[1], 0x44),
         b = _mm512_shuffle_i32x4(packed[2], packed[3], 0x44);
    ints c = _mm512_shuffle_i32x4(packed[0], packed[1], 0xee),
         d = _mm512_shuffle_i32x4(packed[2], packed[3], 0xee);
    quad[0] = _mm512_shuffle_i32x4(a, b, 0x88);
    quad[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
    quad[2] = _mm512_shuffle_i32x4(c, d, 0x88);
    quad[3] = _mm512_shuffle_i32x4(c, d, 0xdd);
}

#include "quant/vector_encode.h"
