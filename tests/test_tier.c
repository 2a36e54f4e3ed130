/*
 * Keys in widths (quant/codec_tier.c): bytes worked out by hand, the simulation's pages, and for hard pages
 * and every kind of head dimension validity, bounds, scores.
 */
#include "quant/logstep.h"
#include "quant/tier.h"
#include "tests/kvq2.h"

static const char *const texts[] = {"tier:1",         "tier:1.5",           "tier:2:cert",
                                    "tier:2:fb:cert", "tier:3.5:u=10:cert", "tier:5"};
enum { N_TEXTS = sizeof texts / sizeof texts[0] };

Test(tier, texts)
{
    check_text("tier:2", KVQ_KEYS, "tier:2");
    check_text("tier:1.5:fb", KVQ_KEYS, "tier:1.5:fb");
    check_text("tier:2:u=7", KVQ_KEYS, "tier:2");
    check_text("tier:2:u=3", KVQ_KEYS, "tier:2:u=3");
    check_text("tier:5:fb:u=10:cert", KVQ_KEYS, "tier:5:fb:u=10:cert");
    static const char *const wrong[] = {"tier",      "tier:",          "tier:0",         "tier:0.5",
                                        "tier:5.5",  "tier:2.25",      "tier:2:cert:fb", "tier:2:u=100",
                                        "tier:2:u=", "tier:2:u=1:u=2", "tier:2:certain", "tier:2:fbi"};
    kvq_spec spec;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        cr_assert(!parses(wrong[i], KVQ_KEYS, &spec), "%s is read", wrong[i]);
    cr_assert(!parses("tier:2", KVQ_VALUES, &spec), "values are read");
}

Test(tier, sizes)
{
    kvq_side s = side_of("tier:2", KVQ_KEYS, 2, 64);
    cr_assert(s.payload_per_run == 2048 && s.bytes == 2496 && s.metadata_per_run == 448);
    cr_assert(s.tokens_per_run == 128 && s.sliding_step == 128 && s.folds && s.heavy_hitters == 2);
    s = side_of("tier:2:cert", KVQ_KEYS, 0, 1024); /* two bytes of order, a byte of cert */
    cr_assert(s.payload_per_run == 32768);
    cr_assert(s.bytes == 32768 + 1024 * (2 + 1 + 2 + 1) + 32 + 32);
    kvq_spec spec;
    kvq_common common = {.heavy_hitters = 0};
    cr_assert(parses("tier:2:fb", KVQ_KEYS, &spec));
    cr_assert(kvq_side_init(&s, &spec, &common, KVQ_KEYS, 272) != NULL, "feedback for 272 channels");
}

/* D = 16, one bit. Channel c is +-2^(c mod 4), by the parity of t + c: its mean is 0, its deviation 2^(c mod
 * 4), and of the candidates 1.3 * 1.596 deviations, which become 2 by the logarithm, fits exactly: lo =
 * -2^(c mod 4), step = 2^(1 + c mod 4). Sorted by variance: channels 3, 7, 11, 15, then 2, 6, 10, 14, ... */
Test(tier, bytes_by_hand)
{
    kvq_side s = side_of("tier:1", KVQ_KEYS, 0, 16);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < 16; c++)
            x[t * 16 + c] = ldexpf((t + c) % 2 == 0 ? 1 : -1, (int)(c % 4));
    static const uint16_t lo[4] = {0xbc00, 0xc000, 0xc400, 0xc800};
    uint8_t wanted[640] = {0};
    for (size_t t = 0; t < T; t++) /* bit 8j + k is place 4k + j: odd channels are k = 0 and 2 */
        memset(wanted + 4 * t, t % 2 == 0 ? 0x0a : 0x05, 4);
    for (size_t c = 0; c < 16; c++) {
        kvq_store_u16(wanted + 512 + 2 * c, lo[c % 4]);
        wanted[544 + c] = (uint8_t)(8 + 8 * (c % 4));
        wanted[560 + c] = (uint8_t)(3 - c / 4 + c % 4 * 4);
    }
    wanted[576] = 1;
    cr_assert(s.bytes == sizeof wanted);
    check_encoding(&s, NULL, "by hand");
    cr_assert(same_bits("superblock", superblock, wanted, sizeof wanted));
    kvq_side_read(&kvq_kernels_portable, &s, superblock, 0, T, xhat, 16);
    cr_assert(same_bits("xhat", xhat, x, T * 16 * sizeof *x));
}

static void check_page(const char *page, bool feedback)
{
    kvq_side s = side_of(feedback ? "tier:2:fb:u=3" : "tier:2:u=3", KVQ_KEYS, 2, 64);
    kvq_evidence evidence = page_evidence(page, 64);
    const int32_t *kept = page_array(page, "hh"), *order = page_array(page, feedback ? "kfb_order" : "order"),
                  *widths = page_array(page, feedback ? "kfb_widths" : "widths");
    const float *wanted = page_array(page, feedback ? "kfb_hat" : "k_hat");
    memcpy(x, page_array(page, "k"), T * 64 * sizeof *x);
    check_encoding(&s, &evidence, page);
    for (size_t i = 0; i < 64; i++)
        cr_assert(superblock[2048 + 128 + 64 + i] == order[i], "%s: place %zu", page, i);
    for (size_t i = 0; i < 4; i++)
        cr_assert((superblock[2304 + i / 2] >> i % 2 * 4 & 15) == widths[i], "%s: block %zu", page, i);
    for (size_t i = 0; i < 2; i++)
        cr_assert(superblock[2304 + 2 + 132 + i] == kept[i], "%s: heavy hitter %zu", page, i);
    kvq_side_read(kvq_kernels_get(), &s, superblock, 0, T, xhat, 64);
    for (size_t i = 0; i < T * 64; i++)
        cr_assert(fabsf(xhat[i] - wanted[i]) <= 1e-5f + 1e-5f * fabsf(wanted[i]), "%s: %zu is %g, not %g",
                  page, i, (double)xhat[i], (double)wanted[i]);
}

Test(tier, pages_of_the_simulation)
{
    check_page("page2", false);
    check_page("page3", false);
    check_page("page2", true);
    check_page("page3", true);
}

/* What float32 may be off by: (D + 8) * 2^-23 of what is added up, q times the offset and q times the step
 * times the largest code, or for kept rows their largest number. */
static double exact_bound(const kvq_side *s, const float *q)
{
    const kvq_tier *l = kvq_tier_of(s);
    double magnitude = 0;
    for (size_t place = 0; place < l->dim; place++) {
        const size_t c = kvq_tier_channel(l, superblock, place);
        const double levels = ldexp(1, (int)kvq_tier_width(l, superblock, place / KVQ_TIER_BLOCK)) - 1;
        const double lo = (double)kvq_f32_from_f16(kvq_load_u16(superblock + l->lo + 2 * c));
        const double step = (double)kvq_exp2_8th((int8_t)superblock[l->exponents + c]);
        double largest = fabs(lo) + levels * step;
        for (size_t t = 0; t < T; t++)
            largest = fmax(largest, fabs((double)xhat[t * s->dim + c]));
        magnitude += fabs((double)q[c]) * largest;
    }
    return (double)(s->dim + 8) * 0x1p-23 * magnitude + 0x1p-126;
}

static void check_exact_scores(const kvq_side *s, const kvq_tokens *tokens, const float *q, size_t n_q,
                               const char *what)
{
    static float scores[KVQ_ROWS_MAX * T];
    float rms[KVQ_ROWS_MAX];
    kvq_score_counts counts = {0};
    for (size_t isa = 0; kvq_kernels_at(isa) != NULL; isa++) {
        kvq_side_score(kvq_kernels_at(isa), s, tokens, q, n_q, scores, rms, &counts);
        for (size_t i = 0; i < n_q; i++) {
            const double most = exact_bound(s, q + i * s->dim);
            for (size_t t = 0; t < tokens->n; t++) {
                double wanted = 0;
                for (size_t c = 0; c < s->dim; c++)
                    wanted += (double)q[i * s->dim + c] * (double)xhat[t * s->dim + c];
                cr_assert(fabs((double)scores[i * T + t] - wanted) <= most,
                          "%s, D = %zu, %s, query %zu of %zu, token %zu: %.9g, not %.9g within %g", what,
                          s->dim, kvq_kernels_at(isa)->isa, i, n_q, t, (double)scores[i * T + t], wanted,
                          most);
            }
        }
    }
}

/* Fast scores against exact ones: both relative to what float32 gives and to what is promised. */
static void check_scores(rng *r, const kvq_side *s, const char *what)
{
    static float q[KVQ_ROWS_MAX * KVQ_DIM_MAX], exact[KVQ_ROWS_MAX * T], fast[KVQ_ROWS_MAX * T],
        spec[KVQ_ROWS_MAX * T];
    float rms[KVQ_ROWS_MAX], spec_rms[KVQ_ROWS_MAX];
    size_t n_q = 1 + rng_below(r, kvq_rows_most(s->dim)), n = 1 + rng_below(r, T);
    fill(r, FILL_NORMAL, q, n_q, s->dim);
    kvq_tokens tokens = {
        .superblock = superblock, .next = {superblock, s->bytes}, .n = n, .sums = KVQ_SUMS_WIDE};
    kvq_score_counts counts = {0};
    check_exact_scores(s, &tokens, q, n_q, what);
    kvq_side_score(kvq_kernels_get(), s, &tokens, q, n_q, exact, rms, &counts);
    tokens.sums = rng_u64(r) & 1 ? KVQ_SUMS_FAST : KVQ_SUMS_WIDE;
    kvq_side_score(&kvq_kernels_portable, s, &tokens, q, n_q, spec, spec_rms, &counts);
    for (size_t isa = 0; kvq_kernels_at(isa) != NULL; isa++) {
        kvq_side_score(kvq_kernels_at(isa), s, &tokens, q, n_q, fast, rms, &counts);
        for (size_t i = 0; i < n_q; i++) {
            cr_assert(memcmp(fast + i * T, spec + i * T, n * sizeof *fast) == 0 && rms[i] == spec_rms[i],
                      "%s, D = %zu: %s scores with other bits", what, s->dim, kvq_kernels_at(isa)->isa);
            double off = 0, scale = 0;
            for (size_t t = 0; t < n; t++)
                off += pow((double)fast[i * T + t] - (double)exact[i * T + t], 2) / (double)n;
            /* Rounding goes with what is added and the bias: with grids, which reach as far as any token. */
            for (size_t t = 0; t < T; t++) {
                double size = 0;
                for (size_t c = 0; c < s->dim; c++)
                    size += fabs((double)q[i * s->dim + c]) *
                            (fabs((double)xhat[t * s->dim + c]) + 0x1p-14); /* the smallest grid */
                scale = fmax(scale, size);
            }
            cr_assert(sqrt(off) <= 5 * (double)rms[i] + 4e-6 * scale, "%s, D = %zu: off by %g, not by %g",
                      what, s->dim, sqrt(off), (double)rms[i]);
        }
    }
}

Test(tier, hard_pages)
{
    rng r = rng_make(1);
    for (size_t i = 0; i < N_TEXTS; i++)
        for (size_t d = 0; d < N_DIMS; d++)
            for (size_t kind = 0; kind < N_PAGES; kind++) {
                size_t dim = all_dims[d];
                if ((strstr(texts[i], "fb") != NULL && dim > 256) || (dim == 1024 && (i + kind) % 3 != 0))
                    continue;
                kvq_side s = side_of(texts[i], KVQ_KEYS, (uint32_t)rng_below(&r, 9), dim);
                make_page(&r, kind, dim);
                kvq_evidence evidence = make_evidence(&r, dim);
                if (rng_below(&r, 4) == 0)
                    evidence.energy = NULL;
                check_encoding(&s, rng_below(&r, 4) == 0 ? NULL : &evidence, texts[i]);
                check_reading(&s, texts[i]);
                check_scores(&r, &s, texts[i]);
            }
}

/* One query of several that no whole numbers of 31 bits serve: its scores, and only its, are those of
 * dequantized keys, to the bit, with kept rows. */
Test(tier, queries_too_wide_are_scored_in_float32)
{
    enum { D = 72, N_Q = 3 };
    static const float sizes[] = {3e7f, 1e36f}; /* 1e36: where it does not fold at all */
    static const kvq_sums kinds[] = {KVQ_SUMS_FAST, KVQ_SUMS_WIDE};
    static float q[N_Q * D], scores[N_Q * T], plain[N_Q * T];
    rng r = rng_make(5);
    kvq_side s = side_of("tier:2", KVQ_KEYS, 2, D);
    for (size_t i = 0; i < 4; i++) {
        float rms[N_Q];
        kvq_score_counts counts = {0};
        kvq_tokens tokens = {.superblock = superblock, .n = T, .sums = kinds[i % 2]};
        make_page(&r, FILL_NORMAL, D);
        kvq_evidence evidence = make_evidence(&r, D);
        check_encoding(&s, &evidence, "too wide");
        fill(&r, FILL_NORMAL, q, N_Q, D);
        for (size_t j = 0; j < N_Q * D; j++)
            q[j] *= j / D == 1 ? sizes[i / 2] : 0.2f;
        kvq_side_score(kvq_kernels_get(), &s, &tokens, q, N_Q, scores, rms, &counts);
        kvq_score_dequantized(kvq_kernels_get(), &s, &tokens, q, N_Q, plain);
        cr_assert(counts.float32 == 1 && counts.wide == (kinds[i % 2] == KVQ_SUMS_WIDE ? N_Q - 1 : 0));
        cr_assert(rms[1] == 0 && rms[0] > 0 && rms[2] > 0);
        cr_assert(memcmp(scores + T, plain + T, T * sizeof *plain) == 0);
        cr_assert(memcmp(scores, plain, T * sizeof *plain) != 0);
    }
}

Test(tier, certified_is_close)
{
    rng r = rng_make(2);
    kvq_side s = side_of("tier:3:cert", KVQ_KEYS, 1, 64);
    fill(&r, FILL_OFFSETS, x, T, 64);
    check_encoding(&s, NULL, "tier:3:cert");
    check_reading(&s, "tier:3:cert");
    for (size_t c = 0; c < 64; c++) {
        double worst = 0;
        for (size_t t = 0; t < T; t++)
            worst = fmax(worst, fabs((double)x[t * 64 + c] - (double)xhat[t * 64 + c]));
        cr_assert((double)bound[c] <= worst * 1.0906 + 1e-4, "channel %zu: %g for %g", c, (double)bound[c],
                  worst);
    }
}

/* Feedback cannot be computed: the same as without. */
Test(tier, moments_that_are_not_positive)
{
    rng r = rng_make(3);
    kvq_side s = side_of("tier:2:fb", KVQ_KEYS, 2, 24), plain = side_of("tier:2", KVQ_KEYS, 2, 24);
    make_page(&r, FILL_NORMAL, 24);
    kvq_evidence evidence = make_evidence(&r, 24);
    moment[0 + 1] = 1e6f;
    check_encoding(&s, &evidence, "not positive");
    memcpy(other, superblock, s.bytes);
    plain.codec->encode(&kvq_kernels_portable, &plain, superblock, 0, T, x, 24, &evidence);
    cr_assert(same_bits("superblock", superblock, other, s.bytes));
}

/* Hostile bytes are refused, and what is not refused can be read and scored. */
Test(tier, validation)
{
    rng r = rng_make(4);
    kvq_side s = side_of("tier:2:cert", KVQ_KEYS, 2, 24);
    make_page(&r, FILL_NORMAL, 24);
    kvq_evidence evidence = make_evidence(&r, 24);
    check_encoding(&s, &evidence, "validation");
    const size_t lo = 1024, exponents = lo + 64, order = exponents + 32, widths = order + 32,
                 rows = widths + 1, indices = rows + 52, cert = indices + 2, end = cert + 24;
    cr_assert(s.bytes == (end + 63) / 64 * 64);
    check_refused(&s, lo + 1, 0x7c, "lo that is infinite");
    check_refused(&s, lo + 2 * 24, 1, "lo of a channel that pads");
    check_refused(&s, exponents + 31, 1, "step of a channel that pads");
    check_refused(&s, order, superblock[order + 1], "a channel twice");
    check_refused(&s, order + 3, 32, "a channel that is not there");
    check_refused(&s, order + 24, 25, "padding out of order");
    check_refused(&s, widths, 0x44, "more than the budget");
    check_refused(&s, widths, 0x40, "widths that grow");
    check_refused(&s, widths, 0x03, "a width of 3");
    check_refused(&s, widths, 0x06, "a width of 6");
    check_refused(&s, rows + 1, 0x7c, "a row's scale that is infinite");
    check_refused(&s, rows + 1, superblock[rows + 1] | 0x80, "a row's scale that is negative");
    check_refused(&s, rows + 2, 0x80, "a row's code of -128");
    check_refused(&s, indices, 128, "a token that is not there");
    check_refused(&s, indices, superblock[indices + 1], "a token twice");
    check_refused(&s, indices, 0xff, "a row of no token");
    check_refused(&s, end, 1, "padding");
    for (size_t i = 0; i < 20000; i++) {
        memcpy(other, superblock, s.bytes);
        for (size_t j = rng_below(&r, 3) + 1; j > 0; j--)
            other[rng_u64(&r) & 1 ? rng_below(&r, s.bytes) : lo + rng_below(&r, s.bytes - lo)] =
                (uint8_t)rng_u64(&r);
        if (!kvq_side_is_valid(&s, other, T))
            continue;
        memcpy(bound, superblock, s.bytes);
        memcpy(superblock, other, s.bytes);
        kvq_side_read(kvq_kernels_get(), &s, superblock, 0, T, xhat, 24);
        if (i % 16 == 0)
            check_scores(&r, &s, "after a change");
        memcpy(superblock, bound, s.bytes);
    }
}
