/*
 * The vocabulary (vector.h) in NEON of AArch64 (little-endian) with the dot-product extension. Sixteen floats
 * are four registers; v_d is one. SDOT takes signed bytes on both sides, so codes must stay below 128, as
 * V_NIBBLES sees to; its sums have 32 bits.
 */
#ifndef KVQ_QUANT_VECTOR_NEON_H
#define KVQ_QUANT_VECTOR_NEON_H

#ifdef V_VOCABULARY
#error "one file takes one vocabulary"
#endif
#define V_VOCABULARY "neon"

#include <arm_neon.h>

#include "quant/vector.h"

/* ---- v_f: sixteen floats ---- */

typedef struct v_f {
    float32x4_t r[4];
} v_f;

/* Words that work on each of four registers. Never fused: vmulq and vaddq, not vmlaq. */
#define V_EACH(type, expression)                                                                             \
    type result;                                                                                             \
    for (size_t i = 0; i < 4; i++)                                                                           \
        result.r[i] = (expression);                                                                          \
    return result
#define V_UNARY(type, word, one)                                                                             \
    V_INLINE type word(type x)                                                                               \
    {                                                                                                        \
        V_EACH(type, one(x.r[i]));                                                                           \
    }
#define V_BINARY(type, word, one)                                                                            \
    V_INLINE type word(type x, type y)                                                                       \
    {                                                                                                        \
        V_EACH(type, one(x.r[i], y.r[i]));                                                                   \
    }

V_UNARY(v_f, v_abs, vabsq_f32)
V_UNARY(v_f, v_round, vrndnq_f32)
V_BINARY(v_f, v_add, vaddq_f32)
V_BINARY(v_f, v_sub, vsubq_f32)
V_BINARY(v_f, v_mul, vmulq_f32)
V_BINARY(v_f, v_div, vdivq_f32)
V_BINARY(v_f, v_min, vminq_f32)
V_BINARY(v_f, v_max, vmaxq_f32)

V_INLINE v_f v_if_less(v_f a, v_f b, v_f x, v_f y)
{
    v_f result;
    for (size_t k = 0; k < 4; k++)
        result.r[k] = vbslq_f32(vcltq_f32(a.r[k], b.r[k]), x.r[k], y.r[k]);
    return result;
}

V_INLINE float32x4_t v_butterfly_four(float32x4_t x, int n)
{
    float32x4_t other = n == 2 ? vextq_f32(x, x, 2) : vrev64q_f32(x);
    float32x4_t sum = vaddq_f32(x, other), difference = vsubq_f32(other, x);
    return n == 2 ? vcombine_f32(vget_low_f32(sum), vget_high_f32(difference))
                  : vtrn1q_f32(sum, vrev64q_f32(difference));
}

V_INLINE v_f v_butterfly(v_f x, int n)
{
    v_f result;
    for (int k = 0; k < 4; k++)
        if (n < 4)
            result.r[k] = v_butterfly_four(x.r[k], n);
        else
            result.r[k] =
                (4 * k & n) == 0 ? vaddq_f32(x.r[k], x.r[k + n / 4]) : vsubq_f32(x.r[k - n / 4], x.r[k]);
    return result;
}

V_INLINE v_f v_set1(float x)
{
    float32x4_t four = vdupq_n_f32(x);
    return (v_f){{four, four, four, four}};
}

V_INLINE v_f v_clamp(v_f x, v_f most)
{
    return v_min(v_max(x, v_set1(0.0f)), most);
}

V_INLINE v_f v_set1_half(uint16_t x)
{
    float32x4_t four = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(x)));
    return (v_f){{four, four, four, four}};
}

V_INLINE v_f v_load(const float *p)
{
    return (v_f){{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}

V_INLINE void v_store(float *p, v_f x)
{
    vst1q_f32(p, x.r[0]);
    vst1q_f32(p + 4, x.r[1]);
    vst1q_f32(p + 8, x.r[2]);
    vst1q_f32(p + 12, x.r[3]);
}

V_INLINE v_f v_load_part(const float *p, size_t n)
{
    float sixteen[16] = {0};
    memcpy(sixteen, p, n * sizeof *p);
    return v_load(sixteen);
}

V_INLINE void v_store_part(float *p, v_f x, size_t n)
{
    float sixteen[16];
    v_store(sixteen, x);
    memcpy(p, sixteen, n * sizeof *p);
}

/* ---- v_h: sixteen halves ---- */
typedef struct v_h {
    uint16x8_t a, b;
} v_h;

V_INLINE v_h v_h_load(const uint16_t *p)
{
    return (v_h){vld1q_u16(p), vld1q_u16(p + 8)};
}

V_INLINE void v_h_store(uint16_t *p, v_h x)
{
    vst1q_u16(p, x.a);
    vst1q_u16(p + 8, x.b);
}

V_INLINE v_h v_h_max(v_h x, v_h y)
{
    return (v_h){vmaxq_u16(x.a, y.a), vmaxq_u16(x.b, y.b)};
}

V_INLINE v_f v_h_to_f(v_h x)
{
    return (v_f){{vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(x.a))),
                  vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(x.a))),
                  vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(x.b))),
                  vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(x.b)))}};
}

/* There is no conversion that rounds down: take the nearest, and where it is above x the half before it. */
V_INLINE uint16x4_t v_h_down_four(float32x4_t x)
{
    float16x4_t nearest = vcvt_f16_f32(x);
    uint16x4_t bits = vreinterpret_u16_f16(nearest), above = vmovn_u32(vcgtq_f32(vcvt_f32_f16(nearest), x));
    uint16x4_t negative = vcltz_s16(vreinterpret_s16_u16(bits)); /* away from 0 then, else towards it */
    uint16x4_t step = vorr_u16(vmvn_u16(negative), vdup_n_u16(1));
    return vadd_u16(bits, vand_u16(above, step));
}

V_INLINE v_h v_h_down(v_f x)
{
    return (v_h){vcombine_u16(v_h_down_four(x.r[0]), v_h_down_four(x.r[1])),
                 vcombine_u16(v_h_down_four(x.r[2]), v_h_down_four(x.r[3]))};
}

V_INLINE v_h v_h_up(v_f x)
{
    const uint16x8_t sign = vdupq_n_u16(0x8000);
    v_h down = v_h_down((v_f){{vnegq_f32(x.r[0]), vnegq_f32(x.r[1]), vnegq_f32(x.r[2]), vnegq_f32(x.r[3])}});
    return (v_h){veorq_u16(down.a, sign), veorq_u16(down.b, sign)};
}

V_INLINE v_f v_load_half(const uint16_t *p)
{
    return v_h_to_f(v_h_load(p));
}

V_INLINE v_f v_load_half_part(const uint16_t *p, size_t n)
{
    uint16_t sixteen[16] = {0};
    memcpy(sixteen, p, n * sizeof *p);
    return v_load_half(sixteen);
}

V_INLINE void v_store_half(uint16_t *p, v_f x)
{
    for (size_t i = 0; i < 4; i++)
        vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.r[i])));
}

V_INLINE float32x4_t v_gather_four(const float *p, const uint16_t *at)
{
    float32x4_t x = vdupq_n_f32(p[at[0]]);
    x = vld1q_lane_f32(p + at[1], x, 1);
    x = vld1q_lane_f32(p + at[2], x, 2);
    return vld1q_lane_f32(p + at[3], x, 3);
}

V_INLINE v_f v_gather(const float *p, size_t n, const uint16_t *at)
{
    (void)n;
    V_EACH(v_f, v_gather_four(p, at + 4 * i));
}

V_INLINE v_f v_load_i8(const int8_t *p)
{
    int8x16_t codes = vld1q_s8(p);
    int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_s8(vget_high_s8(codes));
    return (v_f){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                  vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                  vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

V_INLINE void v_store_i8(int8_t *p, v_f x)
{
    int16x8_t low = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.r[0])), vmovn_s32(vcvtnq_s32_f32(x.r[1])));
    int16x8_t high = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.r[2])), vmovn_s32(vcvtnq_s32_f32(x.r[3])));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

/* Dword x < 8 of a table, which begins at its byte 4 x. */
V_INLINE uint32x4_t v_pick_of_eight(uint8x16x2_t table, uint32x4_t x)
{
    const uint32x4_t at = vmlaq_u32(vdupq_n_u32(0x03020100), x, vdupq_n_u32(0x04040404));
    return vreinterpretq_u32_u8(vqtbl2q_u8(table, vreinterpretq_u8_u32(at)));
}

V_INLINE v_f v_power_of_2_8th(v_f x)
{
    const uint8x16x2_t eighths = vld1q_u8_x2((const uint8_t *)kvq_eighths);
    v_f power;
    for (size_t k = 0; k < 4; k++) {
        const uint32x4_t n = vreinterpretq_u32_f32(x.r[k]), fraction = vandq_u32(n, vdupq_n_u32(7));
        const uint32x4_t octave = vshlq_n_u32(vbicq_u32(n, vdupq_n_u32(7)), 20);
        power.r[k] = vreinterpretq_f32_u32(vaddq_u32(v_pick_of_eight(eighths, fraction), octave));
    }
    return power;
}

/* A load of each is as quick as bytes from four registers. */
V_INLINE v_f v_sixteenths(const uint8_t *n)
{
    float power[16];
    for (size_t i = 0; i < 16; i++)
        power[i] = kvq_sixteenths[n[i]];
    return v_load(power);
}

/* Lanes j + j + 8, then + 4, then + 2. */
V_INLINE float32x2_t v_two_lanes(v_f x)
{
    float32x4_t four = vaddq_f32(vaddq_f32(x.r[0], x.r[2]), vaddq_f32(x.r[1], x.r[3]));
    return vadd_f32(vget_low_f32(four), vget_high_f32(four));
}

V_INLINE float v_sum(v_f x)
{
    return vpadds_f32(v_two_lanes(x));
}

V_INLINE void v_store_sums(float *p, v_f w, v_f x, v_f y, v_f z)
{
    vst1_f32(p, vpadd_f32(v_two_lanes(w), v_two_lanes(x)));
    vst1_f32(p + 2, vpadd_f32(v_two_lanes(y), v_two_lanes(z)));
}

V_INLINE void v_store_16_sums(float *p, const v_f x[16])
{
    for (size_t i = 0; i < 16; i += 4)
        v_store_sums(p + i, x[i], x[i + 1], x[i + 2], x[i + 3]);
}

V_INLINE float v_largest(v_f x)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.r[0], x.r[1]), vmaxq_f32(x.r[2], x.r[3])));
}

V_INLINE float32x4_t v_extreme_four(float32x4_t x, float32x4_t y, bool largest)
{
    return largest ? vmaxq_f32(x, y) : vminq_f32(x, y);
}

V_INLINE v_f v_extremes_in_fours(const v_f x[4], bool largest)
{
    V_EACH(v_f, v_extreme_four(v_extreme_four(x[i].r[0], x[i].r[1], largest),
                               v_extreme_four(x[i].r[2], x[i].r[3], largest), largest));
}

V_INLINE float32x4_t v_extreme_pairs(float32x4_t x, float32x4_t y, bool largest)
{
    return largest ? vpmaxq_f32(x, y) : vpminq_f32(x, y);
}

V_INLINE v_f v_extremes_of_fours(const v_f x[4], bool largest)
{
    V_EACH(v_f, v_extreme_pairs(v_extreme_pairs(x[0].r[i], x[1].r[i], largest),
                                v_extreme_pairs(x[2].r[i], x[3].r[i], largest), largest));
}

V_INLINE bool v_all_finite(v_f x)
{
    uint32x4_t largest = vdupq_n_u32(0);
    for (size_t i = 0; i < 4; i++)
        largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(x.r[i])));
    return vmaxvq_u32(largest) < 0x7f800000u;
}

V_INLINE v_f v_codes(const uint8_t *dwords, uint32_t shift, uint32_t mask, uint32_t up)
{
    v_f result;
    for (size_t i = 0; i < 4; i++) {
        uint32x4_t x = vreinterpretq_u32_u8(vld1q_u8(dwords + 16 * i)) >> vdupq_n_u32(shift);
        result.r[i] = vcvtq_f32_u32((x & vdupq_n_u32(mask)) << vdupq_n_u32(up));
    }
    return result;
}

/* Sixteen folded numbers, rounded to nearest even: their low bytes at p, their high bytes behind. */
V_INLINE void v_store_sixteen_folded(int8_t *p, v_f x)
{
    for (size_t i = 0; i < 2; i++) {
        int16x4_t a = vmovn_s32(vcvtnq_s32_f32(x.r[2 * i])), b = vmovn_s32(vcvtnq_s32_f32(x.r[2 * i + 1]));
        int16x8_t w = vcombine_s16(a, b);
        vst1_s8(p + 8 * i, vmovn_s16(w));
        vst1_s8(p + 16 + 8 * i, vrshrn_n_s16(w, 8)); /* adds 128 first */
    }
}

V_INLINE void v_store_folded(int8_t *p, v_f x, v_f y)
{
    v_store_sixteen_folded(p, x);
    v_store_sixteen_folded(p + 32, y);
}

/* ---- v_e: eight doubles ---- */

typedef struct v_e {
    float64x2_t r[4];
} v_e;

V_BINARY(v_e, v_e_sub, vsubq_f64)
V_BINARY(v_e, v_e_mul, vmulq_f64)

V_INLINE v_e v_e_set1(double x)
{
    float64x2_t two = vdupq_n_f64(x);
    return (v_e){{two, two, two, two}};
}

V_INLINE v_e v_e_load(const double *p)
{
    return (v_e){{vld1q_f64(p), vld1q_f64(p + 2), vld1q_f64(p + 4), vld1q_f64(p + 6)}};
}

V_INLINE void v_e_store(double *p, v_e x)
{
    for (size_t k = 0; k < 4; k++)
        vst1q_f64(p + 2 * k, x.r[k]);
}

/* ---- v_i: sixteen dwords ---- */

typedef struct v_i {
    uint32x4_t r[4];
} v_i;

V_BINARY(v_i, v_i_and, vandq_u32)
V_BINARY(v_i, v_i_and_not, vbicq_u32)
V_BINARY(v_i, v_i_or, vorrq_u32)

V_INLINE v_i v_i_set1(uint32_t x)
{
    V_EACH(v_i, vdupq_n_u32(x));
}

V_INLINE v_i v_i_load(const uint8_t *p)
{
    V_EACH(v_i, vreinterpretq_u32_u8(vld1q_u8(p + 16 * i)));
}

V_INLINE void v_i_store(uint8_t *p, v_i x)
{
    for (size_t i = 0; i < 4; i++)
        vst1q_u8(p + 16 * i, vreinterpretq_u8_u32(x.r[i]));
}

V_INLINE v_i v_i_nearest(v_f x)
{
    V_EACH(v_i, vcvtnq_u32_f32(x.r[i]));
}

V_INLINE v_i v_i_shift_left(v_i x, uint32_t n)
{
    V_EACH(v_i, x.r[i] << vdupq_n_u32(n));
}

V_INLINE v_i v_i_shift_right(v_i x, uint32_t n)
{
    V_EACH(v_i, x.r[i] >> vdupq_n_u32(n));
}

/* Byte by byte: float x of the table begins at byte 4 x. */
V_INLINE v_f v_i_pick(v_i x, const float *table, size_t n)
{
    const uint8_t *bytes = (const uint8_t *)table;
    v_f picked;
    for (size_t k = 0; k < 4; k++) {
        if (n == 8) {
            picked.r[k] = vreinterpretq_f32_u32(v_pick_of_eight(vld1q_u8_x2(bytes), x.r[k]));
            continue;
        }
        uint32x4_t at = vmlaq_u32(vdupq_n_u32(0x03020100), x.r[k], vdupq_n_u32(0x04040404));
        picked.r[k] = vreinterpretq_f32_u8(vqtbl4q_u8(vld1q_u8_x4(bytes), vreinterpretq_u8_u32(at)));
    }
    return picked;
}

V_INLINE v_i v_i_pack(const v_i x[4])
{
    v_i result;
    for (size_t k = 0; k < 4; k++) {
        uint16x8_t low = vcombine_u16(vmovn_u32(x[0].r[k]), vmovn_u32(x[1].r[k]));
        uint16x8_t high = vcombine_u16(vmovn_u32(x[2].r[k]), vmovn_u32(x[3].r[k]));
        result.r[k] = vreinterpretq_u32_u8(vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
    }
    return result;
}

V_INLINE void v_i_transpose(const v_i x[4], v_i y[4])
{
    for (size_t k = 0; k < 4; k++)
        y[k] = (v_i){{x[0].r[k], x[1].r[k], x[2].r[k], x[3].r[k]}};
}

/* ---- v_q: four dwords ---- */

typedef uint32x4_t v_q;

V_INLINE v_q v_q_set1(uint32_t x)
{
    return vdupq_n_u32(x);
}

V_INLINE v_q v_q_set(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    return (v_q){a, b, c, d};
}

V_INLINE v_q v_q_or(v_q x, v_q y)
{
    return vorrq_u32(x, y);
}

V_INLINE v_q v_q_and(v_q x, uint32_t byte_mask)
{
    return vandq_u32(x, vdupq_n_u32(byte_mask * 0x01010101u));
}

V_INLINE v_q v_q_shift_left(v_q x, uint32_t n)
{
    return x << vdupq_n_u32(n);
}

V_INLINE v_q v_q_shift_right(v_q x, const uint32_t n[4])
{
    return x >> (v_q){n[0], n[1], n[2], n[3]};
}

V_INLINE v_f v_q_to_f(v_q x)
{
    uint16x8_t low = vmovl_u8(vget_low_u8(vreinterpretq_u8_u32(x)));
    uint16x8_t high = vmovl_u8(vget_high_u8(vreinterpretq_u8_u32(x)));
    return (v_f){{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
                  vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
                  vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))}};
}

/* ---- v_d: a register of dwords ---- */

typedef int32x4_t v_d;
typedef int32x4_t v_acc;

enum {
    V_DWORDS = 4,
    V_STRIP = 4,
    V_SUMS = 16,
    V_CHAINS = 2,
    V_ROOM = 0,
    V_FLOAT_SUMS = 4,
    V_NIBBLES = 1,
};

V_INLINE v_d v_d_zero(void)
{
    return vdupq_n_s32(0);
}

V_INLINE v_acc v_acc_zero(void)
{
    return v_d_zero();
}

V_INLINE v_d v_d_load(const uint8_t *p)
{
    return vreinterpretq_s32_u8(vld1q_u8(p));
}

V_INLINE v_d v_d_shift_bytes(v_d x, uint32_t n)
{
    return vreinterpretq_s32_u8(vreinterpretq_u8_s32(x) >> vdupq_n_u8((uint8_t)n));
}

V_INLINE v_d v_d_and(v_d x, uint32_t byte_mask)
{
    return vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(x), vdupq_n_u8((uint8_t)byte_mask)));
}

V_INLINE v_d v_d_four_folded(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return vdupq_n_s32(four);
}

V_INLINE v_acc v_dot(v_acc sum, v_d codes, v_d folded)
{
    return vdotq_s32(sum, vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(folded));
}

V_INLINE v_d v_widen(v_acc sum)
{
    return sum;
}

V_INLINE v_d v_d_add(v_d a, v_d b)
{
    return vaddq_s32(a, b);
}

V_INLINE v_d v_d_shift_left(v_d a, uint32_t n)
{
    return vshlq_s32(a, vdupq_n_s32((int32_t)n));
}

/* ---- v_df: the V_DWORDS floats that belong to a v_d ---- */

typedef float32x4_t v_df;

V_INLINE v_df v_df_of(v_d x)
{
    return vcvtq_f32_s32(x);
}

V_INLINE v_df v_df_set1(float x)
{
    return vdupq_n_f32(x);
}

V_INLINE v_df v_df_load(const float *p)
{
    return vld1q_f32(p);
}

V_INLINE void v_df_store(float *p, v_df x)
{
    vst1q_f32(p, x);
}

V_INLINE v_df v_df_add(v_df a, v_df b)
{
    return vaddq_f32(a, b);
}

V_INLINE v_df v_df_mul(v_df a, v_df b)
{
    return vmulq_f32(a, b);
}

V_INLINE void v_prefetch(const uint8_t *p)
{
    __builtin_prefetch(p, 0, 2);
}

#endif /* KVQ_QUANT_VECTOR_NEON_H */
