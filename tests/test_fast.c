/*
 * Fast precision: within 1e-3 (relative L2, each head by itself) of double over the same packed values, on
 * data of many kinds, and exact precision as close as float32 gets; both with the same bits on every
 * instruction set and for any number of threads.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/kernels.h"
#include "tests/attend_plainly.h"
#include "tests/support.h"

typedef enum data_kind {
    GAUSSIAN,
    HEAVY,         /* normal cubed */
    KEY_CHANNEL,   /* one channel of the keys times 1000 */
    VALUE_CHANNEL, /* one of the values */
    KEY_OFFSETS,   /* what keys look like: large offsets per channel */
    HEAVY_TOKENS,  /* a few tokens times 100 */
    SHARP,         /* scores with a standard deviation of 5 */
    SATURATING,    /* of 100: one token has all the weight */
    EQUAL,         /* all values the same */
    EQUAL_KEYS,    /* all keys: uniform weights */
    N_DATA,
} data_kind;

static const char *const data_names[N_DATA] = {"Gaussian",
                                               "heavy tails",
                                               "a key channel x 1000",
                                               "a value channel x 1000",
                                               "key offsets",
                                               "heavy tokens",
                                               "sharp",
                                               "saturating",
                                               "all equal",
                                               "equal keys"};

typedef struct inputs {
    float *k, *v, *q; /* [n][Hkv][D] and [H][D] */
} inputs;

static inputs make_inputs(rng *r, data_kind kind, shape s, size_t n)
{
    size_t row = s.n_kv_heads * s.head_dim, q_row = s.n_heads * s.head_dim;
    inputs x = {malloc(n * row * sizeof(float)), malloc(n * row * sizeof(float)),
                malloc(q_row * sizeof(float))};
    fill(r, kind == HEAVY ? FILL_HEAVY : kind == KEY_OFFSETS ? FILL_OFFSETS : FILL_NORMAL, x.k, n, row);
    fill(r, kind == HEAVY ? FILL_HEAVY : FILL_NORMAL, x.v, n, row);
    fill(r, FILL_NORMAL, x.q, 1, q_row);
    size_t channel = rng_below(r, row);
    for (size_t t = 0; t < n; t++) {
        float token = kind == HEAVY_TOKENS && rng_below(r, 50) == 0 ? 100.0f : 1.0f;
        x.k[t * row + channel] *= kind == KEY_CHANNEL ? 1000.0f : 1.0f;
        x.v[t * row + channel] *= kind == VALUE_CHANNEL ? 1000.0f : 1.0f;
        for (size_t c = 0; c < row; c++) {
            x.v[t * row + c] = kind == EQUAL ? 0.7f : x.v[t * row + c] * token;
            x.k[t * row + c] = kind == EQUAL || kind == EQUAL_KEYS ? 0.3f : x.k[t * row + c];
        }
    }
    for (size_t c = 0; c < q_row; c++)
        x.q[c] *= kind == SHARP ? 5.0f : kind == SATURATING ? 100.0f : 1.0f;
    return x;
}

static void free_inputs(inputs *x)
{
    free(x->k), free(x->v), free(x->q);
}

static kvq_cache *cache_for(const char *scheme, const char *isa, shape s)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = s.n_layers;
    config.n_heads = s.n_heads;
    config.n_kv_heads = s.n_kv_heads;
    config.head_dim = s.head_dim;
    config.scheme_text = scheme;
    config.isa = isa;
    kvq_cache *cache;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK);
    return cache;
}

/* One query; what was done for it is counted. */
static void attend_counting_in(kvq_precision precision, const kvq_cache *cache, shape s, const float *q,
                               kvq_attend_counters *counters, float *out)
{
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.precision = precision;
    options.counters = counters;
    options.n_threads = 1;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 1.0f / sqrtf((float)s.head_dim), &options, out),
                 KVQ_OK);
}

static void attend_counting(const kvq_cache *cache, shape s, const float *q, kvq_attend_counters *counters,
                            float *out)
{
    attend_counting_in(KVQ_PRECISION_FAST, cache, s, q, counters, out);
}

static void attend(const kvq_cache *cache, shape s, const float *q, kvq_precision precision, int n_threads,
                   float *out)
{
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.precision = precision;
    options.n_threads = n_threads;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 1.0f / sqrtf((float)s.head_dim), &options, out),
                 KVQ_OK);
}

/* The same in double, over what the n tokens of the cache read as. */
static void attend_in_double(const kvq_cache *cache, shape s, size_t n, const float *q, float *out)
{
    const size_t row = s.n_kv_heads * s.head_dim;
    float *k = malloc(n * row * sizeof *k), *v = malloc(n * row * sizeof *v);
    cr_assert(k != NULL && v != NULL);
    cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, n, k, v), KVQ_OK);
    for (size_t h = 0; h < s.n_heads; h++) {
        const size_t at = h / (s.n_heads / s.n_kv_heads) * s.head_dim;
        attend_plainly(q + h * s.head_dim, k + at, v + at, n, row, s.head_dim,
                       (double)(1.0f / sqrtf((float)s.head_dim)), out + h * s.head_dim);
    }
    free(k), free(v);
}

/* ---- Error ---- */

static const char *const schemes[] = {"kivi2,r=0,mode=sliding",
                                      "kivi4,r=0,mode=sliding",
                                      "kivi8,r=0,mode=sliding",
                                      "kivi3-g64,r=0,mode=sliding",
                                      "kivi1,r=0,mode=sliding",
                                      "kivi2-g128,r=128",
                                      "k=6@channel/32,v=5@token/full,r=32",
                                      "kvq2,r=0,s=0",
                                      "kvq1.5,r=0,s=0",
                                      "kvq3,r=0,s=0"};

/* What exact precision may be off by, twice what was measured. One large channel takes scores to thousands,
 * or makes the others small beside it; saturating, scores are hundreds; rotated, equal numbers are one large
 * one, which cancels. */
static const float exact_limits[N_DATA] = {
    [GAUSSIAN] = 1.3e-5f,    [HEAVY] = 1.3e-5f,        [KEY_CHANNEL] = 1.5e-4f, [VALUE_CHANNEL] = 8e-5f,
    [KEY_OFFSETS] = 1.3e-5f, [HEAVY_TOKENS] = 1.3e-5f, [SHARP] = 1.3e-5f,       [SATURATING] = 8e-5f,
    [EQUAL] = 5e-5f,         [EQUAL_KEYS] = 1.3e-5f};

typedef struct fast_case {
    data_kind kind;
    shape s;
} fast_case;

ParameterizedTestParameters(fast, is_close_to_double)
{
    static const shape shapes[] = {{1, 2, 2, 64, 1},  {1, 8, 2, 80, 1}, {1, 2, 1, 96, 1},  {1, 4, 1, 128, 1},
                                   {1, 1, 1, 256, 1}, {1, 6, 2, 17, 1}, {1, 2, 1, 1024, 1}};
    enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };
    static fast_case cases[N_DATA * N_SHAPES];
    for (size_t i = 0; i < N_DATA * N_SHAPES; i++)
        cases[i] = (fast_case){(data_kind)(i / N_SHAPES), shapes[i % N_SHAPES]};
    return cr_make_param_array(fast_case, cases, N_DATA * N_SHAPES);
}

ParameterizedTest(fast_case *test, fast, is_close_to_double)
{
    static const size_t lengths[] = {32, 128, 500, 2100};
    shape s = test->s;
    rng r = rng_make(test->kind * 1000 + s.head_dim);
    double worst = 0, worst_exact = 0;
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++)
        for (size_t j = 0; j < (s.head_dim > 256 ? 2 : sizeof lengths / sizeof lengths[0]); j++) {
            inputs x = make_inputs(&r, test->kind, s, lengths[j]);
            kvq_cache *cache = cache_for(schemes[i], NULL, s);
            float *fast = malloc(s.n_heads * s.head_dim * sizeof *fast),
                  *exact = malloc(s.n_heads * s.head_dim * sizeof *exact),
                  *wanted = malloc(s.n_heads * s.head_dim * sizeof *wanted);
            cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k, x.v, lengths[j]), KVQ_OK);
            attend(cache, s, x.q, KVQ_PRECISION_FAST, 1, fast);
            attend(cache, s, x.q, KVQ_PRECISION_EXACT, 1, exact);
            attend_in_double(cache, s, lengths[j], x.q, wanted);
            for (size_t h = 0; h < s.n_heads; h++) {
                double error = rel_l2(fast + h * s.head_dim, wanted + h * s.head_dim, s.head_dim);
                worst = fmax(worst, error);
                worst_exact =
                    fmax(worst_exact, rel_l2(exact + h * s.head_dim, wanted + h * s.head_dim, s.head_dim));
                cr_assert(error <= 1e-3, "%s, %s, D = %zu, %zu tokens, head %zu: off by %g", schemes[i],
                          data_names[test->kind], s.head_dim, lengths[j], h, error);
                cr_assert(worst_exact <= (double)exact_limits[test->kind],
                          "%s, %s, D = %zu, %zu tokens, head %zu: exact is off by %g", schemes[i],
                          data_names[test->kind], s.head_dim, lengths[j], h, worst_exact);
            }
            free(fast), free(exact), free(wanted), free_inputs(&x);
            kvq_cache_free(cache);
        }
    printf("off by, %-22s D = %3zu: fast %.1e, exact %.1e\n", data_names[test->kind], s.head_dim, worst,
           worst_exact);
}

/* ---- Identities to the bit ---- */

static kvq_attend_counters expect_same_bits_everywhere(shape s, size_t n_tokens, data_kind kind,
                                                       kvq_precision precision)
{
    enum { MAX_OUT = 8 * 1024 };
    static float out[MAX_OUT], portable[MAX_OUT];
    size_t n_bytes = s.n_heads * s.head_dim * sizeof *out;
    rng r = rng_make(77 + s.head_dim);
    kvq_attend_counters all;
    kvq_attend_counters_init(&all);
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        inputs x = make_inputs(&r, kind, s, n_tokens);
        for (size_t isa = 0; kvq_isa_name(isa) != NULL; isa++) {
            kvq_cache *cache = cache_for(schemes[i], kvq_isa_name(isa), s);
            cr_assert(strcmp(kvq_cache_isa(cache), kvq_isa_name(isa)) == 0);
            cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k, x.v, n_tokens), KVQ_OK);
            kvq_attend_counters counters;
            kvq_attend_counters_init(&counters);
            attend_counting_in(precision, cache, s, x.q, &counters, out);
            cr_assert_eq(counters.heads, s.n_heads);
            cr_assert(kind == KEY_CHANNEL || kind == SATURATING || counters.superblocks_exact == 0, "%s",
                      data_names[kind]);
            cr_assert(precision == KVQ_PRECISION_FAST ||
                      counters.superblocks_wide + counters.superblocks_exact == counters.superblocks);
            if (isa == 0)
                memcpy(portable, out, n_bytes);
            cr_assert(same_bits(schemes[i], out, portable, n_bytes), "%s, D = %zu, %s", data_names[kind],
                      s.head_dim, kvq_isa_name(isa));
            all.superblocks += counters.superblocks;
            all.superblocks_wide += counters.superblocks_wide;
            all.heads_again += counters.heads_again;
            kvq_cache_free(cache);
        }
        free_inputs(&x);
    }
    return all;
}

/* What kvq.h promises, on data of all kinds: also where queries are wide and rows are computed again. */
Test(fast, every_instruction_set_gives_the_same_bits)
{
    kvq_attend_counters c =
        expect_same_bits_everywhere((shape){1, 8, 1, 1024, 1}, 200, GAUSSIAN, KVQ_PRECISION_FAST);
    cr_assert(c.superblocks > 0 && c.superblocks_wide * 4 < c.superblocks, "nearly nothing on easy data");
    uint64_t n_wide = 0, n_again = 0;
    for (data_kind kind = 0; kind < N_DATA; kind++) {
        c = expect_same_bits_everywhere((shape){1, 6, 2, 80, 1}, 700, kind, KVQ_PRECISION_FAST);
        n_wide += c.superblocks_wide;
        n_again += c.heads_again;
        (void)expect_same_bits_everywhere((shape){1, 6, 2, 80, 1}, 700, kind, KVQ_PRECISION_EXACT);
    }
    cr_assert(n_wide > 0 && n_again > 0, "%d wide, %d again: this tests nothing else", (int)n_wide,
              (int)n_again);
}

/* Every superblock of packed keys is counted once per query head, and again for heads that are computed
 * again. */
Test(fast, counters_count)
{
    shape s = {1, 6, 2, 64, 1};
    rng r = rng_make(82);
    inputs x = make_inputs(&r, GAUSSIAN, s, 640);
    kvq_cache *cache = cache_for("kivi2,r=0,mode=sliding", NULL, s), *plain = cache_for("fp32", NULL, s);
    float out[6 * 64];
    kvq_attend_counters counters;
    kvq_attend_counters_init(&counters);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k, x.v, 640), KVQ_OK);
    cr_assert_eq(kvq_cache_append(plain, 0, 0, x.k, x.v, 640), KVQ_OK);
    attend_counting(cache, s, x.q, &counters, out);
    cr_assert(counters.heads == 6 && counters.superblocks == 5 * (6 + counters.heads_again));
    uint64_t superblocks = counters.superblocks;
    attend_counting(plain, s, x.q, &counters, out);
    cr_assert_eq(counters.heads, 12);
    cr_assert_eq(counters.superblocks, superblocks + 30);
    cr_assert_eq(counters.superblocks_exact, 30, "what does not fold is in float32");
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.counters = &counters;
    options.precision = KVQ_PRECISION_EXACT;
    const uint64_t wide = counters.superblocks_wide;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, x.q, 1, 0.1f, &options, out), KVQ_OK);
    cr_assert(counters.heads == 18 && counters.superblocks_exact == 30);
    cr_assert(counters.superblocks_wide == wide + 30, "and what is asked for as exact has 31 bits");
    options.precision = KVQ_PRECISION_FAST;
    for (options.n_threads = 1; options.n_threads <= 4; options.n_threads += 3) {
        kvq_attend_counters_init(&counters);
        cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, x.q, 1, 0.1f, &options, out), KVQ_OK);
        cr_assert(counters.heads == 6 && counters.superblocks == 5 * (6 + counters.heads_again));
    }
    counters.struct_size = 3;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, x.q, 1, 0.1f, &options, out), KVQ_ERR_ARG);
    free_inputs(&x);
    kvq_cache_free(cache), kvq_cache_free(plain);
}

/* Without packed values to estimate errors by, or keys that make none, there is one precision. */
Test(fast, one_side_that_folds_has_one_precision)
{
    static const char *const some[] = {"k=2@channel/32,v=q8_0", "k=tier:2,v=2@channel/32",
                                       "k=2@token/32,v=rot:2", "k=q4_0,v=2@token/32"};
    shape s = {1, 6, 2, 64, 1};
    rng r = rng_make(86);
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        inputs x = make_inputs(&r, GAUSSIAN, s, 640);
        kvq_cache *cache = cache_for(some[i], NULL, s);
        float fast[6 * 64], exact[6 * 64];
        kvq_attend_counters counters;
        kvq_attend_counters_init(&counters);
        cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k, x.v, 640), KVQ_OK);
        attend_counting(cache, s, x.q, &counters, fast);
        cr_assert(counters.superblocks > 0 && counters.superblocks_exact == counters.superblocks &&
                      counters.superblocks_wide == 0,
                  "%s", some[i]);
        attend(cache, s, x.q, KVQ_PRECISION_EXACT, 1, exact);
        cr_assert(same_bits(some[i], fast, exact, sizeof fast));
        free_inputs(&x);
        kvq_cache_free(cache);
    }
}

/* At 257 tokens of kivi2 the second page has 128 packed keys and no packed value: 31 bits, because nothing
 * tells what 16 amount to. Three queries are three times as many heads; several segments on several threads
 * count as on one. */
Test(fast, counters_count_what_is_wide_and_many_queries_and_threads)
{
    shape s = {1, 2, 1, 64, 1};
    rng r = rng_make(84);
    inputs x = make_inputs(&r, GAUSSIAN, s, 9001);
    kvq_cache *cache = cache_for("kivi2", NULL, s);
    float out[3 * 2 * 64], q[3 * 2 * 64];
    fill(&r, FILL_NORMAL, q, 3, 2 * 64);
    kvq_attend_options options;
    kvq_attend_counters counters, more;
    kvq_attend_options_init(&options);
    kvq_attend_counters_init(&counters);
    options.counters = &counters;
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k, x.v, 257), KVQ_OK);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 0.125f, &options, out), KVQ_OK);
    cr_assert(counters.heads == 2 && counters.superblocks == 4 && counters.superblocks_wide == 2 &&
              counters.superblocks_exact == 0);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k + 257 * 64, x.v + 257 * 64, 9001 - 257), KVQ_OK);
    options.n_threads = 1;
    kvq_attend_counters_init(&counters);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, 3, 0.125f, &options, out), KVQ_OK);
    cr_assert(counters.heads == 6 && counters.superblocks >= 6 * 69);
    options.n_threads = 4;
    options.counters = &more;
    kvq_attend_counters_init(&more);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, 3, 0.125f, &options, out), KVQ_OK);
    cr_assert(same_bits("counters", &more, &counters, sizeof more));
    free_inputs(&x);
    kvq_cache_free(cache);
}

/* Values so small that a group's scale is one of the smallest halves: codes then stand at one end of the
 * grid, and errors of all channels are the same draw. 4,000 draws of up to a third of 1e-3 came to 7e-4;
 * where the estimate knows better, rows are computed again and stay below a third. */
Test(fast, groups_of_subnormal_halves_keep_their_distance)
{
    enum { N = 128, D = 32 };
    static const char *const some[] = {"kivi3,r=0,mode=sliding", "kivi4,r=0,mode=sliding",
                                       "kivi6,r=0,mode=sliding", "kivi8,r=0,mode=sliding"};
    shape s = {1, 1, 1, D, 1};
    rng r = rng_make(83);
    for (size_t i = 0; i < 4; i++) {
        inputs x = make_inputs(&r, GAUSSIAN, s, N);
        for (size_t j = 0; j < N * D; j++)
            x.v[j] = 3e-7f * (1 + 0.05f * rng_normal(&r));
        kvq_cache *cache = cache_for(some[i], NULL, s);
        cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k, x.v, N), KVQ_OK);
        for (size_t trial = 0; trial < 4000; trial++) {
            float fast[D], exact[D], sharpness = 0.8f * (float)(trial % 5 + 1);
            for (size_t c = 0; c < D; c++)
                x.q[c] = sharpness * rng_normal(&r);
            attend(cache, s, x.q, KVQ_PRECISION_FAST, 1, fast);
            attend(cache, s, x.q, KVQ_PRECISION_EXACT, 1, exact);
            double error = rel_l2(fast, exact, D);
            cr_assert(error <= 3.4e-4, "%s: off by %g", some[i], error);
        }
        free_inputs(&x);
        kvq_cache_free(cache);
    }
}

Test(fast, an_instruction_set_that_is_unknown_is_an_error)
{
    kvq_cache *cache = NULL;
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = config.n_heads = config.n_kv_heads = config.head_dim = 1;
    config.isa = "sse9";
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_ISA);
}

/* One KV head over several segments: threads share the tokens of one head. */
Test(fast, one_head_on_many_threads_gives_the_same_bits)
{
    static const size_t lengths[] = {1000, 1024, 1025, 4100, 9001};
    static const char *const some[] = {"kivi2", "kivi4,s=7", "fp32", "kivi2,r=0,mode=sliding"};
    shape s = {1, 2, 1, 64, 1};
    rng r = rng_make(78);
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < sizeof lengths / sizeof lengths[0]; j++)
            for (kvq_precision precision = KVQ_PRECISION_FAST; precision <= KVQ_PRECISION_EXACT;
                 precision++) {
                inputs x = make_inputs(&r, SHARP, s, lengths[j]);
                kvq_cache *cache = cache_for(some[i], NULL, s);
                float one[2 * 64], many[2 * 64];
                cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k, x.v, lengths[j]), KVQ_OK);
                attend(cache, s, x.q, precision, 1, one);
                for (int n_threads = 2; n_threads <= 7; n_threads++) {
                    attend(cache, s, x.q, precision, n_threads, many);
                    cr_assert(same_bits(some[i], many, one, sizeof one), "%zu tokens, %d threads", lengths[j],
                              n_threads);
                }
                free_inputs(&x);
                kvq_cache_free(cache);
            }
}

/* A bound is for the output that comes with it, which has 31 bits then. */
Test(fast, asking_for_a_bound_makes_the_call_exact)
{
    shape s = {1, 2, 2, 64, 1};
    rng r = rng_make(79);
    inputs x = make_inputs(&r, GAUSSIAN, s, 500);
    kvq_cache *cache = cache_for("kivi2", NULL, s);
    float exact[2 * 64], with_bound[2 * 64], bound[2];
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k, x.v, 500), KVQ_OK);
    attend(cache, s, x.q, KVQ_PRECISION_EXACT, 1, exact);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.bound = bound;
    cr_assert_eq(options.precision, KVQ_PRECISION_FAST);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, x.q, 1, 1.0f / 8, &options, with_bound), KVQ_OK);
    cr_assert(same_bits("bound", with_bound, exact, sizeof exact));
    free_inputs(&x);
    kvq_cache_free(cache);
}

/*
 * Tokens come in pairs with the same key and opposite values, so that a query that weighs them evenly has an
 * output of nearly 0, against which any error is large: it must be computed again. Another query, which
 * shares the tile, sees little but the last token, which has no partner, and must not.
 */
Test(fast, rows_that_cancel_are_computed_again)
{
    enum { N = 4160, D = 64 };
    shape s = {1, 2, 1, D, 1};
    rng r = rng_make(80);
    inputs x = make_inputs(&r, GAUSSIAN, s, N);
    for (size_t t = 0; t + 2 < N; t += 2)
        for (size_t c = 0; c < D; c++) {
            x.k[(t + 1) * D + c] = x.k[t * D + c];
            x.v[(t + 1) * D + c] = -x.v[t * D + c];
        }
    for (size_t c = 0; c < D; c++) {
        x.v[(N - 2) * D + c] = 0;
        x.q[D + c] = 3 * x.k[(N - 1) * D + c]; /* head 1 */
    }
    kvq_cache *cache = cache_for("kivi2,r=0,mode=sliding", NULL, s);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k, x.v, N), KVQ_OK);
    static float p_exact[2 * N], p_fast[2 * N];
    float exact[2 * D], fast[2 * D], wanted[2 * D];
    attend_in_double(cache, s, N, x.q, wanted);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.precision = KVQ_PRECISION_EXACT;
    options.probabilities = p_exact;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, x.q, 1, 0.125f, &options, exact), KVQ_OK);
    options.precision = KVQ_PRECISION_FAST;
    options.probabilities = p_fast;
    kvq_attend_counters counters;
    options.counters = &counters;
    for (options.n_threads = 1; options.n_threads <= 4; options.n_threads++) {
        kvq_attend_counters_init(&counters);
        cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, x.q, 1, 0.125f, &options, fast), KVQ_OK);
        cr_assert(counters.heads_again == 1 && counters.superblocks_exact == 0, "head 0 alone, %d threads",
                  options.n_threads);
        double error = rel_l2(fast, wanted, D);
        cr_assert(error <= 1e-3 && same_bits("probabilities", p_fast, p_exact, N * sizeof *p_fast) &&
                      same_bits("head 0", fast, exact, D * sizeof *fast),
                  "%g", error);
        cr_assert(memcmp(fast + D, exact + D, D * sizeof *fast) != 0, "head 1 is fast");
        cr_assert(rel_l2(fast + D, wanted + D, D) <= 1e-3 && rel_l2(p_fast + N, p_exact + N, N) <= 1e-3);
    }
    free_inputs(&x);
    kvq_cache_free(cache);
}

/* ---- Estimates of error, seen through what is computed again ---- */

/*
 * Keys whose scores are all 0 for a query that is as wide as one of 16 bits may be: channels 0 and 1 cancel.
 * Channel 2 takes tokens outside [begin, end) out of the sum. Values of the others come in pairs of w and -w,
 * plus b.
 */
enum { EST_D = 64, EST_N = 258 };

static void cancelling_inputs(inputs *x, size_t begin, size_t end, float b)
{
    for (size_t t = 0; t < EST_N; t++)
        for (size_t c = 0; c < EST_D; c++) {
            float u = (float)(t * 7 % 4), w = (t + c) / 2 % 2 ? 1.0f : 0.5f;
            bool counts = t >= begin && t < end;
            x->k[t * EST_D + c] = c == 0 ? u : c == 1 ? -u : c == 2 && !counts ? -60.0f : 0.0f;
            x->v[t * EST_D + c] = (t % 2 ? w : -w) * (c % 2 ? 1.0f : -1.0f) + b;
        }
}

/* Is the head computed again with such an offset b? If `late`, the tokens that count are those of the first
 * page, and a group of the second, whose values are 0, has scores 20 powers of 2 above theirs. */
static bool is_again(const char *scheme, float width, bool late, float b)
{
    static float k[EST_N * EST_D], v[EST_N * EST_D], q[EST_D], out[EST_D];
    inputs x = {.k = k, .v = v, .q = q};
    shape s = {1, 1, 1, EST_D, 1};
    kvq_attend_counters counters;
    memset(q, 0, sizeof q);
    q[0] = q[1] = width, q[2] = 4;
    cancelling_inputs(&x, late ? 0 : 128, late ? 128 : 256, b);
    for (size_t t = 192; late && t < 224; t++) { /* a whole group, so that its scale is small */
        k[t * EST_D + 2] = 28;
        memset(v + t * EST_D, 0, EST_D * sizeof *v);
    }
    kvq_cache *cache = cache_for(scheme, NULL, s);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, EST_N), KVQ_OK);
    kvq_attend_counters_init(&counters);
    attend_counting(cache, s, q, &counters, out);
    kvq_cache_free(cache);
    if (strstr(scheme, "sliding") != NULL) /* otherwise no values are packed yet of the first chunk's size */
        cr_assert_eq(counters.superblocks_wide, counters.heads_again * 2,
                     "the query is too wide for this test");
    return counters.heads_again > 0;
}

/* The offset below which the head is computed again: what its estimated error is, in units of the output. */
static float turning_point(const char *scheme, float width, bool late)
{
    float b = 4;
    cr_assert(!is_again(scheme, width, late, b), "%s", scheme);
    for (; b > 1e-6f; b /= 1.1f)
        if (is_again(scheme, width, late, b))
            return b;
    return 0;
}

/* With keys of 0 scores are exact, so what is estimated is what rounding p * scale does: root of n / 12 *
 * step^2 * levels^2 / 4, held against the output n * b (p is 1) at 0x1.5p-12. */
Test(fast, estimates_count_what_folding_of_values_does)
{
    const double n = 128, levels = 3,
                 step = 1.0 / levels / KVQ_FOLDED_MAX * 2; /* scale of values from -1 to 1 */
    double wanted = sqrt(n / 12) * step * levels / 2 / (n * 0x1.5p-12);
    double got = (double)turning_point("kivi2,r=0,mode=sliding", 0, false);
    cr_assert(got > wanted / 1.3 && got < wanted * 1.3, "turns at %g, not %g", got, wanted);
}

/* What a later maximum takes from the sums it takes from their error as well. */
Test(fast, estimates_shrink_with_the_sums)
{
    double early = (double)turning_point("kivi2,r=0,mode=sliding", 0, false);
    double late = (double)turning_point("kivi2,r=0,mode=sliding", 0, true);
    cr_assert(late > early / 1.3 && late < early * 1.3, "turns at %g, not %g", late, early);
}

/* In kivi mode, at 258 tokens, the second page has 128 keys and one value packed: that one value stands for
 * all that the error of scores moves. With all of them packed the same error must come out. */
Test(fast, estimates_do_not_depend_on_how_many_values_are_packed)
{
    double all = (double)turning_point("kivi2,r=0,mode=sliding", 2.5f, false);
    double one = (double)turning_point("kivi2", 2.5f, false);
    double of_values = (double)turning_point("kivi2,r=0,mode=sliding", 0, false);
    cr_assert(all > 1.5 * of_values, "scores are what is off: %g, %g", all, of_values);
    cr_assert(one > all / 1.6 && one < all * 1.6, "one packed value: %g, all: %g", one, all);
}

/* Scores with 31 bits, or in float32 because the query does not fold, in either precision; sums of values
 * fold all the same. */
static void expect_31_bits(const kvq_cache *cache, shape s, const float *q, bool in_float32, float *fast,
                           float *exact)
{
    for (kvq_precision precision = KVQ_PRECISION_FAST; precision <= KVQ_PRECISION_EXACT; precision++) {
        kvq_attend_counters c;
        kvq_attend_counters_init(&c);
        attend_counting_in(precision, cache, s, q, &c, precision == KVQ_PRECISION_FAST ? fast : exact);
        cr_assert(c.superblocks > 0 &&
                      (in_float32 ? c.superblocks_exact : c.superblocks_wide) == c.superblocks &&
                      (in_float32 ? c.superblocks_wide : c.superblocks_exact) == 0,
                  "%d", (int)precision);
    }
}

/* A channel that masks: keys are 0 in it, or 1 (or -1) for tokens out of sight, and the query is large and
 * negative (or positive). All the others have what is left of its 31 bits. That is enough up to
 * KVQ_SCORE_ERROR_WIDE, where float32 takes over: the output may be off by twice what was measured. With -1
 * the minimum is not 0: products and the bias that cancels them round, by at most R 6 * 2^-24 (fold.h), 8e-5
 * here, of which 9e-6 was measured. (Beyond, what rounding to halves makes of 0 decides the scores.) */
Test(fast, a_channel_that_masks_leaves_the_others_their_digits)
{
    enum { N = 256, D = 32 };
    static const float sizes[] = {0.5f, 0.98f, 1.02f, 1e6f}; /* of products, to the largest that folds */
    const float per_step = 3 * sqrtf(D / 12.0f * 0.125f),
                largest_step = KVQ_SCORE_ERROR_WIDE * KVQ_REST_SCALE / 2 / per_step,
                largest_q = largest_step * KVQ_FOLDED_MAX / (0x1.558p-2f * 1.442695f / sqrtf(D));
    shape s = {1, 1, 1, D, 1};
    rng r = rng_make(85);
    for (size_t j = 0; j < 2 * sizeof sizes / sizeof sizes[0] - 1; j++) { /* 1e6 only with 1 */
        const size_t i = j / 2;
        const float hidden = j % 2 == 0 ? 1.0f : -1.0f;
        const double most = hidden > 0 || sizes[i] > 1 ? 1.3e-6 : 2e-5;
        inputs x = make_inputs(&r, GAUSSIAN, s, N);
        for (size_t t = 0; t < N; t++)
            x.k[t * D] = t % 3 == 0 ? hidden : 0.0f; /* so scales are a third, rounded up to a half */
        x.q[0] = -largest_q * sizes[i] * hidden;
        kvq_cache *cache = cache_for("kivi2,r=0,mode=sliding", NULL, s);
        cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k, x.v, N), KVQ_OK);
        float fast[D], exact[D], wanted[D];
        attend_in_double(cache, s, N, x.q, wanted);
        expect_31_bits(cache, s, x.q, sizes[i] > 1, fast, exact);
        cr_assert(rel_l2(fast, wanted, D) <= 1e-3 && rel_l2(exact, wanted, D) <= most, "%g, %g: %g, %g",
                  (double)sizes[i], (double)hidden, rel_l2(fast, wanted, D), rel_l2(exact, wanted, D));
        free_inputs(&x);
        kvq_cache_free(cache);
    }
}

/* A query whose product with a scale of 0 would be Inf times 0 on the way. */
Test(fast, queries_that_overflow_on_the_way_are_right)
{
    enum { N = 64, D = 16 };
    shape s = {1, 1, 1, D, 1};
    rng r = rng_make(81);
    inputs x = make_inputs(&r, GAUSSIAN, s, N);
    for (size_t t = 0; t < N; t++)
        x.k[t * D] = 0;
    x.q[0] = 1e35f;
    kvq_cache *cache = cache_for("kivi2,r=0,mode=sliding", NULL, s);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x.k, x.v, N), KVQ_OK);
    float fast[D], exact[D], wanted[D];
    attend_in_double(cache, s, N, x.q, wanted);
    expect_31_bits(cache, s, x.q, true, fast, exact);
    cr_assert(rel_l2(fast, wanted, D) <= 1e-3 && rel_l2(exact, wanted, D) <= 1e-5);
    x.q[0] = 3e38f; /* times log2(e) it is Inf: NaN, as documented */
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, x.q, 1, 1, &options, fast), KVQ_OK);
    cr_assert(isnan(fast[0]));
    free_inputs(&x);
    kvq_cache_free(cache);
}
