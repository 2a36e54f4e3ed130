/*
 * Schemes that differ by layer: grammar, canonical form, where errors point; caches of them against caches
 * of plain schemes.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/scheme.h"
#include "tests/support.h"

/* ---- Texts ---- */

static void expect_text(const char *text, const char *canonical)
{
    kvq_scheme *scheme, *again;
    kvq_error err = {KVQ_OK, NULL, 0};
    cr_assert_eq(kvq_scheme_create(&scheme, text, &err), KVQ_OK, "%s: %s", text, err.message);
    cr_expect_str_eq(kvq_scheme_text(scheme), canonical, "%s is %s", text, kvq_scheme_text(scheme));
    cr_assert_eq(kvq_scheme_create(&again, kvq_scheme_text(scheme), NULL), KVQ_OK, "%s", canonical);
    cr_expect_str_eq(kvq_scheme_text(again), canonical);
    cr_expect_eq(kvq_scheme_min_layers(again), kvq_scheme_min_layers(scheme));
    kvq_scheme_free(again);
    kvq_scheme_free(scheme);
}

Test(layers, print_in_canonical_form)
{
    expect_text("kivi2+0=kivi4", "kivi2+0=kivi4");
    expect_text("kvq2+0-1=kvq4+29=k=tier:3,v=rot:2,hh=2,s=4,mode=sliding,rtype=f16/i8",
                "kvq2+0-1=kvq4+29=kvq2.5,hh=2");
    expect_text("kivi2+3-3=kivi4", "kivi2+3=kivi4");
    expect_text("k=2,v=2+4095=k=8@token/full,v=2@token/full", "kivi2+4095=k=8@token/full,v=2@token/full");
    expect_text("kivi2+9=fp16+4-6=kivi8+1=fp32", "kivi2+1=fp32+4-6=kivi8+9=fp16"); /* by layer */
    expect_text("kivi2+1=kivi4+2-3=kivi4+4=k=4,v=4", "kivi2+1-4=kivi4");
    expect_text("kivi2+2=kivi4+1=kivi4+0=kivi4", "kivi2+0-2=kivi4");
    expect_text("kivi2+1=kivi4+3=kivi4", "kivi2+1=kivi4+3=kivi4");
    expect_text("kivi2+1=kivi4+2=kivi8+3=kivi4", "kivi2+1=kivi4+2=kivi8+3=kivi4");
    expect_text("kivi2+1=kivi4+2=kivi2+3=kivi4", "kivi2+1=kivi4+3=kivi4"); /* the base lies between */
    expect_text("kivi2+0-4=kivi2,r=128+5=fp32", "kivi2+5=fp32");
    expect_text("kivi2+7=k=2,v=2", "kivi2"); /* nothing differs */
    expect_text("kivi2,r=64+0-4095=kivi4,s=3", "kivi2,r=64+0-4095=kivi4,s=3");
    expect_text("kivi2+00-01=kivi4", "kivi2+0-1=kivi4");
    expect_text("kivi4-g64+1=kivi2-g64", "kivi4-g64+1=kivi2-g64");
}

Test(layers, are_what_the_text_says)
{
    const kvq_scheme *s = scheme_of("kivi2,s=5+2-3=kvq4+7=fp16");
    static const char *const wanted[] = {"kivi2,s=5", "kivi2,s=5", "kvq4", "kvq4",     "kivi2,s=5",
                                         "kivi2,s=5", "kivi2,s=5", "fp16", "kivi2,s=5"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        const kvq_scheme *layer = kvq_scheme_of_layer(s, i);
        cr_expect_str_eq(kvq_scheme_text(layer), wanted[i], "layer %zu", i);
        cr_expect_eq(kvq_scheme_min_layers(layer), 0, "a layer's scheme is plain");
        cr_expect_eq(kvq_scheme_of_layer(layer, 3), layer);
    }
    cr_assert_str_eq(kvq_scheme_text(kvq_scheme_of_layer(s, SIZE_MAX)), "kivi2,s=5");
    cr_assert_eq(kvq_scheme_min_layers(s), 8);
    cr_assert_eq(kvq_scheme_min_layers(scheme_of("kivi2+0=fp32")), 1);
    cr_assert_eq(kvq_scheme_min_layers(scheme_of("kivi2+1=fp32+9=kivi2")), 2, "what is canonical counts");
    const kvq_scheme *plain = scheme_of("kivi2+5=kivi2");
    cr_assert_eq(kvq_scheme_min_layers(plain), 0);
    cr_assert_eq(kvq_scheme_of_layer(plain, 5), plain, "itself");
    cr_assert_eq(kvq_scheme_min_layers(NULL), 0);
    cr_assert_null(kvq_scheme_of_layer(NULL, 0));
}

Test(layers, accessors_are_about_the_base)
{
    const kvq_scheme *s = scheme_of("k=f16,v=5@channel/64,r=192,mode=sliding,rtype=f16/i8,s=7+0-9=kvq2");
    const kvq_scheme *base = kvq_scheme_of_layer(s, 10);
    kvq_side_info a, b;
    cr_assert(kvq_scheme_values(s, &a) == KVQ_OK && kvq_scheme_values(base, &b) == KVQ_OK);
    cr_assert_str_eq(a.codec, "affine");
    cr_assert(a.bits == 5 && b.bits == 5 && a.group == 64 && a.residual_dtype == KVQ_I8);
    cr_assert(kvq_scheme_keys(s, &a) == KVQ_OK && kvq_scheme_keys(base, &b) == KVQ_OK);
    cr_assert_str_eq(a.codec, b.codec);
    cr_assert(kvq_scheme_residual(s) == 192 && kvq_scheme_sinks(s) == 7);
    cr_assert(kvq_scheme_residual_mode(s) == KVQ_RESIDUAL_SLIDING && kvq_scheme_residual_dtype(s) == KVQ_F16);
    cr_assert_eq(kvq_scheme_bits_per_element(s, 64), kvq_scheme_bits_per_element(base, 64));
}

static void expect_error(const char *text, size_t offset, const char *message_part)
{
    kvq_scheme *scheme = NULL;
    kvq_error err = {KVQ_OK, NULL, 0};
    cr_assert_eq(kvq_scheme_create(&scheme, text, &err), KVQ_ERR_SCHEME, "%s was taken", text);
    cr_assert_eq(err.status, KVQ_ERR_SCHEME);
    cr_expect_eq(err.offset, offset, "%s: error at %d, expected at %zu (%s)", text, (int)err.offset, offset,
                 err.message);
    cr_expect_not_null(strstr(err.message, message_part), "%s: message is: %s", text, err.message);
    cr_assert_null(scheme, "%s: out was written", text);
}

Test(layers, errors_point_at_the_character)
{
    expect_error("+0=kivi2", 0, "expected here");
    expect_error("kivi2+", 6, "a number is expected here");
    expect_error("kivi2+=kivi4", 6, "a number is expected here");
    expect_error("kivi2+x=kivi4", 6, "a number is expected here");
    expect_error("kivi2+-1=kivi4", 6, "a number is expected here");
    expect_error("kivi2+1-=kivi4", 8, "a number is expected here");
    expect_error("kivi2+4096=kivi4", 6, "the number is too large");
    expect_error("kivi2+1-4096=kivi4", 8, "the number is too large");
    expect_error("kivi2+99999999999999999999=kivi4", 6, "the number is too large");
    expect_error("kivi2+3-2=kivi4", 8, "before its first");
    expect_error("kivi2+1", 7, "= and the scheme");
    expect_error("kivi2+1-2", 9, "= and the scheme");
    expect_error("kivi2+1-2-3=kivi4", 9, "= and the scheme");
    expect_error("kivi2+1,2=kivi4", 7, "= and the scheme");
    expect_error("kivi2+1=", 8, "expected here");
    expect_error("kivi2+1=kivi7", 12, "bits");
    expect_error("kivi2+1=k=2", 11, "both");
    expect_error("kivi2+1=k=2+2=kivi4", 11, "both");
    expect_error("kivi2+1=kivi4;+2=kivi4", 13, "a comma or the end is expected here");
    expect_error("kivi2+1=kivi4,+2=kivi4", 14, "expected here");
    expect_error("kivi2,+2=kivi4", 6, "expected here");
    expect_error("kivi2 +2=kivi4", 5, "comma");
    expect_error("kivi2+1=kivi4+1=kivi8", 14, "a layer is named twice");
    expect_error("kivi2+1-3=kivi4+3=kivi8", 16, "a layer is named twice");
    expect_error("kivi2+3=kivi4+1-5=kivi8", 14, "a layer is named twice");
    expect_error("kivi2+1=kivi2+1=kivi2", 14, "a layer is named twice"); /* even if nothing differs */
    /* What both sides together say is about their own part of the text. */
    expect_error("kivi2,r=64+1=kivi2,r=33", 21, "residual must be a multiple of the group");
    expect_error("kivi2,r=33+1=kivi2,r=64", 8, "residual must be a multiple of the group");
    expect_error("kivi2+1=kvq2,r=0,mode=kivi+2=kivi2,r=64", 15, "kivi mode needs a residual");
    expect_error("kivi2+1=fp32,mode=kivi,k=2+2=kivi2,r=64", 18, "kivi mode needs a residual");
    expect_error("kivi2,hh=0+1=kivi2,hh=1", 22, "hh= needs a codec");
    expect_error("kivi2,hh=1+1=kivi2", 9, "hh= needs a codec");
    expect_error("k=q8_0,v=q8_0,r=32+2=k=q8_0,v=kvarn:2,r=64", 40, "residual must be a multiple of 128");
}

/* ---- Sizes ---- */

/* n ranges of one layer each, every second one in another scheme. */
static char *many(size_t n, const char *even, const char *odd)
{
    char *text = malloc(16 + n * 160), *at = text;
    cr_assert_not_null(text);
    at += sprintf(at, "fp32");
    for (size_t i = 0; i < n; i++)
        at += sprintf(at, "+%zu=%s", i, i % 2 == 0 ? even : odd);
    return text;
}

Test(layers, as_many_as_a_cache_may_have)
{
    char *text = many(KVQ_MAX_LAYERS, "kivi2", "kivi4");
    const kvq_scheme *s = scheme_of(text);
    cr_assert_str_eq(kvq_scheme_text(s), text);
    cr_assert_eq(kvq_scheme_min_layers(s), KVQ_MAX_LAYERS);
    for (size_t i = 0; i < KVQ_MAX_LAYERS; i++)
        cr_assert_str_eq(kvq_scheme_text(kvq_scheme_of_layer(s, i)), i % 2 == 0 ? "kivi2" : "kivi4");
    free(text);
}

Test(layers, what_is_longer_than_65535_characters_is_refused)
{
    enum { LIMIT = 65535 };
    static const char longest[] = "k=8@channel/128,v=8@channel/128,r=1073741824,mode=sliding,s=1048576",
                      another[] = "k=8@channel/128,v=8@channel/128,r=1073741824,mode=sliding,s=1048575";
    char *text = many(911, longest, another);
    strcat(text, "+4095=k=8@channel/128,v=8@channel/128,r=1280,s=12");
    cr_assert_eq(strlen(text), LIMIT);
    expect_text(text, text);
    strcat(text, "3");
    expect_error(text, 0, "too long: it must fit 65535 characters");
    free(text);
}

/* More of everything than there can be is refused without taking memory for it. */
Test(layers, garbage_is_refused)
{
    enum { N = 1 << 20 };
    char *text = malloc(N + 6);
    memcpy(text, "kivi2", 5);
    memset(text + 5, '+', N);
    text[N + 5] = '\0';
    expect_error(text, 6, "a number is expected here");
    free(text);
}

/* ---- Caches ---- */

enum { N_LAYERS = 4, N_TOKENS = 300 };
static const shape four = {N_LAYERS, 4, 2, 32, 1};
static const char mixed_text[] = "kivi2,r=32+0=fp16+2=kvq2,s=3+3=k=4@token/32,v=8@token/full,r=7";
static const char *const layer_texts[N_LAYERS] = {"fp16", "kivi2,r=32", "kvq2,s=3",
                                                  "k=4@token/32,v=8@token/full,r=7"};

static kvq_config config_of_four(void)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = four.n_layers;
    config.n_heads = four.n_heads;
    config.n_kv_heads = four.n_kv_heads;
    config.head_dim = four.head_dim;
    return config;
}

static kvq_cache *created(const kvq_config *config)
{
    kvq_cache *cache = NULL;
    cr_assert_eq(kvq_cache_create(&cache, config), KVQ_OK);
    return cache;
}

/* All tokens but the last through one layer in a step, the last in another one; its attention into out. */
static void decode(kvq_cache *cache, size_t layer, float out[4 * 32])
{
    enum { KV = 2 * 32, Q = 4 * 32 };
    rng r = rng_make(layer);
    float *k = malloc(N_TOKENS * KV * sizeof *k), *v = malloc(N_TOKENS * KV * sizeof *v),
          *q = malloc(N_TOKENS * Q * sizeof *q), *all = malloc(N_TOKENS * Q * sizeof *all);
    const size_t n = N_TOKENS - 1;
    fill(&r, FILL_OFFSETS, k, N_TOKENS, KV);
    fill(&r, FILL_NORMAL, v, N_TOKENS, KV);
    fill(&r, FILL_NORMAL, q, N_TOKENS, Q);
    cr_assert_eq(kvq_cache_step(cache, layer, NULL, 1, &n, q, k, v, 0.2f, NULL, all), KVQ_OK);
    cr_assert_eq(
        kvq_cache_step(cache, layer, NULL, 1, NULL, q + n * Q, k + n * KV, v + n * KV, 0.2f, NULL, out),
        KVQ_OK);
    free(k), free(v), free(q), free(all);
}

static void expect_layers(kvq_cache *mixed, const char *how)
{
    kvq_config got;
    kvq_cache_get_config(mixed, &got);
    float *a = malloc(4 * N_TOKENS * 64 * sizeof *a);
    float *a_v = a + N_TOKENS * 64, *b = a + 2 * N_TOKENS * 64, *b_v = a + 3 * N_TOKENS * 64;
    for (size_t i = 0; i < N_LAYERS; i++) {
        kvq_cache *plain = cache_of(layer_texts[i], four, NULL);
        float out[128], wanted[128];
        size_t k_packed, v_packed, k_wanted, v_wanted;
        cr_assert_str_eq(kvq_scheme_text(got.layer_schemes[i]), layer_texts[i], "%s", how);
        decode(mixed, i, out);
        decode(plain, i, wanted);
        cr_assert(same_bits(how, out, wanted, sizeof out), "layer %zu", i);
        cr_assert_eq(kvq_cache_read(mixed, i, 0, 0, N_TOKENS, a, a_v), KVQ_OK);
        cr_assert_eq(kvq_cache_read(plain, i, 0, 0, N_TOKENS, b, b_v), KVQ_OK);
        cr_assert(same_bits(how, a, b, 2 * N_TOKENS * 64 * sizeof *a), "layer %zu", i);
        cr_assert(kvq_cache_n_packed(mixed, i, 0, &k_packed, &v_packed) == KVQ_OK &&
                  kvq_cache_n_packed(plain, i, 0, &k_wanted, &v_wanted) == KVQ_OK);
        cr_assert(k_packed == k_wanted && v_packed == v_wanted && k_packed > 0);
        kvq_cache_free(plain);
    }
    free(a);
}

/* By text, by scheme, and one per layer: the same cache, to the byte of its saved form. */
Test(layers, of_a_cache_are_those_of_plain_caches)
{
    const kvq_scheme *s = scheme_of(mixed_text), *parts[N_LAYERS], *wholes[N_LAYERS];
    for (size_t i = 0; i < N_LAYERS; i++) {
        parts[i] = scheme_of(layer_texts[i]);
        wholes[i] = s;
    }
    kvq_config by_text = config_of_four(), by_scheme = by_text, by_layer = by_text, by_whole = by_text;
    by_text.scheme_text = mixed_text;
    by_scheme.scheme = s;
    by_layer.layer_schemes = parts;
    by_whole.layer_schemes = wholes; /* of which layer i takes its layer i */
    const kvq_config *const configs[] = {&by_text, &by_scheme, &by_layer, &by_whole};
    static const char *const names[] = {"by text", "by scheme", "by layer", "by wholes"};
    buffer first = {0};
    for (size_t i = 0; i < 4; i++) {
        kvq_cache *cache = created(configs[i]);
        expect_layers(cache, names[i]);
        buffer file = saved(cache);
        if (i > 0)
            cr_assert(file.n == first.n && same_bits(names[i], file.data, first.data, file.n));
        if (i > 0)
            buffer_free(&file);
        else
            first = file;
        kvq_cache_free(cache);
    }
    buffer_free(&first);
}

Test(layers, survive_saving_and_loading)
{
    kvq_config config = config_of_four(), got;
    config.scheme_text = mixed_text;
    kvq_cache *cache = created(&config), *loaded, *alike;
    expect_layers(cache, "to be saved");
    buffer file = saved(cache);
    cr_assert_eq(kvq_cache_load(&loaded, NULL, buffer_read, &file, NULL), KVQ_OK);
    kvq_cache_get_config(loaded, &got);
    for (size_t i = 0; i < N_LAYERS; i++) {
        float a[128], b[128];
        cr_assert_str_eq(kvq_scheme_text(got.layer_schemes[i]), layer_texts[i]);
        decode(cache, i, a);
        decode(loaded, i, b);
        cr_assert(same_bits("after loading", a, b, sizeof a), "layer %zu", i);
    }
    alike = created(&got);
    file.at = 0;
    cr_assert_eq(kvq_cache_load_into(alike, &(size_t){0}, 1, buffer_read, &file, NULL), KVQ_OK);
    buffer again = saved(alike);
    cr_assert(again.n == file.n && same_bits("saved again", again.data, file.data, file.n));
    buffer_free(&again), buffer_free(&file);
    kvq_cache_free(cache), kvq_cache_free(loaded), kvq_cache_free(alike);
}

Test(layers, that_a_cache_does_not_have_are_refused)
{
    kvq_cache *cache = NULL;
    const kvq_scheme *plain = scheme_of("kivi2"), *five = scheme_of("kivi2+4=kivi4");
    const kvq_scheme *const layers[N_LAYERS] = {plain, plain, five, plain};
    kvq_config config = config_of_four();
    config.scheme_text = "kivi2+4=kivi4";
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_SCHEME);
    config.scheme_text = "kivi2+3-4=kivi4";
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_SCHEME);
    config.scheme_text = "kivi2+4-3=kivi4";
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_SCHEME);
    config.scheme = five;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_SCHEME);
    config.layer_schemes = layers;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_SCHEME);
    cr_assert_null(cache);
    config.n_layers = 5;
    config.layer_schemes = NULL;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK);
    kvq_cache_free(cache);
}

/* A head dimension that one layer's codec does not take. */
Test(layers, of_a_codec_that_does_not_fit_are_refused)
{
    kvq_cache *cache = NULL;
    kvq_config config = config_of_four();
    config.head_dim = 1024;
    config.scheme_text = "kivi2";
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK);
    kvq_cache_free(cache);
    config.scheme_text = "kivi2+3=k=nuq:2,v=f32";
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_SCHEME);
}

Test(layers, memory_is_given_back_whatever_fails)
{
    kvq_config config = config_of_four();
    test_memory memory = {0};
    const kvq_allocator allocator = test_allocator(&memory);
    config.allocator = &allocator;
    config.scheme_text = mixed_text;
    kvq_status status = KVQ_ERR_NOMEM;
    for (uint64_t at = 1; status == KVQ_ERR_NOMEM; at++) {
        kvq_cache *cache = NULL;
        memory = (test_memory){.fail_at = at};
        status = kvq_cache_create(&cache, &config);
        cr_assert(status == KVQ_OK || (cache == NULL && memory.live_bytes == 0 && at < 20));
        kvq_cache_free(cache);
        cr_assert(memory.live_bytes == 0 && memory.live_blocks == 0);
    }
    cr_assert_eq(status, KVQ_OK);
}
