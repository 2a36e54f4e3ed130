/*
 * Kernels behind the codecs of kvq2 (codec_tier.c, codec_rot.c), against formulas in double and the portable
 * kernel's bits.
 */
#include "quant/logstep.h"
#include "tests/kernel_checks.h"

#include <float.h>

enum { TILE = T * LANES };

static const float *tile_in(guarded *g, fill_kind kind)
{
    return floats_in(g, kind, T, LANES);
}

/* Mean and sum of squared differences of channel j. */
static double square_by_formula(const float *x, size_t j, double *mean)
{
    double square = 0;
    *mean = 0;
    for (size_t t = 0; t < T; t++)
        *mean += (double)x[t * LANES + j] / T;
    for (size_t t = 0; t < T; t++)
        square += ((double)x[t * LANES + j] - *mean) * ((double)x[t * LANES + j] - *mean);
    return square;
}

/* The statistics of a tile, from rows further apart, some of them in a place of their own. */
static void stats_of(const kvq_kernels *k, const float *x, size_t stride, kvq_channels *stats)
{
    float *rows = place(&in_b, random_placing(&r), T * stride, sizeof *rows), elsewhere[2 * LANES];
    const float *row[T];
    const size_t odd = rng_below(&r, T), c = stride - LANES;
    memset(rows, 0xff, T * stride * sizeof *rows); /* NaN, which is not looked at */
    for (size_t t = 0; t < T; t++) {
        row[t] = t == odd ? elsewhere : rows + t * stride;
        memcpy((t == odd ? elsewhere : rows + t * stride) + c, x + t * LANES, LANES * sizeof *rows);
    }
    k->channel_stats(row, c, stats);
}

void check_channel_stats(const kvq_kernels *k)
{
    for (size_t i = 0; i < 8 * N_FILLS; i++) {
        fill_kind kind = (fill_kind)(i % N_FILLS);
        const float *x = tile_in(&in_a, kind);
        kvq_channels *got = place(&out_a, random_placing(&r), 1, sizeof *got), spec;
        stats_of(k, x, LANES + rng_below(&r, 3), got);
        stats_of(&kvq_kernels_portable, x, LANES, &spec);
        check_canaries(&out_a, "channel_stats");
        cr_assert(same_bits("channel_stats", got, &spec, sizeof spec), "%s", fill_names[kind]);
        for (size_t j = 0; j < LANES; j++) {
            double mean, square = square_by_formula(x, j, &mean);
            float min = INFINITY, max = -INFINITY;
            for (size_t t = 0; t < T; t++) {
                min = fminf(min, x[t * LANES + j]);
                max = fmaxf(max, x[t * LANES + j]);
            }
            cr_assert(got->min[j] == min && got->max[j] == max && got->mean[j] >= min && got->mean[j] <= max);
            if (kind >= FILL_HUGE)
                continue;
            cr_assert(fabs((double)got->mean[j] - mean) <= 1e-6 * (double)fmaxf(-min, max) + 1e-38);
            cr_assert(fabs((double)got->square[j] - square) <= 1e-4 * square + mean * mean * 1e-9 + 1e-30,
                      "%s: %g, not %g", fill_names[kind], (double)got->square[j], square);
        }
    }
}

/* What the search minimizes, for one candidate. */
static double objective(const float *x, size_t j, uint32_t bits, double u, double step, double lo)
{
    double mean, square = square_by_formula(x, j, &mean), off = 0, product = 0;
    for (size_t t = 0; t < T; t++) {
        double value = (double)x[t * LANES + j], code = nearbyint((value - lo) / step);
        double d = fmin(fmax(code, 0), ldexp(1, (int)bits) - 1) * step + lo - value;
        off += d * d;
        product += d * (value - mean);
    }
    return off + u * product * product / fmax(square, 1e-12);
}

/* The step that was found is as good as the best candidate, up to float rounding. */
static void check_search(const float *x, size_t j, uint32_t bits, float u, int exponent)
{
    static const double s[7] = {0, 1.596, 0.9957, 0, 0.3352, 0, 0.1041};
    static const double factors[9] = {0.7, 0.8, 0.9, 1, 1.12, 1.3, 1, 0.9, 0.8};
    double mean, sd = sqrt(square_by_formula(x, j, &mean) / T), least = INFINITY, got = INFINITY;
    double min = INFINITY, max = -INFINITY, levels = ldexp(1, (int)bits) - 1;
    for (size_t t = 0; t < T; t++) {
        min = fmin(min, (double)x[t * LANES + j]);
        max = fmax(max, (double)x[t * LANES + j]);
    }
    for (size_t i = 0; i < 9; i++) {
        double step =
            i < 6 ? sd * s[bits] * factors[i] : (max - min) / levels * factors[i] * (bits == 1 ? 0.6 : 1);
        double n = fmin(fmax(nearbyint(8 * log2(step)), -128), 127);
        double lo = (i < 6 ? mean : (min + max) / 2) - exp2(n / 8) * levels / 2;
        double off = objective(x, j, bits, (double)u, exp2(n / 8), (double)kvq_round_to_f16((float)lo));
        least = fmin(least, off);
        got = n == exponent ? fmin(got, off) : got;
    }
    cr_assert(got <= least * (1 + 1e-4), "%u bits: 2^(%d/8) is off by %g, another by %g", bits, exponent, got,
              least);
}

/* The codes of channel j are in the order of its numbers. */
static void check_order(const float *x, size_t j, const uint8_t *codes)
{
    const uint8_t *own = codes + j / 4 * 4 * T + j % 4;
    for (size_t t = 0; t < T; t++) {
        size_t other = rng_below(&r, T);
        cr_assert(x[t * LANES + j] < x[other * LANES + j] ? own[4 * t] <= own[4 * other]
                                                          : own[4 * t] >= own[4 * other]);
    }
}

void check_fit_channels(const kvq_kernels *k)
{
    static const uint32_t widths[] = {0, 1, 2, 4, 6};
    for (size_t i = 0; i < 5 * N_FILLS; i++) {
        fill_kind kind = (fill_kind)(i / 5);
        uint32_t bits = widths[i % 5];
        float u = (float)rng_below(&r, 11);
        const float *x = tile_in(&in_a, kind);
        uint8_t *codes = place(&out_a, random_placing(&r), TILE, 1), spec[TILE];
        int8_t exponent[LANES], spec_exponent[LANES];
        uint16_t lo[LANES], spec_lo[LANES];
        kvq_channels stats;
        stats_of(&kvq_kernels_portable, x, LANES, &stats);
        k->fit_channels(x, &stats, bits, u, codes, exponent, lo);
        kvq_kernels_portable.fit_channels(x, &stats, bits, u, spec, spec_exponent, spec_lo);
        check_canaries(&out_a, "fit_channels");
        cr_assert(same_bits("fit_channels", codes, spec, TILE), "%u bits, %s", bits, fill_names[kind]);
        cr_assert(memcmp(exponent, spec_exponent, LANES) == 0 && memcmp(lo, spec_lo, sizeof lo) == 0,
                  "%u bits, %s", bits, fill_names[kind]);
        for (size_t j = 0; j < TILE; j++)
            cr_assert(codes[j] < 1u << bits, "code %u of %u bits", codes[j], bits);
        for (size_t j = 0; j < LANES; j++) {
            cr_assert((lo[j] & 0x7fffu) < 0x7c00u, "lo is not finite");
            check_order(x, j, codes);
            if (kind == FILL_NORMAL && bits > 0)
                check_search(x, j, bits, u, exponent[j]);
        }
    }
}

/* The same, one channel at a time. */
void check_fit_channel(const kvq_kernels *k)
{
    static const uint32_t widths[] = {0, 1, 2, 4, 6};
    for (size_t i = 0; i < 5 * N_FILLS * 4; i++) {
        fill_kind kind = (fill_kind)(i / 20);
        uint32_t bits = widths[i % 5];
        float u = (float)rng_below(&r, 11), tile[TILE] = {0};
        const float *x = floats_in(&in_a, kind, T, 1);
        uint8_t *codes = place(&out_a, random_placing(&r), T, 1), spec[T];
        int8_t exponent, spec_exponent;
        uint16_t lo, spec_lo;
        k->fit_channel(x, bits, u, codes, &exponent, &lo);
        kvq_kernels_portable.fit_channel(x, bits, u, spec, &spec_exponent, &spec_lo);
        check_canaries(&out_a, "fit_channel");
        cr_assert(same_bits("fit_channel", codes, spec, T), "%u bits, %s", bits, fill_names[kind]);
        cr_assert(exponent == spec_exponent && lo == spec_lo && (lo & 0x7fffu) < 0x7c00u, "%u bits, %s", bits,
                  fill_names[kind]);
        for (size_t t = 0; t < T; t++) {
            cr_assert(codes[t] < 1u << bits, "code %u of %u bits", codes[t], bits);
            tile[t * LANES] = x[t];
        }
        if (kind == FILL_NORMAL && bits > 0)
            check_search(tile, 0, bits, u, exponent);
    }
}

void check_subtract_rows_f64(const kvq_kernels *k)
{
    for (size_t i = 0; i < 40; i++) {
        const size_t n = i % 8 == 0 ? 0 : rng_below(&r, 100), c = rng_below(&r, 5);
        double *rows = place(&in_a, random_placing(&r), (n + 1) * (LANES + c), sizeof *rows), by[100],
               *x = place(&out_a, random_placing(&r), LANES, sizeof *x), wanted[LANES];
        const double *row[100];
        for (size_t j = 0; j < (n + 1) * (LANES + c); j++)
            rows[j] = (double)rng_normal(&r) * (1 + (double)rng_normal(&r) * 0x1p-30);
        for (size_t j = 0; j < n; j++) {
            row[j] = rows + (n - j) * (LANES + c);
            by[j] = (double)rng_normal(&r) / 3;
        }
        for (size_t j = 0; j < LANES; j++) {
            wanted[j] = x[j] = (double)rng_normal(&r) / 7;
            for (size_t l = 0; l < n; l++) {
                volatile double product = row[l][c + j] * by[l];
                wanted[j] -= product;
            }
        }
        k->subtract_rows_f64(row, c, by, n, x);
        check_canaries(&out_a, "subtract_rows_f64");
        cr_assert(same_bits("subtract_rows_f64", x, wanted, sizeof wanted), "n = %zu", n);
    }
}

/* Rows of q, normal or so large that sums stop growing; what is past dim has no part in anything. */
void check_add_moment_f32(const kvq_kernels *k)
{
    enum { DIM = 70, N = 20 };
    for (size_t i = 0; i < 200; i++) {
        const size_t n = rng_below(&r, N + 1), dim = 1 + (i < DIM ? i : rng_below(&r, DIM));
        const size_t stride = (dim + LANES - 1) / LANES * LANES, n_sums = dim * (dim + 1) / 2;
        const float size = i % 8 == 7 ? 0x1p60f : 1.0f;
        float *q = place(&in_a, random_placing(&r), (n + 1) * stride, sizeof *q), wanted[DIM * (DIM + 1) / 2],
              *moment = place(&out_a, random_placing(&r), n_sums, sizeof *moment);
        for (size_t j = 0; j < n * stride; j++)
            q[j] = size * rng_normal(&r);
        for (size_t c = 0, at = 0; c < dim; c++)
            for (size_t j = 0; j <= c; j++, at++) {
                wanted[at] = moment[at] = size * (size * rng_normal(&r) / 3);
                for (size_t row = 0; row < n; row++) {
                    volatile float product = q[row * stride + c] * q[row * stride + j];
                    wanted[at] += product;
                }
                wanted[at] = fminf(fmaxf(wanted[at], -KVQ_MOMENT_MOST), KVQ_MOMENT_MOST);
            }
        k->add_moment_f32(q, n, dim, moment);
        check_canaries(&out_a, "add_moment_f32");
        cr_assert(same_bits("add_moment_f32", moment, wanted, n_sums * sizeof *wanted), "n = %zu, D = %zu", n,
                  dim);
    }
}

static float folded_at(const int8_t *folded, size_t i)
{
    const int8_t *sixteen = folded + i / LANES * 2 * LANES;
    return (float)(sixteen[i % LANES] + 256 * sixteen[LANES + i % LANES]);
}

/* D channels in a random order, some of them in classes, others without codes. */
typedef struct ordered_case {
    kvq_ordered o;
    int8_t exponent[KVQ_DIM_MAX];
    uint16_t lo[KVQ_DIM_MAX], channel[KVQ_DIM_MAX];
    size_t n; /* places */
} ordered_case;

static void make_ordered(ordered_case *c, size_t dim, uint64_t exponents)
{
    size_t padded = (dim + LANES - 1) / LANES * LANES, n_classes = rng_below(&r, KVQ_CLASSES_MAX + 1);
    c->o = (kvq_ordered){.dim = dim, .exponent = c->exponent, .lo = c->lo, .channel = c->channel};
    for (size_t i = 0; i < padded; i++) {
        size_t j = i < dim ? rng_below(&r, i + 1) : i; /* channels that pad come last */
        c->channel[i] = c->channel[j];
        c->channel[j] = (uint16_t)i;
        c->exponent[i] = (int8_t)((int)rng_below(&r, exponents) - (int)(exponents / 2));
        c->lo[i] = kvq_f16_from_f32(rng_normal(&r));
    }
    for (c->n = 0; c->o.n_classes < n_classes && c->n < padded; c->o.n_classes++) {
        size_t n = (1 + rng_below(&r, (padded - c->n) / LANES)) * LANES;
        c->o.half_levels[c->o.n_classes] = 0.5f * (float)(1 + rng_below(&r, 15));
        c->o.n_places[c->o.n_classes] = n;
        c->n += n;
    }
}

/* What a rest is folded from, where rounding made `wanted` of y. */
static float rest_of(float y, float wanted)
{
    return nearbyintf(single((double)single((double)y - (double)wanted) * (double)KVQ_REST_SCALE));
}

/* The first places of a query, which are a class, and their rest if there is one: what was folded, and what
 * rounding took. */
static void check_class(const float *x, size_t n, float per_unit, const int8_t *folded,
                        const int8_t *folded_rest, float rest[LANES])
{
    for (size_t i = 0; i < kvq_fold_dim(n); i++) {
        float y = i < n ? single((double)x[i] * (double)per_unit) : 0.0f, wanted = nearbyintf(y);
        cr_assert(folded_at(folded, i) == wanted, "place %zu is %g, not %g", i, (double)folded_at(folded, i),
                  (double)wanted);
        if (folded_rest != NULL)
            cr_assert(folded_at(folded_rest, i) == rest_of(y, wanted), "rest of place %zu is %g, not %g", i,
                      (double)folded_at(folded_rest, i), (double)rest_of(y, wanted));
        else
            rest[i % LANES] = single((double)rest[i % LANES] + (double)(y - wanted));
    }
}

/* Query number i of a call. */
static void check_query(const ordered_case *c, const float *q, size_t n_q, bool wide, size_t i,
                        const int8_t *folded, const float *step, const float *bias)
{
    float x[KVQ_DIM_MAX], lane[LANES] = {0}, largest = 0, same_step;
    for (size_t j = 0; j < c->n; j++) {
        size_t channel = c->channel[j];
        float q_c = channel < c->o.dim ? q[channel] : 0.0f;
        x[j] = single((double)q_c * (double)kvq_exp2_8th(c->exponent[channel]));
        largest = fmaxf(largest, fabsf(x[j]));
    }
    float per_unit = kvq_fold_per_unit(largest, &same_step);
    cr_assert((per_unit > 0) == (largest >= KVQ_FOLD_MIN && largest <= KVQ_FOLD_MAX) &&
              (step[i] > KVQ_FOLD_MAX) == (largest > KVQ_FOLD_MAX));
    cr_assert(per_unit == 0 || fabs((double)step[i] * KVQ_FOLDED_MAX / (double)largest - 1) < 0x1p-22);
    for (size_t j = 0; j < c->o.dim; j++) {
        float product = single((double)q[j] * (double)kvq_f32_from_f16(c->lo[j]));
        lane[j % LANES] = single((double)lane[j % LANES] + (double)product);
    }
    for (size_t j = 0, first = 0; j < c->o.n_classes; first += c->o.n_places[j++]) {
        size_t bytes = 2 * kvq_fold_dim(c->o.n_places[j]);
        float rest[LANES] = {0},
              factor = per_unit > 0 ? single((double)step[i] * (double)c->o.half_levels[j]) : 0;
        for (size_t place = first; per_unit == 0 && place < first + c->o.n_places[j]; place++)
            x[place] = 0.0f;
        check_class(x + first, c->o.n_places[j], per_unit, folded + i * bytes,
                    wide ? folded + (n_q + i) * bytes : NULL, rest);
        for (size_t l = 0; l < LANES; l++)
            lane[l] = single((double)lane[l] + (double)single((double)factor * (double)rest[l]));
        folded += (wide ? 2 * n_q : n_q) * bytes;
    }
    cr_assert(bias[i] == sum_lanes_by_contract(lane), "bias %a, not %a", (double)bias[i],
              (double)sum_lanes_by_contract(lane));
    cr_assert(!wide || (bias[n_q + i] == 0 && step[n_q + i] == step[i] / KVQ_REST_SCALE));
}

void check_fold_ordered(const kvq_kernels *k)
{
    enum { BYTES = KVQ_ROWS_MAX * 2 * (KVQ_DIM_MAX + KVQ_CLASSES_MAX * KVQ_BLOCK) };
    static int8_t folded[BYTES], spec[BYTES];
    static ordered_case c;
    for (size_t i = 0; i < 80; i++) {
        const bool wide = i % 5 < 2;
        size_t dim = 1 + rng_below(&r, i % 4 == 0 ? KVQ_DIM_MAX : MAX_DIM),
               n_q = 1 + rng_below(&r, kvq_rows_most(dim) / (wide ? 2u : 1u)), n_rows = wide ? 2 * n_q : n_q;
        float *q = floats_in(&in_a, FILL_NORMAL, n_q, dim);
        float *out = place(&out_a, random_placing(&r), 2 * n_rows, sizeof *out), spec_out[2 * KVQ_ROWS_MAX];
        make_ordered(&c, dim, i % 2 == 0 ? 256 : 32);
        for (size_t j = 0; j < dim && i % 8 == 0; j++) /* one query of zeros, one that does not fit */
            q[j] *= 0.0f, q[(n_q - 1) * dim + j] *= i % 16 == 0 ? 0x1p120f : 1.0f;
        k->fold_ordered(&c.o, q, n_q, wide, folded, out, out + n_rows);
        kvq_kernels_portable.fold_ordered(&c.o, q, n_q, wide, spec, spec_out, spec_out + n_rows);
        check_canaries(&out_a, "fold_ordered");
        cr_assert(same_bits("fold_ordered", out, spec_out, 2 * n_rows * sizeof *out) &&
                  same_bits("fold_ordered", folded, spec, sizeof folded));
        for (size_t j = 0; j < n_q; j++)
            check_query(&c, q + j * dim, n_q, wide, j, folded, out, out + n_rows);
    }
}

/* Row i of p, and what was made of it; nothing folds if its largest product does not. */
static void check_row_of_products(const float *p, size_t n, const float *scale, const bool *left_out,
                                  const float *x, const int8_t *folded, const kvq_fold *out,
                                  const int8_t *folded_rest, const kvq_fold *out_rest)
{
    float lane[LANES] = {0}, square[LANES] = {0}, product[T], sum = 0, sum_of_rest = 0, largest = 0,
          same_step;
    for (size_t t = 0; t < T; t++) {
        float weight = t < n && !left_out[t] ? p[t] : 0.0f;
        product[t] = single((double)weight * (double)scale[t]);
        largest = fmaxf(largest, product[t]);
        lane[t % LANES] = single((double)lane[t % LANES] + (double)weight);
        square[t % LANES] =
            single((double)square[t % LANES] + (double)single((double)product[t] * (double)product[t]));
    }
    const float per_unit = kvq_fold_per_unit(largest, &same_step);
    for (size_t t = 0; t < T; t++) {
        float y = single((double)product[t] * (double)per_unit), wanted = nearbyintf(y);
        cr_assert(folded_at(folded, t) == wanted && x[t] == (isinf(out->step) ? 0 : product[t]), "token %zu",
                  t);
        cr_assert(folded_rest == NULL || folded_at(folded_rest, t) == rest_of(y, wanted), "token %zu", t);
        sum += wanted;
        sum_of_rest += rest_of(y, wanted);
    }
    cr_assert(out->step == same_step && out->sum == sum && out->sum_of_p == sum_lanes_by_contract(lane));
    cr_assert(per_unit == 0 || out->energy == sum_lanes_by_contract(square));
    cr_assert(out_rest == NULL || (out_rest->sum == sum_of_rest && out_rest->energy == 0 &&
                                   out_rest->sum_of_p == 0 && out_rest->step == out->step / KVQ_REST_SCALE));
}

void check_fold_products(const kvq_kernels *k)
{
    for (size_t i = 0; i < 60; i++) {
        const bool wide = i % 5 < 2;
        size_t n = i % 3 == 0 ? T : 1 + rng_below(&r, T),
               n_q = 1 + rng_below(&r, KVQ_ROWS_MAX / (wide ? 2u : 1u)), n_rows = wide ? 2 * n_q : n_q;
        float *p = floats_in(&in_a, FILL_NORMAL, n_q, T), x[KVQ_ROWS_MAX * T], spec_x[KVQ_ROWS_MAX * T];
        uint8_t *log_scale = place(&in_b, random_placing(&r), T, 1), kept[3];
        int8_t *folded = place(&out_a, random_placing(&r), n_rows * 2 * T, 1), spec[KVQ_ROWS_MAX * 2 * T];
        kvq_log_scales scales = {log_scale,
                                 i == 0   ? 0
                                 : i == 1 ? 0x1p101f
                                          : rng_uniform(&r) + 0x1p-9f,
                                 kept, i % 4};
        kvq_fold out[KVQ_ROWS_MAX], spec_out[KVQ_ROWS_MAX];
        bool left_out[T] = {false};
        float scale[T];
        for (size_t j = 0; j < scales.n_left_out; j++)
            kept[j] = rng_below(&r, 4) == 0 ? 255 : (uint8_t)rng_below(&r, T);
        for (size_t j = 0; j < scales.n_left_out; j++)
            left_out[kept[j] % T] = kept[j] < T || left_out[kept[j] % T];
        for (size_t t = 0; t < T; t++) {
            log_scale[t] = (uint8_t)(i == 1 ? 255u : rng_below(&r, 256));
            scale[t] = single((double)kvq_sixteenths[log_scale[t]] * (double)scales.unit);
        }
        for (size_t t = 0; t < n_q * T; t++)
            p[t] = fabsf(p[t]) + 0x1p-20f;
        k->fold_products(&scales, n, p, n_q, wide, x, folded, out);
        kvq_kernels_portable.fold_products(&scales, n, p, n_q, wide, spec_x, spec, spec_out);
        check_canaries(&out_a, "fold_products");
        cr_assert(memcmp(out, spec_out, n_rows * sizeof *out) == 0 &&
                  memcmp(x, spec_x, n_q * T * sizeof *x) == 0);
        cr_assert(same_bits("fold_products", folded, spec, n_rows * 2 * T));
        for (size_t j = 0; j < n_q; j++)
            check_row_of_products(p + j * T, n, scale, left_out, x + j * T, folded + j * 2 * T, &out[j],
                                  wide ? folded + (n_q + j) * 2 * T : NULL, wide ? &out[n_q + j] : NULL);
    }
}

void check_choose_levels(const kvq_kernels *k)
{
    for (size_t i = 0; i < 80; i++) {
        uint32_t width = 1 + (uint32_t)i % 4;
        size_t n = 16 * (1 + rng_below(&r, 12)), n_levels = (size_t)1 << width;
        float thresholds[15], levels[16], lane[LANES] = {0}, *y = floats_in(&in_a, FILL_NORMAL, n, 1);
        uint8_t *codes = place(&out_a, random_placing(&r), n, 1);
        for (size_t j = 0; j < n_levels; j++)
            levels[j] = rng_normal(&r);
        for (size_t j = 0; j + 1 < n_levels; j++)
            thresholds[j] = ((float)j + 1.0f - (float)n_levels / 2) / 2;
        y[0] = thresholds[0]; /* is not passed */
        y[1] = 0x1p-127f;     /* does not pass 0 */
        y[2] = 0x1.4p-127f;
        float sum = k->choose_levels(y, n, thresholds, levels, width, codes);
        check_canaries(&out_a, "choose_levels");
        for (size_t c = 0; c < n; c++) {
            size_t code = 0;
            while (code + 1 < n_levels && (double)y[c] > (double)thresholds[code] + 0x1p-127)
                code++;
            cr_assert(codes[c] == code, "%u bits: %g became %u", width, (double)y[c], codes[c]);
            float product = single((double)y[c] * (double)levels[code]);
            lane[c % LANES] = single((double)lane[c % LANES] + (double)product);
        }
        cr_assert(sum == sum_lanes_by_contract(lane), "%u bits, n = %zu", width, n);
    }
}

void check_dequantize_levels(const kvq_kernels *k)
{
    for (size_t i = 0; i < 60; i++) {
        size_t dim = 1 + rng_below(&r, MAX_DIM), padded = (dim + 15) / 16 * 16;
        float levels[16], scale = rng_uniform(&r), *out = place(&out_a, random_placing(&r), dim, sizeof *out);
        const float *add = floats_in(&in_b, FILL_NORMAL, dim, 1);
        uint8_t *dwords = place(&in_a, random_placing(&r), 8 * padded, 1);
        for (size_t j = 0; j < 8 * padded; j++)
            dwords[j] = (uint8_t)rng_u64(&r);
        for (size_t j = 0; j < 16; j++)
            levels[j] = rng_normal(&r);
        kvq_token_codes codes = {.from = {dwords, dwords + 4 * padded},
                                 .stride = {64, 64},
                                 .n_planes = 1 + i % 2,
                                 .at = {(uint32_t)rng_below(&r, 30), (uint32_t)rng_below(&r, 31)},
                                 .mask = {3, 1},
                                 .up = {0, 2}};
        k->dequantize_levels(&codes, levels, scale, add, dim, out);
        check_canaries(&out_a, "dequantize_levels");
        for (size_t c = 0; c < dim; c++) {
            size_t code = 0;
            for (size_t j = 0; j < codes.n_planes; j++)
                code += (kvq_load_u32(codes.from[j] + 4 * c) >> codes.at[j] & codes.mask[j]) << codes.up[j];
            float product = single((double)scale * (double)levels[code]);
            cr_assert(out[c] == single((double)product + (double)add[c]), "D = %zu, channel %zu", dim, c);
        }
    }
}

/* The code of token t and channel c of a block, as its struct says. */
static size_t code_in_block(const kvq_block_codes *codes, size_t t, size_t c)
{
    size_t code = 0;
    for (size_t i = 0; i < codes->n_planes; i++) {
        const size_t width = codes->width[i], v = t % (32 / width);
        const uint8_t *row = codes->from[i] + c / LANES * codes->stride[i] + t / (32 / width) * (4 * LANES);
        const uint32_t dword = kvq_load_u32(row + c % LANES * 4);
        code |= (size_t)(dword >> (v % 4 * 8 + v / 4 * width) & ((1u << width) - 1u)) << codes->up[i];
    }
    return code;
}

void check_accumulate_levels(const kvq_kernels *k)
{
    enum { ROOM = 4 * 4 * LANES };
    static const uint32_t widths[4][KVQ_MAX_PLANES] = {{1}, {2}, {2, 1}, {4}};
    for (size_t i = 0; i < 120; i++) {
        const size_t dim = LANES * (1 + rng_below(&r, MAX_DIM / LANES)), bytes = 2 * ROOM * dim / LANES;
        const size_t n_q = 1 + rng_below(&r, KVQ_ROWS_MAX);
        float levels[16], *acc = floats_in(&out_a, FILL_NORMAL, n_q, dim);
        static float before[KVQ_ROWS_MAX * MAX_DIM];
        const float *factor = floats_in(&in_b, FILL_NORMAL, 1, (n_q - 1) * T + KVQ_BLOCK);
        uint8_t *dwords = place(&in_a, random_placing(&r), bytes, 1);
        kvq_block_codes codes = {.from = {dwords, dwords + ROOM},
                                 .stride = {2 * ROOM, 2 * ROOM},
                                 .n_planes = i % 4 == 2 ? 2 : 1,
                                 .width = {widths[i % 4][0], widths[i % 4][1]},
                                 .up = {0, widths[i % 4][0]}};
        for (size_t j = 0; j < bytes; j++)
            dwords[j] = (uint8_t)rng_u64(&r);
        for (size_t j = 0; j < 16; j++)
            levels[j] = rng_normal(&r);
        memcpy(before, acc, n_q * dim * sizeof *acc);
        k->accumulate_levels(&codes, levels, factor, n_q, dim, acc);
        check_canaries(&out_a, "accumulate_levels");
        for (size_t j = 0; j < n_q * dim; j++) {
            for (size_t t = 0; t < KVQ_BLOCK; t++) {
                const double level = (double)levels[code_in_block(&codes, t, j % dim)];
                const double product = (double)single((double)factor[j / dim * T + t] * level);
                before[j] = single((double)before[j] + product);
            }
            cr_assert(acc[j] == before[j], "D = %zu, row %zu of %zu, channel %zu", dim, j / dim, n_q,
                      j % dim);
        }
    }
}

void check_hadamard_f32(const kvq_kernels *k)
{
    for (size_t n = 1; n <= KVQ_DIM_MAX; n *= 2)
        for (size_t i = 0; i < 4; i++) {
            float *x = floats_in(&out_a, FILL_NORMAL, n, 1), *spec = place(&out_b, random_placing(&r), n, 4);
            double norm = 0, wanted[KVQ_DIM_MAX] = {0};
            memcpy(spec, x, n * sizeof *x);
            for (size_t a = 0; a < n; a++) {
                norm += (double)x[a] * (double)x[a];
                for (size_t b = 0; b < n; b++) /* the sign is the parity of a & b */
                    wanted[b] += (__builtin_parityll(a & b) ? -(double)x[a] : (double)x[a]) / sqrt((double)n);
            }
            k->hadamard_f32(x, n);
            kvq_kernels_portable.hadamard_f32(spec, n);
            check_canaries(&out_a, "hadamard_f32");
            cr_assert(same_bits("hadamard_f32", x, spec, n * sizeof *x), "n = %zu", n);
            for (size_t a = 0; a < n; a++)
                cr_assert(fabs((double)x[a] - wanted[a]) <= 1e-6 * sqrt(norm), "n = %zu: %g, not %g", n,
                          (double)x[a], wanted[a]);
        }
}

void check_rotate_row(const kvq_kernels *k)
{
    for (size_t i = 0; i < 120; i++) {
        const size_t dim = i < 40 ? i + 1 : 1 + rng_below(&r, i < 80 ? MAX_DIM : KVQ_DIM_MAX),
                     padded = (dim + LANES - 1) / LANES * LANES;
        const float *x = floats_in(&in_a, (fill_kind)(i % N_FILLS), 1, dim);
        float *y = place(&out_a, random_placing(&r), padded, sizeof *y), wanted[KVQ_DIM_MAX] = {0},
              lane[LANES] = {0}, square, largest = 0;
        const int32_t shift = k->rotate_row(x, dim, y, &square);
        check_canaries(&out_a, "rotate_row");
        for (size_t c = 0; c < dim; c++) {
            largest = fmaxf(largest, fabsf(x[c]));
            wanted[c] = single(ldexp((double)x[c], shift));
        }
        cr_assert(largest < FLT_MIN ? shift == 126
                                    : shift == -126 || (ldexp((double)largest, shift) >= 0.5 &&
                                                        ldexp((double)largest, shift) < 1),
                  "2^%d times %a", shift, (double)largest);
        for (size_t c = 0, n = KVQ_DIM_MAX; c < dim; c += n) {
            while (n > dim - c)
                n /= 2;
            kvq_kernels_portable.hadamard_f32(wanted + c, n);
        }
        cr_assert(same_bits("rotate_row", y, wanted, padded * sizeof *y), "D = %zu, %s", dim,
                  fill_names[i % N_FILLS]);
        for (size_t c = 0; c < padded; c++)
            lane[c % LANES] = single((double)lane[c % LANES] + (double)single((double)y[c] * (double)y[c]));
        cr_assert(square == sum_lanes_by_contract(lane), "D = %zu", dim);
    }
}
