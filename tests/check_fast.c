/*
 * Fast precision: folding and whole-number sums, bit for bit against the portable kernels, and those against
 * what kernels.h promises, in double.
 */
#include "tests/kernel_checks.h"

enum { MAX_ROWS = KVQ_ROWS_MAX, MAX_FOLD = 224 };

/* Layouts that fold, of one role: every width and dimension; groups by chance. */
static bool folding_layout(size_t i, kvq_role role, kvq_layout *l)
{
    do
        *l = layout_number(i);
    while (l->half_arith || l->group < 32); /* both are chosen by chance */
    return l->role == role && kvq_layout_folds(l);
}

static fill_kind query_fill(void)
{
    static const fill_kind kinds[] = {FILL_NORMAL, FILL_OUTLIER, FILL_HEAVY,
                                      FILL_ZERO,   FILL_TINY,    FILL_OFFSETS};
    return kinds[rng_below(&r, sizeof kinds / sizeof kinds[0])];
}

static size_t random_count(void)
{
    return rng_u64(&r) & 1 ? T : rng_below(&r, T + 1);
}

/* How many queries fold, and whether each with its rest. */
static size_t random_queries(bool *wide)
{
    *wide = rng_below(&r, 3) == 0;
    return 1 + rng_below(&r, *wide ? MAX_ROWS / 2 : MAX_ROWS);
}

static size_t rows_of(size_t n_q, bool wide)
{
    return wide ? 2 * n_q : n_q;
}

static size_t whole_blocks(size_t n)
{
    return (n + KVQ_BLOCK - 1) / KVQ_BLOCK * KVQ_BLOCK;
}

static size_t tiles_of(const kvq_layout *l, size_t n)
{
    return (n + l->meta_tile_tokens - 1) / l->meta_tile_tokens;
}

/* Rows of probabilities, T apart, n of each. */
static float *probabilities_in(guarded *g, size_t n_q, size_t n)
{
    size_t n_floats = n == 0 ? 0 : (n_q - 1) * T + n;
    float *p = floats_in(g, FILL_NORMAL, n_floats, 1), sharpness = ldexpf(1, (int)rng_below(&r, 12) - 4);
    for (size_t i = 0; i < n_floats; i++)
        p[i] = rng_below(&r, 10) == 0 ? 0.0f : expf(-sharpness * fabsf(p[i]));
    return p;
}

static int weight_at(const int8_t *weights, size_t i)
{
    const int8_t *sixteen = weights + i / 16 * 32;
    return sixteen[i % 16] + 256 * sixteen[16 + i % 16];
}

/* Weights of x[0 .. n), zeros up to n_padded, for a largest magnitude: |step * w - x| <= step / 2, with the
 * roundings of x * (1 / step) and of step, 2^-22 of 32512 steps together. */
static void check_weights(const int8_t *weights, const double *x, size_t n, size_t n_padded, double max,
                          float step)
{
    if (max > (double)KVQ_FOLD_MAX) {
        cr_assert(isinf(step), "a step of %g for %g", (double)step, max);
        for (size_t i = 0; i < n_padded; i++)
            cr_assert(weight_at(weights, i) == 0);
        return;
    }
    cr_assert(fabs((double)step - max / KVQ_FOLDED_MAX) <= 0x1p-22 * (double)step + 0x1p-114,
              "step %g for %g", (double)step, max);
    for (size_t i = 0; i < n_padded; i++) {
        double wanted = i < n ? x[i] : 0, off = fabs((double)step * weight_at(weights, i) - wanted);
        cr_assert(off <= 0.51 * (double)step + (double)KVQ_FOLD_MIN, "weight %zu is %d * %g, not %g", i,
                  weight_at(weights, i), (double)step, wanted);
        cr_assert(abs(weight_at(weights, i)) <= KVQ_FOLDED_MAX);
    }
}

/* The bias: of the minimums, and unless a rest has it, of what rounding took from the weights for codes of
 * half the levels. Float sums of n numbers of such a magnitude; what rounding took is itself known to 2^-23
 * of 32512 steps a weight. */
static void check_bias(const kvq_layout *l, const int8_t *weights, const double *x, size_t n, float step,
                       bool wide, double of_minimums, double magnitude, float got)
{
    double wanted = of_minimums, half_levels = (double)kvq_half_levels(l);
    if (isinf(step) || magnitude > 1e37)
        return;
    for (size_t i = 0; i < n && !wide; i++)
        wanted += half_levels * (x[i] - (double)step * weight_at(weights, i));
    double bound =
        (double)(n + 8) * (0x1p-23 * magnitude + half_levels * (0.01 * (double)step + (double)KVQ_FOLD_MIN));
    cr_assert(fabs((double)got - wanted) <= bound, "bias %g, not %g within %g", (double)got, wanted, bound);
}

/* The rest of a row of n numbers, folded in steps of `step`: together both are within half a finer step of x,
 * but for float rounding of x * (1 / step), which is what it may be off: 2^-22 of 32512 steps. */
static void check_rest(const int8_t *folded, float step, const int8_t *rest, float finer, float bias,
                       const double *x, size_t n, size_t n_padded)
{
    cr_assert(finer == step / KVQ_REST_SCALE && bias == 0.0f, "step %a of %a, bias %a", (double)finer,
              (double)step, (double)bias);
    for (size_t i = 0; i < n_padded; i++) {
        cr_assert(abs(weight_at(rest, i)) <= (int)KVQ_REST_SCALE / 2);
        if (isinf(step)) {
            cr_assert(weight_at(rest, i) == 0);
            continue;
        }
        double wanted = i < n ? x[i] : 0;
        double both = (double)step * weight_at(folded, i) + (double)finer * weight_at(rest, i);
        cr_assert(fabs(both - wanted) <= 0.51 * (double)finer + 0x1p-22 * fabs(wanted) + (double)KVQ_FOLD_MIN,
                  "number %zu is %g, not %g", i, both, wanted);
    }
}

/* In a third of the cases all codes are the largest: sums of such and of extreme weights overflow first. */
static const uint8_t *encoded_or_full(guarded *g, const kvq_layout *l)
{
    uint8_t *sb = (uint8_t *)(uintptr_t)encoded_in(g, l);
    if (rng_below(&r, 3) == 0)
        for (size_t i = 0; i < T; i++)
            for (size_t c = 0; c < l->dim; c++)
                kvq_code_put(l, sb, i, c, (1u << l->bits) - 1u);
    return sb;
}

static int8_t *weights_spec;
static float steps_spec[KVQ_GROUPS_MAX * MAX_ROWS], biases_spec[KVQ_GROUPS_MAX * MAX_ROWS];
static float steps[KVQ_GROUPS_MAX * MAX_ROWS], biases[KVQ_GROUPS_MAX * MAX_ROWS];
static float energies_spec[KVQ_GROUPS_MAX * MAX_ROWS], energies[KVQ_GROUPS_MAX * MAX_ROWS];

/* ---- Keys ---- */

static void check_key_weights(const kvq_layout *l, const uint8_t *sb, size_t n, const float *q, size_t n_q,
                              bool wide)
{
    static double x[4][MAX_FOLD];
    double biases_wanted[4], magnitudes[4];
    size_t n_tiles = tiles_of(l, n), fold_dim = kvq_fold_dim(l->dim);
    for (size_t i = 0; i < n_q; i++) {
        double max = 0;
        for (size_t tile = 0; tile < n_tiles; tile++) {
            double bias = 0, magnitude = 0;
            for (size_t c = 0; c < l->dim; c++) {
                double query = (double)q[i * l->dim + c];
                double min = query * (double)kvq_min_at(l, sb, tile * l->meta_tile_tokens, c);
                x[tile][c] = query * (double)kvq_scale_at(l, sb, tile * l->meta_tile_tokens, c);
                max = fmax(max, fabs(x[tile][c]));
                bias += min;
                magnitude += fabs(min);
            }
            biases_wanted[tile] = bias;
            magnitudes[tile] = magnitude;
        }
        for (size_t tile = 0; tile < n_tiles; tile++) {
            const size_t at = tile * rows_of(n_q, wide) + i;
            const int8_t *weights = weights_spec + at * 2 * fold_dim;
            check_weights(weights, x[tile], l->dim, fold_dim, max, steps_spec[i]);
            check_bias(l, weights, x[tile], l->dim, steps_spec[i], wide, biases_wanted[tile],
                       magnitudes[tile], biases_spec[at]);
            if (wide)
                check_rest(weights, steps_spec[i], weights + n_q * 2 * fold_dim, steps_spec[n_q + i],
                           biases_spec[at + n_q], x[tile], l->dim, fold_dim);
        }
    }
}

/* Fold n_q queries with the portable kernel, into the _spec arrays. Returns the bytes of weights. */
static size_t fold_keys_spec(const kvq_layout *l, const uint8_t *sb, size_t n, const float *q, size_t n_q,
                             bool wide)
{
    static int8_t weights[4 * MAX_ROWS * 2 * MAX_FOLD];
    weights_spec = weights;
    kvq_fold_keys_portable(l, sb, n, q, n_q, wide, weights, steps_spec, biases_spec);
    return tiles_of(l, n) * rows_of(n_q, wide) * 2 * kvq_fold_dim(l->dim);
}

/* Keys of which one channel is 0 everywhere, so that its scale is, too. */
static const uint8_t *encoded_with_zeros(guarded *g, const kvq_layout *l, size_t channel)
{
    static float x[T * MAX_DIM];
    uint8_t *sb = superblock_in(g, l);
    fill(&r, FILL_NORMAL, x, T, l->dim);
    for (size_t t = 0; t < T; t++)
        x[t * l->dim + channel] = 0;
    kvq_kernels_portable.encode_affine_channel(l, sb, 0, T, x, l->dim);
    return sb;
}

/* Folded by k, and as portable does it. */
static void check_keys_folded(const kvq_kernels *k, const kvq_layout *l, const uint8_t *sb, size_t n,
                              const float *q, size_t n_q, bool wide)
{
    const size_t n_bytes = fold_keys_spec(l, sb, n, q, n_q, wide), n_rows = rows_of(n_q, wide);
    int8_t *weights = place(&out_a, random_placing(&r), n_bytes, 1);
    k->fold_keys(l, sb, n, q, n_q, wide, weights, steps, biases);
    check_canaries(&out_a, "fold_keys");
    cr_assert(same_bits("weights", weights, weights_spec, n_bytes) &&
                  (n == 0 || same_bits("steps", steps, steps_spec, n_rows * sizeof *steps)) &&
                  same_bits("biases", biases, biases_spec, tiles_of(l, n) * n_rows * sizeof *biases),
              "%zu queries, wide: %d", n_q, wide);
}

/* Of the queries only number i, if any, has a step of +Inf and folded numbers that are all 0. */
static void check_folded_but(const kvq_kernels *k, const kvq_layout *l, const uint8_t *sb, size_t n,
                             const float *q, size_t n_q, bool wide, size_t i)
{
    const size_t n_rows = rows_of(n_q, wide), bytes = 2 * kvq_fold_dim(l->dim);
    check_keys_folded(k, l, sb, n, q, n_q, wide);
    for (size_t j = 0; j < n_q; j++) {
        cr_assert((isinf(steps[j]) != 0) == (j == i), "query %zu has a step of %g", j, (double)steps[j]);
        for (size_t tile = 0; j == i && tile < tiles_of(l, n); tile++)
            for (size_t c = 0; c < kvq_fold_dim(l->dim); c++)
                cr_assert(weight_at(weights_spec + (tile * n_rows + j) * bytes, c) == 0, "number %zu", c);
    }
}

/* An element of a query where the scale is 0 has no part in the largest product, but is multiplied with the
 * factor that makes this KVQ_FOLDED_MAX: beyond KVQ_FOLD_MAX nothing of the query is folded. */
static void check_fold_keys_limit(const kvq_kernels *k)
{
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l;
        if (!folding_layout(i, KVQ_KEYS, &l) || l.dim == 1)
            continue;
        bool wide;
        size_t n = 1 + rng_below(&r, T), n_q = random_queries(&wide), row = rng_below(&r, n_q),
               channel = rng_below(&r, l.dim);
        const uint8_t *sb = encoded_with_zeros(&in_a, &l, channel);
        float *q = floats_in(&in_b, FILL_NORMAL, n_q, l.dim), *of_row = q + row * l.dim;
        double largest = 0;
        for (size_t t = 0; t < n; t += l.meta_tile_tokens)
            for (size_t c = 0; c < l.dim; c++)
                largest = fmax(largest, fabs((double)of_row[c] * (double)kvq_scale_at(&l, sb, t, c)));
        double limit = (rng_u64(&r) & 1 ? 1 : -1) * (double)KVQ_FOLD_MAX / KVQ_FOLDED_MAX * largest;
        of_row[channel] = (float)(0.9999 * limit);
        check_folded_but(k, &l, sb, n, q, n_q, wide, n_q);
        check_key_weights(&l, sb, n, q, n_q, wide);
        of_row[channel] = (float)(1.0001 * limit);
        check_folded_but(k, &l, sb, n, q, n_q, wide, row);
    }
}

void check_fold_keys(const kvq_kernels *k)
{
    check_fold_keys_limit(k);
    for (size_t i = 0; i < 4 * N_LAYOUTS; i++) {
        kvq_layout l;
        if (!folding_layout(i % N_LAYOUTS, KVQ_KEYS, &l))
            continue;
        const uint8_t *sb = encoded_in(&in_a, &l);
        bool wide;
        size_t n = random_count(), n_q = random_queries(&wide);
        float *q = floats_in(&in_b, query_fill(), n_q, l.dim);
        if (rng_below(&r, 8) ==
            0) /* where products overflow, with scales or with what makes weights of others */
            q[rng_below(&r, n_q * l.dim)] = rng_u64(&r) & 1 ? 3e38f : 1e30f;
        check_keys_folded(k, &l, sb, n, q, n_q, wide);
        check_key_weights(&l, sb, n, q, n_q, wide);
    }
}

/* Weights of any value, for the sums: the largest ones make them overflow if anything does. */
static void random_weights(int8_t *weights, size_t n_bytes)
{
    int kind = (int)rng_below(&r, 3);
    for (size_t i = 0; i < n_bytes; i++) {
        bool high = i / 16 % 2;
        int8_t extreme = high ? (rng_u64(&r) & 1 ? 127 : -127) : (rng_u64(&r) & 1 ? 127 : -128);
        weights[i] = kind == 0 ? extreme : kind == 1 ? (int8_t)(high ? 127 : -128) : (int8_t)rng_u64(&r);
    }
}

/* What may be prefetched: nothing, the superblock, or a part of it. */
static kvq_next random_next(const uint8_t *sb, size_t n_bytes)
{
    return (kvq_next){sb, rng_u64(&r) & 1 ? 0 : rng_u64(&r) & 1 ? n_bytes : rng_below(&r, n_bytes + 1)};
}

/* float(low) + 256 float(high): value i is channel i of token `fixed`, or the reverse for values. */
static float code_sum(const kvq_layout *l, const uint8_t *sb, size_t fixed, size_t n, const int8_t *weights)
{
    int64_t low = 0, high = 0;
    for (size_t i = 0; i < n; i++) {
        size_t t = l->role == KVQ_KEYS ? fixed : i, c = l->role == KVQ_KEYS ? i : fixed;
        int64_t code = kvq_code_get(l, sb, t, c);
        low += code * weights[i / 16 * 32 + i % 16];
        high += code * weights[i / 16 * 32 + 16 + i % 16];
    }
    return single((double)(float)low + (double)single(256 * (double)(float)high));
}

/* The largest sums there can be: every code the largest, every byte of what it is multiplied with at the same
 * end, D up to the limit. Accumulators of 16 bits overflow here first, if they are widened too late. */
static void check_largest_scores(const kvq_kernels *k)
{
    enum {
        D = KVQ_DIM_MAX,
        MAX_BYTES = 2 * D * 4 * T
    }; /* of 8-bit codes and scales of groups of 32, with room */
    static _Alignas(KVQ_ALIGNMENT) uint8_t sb[MAX_BYTES];
    static int8_t folded[4 * 4 * 2 * D];
    static float got[4 * T], wanted[4 * T];
    /* 160: with two bits the most that AVX2 does not put away (vector_dot.h). */
    static const size_t dims[] = {160, 176, 224, 256, 288, 320, 512, D};
    static const uint32_t widths[] = {1, 2, 3, 4, 5, 6, 8};
    static const int8_t ends[][2] = {{-128, 127}, {127, 127}, {-128, -127}, {127, -127}}; /* lows, highs */
    const float step[4] = {1, 0.5f, 1, 0.25f}, bias[16] = {0};
    for (size_t i = 0; i < 7 * 8 * 4; i++) {
        kvq_layout l;
        kvq_layout_init(&l, &(kvq_layout_spec){.role = KVQ_KEYS,
                                               .bits = widths[i % 7],
                                               .per_channel = true,
                                               .group = 32,
                                               .dim = dims[i / 7 % 8]});
        memset(sb, 0xff, l.bytes); /* scales and minimums are not read */
        for (size_t j = 0; j < sizeof folded; j++)
            folded[j] = ends[i / 56][j / 16 % 2];
        for (size_t n_q = 1; n_q <= 4; n_q++) {
            kvq_score_folded(&kvq_kernels_portable, &l, sb, (kvq_next){NULL, 0}, T, folded, step, bias, n_q,
                             wanted);
            kvq_score_folded(k, &l, sb, (kvq_next){NULL, 0}, T, folded, step, bias, n_q, got);
            cr_assert(same_bits("scores", got, wanted, n_q * T * sizeof *got),
                      "%u bits, D = %zu, %zu queries", (unsigned)l.bits, l.dim, n_q);
        }
    }
}

/* Of keys as fold_keys folds them, tile by tile. */
static void check_folded_scores(const kvq_kernels *k)
{
    for (size_t i = 0; i < 2 * N_LAYOUTS; i++) {
        kvq_layout l;
        if (!folding_layout(i % N_LAYOUTS, KVQ_KEYS, &l))
            continue;
        const uint8_t *sb = encoded_or_full(&in_a, &l);
        size_t n = random_count(), n_q = 1 + rng_below(&r, MAX_ROWS);
        const float *q = floats_in(&in_b, FILL_NORMAL, n_q, l.dim);
        size_t n_bytes = fold_keys_spec(&l, sb, n, q, n_q, false);
        if (rng_u64(&r) & 1)
            random_weights(weights_spec, n_bytes);
        int8_t *weights = place(&in_b, random_placing(&r), n_bytes, 1);
        memcpy(weights, weights_spec, n_bytes);
        size_t n_floats = n == 0 ? 0 : (n_q - 1) * T + whole_blocks(n);
        float *scores = place(&out_a, random_placing(&r), n_floats, sizeof *scores);
        kvq_score_folded(k, &l, sb, random_next(sb, l.bytes), n, weights, steps_spec, biases_spec, n_q,
                         scores);
        check_canaries(&out_a, "score_runs");
        for (size_t row = 0; row < n_q; row++)
            for (size_t t = 0; t < T && row * T + t < n_floats; t++) {
                if (t >= whole_blocks(n)) {
                    cr_assert(kvq_bits_of_f32(scores[row * T + t]) == 0x01010101u * CANARY,
                              "wrote past row %zu", row);
                    continue;
                }
                size_t tile = t / l.meta_tile_tokens, fold_dim = kvq_fold_dim(l.dim);
                float sum = code_sum(&l, sb, t, l.dim, weights + (tile * n_q + row) * 2 * fold_dim);
                float x = single((double)steps_spec[row] * (double)sum);
                float wanted = single((double)biases_spec[tile * n_q + row] + (double)x);
                cr_assert(memcmp(&scores[row * T + t], &wanted, sizeof wanted) == 0,
                          "layout %zu, %u bits, D = %zu, query %zu of %zu, token %zu: %a, not %a", i,
                          (unsigned)l.bits, l.dim, row, n_q, t, (double)scores[row * T + t], (double)wanted);
            }
    }
}

/* Runs as codec_tier.c makes them: classes of falling width one behind the other, 6 bits as 2 above 4, each
 * class with its own folded numbers. Returns how many; *bytes and *folded_bytes are what they lie in. */
static size_t random_runs(kvq_run *runs, size_t n_q, size_t *bytes, size_t *folded_bytes)
{
    size_t n = 0, at = 0, folded = 0;
    for (uint32_t width = 6; width > 0; width = width > 4 ? 4 : width / 2) {
        if (rng_below(&r, 3) == 0)
            continue;
        const size_t places = 16 * (1 + rng_below(&r, 5)), lower = width == 6 ? 4 : width,
                     lower_bytes = (places * lower + 31) / 32 * 128;
        kvq_run run = {.width = (uint32_t)lower,
                       .offset = at,
                       .block_bytes = lower_bytes + (width == 6 ? places * 8 : 0),
                       .n = places,
                       .folded = folded,
                       .folded_stride = 2 * kvq_fold_dim(places)};
        if (width == 6) {
            runs[n] = run;
            runs[n].width = 2;
            runs[n].shift = 4;
            runs[n++].offset = at + lower_bytes;
        }
        runs[n++] = run;
        at += 4 * run.block_bytes;
        folded += n_q * run.folded_stride;
    }
    *bytes = at;
    *folded_bytes = folded;
    return n;
}

/* The code of lane t that goes with folded number i. */
static uint32_t code_of_run(const kvq_run *run, const uint8_t *sb, size_t t, size_t i)
{
    const size_t per_dword = 32 / run->width, value = i % per_dword;
    uint32_t dword = kvq_load_u32(sb + run->offset + t / KVQ_BLOCK * run->block_bytes +
                                  (i / per_dword * KVQ_BLOCK + t % KVQ_BLOCK) * 4);
    return dword >> (value % 4 * 8 + value / 4 * run->width) & ((1u << run->width) - 1u);
}

void check_score_runs(const kvq_kernels *k)
{
    check_largest_scores(k);
    check_folded_scores(k);
    for (size_t i = 0; i < 300; i++) {
        kvq_run runs[KVQ_RUNS_MAX];
        size_t n = random_count(), n_q = 1 + rng_below(&r, MAX_ROWS), bytes, folded_bytes;
        size_t n_runs = random_runs(runs, n_q, &bytes, &folded_bytes),
               n_floats = (n_q - 1) * T + whole_blocks(n);
        uint8_t *sb = place(&in_a, (placing){.at_end = rng_u64(&r) & 1}, bytes, 1);
        int8_t *folded = place(&in_b, random_placing(&r), folded_bytes, 1);
        for (size_t j = 0; j < bytes; j++)
            sb[j] = i % 3 == 0 ? 0xff : (uint8_t)rng_u64(&r);
        random_weights(folded, folded_bytes);
        for (size_t run = 0; run < n_runs; run++) /* what pads a row of folded numbers is 0 */
            for (size_t c = runs[run].n; c < runs[run].folded_stride / 2; c++)
                for (size_t row = 0; row < n_q; row++) {
                    int8_t *w = folded + runs[run].folded + row * runs[run].folded_stride + c / 16 * 32;
                    w[c % 16] = w[16 + c % 16] = 0;
                }
        float *scores = place(&out_a, random_placing(&r), n == 0 ? 0 : n_floats, sizeof *scores);
        for (size_t row = 0; row < n_q; row++) {
            steps_spec[row] = ldexpf(1.0f, -(int)rng_below(&r, 20));
            biases_spec[row] = (float)rng_below(&r, 1000) - 500.0f;
        }
        k->score_runs(runs, n_runs, sb, random_next(sb, bytes), n, folded, steps_spec, biases_spec, n_q,
                      scores);
        check_canaries(&out_a, "score_runs");
        for (size_t j = 0; j < n_q * whole_blocks(n); j++) {
            const size_t row = j / whole_blocks(n), t = j % whole_blocks(n);
            int64_t low = 0, high = 0;
            for (size_t run = 0; run < n_runs; run++)
                for (size_t c = 0; c < runs[run].n; c++) {
                    const int8_t *w =
                        folded + runs[run].folded + row * runs[run].folded_stride + c / 16 * 32 + c % 16;
                    const int64_t code = (int64_t)code_of_run(&runs[run], sb, t, c) << runs[run].shift;
                    low += code * w[0];
                    high += code * w[16];
                }
            float sum = single((double)(float)low + (double)single(256 * (double)(float)high));
            float wanted =
                single((double)biases_spec[row] + (double)single((double)steps_spec[row] * (double)sum));
            cr_assert(kvq_bits_of_f32(scores[row * T + t]) == kvq_bits_of_f32(wanted),
                      "%zu runs, query %zu of %zu, token %zu: %a, not %a", n_runs, row, n_q, t,
                      (double)scores[row * T + t], (double)wanted);
        }
        for (size_t j = 0; j < n_floats && n > 0; j++)
            cr_assert(j % T < whole_blocks(n) || kvq_bits_of_f32(scores[j]) == 0x01010101u * CANARY);
    }
}

/* ---- Values ---- */

static size_t fold_values_spec(const kvq_layout *l, const uint8_t *sb, size_t n, const float *p, size_t n_q,
                               bool wide)
{
    static int8_t weights[KVQ_GROUPS_MAX * MAX_ROWS * 2 * T];
    size_t n_groups = (l->dim + l->group - 1) / l->group, n_bytes = n_groups * rows_of(n_q, wide) * 2 * T;
    weights_spec = weights;
    kvq_fold_values_portable(l, sb, n, p, n_q, wide, weights, steps_spec, biases_spec, energies_spec);
    return n_bytes;
}

static void check_value_weights(const kvq_layout *l, const uint8_t *sb, size_t n, const float *p, size_t n_q,
                                bool wide)
{
    static double x[T];
    for (size_t u = 0; u * l->group < l->dim; u++)
        for (size_t i = 0; i < n_q; i++) {
            double max = 0, bias = 0, magnitude = 0, energy = 0, largest_square = 0;
            for (size_t t = 0; t < n; t++) {
                double weight = (double)p[i * T + t],
                       min = weight * (double)kvq_min_at(l, sb, t, u * l->group);
                x[t] = weight * (double)kvq_scale_at(l, sb, t, u * l->group);
                max = fmax(max, x[t]);
                double half = (double)kvq_half_levels(l) * x[t];
                energy += (min + half) * (min + half) + half * half / 4;
                largest_square = fmax(largest_square, (fabs(min) + half) * (fabs(min) + half));
                bias += min;
                magnitude += fabs(min);
            }
            size_t at = u * rows_of(n_q, wide) + i;
            cr_assert(fabs((double)energies_spec[u * n_q + i] - energy) <=
                      (double)(T + 8) * 0x1p-23 * (energy + (double)T * largest_square) + 0x1p-120);
            check_weights(weights_spec + at * 2 * T, x, n, T, max, steps_spec[at]);
            check_bias(l, weights_spec + at * 2 * T, x, n, steps_spec[at], wide, bias, magnitude,
                       biases_spec[at]);
            if (wide)
                check_rest(weights_spec + at * 2 * T, steps_spec[at], weights_spec + (at + n_q) * 2 * T,
                           steps_spec[at + n_q], biases_spec[at + n_q], x, n, T);
        }
}

void check_fold_values(const kvq_kernels *k)
{
    for (size_t i = 0; i < 4 * N_LAYOUTS; i++) {
        kvq_layout l;
        if (!folding_layout(i % N_LAYOUTS, KVQ_VALUES, &l))
            continue;
        const uint8_t *sb = encoded_in(&in_a, &l);
        bool wide;
        size_t n = random_count(), n_q = random_queries(&wide);
        const float *p = probabilities_in(&in_b, n_q, n);
        size_t n_bytes = fold_values_spec(&l, sb, n, p, n_q, wide), n_folds = n_bytes / (2 * T);
        size_t n_energies = wide ? n_folds / 2 : n_folds;
        int8_t *weights = place(&out_a, random_placing(&r), n_bytes, 1);
        k->fold_values(&l, sb, n, p, n_q, wide, weights, steps, biases, energies);
        cr_assert(same_bits("energies", energies, energies_spec, n_energies * sizeof *energies), "layout %zu",
                  i);
        check_canaries(&out_a, "fold_values");
        check_value_weights(&l, sb, n, p, n_q, wide);
        cr_assert(same_bits("weights", weights, weights_spec, n_bytes), "layout %zu, %zu tokens", i, n);
        cr_assert(same_bits("steps", steps, steps_spec, n_folds * sizeof *steps), "layout %zu", i);
        cr_assert(same_bits("biases", biases, biases_spec, n_folds * sizeof *biases), "layout %zu", i);
    }
}

void check_accumulate_folded(const kvq_kernels *k)
{
    static float before[MAX_ROWS * MAX_DIM];
    for (size_t i = 0; i < 2 * N_LAYOUTS; i++) {
        kvq_layout l;
        if (!folding_layout(i % N_LAYOUTS, KVQ_VALUES, &l))
            continue;
        const uint8_t *sb = encoded_or_full(&in_a, &l);
        size_t n = random_count(), n_q = 1 + rng_below(&r, MAX_ROWS);
        const float *p = probabilities_in(&in_b, n_q, n);
        size_t n_bytes = fold_values_spec(&l, sb, n, p, n_q, false), n_padded = whole_blocks(n);
        bool extreme = n == n_padded && (rng_u64(&r) & 1); /* weights past n must stay 0 */
        if (extreme)
            random_weights(weights_spec, n_bytes);
        int8_t *weights = place(&in_b, random_placing(&r), n_bytes, 1);
        memcpy(weights, weights_spec, n_bytes);
        float *acc = floats_in(&out_a, rng_u64(&r) & 1 ? FILL_ZERO : FILL_NORMAL, n_q, l.dim);
        memcpy(before, acc, n_q * l.dim * sizeof *acc);
        k->accumulate_folded(&l, sb, random_next(sb, l.bytes), n, weights, steps_spec, biases_spec, n_q, acc);
        check_canaries(&out_a, "accumulate_folded");
        for (size_t row = 0; row < n_q; row++)
            for (size_t c = 0; c < l.dim; c++) {
                size_t at = c / l.group * n_q + row;
                float wanted = before[row * l.dim + c];
                if (n > 0) {
                    float sum = code_sum(&l, sb, c, n, weights + at * 2 * T);
                    float x = single((double)steps_spec[at] * (double)sum);
                    wanted = single((double)wanted + (double)single((double)x + (double)biases_spec[at]));
                }
                cr_assert(memcmp(&acc[row * l.dim + c], &wanted, sizeof wanted) == 0,
                          "layout %zu, %u bits, G = %zu, D = %zu, row %zu of %zu, %zu tokens, channel %zu: "
                          "%a, not %a",
                          i, (unsigned)l.bits, l.group, l.dim, row, n_q, n, c, (double)acc[row * l.dim + c],
                          (double)wanted);
            }
    }
}
