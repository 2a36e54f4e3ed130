/*
 * Half and bfloat16 in and out of kvq_cache_attend and kvq_cache_step: the bits of the same numbers in
 * float32, and of what float32 comes to, rounded.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/bf16.h"
#include "tests/script.h"

static const kvq_dtype short_dtypes[] = {KVQ_F16, KVQ_BF16};
static const char *const dtype_names[] = {[KVQ_F32] = "f32", [KVQ_F16] = "f16", [KVQ_BF16] = "bf16"};

static float widened(kvq_dtype dtype, uint16_t x)
{
    return dtype == KVQ_F16 ? kvq_f32_from_f16(x) : kvq_f32_from_bf16(x);
}

static uint16_t shortened(kvq_dtype dtype, float x)
{
    return dtype == KVQ_F16 ? kvq_f16_from_f32_saturating(x) : kvq_bf16_from_f32_saturating(x);
}

/* Numbers in 16 bits; x becomes the same in float. */
static uint16_t *shorten(kvq_dtype dtype, float *x, size_t n)
{
    uint16_t *out = malloc((n + 1) * sizeof *out);
    for (size_t i = 0; i < n; i++) {
        out[i] = shortened(dtype, x[i]);
        x[i] = widened(dtype, out[i]);
    }
    return out;
}

static bool is_shortened(const char *what, kvq_dtype dtype, const uint16_t *got, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (got[i] != shortened(dtype, x[i])) {
            fprintf(stderr, "%s, %s: [%zu] is %04x, of %a\n", what, dtype_names[dtype], i, got[i],
                    (double)x[i]);
            return false;
        }
    return true;
}

static kvq_attend_options options_with(kvq_dtype q, kvq_dtype kv, kvq_dtype out)
{
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.q_dtype = q;
    options.kv_dtype = kv;
    options.out_dtype = out;
    return options;
}

/* ---- The same as float32 ---- */

/* One ragged call on both caches: one in float32, one with arrays of 16 bits as `which` says. */
static void step_both(const char *scheme, kvq_cache *plain, kvq_cache *brief, const script *d,
                      const size_t *n_new, kvq_dtype dtype, unsigned which)
{
    call c = make_call(plain, d, NULL, 2, n_new);
    size_t n_q = c.n_all * d->q_row, n_kv = c.n_all * d->row;
    uint16_t *q = shorten(dtype, c.q, n_q), *k = shorten(dtype, c.k, n_kv), *v = shorten(dtype, c.v, n_kv);
    uint16_t *short_out = malloc((n_q + 1) * sizeof *short_out);
    float *out = malloc((n_q + 1) * sizeof *out);
    bool q_is = which & 1, kv_is = which & 2, out_is = which & 4;
    kvq_attend_options options =
        options_with(q_is ? dtype : KVQ_F32, kv_is ? dtype : KVQ_F32, out_is ? dtype : KVQ_F32);
    options.n_threads = 1 + (int)which % 3;
    cr_assert_eq(kvq_cache_step(plain, 0, NULL, 2, n_new, c.q, c.k, c.v, d->scale, NULL, c.out), KVQ_OK);
    cr_assert_eq(kvq_cache_step(brief, 0, NULL, 2, n_new, q_is ? (const void *)q : c.q,
                                kv_is ? (const void *)k : c.k, kv_is ? (const void *)v : c.v, d->scale,
                                &options, out_is ? (void *)short_out : out),
                 KVQ_OK);
    if (out_is)
        cr_assert(is_shortened(scheme, dtype, short_out, c.out, n_q));
    else
        cr_assert(same_bits(scheme, out, c.out, n_q * sizeof *out), "%s, which %u", dtype_names[dtype],
                  which);
    free(q), free(k), free(v), free(out), free(short_out);
    free_call(&c);
}

Test(dtypes, steps_equal_those_in_float32)
{
    static const size_t n_new[][2] = {{150, 1}, {1, 1}, {0, 3}, {130, 270}, {1, 1}, {9, 40}};
    script d = make_script(1, (shape){1, 6, 2, 40, 2}, 330);
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (size_t j = 0; j < 2; j++) {
            kvq_cache *plain = cache_of(families[i], d.s, NULL), *brief = cache_of(families[i], d.s, NULL);
            for (size_t m = 0; m < sizeof n_new / sizeof n_new[0]; m++) {
                step_both(families[i], plain, brief, &d, n_new[m], short_dtypes[j],
                          (unsigned)(m + i + 1) % 8);
                cr_assert(same_caches(families[i], plain, brief), "%s, call %zu",
                          dtype_names[short_dtypes[j]], m);
            }
            kvq_cache_free(plain), kvq_cache_free(brief);
        }
    free_script(&d);
}

/* Rows of a dimension that goes into the tile's conversion once, and a prompt that is longer than a chunk. */
Test(dtypes, wide_rows_and_all_instruction_sets)
{
    static const size_t n_new[][2] = {{200, 3}, {1, 1}};
    script d = make_script(2, (shape){1, 2, 1, 1024, 2}, 203);
    for (size_t isa = 0; kvq_isa_name(isa) != NULL; isa++)
        for (size_t j = 0; j < 2; j++) {
            kvq_cache *caches[2];
            for (size_t m = 0; m < 2; m++) {
                kvq_config config;
                kvq_config_init(&config);
                config.n_layers = 1, config.n_heads = 2, config.n_kv_heads = 1;
                config.head_dim = 1024, config.n_sequences = 2;
                config.scheme_text = "kvq2,s=0";
                config.isa = kvq_isa_name(isa);
                cr_assert_eq(kvq_cache_create(&caches[m], &config), KVQ_OK);
            }
            for (size_t m = 0; m < 2; m++)
                step_both(kvq_isa_name(isa), caches[0], caches[1], &d, n_new[m], short_dtypes[j], 7);
            cr_assert(same_caches(kvq_isa_name(isa), caches[0], caches[1]));
            kvq_cache_free(caches[0]), kvq_cache_free(caches[1]);
        }
    free_script(&d);
}

Test(dtypes, attention_equals_that_in_float32)
{
    enum { N = 300, NQ = 20 };
    script d = make_script(3, (shape){1, 4, 2, 24, 1}, N);
    static const size_t windows[] = {0, 37};
    size_t n_q = NQ * d.q_row, n_p = NQ * d.s.n_heads * N;
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (size_t j = 0; j < 4; j++) {
            kvq_dtype dtype = short_dtypes[j % 2];
            kvq_cache *cache = cache_of(families[i], d.s, NULL);
            script_append(cache, &d, 0, N);
            float *q = malloc(n_q * sizeof *q), *out = malloc(n_q * sizeof *out);
            float *p[2] = {malloc(n_p * sizeof(float)), malloc(n_p * sizeof(float))};
            memcpy(q, d.q, n_q * sizeof *q);
            uint16_t *short_q = shorten(dtype, q, n_q), *short_out = malloc(n_q * sizeof *short_out);
            kvq_attend_options plain = options_with(KVQ_F32, KVQ_F32, KVQ_F32),
                               brief = options_with(dtype, KVQ_F32, dtype);
            plain.window = brief.window = windows[j / 2];
            plain.probabilities = p[0], brief.probabilities = p[1];
            brief.n_threads = 2;
            cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, NQ, d.scale, &plain, out), KVQ_OK);
            cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, short_q, NQ, d.scale, &brief, short_out),
                         KVQ_OK);
            cr_assert(is_shortened(families[i], dtype, short_out, out, n_q));
            cr_assert(same_bits(families[i], p[1], p[0], n_p * sizeof(float)));
            free(q), free(out), free(short_q), free(short_out), free(p[0]), free(p[1]);
            kvq_cache_free(cache);
        }
    free_script(&d);
}

/* ---- What does not fit ---- */

/* Attention over two tokens whose values are these, of equal weight, in all dtypes. */
static void attend_to(float v0, float v1, float q, float *out, uint16_t *half, uint16_t *brain)
{
    const float k[2] = {1, 1}, v[2] = {v0, v1};
    kvq_cache *cache = cache_of("fp32", (shape){1, 1, 1, 1, 1}, NULL);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, 2), KVQ_OK);
    kvq_attend_options to_half = options_with(KVQ_F32, KVQ_F32, KVQ_F16),
                       to_brain = options_with(KVQ_F32, KVQ_F32, KVQ_BF16);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, &q, 1, 8, NULL, out), KVQ_OK);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, &q, 1, 8, &to_half, half), KVQ_OK);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, &q, 1, 8, &to_brain, brain), KVQ_OK);
    kvq_cache_free(cache);
}

Test(dtypes, finite_answers_stay_finite_and_others_what_they_are)
{
    float out;
    uint16_t half, brain;
    attend_to(1e5f, 1e5f, 1, &out, &half, &brain);
    cr_assert(out == 1e5f && half == 0x7bff && brain == 0x47c3, "%g %04x %04x", (double)out, half, brain);
    attend_to(-70000, -70000, 1, &out, &half, &brain);
    cr_assert(half == 0xfbff, "%04x", half);
    attend_to(1, 1, 1e38f, &out, &half, &brain); /* 8 q leaves float */
    cr_assert(isnan(out) && (half & 0x7fff) > 0x7c00 && (brain & 0x7fff) > 0x7f80, "%g %04x %04x",
              (double)out, half, brain);
    attend_to(3e38f, 3e38f, 1, &out, &half, &brain);
    cr_assert(isinf(out) && half == 0x7c00 && brain == 0x7f80, "%g %04x %04x", (double)out, half, brain);
    attend_to(-3e38f, -3e38f, 1, &out, &half, &brain);
    cr_assert(isinf(out) && half == 0xfc00 && brain == 0xff80, "%g %04x %04x", (double)out, half, brain);
}

/* The bound is of what was handed out, rounded: fp32's own is far smaller than a rounding. */
Test(dtypes, bounds_hold_for_rounded_answers)
{
    script d = make_script(4, (shape){1, 2, 1, 32, 1}, 50);
    kvq_cache *cache = cache_of("fp32", d.s, NULL);
    script_append(cache, &d, 0, d.n);
    float exact[64], bounds[2], plain[2];
    uint16_t out[64];
    kvq_attend_options options = options_with(KVQ_F32, KVQ_F32, KVQ_F32);
    options.bound = plain;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, d.q, 1, d.scale, &options, exact), KVQ_OK);
    for (size_t j = 0; j < 2; j++) {
        options = options_with(KVQ_F32, KVQ_F32, short_dtypes[j]);
        options.bound = bounds;
        cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, d.q, 1, d.scale, &options, out), KVQ_OK);
        for (size_t head = 0; head < 2; head++) {
            float off = 0;
            for (size_t c = head * 32; c < (head + 1) * 32; c++)
                off = fmaxf(off, fabsf(widened(short_dtypes[j], out[c]) - exact[c]));
            cr_assert(off > 2 * plain[head], "a rounding that counts");
            cr_assert(bounds[head] >= off - plain[head] && bounds[head] <= off + 2 * plain[head], "%g of %g",
                      (double)bounds[head], (double)off);
        }
    }
    kvq_cache_free(cache);
    free_script(&d);
}

Test(dtypes, nonfinite_numbers_are_refused)
{
    enum { N = 3, ROW = 2 * 20 };
    static const uint16_t bad[2][3] = {{0x7c00, 0xfc00, 0x7e01}, {0x7f80, 0xff80, 0x7fc1}};
    for (size_t j = 0; j < 2; j++) {
        kvq_cache *cache = cache_of("kivi2", (shape){1, 2, 2, 20, 1}, NULL);
        uint16_t x[3][N * ROW] = {{0}}, out[N * ROW];
        const size_t n = N;
        kvq_attend_options options = options_with(short_dtypes[j], short_dtypes[j], short_dtypes[j]);
        for (size_t array = 0; array < 3; array++)
            for (size_t at = 0; at < N * ROW; at++) {
                x[array][at] = bad[j][at % 3];
                cr_assert_eq(kvq_cache_step(cache, 0, NULL, 1, &n, x[0], x[1], x[2], 1, &options, out),
                             KVQ_ERR_NONFINITE, "%s: array %zu, [%zu]", dtype_names[short_dtypes[j]], array,
                             at);
                x[array][at] = 0;
            }
        cr_assert_eq(kvq_cache_n_tokens(cache, 0, 0), 0);
        cr_assert_eq(kvq_cache_step(cache, 0, NULL, 1, &n, x[0], x[1], x[2], 1, &options, out), KVQ_OK);
        x[0][7] = bad[j][0];
        x[1][7] = x[2][7] = (uint16_t)(bad[j][0] - 1); /* the largest number */
        cr_assert_eq(kvq_cache_step(cache, 0, NULL, 1, &n, x[1], x[1], x[2], 0, &options, out), KVQ_OK);
        cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, x[0], 1, 1, &options, out), KVQ_ERR_NONFINITE);
        kvq_cache_free(cache);
    }
}

Test(dtypes, others_are_refused)
{
    kvq_cache *cache = cache_of("kivi2", (shape){1, 1, 1, 16, 1}, NULL);
    float x[16] = {1}, out[16];
    static const int bad[] = {KVQ_I8, 4, -1, 100};
    for (size_t i = 0; i < 12; i++) {
        kvq_dtype d[3] = {KVQ_F32, KVQ_F32, KVQ_F32};
        d[i % 3] = (kvq_dtype)bad[i / 3];
        kvq_attend_options options = options_with(d[0], d[1], d[2]);
        cr_assert_eq(kvq_cache_step(cache, 0, NULL, 1, NULL, x, x, x, 1, &options, out), KVQ_ERR_ARG);
    }
    kvq_scheme *scheme = NULL;
    cr_assert_eq(kvq_scheme_create(&scheme, "kivi2,rtype=bf16", NULL), KVQ_ERR_SCHEME,
                 "nothing is stored in bfloat16");
    kvq_cache_free(cache);
}
