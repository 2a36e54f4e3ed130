/*
 * Attention against a plain double-precision computation over what the cache reads back, and the identities
 * that hold to the bit: residual against pages, grouped heads, batches, threads.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/tile.h"
#include "quant/kernels.h"
#include "tests/support.h"

typedef struct problem {
    shape s;
    size_t n, n_q;
    float *k, *v, *q; /* [n][Hkv][D], [n_q][H][D] */
    float scale;
} problem;

static problem make_problem(uint64_t stream, shape s, size_t n, size_t n_q, fill_kind kind)
{
    rng r = rng_make(stream);
    size_t row = s.n_kv_heads * s.head_dim, q_row = s.n_heads * s.head_dim;
    problem p = {.s = s, .n = n, .n_q = n_q, .scale = 1.0f / sqrtf((float)s.head_dim)};
    p.k = malloc(n * row * sizeof *p.k);
    p.v = malloc(n * row * sizeof *p.v);
    p.q = malloc(s.n_sequences * n_q * q_row * sizeof *p.q);
    fill(&r, kind, p.k, n, row);
    fill(&r, kind == FILL_HUGE ? FILL_NORMAL : kind, p.v, n, row);
    fill(&r, FILL_NORMAL, p.q, s.n_sequences * n_q, q_row);
    return p;
}

static void free_problem(problem *p)
{
    free(p->k), free(p->v), free(p->q);
}

static kvq_cache *filled(const char *scheme, const problem *p)
{
    kvq_cache *cache = cache_of(scheme, p->s, NULL);
    for (size_t i = 0; i < p->s.n_sequences; i++)
        cr_assert_eq(kvq_cache_append(cache, 0, i, p->k, p->v, p->n), KVQ_OK);
    return cache;
}

/* Attention of query i, head h in double over rows [n][Hkv][D]; probabilities p[n], 0 where masked. */
static void reference_attention(const problem *p, const float *k, const float *v, const float *q, size_t i,
                                size_t h, double *prob, double *out)
{
    size_t dim = p->s.head_dim, row = p->s.n_kv_heads * dim, kv = h / (p->s.n_heads / p->s.n_kv_heads);
    size_t visible = p->n - p->n_q + i + 1;
    double max = -INFINITY, sum = 0;
    const float *query = q + (i * p->s.n_heads + h) * dim;
    for (size_t t = 0; t < p->n; t++) {
        prob[t] = 0;
        for (size_t c = 0; c < dim; c++)
            prob[t] += (double)query[c] * (double)k[t * row + kv * dim + c];
        prob[t] *= (double)p->scale;
        if (t < visible && prob[t] > max)
            max = prob[t];
    }
    for (size_t t = 0; t < p->n; t++) {
        prob[t] = t < visible ? exp(prob[t] - max) : 0;
        sum += prob[t];
    }
    memset(out, 0, dim * sizeof *out);
    for (size_t t = 0; t < p->n; t++) {
        prob[t] /= sum;
        for (size_t c = 0; c < dim; c++)
            out[c] += prob[t] * (double)v[t * row + kv * dim + c];
    }
}

/*
 * How far float arithmetic may be off: a score carries an error of at most (D + 8) 2^-23 sum |q k|
 * (kernels.h; k there counts as |min| + levels * scale, at most 4 times the largest |k| of this data, which
 * is what the 4 is for), which moves weights by a factor exp(2 * that); sums of n weighted values carry (n +
 * D) 2^-23 of the largest value, likewise.
 */
static double tolerance(const problem *p, const float *k, const float *v, const float *query, size_t kv)
{
    size_t dim = p->s.head_dim, row = p->s.n_kv_heads * dim;
    double worst_score = 0, worst_value = 0, k_max = 0, q_sum = 0;
    for (size_t c = 0; c < dim; c++)
        q_sum += fabs((double)query[c]);
    for (size_t t = 0; t < p->n; t++)
        for (size_t c = 0; c < dim; c++) {
            k_max = fmax(k_max, fabs((double)k[t * row + kv * dim + c]));
            worst_value = fmax(worst_value, fabs((double)v[t * row + kv * dim + c]));
        }
    worst_score = (double)p->scale * 4 * q_sum * k_max * (double)(dim + 8) * 0x1p-23;
    return 4 * worst_value * (expm1(2 * worst_score) + (double)(p->n + dim) * 0x1p-23) + 1e-30;
}

static void expect_attention(const char *what, const problem *p, const kvq_cache *cache)
{
    size_t dim = p->s.head_dim, row = p->s.n_kv_heads * dim, n_out = p->n_q * p->s.n_heads * dim;
    float *k = malloc(p->n * row * sizeof *k), *v = malloc(p->n * row * sizeof *v);
    float *out = malloc(n_out * sizeof *out), *probs = malloc(p->n_q * p->s.n_heads * p->n * sizeof *probs);
    double *prob = malloc(p->n * sizeof *prob), *wanted = malloc(dim * sizeof *wanted);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.precision = KVQ_PRECISION_EXACT;
    options.probabilities = probs;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, p->q, p->n_q, p->scale, &options, out), KVQ_OK);
    cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, p->n, k, v), KVQ_OK);
    for (size_t i = 0; i < p->n_q; i++)
        for (size_t h = 0; h < p->s.n_heads; h++) {
            size_t index = i * p->s.n_heads + h;
            reference_attention(p, k, v, p->q, i, h, prob, wanted);
            double bound = tolerance(p, k, v, p->q + index * dim, h / (p->s.n_heads / p->s.n_kv_heads));
            for (size_t c = 0; c < dim; c++)
                cr_assert_leq(fabs((double)out[index * dim + c] - wanted[c]), bound,
                              "%s: query %zu head %zu channel %zu: %g, expected %g within %g", what, i, h, c,
                              (double)out[index * dim + c], wanted[c], bound);
            double sum = 0;
            for (size_t t = 0; t < p->n; t++) {
                float got = probs[index * p->n + t];
                sum += (double)got;
                cr_assert(t < p->n - p->n_q + i + 1 ? got >= 0 : got == 0, "%s: query %zu sees token %zu",
                          what, i, t);
            }
            cr_assert_float_eq(sum, 1, 1e-4);
        }
    free(k), free(v), free(out), free(probs), free(prob), free(wanted);
}

Test(attend, equals_double_over_what_is_stored)
{
    static const size_t lengths[] = {1, 2, 31, 32, 33, 127, 128, 129, 256, 300, 517};
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (size_t j = 0; j < sizeof lengths / sizeof lengths[0]; j++) {
            problem p = make_problem(i * 100 + j, (shape){1, 4, 2, 40, 1}, lengths[j], 1, FILL_OFFSETS);
            kvq_cache *cache = filled(families[i], &p);
            expect_attention(families[i], &p, cache);
            kvq_cache_free(cache);
            free_problem(&p);
        }
}

Test(attend, equals_double_for_other_dimensions_and_data)
{
    static const size_t dims[] = {1, 15, 16, 64, 80, 96, 128, 256};
    for (size_t j = 0; j < sizeof dims / sizeof dims[0]; j++)
        for (size_t kind = 0; kind < N_FILLS; kind++) {
            if (kind == FILL_HUGE)
                continue; /* scores of 1e5: a weight is 0 or 1, and which one is rounding */
            problem p = make_problem(j * 10 + kind, (shape){1, 2, 2, dims[j], 1}, 200, 1, (fill_kind)kind);
            kvq_cache *cache = filled("kivi2,r=32", &p);
            expect_attention(fill_names[kind], &p, cache);
            kvq_cache_free(cache);
            free_problem(&p);
        }
}

Test(attend, many_queries_are_causal)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (size_t n_q = 2; n_q <= 150; n_q += 37) {
            problem p = make_problem(i, (shape){1, 6, 2, 24, 1}, 290, n_q, FILL_NORMAL);
            kvq_cache *cache = filled(families[i], &p);
            expect_attention(families[i], &p, cache);
            kvq_cache_free(cache);
            free_problem(&p);
        }
    problem p = make_problem(3, (shape){1, 2, 1, 24, 1}, 50, 50, FILL_NORMAL);
    kvq_cache *cache = filled("fp32", &p);
    expect_attention("a whole prompt", &p, cache);
    kvq_cache_free(cache);
    free_problem(&p);
}

/* ---- Identities to the bit ---- */

static float *attend(const kvq_cache *cache, const problem *p, const size_t *sequences, size_t n_sequences,
                     const float *q, int n_threads)
{
    float *out = malloc(n_sequences * p->n_q * p->s.n_heads * p->s.head_dim * sizeof *out);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.n_threads = n_threads;
    cr_assert_eq(kvq_cache_attend(cache, 0, sequences, n_sequences, q, p->n_q, p->scale, &options, out),
                 KVQ_OK);
    return out;
}

Test(attend, a_residual_that_holds_everything_is_fp32)
{
    static const char *const pairs[][2] = {
        {"kivi2,r=4096", "fp32"},
        {"kivi2,r=4096,mode=sliding", "fp32"},
        {"kivi8-g64,r=512,s=7", "fp32,s=7"},
        {"k=f16,v=1@channel,r=512", "fp32"},
    };
    for (size_t i = 0; i < 4; i++)
        for (size_t n = 1; n <= 500; n += 1 + n / 9) {
            problem p = make_problem(n, (shape){1, 4, 2, 50, 1}, n, 1, FILL_OFFSETS);
            kvq_cache *a = filled(pairs[i][0], &p), *b = filled(pairs[i][1], &p);
            float *x = attend(a, &p, NULL, 1, p.q, 1), *y = attend(b, &p, NULL, 1, p.q, 1);
            cr_assert(same_bits(pairs[i][0], x, y, p.s.n_heads * p.s.head_dim * sizeof *x), "%zu tokens", n);
            free(x), free(y);
            kvq_cache_free(a), kvq_cache_free(b);
            free_problem(&p);
        }
}

Test(attend, grouped_queries_equal_repeated_kv_heads)
{
    shape grouped = {1, 12, 3, 32, 1}, repeated = {1, 12, 12, 32, 1};
    for (size_t i = 0; i < N_FAMILIES; i++) {
        problem p = make_problem(i, grouped, 300, 3, FILL_OFFSETS), all = p;
        size_t row = 12 * 32;
        all.s = repeated;
        all.k = malloc(p.n * row * sizeof *all.k), all.v = malloc(p.n * row * sizeof *all.v);
        for (size_t t = 0; t < p.n; t++)
            for (size_t h = 0; h < 12; h++)
                for (size_t c = 0; c < 32; c++) {
                    all.k[t * row + h * 32 + c] = p.k[(t * 3 + h / 4) * 32 + c];
                    all.v[t * row + h * 32 + c] = p.v[(t * 3 + h / 4) * 32 + c];
                }
        kvq_cache *a = filled(families[i], &p), *b = filled(families[i], &all);
        float *x = attend(a, &p, NULL, 1, p.q, 1), *y = attend(b, &all, NULL, 1, p.q, 1);
        cr_assert(same_bits(families[i], x, y, 3 * row * sizeof *x));
        free(x), free(y), free(all.k), free(all.v);
        kvq_cache_free(a), kvq_cache_free(b);
        free_problem(&p);
    }
}

Test(attend, a_batch_equals_each_sequence_alone)
{
    shape s = {1, 4, 2, 32, 5};
    problem p = make_problem(7, s, 300, 2, FILL_OFFSETS);
    size_t n_out = p.n_q * s.n_heads * s.head_dim, row = s.n_kv_heads * s.head_dim;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = cache_of(families[i], s, NULL);
        for (size_t j = 0; j < s.n_sequences; j++) /* different tokens and lengths */
            cr_assert_eq(kvq_cache_append(cache, 0, j, p.k + j * row, p.v + j * row, 100 + 40 * j), KVQ_OK);
        static const size_t order[] = {3, 0, 4, 1};
        float *all = attend(cache, &p, order, 4, p.q, 2);
        for (size_t j = 0; j < 4; j++) {
            float *one = attend(cache, &p, &order[j], 1, p.q + j * n_out, 1);
            kvq_cache *alone = cache_of(families[i], (shape){1, 4, 2, 32, 1}, NULL);
            cr_assert_eq(kvq_cache_append(alone, 0, 0, p.k + order[j] * row, p.v + order[j] * row,
                                          100 + 40 * order[j]),
                         KVQ_OK);
            float *own = attend(alone, &p, NULL, 1, p.q + j * n_out, 1);
            cr_assert(same_bits(families[i], all + j * n_out, one, n_out * sizeof *one));
            cr_assert(same_bits(families[i], own, one, n_out * sizeof *one));
            free(one), free(own);
            kvq_cache_free(alone);
        }
        free(all);
        kvq_cache_free(cache);
    }
    free_problem(&p);
}

Test(attend, thread_counts_agree)
{
    problem p = make_problem(8, (shape){1, 8, 4, 64, 3}, 700, 3, FILL_OFFSETS);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = filled(families[i], &p);
        size_t n_bytes = 3 * p.n_q * p.s.n_heads * p.s.head_dim * sizeof(float);
        float *one = attend(cache, &p, NULL, 3, p.q, 1);
        for (int n_threads = 0; n_threads <= 5; n_threads++) {
            float *many = attend(cache, &p, NULL, 3, p.q, n_threads);
            cr_assert(same_bits(families[i], many, one, n_bytes), "%d threads", n_threads);
            free(many);
        }
        free(one);
        kvq_cache_free(cache);
    }
    free_problem(&p);
}

/* Calls with the last n queries each: tiles are cut elsewhere, and what a tile sees ends elsewhere. */
Test(attend, bits_do_not_depend_on_the_other_queries)
{
    static const char *const schemes[] = {"kivi2,r=32", "kivi4,r=0,mode=sliding", "kivi2-g64,r=64", "kvq2",
                                          "fp16"};
    const size_t n_q = 150, row = 4 * 32;
    problem p = make_problem(12, (shape){1, 4, 1, 32, 1}, 700, n_q, FILL_OFFSETS), some = p;
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        kvq_cache *cache = filled(schemes[i], &p);
        float *all = attend(cache, &p, NULL, 1, p.q, 1);
        for (some.n_q = 1; some.n_q < n_q; some.n_q += 2) {
            const size_t first = n_q - some.n_q;
            float *last = attend(cache, &some, NULL, 1, p.q + first * row, 1);
            cr_assert(same_bits(schemes[i], all + first * row, last, some.n_q * row * sizeof *last),
                      "the last %zu queries", some.n_q);
            free(last);
        }
        free(all);
        kvq_cache_free(cache);
    }
    free_problem(&p);
}

Test(attend, many_queries_equal_one_at_a_time_on_the_same_cache)
{
    /* With fp32 the cache of t tokens is the start of the cache of T, so a chunk must equal its decode steps.
     */
    problem p = make_problem(9, (shape){1, 4, 4, 32, 1}, 300, 40, FILL_OFFSETS), step = p;
    size_t row = 4 * 32;
    kvq_cache *whole = filled("fp32", &p), *grown = cache_of("fp32", p.s, NULL);
    float *chunk = attend(whole, &p, NULL, 1, p.q, 2);
    cr_assert_eq(kvq_cache_append(grown, 0, 0, p.k, p.v, p.n - p.n_q), KVQ_OK);
    step.n_q = 1;
    for (size_t i = 0; i < p.n_q; i++) {
        size_t t = p.n - p.n_q + i;
        cr_assert_eq(kvq_cache_append(grown, 0, 0, p.k + t * row, p.v + t * row, 1), KVQ_OK);
        float *one = attend(grown, &step, NULL, 1, p.q + i * row, 1);
        cr_assert(same_bits("fp32", chunk + i * row, one, row * sizeof *one), "query %zu", i);
        free(one);
    }
    free(chunk);
    kvq_cache_free(whole), kvq_cache_free(grown);
    free_problem(&p);
}

/*
 * Scores near the end of float, with a group whose largest code belongs to a token that the first query may
 * not see: no way of taking the code apart may overflow for it.
 */
Test(attend, large_scores_do_not_suffer_from_later_tokens)
{
    enum { N = 97, NQ = 77 }; /* query 0 sees tokens 0 to 20 */
    float k[N], v[N], q[NQ], out[NQ];
    for (size_t t = 0; t < N; t++) {
        k[t] = t % 32 == 31 ? 63.0f : (float)(t % 3);
        v[t] = (float)(t % 3);
    }
    for (size_t i = 0; i < NQ; i++)
        q[i] = 1e38f;
    /* At 3 bits the step is 9, and the folded query itself leaves float. */
    static const char *const wide[] = {"k=6@channel/32,v=f32,r=32", "k=5@channel/32,v=f32,r=32"};
    for (size_t i = 0; i < 2; i++) {
        kvq_cache *cache = cache_of(wide[i], (shape){1, 1, 1, 1, 1}, NULL);
        cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, N), KVQ_OK);
        cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, NQ, 1, NULL, out), KVQ_OK);
        cr_assert(isfinite(out[0]), "%s: out is %g", wide[i], (double)out[0]);
        if (i == 0)
            cr_assert_eq(out[0], 2.0f, "the keys are on the grid: the largest wins, out is %g",
                         (double)out[0]);
        kvq_cache_free(cache);
    }
}

/* ---- Arguments ---- */

Test(attend, arguments_are_checked)
{
    problem p = make_problem(10, (shape){2, 4, 2, 8, 2}, 10, 2, FILL_NORMAL);
    kvq_cache *cache = filled("kivi2", &p);
    float out[2 * 2 * 4 * 8], probs[2 * 2 * 4 * 10];
    static const size_t bad_sequence[] = {2};
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    cr_assert_eq(kvq_cache_attend(NULL, 0, NULL, 1, p.q, 1, 1, NULL, out), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_attend(cache, 2, NULL, 1, p.q, 1, 1, NULL, out), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_attend(cache, 1, NULL, 1, p.q, 1, 1, NULL, out), KVQ_ERR_ARG, "layer 1 is empty");
    cr_assert_eq(kvq_cache_attend(cache, 0, bad_sequence, 1, p.q, 1, 1, NULL, out), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 3, p.q, 1, 1, NULL, out), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, NULL, 1, 1, NULL, out), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, p.q, 1, 1, NULL, NULL), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, p.q, 0, 1, NULL, out), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, p.q, 11, 1, NULL, out), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, p.q, 1, NAN, NULL, out), KVQ_ERR_ARG);
    options.struct_size = 1;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, p.q, 1, 1, &options, out), KVQ_ERR_ARG);
    kvq_attend_options_init(&options);
    options.precision = (kvq_precision)7;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, p.q, 1, 1, &options, out), KVQ_ERR_ARG);
    kvq_attend_options_init(&options);
    options.n_threads = -1;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, p.q, 1, 1, &options, out), KVQ_ERR_ARG);
    kvq_attend_options_init(&options);
    options.probabilities = probs;
    cr_assert_eq(kvq_cache_append(cache, 0, 1, p.k, p.v, 1), KVQ_OK);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 2, p.q, 1, 1, &options, out), KVQ_ERR_ARG,
                 "unequal lengths");
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 2, p.q, 1, 1, NULL, out), KVQ_OK);
    p.q[5] = NAN;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, p.q, 1, 1, NULL, out), KVQ_ERR_NONFINITE);
    kvq_cache_free(cache);
    free_problem(&p);
}

/* ---- Prefetching ---- */

enum { MOST_READS = 100 };

/* What kernels were given, in their order: rows, how many bytes, and what they were told comes next. */
typedef struct reads {
    const uint8_t *from[MOST_READS];
    size_t n_bytes[MOST_READS];
    kvq_next next[MOST_READS];
    size_t n;
} reads;

static reads of_keys, of_values;

static void note_read(reads *list, const float *rows, size_t n_floats, kvq_next next)
{
    cr_assert(list->n < MOST_READS);
    list->from[list->n] = (const uint8_t *)rows;
    list->n_bytes[list->n] = n_floats * sizeof *rows;
    list->next[list->n++] = next;
}

static void noting_dot(const float *rows, size_t stride, size_t n, kvq_next next, const float *q, size_t n_q,
                       size_t dim, float *scores)
{
    note_read(&of_keys, rows, n * stride, next);
    kvq_kernels_get()->dot_f32(rows, stride, n, next, q, n_q, dim, scores);
}

static void noting_accumulate(const float *rows, size_t stride, size_t n, kvq_next next, const float *p,
                              size_t n_q, size_t dim, float *acc)
{
    note_read(&of_values, rows, n * stride, next);
    kvq_kernels_get()->accumulate_f32(rows, stride, n, next, p, n_q, dim, acc);
}

static void expect_chain(const char *what, const reads *list)
{
    cr_assert(list->n > 4);
    for (size_t i = 0; i + 1 < list->n; i++)
        cr_assert(list->next[i].bytes == list->from[i + 1] && list->next[i].n_bytes >= list->n_bytes[i + 1],
                  "%s, read %zu of %zu: something else comes next", what, i, list->n);
    cr_assert_eq(list->next[list->n - 1].n_bytes, 0, "%s: something comes after the last", what);
}

/* Nor does one tell which rows pages ask for ahead: from the first on, each once, not too much at a time, and
 * by as many pages as have enough to ask for. */
Test(attend, pages_ask_for_the_first_rows_once)
{
    rng r = rng_make(12);
    for (size_t round = 0; round < 20000; round++) {
        size_t n_rows = rng_below(&r, 300), row_bytes = 1 + rng_below(&r, 3000),
               n_pages = 1 + rng_below(&r, 40);
        size_t at = 0, n_asking = 0, most = KVQ_LINES_AHEAD * 64 / row_bytes + 1;
        for (size_t i = 0; i < n_pages; i++) {
            size_t begin = 1, end = 0;
            kvq_rows_ahead(n_rows, row_bytes, n_pages, i, &begin, &end);
            cr_assert_leq(end - begin, most, "%zu rows", end - begin);
            if (begin == end && n_asking == 0)
                continue; /* a page before the last ones */
            cr_assert_eq(begin, at);
            at = end;
            n_asking++;
        }
        size_t wanted = n_rows * row_bytes / (64 * KVQ_LINES_AHEAD_LEAST);
        wanted = wanted < n_pages ? wanted : n_pages;
        size_t all = wanted * 64 * KVQ_LINES_AHEAD / row_bytes;
        cr_assert_eq(at, all < n_rows ? all : n_rows * (wanted > 0));
        cr_assert(n_asking <= wanted && (row_bytes > 1024 || n_asking == wanted), "%zu pages of %zu ask",
                  n_asking, wanted);
    }
}

/* No result tells whether what is said to come next does: sinks, pages, residual, the next head. */
Test(attend, what_comes_next_is_what_is_read_next)
{
    static kvq_kernels noting;
    noting = *kvq_kernels_get();
    noting.isa = "noting";
    noting.dot_f32 = noting_dot;
    noting.accumulate_f32 = noting_accumulate;
    kvq_kernels_offer(&noting);
    problem p = make_problem(11, (shape){1, 4, 2, 32, 1}, 400, 1, FILL_NORMAL);
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = 1, config.n_heads = 4, config.n_kv_heads = 2, config.head_dim = 32;
    config.isa = "noting";
    config.scheme = scheme_of("fp32,s=5,r=40,mode=kivi");
    kvq_cache *cache = NULL;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, p.k, p.v, p.n), KVQ_OK);
    of_keys.n = of_values.n = 0;
    free(attend(cache, &p, NULL, 1, p.q, 1));
    expect_chain("keys", &of_keys);
    expect_chain("values", &of_values);
    kvq_cache_free(cache);
    kvq_kernels_offer(NULL);
    free_problem(&p);
}
