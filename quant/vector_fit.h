/*
 * Template of the kernels that codec_tier.c and codec_rot.c encode with: the search of grids, levels, and the
 * Hadamard transform, which attention needs too. For vectors and, with lanes.h, for the portable table: one
 * source, so the same bits. All EXACT.
 */
#ifndef KVQ_QUANT_VECTOR_FIT_H
#define KVQ_QUANT_VECTOR_FIT_H

#include "quant/kernels.h"
#include "quant/logstep.h"

#ifndef V_PLAIN_LANES
#include "quant/vector_complete.h"
#endif

#include <math.h>

/* ---- Fitting: sixteen channels side by side ---- */

/* What 128 tokens of sixteen channels look like. */
typedef struct tile_stats {
    v_f mean, min, max, square; /* square: sum of squared differences from the mean */
} tile_stats;

/* Sums of x / 128 cannot pass the largest float by more than rounding, which the clamp takes back; the
 * second pass makes the mean as exact as the numbers. Sums of squares may become Inf. */
V_INLINE tile_stats stats_of(const float *x)
{
    const v_f part = v_set1(1.0f / KVQ_SUPERBLOCK);
    v_f sum = v_set1(0.0f), rest = v_set1(0.0f), square = v_set1(0.0f), min = v_load(x), max = min;
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t++) {
        v_f row = v_load(x + 16 * t);
        sum = v_add(sum, v_mul(row, part));
        min = v_min(min, row);
        max = v_max(max, row);
    }
    v_f mean = v_min(v_max(sum, min), max), mean_part = v_mul(mean, part);
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t++)
        rest = v_add(rest, v_sub(v_mul(v_load(x + 16 * t), part), mean_part));
    mean = v_min(v_max(v_add(mean, rest), min), max);
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t++) {
        v_f centred = v_sub(v_load(x + 16 * t), mean);
        square = v_add(square, v_mul(centred, centred));
    }
    const v_f no_sign =
        v_set1(0.0f); /* of two zeros either may have come out; this makes it the positive one */
    return (tile_stats){v_add(mean, no_sign), v_add(min, no_sign), v_add(max, no_sign), square};
}

static void channel_squares_v(const float *x, float *square)
{
    v_store(square, stats_of(x).square);
}

/* The candidates, in the order in which the first of equals wins: steps in units of the deviation around the
 * mean, then in units of the range around its middle. */
enum { N_AROUND_MEAN = 6, N_CANDIDATES = 9, AT_ONCE = 3 };

/* One candidate for each of sixteen channels. */
typedef struct candidate {
    float step[16], lo[16];
    int8_t exponent[16];
} candidate;

/* Those of n channels, 1 or 16. */
V_INLINE void make_candidates(uint32_t bits, size_t n, const float *mean, const float *min, const float *max,
                              const float *square, candidate candidates[N_CANDIDATES])
{
    static const float around_mean[N_AROUND_MEAN] = {0.7f, 0.8f, 0.9f, 1.0f, 1.12f, 1.3f};
    static const float around_middle[N_CANDIDATES - N_AROUND_MEAN] = {1.0f, 0.9f, 0.8f};
    static const float per_deviation[7] = {0, 1.596f, 0.9957f, 0.586f, 0.3352f, 0.1881f, 0.1041f};
    const float levels = (float)((1u << bits) - 1u), narrower = bits == 1 ? 0.6f : 1.0f;
    for (size_t i = 0; i < N_CANDIDATES; i++)
        for (size_t j = 0; j < n; j++) {
            float centre = i < N_AROUND_MEAN ? mean[j] : 0.5f * min[j] + 0.5f * max[j];
            float step =
                i < N_AROUND_MEAN
                    ? sqrtf(square[j] * (1.0f / KVQ_SUPERBLOCK)) * per_deviation[bits] * around_mean[i]
                    : (max[j] - min[j]) / levels * (around_middle[i - N_AROUND_MEAN] * narrower);
            int32_t exponent = kvq_log2_8th(step);
            candidates[i].exponent[j] = (int8_t)exponent;
            candidates[i].step[j] = kvq_exp2_8th(exponent);
            candidates[i].lo[j] = kvq_round_to_f16(centre - candidates[i].step[j] * (0.5f * levels));
        }
}

static void make_sixteen(uint32_t bits, const tile_stats *stats, candidate candidates[N_CANDIDATES])
{
    float mean[16], min[16], max[16], square[16];
    v_store(mean, stats->mean);
    v_store(min, stats->min);
    v_store(max, stats->max);
    v_store(square, stats->square);
    make_candidates(bits, 16, mean, min, max, square, candidates);
}

/* Code of x, and the error of what it stands for. */
V_INLINE v_f code_of(v_f x, v_f lo, v_f per_step, v_f levels)
{
    return v_round(v_min(v_max(v_mul(v_sub(x, lo), per_step), v_set1(0.0f)), levels));
}

/* How far AT_ONCE candidates are off: sums of d^2 and of d * (x - mean). */
V_INLINE void measure(const float *x, v_f mean, v_f levels, const candidate *candidates, float (*square)[16],
                      float (*product)[16])
{
    v_f step[AT_ONCE], lo[AT_ONCE], per_step[AT_ONCE], squares[AT_ONCE], products[AT_ONCE];
    V_UNROLL(3)
    for (size_t i = 0; i < AT_ONCE; i++) {
        float inverse[16];
        for (size_t j = 0; j < 16; j++)
            inverse[j] = 1.0f / candidates[i].step[j];
        step[i] = v_load(candidates[i].step);
        lo[i] = v_load(candidates[i].lo);
        per_step[i] = v_load(inverse);
        squares[i] = products[i] = v_set1(0.0f);
    }
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t++) {
        v_f row = v_load(x + 16 * t), centred = v_sub(row, mean);
        V_UNROLL(3)
        for (size_t i = 0; i < AT_ONCE; i++) {
            v_f code = code_of(row, lo[i], per_step[i], levels);
            v_f d = v_sub(v_add(v_mul(code, step[i]), lo[i]), row);
            squares[i] = v_add(squares[i], v_mul(d, d));
            products[i] = v_add(products[i], v_mul(d, centred));
        }
    }
    V_UNROLL(3)
    for (size_t i = 0; i < AT_ONCE; i++) {
        v_store(square[i], squares[i]);
        v_store(product[i], products[i]);
    }
}

/* Codes for the candidate that won; lo moves by the mean error. */
V_INLINE void settle(const float *x, v_f levels, const candidate *best, uint8_t *codes, uint16_t *lo)
{
    const v_f step = v_load(best->step), start = v_load(best->lo), part = v_set1(1.0f / KVQ_SUPERBLOCK);
    float inverse[16], mean_error[16];
    for (size_t j = 0; j < 16; j++)
        inverse[j] = 1.0f / best->step[j];
    v_f per_step = v_load(inverse), error = v_set1(0.0f);
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t++) {
        v_f row = v_load(x + 16 * t), code = code_of(row, start, per_step, levels);
        v_store_i8((int8_t *)codes + 16 * t, code);
        error = v_add(error, v_mul(v_sub(v_add(v_mul(code, step), start), row), part));
    }
    v_store(mean_error, error);
    for (size_t j = 0; j < 16; j++)
        lo[j] = kvq_f16_from_f32_saturating(best->lo[j] - mean_error[j]);
}

static void fit_channels_v(const float *x, uint32_t bits, float u, uint8_t *codes, int8_t *exponent,
                           uint16_t *lo)
{
    tile_stats stats = stats_of(x);
    if (bits == 0) {
        float mean[16];
        v_store(mean, stats.mean);
        for (size_t j = 0; j < 16; j++)
            lo[j] = kvq_f16_from_f32_saturating(mean[j]);
        memset(exponent, 0, 16);
        memset(codes, 0, (size_t)16 * KVQ_SUPERBLOCK);
        return;
    }
    candidate candidates[N_CANDIDATES], best;
    float square[N_CANDIDATES][16], product[N_CANDIDATES][16], of_x[16], least[16] = {0};
    v_f levels = v_set1((float)((1u << bits) - 1u));
    make_sixteen(bits, &stats, candidates);
    for (size_t i = 0; i < N_CANDIDATES; i += AT_ONCE)
        measure(x, stats.mean, levels, candidates + i, square + i, product + i);
    v_store(of_x, stats.square);
    best = candidates[0];
    for (size_t i = 0; i < N_CANDIDATES; i++)
        for (size_t j = 0; j < 16; j++) {
            float at_least = of_x[j] > 1e-12f ? of_x[j] : 1e-12f;
            float off = square[i][j] + u * product[i][j] * (product[i][j] / at_least);
            if (i > 0 && !(off < least[j])) /* NaN, of numbers beyond any scale, never wins */
                continue;
            least[j] = off;
            best.step[j] = candidates[i].step[j];
            best.lo[j] = candidates[i].lo[j];
            best.exponent[j] = candidates[i].exponent[j];
        }
    settle(x, levels, &best, codes, lo);
    memcpy(exponent, best.exponent, sizeof best.exponent);
}

/* ---- Fitting one channel: sixteen tokens side by side ---- */

typedef struct row_stats {
    float mean, min, max, square;
} row_stats;

/* As stats_of; sums are in the order of dot_f32. */
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

/* What measure does, of candidates' first channels. */
V_INLINE float measure_row(const float *x, const row_stats *s, v_f levels, float u, const candidate *c)
{
    const v_f step = v_set1(c->step[0]), lo = v_set1(c->lo[0]), per_step = v_set1(1.0f / c->step[0]),
              mean = v_set1(s->mean);
    v_f squares = v_set1(0.0f), products = squares;
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16) {
        v_f row = v_load(x + t), d = v_sub(v_add(v_mul(code_of(row, lo, per_step, levels), step), lo), row);
        squares = v_add(squares, v_mul(d, d));
        products = v_add(products, v_mul(d, v_sub(row, mean)));
    }
    float product = v_sum(products), at_least = s->square > 1e-12f ? s->square : 1e-12f;
    return v_sum(squares) + u * product * (product / at_least);
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
    candidate candidates[N_CANDIDATES];
    const v_f levels = v_set1((float)((1u << bits) - 1u)), part = v_set1(1.0f / KVQ_SUPERBLOCK);
    make_candidates(bits, 1, &s.mean, &s.min, &s.max, &s.square, candidates);
    const candidate *best = candidates;
    float least = measure_row(x, &s, levels, u, best);
    for (size_t i = 1; i < N_CANDIDATES; i++) {
        float off = measure_row(x, &s, levels, u, &candidates[i]);
        if (off < least) {
            least = off;
            best = &candidates[i];
        }
    }
    const v_f step = v_set1(best->step[0]), start = v_set1(best->lo[0]),
              per_step = v_set1(1.0f / best->step[0]);
    v_f error = v_set1(0.0f);
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 16) {
        v_f row = v_load(x + t), code = code_of(row, start, per_step, levels);
        v_store_i8((int8_t *)codes + t, code);
        error = v_add(error, v_mul(v_sub(v_add(v_mul(code, step), start), row), part));
    }
    *exponent = best->exponent[0];
    *lo = kvq_f16_from_f32_saturating(best->lo[0] - v_sum(error));
}

/* ---- Levels ---- */

static float choose_levels_v(const float *y, size_t n, const float *thresholds, const float *levels,
                             uint32_t width, uint8_t *codes)
{
    const v_f zero = v_set1(0.0f), one = v_set1(1.0f), steep = v_set1(0x1p126f);
    const size_t n_thresholds = ((size_t)1 << width) - 1;
    float table[16] = {0};
    v_f sum = zero;
    memcpy(table, levels, sizeof *table << width);
    for (size_t c = 0; c < n; c += 16) {
        v_f x = v_load(y + c), code = zero;
        for (size_t i = 0; i < n_thresholds; i++) /* a difference is 0 or, times 2^126, at least 1 or so */
            code = v_add(code, v_min(v_max(v_mul(v_sub(x, v_set1(thresholds[i])), steep), zero), one));
        code = v_round(code);
        v_store_i8((int8_t *)codes + c, code);
        sum = v_add(sum, v_mul(x, v_i_pick(v_i_nearest(code), table)));
    }
    return v_sum(sum);
}

/* ---- The Hadamard transform ---- */

/* Distances below 16, inside vectors, in a form that compilers make shuffles of. */
V_INLINE void butterflies_within(float *x, size_t n, size_t distance)
{
    for (size_t i = 0; i < n; i += 2 * distance)
        for (size_t j = i; j < i + distance; j++) {
            float a = x[j], b = x[j + distance];
            x[j] = a + b;
            x[j + distance] = a - b;
        }
}

static void hadamard_f32_v(float *x, size_t n)
{
    for (size_t distance = 1, half = n / 2; distance <= half; distance *= 2) {
        if (distance < 16) {
            switch (distance) {
            case 1:
                butterflies_within(x, n, 1);
                break;
            case 2:
                butterflies_within(x, n, 2);
                break;
            case 4:
                butterflies_within(x, n, 4);
                break;
            default:
                butterflies_within(x, n, 8);
            }
            continue;
        }
        for (size_t i = 0; i < n; i += 2 * distance)
            for (size_t j = i; j < i + distance; j += 16) {
                v_f a = v_load(x + j), b = v_load(x + j + distance);
                v_store(x + j, v_add(a, b));
                v_store(x + j + distance, v_sub(a, b));
            }
    }
    float scale = 1.0f;
    size_t left = n;
    for (; left >= 4; left /= 4)
        scale *= 0.5f;
    if (left == 2)
        scale *= 0x1.6a09e6p-1f; /* the float nearest to sqrt(1/2) */
    for (size_t i = 0; i < n; i++)
        x[i] *= scale;
}

/* The slots of a table that this file fills. */
#define V_FIT_KERNELS                                                                                        \
    .channel_squares = channel_squares_v, .fit_channels = fit_channels_v, .fit_channel = fit_channel_v,      \
    .choose_levels = choose_levels_v, .hadamard_f32 = hadamard_f32_v

#endif /* KVQ_QUANT_VECTOR_FIT_H */
