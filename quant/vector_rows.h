/*
 * Plain rows and softmax in vectors. All EXACT: the operations of kernels_portable.c in its order, sixteen
 * lanes at a time.
 */
#ifndef KVQ_QUANT_VECTOR_ROWS_H
#define KVQ_QUANT_VECTOR_ROWS_H

#include "quant/kernels.h"
#include "quant/vector_complete.h"

static bool all_finite_f32_v(const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        if (!v_all_finite(v_load(x + i)))
            return false;
    return i == n || v_all_finite(v_load_part(x + i, n - i));
}

static void convert_f32_f16_v(const float *x, size_t n, uint16_t *out)
{
    const v_f largest = v_set1(KVQ_F16_MAX), smallest = v_set1(-KVQ_F16_MAX);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store_half(out + i, v_max(v_min(v_load(x + i), largest), smallest));
    if (i < n) {
        uint16_t sixteen[16];
        v_store_half(sixteen, v_max(v_min(v_load_part(x + i, n - i), largest), smallest));
        memcpy(out + i, sixteen, (n - i) * sizeof *out);
    }
}

static void convert_f16_f32_v(const uint16_t *x, size_t n, float *out)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(out + i, v_load_half(x + i));
    if (i < n)
        v_store_part(out + i, v_load_half_part(x + i, n - i), n - i);
}

/* Sixteen elements of a row, or the first n < 16 of them. `half` is a constant wherever this is inlined. */
V_INLINE v_f row_load(const void *rows, bool half, size_t at)
{
    return half ? v_load_half((const uint16_t *)rows + at) : v_load((const float *)rows + at);
}

V_INLINE v_f row_load_part(const void *rows, bool half, size_t at, size_t n)
{
    return half ? v_load_half_part((const uint16_t *)rows + at, n) : v_load_part((const float *)rows + at, n);
}

/* What lies AHEAD rows on will be read soon, unless these are the last; prefetching past an array does no
 * harm. Halves are bound by their conversion and gain nothing. */
enum { AHEAD = 16 };

V_INLINE void row_prefetch(const void *rows, bool half, size_t at)
{
    if (!half)
        v_prefetch((const uint8_t *)((uintptr_t)rows + at * 4));
}

/* The dot products of n_rows rows (a constant, at most 4), before the sum over lanes. */
V_INLINE void dot_lanes(const void *rows, bool half, size_t stride, size_t n_rows, const float *q, size_t dim,
                        v_f sum[4])
{
    size_t c = 0;
    for (size_t j = 0; j < n_rows; j++)
        sum[j] = v_set1(0.0f);
    for (; c + 16 <= dim; c += 16) {
        v_f query = v_load(q + c);
        V_UNROLL(4)
        for (size_t j = 0; j < n_rows; j++) {
            row_prefetch(rows, half, (j + AHEAD) * stride + c);
            sum[j] = v_add(sum[j], v_mul(query, row_load(rows, half, j * stride + c)));
        }
    }
    if (c < dim) { /* the other lanes add 0 * 0: no lane is ever -0, so nothing changes */
        v_f query = v_load_part(q + c, dim - c);
        for (size_t j = 0; j < n_rows; j++)
            sum[j] = v_add(sum[j], v_mul(query, row_load_part(rows, half, j * stride + c, dim - c)));
    }
}

V_INLINE void dot_rows(const void *rows, bool half, size_t stride, size_t n, const float *q, size_t dim,
                       float *scores)
{
    v_f sum[4];
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        dot_lanes((const char *)rows + i * stride * (half ? 2 : 4), half, stride, 4, q, dim, sum);
        v_store_sums(scores + i, sum[0], sum[1], sum[2], sum[3]);
    }
    for (; i < n; i++) {
        dot_lanes((const char *)rows + i * stride * (half ? 2 : 4), half, stride, 1, q, dim, sum);
        scores[i] = v_sum(sum[0]);
    }
}

static void dot_f32_v(const float *rows, size_t stride, size_t n, const float *q, size_t dim, float *scores)
{
    dot_rows(rows, false, stride, n, q, dim, scores);
}

static void dot_f16_v(const uint16_t *rows, size_t stride, size_t n, const float *q, size_t dim,
                      float *scores)
{
    dot_rows(rows, true, stride, n, q, dim, scores);
}

/* Columns in registers, rows in order: each column sees the additions of the portable kernel. */
V_INLINE void accumulate_columns(const void *rows, bool half, size_t stride, size_t n, const float *p,
                                 size_t n_v, size_t c, float *acc)
{
    v_f sum[4];
    for (size_t j = 0; j < n_v; j++)
        sum[j] = v_load(acc + c + 16 * j);
    for (size_t i = 0; i < n; i++) {
        v_f weight = v_set1(p[i]);
        V_UNROLL(4)
        for (size_t j = 0; j < n_v; j++) {
            row_prefetch(rows, half, (i + AHEAD) * stride + c + 16 * j);
            sum[j] = v_add(sum[j], v_mul(weight, row_load(rows, half, i * stride + c + 16 * j)));
        }
    }
    for (size_t j = 0; j < n_v; j++)
        v_store(acc + c + 16 * j, sum[j]);
}

V_INLINE void accumulate_rows(const void *rows, bool half, size_t stride, size_t n, const float *p,
                              size_t dim, float *acc)
{
    size_t c = 0;
    for (; c + 64 <= dim; c += 64)
        accumulate_columns(rows, half, stride, n, p, 4, c, acc);
    for (; c + 16 <= dim; c += 16)
        accumulate_columns(rows, half, stride, n, p, 1, c, acc);
    if (c == dim)
        return;
    v_f sum = v_load_part(acc + c, dim - c);
    for (size_t i = 0; i < n; i++)
        sum = v_add(sum, v_mul(v_set1(p[i]), row_load_part(rows, half, i * stride + c, dim - c)));
    v_store_part(acc + c, sum, dim - c);
}

static void accumulate_f32_v(const float *rows, size_t stride, size_t n, const float *p, size_t dim,
                             float *acc)
{
    accumulate_rows(rows, false, stride, n, p, dim, acc);
}

static void accumulate_f16_v(const uint16_t *rows, size_t stride, size_t n, const float *p, size_t dim,
                             float *acc)
{
    accumulate_rows(rows, true, stride, n, p, dim, acc);
}

/* ---- Softmax ---- */

static float max_f32_v(const float *x, size_t n)
{
    if (n < 16)
        return kvq_kernels_portable.max_f32(x, n);
    v_f max = v_load(x + n - 16); /* overlaps what the loop sees; a maximum does not mind */
    for (size_t i = 0; i + 16 <= n; i += 16)
        max = v_max(max, v_load(x + i));
    return v_largest(max) + 0.0f;
}

/* 2^x for x <= 100, as in kernels_portable.c, operation by operation. */
V_INLINE v_f exp2_of(v_f x)
{
    v_f clamped = v_max(x, v_set1(-126.0f)), n = v_round(clamped), r = v_sub(clamped, n);
    static const float coefficient[] = KVQ_EXP2_COEFFICIENTS;
    v_f p = v_set1(coefficient[0]);
    V_UNROLL(8)
    for (size_t i = 1; i < sizeof coefficient / sizeof coefficient[0]; i++)
        p = v_add(v_mul(p, r), v_set1(coefficient[i]));
    return v_mul(p, v_power_of_2(n, 126));
}

static float exp2_sum_f32_v(float *x, size_t n, float ref)
{
    const v_f shift = v_set1(ref);
    v_f sum = v_set1(0.0f);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v_f y = exp2_of(v_sub(v_load(x + i), shift));
        v_store(x + i, y);
        sum = v_add(sum, y);
    }
    if (i < n) {
        v_f y = exp2_of(v_sub(v_load_part(x + i, n - i), shift));
        v_store_part(x + i, y, n - i);
        sum = v_add(sum, v_load_part(x + i, n - i));
    }
    return v_sum(sum);
}

/* The slots of a table that this file fills. */
#define V_ROWS_KERNELS                                                                                       \
    .all_finite_f32 = all_finite_f32_v, .convert_f32_f16 = convert_f32_f16_v,                                \
    .convert_f16_f32 = convert_f16_f32_v, .dot_f32 = dot_f32_v, .dot_f16 = dot_f16_v,                        \
    .accumulate_f32 = accumulate_f32_v, .accumulate_f16 = accumulate_f16_v, .max_f32 = max_f32_v,            \
    .exp2_sum_f32 = exp2_sum_f32_v

#endif /* KVQ_QUANT_VECTOR_ROWS_H */
