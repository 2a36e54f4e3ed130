/*
 * Plain rows in vectors: of float, of half, and of int8 with a scale (row8.h): the operations of
 * kernels_portable.c and portable_rows8.c in their order, sixteen lanes at a time.
 *
 * Up to four queries share the conversion of a row to float. Scores: up to four rows share the loading of a
 * query, as far as registers hold the sums (V_FLOAT_SUMS). Adding up, four sums are in flight: of one query
 * and 64 columns, of two and 32, or of four and 16. (Sixteen took Zen 4 a tenth longer.)
 */
#ifndef KVQ_QUANT_VECTOR_ROWS_H
#define KVQ_QUANT_VECTOR_ROWS_H

#include "quant/kernels.h"
#include "quant/row8.h"
#include "quant/vector_complete.h"

/* ---- Conversion ---- */

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

/* ---- Rows ---- */

typedef enum row_type {
    ROW_F32,
    ROW_F16,
    ROW_I8,
} row_type;

enum { ROWS_IN_L1 = 1 << 14 }; /* bytes of rows, a half of what is usual */

/* Rows and what they meet: a call of a kernel. The type is a constant wherever this is inlined. */
typedef struct row_call {
    row_type type;
    const uint8_t *rows;
    size_t stride; /* in bytes */
    size_t n, dim;
    kvq_next next;
    size_t next_per_row;  /* bytes of it to prefetch with each row: whole cache lines */
    const float *factors; /* n_q queries, dim apart; or probabilities, KVQ_SUPERBLOCK apart */
    float *out;           /* scores, KVQ_SUPERBLOCK apart; or sums, dim apart */
} row_call;

V_INLINE size_t row_element(row_type type)
{
    return type == ROW_F32 ? sizeof(float) : type == ROW_F16 ? sizeof(uint16_t) : 1;
}

/* Elements [at, at + 16) of a row. */
V_INLINE v_f row_load(row_type type, const uint8_t *row, size_t at)
{
    if (type == ROW_I8)
        return row8_load(row + KVQ_ROW8_HEAD + at);
    return type == ROW_F16 ? v_load_half((const uint16_t *)(const void *)row + at)
                           : v_load((const float *)(const void *)row + at);
}

/* The first n < 16 of them. */
V_INLINE v_f row_load_part(row_type type, const uint8_t *row, size_t at, size_t n)
{
    if (type == ROW_I8)
        return row8_load_part(row + KVQ_ROW8_HEAD + at, n);
    return type == ROW_F16 ? v_load_half_part((const uint16_t *)(const void *)row + at, n)
                           : v_load_part((const float *)(const void *)row + at, n);
}

/* The part of what is next that goes with n rows from i on. */
V_INLINE void row_prefetch(const row_call *call, size_t i, size_t n)
{
    if (call->next_per_row == 0)
        return;
    const size_t begin = i * call->next_per_row, end = begin + n * call->next_per_row;
    for (size_t byte = begin; byte < end && byte < call->next.n_bytes; byte += 64)
        v_prefetch(call->next.bytes + byte);
}

/* x[i] * scale of row i, rows of int8, for n_q rows of x that are KVQ_SUPERBLOCK apart. */
V_INLINE void scale_by_rows(const row_call *call, size_t n_q, const float *x, float *out)
{
    const uint8_t *row = call->rows;
    size_t i = 0;
    for (uint16_t half[16]; i + 16 <= call->n; i += 16) {
        for (size_t j = 0; j < 16; j++, row += call->stride)
            half[j] = kvq_load_u16(row);
        for (size_t at = i; at < n_q * KVQ_SUPERBLOCK; at += KVQ_SUPERBLOCK)
            v_store(out + at, v_mul(v_load(x + at), v_load_half(half)));
    }
    for (; i < call->n; i++, row += call->stride) {
        const float scale = kvq_row8_scale(row);
        for (size_t at = i; at < n_q * KVQ_SUPERBLOCK; at += KVQ_SUPERBLOCK)
            out[at] = x[at] * scale;
    }
}

/* Add the products of the elements behind the last whole sixteen: lanes without one add 0 * 0, and no lane is
 * ever -0, so nothing changes there. */
V_INLINE void dot_tail(const row_call *call, size_t n_q, size_t n_rows, const uint8_t *rows,
                       v_f sum[V_FLOAT_SUMS])
{
    const size_t left = call->dim % 16, c = call->dim - left;
    V_UNROLL(4)
    for (size_t j = 0; j < n_rows; j++) {
        v_f row = row_load_part(call->type, rows + j * call->stride, c, left);
        V_UNROLL(4)
        for (size_t query = 0; query < n_q; query++)
            sum[query * n_rows + j] =
                v_add(sum[query * n_rows + j],
                      v_mul(v_load_part(call->factors + query * call->dim + c, left), row));
    }
}

/* Rows that n_q queries meet at a time. */
V_INLINE size_t rows_at_once(size_t n_q)
{
    return V_FLOAT_SUMS / n_q < 4 ? V_FLOAT_SUMS / n_q : 4;
}

/* The sums of n v_f, n up to a multiple of 4. */
V_INLINE void store_sums(const v_f *sum, size_t n, float *sums)
{
    if (V_FLOAT_SUMS == 16 && n == 16) {
        v_store_16_sums(sums, sum);
        return;
    }
    V_UNROLL(4)
    for (size_t i = 0; i < n; i += 4)
        v_store_sums(sums + i, sum[i], sum[i + 1], sum[i + 2], sum[i + 3]);
}

/* Scores of n_rows rows from i on by n_q queries. */
V_INLINE void dot_some(const row_call *call, size_t n_q, size_t n_rows, bool tail, size_t i)
{
    const uint8_t *rows = call->rows + i * call->stride;
    const size_t dim = call->dim;
    v_f sum[V_FLOAT_SUMS];
    row_prefetch(call, i, n_rows);
    V_UNROLL(16)
    for (size_t j = 0; j < V_FLOAT_SUMS; j++)
        sum[j] = v_set1(0.0f);
    for (size_t c = 0; c + 16 <= dim; c += 16) {
        V_UNROLL(4)
        for (size_t j = 0; j < n_rows; j++) {
            v_f row = row_load(call->type, rows + j * call->stride, c);
            V_UNROLL(4)
            for (size_t query = 0; query < n_q; query++)
                sum[query * n_rows + j] =
                    v_add(sum[query * n_rows + j], v_mul(v_load(call->factors + query * dim + c), row));
        }
    }
    if (tail)
        dot_tail(call, n_q, n_rows, rows, sum);
    float sums[V_FLOAT_SUMS];
    store_sums(sum, n_q * n_rows, sums);
    V_UNROLL(4)
    for (size_t query = 0; query < n_q; query++)
        memcpy(call->out + query * KVQ_SUPERBLOCK + i, sums + query * n_rows, n_rows * sizeof *sums);
}

V_INLINE void dot_each_row(const row_call *call, size_t n_q, bool tail)
{
    const size_t n_rows = rows_at_once(n_q);
    size_t i = 0;
    for (; i + n_rows <= call->n; i += n_rows)
        dot_some(call, n_q, n_rows, tail, i);
    for (; n_rows > 1 && i < call->n; i++)
        dot_some(call, n_q, 1, tail, i);
}

V_INLINE void dot_all_rows(row_call call, size_t n_q, bool tail)
{
    for (size_t left = n_q, now; left > 0; left -= now) {
        now = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (now == 4)
            dot_each_row(&call, 4, tail);
        else if (now == 2)
            dot_each_row(&call, 2, tail);
        else
            dot_each_row(&call, 1, tail);
        if (call.type == ROW_I8)
            scale_by_rows(&call, now, call.out, call.out);
        call.factors += now * call.dim;
        call.out += now * KVQ_SUPERBLOCK;
        call.next.n_bytes = 0; /* it is under way */
    }
}

/* Sums stay in registers only where no tail could ask for them in memory. */
V_INLINE void dot_rows(const row_call *call, size_t n_q)
{
    if (call->dim % 16 == 0)
        dot_all_rows(*call, n_q, false);
    else
        dot_all_rows(*call, n_q, true);
}

/* Columns [c, c + 16 n_v) of n_q sums in registers, rows in order: each column sees the additions of the
 * portable kernel. n_q * n_v <= 4. The last columns may be a part of 16. With
 * fetch, what is next is prefetched: a constant in the loops that matter, because asking in each row costs up
 * to a tenth. */
V_INLINE void accumulate_columns(const row_call *call, size_t n_q, size_t n_v, size_t c, size_t part,
                                 bool fetch)
{
    v_f sum[4];
    V_UNROLL(4)
    for (size_t j = 0; j < n_q * n_v; j++) {
        const float *from = call->out + j / n_v * call->dim + c + j % n_v * 16;
        sum[j] = part == 16 ? v_load(from) : v_load_part(from, part);
    }
    const uint8_t *row = call->rows;
    for (size_t i = 0; i < call->n; i++, row += call->stride) {
        if (fetch)
            row_prefetch(call, i, 1);
        v_f weight[4];
        V_UNROLL(4)
        for (size_t query = 0; query < n_q; query++)
            weight[query] = v_set1(call->factors[query * KVQ_SUPERBLOCK + i]);
        V_UNROLL(4)
        for (size_t j = 0; j < n_v; j++) {
            v_f x =
                part == 16 ? row_load(call->type, row, c + 16 * j) : row_load_part(call->type, row, c, part);
            V_UNROLL(4)
            for (size_t query = 0; query < n_q; query++)
                sum[query * n_v + j] = v_add(sum[query * n_v + j], v_mul(weight[query], x));
        }
    }
    V_UNROLL(4)
    for (size_t j = 0; j < n_q * n_v; j++) {
        float *to = call->out + j / n_v * call->dim + c + j % n_v * 16;
        if (part == 16)
            v_store(to, sum[j]);
        else
            v_store_part(to, sum[j], part);
    }
}

/* All columns of n_q sums. */
V_INLINE void accumulate_some(const row_call *call, size_t n_q)
{
    const size_t n_v = 4 / n_q;
    size_t c = 0;
    if (call->next.n_bytes > 0 && 16 * n_v <= call->dim) {
        accumulate_columns(call, n_q, n_v, c, 16, true);
        c += 16 * n_v;
    }
    for (; c + 16 * n_v <= call->dim; c += 16 * n_v)
        accumulate_columns(call, n_q, n_v, c, 16, false);
    for (; n_v > 1 && c + 16 <= call->dim; c += 16)
        accumulate_columns(call, n_q, 1, c, 16, c == 0);
    if (c < call->dim)
        accumulate_columns(call, n_q, 1, c, call->dim - c, c == 0);
}

V_INLINE void accumulate_block(row_call call, size_t n_q)
{
    float scaled[4 * KVQ_SUPERBLOCK]; /* filled as far as it is used */
    const float *weights = call.factors;
    for (size_t left = n_q, now; left > 0; left -= now) {
        now = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (call.type == ROW_I8) {
            scale_by_rows(&call, now, weights, scaled);
            call.factors = scaled;
        } else
            call.factors = weights;
        if (now == 4)
            accumulate_some(&call, 4);
        else if (now == 2)
            accumulate_some(&call, 2);
        else
            accumulate_some(&call, 1);
        weights += now * KVQ_SUPERBLOCK;
        call.out += now * call.dim;
        call.next.n_bytes = 0; /* it is under way */
    }
}

/* More than four queries, which rows meet at a time, go over so many of them at a time that these stay in a
 * first-level cache. (Scores gain nothing by it.) */
V_INLINE void accumulate_rows(row_call call, size_t n_q)
{
    const size_t in_l1 = ROWS_IN_L1 / (call.dim * row_element(call.type));
    const size_t at_once = n_q <= 4 ? call.n : in_l1 > 0 ? in_l1 : 1;
    for (size_t left = call.n; left > 0; left -= call.n) {
        call.n = left < at_once ? left : at_once;
        accumulate_block(call, n_q);
        const size_t asked = call.n * call.next_per_row;
        call.rows += call.n * call.stride;
        call.factors += call.n;
        call.next = asked < call.next.n_bytes ? (kvq_next){call.next.bytes + asked, call.next.n_bytes - asked}
                                              : (kvq_next){NULL, 0};
    }
}

V_INLINE row_call make_row_call(row_type type, const void *rows, size_t stride, size_t n, kvq_next next,
                                size_t dim, const float *factors, float *out)
{
    const uint32_t lines = (uint32_t)((next.n_bytes + 63) / 64), n_rows = (uint32_t)n;
    return (row_call){.type = type,
                      .rows = rows,
                      .stride = stride * row_element(type),
                      .n = n,
                      .dim = dim,
                      .next = next,
                      .next_per_row = n > 0 ? (size_t)((lines + n_rows - 1) / n_rows) * 64 : 0,
                      .factors = factors,
                      .out = out};
}

#define ROW_KERNELS(suffix, row, type)                                                                       \
    static void dot_##suffix##_v(const row *rows, size_t stride, size_t n, kvq_next next, const float *q,    \
                                 size_t n_q, size_t dim, float *scores)                                      \
    {                                                                                                        \
        const row_call call = make_row_call(type, rows, stride, n, next, dim, q, scores);                    \
        dot_rows(&call, n_q);                                                                                \
    }                                                                                                        \
    static void accumulate_##suffix##_v(const row *rows, size_t stride, size_t n, kvq_next next,             \
                                        const float *p, size_t n_q, size_t dim, float *acc)                  \
    {                                                                                                        \
        accumulate_rows(make_row_call(type, rows, stride, n, next, dim, p, acc), n_q);                       \
    }

ROW_KERNELS(f32, float, ROW_F32)
ROW_KERNELS(f16, uint16_t, ROW_F16)
ROW_KERNELS(i8, uint8_t, ROW_I8)

/* The slots of a table that this file fills. */
#define V_ROWS_KERNELS                                                                                       \
    .convert_f32_f16 = convert_f32_f16_v, .convert_f16_f32 = convert_f16_f32_v,                              \
    .convert_f32_i8 = convert_f32_i8_v, .convert_i8_f32 = convert_i8_f32_v, .dot_f32 = dot_f32_v,            \
    .dot_f16 = dot_f16_v, .dot_i8 = dot_i8_v, .accumulate_f32 = accumulate_f32_v,                            \
    .accumulate_f16 = accumulate_f16_v, .accumulate_i8 = accumulate_i8_v

#endif /* KVQ_QUANT_VECTOR_ROWS_H */
