/*
 * Parity with KIVI: the reference vectors through the public cache, in both directions, with 0 mismatches.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "quant/half.h"
#include "tests/npy.h"
#include "tests/support.h"

typedef struct vector_set {
    const char *name;
    size_t bits, group, n_heads, n_tokens, dim;
} vector_set;

static const vector_set sets[] = {
    {"b2_g32_B1_H2_T64_D64", 2, 32, 2, 64, 64},
    {"b2_g64_B1_H1_T128_D64", 2, 64, 1, 128, 64},
    {"b4_g32_B1_H2_T64_D64", 4, 32, 2, 64, 64},
    {"b8_g32_B1_H1_T64_D64", 8, 32, 1, 64, 64},
};

static npy_array load(const vector_set *set, const char *part)
{
    char path[512];
    npy_array a;
    snprintf(path, sizeof path, "%s/tests/vectors/kivi/%s_%s.npy", KVQ_SOURCE_DIR, set->name, part);
    cr_assert(npy_load(&a, path), "cannot read %s", path);
    return a;
}

/* A cache that packs every token at once: no residual. */
static kvq_cache *parity_cache(const vector_set *set)
{
    char text[128];
    snprintf(text, sizeof text, "k=%zu@channel/%zu,v=%zu@token/%zu,r=0,mode=sliding,arith=kivi-f16",
             set->bits, set->group, set->bits, set->group);
    return cache_of(text, (shape){1, set->n_heads, set->n_heads, set->dim, 1}, NULL);
}

static size_t n_elements(const vector_set *set)
{
    return set->n_heads * set->n_tokens * set->dim;
}

/* [H][T][D] halves of a file to the [T][H][D] floats that an engine appends. */
static float *input_of(const vector_set *set, const npy_array *x)
{
    float *out = malloc(n_elements(set) * sizeof *out);
    const uint16_t *half = x->data;
    for (size_t h = 0; h < set->n_heads; h++)
        for (size_t t = 0; t < set->n_tokens; t++)
            for (size_t c = 0; c < set->dim; c++)
                out[(t * set->n_heads + h) * set->dim + c] =
                    kvq_f32_from_f16(half[(h * set->n_tokens + t) * set->dim + c]);
    return out;
}

static void expect_array(const vector_set *set, const char *part, const void *got)
{
    npy_array wanted = load(set, part);
    cr_assert(same_bits(part, got, wanted.data, wanted.n_elems * wanted.elem_bytes), "%s %s", set->name,
              part);
    npy_free(&wanted);
}

static kvq_kivi kivi_arrays(size_t n)
{
    return (kvq_kivi){
        .struct_size = sizeof(kvq_kivi),
        .k_code = malloc(n * 4),
        .v_code = malloc(n * 4),
        .k_scale = malloc(n * 2),
        .k_min = malloc(n * 2),
        .v_scale = malloc(n * 2),
        .v_min = malloc(n * 2),
        .k_residual = malloc(n * 4),
        .v_residual = malloc(n * 4),
    };
}

static void free_arrays(kvq_kivi *kivi)
{
    free(kivi->k_code), free(kivi->v_code), free(kivi->k_scale), free(kivi->k_min);
    free(kivi->v_scale), free(kivi->v_min), free(kivi->k_residual), free(kivi->v_residual);
}

static void expect_dequantized(const vector_set *set, const kvq_cache *cache)
{
    size_t n = n_elements(set);
    float *k = malloc(n * sizeof *k), *v = malloc(n * sizeof *v);
    cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, set->n_tokens, k, v), KVQ_OK);
    npy_array k_file = load(set, "k_dequant"), v_file = load(set, "v_dequant");
    float *k_wanted = input_of(set, &k_file), *v_wanted = input_of(set, &v_file);
    cr_assert(same_bits("keys", k, k_wanted, n * sizeof *k), "%s", set->name);
    cr_assert(same_bits("values", v, v_wanted, n * sizeof *v), "%s", set->name);
    free(k), free(v), free(k_wanted), free(v_wanted);
    npy_free(&k_file), npy_free(&v_file);
}

Test(kivi, append_then_export_gives_the_reference)
{
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        const vector_set *set = &sets[i];
        npy_array x_file = load(set, "x");
        float *x = input_of(set, &x_file);
        kvq_cache *cache = parity_cache(set);
        cr_assert_eq(kvq_cache_append(cache, 0, 0, x, x, set->n_tokens), KVQ_OK);
        kvq_kivi got = kivi_arrays(n_elements(set));
        cr_assert_eq(kvq_cache_export_kivi(cache, 0, 0, &got), KVQ_OK);
        cr_assert(got.n_tokens == set->n_tokens && got.n_k_packed == set->n_tokens &&
                  got.n_v_packed == set->n_tokens);
        expect_array(set, "k_code", got.k_code);
        expect_array(set, "k_scale", got.k_scale);
        expect_array(set, "k_min", got.k_min);
        expect_array(set, "v_code", got.v_code);
        expect_array(set, "v_scale", got.v_scale);
        expect_array(set, "v_min", got.v_min);
        expect_dequantized(set, cache);
        free_arrays(&got);
        free(x);
        npy_free(&x_file);
        kvq_cache_free(cache);
    }
}

Test(kivi, import_gives_the_reference_values)
{
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        const vector_set *set = &sets[i];
        static const char *const parts[] = {"k_code", "k_scale", "k_min", "v_code", "v_scale", "v_min"};
        npy_array a[6];
        for (size_t p = 0; p < 6; p++)
            a[p] = load(set, parts[p]);
        kvq_kivi kivi = {
            .struct_size = sizeof kivi,
            .n_tokens = set->n_tokens,
            .n_k_packed = set->n_tokens,
            .n_v_packed = set->n_tokens,
            .k_code = a[0].data,
            .k_scale = a[1].data,
            .k_min = a[2].data,
            .v_code = a[3].data,
            .v_scale = a[4].data,
            .v_min = a[5].data,
        };
        kvq_cache *cache = parity_cache(set);
        cr_assert_eq(kvq_cache_import_kivi(cache, 0, 0, &kivi), KVQ_OK);
        expect_dequantized(set, cache);
        cr_assert_eq(kvq_cache_import_kivi(cache, 0, 0, &kivi), KVQ_ERR_ARG,
                     "the layer is not empty any more");
        kvq_cache_free(cache);
        for (size_t p = 0; p < 6; p++)
            npy_free(&a[p]);
    }
}

/* Random tokens, exported in mid-stream, imported into another cache, then both go on alike. */
static void round_trip(const char *scheme, size_t n_tokens)
{
    shape s = {1, 4, 2, 96, 1};
    size_t row = s.n_kv_heads * s.head_dim, n_more = 70;
    rng r = rng_make(n_tokens);
    float *k = malloc((n_tokens + n_more) * row * sizeof *k),
          *v = malloc((n_tokens + n_more) * row * sizeof *v);
    fill(&r, FILL_OFFSETS, k, n_tokens + n_more, row);
    fill(&r, FILL_HEAVY, v, n_tokens + n_more, row);
    kvq_cache *a = cache_of(scheme, s, NULL), *b = cache_of(scheme, s, NULL);
    cr_assert_eq(kvq_cache_append(a, 0, 0, k, v, n_tokens), KVQ_OK);
    kvq_kivi kivi = kivi_arrays((n_tokens + 32) * row);
    cr_assert_eq(kvq_cache_export_kivi(a, 0, 0, &kivi), KVQ_OK);
    cr_assert_eq(kvq_cache_import_kivi(b, 0, 0, &kivi), KVQ_OK);
    for (size_t step = 0; step < 2; step++) {
        buffer sa = saved(a), sb = saved(b);
        cr_assert(sa.n == sb.n && same_bits(scheme, sb.data, sa.data, sa.n));
        buffer_free(&sa), buffer_free(&sb);
        const float *more_k = k + n_tokens * row, *more_v = v + n_tokens * row;
        if (step == 0)
            cr_assert(kvq_cache_append(a, 0, 0, more_k, more_v, n_more) == KVQ_OK &&
                      kvq_cache_append(b, 0, 0, more_k, more_v, n_more) == KVQ_OK);
    }
    free_arrays(&kivi);
    free(k), free(v);
    kvq_cache_free(a), kvq_cache_free(b);
}

Test(kivi, export_then_import_is_the_same_cache)
{
    round_trip("kivi2,r=32", 200);
    round_trip("kivi2,r=128", 100);
    round_trip("kivi4-g16,r=64", 129);
    round_trip("kivi3,r=32", 300);
    round_trip("k=8@channel/64,v=5@token/full,r=64,mode=sliding", 333);
    round_trip("k=1@channel/128,v=6@token/32,r=128,rtype=f16", 300);
}

/*
 * Counts that the scheme would not hold itself: fewer tokens packed than it wants, or more. What is packed
 * stays packed, to the bit; appends pack on from there; a truncation unpacks no more than it must.
 */
static void odd_import(size_t n, size_t n_k, size_t n_v, size_t keep, size_t wanted_k, size_t wanted_v)
{
    shape s = {1, 2, 2, 32, 1};
    size_t row = 2 * 32;
    rng r = rng_make(n + n_k + n_v);
    float *k = malloc((n + 300) * row * sizeof *k), *before = malloc(n * row * sizeof *before);
    float *after = malloc(n * row * sizeof *after);
    fill(&r, FILL_OFFSETS, k, n + 300, row);
    kvq_cache *from = cache_of("kivi2,r=0,mode=sliding", s, NULL), *to = cache_of("kivi2,r=64", s, NULL);
    cr_assert_eq(kvq_cache_append(from, 0, 0, k, k, (n + 31) / 32 * 32), KVQ_OK);
    kvq_kivi kivi = kivi_arrays((n + 32) * row), all = kivi_arrays((n + 32) * row);
    cr_assert_eq(kvq_cache_export_kivi(from, 0, 0, &all), KVQ_OK);
    /* Cut the packed arrays, which are [head][...], to n_k and n_v tokens. */
    for (size_t h = 0; h < 2; h++) {
        size_t from_n = all.n_k_packed;
        memcpy(kivi.k_code + h * n_k / 16 * 32, all.k_code + h * from_n / 16 * 32, n_k / 16 * 32 * 4);
        memcpy(kivi.k_scale + h * n_k / 32 * 32, all.k_scale + h * from_n / 32 * 32, n_k / 32 * 32 * 2);
        memcpy(kivi.k_min + h * n_k / 32 * 32, all.k_min + h * from_n / 32 * 32, n_k / 32 * 32 * 2);
        memcpy(kivi.v_code + h * n_v * 2, all.v_code + h * from_n * 2, n_v * 2 * 4);
        memcpy(kivi.v_scale + h * n_v, all.v_scale + h * from_n, n_v * 2);
        memcpy(kivi.v_min + h * n_v, all.v_min + h * from_n, n_v * 2);
        for (size_t t = n_k; t < n; t++)
            memcpy(kivi.k_residual + (h * (n - n_k) + t - n_k) * 32, k + t * row + h * 32, 32 * 4);
        for (size_t t = n_v; t < n; t++)
            memcpy(kivi.v_residual + (h * (n - n_v) + t - n_v) * 32, k + t * row + h * 32, 32 * 4);
    }
    kivi.n_tokens = n, kivi.n_k_packed = n_k, kivi.n_v_packed = n_v;
    cr_assert_eq(kvq_cache_import_kivi(to, 0, 0, &kivi), KVQ_OK);
    cr_assert_eq(kvq_cache_read(to, 0, 0, 0, n, before, NULL), KVQ_OK);
    if (keep < n)
        cr_assert_eq(kvq_cache_truncate(to, 0, keep), KVQ_OK);
    else
        cr_assert_eq(kvq_cache_append(to, 0, 0, k + n * row, k + n * row, keep - n), KVQ_OK);
    cr_assert_eq(kvq_cache_verify(to, NULL), KVQ_OK);
    kvq_kivi got = {.struct_size = sizeof got};
    cr_assert_eq(kvq_cache_export_kivi(to, 0, 0, &got), KVQ_OK);
    cr_assert(got.n_tokens == keep && got.n_k_packed == wanted_k && got.n_v_packed == wanted_v,
              "%zu (%zu, %zu) to %zu: packed %zu and %zu, expected %zu and %zu", n, n_k, n_v, keep,
              got.n_k_packed, got.n_v_packed, wanted_k, wanted_v);
    size_t same = n_k < keep ? n_k : keep;
    cr_assert_eq(kvq_cache_read(to, 0, 0, 0, same, after, NULL), KVQ_OK);
    cr_assert(same_bits("keys that were packed", after, before, same * row * sizeof *after));
    free_arrays(&kivi), free_arrays(&all);
    free(k), free(before), free(after);
    kvq_cache_free(from), kvq_cache_free(to);
}

Test(kivi, counts_that_the_scheme_would_not_hold)
{
    /* r = 64. T = 200 wants keys 192, values 135; 201: 192, 136; 400: 384, 335; 150: 128, 85. */
    odd_import(192, 192, 192, 201, 192, 192); /* more packed than wanted: it stays */
    odd_import(192, 192, 192, 400, 384, 335);
    odd_import(192, 192, 192, 150, 128, 85);
    odd_import(200, 32, 10, 201, 192, 136); /* less: the next append catches up */
    odd_import(200, 32, 10, 150, 32, 10);   /* and a truncation leaves it */
    odd_import(200, 0, 0, 100, 0, 0);
    odd_import(200, 96, 200 - 8, 20, 0, 0);
}

Test(kivi, refuses_what_it_cannot_hold)
{
    shape s = {1, 1, 1, 64, 1};
    kvq_kivi empty = {.struct_size = sizeof empty};
    static const char *const schemes[] = {"fp32", "kivi2,s=4", "k=2@token,v=2@token",
                                          "k=2@channel,v=2@channel"};
    for (size_t i = 0; i < 4; i++) {
        kvq_cache *cache = cache_of(schemes[i], s, NULL);
        cr_assert_eq(kvq_cache_export_kivi(cache, 0, 0, &empty), KVQ_ERR_ARG, "%s", schemes[i]);
        cr_assert_eq(kvq_cache_import_kivi(cache, 0, 0, &empty), KVQ_ERR_ARG, "%s", schemes[i]);
        kvq_cache_free(cache);
    }
    kvq_cache *cache = cache_of("kivi2", s, NULL);
    kvq_kivi kivi = kivi_arrays(64 * 64);
    kivi.n_tokens = 32;
    kivi.n_k_packed = kivi.n_v_packed = 32;
    memset(kivi.k_code, 0, 64 * 64 * 4), memset(kivi.v_code, 0, 64 * 64 * 4);
    for (size_t i = 0; i < 64 * 64; i++)
        kivi.k_scale[i] = kivi.k_min[i] = kivi.v_scale[i] = kivi.v_min[i] = 0x3c00;
    kivi.v_min[5] = 0x7e00;
    cr_assert_eq(kvq_cache_import_kivi(cache, 0, 0, &kivi), KVQ_ERR_NONFINITE);
    kivi.v_min[5] = 0;
    kivi.k_scale[7] = 0xbc00;
    cr_assert_eq(kvq_cache_import_kivi(cache, 0, 0, &kivi), KVQ_ERR_NONFINITE, "a negative scale");
    kivi.k_scale[7] = 0;
    kivi.n_k_packed = 31;
    cr_assert_eq(kvq_cache_import_kivi(cache, 0, 0, &kivi), KVQ_ERR_ARG, "31 is no whole group");
    kivi.n_k_packed = 32;
    kivi.n_tokens = KVQ_MAX_TOKENS + 1;
    cr_assert_eq(kvq_cache_import_kivi(cache, 0, 0, &kivi), KVQ_ERR_FULL);
    kivi.n_tokens = 32;
    cr_assert_eq(kvq_cache_n_tokens(cache, 0, 0), 0);
    cr_assert_eq(kvq_cache_import_kivi(cache, 0, 0, &kivi), KVQ_OK);
    free_arrays(&kivi);
    kvq_cache_free(cache);
}
