/*
 * The vocabulary of vector_*.h in AVX2 with FMA and F16C; what each word must do stands in their first
 * comments. Sixteen floats are two registers. With AVX-VNNI (KVQ_AVX_VNNI) dot products take one instruction;
 * without it they run in 16 bits, which is why codes must stay below 16 and sums must be emptied now and
 * then.
 */
#ifndef KVQ_QUANT_VECTOR_AVX2_H
#define KVQ_QUANT_VECTOR_AVX2_H

#include "quant/vector.h"
#include <immintrin.h>

/* ---- v_f: sixteen floats ---- */

typedef struct v_f {
    __m256 a, b;
} v_f;

V_INLINE v_f v_set1(float x)
{
    return (v_f){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

V_INLINE v_f v_load(const float *p)
{
    return (v_f){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

V_INLINE void v_store(float *p, v_f x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}

/* Lanes first .. first + 7 that are below n, as a mask. */
V_INLINE __m256i v_first(size_t n, int first)
{
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - first), index);
}

V_INLINE v_f v_load_part(const float *p, size_t n)
{
    v_f x = {_mm256_maskload_ps(p, v_first(n, 0)), _mm256_setzero_ps()};
    if (n > 8)
        x.b = _mm256_maskload_ps(p + 8, v_first(n, 8));
    return x;
}

V_INLINE void v_store_part(float *p, v_f x, size_t n)
{
    _mm256_maskstore_ps(p, v_first(n, 0), x.a);
    if (n > 8)
        _mm256_maskstore_ps(p + 8, v_first(n, 8), x.b);
}

V_INLINE v_f v_load_half(const uint16_t *p)
{
    return (v_f){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
}

V_INLINE v_f v_load_half_part(const uint16_t *p, size_t n)
{
    uint16_t sixteen[16] = {0};
    memcpy(sixteen, p, n * sizeof *p);
    return v_load_half(sixteen);
}

V_INLINE void v_store_half(uint16_t *p, v_f x)
{
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x.a, NEAREST));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm256_cvtps_ph(x.b, NEAREST));
}

V_INLINE v_f v_add(v_f x, v_f y)
{
    return (v_f){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}

V_INLINE v_f v_sub(v_f x, v_f y)
{
    return (v_f){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}

V_INLINE v_f v_mul(v_f x, v_f y)
{
    return (v_f){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}

V_INLINE v_f v_fma(v_f x, v_f y, v_f z)
{
    return (v_f){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

V_INLINE v_f v_round(v_f x)
{
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    return (v_f){_mm256_round_ps(x.a, NEAREST), _mm256_round_ps(x.b, NEAREST)};
}

V_INLINE v_f v_min(v_f x, v_f y)
{
    return (v_f){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}

V_INLINE v_f v_max(v_f x, v_f y)
{
    return (v_f){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}

V_INLINE v_f v_abs(v_f x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v_f){_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}

V_INLINE __m256 v_power_of_2_eight(__m256 whole, int offset)
{
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(offset));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

V_INLINE v_f v_power_of_2(v_f whole, int offset)
{
    return (v_f){v_power_of_2_eight(whole.a, offset), v_power_of_2_eight(whole.b, offset)};
}

V_INLINE __m128 v_four_lanes(v_f x)
{
    __m256 eight = _mm256_add_ps(x.a, x.b);
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
    __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

V_INLINE bool v_all_finite(v_f x)
{
    const __m256i infinity = _mm256_set1_epi32(0x7f800000), magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i a = _mm256_cmpgt_epi32(infinity, _mm256_and_si256(_mm256_castps_si256(x.a), magnitude));
    __m256i b = _mm256_cmpgt_epi32(infinity, _mm256_and_si256(_mm256_castps_si256(x.b), magnitude));
    return _mm256_movemask_epi8(_mm256_and_si256(a, b)) == -1;
}

V_INLINE __m256 v_codes_eight(const uint8_t *dwords, uint32_t shift, uint32_t mask, uint32_t up)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)dwords);
    x = _mm256_and_si256(_mm256_srli_epi32(x, (int)shift), _mm256_set1_epi32((int)mask));
    return _mm256_cvtepi32_ps(_mm256_slli_epi32(x, (int)up));
}

V_INLINE v_f v_codes(const uint8_t *dwords, uint32_t shift, uint32_t mask, uint32_t up)
{
    return (v_f){v_codes_eight(dwords, shift, mask, up), v_codes_eight(dwords + 32, shift, mask, up)};
}

V_INLINE void v_store_folded(int8_t *p, v_f x, v_f y)
{
    const __m256i half = _mm256_set1_epi16(128), byte = _mm256_set1_epi16(255);
    /* Packing goes by halves of registers; the order is put right at the end. */
    __m256i xw = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    __m256i yw = _mm256_packs_epi32(_mm256_cvtps_epi32(y.a), _mm256_cvtps_epi32(y.b));
    __m256i x_high = _mm256_srai_epi16(_mm256_add_epi16(xw, half), 8);
    __m256i y_high = _mm256_srai_epi16(_mm256_add_epi16(yw, half), 8);
    __m256i low = _mm256_packus_epi16(_mm256_and_si256(xw, byte), _mm256_and_si256(yw, byte));
    __m256i high = _mm256_packs_epi16(x_high, y_high);
    /* Dwords of each: x 0-3, x 8-11, y 0-3, y 8-11 | x 4-7, x 12-15, y 4-7, y 12-15. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    low = _mm256_permutevar8x32_epi32(low, order);
    high = _mm256_permutevar8x32_epi32(high, order);
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256((__m256i *)(void *)(p + 32), _mm256_permute2x128_si256(low, high, 0x31));
}

enum { V_EXACT_QUERIES = 1 }; /* four would need 32 registers */

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
    return (v_f){_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))};
}

/* ---- v_d: a register of dwords ---- */

typedef __m256i v_d;
typedef __m256i v_acc;

V_INLINE v_d v_d_zero(void)
{
    return _mm256_setzero_si256();
}

V_INLINE v_d v_d_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

V_INLINE v_d v_d_shift_bytes(v_d x, uint32_t n)
{
    return n == 0 ? x : _mm256_srli_epi32(x, (int)n);
}

V_INLINE v_d v_d_and(v_d x, uint32_t byte_mask)
{
    return byte_mask == 255 ? x : _mm256_and_si256(x, _mm256_set1_epi8((char)byte_mask));
}

V_INLINE v_d v_d_four_folded(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm256_set1_epi32(four);
}

V_INLINE v_d v_d_add(v_d a, v_d b)
{
    return _mm256_add_epi32(a, b);
}

V_INLINE v_d v_d_shift_right(v_d a, uint32_t n)
{
    return n == 0 ? a : _mm256_srai_epi32(a, (int)n);
}

V_INLINE v_d v_d_shift_left(v_d a, uint32_t n)
{
    return n == 0 ? a : _mm256_slli_epi32(a, (int)n);
}

#ifdef KVQ_AVX_VNNI

enum { V_DWORDS = 8, V_STRIP = 1, V_ACCUMULATORS = 2, V_NIBBLES = 0 };

V_INLINE size_t v_max_k_steps(uint32_t width, bool multi_query)
{
    (void)width, (void)multi_query;
    return KVQ_DIM_MAX;
}

V_INLINE v_acc v_dot(v_acc sum, v_d codes, v_d folded)
{
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sum, codes, folded);
#else
    return _mm256_dpbusd_epi32(sum, codes, folded); /* tests run this on AVX-512 processors */
#endif
}

V_INLINE v_d v_widen(v_acc sum)
{
    return sum;
}

#else

enum { V_DWORDS = 8, V_STRIP = 1, V_ACCUMULATORS = 4, V_NIBBLES = 1 };

/* A sum of 16 bits takes 32767 / (2 * 128 * largest code) quads. For one
 * query it sees one quad of a k-step (two of one bit), codes up to 8, 12, 15 by width as they stand; for
 * several it sees four (eight of one bit), codes up to 1, 3, 15. */
V_INLINE size_t v_max_k_steps(uint32_t width, bool multi_query)
{
    if (multi_query)
        return width == 1 ? 15 : width == 2 ? 10 : 2;
    return width == 1 ? 7 : width == 2 ? 10 : 8;
}

V_INLINE v_acc v_dot(v_acc sum, v_d codes, v_d folded)
{
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, folded));
}

V_INLINE v_d v_widen(v_acc sum)
{
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

#endif

/* ---- v_df: the V_DWORDS floats that belong to a v_d ---- */

typedef __m256 v_df;

V_INLINE v_df v_df_of(v_d x)
{
    return _mm256_cvtepi32_ps(x);
}

V_INLINE v_df v_df_set1(float x)
{
    return _mm256_set1_ps(x);
}

V_INLINE v_df v_df_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

V_INLINE void v_df_store(float *p, v_df x)
{
    _mm256_storeu_ps(p, x);
}

V_INLINE v_df v_df_add(v_df x, v_df y)
{
    return _mm256_add_ps(x, y);
}

V_INLINE v_df v_df_mul(v_df x, v_df y)
{
    return _mm256_mul_ps(x, y);
}

V_INLINE void v_prefetch(const uint8_t *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T1);
}

#endif /* KVQ_QUANT_VECTOR_AVX2_H */
