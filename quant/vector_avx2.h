/*
 * The vocabulary (vector.h) in AVX2 with F16C. Sixteen floats are two registers. With AVX-VNNI
 * (KVQ_AVX_VNNI) dot products take one instruction; without it they run in 16 bits, which is why codes must
 * stay below 16 and sums must be emptied now and then.
 */
#ifndef KVQ_QUANT_VECTOR_AVX2_H
#define KVQ_QUANT_VECTOR_AVX2_H

#ifdef V_VOCABULARY
#error "one file takes one vocabulary"
#endif
#define V_VOCABULARY "avx2"

#include "quant/vector_x86.h"

/* ---- v_f: sixteen floats ---- */

typedef struct v_f {
    __m256 a, b;
} v_f;

/* Words of one instruction per register. */
#define V_BINARY(type, word, one)                                                                            \
    V_INLINE type word(type x, type y)                                                                       \
    {                                                                                                        \
        return (type){one(x.a, y.a), one(x.b, y.b)};                                                         \
    }

V_BINARY(v_f, v_add, _mm256_add_ps)
V_BINARY(v_f, v_sub, _mm256_sub_ps)
V_BINARY(v_f, v_mul, _mm256_mul_ps)
V_BINARY(v_f, v_div, _mm256_div_ps)
V_BINARY(v_f, v_min, _mm256_min_ps)
V_BINARY(v_f, v_max, _mm256_max_ps)

V_INLINE v_f v_set1(float x)
{
    return (v_f){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

V_INLINE v_f v_set1_half(uint16_t x)
{
    __m256 eight = _mm256_cvtph_ps(_mm_set1_epi16((int16_t)x));
    return (v_f){eight, eight};
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

/* By pairs, and an odd one out by itself: copied first, they would be loaded while still being stored. */
V_INLINE v_f v_load_half_part(const uint16_t *p, size_t n)
{
    __m256i x = _mm256_maskload_epi32((const int *)(const void *)p, v_first(n / 2, 0));
    if (n % 2 != 0) {
        const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        __m256i here = _mm256_cmpeq_epi32(lane, _mm256_set1_epi32((int32_t)(n / 2)));
        x = _mm256_or_si256(x, _mm256_and_si256(here, _mm256_set1_epi32(p[n - 1])));
    }
    return (v_f){_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))};
}

V_INLINE void v_store_half(uint16_t *p, v_f x)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x.a, V_NEAREST));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm256_cvtps_ph(x.b, V_NEAREST));
}

V_INLINE v_f v_gather(const float *p, size_t n, const uint16_t *at)
{
    (void)n;
    return (v_f){_mm256_set_m128(v_gather_four(p, at + 4), v_gather_four(p, at)),
                 _mm256_set_m128(v_gather_four(p, at + 12), v_gather_four(p, at + 8))};
}

V_INLINE v_f v_load_i8(const int8_t *p)
{
    return (v_f){
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p))),
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8))))};
}

V_INLINE void v_store_i8(int8_t *p, v_f x)
{
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    words = _mm256_permute4x64_epi64(words, 0xd8); /* packing went by halves of the register */
    _mm_storeu_si128((__m128i *)(void *)p,
                     _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

V_INLINE v_f v_round(v_f x)
{
    return (v_f){_mm256_round_ps(x.a, V_NEAREST), _mm256_round_ps(x.b, V_NEAREST)};
}

V_INLINE v_f v_abs(v_f x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v_f){_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}

/* Numbers without a sign compare as integers do, and those have twice as many ports on some processors. */
V_INLINE __m256 v_clamp_eight(__m256 x, __m256 most)
{
    __m256i bits = _mm256_max_epi32(_mm256_castps_si256(x), _mm256_setzero_si256());
    return _mm256_castsi256_ps(_mm256_min_epi32(bits, _mm256_castps_si256(most)));
}

V_INLINE v_f v_clamp(v_f x, v_f most)
{
    return (v_f){v_clamp_eight(x.a, most.a), v_clamp_eight(x.b, most.b)};
}

V_INLINE v_f v_if_less(v_f a, v_f b, v_f x, v_f y)
{
    return (v_f){_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
                 _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))};
}

/* A difference is the sum with a number of the other sign. */
V_INLINE __m256 v_butterfly_eight(__m256 x, int n)
{
#define SIGN(j) (((j)&n) != 0 ? -0.0f : 0.0f)
    const __m256 sign = _mm256_setr_ps(0.0f, SIGN(1), SIGN(2), SIGN(3), SIGN(4), SIGN(5), SIGN(6), SIGN(7));
#undef SIGN
    __m256 other = n == 4   ? _mm256_permute2f128_ps(x, x, 1)
                   : n == 2 ? _mm256_permute_ps(x, 0x4e)
                            : _mm256_permute_ps(x, 0xb1);
    return _mm256_add_ps(other, _mm256_xor_ps(x, sign));
}

V_INLINE v_f v_butterfly(v_f x, int n)
{
    if (n == 8)
        return (v_f){_mm256_add_ps(x.a, x.b), _mm256_sub_ps(x.a, x.b)};
    return (v_f){v_butterfly_eight(x.a, n), v_butterfly_eight(x.b, n)};
}

/* Of the bits of n, the lower three choose the fraction, and those above are added to its exponent. A shift
 * brings all of them there; what the lower three add there is taken off the table. */
V_INLINE __m256 v_power_of_2_8th_eight(__m256 x)
{
    const __m256i too_much = _mm256_slli_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), 20);
    const __m256i table =
        _mm256_sub_epi32(_mm256_loadu_si256((const __m256i *)(const void *)kvq_eighths), too_much);
    __m256i n = _mm256_castps_si256(x);
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_permutevar8x32_epi32(table, n), _mm256_slli_epi32(n, 20)));
}

V_INLINE v_f v_power_of_2_8th(v_f x)
{
    return (v_f){v_power_of_2_8th_eight(x.a), v_power_of_2_8th_eight(x.b)};
}

/* Likewise with the lower four bits of n, which choose from two registers. The table is that of n + 16, whose
 * first octave has exponent 1. */
V_INLINE __m256 v_sixteenths_eight(const uint8_t *n)
{
    const __m256i *table = (const __m256i *)(const void *)(kvq_sixteenths + 16);
    const __m256i too_much = _mm256_slli_epi32(_mm256_setr_epi32(16, 17, 18, 19, 20, 21, 22, 23), 19);
    const __m256i low = _mm256_sub_epi32(_mm256_loadu_si256(table), too_much);
    const __m256i high = _mm256_sub_epi32(_mm256_loadu_si256(table + 1),
                                          _mm256_add_epi32(too_much, _mm256_set1_epi32(8 << 19)));
    __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)n));
    __m256 fraction = _mm256_blendv_ps(_mm256_castsi256_ps(_mm256_permutevar8x32_epi32(low, x)),
                                       _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(high, x)),
                                       _mm256_castsi256_ps(_mm256_slli_epi32(x, 28)));
    __m256i power = _mm256_add_epi32(_mm256_castps_si256(fraction), _mm256_slli_epi32(x, 19));
    return _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_cmpeq_epi32(x, _mm256_setzero_si256()), power));
}

V_INLINE v_f v_sixteenths(const uint8_t *n)
{
    return (v_f){v_sixteenths_eight(n), v_sixteenths_eight(n + 8)};
}

V_INLINE __m128 v_four_lanes(v_f x)
{
    __m256 eight = _mm256_add_ps(x.a, x.b);
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

V_INLINE float v_sum(v_f x)
{
    return v_sum_of_four(v_four_lanes(x));
}

V_INLINE void v_store_sums(float *p, v_f w, v_f x, v_f y, v_f z)
{
    v_store_sums_of_four(p, v_four_lanes(w), v_four_lanes(x), v_four_lanes(y), v_four_lanes(z));
}

V_INLINE void v_store_16_sums(float *p, const v_f x[16])
{
    for (size_t i = 0; i < 16; i += 4)
        v_store_sums(p + i, x[i], x[i + 1], x[i + 2], x[i + 3]);
}

V_INLINE float v_largest(v_f x)
{
    __m256 eight = _mm256_max_ps(x.a, x.b);
    return v_largest_of_four(_mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
}

V_INLINE __m256 v_extreme_eight(__m256 x, __m256 y, bool largest)
{
    return largest ? _mm256_max_ps(x, y) : _mm256_min_ps(x, y);
}

/* x and y, each down to four numbers, side by side. */
V_INLINE __m256 v_extremes_in_two(v_f x, v_f y, bool largest)
{
    __m256 x8 = v_extreme_eight(x.a, x.b, largest), y8 = v_extreme_eight(y.a, y.b, largest);
    return v_extreme_eight(_mm256_blend_ps(x8, y8, 0xf0), _mm256_permute2f128_ps(x8, y8, 0x21), largest);
}

V_INLINE v_f v_extremes_in_fours(const v_f x[4], bool largest)
{
    return (v_f){v_extremes_in_two(x[0], x[1], largest), v_extremes_in_two(x[2], x[3], largest)};
}

V_INLINE __m256 v_extremes_of_eight(__m256 w, __m256 x, __m256 y, __m256 z, bool largest)
{
    __m256 wx = v_extreme_eight(_mm256_blend_ps(w, x, 0xcc), _mm256_shuffle_ps(w, x, 0x4e), largest);
    __m256 yz = v_extreme_eight(_mm256_blend_ps(y, z, 0xcc), _mm256_shuffle_ps(y, z, 0x4e), largest);
    return v_extreme_eight(_mm256_shuffle_ps(wx, yz, 0x88), _mm256_shuffle_ps(wx, yz, 0xdd), largest);
}

V_INLINE v_f v_extremes_of_fours(const v_f x[4], bool largest)
{
    return (v_f){v_extremes_of_eight(x[0].a, x[1].a, x[2].a, x[3].a, largest),
                 v_extremes_of_eight(x[0].b, x[1].b, x[2].b, x[3].b, largest)};
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

enum { V_FLOAT_SUMS = 4 };

/* ---- v_h: sixteen halves ---- */

V_INLINE v_f v_h_to_f(v_h x)
{
    return (v_f){_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))};
}

V_INLINE v_h v_h_down(v_f x)
{
    return _mm256_set_m128i(_mm256_cvtps_ph(x.b, V_DOWN), _mm256_cvtps_ph(x.a, V_DOWN));
}

V_INLINE v_h v_h_up(v_f x)
{
    return _mm256_set_m128i(_mm256_cvtps_ph(x.b, V_UP), _mm256_cvtps_ph(x.a, V_UP));
}

/* ---- v_e: eight doubles ---- */

typedef struct v_e {
    __m256d a, b;
} v_e;

V_BINARY(v_e, v_e_sub, _mm256_sub_pd)
V_BINARY(v_e, v_e_mul, _mm256_mul_pd)

V_INLINE v_e v_e_set1(double x)
{
    return (v_e){_mm256_set1_pd(x), _mm256_set1_pd(x)};
}

V_INLINE v_e v_e_load(const double *p)
{
    return (v_e){_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)};
}

V_INLINE void v_e_store(double *p, v_e x)
{
    _mm256_storeu_pd(p, x.a);
    _mm256_storeu_pd(p + 4, x.b);
}

/* ---- v_i: sixteen dwords ---- */

typedef struct v_i {
    __m256i a, b;
} v_i;

V_BINARY(v_i, v_i_and, _mm256_and_si256)
V_BINARY(v_i, v_i_or, _mm256_or_si256)

V_INLINE v_i v_i_and_not(v_i x, v_i y)
{
    return (v_i){_mm256_andnot_si256(y.a, x.a), _mm256_andnot_si256(y.b, x.b)};
}

V_INLINE v_i v_i_set1(uint32_t x)
{
    return (v_i){_mm256_set1_epi32((int)x), _mm256_set1_epi32((int)x)};
}

V_INLINE v_i v_i_load(const uint8_t *p)
{
    return (v_i){_mm256_loadu_si256((const __m256i *)(const void *)p),
                 _mm256_loadu_si256((const __m256i *)(const void *)(p + 32))};
}

V_INLINE void v_i_store(uint8_t *p, v_i x)
{
    _mm256_storeu_si256((__m256i *)(void *)p, x.a);
    _mm256_storeu_si256((__m256i *)(void *)(p + 32), x.b);
}

V_INLINE v_i v_i_nearest(v_f x)
{
    return (v_i){_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}

V_INLINE v_i v_i_shift_left(v_i x, uint32_t n)
{
    return (v_i){_mm256_slli_epi32(x.a, (int)n), _mm256_slli_epi32(x.b, (int)n)};
}

V_INLINE v_i v_i_shift_right(v_i x, uint32_t n)
{
    return (v_i){_mm256_srli_epi32(x.a, (int)n), _mm256_srli_epi32(x.b, (int)n)};
}

/* Of sixteen: both halves of the table by the lower three bits; the fourth, moved to the sign, chooses. */
V_INLINE __m256 v_i_pick_eight(__m256i x, const float *table, size_t n)
{
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), x);
    if (n == 8)
        return low;
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), x);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(x, 28)));
}

V_INLINE v_f v_i_pick(v_i x, const float *table, size_t n)
{
    return (v_f){v_i_pick_eight(x.a, table, n), v_i_pick_eight(x.b, table, n)};
}

V_INLINE __m256i v_i_pack_eight(__m256i w, __m256i x, __m256i y, __m256i z)
{
    return _mm256_packus_epi16(_mm256_packs_epi32(w, x), _mm256_packs_epi32(y, z));
}

V_INLINE v_i v_i_pack(const v_i x[4])
{
    return (v_i){v_i_pack_eight(x[0].a, x[1].a, x[2].a, x[3].a),
                 v_i_pack_eight(x[0].b, x[1].b, x[2].b, x[3].b)};
}

/* The lower fours of four registers, and their upper ones. */
V_INLINE void v_i_transpose_two(__m256i w, __m256i x, __m256i y, __m256i z, v_i out[2])
{
    out[0] = (v_i){_mm256_permute2x128_si256(w, x, 0x20), _mm256_permute2x128_si256(y, z, 0x20)};
    out[1] = (v_i){_mm256_permute2x128_si256(w, x, 0x31), _mm256_permute2x128_si256(y, z, 0x31)};
}

V_INLINE void v_i_transpose(const v_i x[4], v_i y[4])
{
    v_i_transpose_two(x[0].a, x[1].a, x[2].a, x[3].a, y);
    v_i_transpose_two(x[0].b, x[1].b, x[2].b, x[3].b, y + 2);
}

V_INLINE v_f v_q_to_f(v_q x)
{
    return (v_f){_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)),
                 _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(x, 8)))};
}

/* ---- v_d: a register of dwords ---- */

typedef __m256i v_d;
typedef __m256i v_acc;

V_INLINE v_d v_d_zero(void)
{
    return _mm256_setzero_si256();
}

V_INLINE v_acc v_acc_zero(void)
{
    return v_d_zero();
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

V_INLINE v_d v_d_shift_left(v_d a, uint32_t n)
{
    return n == 0 ? a : _mm256_slli_epi32(a, (int)n);
}

#ifdef KVQ_AVX_VNNI

enum { V_DWORDS = 8, V_STRIP = 2, V_SUMS = 8, V_CHAINS = 2, V_ROOM = 0, V_NIBBLES = 0 };

#ifdef __AVXVNNI__
#define V_DPBUSD "%{vex%} vpdpbusd"
#else
#define V_DPBUSD "vpdpbusd" /* tests run this on AVX-512 processors */
#endif

/* In assembly for the reason that vector_avx512.h gives. */
V_INLINE v_acc v_dot(v_acc sum, v_d codes, v_d folded)
{
    __asm__(V_DPBUSD " %2, %1, %0" : "+x"(sum) : "x"(codes), "x"(folded));
    return sum;
}

V_INLINE v_d v_widen(v_acc sum)
{
    return sum;
}

#else

/* A sum of 16 bits takes 127 products of a code of 1 and the largest folded bytes: pairs of 2 * 128. */
enum { V_DWORDS = 8, V_STRIP = 2, V_SUMS = 8, V_CHAINS = 1, V_ROOM = 127, V_NIBBLES = 1 };

/* The empty instruction keeps gcc from putting the additions of a whole k-step off to its end, for which it
 * would have to spill most of the products. */
V_INLINE v_acc v_dot(v_acc sum, v_d codes, v_d folded)
{
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, folded));
    __asm__("" : "+x"(sum));
    return sum;
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

#endif /* KVQ_QUANT_VECTOR_AVX2_H */
