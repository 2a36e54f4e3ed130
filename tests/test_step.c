/*
 * kvq_cache_step against what it is made of: appends, attention over what is stored, attention within the
 * call in full precision. What evidence does to encoders is in test_toy.c.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support.h"

enum { MAX_SEQUENCES = 4 };

/* What each sequence will be given, in this order. */
typedef struct script {
    shape s;
    size_t n; /* tokens of each */
    size_t row, q_row;
    float *q, *k, *v; /* [n_sequences][n][H][D], [n_sequences][n][Hkv][D] */
    float scale;
} script;

static script make_script(uint64_t stream, shape s, size_t n)
{
    rng r = rng_make(stream);
    script d = {.s = s, .n = n, .row = s.n_kv_heads * s.head_dim, .q_row = s.n_heads * s.head_dim};
    size_t n_all = s.n_sequences * n;
    d.scale = 1.0f / sqrtf((float)s.head_dim);
    d.q = malloc(n_all * d.q_row * sizeof *d.q);
    d.k = malloc(n_all * d.row * sizeof *d.k);
    d.v = malloc(n_all * d.row * sizeof *d.v);
    fill(&r, FILL_NORMAL, d.q, n_all, d.q_row);
    fill(&r, FILL_OFFSETS, d.k, n_all, d.row);
    fill(&r, FILL_HEAVY, d.v, n_all, d.row);
    return d;
}

static void free_script(script *d)
{
    free(d->q), free(d->k), free(d->v);
}

/* One call as it is put together: what the next tokens of some sequences are. */
typedef struct call {
    size_t n_all, n_longest;
    float *q, *k, *v, *out;
} call;

static size_t sequence_of(const size_t *sequences, size_t i)
{
    return sequences == NULL ? i : sequences[i];
}

static call make_call(const kvq_cache *cache, const script *d, const size_t *sequences, size_t n_sequences,
                      const size_t *n_new)
{
    call c = {0};
    for (size_t i = 0; i < n_sequences; i++)
        c.n_all += n_new == NULL ? 1 : n_new[i];
    size_t room = c.n_all + 1; /* malloc(0) may be NULL */
    c.q = malloc(room * d->q_row * sizeof *c.q), c.out = malloc(room * d->q_row * sizeof *c.out);
    c.k = malloc(room * d->row * sizeof *c.k), c.v = malloc(room * d->row * sizeof *c.v);
    for (size_t i = 0, at = 0; i < n_sequences; i++) {
        size_t n = n_new == NULL ? 1 : n_new[i], s = sequence_of(sequences, i);
        size_t begin = kvq_cache_n_tokens(cache, 0, s), from = s * d->n + begin;
        cr_assert(begin + n <= d->n, "the script is too short");
        memcpy(c.q + at * d->q_row, d->q + from * d->q_row, n * d->q_row * sizeof *c.q);
        memcpy(c.k + at * d->row, d->k + from * d->row, n * d->row * sizeof *c.k);
        memcpy(c.v + at * d->row, d->v + from * d->row, n * d->row * sizeof *c.v);
        at += n;
        c.n_longest = begin + n > c.n_longest ? begin + n : c.n_longest;
    }
    memset(c.out, 0x5a, room * d->q_row * sizeof *c.out);
    return c;
}

static void free_call(call *c)
{
    free(c->q), free(c->k), free(c->v), free(c->out);
}

/* Step, which must go well; returns out. */
static float *step(kvq_cache *cache, const script *d, const size_t *sequences, size_t n_sequences,
                   const size_t *n_new, const kvq_attend_options *options)
{
    call c = make_call(cache, d, sequences, n_sequences, n_new);
    kvq_status status =
        kvq_cache_step(cache, 0, sequences, n_sequences, n_new, c.q, c.k, c.v, d->scale, options, c.out);
    cr_assert_eq(status, KVQ_OK, "step: %s", kvq_status_string(status));
    float *out = c.out;
    c.out = NULL;
    free_call(&c);
    return out;
}

static void append(kvq_cache *cache, const script *d, size_t sequence, size_t n)
{
    size_t from = sequence * d->n + kvq_cache_n_tokens(cache, 0, sequence);
    cr_assert_eq(kvq_cache_append(cache, 0, sequence, d->k + from * d->row, d->v + from * d->row, n), KVQ_OK);
}

static bool uses_evidence(const char *scheme)
{
    kvq_side_info k, v;
    cr_assert_eq(kvq_scheme_keys(scheme_of(scheme), &k), KVQ_OK);
    cr_assert_eq(kvq_scheme_values(scheme_of(scheme), &v), KVQ_OK);
    return k.uses_evidence || v.uses_evidence;
}

static void expect_same_cache(const char *what, const kvq_cache *a, const kvq_cache *b)
{
    buffer sa = saved(a), sb = saved(b);
    cr_assert_eq(sa.n, sb.n, "%s: %zu bytes saved, expected %zu", what, sa.n, sb.n);
    cr_assert(same_bits(what, sa.data, sb.data, sa.n));
    buffer_free(&sa), buffer_free(&sb);
}

static kvq_cache *copy_of(const kvq_cache *cache)
{
    kvq_cache *copy;
    buffer file = saved(cache);
    cr_assert_eq(kvq_cache_load(&copy, NULL, buffer_read, &file, NULL), KVQ_OK);
    buffer_free(&file);
    return copy;
}

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
        free(step(stepped, d, sequences, n, n_new, NULL));
        for (size_t i = 0; i < n; i++) {
            append(appended, d, sequences[i], n_new[i]);
            left -= n_new[i];
        }
        if (trial % 8 == 0 && !uses_evidence(scheme))
            expect_same_cache(scheme, stepped, appended);
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
        expect_same_cache(scheme, stepped, appended);
    cr_assert_eq(kvq_cache_verify(stepped, NULL), KVQ_OK);
    kvq_cache_free(stepped), kvq_cache_free(appended);
}

Test(step, stores_what_appends_store)
{
    script d = make_script(1, (shape){1, 4, 2, 20, MAX_SEQUENCES}, 420);
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
            float *x = step(a, &d, NULL, 3, NULL, NULL), *y = step(b, &d, all, 3, ones, NULL);
            cr_assert(same_bits(families[i], x, y, 3 * d.q_row * sizeof *x));
            free(x), free(y);
        }
        expect_same_cache(families[i], a, b);
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
            float *all = step(together, &d, order, 3, n_new[j], NULL), *at = all;
            for (size_t m = 0; m < 3; m++, at += n_new[j][m - 1] * d.q_row) {
                float *one = step(apart, &d, &order[m], 1, &n_new[j][m], NULL);
                cr_assert(same_bits(families[i], at, one, n_new[j][m] * d.q_row * sizeof *one));
                free(one);
            }
            free(all);
        }
        expect_same_cache(families[i], together, apart);
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
    append(copy, d, 0, 1);
    cr_assert_eq(kvq_cache_attend(copy, 0, NULL, 1, d->q + t * d->q_row, 1, d->scale, &options, wanted.out),
                 KVQ_OK);
    options.counters = &got.counters;
    kvq_attend_counters_init(&got.counters);
    options.probabilities = probabilities ? got.probabilities : NULL;
    options.bound = bound ? got.bound : NULL;
    float *out = step(cache, d, NULL, 1, NULL, &options);
    cr_assert(same_bits(scheme, out, wanted.out, d->q_row * sizeof *out), "output of token %zu", t);
    cr_assert(same_bits(scheme, got.probabilities, wanted.probabilities, sizeof got.probabilities),
              "probabilities of token %zu", t);
    cr_assert(same_bits(scheme, got.bound, wanted.bound, sizeof got.bound), "bound of token %zu", t);
    if (kvq_scheme_residual(scheme_of(scheme)) > 0) /* else the append has packed the token itself */
        cr_assert(same_bits(scheme, &got.counters, &wanted.counters, sizeof got.counters),
                  "counters, token %zu", t);
    if (!uses_evidence(scheme))
        expect_same_cache(scheme, cache, copy);
    free(out);
    kvq_cache_free(copy);
}

Test(step, a_decode_step_is_append_and_attend)
{
    static const char *const more[] = {"k=4,v=2,mode=sliding", "kivi2,r=32,s=5", "fp32,r=5,s=40"};
    script d = make_script(5, (shape){1, 4, 2, 20, 1}, 420);
    for (size_t i = 0; i < N_FAMILIES + 3; i++) {
        const char *scheme = i < N_FAMILIES ? families[i] : more[i - N_FAMILIES];
        bool exact = strcmp(scheme, "fp32") == 0 || kvq_scheme_residual(scheme_of(scheme)) > 0;
        if (!exact || family_rounds(scheme))
            continue; /* the new token is seen as it will be stored */
        kvq_cache *cache = cache_of(scheme, d.s, NULL);
        size_t prompt = i % 3 * 60;
        free(step(cache, &d, NULL, 1, &prompt, NULL));
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
    append(copy, d, 0, 1);
    cr_assert_eq(kvq_cache_read(copy, 0, 0, 0, n, k, v), KVQ_OK);
    cr_assert_eq(kvq_cache_append(seen, 0, 0, k, v, n), KVQ_OK);
    append(seen, d, 0, n_new);
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
    append(copy, d, 0, 1);
    cr_assert_eq(kvq_cache_n_packed(copy, 0, 0, &packed[0], &packed[1]), KVQ_OK);
    kvq_cache_free(copy);
    return packed[0] + sinks > n || packed[1] + sinks > n;
}

static void check_prompt(const char *scheme, kvq_cache *cache, const script *d, size_t n_new)
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
    options.probabilities = p[0];
    cr_assert_eq(kvq_cache_attend(seen, 0, NULL, 1, q, n_new, d->scale, &options, wanted), KVQ_OK);
    options.probabilities = p[1];
    float *out = step(cache, d, NULL, 1, &n_new, &options);
    if (strncmp(scheme, "fp32", 4) == 0 && !family_rounds(scheme)) {
        cr_assert(same_bits(scheme, out, wanted, n_new * d->q_row * sizeof *out));
        cr_assert(same_bits(scheme, p[1], p[0], n_new * n_heads * n * sizeof(float)));
    }
    for (size_t row = 0; row < n_new * n_heads; row++) {
        size_t visible = n_before + row / n_heads + 1;
        double bound = tolerance(d, q + row * d->s.head_dim, k_max, v_max, n), sum = 0;
        for (size_t c = 0; c < d->s.head_dim; c++) {
            size_t at = row * d->s.head_dim + c;
            cr_assert_leq(fabs((double)out[at] - (double)wanted[at]), bound, "%s: %zu + %zu tokens, row %zu",
                          scheme, n_before, n_new, row);
        }
        for (size_t t = 0; t < n; t++) {
            float got = p[1][row * n + t];
            sum += (double)got;
            if (t < visible ? !(got >= 0) : got != 0)
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
    script d = make_script(6, (shape){1, 4, 2, 24, 1}, 420);
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (size_t j = 0; j < 3; j++) {
            kvq_cache *cache = cache_of(families[i], d.s, NULL);
            for (size_t m = 0; m < 3; m++)
                if (strncmp(families[i], "fp", 2) == 0 || !new_token_completes_a_group(cache, &d))
                    check_prompt(families[i], cache, &d, prompts[j][m]);
                else
                    append(cache, &d, 0, prompts[j][m]);
            kvq_cache_free(cache);
        }
    free_script(&d);
}

/* Attention in double over the keys and values as they were given. */
static void exact_attention(const script *d, size_t visible, size_t kv_head, const float *q, double *out)
{
    static double w[700];
    double max = -INFINITY, sum = 0;
    for (size_t t = 0; t < visible; t++) {
        w[t] = 0;
        for (size_t c = 0; c < d->s.head_dim; c++)
            w[t] += (double)q[c] * (double)d->k[t * d->row + kv_head * d->s.head_dim + c];
        w[t] *= (double)d->scale;
        max = fmax(max, w[t]);
    }
    memset(out, 0, d->s.head_dim * sizeof *out);
    for (size_t t = 0; t < visible; t++) {
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
        for (size_t j = 0, begin = 0; j < 4; begin += prompts[j++]) {
            float *out = step(cache, &d, NULL, 1, &prompts[j], &options);
            for (size_t row = 0; row < prompts[j] * 4; row++) {
                size_t visible = begin + row / 4 + 1;
                exact_attention(&d, visible, row % 4 / 2, d.q + (begin * 4 + row) * 16, wanted);
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
