/*
 * The portable kernels on plain rows and scores, and the portable table: the specification that every
 * instruction set is compared with. The affine codec's kernels are in portable_affine.c.
 */
#include <math.h>

#include "quant/bf16.h"
#include "quant/kernels.h"
#include "quant/logstep.h"

enum { LANES = KVQ_LANES };

static bool all_finite_f32_portable(const float *x, size_t n)
{
    uint32_t worst = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t magnitude = kvq_bits_of_f32(x[i]) & 0x7fffffffu;
        worst = magnitude > worst ? magnitude : worst;
    }
    return worst < 0x7f800000u;
}

static void convert_f32_f16_portable(const float *x, size_t n, uint16_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = kvq_f16_from_f32_saturating(x[i]);
}

static void convert_f16_f32_portable(const uint16_t *x, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = kvq_f32_from_f16(x[i]);
}

/* Plain enough that compilers vectorise both for whatever they compile for. */
static void convert_f32_bf16_portable(const float *x, size_t n, uint16_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = kvq_bf16_from_f32_saturating(x[i]);
}

static void convert_bf16_f32_portable(const uint16_t *x, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = kvq_f32_from_bf16(x[i]);
}

static float dot_of(const float *row, const float *q, size_t dim)
{
    size_t whole = dim / LANES * LANES;
    float lane[LANES] = {0};
    for (size_t c = 0; c < whole; c += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += q[c + j] * row[c + j];
    for (size_t c = whole; c < dim; c++)
        lane[c - whole] += q[c] * row[c];
    return kvq_sum_lanes(lane);
}

static void dot_f32_portable(const float *rows, size_t stride, size_t n, kvq_next next, const float *q,
                             size_t n_q, size_t dim, float *scores)
{
    (void)next;
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < n_q; i++)
            scores[i * KVQ_SUPERBLOCK + j] = dot_of(rows + j * stride, q + i * dim, dim);
}

static void dot_f16_portable(const uint16_t *rows, size_t stride, size_t n, kvq_next next, const float *q,
                             size_t n_q, size_t dim, float *scores)
{
    float row[KVQ_DIM_MAX];
    for (size_t j = 0; j < n; j++) {
        convert_f16_f32_portable(rows + j * stride, dim, row);
        dot_f32_portable(row, 0, 1, next, q, n_q, dim, scores + j);
    }
}

static void accumulate_f32_portable(const float *rows, size_t stride, size_t n, kvq_next next, const float *p,
                                    size_t n_q, size_t dim, float *acc)
{
    (void)next;
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < n_q; i++)
            for (size_t c = 0; c < dim; c++)
                acc[i * dim + c] += p[i * KVQ_SUPERBLOCK + j] * rows[j * stride + c];
}

static void accumulate_f16_portable(const uint16_t *rows, size_t stride, size_t n, kvq_next next,
                                    const float *p, size_t n_q, size_t dim, float *acc)
{
    float row[KVQ_DIM_MAX];
    for (size_t j = 0; j < n; j++) {
        convert_f16_f32_portable(rows + j * stride, dim, row);
        accumulate_f32_portable(row, 0, 1, next, p + j, n_q, dim, acc);
    }
}

static float max_f32_portable(const float *x, size_t n)
{
    float max = x[0];
    for (size_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return all_finite_f32_portable(x, n) ? max + 0.0f /* -0 or 0 by order of comparison: always 0 */ : NAN;
}

/* 2^x for x <= 100. x = n/8 + r with |r| <= 1/16, exactly; 2^(n/8) is from a table, 2^r a polynomial. */
static inline float exp2_of(float x)
{
    static const float coefficient[] = KVQ_EXP2_COEFFICIENTS;
    float rounded = x + KVQ_TO_EIGHTHS, r = x - (rounded - KVQ_TO_EIGHTHS), p = coefficient[0];
    for (size_t i = 1; i < sizeof coefficient / sizeof coefficient[0]; i++)
        p = p * r + coefficient[i];
    return x < KVQ_EXP2_SMALLEST ? 0.0f : p * kvq_exp2_of_eighths(rounded);
}

static float exp2_sum_f32_portable(float *x, size_t n, float ref)
{
    float lane[LANES] = {0};
    size_t whole = n / LANES * LANES;
    for (size_t i = 0; i < n; i++)
        x[i] = exp2_of(x[i] - ref);
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += x[i + j];
    for (size_t i = whole; i < n; i++)
        lane[i - whole] += x[i];
    return kvq_sum_lanes(lane);
}

const kvq_kernels kvq_kernels_portable = {
    .isa = "portable",
    .all_finite_f32 = all_finite_f32_portable,
    .convert_f32_f16 = convert_f32_f16_portable,
    .convert_f16_f32 = convert_f16_f32_portable,
    .convert_f32_bf16 = convert_f32_bf16_portable,
    .convert_bf16_f32 = convert_bf16_f32_portable,
    .encode_affine_channel = kvq_encode_affine_channel_portable,
    .encode_affine_token = kvq_encode_affine_token_portable,
    .dequantize_affine = kvq_dequantize_affine_portable,
    .fold_keys = kvq_fold_keys_portable,
    .score_runs = kvq_score_runs_portable,
    .fold_values = kvq_fold_values_portable,
    .accumulate_folded = kvq_accumulate_folded_portable,
    .dot_f32 = dot_f32_portable,
    .dot_f16 = dot_f16_portable,
    .accumulate_f32 = accumulate_f32_portable,
    .accumulate_f16 = accumulate_f16_portable,
    .convert_f32_i8 = kvq_convert_f32_i8_portable,
    .convert_i8_f32 = kvq_convert_i8_f32_portable,
    .dot_i8 = kvq_dot_i8_portable,
    .accumulate_i8 = kvq_accumulate_i8_portable,
    .channel_stats = kvq_channel_stats_portable,
    .fit_channels = kvq_fit_channels_portable,
    .fit_channel = kvq_fit_channel_portable,
    .subtract_rows_f64 = kvq_subtract_rows_f64_portable,
    .add_moment_f32 = kvq_add_moment_f32_portable,
    .fold_ordered = kvq_fold_ordered_portable,
    .fold_products = kvq_fold_products_portable,
    .dequantize_levels = kvq_dequantize_levels_portable,
    .choose_levels = kvq_choose_levels_portable,
    .accumulate_levels = kvq_accumulate_levels_portable,
    .hadamard_f32 = kvq_hadamard_f32_portable,
    .rotate_row = kvq_rotate_row_portable,
    .max_f32 = max_f32_portable,
    .exp2_sum_f32 = exp2_sum_f32_portable,
};
