/*
 * The certified bound: never below the true error against the original keys and values, on random,
 * heavy-tailed and adversarial data; and how loose it is, which is printed.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support.h"

enum { N_MAX = 400 };

/* Exact attention of one query over the original rows, in double. */
static void exact_attention(const float *k, const float *v, size_t n, size_t dim, const float *q, float scale,
                            double *out)
{
    static double s[N_MAX];
    double max = -INFINITY, sum = 0;
    for (size_t t = 0; t < n; t++) {
        s[t] = 0;
        for (size_t c = 0; c < dim; c++)
            s[t] += (double)q[c] * (double)k[t * dim + c];
        s[t] *= (double)scale;
        max = fmax(max, s[t]);
    }
    memset(out, 0, dim * sizeof *out);
    for (size_t t = 0; t < n; t++) {
        double w = exp(s[t] - max);
        sum += w;
        for (size_t c = 0; c < dim; c++)
            out[c] += w * (double)v[t * dim + c];
    }
    for (size_t c = 0; c < dim; c++)
        out[c] /= sum;
}

/* Ratio of bound to error of one case; fails if below 1. Returns 0 where the error is 0. */
static double check_case(const char *scheme, const char *what, const float *k, const float *v, size_t n,
                         size_t dim, const float *q, float scale)
{
    kvq_cache *cache = cache_of(scheme, (shape){1, 1, 1, dim, 1}, NULL);
    float out[KVQ_MAX_HEAD_DIM], bound;
    double exact[KVQ_MAX_HEAD_DIM], error = 0;
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.bound = &bound;
    cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, n), KVQ_OK);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, 1, scale, &options, out), KVQ_OK);
    exact_attention(k, v, n, dim, q, scale, exact);
    double v_max =
        0; /* the reference sums n values in double: what it may be off itself is not an error of ours */
    for (size_t i = 0; i < n * dim; i++)
        v_max = fmax(v_max, fabs((double)v[i]));
    for (size_t c = 0; c < dim; c++)
        error = fmax(error, fabs((double)out[c] - exact[c]) - v_max * (double)n * 0x1p-52);
    cr_assert(error <= (double)bound, "%s, %s, %zu tokens, D = %zu: error %g, bound %g (seed %llu)", scheme,
              what, n, dim, error, (double)bound, (unsigned long long)test_seed());
    kvq_cache_free(cache);
    return error > 0 && isfinite(bound) ? (double)bound / error : 0;
}

Test(bound, holds_for_every_kind_of_data)
{
    static const size_t dims[] = {16, 64, 100};
    static float k[N_MAX * 100], v[N_MAX * 100], q[100];
    rng r = rng_make(1);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        double log_sum = 0, n_ratios = 0, largest = 0;
        for (size_t trial = 0; trial < 120; trial++) {
            size_t dim = dims[trial % 3], n = 1 + rng_below(&r, N_MAX);
            fill_kind k_kind = (fill_kind)rng_below(&r, N_FILLS), v_kind = (fill_kind)rng_below(&r, N_FILLS);
            float size = powf(10, 3 * rng_uniform(&r) - 2); /* from flat to sharp attention */
            fill(&r, k_kind, k, n, dim);
            fill(&r, v_kind, v, n, dim);
            fill(&r, trial % 2 ? FILL_NORMAL : FILL_HEAVY, q, 1, dim);
            double ratio =
                check_case(families[i], fill_names[k_kind], k, v, n, dim, q, size / sqrtf((float)dim));
            if (ratio > 0) {
                log_sum += log(ratio);
                n_ratios++;
                largest = fmax(largest, ratio);
            }
        }
        fprintf(stderr, "bound / error, %-45s geometric mean %8.1f, largest %.3g\n", families[i],
                exp(log_sum / fmax(n_ratios, 1)), largest);
    }
}

/*
 * Adversarial: keys that all sit half a step off the grid with the sign of the query, values on the far side
 * of the output: the error comes as near to the bound as it can.
 */
Test(bound, holds_and_is_tight_for_the_worst_case)
{
    enum { DIM = 64, N = 160 };
    static float k[N * DIM], v[N * DIM], q[DIM];
    rng r = rng_make(2);
    double tightest = INFINITY;
    for (size_t trial = 0; trial < 200; trial++) {
        float step = 1.0f, strength = 0.001f * (float)(1 + trial);
        for (size_t c = 0; c < DIM; c++)
            q[c] = (rng_u64(&r) & 1 ? 1.0f : -1.0f) * strength;
        for (size_t t = 0; t < N; t++) {
            float side = t % 2 ? 1.0f : -1.0f; /* half of the tokens gain, the others lose */
            for (size_t c = 0; c < DIM; c++) {
                float grid = (float)(t % 32 < 2 ? 3 * (t % 2) : 1 + rng_below(&r, 2));
                float off = t % 32 < 2 ? 0 : 0.499f * side * (q[c] > 0 ? 1.0f : -1.0f);
                k[t * DIM + c] = step * (grid + off);
                v[t * DIM + c] = c % 32 == 0 ? 0 : c % 32 == 1 ? 3 : 1.5f + 0.49f * side + side;
            }
        }
        double ratio = check_case("kivi2,r=32", "adversarial", k, v, N, DIM, q, 1);
        if (ratio > 0)
            tightest = fmin(tightest, ratio);
    }
    fprintf(stderr, "bound / error, adversarial data: smallest %.3f\n", tightest);
    cr_assert_lt(tightest, 4, "a bound that data can come close to");
}

/*
 * The same for the keys alone: exact values, all keys but two in a group half a step off, each to the side
 * that its value pulls. Those two hold the grid, are exact themselves, and score as the others do; what the
 * bound grants them is what keeps the ratio above 1.
 */
Test(bound, holds_and_is_tight_for_the_worst_keys)
{
    enum { DIM = 64, N = 256 };
    static float k[N * DIM], v[N * DIM], q[DIM];
    double tightest = INFINITY;
    for (size_t trial = 1; trial <= 40; trial++) {
        float strength = 0.001f * (float)trial; /* scores move by up to 32 times that */
        for (size_t c = 0; c < DIM; c++)
            q[c] = c % 2 ? strength : -strength;
        for (size_t t = 0; t < N; t++) {
            float side = t % 2 ? 1.0f : -1.0f;
            for (size_t c = 0; c < DIM; c++) {
                bool low = (t + c / 2) % 2 == 0; /* either way the grid's ends score 0, as the others do */
                k[t * DIM + c] =
                    t % 32 < 2 ? (low ? 0.0f : 3.0f) : 1.0f + 0.4999f * side * (c % 2 ? 1.0f : -1.0f);
                v[t * DIM + c] = side;
            }
        }
        double ratio = check_case("k=2,v=f32,r=32", "worst keys", k, v, N, DIM, q, 1);
        tightest = fmin(tightest, ratio > 0 ? ratio : INFINITY);
    }
    fprintf(stderr, "bound / error, worst keys: smallest %.4f\n", tightest);
    cr_assert_lt(tightest, 1.1); /* 1.067 measured; the README quotes it */
}

/* With fp16 and no residual, the cache of a prefix is the start of the whole cache: each query of several
 * must get the bound it gets as the newest of its prefix. */
Test(bound, of_several_queries_is_that_of_each_prefix)
{
    enum { DIM = 24, N = 150, NQ = 9 };
    static float k[N * DIM], v[N * DIM], q[NQ * DIM], out[NQ * DIM];
    float bound[NQ], alone;
    rng r = rng_make(5);
    fill(&r, FILL_NORMAL, k, N, DIM);
    fill(&r, FILL_HEAVY, v, N, DIM);
    fill(&r, FILL_NORMAL, q, NQ, DIM);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.bound = bound;
    kvq_cache *cache = cache_of("fp16", (shape){1, 1, 1, DIM, 1}, NULL);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, N), KVQ_OK);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, NQ, 0.5f, &options, out), KVQ_OK);
    kvq_cache_free(cache);
    options.bound = &alone;
    for (size_t i = 0; i < NQ; i++) {
        cache = cache_of("fp16", (shape){1, 1, 1, DIM, 1}, NULL);
        cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, N - NQ + i + 1), KVQ_OK);
        cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q + i * DIM, 1, 0.5f, &options, out), KVQ_OK);
        cr_assert_eq(alone, bound[i], "query %zu: %g alone, %g among several", i, (double)alone,
                     (double)bound[i]);
        kvq_cache_free(cache);
    }
}

Test(bound, is_infinite_where_float_overflows)
{
    enum { DIM = 16, N = 140 };
    static float k[N * DIM], v[N * DIM], q[DIM], out[DIM], probabilities[N];
    float bound;
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.bound = &bound;
    options.probabilities = probabilities;
    for (size_t kind = 0; kind < 3; kind++) { /* scores of +Inf, of Inf - Inf, a sum of values of Inf */
        for (size_t i = 0; i < N * DIM; i++) {
            k[i] = kind == 2 ? 1.0f : i / DIM != 50 ? 0.0f : kind == 1 && i % 2 ? -1e30f : 1e30f;
            v[i] = kind == 2 ? 1e38f : 1.0f;
        }
        for (size_t c = 0; c < DIM; c++)
            q[c] = kind == 2 ? 1.0f : 1e10f;
        kvq_cache *cache = cache_of("fp32", (shape){1, 1, 1, DIM, 1}, NULL);
        cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, N), KVQ_OK);
        cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 1, &options, out), KVQ_OK);
        cr_assert(isinf(bound), "case %zu: bound %g", kind, (double)bound);
        cr_assert(kind == 2 ? isinf(out[3]) : isnan(out[3]), "case %zu: out %g", kind, (double)out[3]);
        cr_assert_eq(isnan(probabilities[7]), kind < 2);
        kvq_cache_free(cache);
    }
}

/* A chunk whose sum of values is Inf, then a score that makes it weigh nothing. */
Test(bound, an_overflow_that_weighs_nothing_is_forgotten)
{
    enum { DIM = 8, N = 256 };
    static float k[N * DIM], v[N * DIM], q[DIM], out[DIM];
    for (size_t i = 0; i < N * DIM; i++) {
        k[i] = i / DIM == 200 ? 25.0f : 0.0f;
        v[i] = i / DIM < 128 ? 3e38f : 1.0f;
    }
    for (size_t c = 0; c < DIM; c++)
        q[c] = 1.0f;
    kvq_cache *cache = cache_of("fp32", (shape){1, 1, 1, DIM, 1}, NULL);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, N), KVQ_OK);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 1, NULL, out), KVQ_OK);
    cr_assert_eq(out[3], 1.0f, "out is %g", (double)out[3]);
    kvq_cache_free(cache);
}

Test(bound, is_almost_zero_for_fp32_and_infinite_beyond_half)
{
    enum { DIM = 32, N = 200 };
    static float k[N * DIM], v[N * DIM], q[DIM], out[DIM];
    float bound;
    rng r = rng_make(3);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.bound = &bound;
    fill(&r, FILL_NORMAL, k, N, DIM);
    fill(&r, FILL_NORMAL, v, N, DIM);
    fill(&r, FILL_NORMAL, q, 1, DIM);
    kvq_cache *cache = cache_of("fp32", (shape){1, 1, 1, DIM, 1}, NULL);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, N), KVQ_OK);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 0.2f, &options, out), KVQ_OK);
    cr_assert_lt(bound, 1e-5f);
    kvq_cache_free(cache);

    v[5] = 1e6f;
    cache = cache_of("kivi2,r=32", (shape){1, 1, 1, DIM, 1}, NULL);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, N), KVQ_OK);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 0.2f, &options, out), KVQ_OK);
    cr_assert(isinf(bound), "a value beyond half has no bound, got %g", (double)bound);
    for (size_t c = 0; c < DIM; c++)
        cr_assert(isfinite(out[c]));
    kvq_cache_free(cache);
}

Test(bound, covers_grouped_heads_and_several_queries)
{
    enum { H = 4, HKV = 2, DIM = 20, N = 150, NQ = 5 };
    static float k[N * HKV * DIM], v[N * HKV * DIM], q[NQ * H * DIM], out[NQ * H * DIM], bound[NQ * H];
    static float k_head[N * DIM], v_head[N * DIM];
    rng r = rng_make(4);
    fill(&r, FILL_OFFSETS, k, N, HKV * DIM);
    fill(&r, FILL_HEAVY, v, N, HKV * DIM);
    fill(&r, FILL_NORMAL, q, NQ, H * DIM);
    kvq_cache *cache = cache_of("kivi2,r=32,s=2", (shape){1, H, HKV, DIM, 1}, NULL);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.bound = bound;
    cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, N), KVQ_OK);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, NQ, 0.1f, &options, out), KVQ_OK);
    for (size_t h = 0; h < H; h++) {
        for (size_t t = 0; t < N; t++)
            for (size_t c = 0; c < DIM; c++) {
                k_head[t * DIM + c] = k[(t * HKV + h / 2) * DIM + c];
                v_head[t * DIM + c] = v[(t * HKV + h / 2) * DIM + c];
            }
        for (size_t i = 0; i < NQ; i++) {
            double exact[DIM];
            exact_attention(k_head, v_head, N - NQ + i + 1, DIM, q + (i * H + h) * DIM, 0.1f, exact);
            for (size_t c = 0; c < DIM; c++)
                cr_assert_leq(fabs((double)out[(i * H + h) * DIM + c] - exact[c]), (double)bound[i * H + h]);
        }
    }
    kvq_cache_free(cache);
}
