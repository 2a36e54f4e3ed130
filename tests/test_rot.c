/*
 * Rotated values (quant/codec_rot.c): bytes worked out by hand, the simulation's pages, and for hard pages
 * and every kind of head dimension validity, bounds, sums.
 */
#include "tests/kvq2.h"

static const char *const texts[] = {"rot:2", "rot:2:page=0", "rot:3", "rot:4", "rot:1.5", "rot:1.5:page=0"};
enum { N_TEXTS = sizeof texts / sizeof texts[0] };

Test(rot, texts)
{
    check_text("rot:2", KVQ_VALUES, "rot:2");
    check_text("rot:1.5:page=0", KVQ_VALUES, "rot:1.5:page=0");
    check_text("rot:4", KVQ_VALUES, "rot:4");
    static const char *const wrong[] = {"rot",   "rot:",         "rot:1",    "rot:2.5",
                                        "rot:5", "rot:2:page=1", "rot:2:u=3"};
    kvq_spec spec;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        cr_assert(!parses(wrong[i], KVQ_VALUES, &spec), "%s is read", wrong[i]);
    cr_assert(!parses("rot:2", KVQ_KEYS, &spec), "keys are read");
}

Test(rot, sizes)
{
    kvq_side s = side_of("rot:2", KVQ_VALUES, 2, 64);
    cr_assert(s.payload_per_run == 2048 && s.bytes == 2432); /* 2048 + 2 + 128 + 66 + 132 + 2 = 2378 */
    cr_assert(s.tokens_per_run == 128 && s.folds && s.evidence == KVQ_EVIDENCE_RECEIVED);
    s = side_of("rot:1.5", KVQ_VALUES, 2, 64);
    cr_assert(s.payload_per_run == 1536 && s.bytes == 2048 && s.folds); /* and 128 + 2 of order and widths */
    s = side_of("rot:4:page=0", KVQ_VALUES, 0, 64);
    cr_assert(s.payload_per_run == 4096 && s.bytes == 4096 + 192 && s.evidence == 0);
}

/* D = 16. Token t is (-1)^t a in channel 0, 0 elsewhere, a = 1 but for token 5 with 4: y is a/4 everywhere,
 * sigma = a/4, so y / sigma = 1 passes the threshold of .9957: code 3, or 0. scale = a^2 / (16 a/4 1.49355) =
 * .16739 a, 16 log2 of it is -41.26 or, for a = 4, -9.26: -41 and -9, of which the largest is n = 255. */
Test(rot, bytes_by_hand)
{
    kvq_side s = side_of("rot:2:page=0", KVQ_VALUES, 0, 16);
    memset(x, 0, T * 16 * sizeof *x);
    for (size_t t = 0; t < T; t++)
        x[t * 16] = (t % 2 == 0 ? 1.0f : -1.0f) * (t == 5 ? 4.0f : 1.0f);
    uint8_t wanted[704] = {0};
    for (size_t i = 0; i < 512; i += 2) /* tokens 4k + j at bits 8j + 2k: even ones have whole bytes */
        wanted[i] = 0xff;
    kvq_store_u16(wanted + 512, (uint16_t)(-9 - 255));
    memset(wanted + 514, -41 + 9 + 255, T);
    wanted[514 + 5] = 255;
    cr_assert(s.bytes == sizeof wanted);
    check_encoding(&s, NULL, "by hand");
    cr_assert(same_bits("superblock", superblock, wanted, sizeof wanted));
    kvq_side_read(&kvq_kernels_portable, &s, superblock, 0, T, xhat, 16);
    cr_assert(fabs((double)xhat[0] - 4 * 1.49355 * exp2(-41.0 / 16)) < 1e-6);
    cr_assert(fabs((double)xhat[5 * 16] + 4 * 1.49355 * exp2(-9.0 / 16)) < 1e-5);
}

static void check_page(const char *page)
{
    kvq_side s = side_of("rot:2", KVQ_VALUES, 2, 64);
    kvq_evidence evidence = page_evidence(page, 64);
    const int32_t *kept = page_array(page, "hh");
    const float *wanted = page_array(page, "v_hat_nohh");
    memcpy(x, page_array(page, "v"), T * 64 * sizeof *x);
    check_encoding(&s, &evidence, page);
    for (size_t i = 0; i < 2; i++)
        cr_assert(superblock[2048 + 2 + 128 + 66 + 132 + i] == kept[i], "%s: heavy hitter %zu", page, i);
    kvq_side_read(kvq_kernels_get(), &s, superblock, 0, T, xhat, 64);
    for (size_t i = 0; i < T * 64; i++)
        cr_assert(fabsf(xhat[i] - wanted[i]) <= 1e-5f + 1e-5f * fabsf(wanted[i]), "%s: %zu is %g, not %g",
                  page, i, (double)xhat[i], (double)wanted[i]);
}

Test(rot, pages_of_the_simulation)
{
    check_page("page2");
    check_page("page3");
}

/* The transform keeps dot products and is its own inverse. */
Test(rot, packed_domain)
{
    rng r = rng_make(1);
    for (size_t d = 0; d < N_DIMS; d++) {
        size_t dim = all_dims[d];
        kvq_side s = side_of("rot:2", KVQ_VALUES, 0, dim);
        fill(&r, FILL_NORMAL, x, 2, dim);
        s.codec->prepare(kvq_kernels_get(), &s, x, xhat);
        s.codec->prepare(kvq_kernels_get(), &s, x + dim, xhat + dim);
        double before = 0, after = 0, norm = 0;
        for (size_t c = 0; c < dim; c++) {
            before += (double)x[c] * (double)x[dim + c];
            after += (double)xhat[c] * (double)xhat[dim + c];
            norm += (double)x[c] * (double)x[c];
        }
        cr_assert(fabs(before - after) <= 1e-5 * (double)dim, "D = %zu: %g became %g", dim, before, after);
        s.codec->finish(kvq_kernels_get(), &s, xhat);
        for (size_t c = 0; c < dim; c++)
            cr_assert(fabs((double)xhat[c] - (double)x[c]) <= 1e-6 * sqrt(norm));
    }
}

/* What accumulate adds to both domains, brought together. */
static void sum_up(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *p,
                   size_t n_q, float *sums, float *error)
{
    static float plain[KVQ_ROWS_MAX * KVQ_DIM_MAX];
    static const float no_error[KVQ_ROWS_MAX];
    memset(plain, 0, sizeof plain);
    memset(sums, 0, n_q * s->dim * sizeof *sums);
    memset(error, 0, n_q * sizeof *error);
    kvq_side_accumulate(k, s, tokens, p, n_q, no_error, &(kvq_sum_rows){plain, sums, error});
    for (size_t i = 0; i < n_q; i++) {
        s->codec->finish(k, s, sums + i * s->dim);
        for (size_t c = 0; c < s->dim; c++)
            sums[i * s->dim + c] += plain[i * s->dim + c];
    }
}

/* Exact sums against the dequantized page in double. Rotation mixes the channels, so what float32 may be off
 * by goes with norms: of p times three times a token (half the levels are taken off again), and of the sum
 * that is turned. */
static void check_exact_sums(const kvq_side *s, const kvq_tokens *tokens, const float *p, size_t n_q,
                             const char *what)
{
    static float sums[KVQ_ROWS_MAX * KVQ_DIM_MAX], read[T * KVQ_DIM_MAX];
    float error[KVQ_ROWS_MAX];
    kvq_side_read(&kvq_kernels_portable, s, superblock, 0, T, read, s->dim);
    for (size_t isa = 0; kvq_kernels_at(isa) != NULL; isa++) {
        sum_up(kvq_kernels_at(isa), s, tokens, p, n_q, sums, error);
        for (size_t i = 0; i < n_q; i++) {
            double off = 0, size = 0;
            for (size_t t = 0; t < tokens->n; t++) {
                double norm = 0;
                for (size_t c = 0; c < s->dim; c++)
                    norm += (double)read[t * s->dim + c] * (double)read[t * s->dim + c];
                size += 3 * (double)p[i * T + t] * sqrt(norm);
            }
            for (size_t c = 0; c < s->dim; c++) {
                double wanted = 0;
                for (size_t t = 0; t < tokens->n; t++)
                    wanted += (double)p[i * T + t] * (double)read[t * s->dim + c];
                off += ((double)sums[i * s->dim + c] - wanted) * ((double)sums[i * s->dim + c] - wanted);
            }
            if (size > (double)FLT_MAX) /* partial sums leave the range of float */
                continue;
            cr_assert(!(sqrt(off) > (double)(tokens->n + 16) * 0x1p-23 * size + 0x1p-100),
                      "%s, D = %zu, %s: exact sums off by %g of %g", what, s->dim, kvq_kernels_at(isa)->isa,
                      sqrt(off), size);
        }
    }
}

static void check_sums(rng *r, const kvq_side *s, const char *what)
{
    static float p[KVQ_ROWS_MAX * T], exact[KVQ_ROWS_MAX * KVQ_DIM_MAX], fast[KVQ_ROWS_MAX * KVQ_DIM_MAX],
        spec[KVQ_ROWS_MAX * KVQ_DIM_MAX];
    float error[KVQ_ROWS_MAX], spec_error[KVQ_ROWS_MAX];
    size_t n_q = 1 + rng_below(r, kvq_rows_most(s->dim)), n = 1 + rng_below(r, T);
    for (size_t i = 0; i < n_q * T; i++)
        p[i] = powf(rng_uniform(r), 5);
    kvq_tokens tokens = {
        .superblock = superblock, .next = {superblock, s->bytes}, .n = n, .sums = KVQ_SUMS_WIDE};
    check_exact_sums(s, &tokens, p, n_q, what);
    sum_up(kvq_kernels_get(), s, &tokens, p, n_q, exact, error);
    tokens.sums = rng_u64(r) & 1 ? KVQ_SUMS_FAST : KVQ_SUMS_WIDE;
    sum_up(&kvq_kernels_portable, s, &tokens, p, n_q, spec, spec_error);
    for (size_t isa = 0; kvq_kernels_at(isa) != NULL; isa++) {
        sum_up(kvq_kernels_at(isa), s, &tokens, p, n_q, fast, error);
        cr_assert(memcmp(fast, spec, n_q * s->dim * sizeof *fast) == 0 &&
                      memcmp(error, spec_error, n_q * sizeof *error) == 0,
                  "%s, D = %zu: %s adds up to other bits", what, s->dim, kvq_kernels_at(isa)->isa);
        for (size_t i = 0; i < n_q; i++) {
            double off = 0, size = 0;
            for (size_t c = 0; c < s->dim; c++)
                off += pow((double)fast[i * s->dim + c] - (double)exact[i * s->dim + c], 2);
            for (size_t t = 0; t < n; t++) {
                double norm = 0;
                for (size_t c = 0; c < s->dim; c++)
                    norm += (double)xhat[t * s->dim + c] * (double)xhat[t * s->dim + c];
                size += (double)p[i * T + t] * sqrt(norm);
            }
            cr_assert(!(sqrt(off) > 4 * sqrt((double)error[i]) + 4e-6 * size + 0x1p-80),
                      "%s, D = %zu: off by %g, not by %g", what, s->dim, sqrt(off), sqrt((double)error[i]));
        }
    }
}

Test(rot, hard_pages)
{
    rng r = rng_make(2);
    for (size_t i = 0; i < N_TEXTS; i++)
        for (size_t d = 0; d < N_DIMS; d++)
            for (size_t kind = 0; kind < N_PAGES; kind++) {
                size_t dim = all_dims[d];
                if (dim == 1024 && (i + kind) % 3 != 0)
                    continue;
                kvq_side s = side_of(texts[i], KVQ_VALUES, (uint32_t)rng_below(&r, 9), dim);
                make_page(&r, kind, dim);
                kvq_evidence evidence = make_evidence(&r, dim);
                check_encoding(&s, rng_below(&r, 4) == 0 ? NULL : &evidence, texts[i]);
                check_reading(&s, texts[i]);
                check_sums(&r, &s, texts[i]);
            }
}

/* Tokens far smaller than the largest, down to where their scale is no more than the smallest. */
Test(rot, wide_ranges)
{
    rng r = rng_make(3);
    for (size_t i = 0; i < N_TEXTS; i++) {
        kvq_side s = side_of(texts[i], KVQ_VALUES, 1, 80);
        make_page(&r, FILL_NORMAL, 80);
        for (size_t t = 0; t < T; t++)
            for (size_t c = 0; c < 80; c++)
                x[t * 80 + c] = ldexpf(x[t * 80 + c], -(int)(t / 4));
        check_encoding(&s, NULL, texts[i]);
        check_reading(&s, texts[i]);
        check_sums(&r, &s, texts[i]);
    }
}

/* What an error of a score moves the sum by is p times it times the token. The squares of a token's levels
 * are taken for a mean of 1: of 64 that are Gaussian it is .6 (one bit: .7979^2) to 1, give or take a
 * quarter. */
Test(rot, errors_of_scores_count)
{
    static const char *const bits[] = {"rot:1.5:page=0", "rot:2:page=0", "rot:3:page=0", "rot:4:page=0"};
    static float p[T], sums[KVQ_DIM_MAX];
    rng r = rng_make(6);
    for (size_t i = 0; i < 4; i++) {
        kvq_side s = side_of(bits[i], KVQ_VALUES, 0, 64);
        const float rms = 0x1p-11f;
        float error = 0.0f;
        double moved = 0;
        make_page(&r, FILL_NORMAL, 64);
        for (size_t c = 0; c < 64; c++)
            x[90 * 64 + c] *= 4.0f; /* so that it has bits */
        check_encoding(&s, NULL, bits[i]);
        kvq_side_read(kvq_kernels_get(), &s, superblock, 0, T, xhat, 64);
        for (size_t c = 0; c < 64; c++)
            moved += pow((double)rms * (double)xhat[90 * 64 + c], 2);
        memset(p, 0, sizeof p);
        p[90] = 1.0f;
        kvq_side_accumulate(kvq_kernels_get(), &s,
                            &(kvq_tokens){.superblock = superblock, .n = T, .sums = KVQ_SUMS_FAST}, p, 1,
                            &rms, &(kvq_sum_rows){sums, sums, &error});
        cr_assert((double)error >= .75 * moved && (double)error <= 1.25 / .6 * moved, "%s: %g for %g",
                  bits[i], (double)error, moved);
    }
}

/* One row of two whose products pass what folds: its sums are those of dequantized tokens, to the bit, and
 * the other's are as good as with it alone. */
Test(rot, products_that_do_not_fold_are_summed_in_float32)
{
    enum { D = 64 };
    static const char *const bits[] = {"rot:2:page=0", "rot:3:page=0"};
    static const kvq_sums kinds[] = {KVQ_SUMS_FAST, KVQ_SUMS_WIDE};
    static float p[2 * T], plain[2 * D];
    rng r = rng_make(7);
    for (size_t i = 0; i < 4; i++) {
        kvq_side s = side_of(bits[i / 2], KVQ_VALUES, 0, D);
        float sums[2 * D] = {0}, error[2] = {0}, alone[D] = {0}, rms[2] = {0};
        make_page(&r, FILL_NORMAL, D);
        for (size_t j = 0; j < T * D; j++)
            x[j] *= 0x1p98f;
        check_encoding(&s, NULL, bits[i / 2]);
        for (size_t t = 0; t < T; t++) {
            p[t] = 0x1p10f; /* weights are up to 2^16 */
            p[T + t] = 0x1p-10f;
        }
        const kvq_tokens tokens = {.superblock = superblock, .n = T, .sums = kinds[i % 2]};
        kvq_side_accumulate(kvq_kernels_get(), &s, &tokens, p, 2, rms, &(kvq_sum_rows){sums, sums, error});
        memset(plain, 0, sizeof plain);
        kvq_accumulate_dequantized(kvq_kernels_get(), &s, &tokens, p, 2, plain);
        cr_assert(memcmp(sums, plain, D * sizeof *plain) == 0, "%s, %d", bits[i / 2], (int)kinds[i % 2]);
        kvq_side_accumulate(kvq_kernels_get(), &s, &tokens, p + T, 1, rms,
                            &(kvq_sum_rows){alone, alone, error});
        cr_assert(memcmp(sums + D, alone, sizeof alone) == 0, "%s, %d", bits[i / 2], (int)kinds[i % 2]);
        cr_assert(rel_l2(alone, plain + D, D) <= 1e-3);
    }
}

/* What an error of the scores moves the sum by, p times it times the token, counts for kept tokens, too. */
Test(rot, errors_of_kept_tokens_count)
{
    rng r = rng_make(5);
    static float p[T], sums[KVQ_DIM_MAX], plain[KVQ_DIM_MAX];
    kvq_side s = side_of("rot:2", KVQ_VALUES, 2, 64);
    make_page(&r, FILL_NORMAL, 64);
    kvq_evidence evidence = make_evidence(&r, 64);
    received[77] = 2.0f; /* more than any other */
    for (size_t c = 0; c < 64; c++)
        x[77 * 64 + c] *= 100.0f;
    check_encoding(&s, &evidence, "rot:2");
    cr_assert(kvq_side_is_kept(&s, superblock, 77));
    const float rms = 0x1p-13f;
    float error = 0.0f;
    double moved = 0;
    for (size_t t = 0; t < T; t++)
        p[t] = 0x1p-10f;
    p[77] = 1.0f;
    for (size_t c = 0; c < 64; c++)
        moved += pow((double)rms * (double)x[77 * 64 + c], 2);
    kvq_side_accumulate(kvq_kernels_get(), &s,
                        &(kvq_tokens){.superblock = superblock, .n = T, .sums = KVQ_SUMS_FAST}, p, 1, &rms,
                        &(kvq_sum_rows){plain, sums, &error});
    /* The largest number of a row stands for all. */
    cr_assert((double)error >= moved && (double)error <= 64 * moved, "%g for %g", (double)error, moved);
}

static void check_validation(const char *text, size_t code_bytes, bool sorted)
{
    rng r = rng_make(4);
    kvq_side s = side_of(text, KVQ_VALUES, 2, 24);
    make_page(&r, FILL_NORMAL, 24);
    kvq_evidence evidence = make_evidence(&r, 24);
    check_encoding(&s, &evidence, text);
    const size_t base = code_bytes, scales = base + 2, order = scales + T, widths = order + (sorted ? T : 0),
                 page = widths + (sorted ? 2 : 0), rows = page + 26, indices = rows + 52, end = indices + 2;
    cr_assert(s.payload_per_run == code_bytes && s.bytes == (end + 63) / 64 * 64);
    check_refused(&s, base + 1, 0x80, "a scale below all");
    check_refused(&s, base + 1, 0x7f, "a scale above all");
    check_refused(&s, page + 1, 0x7c, "a page vector that is infinite");
    check_refused(&s, rows + 1, 0x7c, "a row's scale that is infinite");
    check_refused(&s, rows + 2, 0x80, "a row's code of -128");
    check_refused(&s, indices, 128, "a token that is not there");
    check_refused(&s, indices, superblock[indices + 1], "a token twice");
    check_refused(&s, indices, 0xff, "a row of no token");
    check_refused(&s, end, 1, "padding");
    if (sorted) {
        check_refused(&s, order, superblock[order + 1], "a token's place twice");
        check_refused(&s, order, 128, "a place of no token");
        check_refused(&s, widths, 0x44, "more than the budget");
        check_refused(&s, widths, 0x42, "widths that grow");
    }
    for (size_t i = 0; i < 20000; i++) {
        memcpy(other, superblock, s.bytes);
        for (size_t j = rng_below(&r, 3) + 1; j > 0; j--)
            other[rng_u64(&r) & 1 ? rng_below(&r, s.bytes) : base + rng_below(&r, s.bytes - base)] =
                (uint8_t)rng_u64(&r);
        if (!kvq_side_is_valid(&s, other, T))
            continue;
        memcpy(bound, superblock, s.bytes);
        memcpy(superblock, other, s.bytes);
        kvq_side_read(kvq_kernels_get(), &s, superblock, 0, T, xhat, 24);
        for (size_t c = 0; c < T * 24; c++)
            cr_assert(isfinite(xhat[c]), "%s: what is valid is finite", text);
        if (i % 16 == 0)
            check_sums(&r, &s, "after a change");
        memcpy(superblock, bound, s.bytes);
    }
}

Test(rot, validation)
{
    check_validation("rot:2", 1024, false);
    check_validation("rot:3", 1536, false);
    check_validation("rot:1.5", 768, true);
}
