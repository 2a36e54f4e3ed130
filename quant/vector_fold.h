/*
 * Folding (portable_fast.c), in vectors: queries times the scales of keys, probabilities times those of
 * values, as numbers of 16 bits, and what rounding takes as 15 more.
 */
#ifndef KVQ_QUANT_VECTOR_FOLD_H
#define KVQ_QUANT_VECTOR_FOLD_H

#include <math.h>

#include "quant/kernels.h"
#include "quant/vector_complete.h"
#include "quant/vector_part.h"

/* ---- Folding ---- */

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
        v_f query = row_part(q, l->dim, c);
        plain = v_max(plain, v_abs(query));
        largest = v_max(largest, v_abs(v_mul(query, v_h_to_f(scale))));
    }
    *largest_q = v_largest(plain);
    return v_largest(largest);
}

enum { FOLD_ROWS = 4 }; /* queries that share the reading of scales, at most */

/* Store 32 folded numbers made of what rounding takes from x and y, in finer steps. */
V_INLINE void store_rests(int8_t *p, v_f x, v_f y)
{
    const v_f finer = v_set1(KVQ_REST_SCALE);
    v_store_folded(p, v_mul(v_sub(x, v_round(x)), finer), v_mul(v_sub(y, v_round(y)), finer));
}

/* Fold n_q of a call's all_q queries into n_meta_tiles meta_tiles. n_q and wide are constants. */
V_INLINE void fold_keys_of(size_t n_q, bool wide, const kvq_layout *l, const uint8_t *superblock,
                           size_t n_meta_tiles, const float *q, size_t all_q, int8_t *q_folded, float *step,
                           float *bias)
{
    enum { META_TILES = KVQ_SUPERBLOCK / KVQ_BLOCK };
    _Alignas(KVQ_ALIGNMENT) float scaled[FOLD_ROWS * KVQ_DIM_MAX], plain[FOLD_ROWS * KVQ_DIM_MAX];
    const size_t fold_dim = kvq_fold_dim(l->dim), n_rows = wide ? 2 * all_q : all_q;
    float made_up_for[FOLD_ROWS]; /* in the bias, for each unit that rounding took */
    v_f total[FOLD_ROWS][META_TILES];
    for (size_t i = 0; i < n_q; i++) {
        float largest_q, largest = largest_folded(l, superblock, n_meta_tiles, q + i * l->dim, &largest_q);
        float per_unit = kvq_fold_per_unit(largest, &step[i]);
        if (largest_q * per_unit > KVQ_FOLD_MAX) { /* and scale 0: the product must stay 0 */
            per_unit = 0.0f;
            step[i] = INFINITY;
        }
        made_up_for[i] = wide ? 0.0f : step[i] * kvq_half_levels(l);
        for (size_t c = 0; c < fold_dim; c += 16) {
            v_f query = row_part(q + i * l->dim, l->dim, c);
            v_store(plain + i * KVQ_DIM_MAX + c, query);
            v_store(scaled + i * KVQ_DIM_MAX + c, v_mul(query, v_set1(per_unit)));
        }
    }
    for (size_t meta_tile = 0; meta_tile < n_meta_tiles; meta_tile++) {
        const uint16_t *scales = meta_tile_scales(l, superblock, meta_tile), *mins = scales + l->n_meta;
        int8_t *to = q_folded + meta_tile * n_rows * 2 * fold_dim;
        v_f sum[FOLD_ROWS], rest[FOLD_ROWS];
        for (size_t i = 0; i < n_q; i++)
            sum[i] = rest[i] = v_set1(0.0f);
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
                if (wide)
                    store_rests(to + (all_q + i) * 2 * fold_dim + 2 * c, a, b);
                else
                    rest[i] = v_add(v_add(rest[i], v_sub(a, v_round(a))), v_sub(b, v_round(b)));
                sum[i] = v_add(sum[i], v_mul(v_load(y), min_a));
                sum[i] = v_add(sum[i], v_mul(v_load(y + 16), min_b));
            }
        }
        for (size_t i = 0; i < n_q; i++)
            total[i][meta_tile] = v_add(sum[i], v_mul(v_set1(made_up_for[i]), rest[i]));
    }
    for (size_t i = 0; i < n_q; i++) {
        float four[META_TILES];
        for (size_t meta_tile = n_meta_tiles; meta_tile < META_TILES; meta_tile++)
            total[i][meta_tile] = v_set1(0.0f);
        v_store_sums(four, total[i][0], total[i][1], total[i][2], total[i][3]);
        for (size_t meta_tile = 0; meta_tile < n_meta_tiles; meta_tile++)
            bias[meta_tile * n_rows + i] = four[meta_tile];
        if (wide)
            step[all_q + i] = step[i] / KVQ_REST_SCALE;
        for (size_t meta_tile = 0; wide && meta_tile < n_meta_tiles; meta_tile++)
            bias[meta_tile * n_rows + all_q + i] = 0.0f;
    }
}

V_INLINE void fold_keys_by_four(bool wide, const kvq_layout *l, const uint8_t *superblock, size_t n,
                                const float *q, size_t n_q, int8_t *folded, float *step, float *bias)
{
    size_t n_meta_tiles = 0;
    for (size_t t = 0; t < n; t += l->meta_tile_tokens)
        n_meta_tiles++;
    for (size_t i = 0, k; i < n_q && n > 0; i += k) {
        k = n_q - i >= 4 ? 4 : n_q - i >= 2 ? 2 : 1;
        const float *from = q + i * l->dim;
        int8_t *to = folded + i * 2 * kvq_fold_dim(l->dim);
        if (k == 4)
            fold_keys_of(4, wide, l, superblock, n_meta_tiles, from, n_q, to, step + i, bias + i);
        else if (k == 2)
            fold_keys_of(2, wide, l, superblock, n_meta_tiles, from, n_q, to, step + i, bias + i);
        else
            fold_keys_of(1, wide, l, superblock, n_meta_tiles, from, n_q, to, step + i, bias + i);
    }
}

static void fold_keys_v(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *q, size_t n_q,
                        bool wide, int8_t *folded, float *step, float *bias)
{
    if (wide)
        fold_keys_by_four(true, l, superblock, n, q, n_q, folded, step, bias);
    else
        fold_keys_by_four(false, l, superblock, n, q, n_q, folded, step, bias);
}

/* One row of p against the scales and minimums of one group: products with the scales, and sums by lane. */
V_INLINE v_f weigh_group(const uint16_t *scales, const uint16_t *mins, v_f half_levels, size_t n,
                         const float *p, float *x, v_f *of_mins, v_f *of_squares)
{
    v_f largest = v_set1(0.0f), sum = v_set1(0.0f), square = v_set1(0.0f);
    V_UNROLL(8)
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16) {
        v_f p_t = row_part(p, n, t), product = v_mul(p_t, v_load_half(scales + t));
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

/* Weights of 128 products; returns what rounding took, by lanes, unless `wide`: then that is folded, too. */
V_INLINE v_f store_folded(const float *x, float per_unit, bool wide, int8_t *folded, int8_t *folded_rest)
{
    v_f factor = v_set1(per_unit), rest = v_set1(0.0f);
    V_UNROLL(4)
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 32) {
        v_f a = v_mul(v_load(x + t), factor), b = v_mul(v_load(x + t + 16), factor);
        v_store_folded(folded + 2 * t, a, b);
        if (wide)
            store_rests(folded_rest + 2 * t, a, b);
        else
            rest = v_add(v_add(rest, v_sub(a, v_round(a))), v_sub(b, v_round(b)));
    }
    return rest;
}

/* In batches, so that the way from products over their largest to the factor is waited for once. */
static void fold_values_v(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *p,
                          size_t n_q, bool wide, int8_t *folded, float *step, float *bias, float *energy)
{
    enum { BATCH = 8 };
    _Alignas(KVQ_ALIGNMENT) float x[BATCH][KVQ_SUPERBLOCK];
    v_f sum[BATCH + 1], square[BATCH + 1];
    float per_unit[BATCH];
    size_t place[BATCH]; /* of the row among all that are made */
    const float half_levels = kvq_half_levels(l);
    const uint16_t *scales = (const uint16_t *)(const void *)(superblock + l->meta_offset);
    size_t n_folds = l->n_meta / KVQ_SUPERBLOCK * n_q, row = 0, first = 0;
    for (size_t done = 0, batch; done < n_folds; done += batch) {
        batch = n_folds - done < BATCH ? n_folds - done : BATCH;
        for (size_t i = 0; i < batch; i++) {
            const float *from = p + row * KVQ_SUPERBLOCK;
            v_f largest = n == KVQ_SUPERBLOCK ? weigh_group(scales, scales + l->n_meta, v_set1(half_levels),
                                                            KVQ_SUPERBLOCK, from, x[i], &sum[i], &square[i])
                                              : weigh_group(scales, scales + l->n_meta, v_set1(half_levels),
                                                            n, from, x[i], &sum[i], &square[i]);
            place[i] = first + row;
            per_unit[i] = kvq_fold_per_unit(v_largest(largest), &step[place[i]]);
            row = row + 1 == n_q ? 0 : row + 1;
            scales += row == 0 ? KVQ_SUPERBLOCK : 0;
            first += row > 0 ? 0 : wide ? 2 * n_q : n_q;
        }
        for (size_t i = 0; i < batch; i++) {
            int8_t *to = folded + place[i] * 2 * KVQ_SUPERBLOCK;
            if (wide) {
                (void)store_folded(x[i], per_unit[i], true, to, to + n_q * 2 * KVQ_SUPERBLOCK);
                step[place[i] + n_q] = step[place[i]] / KVQ_REST_SCALE;
                bias[place[i] + n_q] = 0.0f;
            } else {
                v_f rest = store_folded(x[i], per_unit[i], false, to, NULL);
                sum[i] = v_add(sum[i], v_mul(v_set1(step[place[i]] * half_levels), rest));
            }
        }
        sum[batch] = square[batch] = v_set1(0.0f); /* makes an odd batch even */
        for (size_t i = 0; i < batch; i += 2) {
            float four[4];
            v_store_sums(four, sum[i], sum[i + 1], square[i], square[i + 1]);
            for (size_t j = 0; j < 2 && i + j < batch; j++) {
                bias[place[i + j]] = four[j];
                energy[done + i + j] = four[2 + j];
            }
        }
    }
}

/* The slots of a table that this file fills. */
#define V_FOLD_KERNELS .fold_keys = fold_keys_v, .fold_values = fold_values_v

#endif /* KVQ_QUANT_VECTOR_FOLD_H */
