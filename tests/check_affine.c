/*
 * The affine codec's kernels: encoding and dequantizing bit for bit, exact scores and sums against formulas
 * in double.
 */
#include "tests/kernel_checks.h"

/* Compare encodings over garbage: the bits of other tokens must stay. The portable encoder is tested against
 * formulas in test_codec.c. */
static void check_encode(const kvq_kernels *k, bool per_channel)
{
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        if (l.per_channel != per_channel)
            continue;
        size_t runs = T / l.tokens_per_run, t0 = rng_below(&r, runs + 1), n = rng_below(&r, runs + 1 - t0);
        t0 *= l.tokens_per_run;
        n *= l.tokens_per_run;
        rows_shape s = {.n = n, .dim = l.dim, .stride = l.dim + (rng_u64(&r) & 1 ? 0 : rng_below(&r, 20))};
        fill_kind kind = random_fill();
        const float *x = floats_in(&in_a, kind, extent(s), 1);
        uint8_t *out = superblock_in(&out_a, &l), *spec = superblock_in(&out_b, &l);
        for (size_t b = 0; b < l.bytes; b++)
            out[b] = spec[b] = (uint8_t)rng_u64(&r);
        (per_channel ? k->encode_affine_channel : k->encode_affine_token)(&l, out, t0, n, x, s.stride);
        (per_channel ? kvq_encode_affine_channel_portable : kvq_encode_affine_token_portable)(&l, spec, t0, n,
                                                                                              x, s.stride);
        check_canaries(&out_a, "encode_affine");
        cr_assert(same_bits("encode_affine", out, spec, l.bytes),
                  "layout %zu, tokens [%zu, +%zu), D = %zu, %s", i, t0, n, l.dim, fill_names[kind]);
        for (size_t t = t0; t < t0 + n; t++)
            for (size_t c = l.dim; c < l.dim_padded; c++)
                cr_assert(kvq_code_get(&l, out, t, c) == 0, "channel %zu pads D = %zu", c, l.dim);
    }
}

void check_encode_affine_channel(const kvq_kernels *k)
{
    check_encode(k, true);
}

void check_encode_affine_token(const kvq_kernels *k)
{
    check_encode(k, false);
}

static void random_range(size_t *t0, size_t *n)
{
    *t0 = rng_u64(&r) & 1 ? 0 : rng_below(&r, T);
    *n = rng_u64(&r) & 1 ? T - *t0 : rng_below(&r, T - *t0 + 1);
}

void check_dequantize_affine(const kvq_kernels *k)
{
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        size_t t0, n, stride = l.dim + (rng_u64(&r) & 1 ? 0 : rng_below(&r, 20));
        random_range(&t0, &n);
        const uint8_t *sb = encoded_in(&in_a, &l);
        rows_shape s = {.n = n, .dim = l.dim, .stride = stride};
        uint8_t *out = place(&out_a, random_placing(&r), extent(s), sizeof(float));
        k->dequantize_affine(&l, sb, t0, n, (float *)(void *)out, stride);
        check_canaries(&out_a, "dequantize_affine");
        for (size_t e = 0; e < extent(s); e++) {
            float got;
            memcpy(&got, out + e * sizeof got, sizeof got);
            float wanted = e % stride < l.dim ? (float)value_at(&l, sb, t0 + e / stride, e % stride) : got;
            cr_assert(got == wanted, "layout %zu, token %zu + %zu, channel %zu: %a, not %a", i, t0,
                      e / stride, e % stride, (double)got, (double)wanted);
            static const uint8_t gap[sizeof got] = {CANARY, CANARY, CANARY, CANARY};
            cr_assert(e % stride < l.dim || memcmp(&got, gap, sizeof gap) == 0,
                      "layout %zu: wrote between rows", i);
        }
    }
}

/* Tokens of a superblock that take part: often all. */
static size_t random_count(void)
{
    return rng_u64(&r) & 1 ? T : rng_below(&r, T + 1);
}

static void check_score(const kvq_layout *l, const uint8_t *sb, size_t j, const float *q, float got)
{
    bool folds = l->per_channel && !l->half_arith;
    double wanted = 0, magnitude = 0;
    for (size_t c = 0; c < l->dim; c++) {
        wanted += (double)q[c] * value_at(l, sb, j, c);
        magnitude += fabs((double)q[c]) * (folds ? largest_value(l, sb, j, c) : fabs(value_at(l, sb, j, c)));
    }
    double bound = (double)(l->dim + 8) * 0x1p-23 * magnitude;
    cr_assert(fabs((double)got - wanted) <= bound,
              "%u bits, per %s, G = %zu, D = %zu: score of token %zu: %.9g, not %.9g within %g",
              (unsigned)l->bits, l->per_channel ? "channel" : "token", l->group, l->dim, j, (double)got,
              wanted, bound);
}

void check_score_affine(const kvq_kernels *k)
{
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        if (l.role != KVQ_KEYS)
            continue;
        size_t n = random_count(), n_q = 1 + rng_below(&r, MAX_Q);
        const uint8_t *sb = encoded_in(&in_a, &l);
        const float *q = floats_in(&in_b, rng_u64(&r) & 1 ? FILL_NORMAL : FILL_OUTLIER, n_q, l.dim);
        float *scores = place(&out_a, random_placing(&r), (n_q - 1) * T + n, sizeof *scores);
        k->score_affine(&l, sb, n, q, n_q, scores);
        check_canaries(&out_a, "score_affine");
        for (size_t row = 0; row < n_q; row++) {
            for (size_t j = 0; j < n; j++)
                check_score(&l, sb, j, q + row * l.dim, scores[row * T + j]);
            for (size_t j = n; j < T && row + 1 < n_q; j++) /* rows are 128 apart, of which n are written */
                cr_assert(kvq_bits_of_f32(scores[row * T + j]) == 0x01010101u * CANARY,
                          "layout %zu: wrote past row %zu", i, row);
        }
    }
}

static void check_output(const kvq_layout *l, const uint8_t *sb, size_t n, size_t c, const float *p,
                         float before, float got)
{
    bool folds = !l->per_channel && !l->half_arith;
    double added = 0, magnitude = 0;
    for (size_t j = 0; j < n; j++) {
        added += (double)p[j] * value_at(l, sb, j, c);
        magnitude += fabs((double)p[j]) * (folds ? largest_value(l, sb, j, c) : fabs(value_at(l, sb, j, c)));
    }
    /* The contract bounds what is added; adding it to acc rounds once more, by half an ulp. */
    double bound = (double)(n + 8) * 0x1p-23 * magnitude + 0x1p-24 * fabs((double)got);
    cr_assert(fabs((double)got - ((double)before + added)) <= bound,
              "%u bits, per %s, G = %zu, D = %zu: %zu tokens, channel %zu: %.9g, not %.9g within %g",
              (unsigned)l->bits, l->per_channel ? "channel" : "token", l->group, l->dim, n, c, (double)got,
              (double)before + added, bound);
}

void check_accumulate_affine(const kvq_kernels *k)
{
    static float before[MAX_Q * MAX_DIM];
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        if (l.role != KVQ_VALUES)
            continue;
        size_t n = random_count(), n_q = 1 + rng_below(&r, MAX_Q);
        const uint8_t *sb = encoded_in(&in_a, &l);
        float *p = floats_in(&in_b, FILL_NORMAL, (n_q - 1) * T + n, 1);
        if (rng_u64(&r) & 1) /* as attention has them: not negative, most of them small or 0 */
            for (size_t j = 0; j < (n_q - 1) * T + n; j++)
                p[j] = p[j] > 0 ? expf(-5 * p[j]) : 0;
        float *acc = floats_in(&out_a, rng_u64(&r) & 1 ? FILL_ZERO : FILL_NORMAL, n_q, l.dim);
        memcpy(before, acc, n_q * l.dim * sizeof *acc);
        k->accumulate_affine(&l, sb, n, p, n_q, acc);
        check_canaries(&out_a, "accumulate_affine");
        for (size_t row = 0; row < n_q; row++)
            for (size_t c = 0; c < l.dim; c++)
                check_output(&l, sb, n, c, p + row * T, before[row * l.dim + c], acc[row * l.dim + c]);
    }
}

/* Runs of several widths, as codec_tier.c has them; or of none. */
static void check_score_codes_of_classes(const kvq_kernels *k)
{
    for (size_t i = 0; i < 100; i++) {
        kvq_run runs[KVQ_RUNS_MAX];
        size_t n = 1 + rng_below(&r, T), n_q = 1 + rng_below(&r, KVQ_ROWS_MAX), bytes, folded_bytes,
               n_codes = 0;
        const size_t n_runs = random_runs(runs, 1, &bytes, &folded_bytes), stride = folded_bytes / 2;
        uint8_t *sb = place(&in_a, (placing){.at_end = rng_u64(&r) & 1}, bytes, 1);
        float *factors = floats_in(&in_b, FILL_NORMAL, n_q * stride, 1), bias[KVQ_ROWS_MAX];
        float *scores = place(&out_a, random_placing(&r), (n_q - 1) * T + n, sizeof *scores);
        for (size_t j = 0; j < bytes; j++)
            sb[j] = (uint8_t)rng_u64(&r);
        for (size_t run = 0; run < n_runs; run++) { /* floats take twice the bytes of folded numbers */
            const size_t first = runs[run].folded / 2, end = first + kvq_fold_dim(runs[run].n);
            for (size_t row = 0; row < n_q; row++)
                for (size_t c = first + runs[run].n; c < end; c++)
                    factors[row * stride + c] = 0.0f;
            runs[run].folded *= 2;
            runs[run].folded_stride = stride * sizeof *factors;
            n_codes += runs[run].n;
        }
        for (size_t row = 0; row < n_q; row++)
            bias[row] = (float)rng_below(&r, 100) - 50.0f;
        k->score_codes(runs, n_runs, sb, n, factors, bias, n_q, scores);
        check_canaries(&out_a, "score_codes");
        for (size_t j = 0; j < n_q * n; j++) {
            const size_t row = j / n, t = j % n;
            double wanted = (double)bias[row], magnitude = fabs(wanted);
            for (size_t run = 0; run < n_runs; run++)
                for (size_t c = 0; c < runs[run].n; c++) {
                    const double factor = (double)factors[row * stride + runs[run].folded / 4 + c];
                    wanted += factor * (code_of_run(&runs[run], sb, t, c) << runs[run].shift);
                    magnitude += fabs(factor) * (((1u << runs[run].width) - 1u) << runs[run].shift);
                }
            const double most = (double)(n_codes + 8) * 0x1p-23 * magnitude;
            cr_assert(fabs((double)scores[row * T + t] - wanted) <= most,
                      "%zu runs, query %zu of %zu, token %zu: %.9g, not %.9g within %g", n_runs, row, n_q, t,
                      (double)scores[row * T + t], wanted, most);
        }
    }
}

/* Factors of every kind, for codes in the runs of an affine layout; |factor| times the largest code is
 * what the contract counts. */
void check_score_codes(const kvq_kernels *k)
{
    check_score_codes_of_classes(k);
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        if (l.role != KVQ_KEYS || !kvq_layout_folds(&l))
            continue;
        const size_t n = 1 + rng_below(&r, l.meta_tile_tokens), n_q = 1 + rng_below(&r, KVQ_ROWS_MAX),
                     stride = kvq_fold_dim(l.dim) + rng_below(&r, 40);
        const uint8_t *sb = encoded_in(&in_a, &l);
        float *factors = floats_in(&in_b, rng_u64(&r) & 1 ? FILL_NORMAL : FILL_OUTLIER, n_q, stride);
        float bias[KVQ_ROWS_MAX];
        kvq_run runs[KVQ_MAX_PLANES];
        kvq_layout_runs(&l, l.dim, stride * sizeof *factors, runs);
        for (size_t row = 0; row < n_q; row++) {
            bias[row] = (float)rng_below(&r, 100) - 50.0f;
            for (size_t c = l.dim; c < kvq_fold_dim(l.dim); c++)
                factors[row * stride + c] = 0.0f;
        }
        float *scores = place(&out_a, random_placing(&r), (n_q - 1) * T + n, sizeof *scores);
        k->score_codes(runs, l.n_planes, sb, n, factors, bias, n_q, scores);
        check_canaries(&out_a, "score_codes");
        for (size_t j = 0; j < n_q * n; j++) {
            const size_t row = j / n, t = j % n;
            double wanted = (double)bias[row], magnitude = fabs(wanted);
            for (size_t c = 0; c < l.dim; c++) {
                const double factor = (double)factors[row * stride + c];
                wanted += factor * kvq_code_get(&l, sb, t, c);
                magnitude += fabs(factor) * ((1u << l.bits) - 1u);
            }
            const double bound = (double)(l.dim + 8) * 0x1p-23 * magnitude;
            cr_assert(fabs((double)scores[row * T + t] - wanted) <= bound,
                      "%u bits, D = %zu, query %zu of %zu, token %zu: %.9g, not %.9g within %g",
                      (unsigned)l.bits, l.dim, row, n_q, t, (double)scores[row * T + t], wanted, bound);
        }
        for (size_t j = 0; j < (n_q - 1) * T + n; j++)
            cr_assert(j % T < n || kvq_bits_of_f32(scores[j]) == 0x01010101u * CANARY, "wrote past a row");
    }
}

void check_accumulate_codes(const kvq_kernels *k)
{
    static float before[KVQ_ROWS_MAX * MAX_DIM];
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        if (l.role != KVQ_VALUES || !kvq_layout_folds(&l))
            continue;
        const size_t n = 1 + rng_below(&r, T), n_q = 1 + rng_below(&r, KVQ_ROWS_MAX);
        const size_t first = rng_below(&r, (l.dim + 15) / 16) * 16, left = (l.dim - first + 15) / 16,
                     blocks = 1 + rng_below(&r, left),
                     end = first + 16 * blocks < l.dim ? first + 16 * blocks : l.dim;
        const uint8_t *sb = encoded_in(&in_a, &l);
        float *factors = floats_in(&in_b, FILL_NORMAL, n_q, T), bias[KVQ_ROWS_MAX];
        for (size_t row = 0; row < n_q; row++) {
            bias[row] = (float)rng_below(&r, 100) - 50.0f;
            for (size_t t = n; t < T; t++)
                factors[row * T + t] = 0.0f;
        }
        float *acc = floats_in(&out_a, FILL_NORMAL, n_q, l.dim);
        memcpy(before, acc, n_q * l.dim * sizeof *acc);
        k->accumulate_codes(&l, sb, n, first, end, factors, bias, n_q, acc);
        check_canaries(&out_a, "accumulate_codes");
        for (size_t j = 0; j < n_q * l.dim; j++) {
            const size_t row = j / l.dim, c = j % l.dim;
            if (c < first || c >= end) {
                cr_assert(kvq_bits_of_f32(acc[j]) == kvq_bits_of_f32(before[j]), "channel %zu changed", c);
                continue;
            }
            double added = (double)bias[row], magnitude = fabs(added);
            for (size_t t = 0; t < n; t++) {
                const double factor = (double)factors[row * T + t];
                added += factor * kvq_code_get(&l, sb, t, c);
                magnitude += fabs(factor) * ((1u << l.bits) - 1u);
            }
            /* What is added, and half an ulp of the sum with what was there. */
            const double bound = (double)(n + 8) * 0x1p-23 * magnitude + 0x1p-24 * fabs((double)acc[j]);
            cr_assert(fabs((double)acc[j] - ((double)before[j] + added)) <= bound,
                      "%u bits, D = %zu, row %zu of %zu, channel %zu: %.9g, not %.9g within %g",
                      (unsigned)l.bits, l.dim, row, n_q, c, (double)acc[j], (double)before[j] + added, bound);
        }
    }
}
