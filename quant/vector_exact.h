/*
 * Exact scores and weighted sums in vectors (TOL kernels): codes times floats, over runs (kvq_run) as in
 * vector_dot.h. Keys per channel with G >= 32 and values per token, in the default arithmetic, have runs; the
 * rest of the affine codec is left to the portable kernels.
 *
 * A code of several planes is a sum, so each plane adds its part, already shifted into place. Queries share
 * the conversion of a code to float as far as registers allow (V_FLOAT_SUMS); each has two sums, which values
 * go to in turn, however many share, so that sharing changes no bit.
 */
#ifndef KVQ_QUANT_VECTOR_EXACT_H
#define KVQ_QUANT_VECTOR_EXACT_H

#include "quant/kernels.h"
#include "quant/vector_complete.h"
#include "quant/vector_part.h"

enum { EXACT_CHAINS = 2, EXACT_WIDTH = 2 }; /* EXACT_WIDTH: v_f of codes, at most */

/* Codes against rows of floats. Keys' lanes are tokens, values' channels. */
typedef struct exact_call {
    const kvq_run *runs;
    size_t n_runs;
    const uint8_t *superblock;
    const float *factors; /* of the first query; where they are is said by the runs, in bytes */
    const float *bias;    /* one for each query */
    size_t first, end;    /* lanes; no more than `end` is written */
    bool adds;            /* to what is there */
    float *out;
    size_t out_stride; /* from query to query */
} exact_call;

/* v_f of codes that n_q queries share. Constant where it is inlined, as is all that follows from it. */
V_INLINE uint32_t exact_width(uint32_t n_q)
{
    const uint32_t most = V_FLOAT_SUMS / (n_q * EXACT_CHAINS);
    return most < EXACT_WIDTH ? most : EXACT_WIDTH;
}

/* Add the products of one run; its codes are `up` bits too low. */
V_INLINE void exact_run(uint32_t width, uint32_t n_q, const exact_call *call, const kvq_run *run,
                        size_t row_bytes, const uint8_t *const *at, v_f *sum)
{
    const uint32_t n = 32 / width, n_v = exact_width(n_q);
    const float *factors = (const float *)(const void *)((const char *)call->factors + run->folded);
    for (size_t row = 0; row < (run->n + n - 1) / n; row++, factors += n) {
        V_UNROLL(32)
        for (uint32_t v = 0; v < n; v++) {
            const uint32_t shift = v % 4 * 8 + v / 4 * width;
            v_f code[EXACT_WIDTH];
            V_UNROLL(2)
            for (uint32_t j = 0; j < n_v; j++)
                code[j] = v_codes(at[j] + row * row_bytes, shift, (1u << width) - 1u, run->shift);
            V_UNROLL(4)
            for (uint32_t i = 0; i < n_q; i++) {
                v_f factor = v_set1(factors[i * (run->folded_stride / sizeof *factors) + v]);
                V_UNROLL(2)
                for (uint32_t j = 0; j < n_v; j++) {
                    uint32_t to = (i * n_v + j) * EXACT_CHAINS + v % EXACT_CHAINS;
                    sum[to] = v_fma(factor, code[j], sum[to]);
                }
            }
        }
    }
}

/* The sums of 16 * exact_width lanes from `first` on, the bias included, to result[i * exact_width + j]. */
V_INLINE void exact_strip(uint32_t n_q, size_t lanes, const exact_call *call, size_t first, v_f *result)
{
    const uint32_t n_v = exact_width(n_q);
    v_f sum[V_FLOAT_SUMS];
    V_UNROLL(16)
    for (uint32_t i = 0; i < V_FLOAT_SUMS; i++)
        sum[i] = v_set1(0.0f);
    for (size_t i = 0; i < call->n_runs; i++) {
        const kvq_run *run = &call->runs[i];
        const uint8_t *at[EXACT_WIDTH];
        for (uint32_t j = 0; j < n_v; j++) {
            size_t lane = first + 16 * j;
            lane = lane < call->end ? lane : first; /* past the end something is read, and never stored */
            at[j] = call->superblock + run->offset + lane / lanes * run->block_bytes + lane % lanes * 4;
        }
        if (run->width == 1)
            exact_run(1, n_q, call, run, 4 * lanes, at, sum);
        else if (run->width == 2)
            exact_run(2, n_q, call, run, 4 * lanes, at, sum);
        else if (run->width == 4)
            exact_run(4, n_q, call, run, 4 * lanes, at, sum);
        else
            exact_run(8, n_q, call, run, 4 * lanes, at, sum);
    }
    V_UNROLL(16)
    for (uint32_t i = 0; i < n_q * n_v; i++)
        result[i] =
            v_add(v_set1(call->bias[i / n_v]), v_add(sum[EXACT_CHAINS * i], sum[EXACT_CHAINS * i + 1]));
}

V_INLINE void exact_store(float *out, v_f x, size_t n, bool adds)
{
    if (n >= 16)
        v_store(out, adds ? v_add(v_load(out), x) : x);
    else if (n > 0)
        v_store_part(out, adds ? v_add(v_load_part(out, n), x) : x, n);
}

V_INLINE void exact_lanes(uint32_t n_q, size_t lanes, const exact_call *call)
{
    const uint32_t n_v = exact_width(n_q);
    for (size_t lane = call->first; lane < call->end; lane += 16 * n_v) {
        v_f result[V_FLOAT_SUMS / EXACT_CHAINS];
        exact_strip(n_q, lanes, call, lane, result);
        V_UNROLL(8)
        for (uint32_t i = 0; i < n_q * n_v; i++) {
            const size_t at = lane + i % n_v * 16;
            exact_store(call->out + i / n_v * call->out_stride + at, result[i],
                        at < call->end ? call->end - at : 0, call->adds);
        }
    }
}

/* Queries that share, at most. */
enum { EXACT_ROWS = V_FLOAT_SUMS / EXACT_CHAINS < 4 ? V_FLOAT_SUMS / EXACT_CHAINS : 4 };

static void exact_scores_1(const exact_call *call)
{
    exact_lanes(1, KVQ_BLOCK, call);
}

static void exact_scores_2(const exact_call *call)
{
    exact_lanes(2, KVQ_BLOCK, call);
}

static void exact_scores_most(const exact_call *call)
{
    exact_lanes(EXACT_ROWS, KVQ_BLOCK, call);
}

static void exact_sums_1(const exact_call *call)
{
    exact_lanes(1, 16, call);
}

static void exact_sums_2(const exact_call *call)
{
    exact_lanes(2, 16, call);
}

static void exact_sums_most(const exact_call *call)
{
    exact_lanes(EXACT_ROWS, 16, call);
}

/* All n_q queries of a call, of which `call` has the first one; `stride`: bytes of factors, likewise. */
V_INLINE void exact_rows(exact_call call, size_t n_q, size_t stride)
{
    const bool scores = !call.adds;
    for (size_t left = n_q, n; left > 0; left -= n) {
        n = left >= EXACT_ROWS ? EXACT_ROWS : left >= 2 ? 2 : 1;
        if (n == EXACT_ROWS)
            (scores ? exact_scores_most : exact_sums_most)(&call);
        else if (n == 1)
            (scores ? exact_scores_1 : exact_sums_1)(&call);
        else /* never if 2 are the most: then the compiler drops it */
            (scores ? exact_scores_2 : exact_sums_2)(&call);
        call.factors = (const float *)(const void *)((const char *)call.factors + n * stride);
        call.bias += n;
        call.out += n * call.out_stride;
    }
}

static void score_codes_v(const kvq_run *runs, size_t n_runs, const uint8_t *superblock, size_t n,
                          const float *factors, const float *bias, size_t n_q, float *scores)
{
    exact_rows((exact_call){.runs = runs,
                            .n_runs = n_runs,
                            .superblock = superblock,
                            .factors = factors,
                            .bias = bias,
                            .end = n,
                            .out = scores,
                            .out_stride = KVQ_SUPERBLOCK},
               n_q, n_runs > 0 ? runs[0].folded_stride : 0);
}

static void accumulate_codes_v(const kvq_layout *l, const uint8_t *superblock, size_t n, size_t first,
                               size_t end, const float *factors, const float *bias, size_t n_q, float *acc)
{
    const size_t stride = KVQ_SUPERBLOCK * sizeof *factors;
    kvq_run runs[KVQ_MAX_PLANES];
    kvq_layout_runs(l, n, stride, runs);
    exact_rows((exact_call){.runs = runs,
                            .n_runs = l->n_planes,
                            .superblock = superblock,
                            .factors = factors,
                            .bias = bias,
                            .first = first,
                            .end = end,
                            .adds = true,
                            .out = acc,
                            .out_stride = l->dim},
               n_q, stride);
}

/* ---- The affine codec ---- */

/* factors[c] = q[c] * scale[c], 0 from D to a whole dword of one-bit codes; returns sum_c q[c] * min[c]. */
static float exact_fold_keys(const kvq_layout *l, const uint8_t *superblock, const float *q, float *factors)
{
    const uint16_t *scales = (const uint16_t *)(const void *)(superblock + l->meta_offset);
    const uint16_t *mins = (const uint16_t *)(const void *)(superblock + l->meta_offset + l->min_offset);
    v_f bias = v_set1(0.0f);
    v_store(factors + kvq_fold_dim(l->dim) - 16, bias);
    for (size_t c = 0; c < l->dim_padded; c += 16) {
        v_f query = row_part(q, l->dim, c);
        v_store(factors + c, v_mul(query, v_load_half(scales + c)));
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
    float factors[KVQ_ROWS_MAX * KVQ_DIM_MAX], bias[KVQ_ROWS_MAX];
    kvq_run runs[KVQ_MAX_PLANES];
    kvq_layout_runs(l, l->dim, KVQ_DIM_MAX * sizeof *factors, runs);
    for (size_t t = 0; t < n; t += l->meta_tile_tokens, superblock += l->meta_tile_bytes) {
        for (size_t i = 0; i < n_q; i++)
            bias[i] = exact_fold_keys(l, superblock, q + i * l->dim, factors + i * KVQ_DIM_MAX);
        score_codes_v(runs, l->n_planes, superblock,
                      n - t < l->meta_tile_tokens ? n - t : l->meta_tile_tokens, factors, bias, n_q,
                      scores + t);
    }
}

/* factors[t] = p[t] * scale[t] for t < n, 0 to the end of the block; returns sum_t p[t] * min[t]. */
static float exact_fold_values(const kvq_layout *l, const uint8_t *superblock, size_t n, size_t c,
                               const float *p, float *factors)
{
    const uint8_t *at = superblock + kvq_scale_offset(l, 0, c);
    const uint16_t *scales = (const uint16_t *)(const void *)at;
    const uint16_t *mins = (const uint16_t *)(const void *)(at + l->min_offset);
    v_f bias = v_set1(0.0f);
    for (size_t t = 0; t < (n + KVQ_BLOCK - 1) / KVQ_BLOCK * KVQ_BLOCK; t += 16) {
        v_f p_t = row_part(p, n, t);
        v_store(factors + t, v_mul(p_t, v_load_half(scales + t)));
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
    float factors[KVQ_ROWS_MAX * KVQ_SUPERBLOCK], bias[KVQ_ROWS_MAX];
    for (size_t c = 0; c < l->dim && n > 0; c += l->group) {
        for (size_t i = 0; i < n_q; i++)
            bias[i] =
                exact_fold_values(l, superblock, n, c, p + i * KVQ_SUPERBLOCK, factors + i * KVQ_SUPERBLOCK);
        accumulate_codes_v(l, superblock, n, c, l->dim - c < l->group ? l->dim : c + l->group, factors, bias,
                           n_q, acc);
    }
}

/* The slots of a table that this file fills. */
#define V_EXACT_KERNELS                                                                                      \
    .score_codes = score_codes_v, .accumulate_codes = accumulate_codes_v, .score_affine = score_affine_v,    \
    .accumulate_affine = accumulate_affine_v

#endif /* KVQ_QUANT_VECTOR_EXACT_H */
