/*
 * Template of the kernels that codec_tier.c and codec_rot.c attend with, for vectors and, with lanes.h, for
 * the portable table too: one source, so the same bits.
 */
#ifndef KVQ_QUANT_VECTOR_TIER_H
#define KVQ_QUANT_VECTOR_TIER_H

#include "quant/kernels.h"
#include "quant/logstep.h"

#ifndef V_PLAIN_LANES
#include "quant/vector_complete.h"
#endif
#include "quant/vector_part.h"

/* ---- Folding a row ---- */

/* Fold a row, and if `wide` the rest of it to folded_rest; returns what rounding took, by lanes. */
V_INLINE v_f fold_lanes(const float *x, size_t n, float per_unit, bool wide, int8_t *folded,
                        int8_t *folded_rest)
{
    const v_f factor = v_set1(per_unit), finer = v_set1(KVQ_REST_SCALE);
    v_f rest = v_set1(0.0f);
    for (size_t i = 0; i < n; i += 32) {
        v_f a = v_mul(row_part(x, n, i), factor), b = v_mul(row_part(x, n, i + 16), factor);
        v_store_folded(folded + 2 * i, a, b);
        a = v_sub(a, v_round(a));
        b = v_sub(b, v_round(b));
        rest = v_add(v_add(rest, a), b);
        if (wide)
            v_store_folded(folded_rest + 2 * i, v_mul(a, finer), v_mul(b, finer));
    }
    return rest;
}

/* 2^(n/8) of whole n, -1008 <= n < 1024. Exact. */
V_INLINE v_f exp2_8th(v_f n)
{
    return v_power_of_2_8th(v_add(v_mul(n, v_set1(0.125f)), v_set1(KVQ_TO_EIGHTHS)));
}

/* Products of q and steps, in the order; returns the largest. *sum: q . lo, by lanes. */
V_INLINE float bring_into_order(const kvq_ordered *o, const float *steps, size_t n, const float *q, float *x,
                                v_f *sum)
{
    const size_t padded = (o->dim + 15) / 16 * 16;
    float products[KVQ_DIM_MAX];
    v_f max = v_set1(0.0f);
    *sum = max;
    for (size_t c = 0; c < o->dim; c += 16) {
        v_f q_c = row_part(q, o->dim, c);
        v_store(products + c, v_mul(q_c, v_load(steps + c)));
        *sum = v_add(*sum, v_mul(q_c, v_load_half(o->lo + c)));
    }
    for (size_t i = 0; i < n; i += 16) {
        v_f product = v_gather(products, padded, o->channel + i);
        v_store(x + i, product);
        max = v_max(max, v_abs(product));
    }
    return v_largest(max);
}

static void fold_ordered_v(const kvq_ordered *o, const float *q, size_t n_q, bool wide, int8_t *folded,
                           float *step, float *bias)
{
    float steps[KVQ_DIM_MAX], products[KVQ_ROW_NUMBERS_MAX], per_unit[KVQ_ROWS_MAX];
    const size_t padded = (o->dim + 15) / 16 * 16, n_rows = wide ? 2 * n_q : n_q;
    v_f sum[KVQ_ROWS_MAX];
    size_t n = 0;
    for (size_t j = 0; j < o->n_classes; j++)
        n += o->n_places[j];
    for (size_t c = 0; c < o->dim; c += 16)
        v_store(steps + c, exp2_8th(v_load_i8(o->exponent + c)));
    for (size_t i = 0; i < n_q; i++) {
        float *row = products + i * padded;
        float largest = bring_into_order(o, steps, n, q + i * o->dim, row, &sum[i]);
        per_unit[i] = kvq_fold_per_unit(largest, &step[i]);
        if (per_unit[i] == 0.0f)
            memset(row, 0, n * sizeof *row);
    }
    const float *x = products;
    for (size_t j = 0; j < o->n_classes; x += o->n_places[j++]) {
        const size_t bytes = 2 * kvq_fold_dim(o->n_places[j]);
        for (size_t i = 0; i < n_q; i++, folded += bytes) {
            v_f rest =
                fold_lanes(x + i * padded, o->n_places[j], per_unit[i], wide, folded, folded + n_q * bytes);
            float half = per_unit[i] > 0.0f && !wide ? step[i] * o->half_levels[j] : 0.0f;
            sum[i] = v_add(sum[i], v_mul(v_set1(half), rest));
        }
        folded += (n_rows - n_q) * bytes;
    }
    for (size_t i = 0; i < n_q; i++)
        bias[i] = v_sum(sum[i]);
    for (size_t i = n_q; i < n_rows; i++) {
        step[i] = step[i - n_q] / KVQ_REST_SCALE;
        bias[i] = 0.0f;
    }
}

/* present: 1, or 0 where a token is left out, of [KVQ_SUPERBLOCK + 1]; and the scales, times that. */
V_INLINE void expand_scales(const kvq_log_scales *scales, float *present, float *scale)
{
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16)
        v_store(present + t, v_set1(1.0f));
    for (size_t i = 0; i < scales->n_left_out; i++)
        present[scales->left_out[i] < KVQ_SUPERBLOCK ? scales->left_out[i] : KVQ_SUPERBLOCK] = 0.0f;
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16)
        v_store(scale + t, v_mul(v_sixteenths(scales->n + t), v_set1(scales->unit)));
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16)
        v_store(scale + t, v_mul(v_load(scale + t), v_load(present + t)));
}

/* Fold 128 products; sum[0]: of the whole numbers, below 2^24 as those of the rest, sum[1], which there is if
 * `wide`. */
V_INLINE void fold_products_of(const float *x, float per_unit, bool wide, int8_t *folded, int8_t *folded_rest,
                               v_f sum[2])
{
    const v_f factor = v_set1(per_unit), finer = v_set1(KVQ_REST_SCALE);
    sum[0] = sum[1] = v_set1(0.0f);
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 32) {
        v_f a = v_mul(v_load(x + t), factor), b = v_mul(v_load(x + t + 16), factor);
        v_store_folded(folded + 2 * t, a, b);
        sum[0] = v_add(v_add(sum[0], v_round(a)), v_round(b));
        if (wide) {
            a = v_mul(v_sub(a, v_round(a)), finer);
            b = v_mul(v_sub(b, v_round(b)), finer);
            v_store_folded(folded_rest + 2 * t, a, b);
            sum[1] = v_add(v_add(sum[1], v_round(a)), v_round(b));
        }
    }
}

/* All rows are multiplied before any is folded, so that the way from products over their largest to the
 * factor is waited for once. */
static void fold_products_v(const kvq_log_scales *scales, size_t n, const float *p, size_t n_q, bool wide,
                            float *x, int8_t *folded, kvq_fold *out)
{
    float present[KVQ_SUPERBLOCK + 1], scale[KVQ_SUPERBLOCK], per_unit[KVQ_ROWS_MAX];
    v_f square[KVQ_ROWS_MAX], sum_of_p[KVQ_ROWS_MAX];
    const size_t bytes = 2 * KVQ_SUPERBLOCK;
    expand_scales(scales, present, scale);
    for (size_t i = 0; i < n_q; i++) {
        v_f max = v_set1(0.0f);
        square[i] = sum_of_p[i] = max;
        for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16) {
            v_f p_t = row_part(p + i * KVQ_SUPERBLOCK, n, t), product = v_mul(p_t, v_load(scale + t));
            v_store(x + i * KVQ_SUPERBLOCK + t, product);
            max = v_max(max, product);
            square[i] = v_add(square[i], v_mul(product, product));
            sum_of_p[i] = v_add(sum_of_p[i], v_mul(p_t, v_load(present + t)));
        }
        per_unit[i] = kvq_fold_per_unit(v_largest(max), &out[i].step);
        if (out[i].step > KVQ_FOLD_MAX)
            memset(x + i * KVQ_SUPERBLOCK, 0, KVQ_SUPERBLOCK * sizeof *x);
    }
    for (size_t i = 0; i < n_q; i++, x += KVQ_SUPERBLOCK, folded += bytes) {
        float sums[4];
        v_f sum[2];
        if (wide)
            fold_products_of(x, per_unit[i], true, folded, folded + n_q * bytes, sum);
        else
            fold_products_of(x, per_unit[i], false, folded, NULL, sum);
        v_store_sums(sums, square[i], sum_of_p[i], sum[0], sum[1]);
        out[i].energy = sums[0];
        out[i].sum_of_p = sums[1];
        out[i].sum = sums[2];
        if (wide)
            out[n_q + i] = (kvq_fold){.step = out[i].step / KVQ_REST_SCALE, .sum = sums[3]};
    }
}

/* ---- Levels ---- */

static void dequantize_levels_v(const kvq_token_codes *codes, const float *levels, float scale,
                                const float *add, size_t dim, float *out)
{
    float scaled[16] = {0};
    uint32_t largest = 0;
    for (size_t i = 0; i < codes->n_planes; i++)
        largest |= codes->mask[i] << codes->up[i];
    for (size_t i = 0; i <= largest; i++)
        scaled[i] = scale * levels[i];
    for (size_t c = 0; c < dim; c += 16) {
        v_i code = v_i_set1(0);
        for (size_t i = 0; i < codes->n_planes; i++) {
            v_i dwords = v_i_load(codes->from[i] + c / 16 * codes->stride[i]);
            dwords = v_i_and(v_i_shift_right(dwords, codes->at[i]), v_i_set1(codes->mask[i]));
            code = v_i_or(code, v_i_shift_left(dwords, codes->up[i]));
        }
        v_f x = v_i_pick(code, scaled, 16);
        if (c + 16 <= dim)
            v_store(out + c, v_add(x, v_load(add + c)));
        else
            v_store_part(out + c, v_add(x, v_load_part(add + c, dim - c)), dim - c);
    }
}

/* The slots of a table that this file fills. */
#define V_TIER_KERNELS                                                                                       \
    .fold_ordered = fold_ordered_v, .fold_products = fold_products_v, .dequantize_levels = dequantize_levels_v

#endif /* KVQ_QUANT_VECTOR_TIER_H */
