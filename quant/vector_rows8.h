/*
 * Rows of int8 in vectors. All EXACT: the operations of portable_rows8.c in its order, sixteen lanes at a
 * time.
 */
#ifndef KVQ_QUANT_VECTOR_ROWS8_H
#define KVQ_QUANT_VECTOR_ROWS8_H

#include "quant/kernels.h"
#include "quant/row8.h"
#include "quant/vector_complete.h"

/* The first n < 16 codes only; other lanes are 0. */
V_INLINE v_f row8_load_part(const uint8_t *codes, size_t n)
{
    int8_t sixteen[16] = {0};
    memcpy(sixteen, codes, n);
    return v_load_i8(sixteen);
}

V_INLINE v_f row8_load(const uint8_t *codes)
{
    return v_load_i8((const int8_t *)codes);
}

V_INLINE v_f row8_code(v_f x, v_f scale)
{
    const v_f largest = v_set1((float)KVQ_ROW8_LARGEST), smallest = v_set1(-(float)KVQ_ROW8_LARGEST);
    return v_round(v_max(v_min(v_div(x, scale), largest), smallest));
}

static void convert_f32_i8_v(const float *x, size_t n, uint8_t *row)
{
    v_f max = v_set1(0.0f);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        max = v_max(max, v_abs(v_load(x + i)));
    if (i < n)
        max = v_max(max, v_abs(v_load_part(x + i, n - i)));
    uint16_t half = kvq_f16_from_f32_saturating(v_largest(max) / (float)KVQ_ROW8_LARGEST);
    uint8_t *codes = row + KVQ_ROW8_HEAD;
    kvq_store_u16(row, half);
    if (half == 0) {
        memset(codes, 0, n);
        return;
    }
    v_f scale = v_set1(kvq_f32_from_f16(half));
    for (i = 0; i + 16 <= n; i += 16)
        v_store_i8((int8_t *)codes + i, row8_code(v_load(x + i), scale));
    if (i < n) {
        int8_t sixteen[16];
        v_store_i8(sixteen, row8_code(v_load_part(x + i, n - i), scale));
        memcpy(codes + i, sixteen, n - i);
    }
}

static void convert_i8_f32_v(const uint8_t *row, size_t n, float *out)
{
    v_f scale = v_set1(kvq_row8_scale(row));
    const uint8_t *codes = row + KVQ_ROW8_HEAD;
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(out + i, v_mul(row8_load(codes + i), scale));
    if (i < n)
        v_store_part(out + i, v_mul(row8_load_part(codes + i, n - i), scale), n - i);
}

/* The sums of n_rows rows (a constant, at most 4), before the sum over lanes. */
V_INLINE void dot_i8_lanes(const uint8_t *rows, size_t stride, size_t n_rows, const float *q, size_t dim,
                           v_f sum[4])
{
    const uint8_t *codes = rows + KVQ_ROW8_HEAD;
    size_t c = 0;
    for (size_t j = 0; j < n_rows; j++)
        sum[j] = v_set1(0.0f);
    for (; c + 16 <= dim; c += 16) {
        v_f query = v_load(q + c);
        V_UNROLL(4)
        for (size_t j = 0; j < n_rows; j++)
            sum[j] = v_add(sum[j], v_mul(query, row8_load(codes + j * stride + c)));
    }
    if (c < dim) { /* the other lanes add 0 * 0: no lane is ever -0, so nothing changes */
        v_f query = v_load_part(q + c, dim - c);
        for (size_t j = 0; j < n_rows; j++)
            sum[j] = v_add(sum[j], v_mul(query, row8_load_part(codes + j * stride + c, dim - c)));
    }
}

static void dot_i8_v(const uint8_t *rows, size_t stride, size_t n, const float *q, size_t dim, float *scores)
{
    v_f sum[4];
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        dot_i8_lanes(rows + i * stride, stride, 4, q, dim, sum);
        v_store_sums(scores + i, sum[0], sum[1], sum[2], sum[3]);
        for (size_t j = i; j < i + 4; j++)
            scores[j] *= kvq_row8_scale(rows + j * stride);
    }
    for (; i < n; i++) {
        dot_i8_lanes(rows + i * stride, stride, 1, q, dim, sum);
        scores[i] = kvq_row8_scale(rows + i * stride) * v_sum(sum[0]);
    }
}

/* Columns in registers, rows in order: each column sees the additions of the portable kernel. */
V_INLINE void accumulate_i8_columns(const uint8_t *rows, size_t stride, size_t n, const float *p, size_t n_v,
                                    size_t c, float *acc)
{
    v_f sum[4];
    for (size_t j = 0; j < n_v; j++)
        sum[j] = v_load(acc + c + 16 * j);
    for (size_t i = 0; i < n; i++, rows += stride) {
        v_f weight = v_set1(p[i] * kvq_row8_scale(rows));
        V_UNROLL(4)
        for (size_t j = 0; j < n_v; j++)
            sum[j] = v_add(sum[j], v_mul(weight, row8_load(rows + KVQ_ROW8_HEAD + c + 16 * j)));
    }
    for (size_t j = 0; j < n_v; j++)
        v_store(acc + c + 16 * j, sum[j]);
}

static void accumulate_i8_v(const uint8_t *rows, size_t stride, size_t n, const float *p, size_t dim,
                            float *acc)
{
    size_t c = 0;
    for (; c + 64 <= dim; c += 64)
        accumulate_i8_columns(rows, stride, n, p, 4, c, acc);
    for (; c + 16 <= dim; c += 16)
        accumulate_i8_columns(rows, stride, n, p, 1, c, acc);
    if (c == dim)
        return;
    v_f sum = v_load_part(acc + c, dim - c);
    for (size_t i = 0; i < n; i++, rows += stride)
        sum = v_add(sum, v_mul(v_set1(p[i] * kvq_row8_scale(rows)),
                               row8_load_part(rows + KVQ_ROW8_HEAD + c, dim - c)));
    v_store_part(acc + c, sum, dim - c);
}

/* The slots of a table that this file fills. */
#define V_ROWS8_KERNELS                                                                                      \
    .convert_f32_i8 = convert_f32_i8_v, .convert_i8_f32 = convert_i8_f32_v, .dot_i8 = dot_i8_v,              \
    .accumulate_i8 = accumulate_i8_v

#endif /* KVQ_QUANT_VECTOR_ROWS8_H */
