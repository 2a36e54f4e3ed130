/*
 * Words that AVX2 and AVX-512 have in common, for their vocabularies; contracts: vector.h.
 */
#ifndef KVQ_QUANT_VECTOR_X86_H
#define KVQ_QUANT_VECTOR_X86_H

#include <immintrin.h>

#include "quant/vector.h"

enum {
    V_NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC,
    V_DOWN = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC,
    V_UP = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC,
};

/* The rest of v_sum, v_store_sums and v_largest, from four lanes that hold what four of sixteen make. */
V_INLINE float v_sum_of_four(__m128 x)
{
    __m128 two = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

V_INLINE void v_store_sums_of_four(float *p, __m128 w, __m128 x, __m128 y, __m128 z)
{
    __m128 wx = _mm_add_ps(_mm_movelh_ps(w, x), _mm_movehl_ps(x, w));
    __m128 yz = _mm_add_ps(_mm_movelh_ps(y, z), _mm_movehl_ps(z, y));
    _mm_storeu_ps(p, _mm_add_ps(_mm_shuffle_ps(wx, yz, 0x88), _mm_shuffle_ps(wx, yz, 0xdd)));
}

V_INLINE float v_largest_of_four(__m128 x)
{
    __m128 two = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

V_INLINE void v_prefetch(const uint8_t *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T1);
}

/* The rest of v_gather. */
V_INLINE __m128 v_gather_four(const float *p, const uint16_t *at)
{
    return _mm_setr_ps(p[at[0]], p[at[1]], p[at[2]], p[at[3]]);
}

/* ---- v_h: sixteen halves ---- */

typedef __m256i v_h;

V_INLINE v_h v_h_load(const uint16_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

V_INLINE void v_h_store(uint16_t *p, v_h x)
{
    _mm256_storeu_si256((__m256i *)(void *)p, x);
}

V_INLINE v_h v_h_max(v_h x, v_h y)
{
    return _mm256_max_epu16(x, y);
}

/* ---- v_q: four dwords ---- */

typedef __m128i v_q;

V_INLINE v_q v_q_set1(uint32_t x)
{
    return _mm_set1_epi32((int)x);
}

/* Numbers come from memory, which broadcasts for nothing. */
V_INLINE v_q v_q_set(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    v_q low = _mm_blend_epi32(v_q_set1(a), v_q_set1(b), 2),
        high = _mm_blend_epi32(v_q_set1(c), v_q_set1(d), 8);
    return _mm_blend_epi32(low, high, 12);
}

V_INLINE v_q v_q_or(v_q x, v_q y)
{
    return _mm_or_si128(x, y);
}

V_INLINE v_q v_q_and(v_q x, uint32_t byte_mask)
{
    return _mm_and_si128(x, _mm_set1_epi8((char)byte_mask));
}

V_INLINE v_q v_q_shift_left(v_q x, uint32_t n)
{
    return _mm_slli_epi32(x, (int)n);
}

V_INLINE v_q v_q_shift_right(v_q x, const uint32_t n[4])
{
    return _mm_srlv_epi32(x, _mm_setr_epi32((int)n[0], (int)n[1], (int)n[2], (int)n[3]));
}

#endif /* KVQ_QUANT_VECTOR_X86_H */
