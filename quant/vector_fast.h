/*
 * Fast precision (portable_fast.c) in vectors.
 *
 * A dword of a plane of `width` bits holds 32 / width values of one reduction, four to each place within its
 * bytes (layout.h). Four values in one place are a quad: what one lane of a dot-product instruction takes.
 * The loops go by k-steps of 16 values of the reduction (32 for one bit), because 16 folded numbers lie
 * together. A row is dwords side by side, one per lane:
 *
 *   width            1             2             4             8
 *   rows per k-step  1 of 8 quads  1 of 4        2 of 2        4 of 1
 *
 * One query (one_query): quads are masked but not shifted into place; each of the four quads has accumulators
 * of its own, which are shifted once at the end. That saves an instruction per quad. Several queries
 * (multi_query): quads are shifted into place once for all of them, and a query needs only one pair.
 *
 * Where v_dot takes codes below 16 only (V_NIBBLES), what lies above is shifted down by 4 first, and bytes go
 * in two halves.
 */
#ifndef KVQ_QUANT_VECTOR_FAST_H
#define KVQ_QUANT_VECTOR_FAST_H

#include <math.h>

#include "quant/kernels.h"
#include "quant/vector_complete.h"
#include "quant/vector_tables.h"

/* ---- Folding ---- */

/* Always inlined: gcc 12 takes a function that only prefetches for one without effect and drops its calls. */
V_INLINE void v_prefetch_range(const uint8_t *from, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i += 64)
        v_prefetch(from + i);
}

/* A query's sixteen elements from c on; 0 past D. */
V_INLINE v_f query_load(const float *q, size_t c, size_t dim)
{
    return c + 16 <= dim ? v_load(q + c) : v_load_part(q + c, c < dim ? dim - c : 0);
}

/* Scales of one meta_tile of keys; the minimums follow n_meta further on. */
V_INLINE const uint16_t *meta_tile_scales(const kvq_layout *l, const uint8_t *superblock, size_t meta_tile)
{
    return (const uint16_t *)(const void *)(superblock + meta_tile * l->meta_tile_bytes + l->meta_offset);
}

/* max over channels and meta_tiles of |q * scale|: rounding keeps order, so the largest scale of each channel
 * is enough, and scales, being halves that are not negative, compare as whole numbers. */
V_INLINE float largest_folded(const kvq_layout *l, const uint8_t *superblock, size_t n_meta_tiles,
                              const float *q, float *largest_q)
{
    v_f largest = v_set1(0.0f), plain = v_set1(0.0f);
    for (size_t c = 0; c < l->dim_padded; c += 16) {
        v_h scale = v_h_load(meta_tile_scales(l, superblock, 0) + c);
        for (size_t meta_tile = 1; meta_tile < n_meta_tiles; meta_tile++)
            scale = v_h_max(scale, v_h_load(meta_tile_scales(l, superblock, meta_tile) + c));
        v_f query = query_load(q, c, l->dim);
        plain = v_max(plain, v_abs(query));
        largest = v_max(largest, v_abs(v_mul(query, v_h_to_f(scale))));
    }
    *largest_q = v_largest(plain);
    return v_largest(largest);
}

/* Fold n_q queries, a constant, into n_meta_tiles meta_tiles; the call has all_q. */
V_INLINE void fold_keys_of(size_t n_q, const kvq_layout *l, const uint8_t *superblock, const uint8_t *next,
                           size_t n_meta_tiles, const float *q, size_t all_q, int8_t *q_folded, float *step,
                           float *bias)
{
    enum { META_TILES = KVQ_SUPERBLOCK / KVQ_BLOCK };
    _Alignas(KVQ_ALIGNMENT) float scaled[V_QUERIES * KVQ_DIM_MAX], plain[V_QUERIES * KVQ_DIM_MAX];
    const size_t fold_dim = kvq_fold_dim(l->dim);
    const float half_levels = kvq_half_levels(l);
    v_f total[V_QUERIES][META_TILES];
    for (size_t i = 0; i < n_q; i++) {
        float largest_q, largest = largest_folded(l, superblock, n_meta_tiles, q + i * l->dim, &largest_q);
        float per_unit = kvq_fold_per_unit(largest, &step[i]);
        if (largest_q * per_unit > KVQ_FOLD_MAX) { /* and scale 0: the product must stay 0 */
            per_unit = 0.0f;
            step[i] = INFINITY;
        }
        for (size_t c = 0; c < fold_dim; c += 16) {
            v_f query = query_load(q + i * l->dim, c, l->dim);
            v_store(plain + i * KVQ_DIM_MAX + c, query);
            v_store(scaled + i * KVQ_DIM_MAX + c, v_mul(query, v_set1(per_unit)));
        }
    }
    for (size_t meta_tile = 0; meta_tile < n_meta_tiles; meta_tile++) {
        const uint16_t *scales = meta_tile_scales(l, superblock, meta_tile), *mins = scales + l->n_meta;
        int8_t *to = q_folded + meta_tile * all_q * 2 * fold_dim;
        v_f sum[V_QUERIES], rest[V_QUERIES];
        for (size_t i = 0; i < n_q; i++)
            sum[i] = rest[i] = v_set1(0.0f);
        if (next != NULL)
            v_prefetch_range(next + ((const uint8_t *)scales - superblock), 4 * l->n_meta);
        for (size_t c = 0; c < fold_dim; c += 32) {
            bool second = c + 16 < l->dim_padded; /* the meta_tile has no scales beyond */
            v_f scale_a = v_load_half(scales + c), min_a = v_load_half(mins + c);
            v_f scale_b = second ? v_load_half(scales + c + 16) : v_set1(0.0f);
            v_f min_b = second ? v_load_half(mins + c + 16) : v_set1(0.0f);
            V_UNROLL(4)
            for (size_t i = 0; i < n_q; i++) {
                const float *x = scaled + i * KVQ_DIM_MAX + c, *y = plain + i * KVQ_DIM_MAX + c;
                v_f a = v_mul(v_load(x), scale_a), b = v_mul(v_load(x + 16), scale_b);
                v_store_folded(to + i * 2 * fold_dim + 2 * c, a, b);
                rest[i] = v_add(v_add(rest[i], v_sub(a, v_round(a))), v_sub(b, v_round(b)));
                sum[i] = v_add(sum[i], v_mul(v_load(y), min_a));
                sum[i] = v_add(sum[i], v_mul(v_load(y + 16), min_b));
            }
        }
        for (size_t i = 0; i < n_q; i++)
            total[i][meta_tile] = v_add(sum[i], v_mul(v_set1(step[i] * half_levels), rest[i]));
    }
    for (size_t i = 0; i < n_q; i++) {
        float four[META_TILES];
        for (size_t meta_tile = n_meta_tiles; meta_tile < META_TILES; meta_tile++)
            total[i][meta_tile] = v_set1(0.0f);
        v_store_sums(four, total[i][0], total[i][1], total[i][2], total[i][3]);
        for (size_t meta_tile = 0; meta_tile < n_meta_tiles; meta_tile++)
            bias[meta_tile * all_q + i] = four[meta_tile];
    }
}

static void fold_keys_v(const kvq_layout *l, const uint8_t *superblock, const uint8_t *next, size_t n,
                        const float *q, size_t n_q, int8_t *folded, float *step, float *bias)
{
    size_t n_meta_tiles = 0;
    for (size_t t = 0; t < n; t += l->meta_tile_tokens)
        n_meta_tiles++;
    for (size_t i = 0, k; i < n_q && n > 0; i += k) {
        k = v_queries_of(n_q - i);
        const uint8_t *ahead = i == 0 ? next : NULL;
        const float *from = q + i * l->dim;
        int8_t *to = folded + i * 2 * kvq_fold_dim(l->dim);
        if (k == 4)
            fold_keys_of(4, l, superblock, ahead, n_meta_tiles, from, n_q, to, step + i, bias + i);
        else if (k == 2)
            fold_keys_of(2, l, superblock, ahead, n_meta_tiles, from, n_q, to, step + i, bias + i);
        else
            fold_keys_of(1, l, superblock, ahead, n_meta_tiles, from, n_q, to, step + i, bias + i);
    }
}

/* Store 32 folded numbers made of what rounding takes from x and y, in finer steps; adds that to *sum. */
V_INLINE void store_rests(int8_t *p, v_f x, v_f y, v_f *sum)
{
    v_f a = v_sub(x, v_round(x)), b = v_sub(y, v_round(y)), finer = v_set1(KVQ_REST_SCALE);
    v_store_folded(p, v_mul(a, finer), v_mul(b, finer));
    *sum = v_add(v_add(*sum, a), b);
}

static void fold_keys_rest_v(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *q,
                             float step, int8_t *q_rest, float *bias)
{
    const size_t fold_dim = kvq_fold_dim(l->dim);
    size_t n_meta_tiles = (n + l->meta_tile_tokens - 1) / l->meta_tile_tokens;
    if (n == 0)
        return;
    float largest_q, same_step;
    v_f per_unit =
        v_set1(kvq_fold_per_unit(largest_folded(l, superblock, n_meta_tiles, q, &largest_q), &same_step));
    for (size_t meta_tile = 0; meta_tile < n_meta_tiles; meta_tile++, q_rest += 2 * fold_dim) {
        const uint16_t *scales = meta_tile_scales(l, superblock, meta_tile);
        v_f rest = v_set1(0.0f);
        for (size_t c = 0; c < fold_dim; c += 32) {
            bool second = c + 16 < l->dim_padded; /* the meta_tile has no scales beyond */
            v_f scale_b = second ? v_load_half(scales + c + 16) : v_set1(0.0f);
            v_f a = v_mul(v_mul(query_load(q, c, l->dim), per_unit), v_load_half(scales + c));
            v_f b = v_mul(v_mul(query_load(q, c + 16, l->dim), per_unit), scale_b);
            store_rests(q_rest + 2 * c, a, b, &rest);
        }
        *bias++ = v_sum(v_mul(v_set1(-(step * kvq_half_levels(l))), rest));
    }
}

static void fold_values_rest_v(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *p,
                               const float *step, int8_t *p_rest, float *bias)
{
    const uint16_t *scales = (const uint16_t *)(const void *)(superblock + l->meta_offset);
    for (size_t u = 0; u < l->n_meta / KVQ_SUPERBLOCK; u++, scales += KVQ_SUPERBLOCK) {
        _Alignas(KVQ_ALIGNMENT) float x[KVQ_SUPERBLOCK];
        v_f largest = v_set1(0.0f), rest = v_set1(0.0f);
        for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16) {
            v_f product = v_mul(query_load(p, t, n), v_load_half(scales + t));
            largest = v_max(largest, product);
            v_store(x + t, product);
        }
        float same_step;
        v_f factor = v_set1(kvq_fold_per_unit(v_largest(largest), &same_step));
        for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 32, p_rest += 64) {
            v_f a = v_mul(v_load(x + t), factor), b = v_mul(v_load(x + t + 16), factor);
            store_rests(p_rest, a, b, &rest);
        }
        *bias++ = v_sum(v_mul(v_set1(-(*step++ * kvq_half_levels(l))), rest));
    }
}

/* One row of p against the scales and minimums of one group: products with the scales, and sums by lane. */
V_INLINE v_f weigh_group(const uint16_t *scales, const uint16_t *mins, v_f half_levels, size_t n,
                         const float *p, float *x, v_f *of_mins, v_f *of_squares)
{
    v_f largest = v_set1(0.0f), sum = v_set1(0.0f), square = v_set1(0.0f);
    V_UNROLL(8)
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16) {
        v_f p_t = query_load(p, t, n), product = v_mul(p_t, v_load_half(scales + t));
        v_f of_min = v_mul(p_t, v_load_half(mins + t));
        v_f half = v_mul(half_levels, product), middle = v_add(of_min, half);
        sum = v_add(sum, of_min);
        largest = v_max(largest, product);
        square = v_add(square, v_add(v_mul(middle, middle), v_mul(v_set1(0.25f), v_mul(half, half))));
        v_store(x + t, product);
    }
    *of_mins = sum;
    *of_squares = square;
    return largest;
}

/* Weights of 128 products; returns what rounding took, by lane. */
V_INLINE v_f store_folded(const float *x, float per_unit, int8_t *folded)
{
    v_f factor = v_set1(per_unit), rest = v_set1(0.0f);
    V_UNROLL(4)
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 32) {
        v_f a = v_mul(v_load(x + t), factor), b = v_mul(v_load(x + t + 16), factor);
        v_store_folded(folded + 2 * t, a, b);
        rest = v_add(v_add(rest, v_sub(a, v_round(a))), v_sub(b, v_round(b)));
    }
    return rest;
}

/* In batches, so that the way from products over their largest to the factor is waited for once. */
static void fold_values_v(const kvq_layout *l, const uint8_t *superblock, const uint8_t *next, size_t n,
                          const float *p, size_t n_q, int8_t *folded, float *step, float *bias, float *energy)
{
    enum { BATCH = 8 };
    _Alignas(KVQ_ALIGNMENT) float x[BATCH][KVQ_SUPERBLOCK];
    v_f sum[BATCH + 1], square[BATCH + 1];
    float per_unit[BATCH];
    const float half_levels = kvq_half_levels(l);
    const uint16_t *scales = (const uint16_t *)(const void *)(superblock + l->meta_offset);
    if (next != NULL)
        v_prefetch_range(next + l->meta_offset, 4 * l->n_meta);
    size_t n_folds = l->n_meta / KVQ_SUPERBLOCK * n_q, row = 0;
    for (size_t done = 0, batch; done < n_folds; done += batch) {
        batch = n_folds - done < BATCH ? n_folds - done : BATCH;
        for (size_t i = 0; i < batch; i++) {
            const float *from = p + row * KVQ_SUPERBLOCK;
            v_f largest = n == KVQ_SUPERBLOCK ? weigh_group(scales, scales + l->n_meta, v_set1(half_levels),
                                                            KVQ_SUPERBLOCK, from, x[i], &sum[i], &square[i])
                                              : weigh_group(scales, scales + l->n_meta, v_set1(half_levels),
                                                            n, from, x[i], &sum[i], &square[i]);
            per_unit[i] = kvq_fold_per_unit(v_largest(largest), &step[done + i]);
            row = row + 1 == n_q ? 0 : row + 1;
            scales += row == 0 ? KVQ_SUPERBLOCK : 0;
        }
        for (size_t i = 0; i < batch; i++, folded += 2 * KVQ_SUPERBLOCK) {
            v_f rest = store_folded(x[i], per_unit[i], folded);
            sum[i] = v_add(sum[i], v_mul(v_set1(step[done + i] * half_levels), rest));
        }
        sum[batch] = square[batch] = v_set1(0.0f); /* makes an odd batch even */
        for (size_t i = 0; i < batch; i += 2) {
            float four[4];
            v_store_sums(four, sum[i], sum[i + 1], square[i], square[i + 1]);
            memcpy(bias + done + i, four, (i + 1 < batch ? 2 : 1) * sizeof *bias);
            memcpy(energy + done + i, four + 2, (i + 1 < batch ? 2 : 1) * sizeof *energy);
        }
    }
}

/* ---- Dot products. `width`, `n_q`, `n_regs` are constants wherever these are inlined. ---- */

V_INLINE uint32_t k_step_rows(uint32_t width)
{
    return width < 4 ? 1 : width / 2;
}

V_INLINE uint32_t k_step_quads(uint32_t width)
{
    return width == 1 ? 8 : 4;
}

V_INLINE size_t n_k_steps(uint32_t width, size_t n)
{
    size_t k_step = 4 * k_step_quads(width);
    return (n + k_step - 1) / k_step;
}

/* For one query, the sums that the quads of a k-step go to in turn. */
V_INLINE uint32_t n_accumulators(uint32_t width, bool multi_query)
{
    return multi_query ? 1 : width == 1 ? 4 : V_ACCUMULATORS;
}

/* Bits by which the codes of a quad stand too high, the same for all that go to one place. */
V_INLINE uint32_t code_shift(uint32_t width, uint32_t quad, bool multi_query)
{
    if (multi_query || width == 8 || (width == 4 && V_NIBBLES))
        return 0;
    return width == 1 ? quad % 4 : width * (quad % 2);
}

/* The codes of a quad of the k_step that starts at `row`. */
V_INLINE v_d quad_codes(uint32_t width, const uint8_t *row, size_t row_stride, uint32_t quad, uint32_t half,
                        bool multi_query)
{
    uint32_t up = code_shift(width, quad, multi_query);
    if (width == 8)
        return V_NIBBLES ? v_d_and(v_d_shift_bytes(v_d_load(row + quad * row_stride), 4 * half), 15)
                         : v_d_load(row + quad * row_stride);
    uint32_t place = width == 4 ? 4 * (quad % 2) : width * quad; /* of the quad, in bits */
    uint32_t down = place - up;
    return v_d_and(v_d_shift_bytes(v_d_load(row + (width == 4 ? quad / 2 * row_stride : 0)), down),
                   ((1u << width) - 1u) << up);
}

/*
 * low[i * n_regs + r] = sum over values of code * low byte of the folded number of query i, for the lanes of
 * register r, and high likewise. Registers lie reg_stride bytes apart, rows row_stride, queries'
 * folded numbers folded_stride.
 */
V_INLINE void dot_strip(uint32_t width, uint32_t n_q, uint32_t n_regs, const uint8_t *codes,
                        size_t row_stride, size_t reg_stride, const int8_t *folded, size_t folded_stride,
                        size_t k_steps, v_d *low, v_d *high)
{
    const bool multi_query = n_q > 1;
    const uint32_t accumulators = n_accumulators(width, multi_query),
                   n_halves = width == 8 && V_NIBBLES ? 2 : 1;
    const size_t max_k_steps = v_max_k_steps(width, multi_query);
    for (uint32_t i = 0; i < n_q * n_regs; i++)
        low[i] = high[i] = v_d_zero();
    for (size_t first = 0; first < k_steps; first += max_k_steps) {
        size_t last = k_steps - first < max_k_steps ? k_steps : first + max_k_steps;
        for (uint32_t half = 0; half < n_halves; half++) {
            v_acc sum_low[V_QUERIES * V_STRIP], sum_high[V_QUERIES * V_STRIP];
            V_UNROLL(8)
            for (uint32_t i = 0; i < n_q * n_regs * accumulators; i++)
                sum_low[i] = sum_high[i] = v_d_zero();
            V_UNROLL(4)
            for (size_t s = first; s < last; s++) {
                const uint8_t *row = codes + s * k_step_rows(width) * row_stride;
                V_UNROLL(8)
                for (uint32_t quad = 0; quad < k_step_quads(width); quad++) {
                    v_d code[V_STRIP];
                    V_UNROLL(2)
                    for (uint32_t r = 0; r < n_regs; r++)
                        code[r] =
                            quad_codes(width, row + r * reg_stride, row_stride, quad, half, multi_query);
                    V_UNROLL(4)
                    for (uint32_t i = 0; i < n_q; i++) {
                        const int8_t *w = folded + i * folded_stride + 8 * k_step_quads(width) * s +
                                          quad / 4 * 32 + quad % 4 * 4;
                        v_d w_low = v_d_four_folded(w), w_high = v_d_four_folded(w + 16);
                        V_UNROLL(2)
                        for (uint32_t r = 0; r < n_regs; r++) {
                            uint32_t at = (i * n_regs + r) * accumulators + quad % accumulators;
                            sum_low[at] = v_dot(sum_low[at], code[r], w_low);
                            sum_high[at] = v_dot(sum_high[at], code[r], w_high);
                        }
                    }
                }
            }
            V_UNROLL(8)
            for (uint32_t i = 0; i < n_q * n_regs * accumulators; i++) {
                uint32_t up = code_shift(width, i % accumulators, multi_query), at = i / accumulators;
                v_d l = v_d_shift_left(v_d_shift_right(v_widen(sum_low[i]), up), 4 * half);
                v_d h = v_d_shift_left(v_d_shift_right(v_widen(sum_high[i]), up), 4 * half);
                low[at] = v_d_add(low[at], l);
                high[at] = v_d_add(high[at], h);
            }
        }
    }
}

V_INLINE v_df scaled_sum(v_d low, v_d high, float step)
{
    v_df sum = v_df_add(v_df_of(low), v_df_mul(v_df_set1(256.0f), v_df_of(high)));
    return v_df_mul(v_df_set1(step), sum);
}

/* One plane of a superblock against n_q of a call's rows. */
typedef struct fold_call {
    const kvq_layout *l;
    const kvq_plane *plane;
    const uint8_t *superblock, *next;
    size_t n;
    const int8_t *folded;
    const float *step, *bias;
    size_t rows; /* of the call: the folded numbers, steps and biases of a meta_tile or group */
    float *out;  /* of the first row */
} fold_call;

V_INLINE void score_plane(uint32_t width, uint32_t n_q, const fold_call *call)
{
    const kvq_layout *l = call->l;
    const size_t row_bytes = 4 * KVQ_BLOCK, folded_stride = 2 * kvq_fold_dim(l->dim);
    const size_t k_steps = n_k_steps(width, l->dim_padded);
    const float factor = (float)(1u << call->plane->shift);
    const bool starts = call->plane->shift == 0 && call->bias != NULL;
    for (size_t t = 0; t < call->n; t += KVQ_BLOCK) {
        size_t meta_tile = t / l->meta_tile_tokens;
        size_t offset = meta_tile * l->meta_tile_bytes +
                        t % l->meta_tile_tokens / KVQ_BLOCK * l->block_bytes + call->plane->offset;
        const uint8_t *codes = call->superblock + offset;
        const int8_t *folded = call->folded + meta_tile * call->rows * folded_stride;
        if (call->next != NULL)
            v_prefetch_range(call->next + offset, k_steps * k_step_rows(width) * row_bytes);
        for (size_t lane = 0; lane < KVQ_BLOCK; lane += V_STRIP * V_DWORDS) {
            v_d low[V_QUERIES * V_STRIP], high[V_QUERIES * V_STRIP];
            dot_strip(width, n_q, V_STRIP, codes + 4 * lane, row_bytes, 4 * V_DWORDS, folded, folded_stride,
                      k_steps, low, high);
            V_UNROLL(4)
            for (uint32_t i = 0; i < n_q; i++) {
                float step = call->step[i] * factor,
                      bias = starts ? call->bias[meta_tile * call->rows + i] : 0.0f;
                float *out = call->out + i * KVQ_SUPERBLOCK + t + lane;
                V_UNROLL(2)
                for (uint32_t r = 0; r < V_STRIP; r++) {
                    v_df before = starts ? v_df_set1(bias) : v_df_load(out + r * V_DWORDS);
                    v_df sum = scaled_sum(low[i * V_STRIP + r], high[i * V_STRIP + r], step);
                    v_df_store(out + r * V_DWORDS, v_df_add(before, sum));
                }
            }
        }
    }
}

/* n_regs registers, the first at channel c and lane `lane` of its sixteen, the others reg_stride further
 * on. */
V_INLINE void accumulate_strip(uint32_t width, uint32_t n_q, uint32_t n_regs, size_t reg_stride,
                               const fold_call *call, size_t c, size_t lane)
{
    const kvq_layout *l = call->l;
    size_t group = c / l->group, folded_stride = 2 * KVQ_SUPERBLOCK;
    const uint8_t *codes = call->superblock + call->plane->offset + c * 16 * width + 4 * lane;
    v_d low[V_QUERIES * V_STRIP], high[V_QUERIES * V_STRIP];
    dot_strip(width, n_q, n_regs, codes, 64, reg_stride, call->folded + group * call->rows * folded_stride,
              folded_stride, n_k_steps(width, call->n), low, high);
    V_UNROLL(4)
    for (uint32_t i = 0; i < n_q; i++) {
        float step = call->step[group * call->rows + i] * (float)(1u << call->plane->shift);
        v_df bias = v_df_set1(call->bias[group * call->rows + i]);
        V_UNROLL(2)
        for (uint32_t r = 0; r < n_regs; r++) {
            size_t channel = c + lane + r * V_DWORDS;
            v_df x = scaled_sum(low[i * n_regs + r], high[i * n_regs + r], step);
            if (call->plane->shift == 0)
                x = v_df_add(x, bias);
            float *out = call->out + i * l->dim + channel;
            if (channel + V_DWORDS <= l->dim) {
                v_df_store(out, v_df_add(v_df_load(out), x));
                continue;
            }
            float lanes[V_DWORDS];
            v_df_store(lanes, x);
            for (size_t j = 0; channel + j < l->dim; j++)
                out[j] += lanes[j];
        }
    }
}

V_INLINE void accumulate_plane(uint32_t width, uint32_t n_q, const fold_call *call)
{
    const kvq_layout *l = call->l;
    const size_t row_bytes = 256 * width; /* of the codes of sixteen channels */
    for (size_t c = 0; c < l->dim_padded;) {
        size_t n_rows =
            V_STRIP * V_DWORDS > 16 && c + 16 < l->dim_padded && c / l->group == (c + 16) / l->group ? 2 : 1;
        if (call->next != NULL)
            v_prefetch_range(call->next + call->plane->offset + c * 16 * width, n_rows * row_bytes);
        if (n_rows == 2)
            accumulate_strip(width, n_q, V_STRIP, row_bytes, call, c, 0);
        else if (V_STRIP * V_DWORDS > 16)
            accumulate_strip(width, n_q, 1, 0, call, c, 0);
        else
            for (size_t lane = 0; lane < 16; lane += V_STRIP * V_DWORDS)
                accumulate_strip(width, n_q, V_STRIP, 4 * V_DWORDS, call, c, lane);
        c += 16 * n_rows;
    }
}

V_TABLE(score_plane, fold_call)
V_TABLE(accumulate_plane, fold_call)

/* Run a table over all rows, four, two or one at a time, and over all planes. */
V_INLINE void run_folded(void (*const table[4][3])(const fold_call *), fold_call *call, size_t folded_stride,
                         size_t out_stride)
{
    for (size_t left = call->rows; left > 0;) {
        size_t n_q = v_queries_of(left);
        for (size_t i = 0; i < call->l->n_planes; i++) {
            call->plane = &call->l->plane[i];
            table[v_width_index(call->plane->width)][v_queries_index(n_q)](call);
        }
        call->folded += n_q * folded_stride;
        call->step += n_q;
        call->bias += call->bias != NULL ? n_q : 0;
        call->out += n_q * out_stride;
        call->next = NULL; /* it is under way */
        left -= n_q;
    }
}

static void score_folded_v(const kvq_layout *l, const uint8_t *superblock, const uint8_t *next, size_t n,
                           const int8_t *q_folded, const float *step, const float *bias, size_t n_q,
                           float *scores)
{
    fold_call call = {l, NULL, superblock, next, n, q_folded, step, bias, n_q, scores};
    run_folded(score_plane_table, &call, 2 * kvq_fold_dim(l->dim), KVQ_SUPERBLOCK);
}

static void accumulate_folded_v(const kvq_layout *l, const uint8_t *superblock, const uint8_t *next, size_t n,
                                const int8_t *p_folded, const float *step, const float *bias, size_t n_q,
                                float *acc)
{
    fold_call call = {l, NULL, superblock, next, n, p_folded, step, bias, n_q, acc};
    if (n > 0)
        run_folded(accumulate_plane_table, &call, 2 * KVQ_SUPERBLOCK, l->dim);
}

/* The slots of a table that this file fills. */
#define V_FAST_KERNELS                                                                                       \
    .fold_keys = fold_keys_v, .fold_keys_rest = fold_keys_rest_v, .score_folded = score_folded_v,            \
    .fold_values = fold_values_v, .fold_values_rest = fold_values_rest_v,                                    \
    .accumulate_folded = accumulate_folded_v

#endif /* KVQ_QUANT_VECTOR_FAST_H */
