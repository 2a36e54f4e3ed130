/*
 * Exact scores and weighted sums over KIVI's layouts in vectors (TOL kernels). Keys per channel with G >= 32
 * and values per token, default arithmetic; the rest is left to the portable kernels.
 *
 * A code of several planes is a sum, so each plane adds its part, already shifted into place: no plane needs
 * to know of the others. Up to four queries share the conversion of a code to float, where registers allow
 * (V_EXACT_QUERIES).
 */
#ifndef KVQ_QUANT_VECTOR_EXACT_H
#define KVQ_QUANT_VECTOR_EXACT_H

#include "quant/kernels.h"
#include "quant/vector_complete.h"
#include "quant/vector_tables.h"

/* One plane of 16 * n_v lanes against n_q queries. */
typedef struct exact_call {
    const uint8_t *codes; /* rows of 16 * n_v dwords */
    size_t n_rows;
    uint32_t up;
    const float *folded; /* factors of query i from i * stride on, one per value along the rows */
    size_t stride;
    v_f *sum; /* [n_q][n_v] */
} exact_call;

V_INLINE void exact_plane(uint32_t width, uint32_t n_q, uint32_t n_v, const exact_call *call)
{
    const uint32_t n = 32 / width,
                   n_chains = 4 / n_v; /* to hide latency; the same for any n_q, as are the results */
    v_f sum[V_QUERIES * 2 * 4];
    for (uint32_t i = 0; i < n_q * n_v * n_chains; i++)
        sum[i] = v_set1(0.0f);
    for (size_t row = 0; row < call->n_rows; row++) {
        const uint8_t *dwords = call->codes + row * 64 * n_v;
        const float *folded = call->folded + row * n;
        V_UNROLL(32)
        for (uint32_t v = 0; v < n; v++) {
            const uint32_t shift = v % 4 * 8 + v / 4 * width;
            v_f code[2];
            for (uint32_t j = 0; j < n_v; j++)
                code[j] = v_codes(dwords + 64 * j, shift, (1u << width) - 1u, call->up);
            V_UNROLL(4)
            for (uint32_t i = 0; i < n_q; i++) {
                v_f factor = v_set1(folded[i * call->stride + v]);
                for (uint32_t j = 0; j < n_v; j++) {
                    uint32_t at = (i * n_v + j) * n_chains + v % n_chains;
                    sum[at] = v_fma(factor, code[j], sum[at]);
                }
            }
        }
    }
    for (uint32_t i = 0; i < n_q * n_v * n_chains; i++)
        call->sum[i / n_chains] = v_add(call->sum[i / n_chains], sum[i]);
}

V_INLINE void exact_keys(uint32_t width, uint32_t n_q, const exact_call *call)
{
    exact_plane(width, n_q, 2, call);
}

V_INLINE void exact_values(uint32_t width, uint32_t n_q, const exact_call *call)
{
    exact_plane(width, n_q, 1, call);
}

V_TABLE(exact_keys, exact_call)
V_TABLE(exact_values, exact_call)

/* folded[c] = q[c] * scale[c], 0 from D to a whole dword of one-bit codes; returns sum_c q[c] * min[c]. */
static float exact_fold_keys(const kvq_layout *l, const uint8_t *superblock, size_t t, const float *q,
                             float *folded)
{
    const uint8_t *at = superblock + kvq_scale_offset(l, t, 0);
    const uint16_t *scales = (const uint16_t *)(const void *)at;
    const uint16_t *mins = (const uint16_t *)(const void *)(at + l->min_offset);
    v_f bias = v_set1(0.0f);
    v_store(folded + kvq_fold_dim(l->dim) - 16, bias);
    for (size_t c = 0; c < l->dim_padded; c += 16) {
        v_f query = c + 16 <= l->dim ? v_load(q + c) : v_load_part(q + c, l->dim - c);
        v_store(folded + c, v_mul(query, v_load_half(scales + c)));
        bias = v_fma(query, v_load_half(mins + c), bias);
    }
    return v_sum(bias);
}

static void score_affine_v(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *q,
                           size_t n_q, float *scores)
{
    if (!kvq_layout_folds(l)) {
        kvq_score_affine_portable(l, superblock, n, q, n_q, scores);
        return;
    }
    float folded[V_QUERIES * KVQ_DIM_MAX], bias[V_QUERIES] = {0};
    for (size_t done = 0, rows; done < n_q;
         done += rows, q += rows * l->dim, scores += rows * KVQ_SUPERBLOCK) {
        rows = V_EXACT_QUERIES == 1 ? 1 : v_queries_of(n_q - done);
        for (size_t t = 0; t < n; t += KVQ_BLOCK) {
            for (size_t i = 0; i < rows && t % l->meta_tile_tokens == 0; i++)
                bias[i] = exact_fold_keys(l, superblock, t, q + i * l->dim, folded + i * KVQ_DIM_MAX);
            v_f sum[V_QUERIES * 2];
            for (size_t i = 0; i < 2 * rows; i++)
                sum[i] = v_set1(bias[i / 2]);
            const uint8_t *block = superblock + t / l->meta_tile_tokens * l->meta_tile_bytes +
                                   t % l->meta_tile_tokens / KVQ_BLOCK * l->block_bytes;
            for (size_t j = 0; j < l->n_planes; j++) {
                const kvq_plane *plane = &l->plane[j];
                exact_call call = {.codes = block + plane->offset,
                                   .n_rows = (l->dim_padded * plane->width + 31) / 32,
                                   .up = plane->shift,
                                   .folded = folded,
                                   .stride = KVQ_DIM_MAX,
                                   .sum = sum};
                exact_keys_table[v_width_index(plane->width)][v_queries_index(rows)](&call);
            }
            for (size_t i = 0; i < rows; i++)
                for (size_t lane = t, j = 0; j < 2; j++, lane += 16)
                    if (lane + 16 <= n)
                        v_store(scores + i * KVQ_SUPERBLOCK + lane, sum[2 * i + j]);
                    else if (lane < n)
                        v_store_part(scores + i * KVQ_SUPERBLOCK + lane, sum[2 * i + j], n - lane);
        }
    }
}

/* folded[t] = p[t] * scale[t] for t < n, 0 to the end of the block; returns sum_t p[t] * min[t]. */
static float exact_fold_values(const kvq_layout *l, const uint8_t *superblock, size_t n, size_t c,
                               const float *p, float *folded)
{
    const uint8_t *at = superblock + kvq_scale_offset(l, 0, c);
    const uint16_t *scales = (const uint16_t *)(const void *)at;
    const uint16_t *mins = (const uint16_t *)(const void *)(at + l->min_offset);
    v_f bias = v_set1(0.0f);
    for (size_t t = 0; t < (n + KVQ_BLOCK - 1) / KVQ_BLOCK * KVQ_BLOCK; t += 16) {
        v_f p_t = t + 16 <= n ? v_load(p + t) : v_load_part(p + t, t < n ? n - t : 0);
        v_store(folded + t, v_mul(p_t, v_load_half(scales + t)));
        bias = v_fma(p_t, v_load_half(mins + t), bias);
    }
    return v_sum(bias);
}

static void accumulate_affine_v(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *p,
                                size_t n_q, float *acc)
{
    if (!kvq_layout_folds(l)) {
        kvq_accumulate_affine_portable(l, superblock, n, p, n_q, acc);
        return;
    }
    float folded[V_QUERIES * KVQ_SUPERBLOCK], bias[V_QUERIES] = {0};
    for (size_t done = 0, rows; done < n_q; done += rows, p += rows * KVQ_SUPERBLOCK, acc += rows * l->dim) {
        rows = V_EXACT_QUERIES == 1 ? 1 : v_queries_of(n_q - done);
        for (size_t c = 0; c < l->dim; c += 16) {
            for (size_t i = 0; i < rows && c % l->group == 0; i++)
                bias[i] = exact_fold_values(l, superblock, n, c, p + i * KVQ_SUPERBLOCK,
                                            folded + i * KVQ_SUPERBLOCK);
            v_f sum[V_QUERIES];
            for (size_t i = 0; i < rows; i++)
                sum[i] = v_set1(bias[i]);
            for (size_t j = 0; j < l->n_planes; j++) {
                const kvq_plane *plane = &l->plane[j];
                exact_call call = {.codes = superblock + plane->offset + c * 16 * plane->width,
                                   .n_rows = (n + KVQ_BLOCK - 1) / KVQ_BLOCK * plane->width,
                                   .up = plane->shift,
                                   .folded = folded,
                                   .stride = KVQ_SUPERBLOCK,
                                   .sum = sum};
                exact_values_table[v_width_index(plane->width)][v_queries_index(rows)](&call);
            }
            for (size_t i = 0; i < rows; i++) {
                float *out = acc + i * l->dim + c;
                if (c + 16 <= l->dim)
                    v_store(out, v_add(v_load(out), sum[i]));
                else
                    v_store_part(out, v_add(v_load_part(out, l->dim - c), sum[i]), l->dim - c);
            }
        }
    }
}

/* The slots of a table that this file fills. */
#define V_EXACT_KERNELS .score_affine = score_affine_v, .accumulate_affine = accumulate_affine_v

#endif /* KVQ_QUANT_VECTOR_EXACT_H */
