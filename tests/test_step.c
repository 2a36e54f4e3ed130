/*
 * kvq_cache_step against what it is made of: appends, attention over what is stored, attention within the
 * call in full precision. What evidence does to encoders is in test_toy.c.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/internal.h"
#include "tests/script.h"

enum { MAX_SEQUENCES = 4 };

/* ---- What is stored ---- */

/* Ragged calls over some of the sequences in any order; the same tokens in one append each. */
static void check_random_calls(const char *scheme, const script *d, rng *r)
{
    kvq_cache *stepped = cache_of(scheme, d->s, NULL), *appended = cache_of(scheme, d->s, NULL);
    size_t left = d->s.n_sequences * d->n;
    for (size_t trial = 0; left > 0; trial++) {
        size_t sequences[MAX_SEQUENCES] = {0, 1, 2, 3}, n_new[MAX_SEQUENCES], longest = trial % 3 ? 5 : 150;
        for (size_t i = 0; i < d->s.n_sequences; i++) {
            size_t j = i + rng_below(r, d->s.n_sequences - i), kept = sequences[i];
            sequences[i] = sequences[j], sequences[j] = kept;
            size_t rest = d->n - kvq_cache_n_tokens(stepped, 0, sequences[i]);
            n_new[i] = rng_below(r, longest);
            n_new[i] = n_new[i] < rest ? n_new[i] : rest;
        }
        size_t n = 1 + rng_below(r, d->s.n_sequences);
        free(script_step(stepped, d, sequences, n, n_new, NULL));
        for (size_t i = 0; i < n; i++) {
            script_append(appended, d, sequences[i], n_new[i]);
            left -= n_new[i];
        }
        if (trial % 8 == 0 && !uses_evidence(scheme))
            cr_assert(same_caches(scheme, stepped, appended));
    }
    for (size_t i = 0; i < d->s.n_sequences; i++)
        for (size_t side = 0; side < 2; side++) {
            size_t n[2] = {0};
            cr_assert_eq(kvq_cache_n_packed(stepped, 0, i, side ? NULL : &n[0], side ? &n[0] : NULL), KVQ_OK);
            cr_assert_eq(kvq_cache_n_packed(appended, 0, i, side ? NULL : &n[1], side ? &n[1] : NULL),
                         KVQ_OK);
            cr_assert_eq(n[0], n[1], "%s: the tokens are in the same places", scheme);
        }
    if (!uses_evidence(scheme))
        cr_assert(same_caches(scheme, stepped, appended));
    cr_assert_eq(kvq_cache_verify(stepped, NULL), KVQ_OK);
    kvq_cache_free(stepped), kvq_cache_free(appended);
}

Test(step, stores_what_appends_store)
{
    script d = make_script(1, (shape){1, 4, 2, 20, MAX_SEQUENCES}, 330);
    rng r = rng_make(2);
    for (size_t i = 0; i < N_FAMILIES; i++)
        check_random_calls(families[i], &d, &r);
    free_script(&d);
}

Test(step, defaults_are_one_token_of_every_sequence)
{
    script d = make_script(3, (shape){2, 2, 1, 16, 3}, 200);
    static const size_t all[] = {0, 1, 2}, ones[] = {1, 1, 1};
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *a = cache_of(families[i], d.s, NULL), *b = cache_of(families[i], d.s, NULL);
        for (size_t t = 0; t < d.n; t++) {
            float *x = script_step(a, &d, NULL, 3, NULL, NULL), *y = script_step(b, &d, all, 3, ones, NULL);
            cr_assert(same_bits(families[i], x, y, 3 * d.q_row * sizeof *x));
            free(x), free(y);
        }
        cr_assert(same_caches(families[i], a, b));
        cr_assert_eq(kvq_cache_n_tokens(a, 1, 0), 0, "the other layer");
        kvq_cache_free(a), kvq_cache_free(b);
    }
    free_script(&d);
}

/* How the call is put together is nothing to a sequence. */
Test(step, a_batch_equals_each_sequence_alone)
{
    script d = make_script(4, (shape){1, 6, 2, 24, 3}, 500);
    static const size_t order[] = {2, 0, 1},
                        n_new[][3] = {{130, 0, 257}, {1, 70, 1}, {129, 128, 1}, {1, 1, 1}};
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *together = cache_of(families[i], d.s, NULL), *apart = cache_of(families[i], d.s, NULL);
        for (size_t j = 0; j < 4; j++) {
            float *all = script_step(together, &d, order, 3, n_new[j], NULL), *at = all;
            for (size_t m = 0; m < 3; m++, at += n_new[j][m - 1] * d.q_row) {
                float *one = script_step(apart, &d, &order[m], 1, &n_new[j][m], NULL);
                cr_assert(same_bits(families[i], at, one, n_new[j][m] * d.q_row * sizeof *one));
                free(one);
            }
            free(all);
        }
        cr_assert(same_caches(families[i], together, apart));
        kvq_cache_free(together), kvq_cache_free(apart);
    }
    free_script(&d);
}

/* ---- A decode step ---- */

/* All that a call hands out. */
typedef struct answers {
    kvq_attend_counters counters;
    float out[4 * 40], bound[4], probabilities[4 * 700];
} answers;

static kvq_attend_options options_for(answers *a, bool probabilities, bool bound)
{
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    kvq_attend_counters_init(&a->counters);
    options.counters = &a->counters;
    options.probabilities = probabilities ? a->probabilities : NULL;
    options.bound = bound ? a->bound : NULL;
    return options;
}

/* One more token: step, and append + attend on a copy. */
static void check_decode(const char *scheme, kvq_cache *cache, const script *d, size_t t)
{
    static answers got, wanted;
    bool probabilities = t % 3 == 1, bound = t % 16 == 5;
    kvq_cache *copy = copy_of(cache);
    memset(&got, 0, sizeof got), memset(&wanted, 0, sizeof wanted);
    kvq_attend_options options = options_for(&wanted, probabilities, bound);
    options.precision = t % 2 ? KVQ_PRECISION_FAST : KVQ_PRECISION_EXACT;
    options.window = t % 7 < 3 ? 0 : t % 161 + 1;
    script_append(copy, d, 0, 1);
    cr_assert_eq(kvq_cache_attend(copy, 0, NULL, 1, d->q + t * d->q_row, 1, d->scale, &options, wanted.out),
                 KVQ_OK);
    options.counters = &got.counters;
    kvq_attend_counters_init(&got.counters);
    options.probabilities = probabilities ? got.probabilities : NULL;
    options.bound = bound ? got.bound : NULL;
    float *out = script_step(cache, d, NULL, 1, NULL, &options);
    cr_assert(same_bits(scheme, out, wanted.out, d->q_row * sizeof *out), "output of token %zu", t);
    cr_assert(same_bits(scheme, got.probabilities, wanted.probabilities, sizeof got.probabilities),
              "probabilities of token %zu", t);
    cr_assert(same_bits(scheme, got.bound, wanted.bound, sizeof got.bound), "bound of token %zu", t);
    if (kvq_scheme_residual(scheme_of(scheme)) > 0) /* else the append has packed the token itself */
        cr_assert(same_bits(scheme, &got.counters, &wanted.counters, sizeof got.counters),
                  "counters, token %zu", t);
    if (!uses_evidence(scheme))
        cr_assert(same_caches(scheme, cache, copy));
    free(out);
    kvq_cache_free(copy);
}

Test(step, a_decode_step_is_append_and_attend)
{
    static const char *const more[] = {"k=4,v=2,mode=sliding", "kivi2,r=32,s=5", "fp32,r=5,s=40"};
    script d = make_script(5, (shape){1, 4, 2, 20, 1}, 330);
    for (size_t i = 0; i < N_FAMILIES + 3; i++) {
        const char *scheme = i < N_FAMILIES ? families[i] : more[i - N_FAMILIES];
        bool exact = strcmp(scheme, "fp32") == 0 || kvq_scheme_residual(scheme_of(scheme)) > 0;
        if (!exact || family_rounds(scheme))
            continue; /* the new token is seen as it will be stored */
        kvq_cache *cache = cache_of(scheme, d.s, NULL);
        size_t prompt = i % 3 * 60;
        free(script_step(cache, &d, NULL, 1, &prompt, NULL));
        for (size_t t = prompt; t < d.n; t++)
            check_decode(scheme, cache, &d, t);
        kvq_cache_free(cache);
    }
    free_script(&d);
}

/* ---- Prompts ---- */

/* The cache that the queries of a step should see: what is stored once one token more is there, then the new
 * tokens as they are. */
static kvq_cache *seen_by_step(const kvq_cache *cache, const script *d, size_t n_new)
{
    size_t n = kvq_cache_n_tokens(cache, 0, 0);
    float *k = malloc((n + 1) * d->row * sizeof *k), *v = malloc((n + 1) * d->row * sizeof *v);
    kvq_cache *copy = copy_of(cache), *seen = cache_of("fp32", d->s, NULL);
    script_append(copy, d, 0, 1);
    cr_assert_eq(kvq_cache_read(copy, 0, 0, 0, n, k, v), KVQ_OK);
    cr_assert_eq(kvq_cache_append(seen, 0, 0, k, v, n), KVQ_OK);
    script_append(seen, d, 0, n_new);
    free(k), free(v);
    kvq_cache_free(copy);
    return seen;
}

/*
 * How far two float computations of one query may be apart. Scores are off by (D + 8) 2^-23 |q| |k| (4 times
 * the largest |k|: see test_attend.c), weights by the exponential of twice that, sums of n values by (n + D)
 * 2^-23 of the largest; all of it once for each of the two.
 */
static double tolerance(const script *d, const float *q, double k_max, double v_max, size_t n)
{
    double q_sum = 0;
    for (size_t c = 0; c < d->s.head_dim; c++)
        q_sum += fabs((double)q[c]);
    double score = (double)d->scale * 4 * q_sum * k_max * (double)(d->s.head_dim + 8) * 0x1p-23;
    return 8 * v_max * (expm1(2 * score) + (double)(n + d->s.head_dim) * 0x1p-23);
}

static double largest(const float *x, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    return most;
}

/* Without a residual, a new token may complete a group of older ones, which cannot be packed before it is
 * there; they are seen as they were. */
static bool new_token_completes_a_group(const kvq_cache *cache, const script *d)
{
    size_t packed[2], n = kvq_cache_n_tokens(cache, 0, 0), sinks;
    kvq_config config;
    kvq_cache *copy = copy_of(cache);
    kvq_cache_get_config(cache, &config);
    sinks = kvq_scheme_sinks(config.layer_schemes[0]);
    script_append(copy, d, 0, 1);
    cr_assert_eq(kvq_cache_n_packed(copy, 0, 0, &packed[0], &packed[1]), KVQ_OK);
    kvq_cache_free(copy);
    return packed[0] + sinks > n || packed[1] + sinks > n;
}

static void check_prompt(const char *scheme, kvq_cache *cache, const script *d, size_t n_new, size_t window)
{
    size_t n_before = kvq_cache_n_tokens(cache, 0, 0), n = n_before + n_new, n_heads = d->s.n_heads;
    const float *q = d->q + n_before * d->q_row;
    double k_max = largest(d->k, n * d->row), v_max = largest(d->v, n * d->row);
    kvq_cache *seen = seen_by_step(cache, d, n_new);
    float *p[2] = {malloc(n_new * n_heads * n * sizeof(float)), malloc(n_new * n_heads * n * sizeof(float))};
    float *wanted = malloc(n_new * d->q_row * sizeof *wanted);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.precision = KVQ_PRECISION_EXACT;
    options.window = window;
    options.probabilities = p[0];
    cr_assert_eq(kvq_cache_attend(seen, 0, NULL, 1, q, n_new, d->scale, &options, wanted), KVQ_OK);
    options.probabilities = p[1];
    float *out = script_step(cache, d, NULL, 1, &n_new, &options);
    if (strncmp(scheme, "fp32", 4) == 0 && !family_rounds(scheme)) {
        cr_assert(same_bits(scheme, out, wanted, n_new * d->q_row * sizeof *out));
        cr_assert(same_bits(scheme, p[1], p[0], n_new * n_heads * n * sizeof(float)));
    }
    for (size_t row = 0; row < n_new * n_heads; row++) {
        size_t visible = n_before + row / n_heads + 1;
        size_t first = window > 0 && visible > window ? visible - window : 0;
        double bound = tolerance(d, q + row * d->s.head_dim, k_max, v_max, n), sum = 0;
        for (size_t c = 0; c < d->s.head_dim; c++) {
            size_t at = row * d->s.head_dim + c;
            cr_assert_leq(fabs((double)out[at] - (double)wanted[at]), bound, "%s: %zu + %zu tokens, row %zu",
                          scheme, n_before, n_new, row);
        }
        for (size_t t = 0; t < n; t++) {
            float got = p[1][row * n + t];
            sum += (double)got;
            if (t >= first && t < visible ? !(got >= 0) : got != 0)
                cr_assert_fail("%s: row %zu sees token %zu", scheme, row, t);
            cr_assert_leq(fabsf(got - p[0][row * n + t]), 1e-3f, "%s: %zu + %zu, row %zu, token %zu: %g, %g",
                          scheme, n_before, n_new, row, t, (double)got, (double)p[0][row * n + t]);
        }
        cr_assert_float_eq(sum, 1, 1e-4);
    }
    free(p[0]), free(p[1]), free(wanted), free(out);
    kvq_cache_free(seen);
}

Test(step, a_prompt_sees_itself_in_full_precision)
{
    static const size_t prompts[][3] = {{1, 2, 300}, {150, 129, 90}, {33, 97, 128}};
    static const size_t windows[] = {0, 20, 0, 133, 1};
    script d = make_script(6, (shape){1, 4, 2, 24, 1}, 420);
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (size_t j = 0; j < 3; j++) {
            kvq_cache *cache = cache_of(families[i], d.s, NULL);
            for (size_t m = 0; m < 3; m++)
                if (strncmp(families[i], "fp", 2) == 0 || !new_token_completes_a_group(cache, &d))
                    check_prompt(families[i], cache, &d, prompts[j][m], windows[(i + j + m) % 5]);
                else
                    script_append(cache, &d, 0, prompts[j][m]);
            kvq_cache_free(cache);
        }
    free_script(&d);
}

/* Attention in double over the keys and values as they were given. */
static void exact_attention(const script *d, size_t first, size_t visible, size_t kv_head, const float *q,
                            double *out)
{
    static double w[700];
    double max = -INFINITY, sum = 0;
    for (size_t t = first; t < visible; t++) {
        w[t] = 0;
        for (size_t c = 0; c < d->s.head_dim; c++)
            w[t] += (double)q[c] * (double)d->k[t * d->row + kv_head * d->s.head_dim + c];
        w[t] *= (double)d->scale;
        max = fmax(max, w[t]);
    }
    memset(out, 0, d->s.head_dim * sizeof *out);
    for (size_t t = first; t < visible; t++) {
        sum += w[t] = exp(w[t] - max);
        for (size_t c = 0; c < d->s.head_dim; c++)
            out[c] += w[t] * (double)d->v[t * d->row + kv_head * d->s.head_dim + c];
    }
    for (size_t c = 0; c < d->s.head_dim; c++)
        out[c] /= sum;
}

Test(step, bounds_hold_for_prompts)
{
    script d = make_script(7, (shape){1, 4, 2, 16, 1}, 260);
    static const size_t prompts[] = {40, 90, 100, 1};
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = cache_of(families[i], d.s, NULL);
        float bound[100 * 4];
        double wanted[16];
        kvq_attend_options options;
        kvq_attend_options_init(&options);
        options.bound = bound;
        options.window = i % 2 ? 0 : 75;
        for (size_t j = 0, begin = 0; j < 4; begin += prompts[j++]) {
            float *out = script_step(cache, &d, NULL, 1, &prompts[j], &options);
            for (size_t row = 0; row < prompts[j] * 4; row++) {
                size_t visible = begin + row / 4 + 1, window = options.window;
                size_t first = window > 0 && visible > window ? visible - window : 0;
                exact_attention(&d, first, visible, row % 4 / 2, d.q + (begin * 4 + row) * 16, wanted);
                for (size_t c = 0; c < 16; c++) /* the reference itself: n sums in double of values of 100 */
                    cr_assert_leq(fabs((double)out[row * 16 + c] - wanted[c]), (double)bound[row] + 1e-11,
                                  "%s: %zu tokens before, row %zu", families[i], begin, row);
                cr_assert(begin > 0 || bound[row] < 1e-2f, "%s: %g, but all tokens are exact", families[i],
                          (double)bound[row]);
            }
            free(out);
        }
        kvq_cache_free(cache);
    }
    free_script(&d);
}

/* ---- Threads, batches of queries, counters ---- */

Test(step, thread_counts_agree)
{
    script d = make_script(8, (shape){1, 8, 4, 32, 3}, 700);
    static const size_t calls[][3] = {{300, 129, 400}, {1, 1, 1}, {128, 60, 90}, {1, 1, 1}};
    static const int threads[] = {1, 3, 7, 0}; /* three: then the fourth KV head goes alone */
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache[4];
        for (size_t m = 0; m < 4; m++)
            cache[m] = cache_of(families[i], d.s, NULL);
        for (size_t j = 0; j < 4; j++) {
            size_t n_out = (calls[j][0] + calls[j][1] + calls[j][2]) * d.q_row;
            float *one = NULL;
            for (size_t m = 0; m < 4; m++) {
                kvq_attend_options options;
                kvq_attend_options_init(&options);
                options.n_threads = threads[m];
                float *out = script_step(cache[m], &d, NULL, 3, calls[j], &options);
                cr_assert(one == NULL || same_bits(families[i], out, one, n_out * sizeof *out),
                          "%d threads, call %zu", threads[m], j);
                if (one == NULL)
                    one = out;
                else
                    free(out);
            }
            free(one);
        }
        for (size_t m = 0; m < 4; m++) {
            cr_assert(same_caches(families[i], cache[m], cache[0]));
            if (m > 0)
                kvq_cache_free(cache[m]);
        }
        kvq_cache_free(cache[0]);
    }
    free_script(&d);
}

/* Scores, sums and packing alike: what a cache holds and answers does not depend on the kernels, also where
 * queries decide what is packed. */
Test(step, instruction_sets_agree)
{
    script d = make_script(9, (shape){1, 4, 2, 40, 2}, 400);
    static const size_t calls[][2] = {{200, 60}, {1, 1}, {100, 139}};
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *first = NULL;
        for (size_t isa = 0; kvq_isa_name(isa) != NULL; isa++) {
            kvq_config config;
            kvq_cache *cache, *plain = cache_of(families[i], d.s, NULL);
            kvq_attend_options options;
            kvq_attend_options_init(&options);
            kvq_cache_get_config(plain, &config);
            config.isa = kvq_isa_name(isa);
            cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK);
            for (size_t j = 0; j < 3; j++)
                free(script_step(cache, &d, NULL, 2, calls[j], &options));
            cr_assert(first == NULL || same_caches(families[i], cache, first), "%s", kvq_isa_name(isa));
            if (first != NULL)
                kvq_cache_free(cache);
            else
                first = cache;
            kvq_cache_free(plain);
        }
        kvq_cache_free(first);
    }
    free_script(&d);
}

/* Probabilities that the caller wants go into his memory, and evidence is gathered from there; otherwise they
 * pass through batches of queries. Neither shows in what is packed. */
Test(step, how_probabilities_are_gathered_leaves_no_trace)
{
    enum { N = 900 };
    script d = make_script(10, (shape){1, 16, 2, 8, 1}, N + 200);
    for (size_t j = 0; j < 2; j++) {
        const char *scheme = j == 0 ? "k=toy,v=toy,r=1024" : "k=toy,v=2,r=384,mode=sliding";
        kvq_cache *watched = cache_of(scheme, d.s, NULL), *plain = cache_of(scheme, d.s, NULL);
        for (size_t i = 0; i < 3; i++) {
            size_t n_new = i == 0 ? 1 : i == 1 ? N : 199;
            size_t n = kvq_cache_n_tokens(plain, 0, 0) + n_new;
            kvq_attend_options options;
            kvq_attend_options_init(&options);
            options.probabilities = malloc(n_new * 16 * n * sizeof(float));
            float *x = script_step(plain, &d, NULL, 1, &n_new, NULL),
                  *y = script_step(watched, &d, NULL, 1, &n_new, &options);
            cr_assert(i != 1 || j != 0 || n_new * 16 * n > 3 << 22, "more than a few batches");
            cr_assert(same_bits(scheme, y, x, n_new * d.q_row * sizeof *x));
            cr_assert(same_caches(scheme, watched, plain));
            free(x), free(y), free(options.probabilities);
        }
        kvq_cache_free(watched), kvq_cache_free(plain);
    }
    free_script(&d);
}

/* On one thread a long call goes through attention a KV head at a time, on eight all of them together; with
 * everything that a caller may ask for, and with nothing. */
Test(step, heads_that_go_apart_leave_no_trace)
{
    enum { N = 200, HEADS = 8, OF_P = N * HEADS * 2 * N };
    static const char *schemes[] = {"fp32", "kvq2", "k=toy,v=toy,r=1024"};
    script d = make_script(13, (shape){1, HEADS, HEADS, 64, 1}, 2 * N);
    float *p = calloc(2 * OF_P, sizeof *p), *bound = calloc(2 * N * HEADS, sizeof *bound);
    const size_t n = N;
    /* The caches of a scheme, without and with, after one call and after two. */
    for (size_t i = 0; i < 3 * 2 * 2; i++) {
        static kvq_cache *cache[2];
        kvq_attend_counters counters[2];
        float *out[2];
        bool asks = i / 2 % 2 == 1;
        for (size_t m = 0; m < 2; m++) {
            kvq_attend_options options;
            kvq_attend_options_init(&options);
            kvq_attend_counters_init(&counters[m]);
            options.n_threads = m == 0 ? 1 : HEADS;
            options.counters = &counters[m];
            options.window = asks ? 150 : 0;
            options.probabilities = asks ? p + m * OF_P : NULL;
            options.bound = asks ? bound + m * N * HEADS : NULL;
            if (i % 2 == 0)
                cache[m] = cache_of(schemes[i / 4], d.s, NULL);
            out[m] = script_step(cache[m], &d, NULL, 1, &n, &options);
        }
        cr_assert(same_bits(schemes[i / 4], out[1], out[0], N * d.q_row * sizeof *out[0]));
        cr_assert(same_bits("probabilities", p + OF_P, p, OF_P * sizeof *p));
        cr_assert(same_bits("bound", bound + N * HEADS, bound, N * HEADS * sizeof *bound));
        cr_assert(same_bits("counters", &counters[1], &counters[0], sizeof counters[0]));
        cr_assert(same_caches(schemes[i / 4], cache[1], cache[0]));
        free(out[0]), free(out[1]);
        for (size_t m = 0; m < 2 && i % 2 == 1; m++)
            kvq_cache_free(cache[m]);
    }
    free(p), free(bound);
    free_script(&d);
}

/* Several sequences, of which three, two and then none share a batch, against one after the other. */
Test(step, sequences_that_share_a_batch_leave_no_trace)
{
    enum { N = 500 };
    static const size_t lengths[][3] = {{20, 30, 40}, {30, 40, 60}, {180, 230, 200}};
    script d = make_script(12, (shape){1, 16, 2, 8, 3}, N);
    kvq_cache *together = cache_of("k=toy,v=toy,r=1024", d.s, NULL),
              *alone = cache_of("k=toy,v=toy,r=1024", d.s, NULL);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.n_threads = 1; /* what fits goes with the threads */
    for (size_t i = 0; i < 3; i++) {
        float *x = script_step(together, &d, NULL, 3, lengths[i], &options);
        for (size_t j = 0, row = 0; j < 3; row += lengths[i][j++] * d.q_row) {
            float *y = script_step(alone, &d, &j, 1, &lengths[i][j], &options);
            cr_assert(same_bits("out", x + row, y, lengths[i][j] * d.q_row * sizeof *x));
            free(y);
        }
        cr_assert(same_caches("three sequences", together, alone));
        free(x);
    }
    kvq_cache_free(together), kvq_cache_free(alone);
    free_script(&d);
}

/* A query that overflows sees nothing, and what it would have given counts for nothing. */
Test(step, an_overflowing_query_is_no_evidence)
{
    enum { N = 150, H = 4, HKV = 2, D = 8, LOUD = 70, WINDOW = 60 };
    script d = make_script(11, (shape){1, H, HKV, D, 1}, N);
    const size_t n = N;
    float *q = d.q + LOUD * d.q_row + D, *p = malloc(sizeof *p * N * H * N), expected[HKV][N] = {{0}};
    for (size_t c = 0; c < D; c++) /* of head 1 */
        q[c] = copysignf(3e38f, q[c]);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.window = WINDOW;
    kvq_cache *cache = cache_of("k=toy,v=toy,r=1024", d.s, NULL),
              *plain = cache_of("k=toy,v=toy,r=1024", d.s, NULL);
    free(script_step(plain, &d, NULL, 1, &n, &options));
    options.probabilities = p;
    float *out = script_step(cache, &d, NULL, 1, &n, &options);
    size_t n_nan = 0;
    for (size_t row = 0; row < N * H; row++, p += N) {
        const bool overflows = isnan(p[row / H]); /* of the query's own token */
        n_nan += overflows ? 1 : 0;
        cr_assert_eq(overflows, isnan(out[row * D]) != 0);
        for (size_t t = 0; t < N && !overflows; t++)
            expected[row % H / (H / HKV)][t] += p[t];
    }
    cr_assert_eq(n_nan, 1);
    for (size_t kv = 0; kv < HKV; kv++)
        for (size_t t = 0; t < N; t++)
            cr_assert_eq(
                *kvq_residual_received(cache, &cache->plan[0], &cache->sequence[0][0], KVQ_VALUES, kv, t),
                expected[kv][t], "KV head %zu, token %zu", kv, t);
    cr_assert(same_caches("without the caller's memory", plain, cache));
    kvq_cache_free(cache), kvq_cache_free(plain);
    free(out), free(options.probabilities);
    free_script(&d);
}

Test(step, counters_are_added_to)
{
    script d = make_script(11, (shape){1, 4, 2, 32, 3}, 600);
    static const size_t n_new[] = {300, 0, 40}, twos[] = {2, 2, 2};
    kvq_cache *cache = cache_of("kivi2,r=32", d.s, NULL);
    kvq_attend_counters counters;
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    kvq_attend_counters_init(&counters);
    options.counters = &counters;
    options.precision = KVQ_PRECISION_EXACT;
    counters.heads = 5;
    free(script_step(cache, &d, NULL, 3, n_new, &options));
    cr_assert(counters.heads == 5 + 340 * 4 && counters.superblocks == 0, "all of them fresh");
    free(script_step(cache, &d, NULL, 3, twos, &options));
    cr_assert_eq(counters.heads, 5 + 340 * 4 + 6 * 4);
    /* 300 tokens: 288 packed keys in 3 superblocks; none: 0; 40: 32 keys in 1. Two queries of four heads. */
    cr_assert_eq(counters.superblocks, 2 * 4 * (3 + 0 + 1));
    cr_assert(counters.superblocks_wide == counters.superblocks && counters.superblocks_exact == 0);
    kvq_cache_free(cache);
    free_script(&d);
}

/* ---- Errors ---- */

typedef struct scene {
    script d;
    kvq_cache *cache;
    call c; /* a good one */
    const size_t *sequences, *n_new;
    size_t n_sequences;
} scene;

/* A call that must fail, and then the good one on a copy. */
static void expect_error(const scene *s, kvq_status wanted, const char *what, kvq_status got,
                         const float *out)
{
    cr_assert_eq(got, wanted, "%s: %s", what, kvq_status_string(got));
    for (size_t i = 0; out != NULL && i < s->c.n_all * s->d.q_row * sizeof *out; i++)
        cr_assert_eq(((const uint8_t *)out)[i], 0x5a, "%s: out was written", what);
}

#define EXPECT_ERROR(wanted, ...)                                                                            \
    do {                                                                                                     \
        buffer before_ = saved(s.cache);                                                                     \
        kvq_attend_counters_init(&counters);                                                                 \
        expect_error(&s, wanted, #__VA_ARGS__, kvq_cache_step(__VA_ARGS__), s.c.out);                        \
        buffer after_ = saved(s.cache);                                                                      \
        cr_assert(after_.n == before_.n && same_bits(#__VA_ARGS__, after_.data, before_.data, after_.n));    \
        cr_assert_eq(counters.heads, 0);                                                                     \
        buffer_free(&before_), buffer_free(&after_);                                                         \
    } while (0)

static scene make_scene(const char *scheme, const kvq_allocator *allocator, const size_t *sequences,
                        const size_t *n_new, size_t n_sequences)
{
    scene s = {.d = make_script(12, (shape){2, 4, 2, 12, 4}, 500),
               .sequences = sequences,
               .n_new = n_new,
               .n_sequences = n_sequences};
    static const size_t before[] = {129, 0, 40, 255};
    s.cache = cache_of(scheme, s.d.s, allocator);
    free(script_step(s.cache, &s.d, NULL, 4, before, NULL));
    s.c = make_call(s.cache, &s.d, sequences, n_sequences, n_new);
    return s;
}

static void free_scene(scene *s)
{
    free_call(&s->c);
    kvq_cache_free(s->cache);
    free_script(&s->d);
}

Test(step, arguments_are_checked)
{
    static const size_t order[] = {3, 0, 2}, n_new[] = {2, 1, 100}, twice[] = {3, 0, 3}, far[] = {3, 4, 0};
    static const size_t alike[] = {1, 1, 1}, five[5] = {0};
    scene s = make_scene("k=toy,v=2", NULL, order, n_new, 3);
    float *q = s.c.q, *k = s.c.k, *v = s.c.v, *out = s.c.out, probabilities[4 * 4 * 300];
    kvq_attend_counters counters;
    kvq_attend_options o;
    kvq_attend_options_init(&o);
    o.counters = &counters;
    EXPECT_ERROR(KVQ_ERR_ARG, NULL, 0, order, 3, n_new, q, k, v, 1, &o, out);
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 2, order, 3, n_new, q, k, v, 1, &o, out);
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, order, 3, n_new, NULL, k, v, 1, &o, out);
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, order, 3, n_new, q, NULL, v, 1, &o, out);
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, order, 3, n_new, q, k, NULL, 1, &o, out);
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, order, 3, n_new, q, k, v, 1, &o, NULL);
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, order, 3, n_new, q, k, v, NAN, &o, out);
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, order, 3, n_new, q, k, v, INFINITY, &o, out);
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, twice, 3, n_new, q, k, v, 1, &o, out);
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, far, 3, n_new, q, k, v, 1, &o, out);
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, NULL, 5, five, q, k, v, 1, &o, out);
    o.n_threads = -1;
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, order, 3, n_new, q, k, v, 1, &o, out);
    o.n_threads = 0, o.precision = (kvq_precision)7;
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, order, 3, n_new, q, k, v, 1, &o, out);
    o.precision = KVQ_PRECISION_FAST, o.probabilities = probabilities;
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, order, 3, alike, q, k, v, 1, &o, out);
    static const size_t up_to_130[] = {0, 1}, one_and_130[] = {1, 130}; /* equal T, unequal n_new */
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, up_to_130, 2, one_and_130, q, k, v, 1, &o, out);
    o.probabilities = NULL, o.struct_size = 1;
    EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, order, 3, n_new, q, k, v, 1, &o, out);
    EXPECT_ERROR(KVQ_OK, s.cache, 0, order, 0, n_new, q, k, v, 1, NULL, out);
    EXPECT_ERROR(KVQ_OK, s.cache, 0, NULL, 4, five, q, k, v, 1, NULL, out);
    EXPECT_ERROR(KVQ_OK, s.cache, 1, NULL, 4, five, q, k, v, 1, NULL, out); /* a layer that holds nothing */
    cr_assert_eq(kvq_cache_step(s.cache, 0, order, 3, n_new, q, k, v, 1, NULL, out), KVQ_OK);
    free_scene(&s);
}

Test(step, numbers_that_are_not_finite_change_nothing)
{
    static const size_t order[] = {3, 0, 1}, n_new[] = {2, 128, 100};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    rng r = rng_make(13);
    scene s = make_scene("kivi2,r=32", NULL, order, n_new, 3);
    kvq_attend_counters counters;
    for (size_t i = 0; i < 3; i++)
        for (size_t which = 0; which < 3; which++)
            for (size_t trial = 0; trial < 3; trial++) {
                float *x = which == 0 ? s.c.q : which == 1 ? s.c.k : s.c.v;
                size_t n = s.c.n_all * (which == 0 ? s.d.q_row : s.d.row);
                size_t at = trial == 0 ? 0 : trial == 1 ? n - 1 : rng_below(&r, n);
                float kept = x[at];
                x[at] = bad[i];
                EXPECT_ERROR(KVQ_ERR_NONFINITE, s.cache, 0, order, 3, n_new, s.c.q, s.c.k, s.c.v, 1, NULL,
                             s.c.out);
                x[at] = kept;
            }
    cr_assert_eq(kvq_cache_step(s.cache, 0, order, 3, n_new, s.c.q, s.c.k, s.c.v, 1, NULL, s.c.out), KVQ_OK);
    free_scene(&s);
}

Test(step, max_tokens_holds)
{
    kvq_config config;
    kvq_cache *cache;
    static const size_t n_new[] = {3, 4}, huge[] = {1, SIZE_MAX}, fit[] = {3, 3};
    float x[8 * 4] = {0}, out[8 * 4];
    kvq_config_init(&config);
    config.n_layers = 1, config.n_heads = 1, config.n_kv_heads = 1, config.head_dim = 4;
    config.n_sequences = 2, config.max_tokens = 3;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK);
    cr_assert_eq(kvq_cache_step(cache, 0, NULL, 2, n_new, x, x, x, 1, NULL, out), KVQ_ERR_FULL);
    cr_assert_eq(kvq_cache_step(cache, 0, NULL, 2, huge, x, x, x, 1, NULL, out), KVQ_ERR_FULL);
    cr_assert_eq(kvq_cache_n_tokens(cache, 0, 0), 0);
    cr_assert_eq(kvq_cache_step(cache, 0, NULL, 2, fit, x, x, x, 1, NULL, out), KVQ_OK);
    cr_assert_eq(kvq_cache_step(cache, 0, NULL, 2, NULL, x, x, x, 1, NULL, out), KVQ_ERR_FULL);
    cr_assert_eq(kvq_cache_n_tokens(cache, 0, 1), 3);
    kvq_cache_free(cache);
}

/* The allocator fails at its n-th call, for every n: nothing has changed, and the same call goes well. */
Test(step, survives_every_allocation_failure)
{
    static const size_t order[] = {3, 0, 1, 2}, n_new[] = {3, 130, 300, 0};
    for (size_t i = 0; i < N_FAMILIES; i++) {
        scene good = make_scene(families[i], NULL, order, n_new, 4);
        cr_assert_eq(kvq_cache_step(good.cache, 0, order, 4, n_new, good.c.q, good.c.k, good.c.v,
                                    good.d.scale, NULL, good.c.out),
                     KVQ_OK);
        size_t n_failures = 0;
        for (bool failed = true; failed; n_failures += failed) {
            test_memory memory = {0};
            kvq_allocator allocator = test_allocator(&memory);
            scene s = make_scene(families[i], &allocator, order, n_new, 4);
            kvq_attend_counters counters;
            kvq_usage before, after;
            buffer saved_before = saved(s.cache);
            cr_assert_eq(kvq_cache_usage(s.cache, &before), KVQ_OK);
            memory.fail_at = memory.n_calls + n_failures + 1;
            kvq_status status =
                kvq_cache_step(s.cache, 0, order, 4, n_new, s.c.q, s.c.k, s.c.v, s.d.scale, NULL, s.c.out);
            failed = status != KVQ_OK;
            if (failed) {
                expect_error(&s, KVQ_ERR_NOMEM, families[i], status, s.c.out);
                buffer saved_after = saved(s.cache);
                cr_assert(same_bits(families[i], saved_after.data, saved_before.data, saved_after.n));
                cr_assert_eq(kvq_cache_usage(s.cache, &after), KVQ_OK);
                cr_assert_eq(after.total, memory.live_bytes);
                cr_assert_eq(after.payload + after.residual, before.payload + before.residual);
                buffer_free(&saved_after);
                EXPECT_ERROR(KVQ_ERR_ARG, s.cache, 0, order, 4, n_new, NULL, s.c.k, s.c.v, 1, NULL, s.c.out);
                cr_assert_eq(kvq_cache_step(s.cache, 0, order, 4, n_new, s.c.q, s.c.k, s.c.v, s.d.scale, NULL,
                                            s.c.out),
                             KVQ_OK, "%s: once more", families[i]);
            }
            cr_assert(same_caches(families[i], s.cache, good.cache));
            cr_assert(same_bits(families[i], s.c.out, good.c.out, s.c.n_all * s.d.q_row * sizeof(float)));
            buffer_free(&saved_before);
            free_scene(&s);
            cr_assert(memory.live_bytes == 0 && memory.live_blocks == 0, "%s leaks", families[i]);
        }
        cr_assert_gt(n_failures, 3, "%s is meant to need memory", families[i]);
        free_scene(&good);
    }
}
