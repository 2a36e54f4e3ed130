/*
 * The words of vector.h that templates need which the portable kernels share, in plain C: sixteen lanes are
 * an array. Include this or a vocabulary, then the template.
 */
#ifndef KVQ_QUANT_LANES_H
#define KVQ_QUANT_LANES_H

/* Checked lane by lane and inlined by force, one file of these takes a sanitizing compiler ten minutes. */
#if defined(__SANITIZE_ADDRESS__)
#define V_INLINE static __attribute__((noinline, unused))
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(undefined_behavior_sanitizer)
#define V_INLINE static __attribute__((noinline, unused))
#endif
#endif
#include "quant/vector.h"

#define V_PLAIN_LANES

typedef struct v_f {
    float lane[16];
} v_f;

/* The 16 lanes of a result, by an expression of lane j. */
#define V_EACH_LANE(expression)                                                                              \
    v_f out;                                                                                                 \
    for (size_t j = 0; j < 16; j++)                                                                          \
        out.lane[j] = (expression);                                                                          \
    return out

V_INLINE v_f v_set1(float x)
{
    V_EACH_LANE(x);
}

V_INLINE v_f v_load(const float *p)
{
    V_EACH_LANE(p[j]);
}

V_INLINE v_f v_load_part(const float *p, size_t n)
{
    V_EACH_LANE(j < n ? p[j] : 0.0f);
}

V_INLINE v_f v_gather(const float *p, size_t n, const uint16_t *at)
{
    (void)n;
    V_EACH_LANE(p[at[j]]);
}

V_INLINE v_f v_load_half(const uint16_t *p)
{
    V_EACH_LANE(kvq_f32_from_f16(p[j]));
}

V_INLINE v_f v_load_i8(const int8_t *p)
{
    V_EACH_LANE((float)p[j]);
}

V_INLINE void v_store(float *p, v_f x)
{
    memcpy(p, x.lane, sizeof x.lane);
}

V_INLINE v_f v_add(v_f x, v_f y)
{
    V_EACH_LANE(x.lane[j] + y.lane[j]);
}

V_INLINE v_f v_sub(v_f x, v_f y)
{
    V_EACH_LANE(x.lane[j] - y.lane[j]);
}

V_INLINE v_f v_mul(v_f x, v_f y)
{
    V_EACH_LANE(x.lane[j] * y.lane[j]);
}

V_INLINE v_f v_div(v_f x, v_f y)
{
    V_EACH_LANE(x.lane[j] / y.lane[j]);
}

V_INLINE v_f v_min(v_f x, v_f y)
{
    V_EACH_LANE(x.lane[j] < y.lane[j] ? x.lane[j] : y.lane[j]);
}

V_INLINE v_f v_max(v_f x, v_f y)
{
    V_EACH_LANE(x.lane[j] > y.lane[j] ? x.lane[j] : y.lane[j]);
}

V_INLINE v_f v_abs(v_f x)
{
    V_EACH_LANE(x.lane[j] < 0.0f ? -x.lane[j] : x.lane[j]);
}

V_INLINE v_f v_clamp(v_f x, v_f most)
{
    return v_min(v_max(x, v_set1(0.0f)), most);
}

V_INLINE v_f v_if_less(v_f a, v_f b, v_f x, v_f y)
{
    V_EACH_LANE(a.lane[j] < b.lane[j] ? x.lane[j] : y.lane[j]);
}

V_INLINE v_f v_butterfly(v_f x, int n)
{
    v_f out;
    for (size_t j = 0; j < 16; j++)
        out.lane[j] =
            (j & (size_t)n) == 0 ? x.lane[j] + x.lane[j ^ (size_t)n] : x.lane[j ^ (size_t)n] - x.lane[j];
    return out;
}

/* Here only of |x| < 2^22, where adding and subtracting a large number rounds. */
V_INLINE v_f v_round(v_f x)
{
    const float round_magic = 0x1.8p23f;
    V_EACH_LANE((x.lane[j] + round_magic) - round_magic);
}

V_INLINE v_f v_power_of_2_8th(v_f x)
{
    V_EACH_LANE(kvq_exp2_of_eighths(x.lane[j]));
}

V_INLINE v_f v_sixteenths(const uint8_t *n)
{
    V_EACH_LANE(kvq_sixteenths[n[j]]);
}

V_INLINE float v_largest(v_f x)
{
    float largest = x.lane[0];
    for (size_t j = 1; j < 16; j++)
        largest = x.lane[j] > largest ? x.lane[j] : largest;
    return largest;
}

V_INLINE void v_store_part(float *p, v_f x, size_t n)
{
    memcpy(p, x.lane, n * sizeof *p);
}

V_INLINE float v_sum(v_f x)
{
    for (size_t width = 8; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++)
            x.lane[j] += x.lane[j + width];
    return x.lane[0];
}

V_INLINE void v_store_sums(float *p, v_f w, v_f x, v_f y, v_f z)
{
    p[0] = v_sum(w);
    p[1] = v_sum(x);
    p[2] = v_sum(y);
    p[3] = v_sum(z);
}

V_INLINE void v_store_i8(int8_t *p, v_f x)
{
    for (size_t j = 0; j < 16; j++)
        p[j] = (int8_t)x.lane[j];
}

V_INLINE void v_store_folded(int8_t *p, v_f x, v_f y)
{
    x = v_round(x);
    y = v_round(y);
    for (size_t j = 0; j < 32; j++) {
        int32_t w = (int32_t)(j < 16 ? x.lane[j] : y.lane[j - 16]), high = (w + 128) >> 8;
        int8_t *sixteen = p + j / 16 * 32 + j % 16;
        sixteen[0] = (int8_t)(w - high * 256);
        sixteen[16] = (int8_t)high;
    }
}

V_INLINE void v_store_half(uint16_t *p, v_f x)
{
    for (size_t j = 0; j < 16; j++)
        p[j] = kvq_f16_from_f32(x.lane[j]);
}

/* ---- v_e ---- */

typedef struct v_e {
    double lane[8];
} v_e;

V_INLINE v_e v_e_set1(double x)
{
    v_e out;
    for (size_t j = 0; j < 8; j++)
        out.lane[j] = x;
    return out;
}

V_INLINE v_e v_e_load(const double *p)
{
    v_e out;
    memcpy(out.lane, p, sizeof out.lane);
    return out;
}

V_INLINE void v_e_store(double *p, v_e x)
{
    memcpy(p, x.lane, sizeof x.lane);
}

V_INLINE v_e v_e_sub(v_e x, v_e y)
{
    for (size_t j = 0; j < 8; j++)
        x.lane[j] -= y.lane[j];
    return x;
}

V_INLINE v_e v_e_mul(v_e x, v_e y)
{
    for (size_t j = 0; j < 8; j++)
        x.lane[j] *= y.lane[j];
    return x;
}

/* ---- v_i ---- */

typedef struct v_i {
    uint32_t lane[16];
} v_i;

#define V_EACH_DWORD(expression)                                                                             \
    v_i out;                                                                                                 \
    for (size_t j = 0; j < 16; j++)                                                                          \
        out.lane[j] = (expression);                                                                          \
    return out

V_INLINE v_i v_i_set1(uint32_t x)
{
    V_EACH_DWORD(x);
}

V_INLINE v_i v_i_load(const uint8_t *p)
{
    V_EACH_DWORD(kvq_load_u32(p + 4 * j));
}

V_INLINE void v_i_store(uint8_t *p, v_i x)
{
    memcpy(p, x.lane, sizeof x.lane);
}

V_INLINE v_f v_codes(const uint8_t *p, uint32_t shift, uint32_t mask, uint32_t up)
{
    V_EACH_LANE((float)((kvq_load_u32(p + 4 * j) >> shift & mask) << up));
}

V_INLINE v_i v_i_and(v_i x, v_i y)
{
    V_EACH_DWORD(x.lane[j] & y.lane[j]);
}

V_INLINE v_i v_i_or(v_i x, v_i y)
{
    V_EACH_DWORD(x.lane[j] | y.lane[j]);
}

V_INLINE v_i v_i_shift_left(v_i x, uint32_t n)
{
    V_EACH_DWORD(x.lane[j] << n);
}

V_INLINE v_i v_i_shift_right(v_i x, uint32_t n)
{
    V_EACH_DWORD(x.lane[j] >> n);
}

V_INLINE v_i v_i_nearest(v_f x)
{
    x = v_round(x);
    V_EACH_DWORD((uint32_t)(int32_t)x.lane[j]);
}

V_INLINE v_i v_i_pack(const v_i x[4])
{
    v_i out;
    for (size_t j = 0; j < 16; j++) {
        const uint32_t *four = x[j % 4].lane + j / 4 * 4;
        out.lane[j] = four[0] | four[1] << 8 | four[2] << 16 | four[3] << 24;
    }
    return out;
}

V_INLINE void v_i_transpose(const v_i x[4], v_i y[4])
{
    for (size_t k = 0; k < 4; k++)
        for (size_t j = 0; j < 16; j++)
            y[k].lane[j] = x[j / 4].lane[4 * k + j % 4];
}

V_INLINE v_f v_i_pick(v_i x, const float *table, size_t n)
{
    (void)n;
    V_EACH_LANE(table[x.lane[j]]);
}

#endif /* KVQ_QUANT_LANES_H */
