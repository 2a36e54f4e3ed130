/*
 * The vocabulary of vector_*.h in AVX-512 (F, BW, VL, DQ) with VNNI; what each word must do stands in their
 * first comments. Nothing here knows of layouts.
 */
#ifndef KVQ_QUANT_VECTOR_AVX512_H
#define KVQ_QUANT_VECTOR_AVX512_H

#include "quant/vector.h"
#include <immintrin.h>

/* ---- v_f: sixteen floats ---- */

typedef __m512 v_f;

V_INLINE v_f v_set1(float x)
{
    return _mm512_set1_ps(x);
}

V_INLINE v_f v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

V_INLINE void v_store(float *p, v_f x)
{
    _mm512_storeu_ps(p, x);
}

V_INLINE __mmask16 v_first(size_t n)
{
    return (__mmask16)((1u << n) - 1u);
}

V_INLINE v_f v_load_part(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(v_first(n), p);
}

V_INLINE void v_store_part(float *p, v_f x, size_t n)
{
    _mm512_mask_storeu_ps(p, v_first(n), x);
}

V_INLINE v_f v_load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

V_INLINE v_f v_load_half_part(const uint16_t *p, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v_first(n), p));
}

V_INLINE void v_store_half(uint16_t *p, v_f x)
{
    _mm256_storeu_si256((__m256i *)(void *)p,
                        _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

V_INLINE v_f v_add(v_f a, v_f b)
{
    return _mm512_add_ps(a, b);
}

V_INLINE v_f v_sub(v_f a, v_f b)
{
    return _mm512_sub_ps(a, b);
}

V_INLINE v_f v_mul(v_f a, v_f b)
{
    return _mm512_mul_ps(a, b);
}

V_INLINE v_f v_fma(v_f a, v_f b, v_f c)
{
    return _mm512_fmadd_ps(a, b, c);
}

V_INLINE v_f v_round(v_f x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

V_INLINE v_f v_min(v_f a, v_f b)
{
    return _mm512_min_ps(a, b);
}

V_INLINE v_f v_max(v_f a, v_f b)
{
    return _mm512_max_ps(a, b);
}

V_INLINE v_f v_abs(v_f x)
{
    return _mm512_abs_ps(x);
}

V_INLINE v_f v_power_of_2(v_f whole, int offset)
{
    __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(whole), _mm512_set1_epi32(offset));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}

V_INLINE __m128 v_four_lanes(v_f x)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

V_INLINE float v_sum(v_f x)
{
    __m128 four = v_four_lanes(x), two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

V_INLINE void v_store_sums(float *p, v_f w, v_f x, v_f y, v_f z)
{
    __m128 w4 = v_four_lanes(w), x4 = v_four_lanes(x), y4 = v_four_lanes(y), z4 = v_four_lanes(z);
    __m128 wx = _mm_add_ps(_mm_movelh_ps(w4, x4), _mm_movehl_ps(x4, w4));
    __m128 yz = _mm_add_ps(_mm_movelh_ps(y4, z4), _mm_movehl_ps(z4, y4));
    _mm_storeu_ps(p, _mm_add_ps(_mm_shuffle_ps(wx, yz, 0x88), _mm_shuffle_ps(wx, yz, 0xdd)));
}

V_INLINE float v_largest(v_f x)
{
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

V_INLINE bool v_all_finite(v_f x)
{
    return _mm512_fpclass_ps_mask(x, 0x99) == 0; /* quiet NaN, both infinities, signalling NaN */
}

V_INLINE v_f v_codes(const uint8_t *dwords, uint32_t shift, uint32_t mask, uint32_t up)
{
    __m512i x = _mm512_srli_epi32(_mm512_loadu_si512(dwords), shift);
    return _mm512_cvtepi32_ps(_mm512_slli_epi32(_mm512_and_si512(x, _mm512_set1_epi32((int)mask)), up));
}

V_INLINE void v_store_folded(int8_t *p, v_f x, v_f y)
{
    const __m512i half = _mm512_set1_epi16(128);
    /* Packing goes by quarters of registers: four numbers of x, four of y. */
    __m512i w = _mm512_packs_epi32(_mm512_cvtps_epi32(x), _mm512_cvtps_epi32(y));
    w = _mm512_xor_si512(_mm512_add_epi16(w, half), half); /* bytes: low, high */
    const __m512i split =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, _mm512_shuffle_epi8(w, split)));
}

/* ---- v_h: sixteen halves ---- */

typedef __m256i v_h;

V_INLINE v_h v_h_load(const uint16_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

V_INLINE v_h v_h_max(v_h x, v_h y)
{
    return _mm256_max_epu16(x, y);
}

V_INLINE v_f v_h_to_f(v_h x)
{
    return _mm512_cvtph_ps(x);
}

/* ---- v_d: a register of dwords, for dot products of unsigned codes with signed folded bytes ---- */

typedef __m512i v_d;
typedef __m512i v_acc;

enum {
    V_DWORDS = 16, /* in a v_d */
    V_STRIP = 2, /* v_d that share one broadcast of folded bytes: as many as leave registers for their sums */
    V_EXACT_QUERIES = 4, /* as many as share a conversion to float; 1 or 4 */
    V_ACCUMULATORS = 2,  /* sums that four quads go to in turn: 2, or 4 where sums fill early */
    V_NIBBLES = 0,       /* 1 if v_dot takes codes below 16 only */
};

/* Spans (vector_fast.h) whose products fit a v_acc. */
V_INLINE size_t v_max_k_steps(uint32_t width, bool multi_query)
{
    (void)width, (void)multi_query;
    return KVQ_DIM_MAX;
}

V_INLINE v_d v_d_zero(void)
{
    return _mm512_setzero_si512();
}

V_INLINE v_d v_d_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}

/* Bytes shifted right by a number of bits below 8; what crosses bytes is masked by the caller. */
V_INLINE v_d v_d_shift_bytes(v_d x, uint32_t n)
{
    return n == 0 ? x : _mm512_srli_epi32(x, n);
}

V_INLINE v_d v_d_and(v_d x, uint32_t byte_mask)
{
    return byte_mask == 255 ? x : _mm512_and_si512(x, _mm512_set1_epi8((char)byte_mask));
}

V_INLINE v_d v_d_four_folded(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}

V_INLINE v_acc v_dot(v_acc sum, v_d codes, v_d folded)
{
    return _mm512_dpbusd_epi32(sum, codes, folded);
}

/* The sum as whole numbers of 32 bits. */
V_INLINE v_d v_widen(v_acc sum)
{
    return sum;
}

V_INLINE v_d v_d_add(v_d a, v_d b)
{
    return _mm512_add_epi32(a, b);
}

V_INLINE v_d v_d_shift_right(v_d a, uint32_t n)
{
    return n == 0 ? a : _mm512_srai_epi32(a, n);
}

V_INLINE v_d v_d_shift_left(v_d a, uint32_t n)
{
    return n == 0 ? a : _mm512_slli_epi32(a, n);
}

/* ---- v_df: the V_DWORDS floats that belong to a v_d ---- */

typedef __m512 v_df;

V_INLINE v_df v_df_of(v_d x)
{
    return _mm512_cvtepi32_ps(x);
}

V_INLINE v_df v_df_set1(float x)
{
    return _mm512_set1_ps(x);
}

V_INLINE v_df v_df_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

V_INLINE void v_df_store(float *p, v_df x)
{
    _mm512_storeu_ps(p, x);
}

V_INLINE v_df v_df_add(v_df a, v_df b)
{
    return _mm512_add_ps(a, b);
}

V_INLINE v_df v_df_mul(v_df a, v_df b)
{
    return _mm512_mul_ps(a, b);
}

V_INLINE void v_prefetch(const uint8_t *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T1);
}

#endif /* KVQ_QUANT_VECTOR_AVX512_H */
