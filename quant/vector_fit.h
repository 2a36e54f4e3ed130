/*
 * Template of the kernels that codec_tier.c and codec_rot.c encode with: the search of grids, feedback and
 * the moments it comes from, levels, and the Hadamard transform, which attention needs too. For vectors and,
 * with lanes.h, for the portable table: one source, so the same bits.
 */
#ifndef KVQ_QUANT_VECTOR_FIT_H
#define KVQ_QUANT_VECTOR_FIT_H

#include "quant/kernels.h"
#include "quant/logstep.h"
#include "quant/vector_tier.h"

#ifndef V_PLAIN_LANES
#include "quant/vector_complete.h"
#endif

#include <math.h>

/* ---- Fitting: sixteen channels side by side ---- */

/* Sums of x / 128 cannot pass the largest float by more than rounding, which the clamp takes back; the
 * second pass makes the mean as exact as the numbers. Sums of squares may become Inf. */
static void channel_stats_v(const float *const *row, size_t c, kvq_channels *stats)
{
    const v_f part = v_set1(1.0f / KVQ_SUPERBLOCK);
    v_f sum = v_set1(0.0f), rest = v_set1(0.0f), square = v_set1(0.0f), min = v_load(row[0] + c), max = min;
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t++) {
        v_f x = v_load(row[t] + c);
        sum = v_add(sum, v_mul(x, part));
        min = v_min(min, x);
        max = v_max(max, x);
    }
    v_f mean = v_min(v_max(sum, min), max), mean_part = v_mul(mean, part);
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t++)
        rest = v_add(rest, v_sub(v_mul(v_load(row[t] + c), part), mean_part));
    mean = v_min(v_max(v_add(mean, rest), min), max);
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t++) {
        v_f centred = v_sub(v_load(row[t] + c), mean);
        square = v_add(square, v_mul(centred, centred));
    }
    const v_f no_sign =
        v_set1(0.0f); /* of two zeros either may have come out; this makes it the positive one */
    v_store(stats->mean, v_add(mean, no_sign));
    v_store(stats->min, v_add(min, no_sign));
    v_store(stats->max, v_add(max, no_sign));
    v_store(stats->square, square);
}

/* The candidates, in the order in which the first of equals wins: steps in units of the deviation around the
 * mean, then in units of the range around its middle. */
enum { N_AROUND_MEAN = 6, N_CANDIDATES = 9, AT_ONCE = 3 };

static const float kvq_around_mean[N_AROUND_MEAN] = {0.7f, 0.8f, 0.9f, 1.0f, 1.12f, 1.3f};
static const float kvq_around_middle[N_CANDIDATES - N_AROUND_MEAN] = {1.0f, 0.9f, 0.8f};
static const float kvq_per_deviation[7] = {0, 1.596f, 0.9957f, 0.586f, 0.3352f, 0.1881f, 0.1041f};

/* A candidate in each lane. */
typedef struct candidate {
    v_f step, lo, per_step, exponent;
} candidate;

/* What all candidates of sixteen channels have in common. */
typedef struct search {
    v_f deviation, range; /* as steps; to be multiplied with a candidate's number */
    v_f mean, middle;
    v_f half_levels; /* half of the largest code */
    float narrower;  /* what steps in units of the range are multiplied with */
} search;

V_INLINE search begin_search(uint32_t bits, const kvq_channels *stats)
{
    const float levels = (float)((1u << bits) - 1u);
    float deviation[16];
    for (size_t j = 0; j < 16; j++)
        deviation[j] = sqrtf(stats->square[j] * (1.0f / KVQ_SUPERBLOCK));
    const v_f min = v_load(stats->min), max = v_load(stats->max), half = v_set1(0.5f);
    return (search){
        .deviation = v_mul(v_load(deviation), v_set1(kvq_per_deviation[bits])),
        .range = v_div(v_sub(max, min), v_set1(levels)),
        .mean = v_load(stats->mean),
        .middle = v_add(v_mul(half, min), v_mul(half, max)),
        .half_levels = v_set1(0.5f * levels),
        .narrower = bits == 1 ? 0.6f : 1.0f,
    };
}

/* kvq_log2_8th of sixteen numbers. */
V_INLINE v_f log2_8th(v_f x)
{
    const v_f one = v_set1(1.0f), zero = v_set1(0.0f);
    float number[16], fraction[16]; /* from 1 up to 2 */
    v_store(number, x);
    const uint8_t *bits = (const uint8_t *)(const void *)number;
    v_i_store((uint8_t *)(void *)fraction,
              v_i_or(v_i_and(v_i_load(bits), v_i_set1(0x7fffffu)), v_i_set1(0x3f800000u)));
    v_f n = v_mul(v_sub(v_codes(bits, 23, 0xff, 0), v_set1(127.0f)), v_set1(8.0f)), f = v_load(fraction);
    for (size_t k = 0; k < 8; k++) {
        const v_f edge = v_set1(kvq_f32_of_bits(0x3f800000u | kvq_half_eighths[k]));
        n = v_add(n, v_if_less(edge, f, one, zero));
    }
    return v_min(v_max(n, v_set1(-128.0f)), v_set1(127.0f));
}

/* As halves, overflow as the largest. */
V_INLINE void store_half_saturating(uint16_t *half, v_f x)
{
    v_store_half(half, v_min(v_max(x, v_set1(-KVQ_F16_MAX)), v_set1(KVQ_F16_MAX)));
}

V_INLINE candidate make_candidate(v_f step, v_f centre, v_f half_levels)
{
    uint16_t lo[16];
    candidate c = {.exponent = log2_8th(step)};
    c.step = exp2_8th(c.exponent);
    c.per_step = v_div(v_set1(1.0f), c.step);
    store_half_saturating(lo, v_sub(centre, v_mul(c.step, half_levels)));
    c.lo = v_load_half(lo);
    return c;
}

V_INLINE candidate candidate_of_tile(const search *s, size_t i)
{
    if (i < N_AROUND_MEAN)
        return make_candidate(v_mul(s->deviation, v_set1(kvq_around_mean[i])), s->mean, s->half_levels);
    const float factor = kvq_around_middle[i - N_AROUND_MEAN] * s->narrower;
    return make_candidate(v_mul(s->range, v_set1(factor)), s->middle, s->half_levels);
}

/* Code of x. */
V_INLINE v_f code_of(v_f x, const candidate *c, v_f levels)
{
    return v_round(v_clamp(v_mul(v_sub(x, c->lo), c->per_step), levels));
}

/* What it stands for, minus x. */
V_INLINE v_f error_of(v_f x, v_f code, const candidate *c)
{
    return v_sub(v_add(v_mul(code, c->step), c->lo), x);
}

/* How far AT_ONCE candidates are off: sums of d^2 and of d * (x - mean). */
V_INLINE void measure(const float *x, v_f mean, v_f levels, const candidate *c, v_f *square, v_f *product)
{
    v_f squares[AT_ONCE], products[AT_ONCE];
    V_UNROLL(3)
    for (size_t i = 0; i < AT_ONCE; i++)
        squares[i] = products[i] = v_set1(0.0f);
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t++) {
        v_f row = v_load(x + 16 * t), centred = v_sub(row, mean);
        V_UNROLL(3)
        for (size_t i = 0; i < AT_ONCE; i++) {
            v_f d = error_of(row, code_of(row, &c[i], levels), &c[i]);
            squares[i] = v_add(squares[i], v_mul(d, d));
            products[i] = v_add(products[i], v_mul(d, centred));
        }
    }
    V_UNROLL(3)
    for (size_t i = 0; i < AT_ONCE; i++) {
        square[i] = squares[i];
        product[i] = products[i];
    }
}

/* Codes for the candidate that won; lo moves by the mean error. */
V_INLINE void settle(const float *x, v_f levels, const candidate *best, uint8_t *codes, uint16_t *lo)
{
    const v_f part = v_set1(1.0f / KVQ_SUPERBLOCK);
    v_f error = v_set1(0.0f);
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16) {
        v_i packed[4], quad[4];
        V_UNROLL(4)
        for (size_t k = 0; k < 4; k++) {
            v_i four[4];
            V_UNROLL(4)
            for (size_t i = 0; i < 4; i++, x += 16) {
                v_f row = v_load(x), code = code_of(row, best, levels);
                four[i] = v_i_nearest(code);
                error = v_add(error, v_mul(error_of(row, code, best), part));
            }
            packed[k] = v_i_pack(four);
        }
        v_i_transpose(packed, quad);
        V_UNROLL(4)
        for (size_t k = 0; k < 4; k++)
            v_i_store(codes + 4 * (k * KVQ_SUPERBLOCK + t), quad[k]);
    }
    store_half_saturating(lo, v_sub(best->lo, error));
}

static void fit_channels_v(const float *x, const kvq_channels *stats, uint32_t bits, float u, uint8_t *codes,
                           int8_t *exponent, uint16_t *lo)
{
    if (bits == 0) {
        store_half_saturating(lo, v_load(stats->mean));
        memset(exponent, 0, 16);
        memset(codes, 0, (size_t)16 * KVQ_SUPERBLOCK);
        return;
    }
    const search s = begin_search(bits, stats);
    const v_f levels = v_set1((float)((1u << bits) - 1u)),
              at_least = v_max(v_load(stats->square), v_set1(1e-12f));
    candidate best = candidate_of_tile(&s, 0);
    v_f least = v_set1(INFINITY);
    for (size_t i = 0; i < N_CANDIDATES; i += AT_ONCE) {
        candidate c[AT_ONCE];
        v_f square[AT_ONCE], product[AT_ONCE];
        for (size_t j = 0; j < AT_ONCE; j++)
            c[j] = candidate_of_tile(&s, i + j);
        measure(x, s.mean, levels, c, square, product);
        for (size_t j = 0; j < AT_ONCE; j++) {
            v_f off = v_add(square[j], v_mul(v_mul(v_set1(u), product[j]), v_div(product[j], at_least)));
            if (i + j == 0)
                least = off;
            best.step = v_if_less(off, least, c[j].step, best.step);
            best.lo = v_if_less(off, least, c[j].lo, best.lo);
            best.per_step = v_if_less(off, least, c[j].per_step, best.per_step);
            best.exponent = v_if_less(off, least, c[j].exponent, best.exponent);
            least = v_if_less(off, least, off, least); /* NaN, of numbers beyond any scale, never wins */
        }
    }
    settle(x, levels, &best, codes, lo);
    v_store_i8(exponent, best.exponent);
}

/* ---- Fitting one channel: sixteen tokens side by side ---- */

typedef struct row_stats {
    float mean, min, max, square;
} row_stats;

/* As channel_stats_v; sums are in the order of dot_f32. */
V_INLINE row_stats stats_of_row(const float *x)
{
    const v_f part = v_set1(1.0f / KVQ_SUPERBLOCK);
    v_f sum = v_set1(0.0f), rest = sum, square = sum, min = v_load(x), max = min;
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16) {
        v_f row = v_load(x + t);
        sum = v_add(sum, v_mul(row, part));
        min = v_min(min, row);
        max = v_max(max, row);
    }
    float lows[16], highs[16];
    v_store(lows, min);
    v_store(highs, max);
    row_stats s = {.mean = v_sum(sum), .min = lows[0], .max = highs[0]};
    for (size_t j = 1; j < 16; j++) {
        s.min = lows[j] < s.min ? lows[j] : s.min;
        s.max = highs[j] > s.max ? highs[j] : s.max;
    }
    s.min += 0.0f; /* of two zeros the positive one */
    s.max += 0.0f;
    s.mean = s.mean < s.min ? s.min : s.mean > s.max ? s.max : s.mean;
    v_f mean_part = v_mul(v_set1(s.mean), part);
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16)
        rest = v_add(rest, v_sub(v_mul(v_load(x + t), part), mean_part));
    s.mean += v_sum(rest);
    s.mean = (s.mean < s.min ? s.min : s.mean > s.max ? s.max : s.mean) + 0.0f;
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16) {
        v_f centred = v_sub(v_load(x + t), v_set1(s.mean));
        square = v_add(square, v_mul(centred, centred));
    }
    s.square = v_sum(square);
    return s;
}

/* Candidate i in lane i. */
V_INLINE candidate candidates_of_row(const row_stats *s, uint32_t bits)
{
    const float levels = (float)((1u << bits) - 1u), narrower = bits == 1 ? 0.6f : 1.0f;
    const float deviation = sqrtf(s->square * (1.0f / KVQ_SUPERBLOCK)) * kvq_per_deviation[bits],
                range = (s->max - s->min) / levels, middle = 0.5f * s->min + 0.5f * s->max;
    float step[16] = {0}, centre[16] = {0};
    for (size_t i = 0; i < N_CANDIDATES; i++) {
        bool around_mean = i < N_AROUND_MEAN;
        step[i] = around_mean ? deviation * kvq_around_mean[i]
                              : range * (kvq_around_middle[i - N_AROUND_MEAN] * narrower);
        centre[i] = around_mean ? s->mean : middle;
    }
    return make_candidate(v_load(step), v_load(centre), v_set1(0.5f * levels));
}

/* Candidate i in every lane. */
V_INLINE candidate one_of(const float step[16], const float lo[16], const float per_step[16], size_t i)
{
    return (candidate){.step = v_set1(step[i]), .lo = v_set1(lo[i]), .per_step = v_set1(per_step[i])};
}

static void fit_channel_v(const float *x, uint32_t bits, float u, uint8_t *codes, int8_t *exponent,
                          uint16_t *lo)
{
    const row_stats s = stats_of_row(x);
    if (bits == 0) {
        *lo = kvq_f16_from_f32_saturating(s.mean);
        *exponent = 0;
        memset(codes, 0, KVQ_SUPERBLOCK);
        return;
    }
    const candidate all = candidates_of_row(&s, bits);
    const v_f levels = v_set1((float)((1u << bits) - 1u)), part = v_set1(1.0f / KVQ_SUPERBLOCK),
              mean = v_set1(s.mean);
    const float at_least = s.square > 1e-12f ? s.square : 1e-12f;
    float step[16], los[16], per_step[16], least = 0;
    int8_t exponents[16];
    size_t best = 0;
    v_store(step, all.step);
    v_store(los, all.lo);
    v_store(per_step, all.per_step);
    v_store_i8(exponents, all.exponent);
    for (size_t i = 0; i < N_CANDIDATES; i++) {
        const candidate c = one_of(step, los, per_step, i);
        v_f squares = v_set1(0.0f), products = squares;
        for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16) {
            v_f row = v_load(x + t), d = error_of(row, code_of(row, &c, levels), &c);
            squares = v_add(squares, v_mul(d, d));
            products = v_add(products, v_mul(d, v_sub(row, mean)));
        }
        float product = v_sum(products), off = v_sum(squares) + u * product * (product / at_least);
        if (i == 0 || off < least) {
            least = off;
            best = i;
        }
    }
    const candidate c = one_of(step, los, per_step, best);
    v_f error = v_set1(0.0f);
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16) {
        v_f row = v_load(x + t), code = code_of(row, &c, levels);
        v_store_i8((int8_t *)codes + t, code);
        error = v_add(error, v_mul(error_of(row, code, &c), part));
    }
    *exponent = exponents[best];
    *lo = kvq_f16_from_f32_saturating(los[best] - v_sum(error));
}

/* ---- Feedback ---- */

static void subtract_rows_f64_v(const double *const *row, size_t c, const double *by, size_t n, double x[16])
{
    v_e low = v_e_load(x), high = v_e_load(x + 8);
    for (size_t j = 0; j < n; j++) {
        const v_e factor = v_e_set1(by[j]);
        low = v_e_sub(low, v_e_mul(v_e_load(row[j] + c), factor));
        high = v_e_sub(high, v_e_mul(v_e_load(row[j] + c + 8), factor));
    }
    v_e_store(x, low);
    v_e_store(x + 8, high);
}

enum { MOMENT_ROWS = 4 }; /* of the triangle at a time: a query's numbers serve all of them */

static void add_moment_f32_v(const float *q, size_t n, size_t dim, float *moment)
{
    const size_t stride = (dim + 15) / 16 * 16;
    const v_f most = v_set1(KVQ_MOMENT_MOST), least = v_set1(-KVQ_MOMENT_MOST);
    for (size_t c = 0; c < dim; c += MOMENT_ROWS)
        for (size_t j = 0; j < c + MOMENT_ROWS; j += 16) {
            v_f sum[MOMENT_ROWS];
            float *row[MOMENT_ROWS];
            size_t n_columns[MOMENT_ROWS]; /* none of rows that are not there */
            V_UNROLL(4)
            for (size_t k = 0; k < MOMENT_ROWS; k++) {
                n_columns[k] = c + k < dim ? c + k + 1 : 0;
                row[k] = moment + (c + k) * n_columns[k] / 2;
                sum[k] = row_part(row[k], n_columns[k], j);
            }
            for (size_t i = 0; i < n; i++) {
                const v_f x = v_load(q + i * stride + j);
                V_UNROLL(4)
                for (size_t k = 0; k < MOMENT_ROWS; k++)
                    sum[k] = v_add(sum[k], v_mul(v_set1(q[i * stride + c + k]), x));
            }
            V_UNROLL(4)
            for (size_t k = 0; k < MOMENT_ROWS; k++) {
                const v_f x = v_min(v_max(sum[k], least), most);
                if (j + 16 <= n_columns[k])
                    v_store(row[k] + j, x);
                else if (j < n_columns[k])
                    v_store_part(row[k] + j, x, n_columns[k] - j);
            }
        }
}

/* ---- Levels ---- */

enum { LEVEL_ROWS = 4 }; /* rows of factors that share the levels of a code, at most */

/* `n_thresholds` is a constant. The last level whose threshold is passed stands; to pass is to be larger by
 * 2^-127, which is nothing beside any threshold but 0. */
V_INLINE float choose(const float *y, size_t n, const float *thresholds, const float *levels,
                      size_t n_thresholds, uint8_t *codes)
{
    v_f sum = v_set1(0.0f);
    for (size_t c = 0; c < n; c += 16) {
        v_f x = v_load(y + c), code = v_set1(0.0f), level = v_set1(levels[0]);
        V_UNROLL(15)
        for (size_t i = 0; i < n_thresholds; i++) {
            const v_f threshold = v_set1(thresholds[i] + 0x1p-127f);
            code = v_if_less(threshold, x, v_set1((float)(i + 1)), code);
            level = v_if_less(threshold, x, v_set1(levels[i + 1]), level);
        }
        v_store_i8((int8_t *)codes + c, code);
        sum = v_add(sum, v_mul(x, level));
    }
    return v_sum(sum);
}

static float choose_levels_v(const float *y, size_t n, const float *thresholds, const float *levels,
                             uint32_t width, uint8_t *codes)
{
    switch (width) {
    case 1:
        return choose(y, n, thresholds, levels, 1, codes);
    case 2:
        return choose(y, n, thresholds, levels, 3, codes);
    case 3:
        return choose(y, n, thresholds, levels, 7, codes);
    default:
        return choose(y, n, thresholds, levels, 15, codes);
    }
}

/* Sixteen channels of a block for n_q rows of factors; `low` and `high` (0 if there is one only) are the
 * widths of planes. All three are constants. */
V_INLINE void accumulate_sixteen(const kvq_block_codes *codes, const float *table, const float *factor,
                                 const size_t offset[KVQ_MAX_PLANES], uint32_t low, uint32_t high, size_t n_q,
                                 v_f sum[LEVEL_ROWS])
{
    enum { EIGHT = 8 }; /* tokens: two of each place within the bytes of a dword */
    const v_i low_mask = v_i_set1((1u << low) - 1u), high_mask = v_i_set1((1u << high) - 1u);
    for (uint32_t t = 0; t < KVQ_BLOCK; t += EIGHT, factor += EIGHT) {
        v_i lower = v_i_load(codes->from[0] + offset[0] + t * low / 32 * 64), upper = lower;
        lower = v_i_shift_right(lower, t * low % 32 / 4);
        if (high != 0) {
            upper = v_i_load(codes->from[1] + offset[1] + t * high / 32 * 64);
            upper = v_i_shift_right(upper, t * high % 32 / 4);
        }
        V_UNROLL(8)
        for (uint32_t j = 0; j < EIGHT; j++) {
            v_i code = v_i_and(v_i_shift_right(lower, j % 4 * 8 + j / 4 * low), low_mask);
            if (high != 0) {
                v_i above = v_i_and(v_i_shift_right(upper, j % 4 * 8 + j / 4 * high), high_mask);
                code = v_i_or(code, v_i_shift_left(above, low));
            }
            const v_f level = v_i_pick(code, table, low + high <= 3 ? 8 : 16);
            V_UNROLL(4)
            for (size_t i = 0; i < n_q; i++)
                sum[i] = v_add(sum[i], v_mul(v_set1(factor[i * KVQ_SUPERBLOCK + j]), level));
        }
    }
}

V_INLINE void accumulate_rows_of_levels(const kvq_block_codes *codes, const float *table, const float *factor,
                                        uint32_t low, uint32_t high, size_t n_q, size_t dim, float *acc)
{
    for (size_t c = 0; c < dim; c += 16) {
        const size_t offset[KVQ_MAX_PLANES] = {c / 16 * codes->stride[0], c / 16 * codes->stride[1]};
        v_f sum[LEVEL_ROWS];
        V_UNROLL(4)
        for (size_t i = 0; i < n_q; i++)
            sum[i] = v_load(acc + i * dim + c);
        accumulate_sixteen(codes, table, factor, offset, low, high, n_q, sum);
        V_UNROLL(4)
        for (size_t i = 0; i < n_q; i++)
            v_store(acc + i * dim + c, sum[i]);
    }
}

/* `low` and `high` are constants. */
V_INLINE void accumulate_any_levels(const kvq_block_codes *codes, const float *table, const float *factor,
                                    uint32_t low, uint32_t high, size_t n_q, size_t dim, float *acc)
{
    for (size_t left = n_q, n; left > 0; left -= n, factor += n * KVQ_SUPERBLOCK, acc += n * dim) {
        n = left >= LEVEL_ROWS ? LEVEL_ROWS : left >= 2 ? 2 : 1;
        if (n == LEVEL_ROWS)
            accumulate_rows_of_levels(codes, table, factor, low, high, LEVEL_ROWS, dim, acc);
        else if (n == 2)
            accumulate_rows_of_levels(codes, table, factor, low, high, 2, dim, acc);
        else
            accumulate_rows_of_levels(codes, table, factor, low, high, 1, dim, acc);
    }
}

static void accumulate_levels_v(const kvq_block_codes *codes, const float *levels, const float *factor,
                                size_t n_q, size_t dim, float *acc)
{
    float table[16] = {0};
    uint32_t bits = 0;
    for (size_t i = 0; i < codes->n_planes; i++)
        bits += codes->width[i];
    memcpy(table, levels, sizeof *table << bits);
    if (bits == 1)
        accumulate_any_levels(codes, table, factor, 1, 0, n_q, dim, acc);
    else if (bits == 2)
        accumulate_any_levels(codes, table, factor, 2, 0, n_q, dim, acc);
    else if (bits == 3)
        accumulate_any_levels(codes, table, factor, 2, 1, n_q, dim, acc);
    else
        accumulate_any_levels(codes, table, factor, 4, 0, n_q, dim, acc);
}

/* ---- The Hadamard transform ---- */

/* n <= 64 numbers, n / 16 a constant, all butterflies in registers; then times `factor`. */
V_INLINE void hadamard_in_registers(float *x, size_t n, float factor)
{
    const v_f by = v_set1(factor);
    v_f row[4];
    V_UNROLL(4)
    for (size_t i = 0; i < n / 16; i++) {
        row[i] = v_butterfly(v_load(x + 16 * i), 1);
        row[i] = v_butterfly(row[i], 2);
        row[i] = v_butterfly(row[i], 4);
        row[i] = v_butterfly(row[i], 8);
    }
    V_UNROLL(2)
    for (size_t half = 1; half < n / 16; half *= 2)
        V_UNROLL(4)
    for (size_t i = 0; i < n / 16; i++)
        if ((i & half) == 0) {
            v_f a = row[i], b = row[i + half];
            row[i] = v_add(a, b);
            row[i + half] = v_sub(a, b);
        }
    V_UNROLL(4)
    for (size_t i = 0; i < n / 16; i++)
        v_store(x + 16 * i, v_mul(row[i], by));
}

/* n < 16. */
V_INLINE void hadamard_of_few(float *x, size_t n, float factor)
{
    for (size_t half = 1; half < n; half *= 2)
        for (size_t i = 0; i < n; i++)
            if ((i & half) == 0) {
                float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
    for (size_t i = 0; i < n; i++)
        x[i] *= factor;
}

static void hadamard_f32_v(float *x, size_t n)
{
    float factor = 1.0f;
    size_t left = n;
    for (; left >= 4; left /= 4)
        factor *= 0.5f;
    if (left == 2)
        factor *= 0x1.6a09e6p-1f; /* the float nearest to sqrt(1/2) */
    if (n < 16) {
        hadamard_of_few(x, n, factor);
    } else if (n == 16) {
        hadamard_in_registers(x, 16, factor);
    } else if (n == 32) {
        hadamard_in_registers(x, 32, factor);
    } else {
        for (size_t i = 0; i < n; i += 64)
            hadamard_in_registers(x + i, 64, n == 64 ? factor : 1.0f);
        for (size_t half = 64; half < n; half *= 2) {
            const v_f by = v_set1(2 * half == n ? factor : 1.0f);
            for (size_t i = 0; i < n; i += 16)
                if ((i & half) == 0) {
                    v_f a = v_load(x + i), b = v_load(x + i + half);
                    v_store(x + i, v_mul(v_add(a, b), by));
                    v_store(x + i + half, v_mul(v_sub(a, b), by));
                }
        }
    }
}

static int32_t rotate_row_v(const float *x, size_t dim, float *y, float *square)
{
    v_f largest = v_set1(0.0f), sum = largest;
    for (size_t c = 0; c < dim; c += 16)
        largest = v_max(largest, v_abs(row_part(x, dim, c)));
    const uint32_t bits = kvq_bits_of_f32(v_largest(largest));
    const int32_t to_one = 126 - (int32_t)(bits >> 23), shift = to_one < -126 ? -126 : to_one;
    const v_f factor = v_set1(kvq_f32_of_bits((uint32_t)(shift + 127) << 23));
    for (size_t c = 0; c < dim; c += 16)
        v_store(y + c, v_mul(row_part(x, dim, c), factor));
    for (size_t c = 0, n = 0; c < dim; c += n) {
        for (n = KVQ_DIM_MAX; n > dim - c;)
            n /= 2;
        hadamard_f32_v(y + c, n);
    }
    for (size_t c = 0; c < dim; c += 16) {
        v_f part = v_load(y + c);
        sum = v_add(sum, v_mul(part, part));
    }
    *square = v_sum(sum);
    return shift;
}

/* The slots of a table that this file fills. */
#define V_FIT_KERNELS                                                                                        \
    .channel_stats = channel_stats_v, .fit_channels = fit_channels_v, .fit_channel = fit_channel_v,          \
    .subtract_rows_f64 = subtract_rows_f64_v, .add_moment_f32 = add_moment_f32_v,                            \
    .choose_levels = choose_levels_v, .hadamard_f32 = hadamard_f32_v, .rotate_row = rotate_row_v,            \
    .accumulate_levels = accumulate_levels_v

#endif /* KVQ_QUANT_VECTOR_FIT_H */
