/*
 * The portable kernels behind codec_tier.c and codec_rot.c: the templates that instruction sets use, on plain
 * arrays.
 */
#include "quant/lanes.h"

#include "quant/vector_fit.h"
#include "quant/vector_tier.h"

void kvq_channel_stats_portable(const float *const *row, size_t c, kvq_channels *stats)
{
    channel_stats_v(row, c, stats);
}

void kvq_fit_channels_portable(const float *x, const kvq_channels *stats, uint32_t bits, float u,
                               uint8_t *codes, int8_t *exponent, uint16_t *lo)
{
    fit_channels_v(x, stats, bits, u, codes, exponent, lo);
}

void kvq_fit_channel_portable(const float *x, uint32_t bits, float u, uint8_t *codes, int8_t *exponent,
                              uint16_t *lo)
{
    fit_channel_v(x, bits, u, codes, exponent, lo);
}

void kvq_fold_ordered_portable(const kvq_ordered *o, const float *q, size_t n_q, bool wide, int8_t *folded,
                               float *step, float *bias)
{
    fold_ordered_v(o, q, n_q, wide, folded, step, bias);
}

void kvq_fold_products_portable(const kvq_log_scales *scales, size_t n, const float *p, size_t n_q, bool wide,
                                float *x, int8_t *folded, kvq_fold *out)
{
    fold_products_v(scales, n, p, n_q, wide, x, folded, out);
}

void kvq_dequantize_levels_portable(const kvq_token_codes *codes, const float *levels, float scale,
                                    const float *add, size_t dim, float *out)
{
    dequantize_levels_v(codes, levels, scale, add, dim, out);
}

float kvq_choose_levels_portable(const float *y, size_t n, const float *thresholds, const float *levels,
                                 uint32_t width, uint8_t *codes)
{
    return choose_levels_v(y, n, thresholds, levels, width, codes);
}

void kvq_hadamard_f32_portable(float *x, size_t n)
{
    hadamard_f32_v(x, n);
}

int32_t kvq_rotate_row_portable(const float *x, size_t dim, float *y, float *square)
{
    return rotate_row_v(x, dim, y, square);
}

void kvq_accumulate_levels_portable(const kvq_block_codes *codes, const float *levels, const float *factor,
                                    size_t n_q, size_t dim, float *acc)
{
    accumulate_levels_v(codes, levels, factor, n_q, dim, acc);
}

void kvq_subtract_rows_f64_portable(const double *const *row, size_t c, const double *by, size_t n,
                                    double x[16])
{
    subtract_rows_f64_v(row, c, by, n, x);
}

void kvq_add_moment_f32_portable(const float *q, size_t n, size_t dim, float *moment)
{
    add_moment_f32_v(q, n, dim, moment);
}
