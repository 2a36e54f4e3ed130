/*
 * Sliding windows: attention of a query over the newest tokens only, against a plain double-precision
 * computation over what the cache reads back, and what holds to the bit. kvq_cache_step's windows are also in
 * test_step.c, those of evidence in test_toy.c.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/script.h"

enum {
    SUPERBLOCK = 128,
    SEGMENT = 512
}; /* tokens of a page; of the shortest run after which sums start afresh */

/* All that a call hands out. */
typedef struct answers {
    size_t n_tokens, n_rows, dim;
    float *out, *p, *bound; /* [n_rows][D], [n_rows][T], [n_rows]; bound NULL if not asked for */
    kvq_attend_counters counters;
} answers;

typedef struct how {
    kvq_precision precision;
    size_t window;
    bool bound;
    int n_threads;
} how;

/* Filled with numbers that must not stay. */
static float *floats(size_t n)
{
    float *x = malloc((n + 1) * sizeof *x);
    cr_assert_not_null(x);
    memset(x, 0x5a, n * sizeof *x);
    return x;
}

static kvq_attend_options options_for(answers *a, how h)
{
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    kvq_attend_counters_init(&a->counters);
    a->out = floats(a->n_rows * a->dim);
    a->p = floats(a->n_rows * a->n_tokens);
    a->bound = h.bound ? floats(a->n_rows) : NULL;
    options.precision = h.precision;
    options.window = h.window;
    options.n_threads = h.n_threads;
    options.probabilities = a->p;
    options.bound = a->bound;
    options.counters = &a->counters;
    return options;
}

/* The newest n_q queries of sequence 0. */
static answers attend(const kvq_cache *cache, const script *d, size_t n_q, how h)
{
    size_t n = kvq_cache_n_tokens(cache, 0, 0);
    answers a = {.n_tokens = n, .n_rows = n_q * d->s.n_heads, .dim = d->s.head_dim};
    kvq_attend_options options = options_for(&a, h);
    cr_assert_eq(
        kvq_cache_attend(cache, 0, NULL, 1, d->q + (n - n_q) * d->q_row, n_q, d->scale, &options, a.out),
        KVQ_OK);
    return a;
}

static void free_answers(answers *a)
{
    free(a->out), free(a->p), free(a->bound);
}

/* Do the newest rows of both have the same bits? */
static bool same_answers(const char *what, const answers *a, const answers *b)
{
    size_t n = a->n_rows < b->n_rows ? a->n_rows : b->n_rows, i = a->n_rows - n, j = b->n_rows - n;
    return same_bits(what, a->out + i * a->dim, b->out + j * b->dim, n * a->dim * sizeof(float)) &&
           same_bits(what, a->p + i * a->n_tokens, b->p + j * b->n_tokens, n * a->n_tokens * sizeof(float)) &&
           (a->bound == NULL || same_bits(what, a->bound + i, b->bound + j, n * sizeof(float)));
}

static kvq_cache *filled(const char *scheme, const script *d, size_t n)
{
    kvq_cache *cache = cache_of(scheme, d->s, NULL);
    script_append(cache, d, 0, n);
    return cache;
}

/* The first token that a query sees which sees `end` tokens at most. */
static size_t first_seen(size_t window, size_t end)
{
    return window == 0 || window >= end ? 0 : end - window;
}

/* The first token of the chunk (of a page, the residual or the sinks) that a token lies in. */
static size_t chunk_of(const char *scheme, size_t token)
{
    size_t sinks = kvq_scheme_sinks(scheme_of(scheme)), from = token < sinks ? 0 : sinks;
    return from + (token - from) / SUPERBLOCK * SUPERBLOCK;
}

/* ---- Against double ---- */

static double largest(const float *x, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    return most;
}

/* Attention over tokens [begin, end) of rows [..][Hkv][D]. Returns how far float may be off (test_attend.c
 * says why), where k_max is the largest of all keys, which those in the window may share scales with. */
static double reference(const script *d, const float *k, const float *v, size_t begin, size_t end, size_t kv,
                        const float *q, double k_max, double *out)
{
    static double w[8192];
    size_t dim = d->s.head_dim, n = end - begin;
    double max = -INFINITY, sum = 0, v_max = 0, q_sum = 0;
    for (size_t c = 0; c < dim; c++)
        q_sum += fabs((double)q[c]);
    for (size_t t = 0; t < n; t++) {
        const float *row = k + (begin + t) * d->row + kv * dim;
        w[t] = 0;
        for (size_t c = 0; c < dim; c++) {
            w[t] += (double)d->scale * (double)q[c] * (double)row[c];
            v_max = fmax(v_max, fabs((double)v[(begin + t) * d->row + kv * dim + c]));
        }
        max = fmax(max, w[t]);
    }
    memset(out, 0, dim * sizeof *out);
    for (size_t t = 0; t < n; t++) {
        sum += w[t] = exp(w[t] - max);
        for (size_t c = 0; c < dim; c++)
            out[c] += w[t] * (double)v[(begin + t) * d->row + kv * dim + c];
    }
    for (size_t c = 0; c < dim; c++)
        out[c] /= sum;
    double score = (double)d->scale * 4 * q_sum * k_max * (double)(dim + 8) * 0x1p-23;
    return 4 * v_max * (expm1(2 * score) + (double)(n + dim) * 0x1p-23) + 1e-30;
}

static void expect_probabilities(const char *what, const answers *a, size_t row, size_t begin, size_t end)
{
    double sum = 0;
    for (size_t t = 0; t < a->n_tokens; t++) {
        float p = a->p[row * a->n_tokens + t];
        sum += (double)p;
        if (t >= begin && t < end ? !(p >= 0) : p != 0)
            cr_assert_fail("%s: row %zu, which sees [%zu, %zu): token %zu has %g", what, row, begin, end, t,
                           (double)p);
    }
    cr_assert_float_eq(sum, 1, 1e-4, "%s: row %zu", what, row);
}

static void expect_window(const char *scheme, const kvq_cache *cache, const script *d, size_t n_q,
                          size_t window)
{
    size_t n = kvq_cache_n_tokens(cache, 0, 0), dim = d->s.head_dim;
    float *k = floats(n * d->row), *v = floats(n * d->row);
    double *wanted = malloc(dim * sizeof *wanted), k_max;
    char what[100];
    (void)snprintf(what, sizeof what, "%s, %zu of %zu tokens, window %zu", scheme, n_q, n, window);
    answers exact = attend(cache, d, n_q, (how){.precision = KVQ_PRECISION_EXACT, .window = window});
    answers fast = attend(cache, d, n_q, (how){.precision = KVQ_PRECISION_FAST, .window = window});
    cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, n, k, v), KVQ_OK);
    k_max = largest(k, n * d->row);
    for (size_t row = 0; row < exact.n_rows; row++) {
        size_t head = row % d->s.n_heads, end = n - n_q + row / d->s.n_heads + 1;
        size_t begin = first_seen(window, end), kv = head / (d->s.n_heads / d->s.n_kv_heads);
        double bound =
            reference(d, k, v, begin, end, kv, d->q + (n - n_q) * d->q_row + row * dim, k_max, wanted);
        for (size_t c = 0; c < dim; c++)
            cr_assert_leq(fabs((double)exact.out[row * dim + c] - wanted[c]), bound,
                          "%s: row %zu channel %zu: %g, expected %g within %g", what, row, c,
                          (double)exact.out[row * dim + c], wanted[c], bound);
        double off = rel_l2(fast.out + row * dim, exact.out + row * dim, dim);
        cr_assert_leq(off, 1e-3, "%s: fast is off by %g in row %zu", what, off, row);
        expect_probabilities(what, &exact, row, begin, end);
        expect_probabilities(what, &fast, row, begin, end);
    }
    free(k), free(v), free(wanted);
    free_answers(&exact), free_answers(&fast);
}

Test(window, equals_double_over_what_it_holds)
{
    static const size_t windows[] = {1, 2, 31, 32, 33, 127, 128, 129, 300}, lengths[] = {1, 129, 300, 517};
    script d = make_script(1, (shape){1, 4, 2, 24, 1}, 517);
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (size_t j = 0; j < 4; j++) {
            kvq_cache *cache = filled(families[i], &d, lengths[j]);
            for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++) {
                expect_window(families[i], cache, &d, 1, windows[w]);
                if (lengths[j] > 40)
                    expect_window(families[i], cache, &d, 40, windows[w]);
            }
            kvq_cache_free(cache);
        }
    free_script(&d);
}

/* What of a long sequence lies before, in and behind segments. */
static const char *const long_ones[] = {"kivi2",
                                        "kvq2",
                                        "fp32,s=140",
                                        "kivi8-g128,s=140",
                                        "quarot4",
                                        "k=toy,v=toy",
                                        "kivi2,r=0,mode=sliding,s=3"};
enum { N_LONG = sizeof long_ones / sizeof long_ones[0] };

Test(window, equals_double_in_long_sequences)
{
    static const size_t windows[] = {1, 127, 129, 2047, 2048, 2049, 2177, 2452, 4096, 4499};
    script d = make_script(2, (shape){1, 2, 1, 16, 1}, 4500);
    for (size_t i = 0; i < N_LONG; i++) {
        kvq_cache *cache = filled(long_ones[i], &d, 4500);
        for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++)
            expect_window(long_ones[i], cache, &d, w % 2 ? 1 : 20, windows[w]);
        kvq_cache_free(cache);
    }
    free_script(&d);
}

/* ---- Identities to the bit ---- */

static const kvq_precision precisions[] = {KVQ_PRECISION_FAST, KVQ_PRECISION_EXACT};

Test(window, of_all_tokens_gives_the_bits_of_none)
{
    script d = make_script(3, (shape){1, 4, 2, 24, 1}, 300);
    static const size_t windows[] = {300, 301, SIZE_MAX};
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = filled(families[i], &d, d.n);
        for (size_t j = 0; j < 6; j++) {
            how h = {.precision = precisions[j % 2], .bound = j == 5};
            answers none = attend(cache, &d, 20, h);
            h.window = windows[j / 2];
            answers all = attend(cache, &d, 20, h);
            cr_assert(same_answers(families[i], &all, &none));
            cr_assert(same_bits("counters", &all.counters, &none.counters, sizeof all.counters));
            free_answers(&none), free_answers(&all);
        }
        kvq_cache_free(cache);
    }
    free_script(&d);
}

/* A query gets the same bits whatever others come with it, and so share its tile. */
Test(window, rows_do_not_depend_on_each_other)
{
    script d = make_script(4, (shape){1, 4, 2, 24, 1}, 517);
    static const size_t windows[] = {1, 30, 70, 129, 250}, fewer[] = {1, 2, 7, 20};
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = filled(families[i], &d, d.n - i);
        for (size_t j = 0; j < 10; j++) {
            how h = {.precision = precisions[j % 2], .window = windows[j / 2]};
            answers all = attend(cache, &d, 40, h);
            for (size_t m = 0; m < 4; m++) {
                answers few = attend(cache, &d, fewer[m], h);
                cr_assert(same_answers(families[i], &few, &all), "%zu queries, window %zu", fewer[m],
                          h.window);
                free_answers(&few);
            }
            free_answers(&all);
        }
        kvq_cache_free(cache);
    }
    free_script(&d);
}

/* Other tokens instead of the first n. */
static void change_tokens(script *d, size_t n, uint64_t stream)
{
    rng r = rng_make(stream);
    fill(&r, FILL_HEAVY, d->k, n, d->row);
    fill(&r, FILL_NORMAL, d->v, n, d->row);
}

/* Pages before the window are not visited, and what is in them does not matter. */
Test(window, leaves_out_whole_pages_before_it)
{
    static const size_t windows[] = {1, 64, 128, 129, 200, 300};
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (size_t w = 0; w < 6; w++) {
            script d = make_script(5, (shape){1, 4, 2, 24, 1}, 517);
            kvq_cache *cache = filled(families[i], &d, d.n);
            size_t first = first_seen(windows[w], d.n - 2), from = chunk_of(families[i], first);
            change_tokens(&d, from, 6);
            kvq_cache *other = filled(families[i], &d, d.n);
            for (size_t j = 0; j < 2; j++) { /* three queries, the first of which sees from `first` on */
                how h = {.precision = precisions[j], .window = windows[w], .bound = j == 1};
                answers a = attend(cache, &d, 3, h), b = attend(other, &d, 3, h);
                cr_assert(same_answers(families[i], &a, &b), "window %zu", windows[w]);
                size_t k, v, sinks = kvq_scheme_sinks(scheme_of(families[i])), begin = from, n_pages = 0;
                cr_assert_eq(kvq_cache_n_packed(cache, 0, 0, &k, &v), KVQ_OK);
                size_t packed_end = sinks + (k > v ? k : v);
                for (begin = begin < sinks ? sinks : begin; begin < packed_end; begin += SUPERBLOCK)
                    n_pages += packed_end > first;
                if (h.precision == KVQ_PRECISION_EXACT) /* fast may go through some twice */
                    cr_assert_eq(a.counters.superblocks, a.n_rows * n_pages, "%s: %zu pages, expected %zu",
                                 families[i], (size_t)a.counters.superblocks / a.n_rows, n_pages);
                free_answers(&a), free_answers(&b);
            }
            kvq_cache_free(cache), kvq_cache_free(other);
            free_script(&d);
        }
}

/* Where tokens share no scales, exact precision takes nothing from before the window, to the token. */
Test(window, leaves_out_single_tokens_before_it)
{
    static const char *const schemes[] = {
        "fp32",
        "fp16",
        "fp32,r=40,mode=kivi,rtype=f16,s=9",
        "k=8@token/full,v=8@token/full,r=0,mode=sliding",
        "k=5@token/full,v=2@token/32,r=7,s=3,rtype=i8",
        "q8_0",
    };
    static const size_t windows[] = {1, 3, 37, 200, 509, 514, 516};
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++)
        for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++) {
            script d = make_script(7, (shape){1, 2, 1, 32, 1}, 517);
            how h = {.precision = KVQ_PRECISION_EXACT, .window = windows[w], .bound = true};
            kvq_cache *cache = filled(schemes[i], &d, d.n);
            change_tokens(&d, d.n - windows[w], 8);
            kvq_cache *other = filled(schemes[i], &d, d.n);
            answers a = attend(cache, &d, 1, h), b = attend(other, &d, 1, h);
            cr_assert(same_answers(schemes[i], &a, &b), "window %zu", windows[w]);
            free_answers(&a), free_answers(&b);
            kvq_cache_free(cache), kvq_cache_free(other);
            free_script(&d);
        }
}

/* A cache of the window's tokens alone; where it begins with a page and fits one segment, sums are the same
 * ones. */
Test(window, is_attention_over_its_tokens_alone)
{
    script d = make_script(9, (shape){1, 2, 1, 16, 1}, 4500);
    kvq_cache *cache = filled("fp32", &d, d.n);
    for (size_t first = 0; first < d.n; first += first % SUPERBLOCK == 0 ? 30 : SUPERBLOCK - 30) {
        kvq_cache *alone = cache_of("fp32", d.s, NULL);
        cr_assert_eq(kvq_cache_append(alone, 0, 0, d.k + first * d.row, d.v + first * d.row, d.n - first),
                     KVQ_OK);
        answers a = attend(cache, &d, 1, (how){.window = d.n - first});
        float out[32];
        cr_assert_eq(kvq_cache_attend(alone, 0, NULL, 1, d.q + (d.n - 1) * d.q_row, 1, d.scale, NULL, out),
                     KVQ_OK);
        if (first % SUPERBLOCK == 0 && (first == 0 || d.n - first <= SEGMENT))
            cr_assert(same_bits("alone", a.out, out, sizeof out), "from token %zu", first);
        cr_assert_leq(rel_l2(a.out, out, 32), 1e-5);
        free_answers(&a);
        kvq_cache_free(alone);
    }
    kvq_cache_free(cache);
    free_script(&d);
}

Test(window, thread_counts_agree)
{
    script d = make_script(10, (shape){1, 2, 1, 64, 1}, 6500);
    static const size_t windows[] = {100, 2500, 4000, 6499}, n_q[] = {1, 1, 9, 30};
    for (size_t i = 0; i < N_LONG; i++) {
        kvq_cache *cache = filled(long_ones[i], &d, d.n);
        for (size_t w = 0; w < 16; w++) {
            how h = {.window = windows[w % 4], .n_threads = 1};
            answers one = attend(cache, &d, n_q[w / 4], h);
            for (h.n_threads = 2; h.n_threads <= 5; h.n_threads++) {
                answers many = attend(cache, &d, n_q[w / 4], h);
                cr_assert(same_answers(long_ones[i], &many, &one), "%d threads, window %zu", h.n_threads,
                          h.window);
                free_answers(&many);
            }
            free_answers(&one);
        }
        kvq_cache_free(cache);
    }
    free_script(&d);
}

/* ---- Bounds ---- */

/* Of several queries against attention over what was appended; small where all that is seen is exact. */
Test(window, bounds_hold)
{
    script d = make_script(11, (shape){1, 4, 2, 16, 1}, 400);
    static const size_t windows[] = {1, 17, 90, 130, 257};
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = filled(families[i], &d, d.n);
        size_t k, v, exact_from, residual_from = kvq_scheme_sinks(scheme_of(families[i]));
        cr_assert_eq(kvq_cache_n_packed(cache, 0, 0, &k, &v), KVQ_OK);
        exact_from = family_rounds(families[i]) ? d.n : residual_from + (k > v ? k : v);
        for (size_t w = 0; w < 5; w++) {
            answers a = attend(cache, &d, 9, (how){.window = windows[w], .bound = true});
            for (size_t row = 0; row < a.n_rows; row++) {
                double wanted[16];
                size_t end = d.n - 9 + row / 4 + 1, begin = first_seen(windows[w], end);
                (void)reference(&d, d.k, d.v, begin, end, row % 4 / 2, d.q + (d.n - 9) * d.q_row + row * 16,
                                0, wanted);
                for (size_t c = 0; c < 16; c++)
                    cr_assert_leq(fabs((double)a.out[row * 16 + c] - wanted[c]), (double)a.bound[row] + 1e-11,
                                  "%s: window %zu, row %zu", families[i], windows[w], row);
                cr_assert(begin < exact_from || a.bound[row] < 1e-2f, "%s: %g, but tokens are exact",
                          families[i], (double)a.bound[row]);
            }
            free_answers(&a);
        }
        kvq_cache_free(cache);
    }
    free_script(&d);
}

/* ---- Steps ---- */

static float *step(kvq_cache *cache, const script *d, size_t sequence, size_t n_new, size_t window,
                   float *probabilities, int n_threads)
{
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.window = window;
    options.n_threads = n_threads;
    options.probabilities = probabilities;
    return script_step(cache, d, &sequence, 1, &n_new, &options);
}

/* Sequences of any lengths together, threads, and calls that hand out probabilities leave the same bits. */
Test(window, a_batch_of_steps_equals_each_sequence_alone)
{
    script d = make_script(12, (shape){1, 6, 2, 24, 3}, 500);
    static const size_t n_new[][3] = {{130, 0, 257}, {1, 70, 1}, {129, 128, 1}, {1, 1, 1}};
    static const size_t windows[] = {1, 40, 150};
    for (size_t i = 0; i < 3 * N_FAMILIES; i++) {
        const char *scheme = families[i / 3];
        kvq_cache *together = cache_of(scheme, d.s, NULL), *apart = cache_of(scheme, d.s, NULL);
        kvq_attend_options options;
        kvq_attend_options_init(&options);
        options.window = windows[i % 3];
        for (size_t j = 0; j < 4; j++) {
            float *all = script_step(together, &d, NULL, 3, n_new[j], &options), *at = all;
            for (size_t m = 0; m < 3; at += n_new[j][m++] * d.q_row) {
                float *p = floats(n_new[j][m] * 6 * 500);
                float *one = step(apart, &d, m, n_new[j][m], windows[i % 3], m == 1 ? NULL : p, 1 + (int)m);
                cr_assert(same_bits(scheme, at, one, n_new[j][m] * d.q_row * sizeof *one));
                free(one), free(p);
            }
            free(all);
        }
        cr_assert(same_caches(scheme, together, apart), "window %zu", windows[i % 3]);
        kvq_cache_free(together), kvq_cache_free(apart);
    }
    free_script(&d);
}

/* A token that no query sees any more gets nothing: the two caches differ in which tokens queries saw. */
Test(window, decides_what_evidence_there_is)
{
    script d = make_script(13, (shape){1, 4, 2, 24, 1}, 400);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *windowed = cache_of(families[i], d.s, NULL), *all = cache_of(families[i], d.s, NULL);
        free(step(windowed, &d, 0, 390, 20, NULL, 0));
        free(step(all, &d, 0, 390, 0, NULL, 0));
        buffer a = saved(windowed), b = saved(all);
        bool same = a.n == b.n && memcmp(a.data, b.data, a.n) == 0;
        cr_assert(same || uses_evidence(families[i]), "%s", families[i]);
        if (strncmp(families[i], "kvq2", 4) == 0)
            cr_assert(!same, "%s: has attention received", families[i]);
        buffer_free(&a), buffer_free(&b);
        kvq_cache_free(windowed), kvq_cache_free(all);
    }
    free_script(&d);
}

/* ---- Edges ---- */

/* A program of before has no such field: whatever lies behind its struct is not read. */
Test(window, is_none_for_older_programs)
{
    script d = make_script(14, (shape){1, 2, 1, 16, 1}, 200);
    kvq_cache *cache = filled("kivi2,r=32", &d, d.n);
    float out[32];
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    cr_assert_eq(options.window, 0);
    options.struct_size = offsetof(kvq_attend_options, window);
    options.window = 3;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, d.q + 199 * d.q_row, 1, d.scale, &options, out), KVQ_OK);
    answers none = attend(cache, &d, 1, (how){.window = 0});
    answers three = attend(cache, &d, 1, (how){.window = 3});
    cr_assert(same_bits("older", out, none.out, sizeof out));
    cr_assert_neq(memcmp(out, three.out, sizeof out), 0);
    free_answers(&none), free_answers(&three);
    kvq_cache_free(cache);
    free_script(&d);
}

/* Scores that leave float: NaN in the window of that query, 0 outside, and nothing for those who do not see
 * the token. */
Test(window, overflow_outside_does_not_matter)
{
    enum { N = 300, HUGE_TOKEN = 150 };
    script d = make_script(15, (shape){1, 1, 1, 16, 1}, N);
    for (size_t c = 0; c < 16; c++) {
        d.k[HUGE_TOKEN * 16 + c] = 3e38f;
        for (size_t t = 0; t < N; t++)
            d.q[t * 16 + c] = 1;
    }
    d.scale = 1;
    static const char *const schemes[] = {"fp32", "k=8@token/full,v=8@token/full,r=0,mode=sliding",
                                          "fp32,r=400,mode=kivi"};
    for (size_t i = 0; i < 3; i++) {
        kvq_cache *cache = filled(schemes[i], &d, N);
        answers a = attend(cache, &d, 160, (how){.window = 40});
        for (size_t j = 0; j < 160; j++) {
            size_t last = N - 160 + j;
            bool sees = last >= HUGE_TOKEN && last - HUGE_TOKEN < 40;
            if (i == 1) /* that codec stores halves: 65504 at most, a score of 1e6 */
                sees = false;
            cr_assert(isfinite(a.out[j * 16]) == !sees, "%s: query of token %zu", schemes[i], last);
            for (size_t t = 0; t < N; t++)
                cr_assert(last >= t && last - t < 40 ? isnan(a.p[j * N + t]) == sees : a.p[j * N + t] == 0,
                          "%s: query of token %zu, token %zu", schemes[i], last, t);
        }
        free_answers(&a);
        kvq_cache_free(cache);
    }
    free_script(&d);
}
