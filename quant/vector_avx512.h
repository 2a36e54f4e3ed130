/*
 * The vocabulary (vector.h) in AVX-512 (F, BW, VL, DQ) with VNNI. Nothing here knows of layouts.
 */
#ifndef KVQ_QUANT_VECTOR_AVX512_H
#define KVQ_QUANT_VECTOR_AVX512_H

#ifdef V_VOCABULARY
#error "one file takes one vocabulary"
#endif
#define V_VOCABULARY "avx512"

#include "quant/vector_x86.h"

/* ---- v_f: sixteen floats ---- */

typedef __m512 v_f;

/* Words of one instruction. */
#define V_BINARY(type, word, one)                                                                            \
    V_INLINE type word(type x, type y)                                                                       \
    {                                                                                                        \
        return one(x, y);                                                                                    \
    }

V_BINARY(v_f, v_add, _mm512_add_ps)
V_BINARY(v_f, v_sub, _mm512_sub_ps)
V_BINARY(v_f, v_mul, _mm512_mul_ps)
V_BINARY(v_f, v_div, _mm512_div_ps)
V_BINARY(v_f, v_min, _mm512_min_ps)
V_BINARY(v_f, v_max, _mm512_max_ps)

V_INLINE v_f v_set1(float x)
{
    return _mm512_set1_ps(x);
}

V_INLINE v_f v_set1_half(uint16_t x)
{
    return _mm512_cvtph_ps(_mm256_set1_epi16((int16_t)x));
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

/* Masked conversions, because gcc without optimisation warns of one inside _mm512_cvtps_ph. */
V_INLINE void v_store_half(uint16_t *p, v_f x)
{
    v_h_store(p, _mm512_maskz_cvtps_ph(0xffff, x, V_NEAREST));
}

/* Of 64 floats, or the first 32 of them: a permutation of two registers goes by the lower five bits. */
V_INLINE v_f v_gather_registers(const float *p, bool all, __m512i at)
{
    v_f x = _mm512_permutex2var_ps(_mm512_loadu_ps(p), at, _mm512_loadu_ps(p + 16));
    if (!all)
        return x;
    v_f y = _mm512_permutex2var_ps(_mm512_loadu_ps(p + 32), at, _mm512_loadu_ps(p + 48));
    return _mm512_mask_blend_ps(_mm512_test_epi32_mask(at, _mm512_set1_epi32(32)), x, y);
}

V_INLINE v_f v_gather(const float *p, size_t n, const uint16_t *at)
{
    if (n <= 128) {
        __m512i where = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)at));
        v_f x = v_gather_registers(p, n > 32, where);
        if (n <= 64)
            return x;
        v_f y = v_gather_registers(p + 64, n > 96, where);
        return _mm512_mask_blend_ps(_mm512_test_epi32_mask(where, _mm512_set1_epi32(64)), x, y);
    }
    __m256 low = _mm256_set_m128(v_gather_four(p, at + 4), v_gather_four(p, at));
    __m256 high = _mm256_set_m128(v_gather_four(p, at + 12), v_gather_four(p, at + 8));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

V_INLINE v_f v_load_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

V_INLINE void v_store_i8(int8_t *p, v_f x)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}

V_INLINE v_f v_round(v_f x)
{
    return _mm512_roundscale_ps(x, V_NEAREST);
}

V_INLINE v_f v_abs(v_f x)
{
    return _mm512_abs_ps(x);
}

/* Numbers without a sign compare as integers do, and those have twice as many ports on some processors. */
V_INLINE v_f v_clamp(v_f x, v_f most)
{
    __m512i bits = _mm512_max_epi32(_mm512_castps_si512(x), _mm512_setzero_si512());
    return _mm512_castsi512_ps(_mm512_min_epi32(bits, _mm512_castps_si512(most)));
}

V_INLINE v_f v_if_less(v_f a, v_f b, v_f x, v_f y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}

V_INLINE v_f v_butterfly(v_f x, int n)
{
    const __mmask16 second = n == 8 ? 0xff00 : n == 4 ? 0xf0f0 : n == 2 ? 0xcccc : 0xaaaa;
    v_f other = n == 8   ? _mm512_shuffle_f32x4(x, x, 0x4e)
                : n == 4 ? _mm512_shuffle_f32x4(x, x, 0xb1)
                : n == 2 ? _mm512_permute_ps(x, 0x4e)
                         : _mm512_permute_ps(x, 0xb1);
    return _mm512_mask_sub_ps(_mm512_add_ps(x, other), second, other, x);
}

/* Of the bits of n, the lower three choose the fraction, and those above are added to its exponent. A shift
 * brings all of them there; what the lower three add there is taken off the table, which is there twice, as
 * four bits choose. */
V_INLINE v_f v_power_of_2_8th(v_f x)
{
    const __m512i too_much =
        _mm512_slli_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7), 20);
    const __m256i once = _mm256_loadu_si256((const __m256i *)(const void *)kvq_eighths);
    const __m512i table = _mm512_sub_epi32(_mm512_broadcast_i64x4(once), too_much);
    __m512i n = _mm512_castps_si512(x);
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_permutexvar_epi32(n, table), _mm512_slli_epi32(n, 20)));
}

/* Likewise with the lower four bits of n. The table is that of n + 16, whose first octave has exponent 1. */
V_INLINE v_f v_sixteenths(const uint8_t *n)
{
    const __m512i too_much = _mm512_slli_epi32(
        _mm512_setr_epi32(16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31), 19);
    const __m512i table = _mm512_sub_epi32(_mm512_loadu_si512(kvq_sixteenths + 16), too_much);
    __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)n));
    __m512i fraction = _mm512_permutexvar_epi32(x, table);
    return _mm512_castsi512_ps(
        _mm512_maskz_add_epi32(_mm512_test_epi32_mask(x, x), fraction, _mm512_slli_epi32(x, 19)));
}

V_INLINE __m128 v_four_lanes(v_f x)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

V_INLINE float v_sum(v_f x)
{
    return v_sum_of_four(v_four_lanes(x));
}

/* Of eight lanes each: lanes j and j + 8 of x, then of y. */
V_INLINE v_f v_eight_lanes_of_two(v_f x, v_f y)
{
    return _mm512_add_ps(_mm512_mask_blend_ps(0xff00, x, y), _mm512_shuffle_f32x4(x, y, 0x4e));
}

/* Of four lanes each: lanes j and j + 4 of those of w, x, y and z. */
V_INLINE v_f v_four_lanes_of_four(v_f w, v_f x, v_f y, v_f z)
{
    v_f wx = v_eight_lanes_of_two(w, x), yz = v_eight_lanes_of_two(y, z);
    return _mm512_add_ps(_mm512_shuffle_f32x4(wx, yz, 0x88), _mm512_shuffle_f32x4(wx, yz, 0xdd));
}

V_INLINE void v_store_sums(float *p, v_f w, v_f x, v_f y, v_f z)
{
    v_f four = v_four_lanes_of_four(w, x, y, z);
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0xb1));
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    _mm_storeu_ps(p, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, four)));
}

/* Every fourth x together, because the last two steps go by quarters of registers. */
V_INLINE void v_store_16_sums(float *p, const v_f x[16])
{
    v_f four[4], two[2];
    V_UNROLL(4)
    for (size_t i = 0; i < 4; i++)
        four[i] = v_four_lanes_of_four(x[i], x[i + 4], x[i + 8], x[i + 12]);
    V_UNROLL(2)
    for (size_t i = 0; i < 2; i++) {
        v_f a = four[2 * i], b = four[2 * i + 1];
        two[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
    }
    v_store(p,
            _mm512_add_ps(_mm512_shuffle_ps(two[0], two[1], 0x88), _mm512_shuffle_ps(two[0], two[1], 0xdd)));
}

V_INLINE float v_largest(v_f x)
{
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    return v_largest_of_four(_mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
}

V_INLINE v_f v_extreme(v_f x, v_f y, bool largest)
{
    return largest ? v_max(x, y) : v_min(x, y);
}

V_INLINE v_f v_extremes_in_fours(const v_f x[4], bool largest)
{
    v_f half[2];
    for (size_t j = 0; j < 2; j++) {
        v_f a = x[2 * j], b = x[2 * j + 1];
        half[j] = v_extreme(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e), largest);
    }
    return v_extreme(_mm512_shuffle_f32x4(half[0], half[1], 0x88),
                     _mm512_shuffle_f32x4(half[0], half[1], 0xdd), largest);
}

V_INLINE v_f v_extremes_of_fours(const v_f x[4], bool largest)
{
    v_f half[2];
    for (size_t j = 0; j < 2; j++) {
        v_f a = x[2 * j], b = x[2 * j + 1];
        half[j] = v_extreme(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e), largest);
    }
    return v_extreme(_mm512_shuffle_ps(half[0], half[1], 0x88), _mm512_shuffle_ps(half[0], half[1], 0xdd),
                     largest);
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

V_INLINE v_f v_h_to_f(v_h x)
{
    return _mm512_cvtph_ps(x);
}

V_INLINE v_h v_h_down(v_f x)
{
    return _mm512_maskz_cvtps_ph(0xffff, x, V_DOWN);
}

V_INLINE v_h v_h_up(v_f x)
{
    return _mm512_maskz_cvtps_ph(0xffff, x, V_UP);
}

/* ---- v_e: eight doubles ---- */

typedef __m512d v_e;

V_BINARY(v_e, v_e_sub, _mm512_sub_pd)
V_BINARY(v_e, v_e_mul, _mm512_mul_pd)

V_INLINE v_e v_e_set1(double x)
{
    return _mm512_set1_pd(x);
}

V_INLINE v_e v_e_load(const double *p)
{
    return _mm512_loadu_pd(p);
}

V_INLINE void v_e_store(double *p, v_e x)
{
    _mm512_storeu_pd(p, x);
}

/* ---- v_i: sixteen dwords ---- */

typedef __m512i v_i;

V_BINARY(v_i, v_i_and, _mm512_and_si512)
V_BINARY(v_i, v_i_or, _mm512_or_si512)

V_INLINE v_i v_i_and_not(v_i x, v_i y)
{
    return _mm512_andnot_si512(y, x);
}

V_INLINE v_i v_i_set1(uint32_t x)
{
    return _mm512_set1_epi32((int)x);
}

V_INLINE v_i v_i_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}

V_INLINE void v_i_store(uint8_t *p, v_i x)
{
    _mm512_storeu_si512(p, x);
}

V_INLINE v_i v_i_nearest(v_f x)
{
    return _mm512_cvtps_epi32(x);
}

V_INLINE v_i v_i_shift_left(v_i x, uint32_t n)
{
    return _mm512_slli_epi32(x, n);
}

V_INLINE v_i v_i_shift_right(v_i x, uint32_t n)
{
    return _mm512_srli_epi32(x, n);
}

V_INLINE v_f v_i_pick(v_i x, const float *table, size_t n)
{
    if (n == 8)
        return _mm512_permutexvar_ps(x, _mm512_castps256_ps512(_mm256_loadu_ps(table)));
    return _mm512_permutexvar_ps(x, _mm512_loadu_ps(table));
}

V_INLINE v_i v_i_pack(const v_i x[4])
{
    return _mm512_packus_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3]));
}

V_INLINE void v_i_transpose(const v_i x[4], v_i y[4])
{
    v_i a = _mm512_shuffle_i32x4(x[0], x[1], 0x44), b = _mm512_shuffle_i32x4(x[2], x[3], 0x44);
    v_i c = _mm512_shuffle_i32x4(x[0], x[1], 0xee), d = _mm512_shuffle_i32x4(x[2], x[3], 0xee);
    y[0] = _mm512_shuffle_i32x4(a, b, 0x88);
    y[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
    y[2] = _mm512_shuffle_i32x4(c, d, 0x88);
    y[3] = _mm512_shuffle_i32x4(c, d, 0xdd);
}

V_INLINE v_f v_q_to_f(v_q x)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x));
}

/* ---- v_d: a register of dwords ---- */

typedef __m512i v_d;
typedef __m512i v_acc;

enum { V_DWORDS = 16, V_STRIP = 2, V_SUMS = 16, V_CHAINS = 4, V_ROOM = 0, V_FLOAT_SUMS = 16, V_NIBBLES = 0 };

V_INLINE v_d v_d_zero(void)
{
    return _mm512_setzero_si512();
}

V_INLINE v_acc v_acc_zero(void)
{
    return v_d_zero();
}

V_INLINE v_d v_d_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}

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

/* _mm512_dpbusd_epi32, but around that gcc copies sums from register to register, as many as products. */
V_INLINE v_acc v_dot(v_acc sum, v_d codes, v_d folded)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(folded));
    return sum;
}

V_INLINE v_d v_widen(v_acc sum)
{
    return sum;
}

V_INLINE v_d v_d_add(v_d a, v_d b)
{
    return _mm512_add_epi32(a, b);
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

#endif /* KVQ_QUANT_VECTOR_AVX512_H */
