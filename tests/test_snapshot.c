/*
 * Save and load: identical bits after a round trip; every truncation, flipped byte and lying field is found,
 * named, and leaves nothing behind.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/snapshot.h"
#include "tests/support.h"

static const char *const schemes[] = {
    "kivi2,r=32",
    "kivi3-g16,r=16,s=5",
    "fp32",
    "fp16",
    "kivi2,r=32,rtype=f16,s=40",
    "k=1@token/full,v=6@channel/64,r=64",
    "kivi4,r=0,mode=sliding,arith=kivi-f16",
};
enum { N_SCHEMES = sizeof schemes / sizeof schemes[0] };

static const shape small = {2, 4, 2, 20, 3};

/* Sequence 0: n tokens; 1: empty; 2: layer 1 only, fewer tokens. */
static kvq_cache *filled(const char *scheme, size_t n, const kvq_allocator *allocator)
{
    size_t row = small.n_kv_heads * small.head_dim;
    rng r = rng_make(n);
    float *k = malloc(n * row * sizeof *k), *v = malloc(n * row * sizeof *v);
    fill(&r, FILL_OFFSETS, k, n, row);
    fill(&r, FILL_HEAVY, v, n, row);
    kvq_cache *cache = cache_of(scheme, small, allocator);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, n), KVQ_OK);
    cr_assert_eq(kvq_cache_append(cache, 1, 0, v, k, n), KVQ_OK);
    cr_assert_eq(kvq_cache_append(cache, 1, 2, k, k, n / 3), KVQ_OK);
    free(k), free(v);
    return cache;
}

static void attend_all(const kvq_cache *cache, size_t sequence, float out[4 * 20])
{
    float q[4 * 20];
    rng r = rng_make(99);
    fill(&r, FILL_NORMAL, q, 1, 4 * 20);
    cr_assert_eq(kvq_cache_attend(cache, 1, &sequence, 1, q, 1, 0.2f, NULL, out), KVQ_OK);
}

Test(snapshot, round_trip_is_identical)
{
    for (size_t i = 0; i < N_SCHEMES; i++) {
        test_memory memory = {0};
        kvq_allocator allocator = test_allocator(&memory);
        kvq_cache *cache = filled(schemes[i], 300, NULL), *loaded = NULL;
        buffer file = saved(cache);
        kvq_error err;
        kvq_status status = kvq_cache_load(&loaded, &allocator, buffer_read, &file, &err);
        cr_assert_eq(status, KVQ_OK, "%s: %s at %d", schemes[i], err.message, (int)err.offset);
        cr_assert_eq(file.at, file.n, "everything is read, nothing more");
        buffer again = saved(loaded);
        cr_assert(again.n == file.n && same_bits(schemes[i], again.data, file.data, file.n));
        float a[4 * 20], b[4 * 20];
        for (size_t s = 0; s < 3; s += 2) {
            attend_all(cache, s, a), attend_all(loaded, s, b);
            cr_assert(same_bits(schemes[i], b, a, sizeof a));
        }
        cr_assert_eq(kvq_cache_n_tokens(loaded, 0, 1), 0);
        cr_assert_eq(kvq_cache_verify(loaded, NULL), KVQ_OK);
        kvq_usage usage;
        cr_assert_eq(kvq_cache_usage(loaded, &usage), KVQ_OK);
        cr_assert_eq(usage.total, memory.live_bytes);
        buffer_free(&file), buffer_free(&again);
        kvq_cache_free(cache), kvq_cache_free(loaded);
        cr_assert_eq(memory.live_bytes, 0);
    }
}

Test(snapshot, goes_on_after_loading)
{
    for (size_t i = 0; i < N_SCHEMES; i++) {
        kvq_cache *cache = filled(schemes[i], 200, NULL), *loaded = NULL;
        buffer file = saved(cache);
        cr_assert_eq(kvq_cache_load(&loaded, NULL, buffer_read, &file, NULL), KVQ_OK);
        float k[150 * 40];
        rng r = rng_make(5);
        fill(&r, FILL_NORMAL, k, 150, 40);
        cr_assert_eq(kvq_cache_append(cache, 0, 0, k, k, 150), KVQ_OK);
        cr_assert_eq(kvq_cache_append(loaded, 0, 0, k, k, 150), KVQ_OK);
        buffer a = saved(cache), b = saved(loaded);
        cr_assert(a.n == b.n && same_bits(schemes[i], b.data, a.data, a.n));
        buffer_free(&a), buffer_free(&b), buffer_free(&file);
        kvq_cache_free(cache), kvq_cache_free(loaded);
    }
}

Test(snapshot, loads_into_chosen_sequences)
{
    kvq_cache *cache = filled("kivi2,r=32", 200, NULL), *target = filled("kivi2,r=32", 100, NULL);
    static const size_t from[] = {2, 0}, to[] = {1, 2}, twice[] = {1, 1};
    buffer file = {0}, whole = saved(cache);
    cr_assert_eq(kvq_cache_save(cache, from, 2, buffer_write, &file), KVQ_OK);
    cr_assert_eq(kvq_cache_load_into(target, twice, 2, buffer_read, &file, NULL), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_load_into(target, to, 1, buffer_read, &file, NULL), KVQ_ERR_MISMATCH);
    file.at = 0;
    cr_assert_eq(kvq_cache_load_into(target, to, 2, buffer_read, &file, NULL), KVQ_OK);
    cr_assert_eq(kvq_cache_n_tokens(target, 1, 0), 100, "not named: kept");
    cr_assert_eq(kvq_cache_n_tokens(target, 1, 1), 66);
    cr_assert_eq(kvq_cache_n_tokens(target, 1, 2), 200);
    float a[4 * 20], b[4 * 20];
    attend_all(cache, 0, a), attend_all(target, 2, b);
    cr_assert(same_bits("sequence 0 as 2", b, a, sizeof a));

    buffer before = saved(target);
    whole.n -= 5; /* fails at the very end: nothing may have changed */
    cr_assert_eq(kvq_cache_load_into(target, NULL, 3, buffer_read, &whole, NULL), KVQ_ERR_TRUNCATED);
    buffer after = saved(target);
    cr_assert(before.n == after.n && same_bits("after a failed load", after.data, before.data, before.n));
    kvq_cache *other = filled("kivi2,r=64", 100, NULL);
    whole.n += 5, whole.at = 0;
    kvq_error err;
    cr_assert_eq(kvq_cache_load_into(other, NULL, 3, buffer_read, &whole, &err), KVQ_ERR_MISMATCH);
    cr_assert_eq(err.offset, sizeof(kvq_snapshot_header), "the first scheme");
    buffer_free(&file), buffer_free(&whole), buffer_free(&before), buffer_free(&after);
    kvq_cache_free(cache), kvq_cache_free(target), kvq_cache_free(other);
}

Test(snapshot, load_into_checks_the_header)
{
    kvq_cache *cache = filled("kivi2,r=32", 100, NULL);
    buffer file = saved(cache);
    static const size_t places[] = {offsetof(kvq_snapshot_header, max_tokens),
                                    offsetof(kvq_snapshot_header, hash)};
    for (size_t i = 0; i < 2; i++) {
        uint64_t kept, wrong = 1000; /* a valid max_tokens, but not the one that was hashed */
        memcpy(&kept, file.data + places[i], sizeof kept);
        memcpy(file.data + places[i], &wrong, sizeof wrong);
        file.at = 0;
        kvq_status status = kvq_cache_load_into(cache, NULL, 3, buffer_read, &file, NULL);
        cr_assert_eq(status, KVQ_ERR_CHECKSUM, "byte %zu: %s", places[i], kvq_status_string(status));
        memcpy(file.data + places[i], &kept, sizeof kept);
    }
    file.at = 0;
    cr_assert_eq(kvq_cache_load_into(cache, NULL, 3, buffer_read, &file, NULL), KVQ_OK);
    buffer_free(&file);
    kvq_cache_free(cache);
}

/* Load a damaged file: it must fail, leave no memory and not touch out. */
static kvq_status load_damaged(buffer *file, kvq_error *err)
{
    test_memory memory = {0};
    kvq_allocator allocator = test_allocator(&memory);
    kvq_cache *cache = NULL;
    file->at = 0;
    kvq_status status = kvq_cache_load(&cache, &allocator, buffer_read, file, err);
    cr_assert((status == KVQ_OK) == (cache != NULL));
    if (status != KVQ_OK) {
        cr_assert_eq(err->status, status);
        cr_assert_not_null(err->message);
        cr_assert_leq(err->offset, file->n);
    }
    kvq_cache_free(cache);
    cr_assert_eq(memory.live_bytes, 0, "a failed load leaks");
    return status;
}

Test(snapshot, every_truncation_is_found)
{
    kvq_cache *cache = filled("kivi2,r=32,s=3", 150, NULL);
    buffer file = saved(cache);
    size_t whole = file.n;
    for (file.n = 0; file.n < whole; file.n++) {
        kvq_error err;
        cr_assert_eq(load_damaged(&file, &err), KVQ_ERR_TRUNCATED, "cut at %zu of %zu", file.n, whole);
        cr_assert_eq(err.offset, file.n);
    }
    file.n = whole;
    kvq_error err;
    cr_assert_eq(load_damaged(&file, &err), KVQ_OK);
    buffer_free(&file);
    kvq_cache_free(cache);
}

Test(snapshot, ten_thousand_flipped_bytes_are_found)
{
    rng r = rng_make(6);
    for (size_t i = 0; i < N_SCHEMES; i++) {
        kvq_cache *cache = filled(schemes[i], 140, NULL);
        buffer file = saved(cache);
        for (size_t trial = 0; trial < 10000 / N_SCHEMES + 1; trial++) {
            size_t at = trial < 400 ? trial % file.n : rng_below(&r, file.n); /* the header, then anywhere */
            uint8_t flip = (uint8_t)(1 + rng_below(&r, 255));
            kvq_error err;
            file.data[at] ^= flip;
            cr_assert_neq(load_damaged(&file, &err), KVQ_OK, "%s: byte %zu changed by %02x", schemes[i], at,
                          flip);
            file.data[at] ^= flip;
        }
        buffer_free(&file);
        kvq_cache_free(cache);
    }
}

/* ---- Files with right checksums and wrong contents ---- */

static kvq_snapshot_header *header_of(buffer *file)
{
    return (kvq_snapshot_header *)(void *)file->data;
}

static kvq_snapshot_scheme *schemes_of(buffer *file)
{
    return (kvq_snapshot_scheme *)(void *)(file->data + sizeof(kvq_snapshot_header));
}

static kvq_snapshot_layer *first_layer_of(buffer *file)
{
    return (kvq_snapshot_layer *)(void *)(schemes_of(file) + 2);
}

static void rehash(buffer *file)
{
    kvq_snapshot_header *header = header_of(file);
    if (header->n_layers <= 2)
        header->hash = kvq_snapshot_header_hash(*header, schemes_of(file));
    first_layer_of(file)->hash = kvq_snapshot_layer_hash(*first_layer_of(file));
}

#define EXPECT_LIE(wanted, change)                                                                           \
    do {                                                                                                     \
        buffer file = {0};                                                                                   \
        kvq_error err;                                                                                       \
        buffer_write(&file, good.data, good.n);                                                              \
        change;                                                                                              \
        rehash(&file);                                                                                       \
        kvq_status got = load_damaged(&file, &err);                                                          \
        cr_assert_eq(got, wanted, "%s: %s (%s)", #change, kvq_status_string(got), err.message);              \
        buffer_free(&file);                                                                                  \
    } while (0)

Test(snapshot, lying_fields_are_found)
{
    kvq_cache *cache = filled("kivi2,r=32,s=3", 150, NULL);
    buffer good = saved(cache);
    EXPECT_LIE(KVQ_OK, (void)0);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->magic[3] = 'q');
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->version = 2);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_layers = 0);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_layers = UINT32_MAX);
    EXPECT_LIE(KVQ_ERR_CHECKSUM, header_of(&file)->n_layers = 4);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_heads = 5000);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_kv_heads = 3);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_kv_heads = 0);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->head_dim = 0);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->head_dim = 1025);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_sequences = 0);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->max_tokens = 0);
    EXPECT_LIE(KVQ_ERR_FULL, header_of(&file)->max_tokens = 100);
    EXPECT_LIE(KVQ_ERR_SCHEME, schemes_of(&file)[1].k.bits = 7);
    EXPECT_LIE(KVQ_ERR_SCHEME, schemes_of(&file)[0].v.codec = 3);
    EXPECT_LIE(KVQ_ERR_SCHEME, schemes_of(&file)[0].residual = 33);
    EXPECT_LIE(KVQ_ERR_FORMAT, schemes_of(&file)[0].zero2 = 1);
    EXPECT_LIE(KVQ_ERR_FORMAT, first_layer_of(&file)->sequence = 1);
    EXPECT_LIE(KVQ_ERR_FORMAT, first_layer_of(&file)->layer = 1);
    EXPECT_LIE(KVQ_ERR_FULL, first_layer_of(&file)->n_tokens = UINT64_MAX);
    EXPECT_LIE(KVQ_ERR_FORMAT, first_layer_of(&file)->k_packed = 33);
    EXPECT_LIE(KVQ_ERR_FORMAT, first_layer_of(&file)->k_packed = 160);
    EXPECT_LIE(KVQ_ERR_FORMAT, first_layer_of(&file)->v_packed = 148);
    EXPECT_LIE(KVQ_ERR_CHECKSUM, first_layer_of(&file)->v_packed = 0);
    EXPECT_LIE(KVQ_ERR_TRUNCATED, first_layer_of(&file)->n_tokens = KVQ_MAX_TOKENS);
    buffer_free(&good);
    kvq_cache_free(cache);
}

/* A page is followed by its hash; put a number into the first page of sequence 0, layer 0, and hash it again.
 */
static void poke_page(buffer *file, const kvq_cache *cache, size_t offset, uint16_t value)
{
    const kvq_layer_plan *plan = &cache->plan[0];
    const kvq_layer *layer = &cache->sequence[0][0];
    size_t at = sizeof(kvq_snapshot_header) + 2 * sizeof(kvq_snapshot_scheme) + sizeof(kvq_snapshot_layer);
    size_t row = small.n_kv_heads * small.head_dim * plan->element_bytes;
    for (size_t role = 0; role < 2; role++)
        at += (layer->n_tokens - layer->packed[role]) * row; /* sinks and window */
    at += 8;                                                 /* and their hash */
    memcpy(file->data + at + offset, &value, sizeof value);
    uint64_t hash = XXH3_64bits(file->data + at, plan->page_bytes);
    memcpy(file->data + at + plan->page_bytes, &hash, sizeof hash);
}

Test(snapshot, numbers_that_no_encoder_writes_are_found)
{
    kvq_cache *cache = filled("kivi2,r=32", 150, NULL);
    buffer good = saved(cache);
    const kvq_layout *k = &cache->plan[0].layout[KVQ_KEYS];
    size_t scale = kvq_scale_offset(k, 0, 0), min = scale + k->min_offset;
    EXPECT_LIE(KVQ_OK, poke_page(&file, cache, scale, 0x3c00));
    EXPECT_LIE(KVQ_ERR_FORMAT, poke_page(&file, cache, scale, 0x7c00));
    EXPECT_LIE(KVQ_ERR_FORMAT, poke_page(&file, cache, scale, 0xbc00));
    EXPECT_LIE(KVQ_ERR_FORMAT, poke_page(&file, cache, min, 0x7e01));
    EXPECT_LIE(KVQ_OK, poke_page(&file, cache, min, 0xbc00));
    buffer_free(&good);
    kvq_cache_free(cache);
}

Test(snapshot, nonfinite_window_is_found)
{
    kvq_cache *cache = filled("kivi2,r=32", 150, NULL);
    float *window =
        (float *)(void *)kvq_residual_row(cache, &cache->plan[0], &cache->sequence[0][0], KVQ_KEYS, 0, 140);
    window[3] = NAN; /* as a program with a stray pointer would leave it */
    buffer file = saved(cache);
    kvq_error err;
    cr_assert_eq(load_damaged(&file, &err), KVQ_ERR_NONFINITE);
    buffer_free(&file);
    kvq_cache_free(cache);
}

/* ---- Integrity of a cache in memory ---- */

Test(snapshot, verify_names_the_damaged_page)
{
    kvq_cache *cache = filled("kivi2,r=32", 600, NULL);
    kvq_damage damage = {9, 9, 9};
    rng r = rng_make(7);
    cr_assert_eq(kvq_cache_verify(cache, &damage), KVQ_OK);
    for (size_t trial = 0; trial < 200; trial++) {
        size_t layer = trial % 2, page = rng_below(&r, kvq_n_sealed(&cache->sequence[0][layer]));
        uint8_t *byte =
            cache->sequence[0][layer].page[page].data + rng_below(&r, cache->plan[layer].page_bytes);
        uint8_t bit = (uint8_t)(1u << rng_below(&r, 8));
        *byte ^= bit;
        cr_assert_eq(kvq_cache_verify(cache, &damage), KVQ_ERR_CHECKSUM);
        cr_assert(damage.layer == layer && damage.sequence == 0 && damage.page == page);
        buffer b = {0};
        cr_assert_eq(kvq_cache_save(cache, NULL, 3, buffer_write, &b), KVQ_ERR_CHECKSUM,
                     "damage is not saved");
        buffer_free(&b);
        *byte ^= bit;
    }
    cr_assert_eq(kvq_cache_verify(cache, NULL), KVQ_OK);
    kvq_cache_free(cache);
}

/* ---- Callbacks and memory that fail ---- */

static bool failing_write(void *ctx, const void *data, size_t n_bytes)
{
    size_t *left = ctx;
    (void)data;
    if (n_bytes > *left)
        return false;
    *left -= n_bytes;
    return true;
}

static size_t failing_read(void *ctx, void *data, size_t n_bytes)
{
    (void)ctx, (void)data, (void)n_bytes;
    return SIZE_MAX;
}

static size_t trickle_read(void *ctx, void *data, size_t n_bytes)
{
    return buffer_read(ctx, data, n_bytes > 7 ? 7 : n_bytes);
}

Test(snapshot, callbacks_may_fail_or_trickle)
{
    kvq_cache *cache = filled("kivi2,r=32", 100, NULL), *loaded = NULL;
    buffer file = saved(cache);
    for (size_t left = 0; left < file.n; left += 97) {
        size_t n = left;
        cr_assert_eq(kvq_cache_save(cache, NULL, 3, failing_write, &n), KVQ_ERR_IO);
    }
    kvq_error err;
    cr_assert_eq(kvq_cache_load(&loaded, NULL, failing_read, NULL, &err), KVQ_ERR_IO);
    cr_assert_eq(kvq_cache_load(&loaded, NULL, trickle_read, &file, &err), KVQ_OK,
                 "short reads are not the end");
    cr_assert_eq(kvq_cache_save(cache, NULL, 0, buffer_write, &file), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_save(cache, NULL, 4, buffer_write, &file), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_save(cache, NULL, 1, NULL, &file), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_load(NULL, NULL, buffer_read, &file, &err), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_load_into(NULL, NULL, 1, buffer_read, &file, &err), KVQ_ERR_ARG);
    buffer_free(&file);
    kvq_cache_free(cache), kvq_cache_free(loaded);
}

Test(snapshot, loading_survives_every_allocation_failure)
{
    for (size_t i = 0; i < N_SCHEMES; i++) {
        kvq_cache *cache = filled(schemes[i], 150, NULL);
        buffer file = saved(cache);
        kvq_status status = KVQ_ERR_NOMEM;
        for (uint64_t k = 1; status != KVQ_OK; k++) {
            test_memory memory = {.fail_at = k};
            kvq_allocator allocator = test_allocator(&memory);
            kvq_cache *loaded = NULL;
            kvq_error err;
            file.at = 0;
            status = kvq_cache_load(&loaded, &allocator, buffer_read, &file, &err);
            cr_assert(status == KVQ_OK || status == KVQ_ERR_NOMEM, "%s", kvq_status_string(status));
            kvq_cache_free(loaded);
            cr_assert_eq(memory.live_bytes, 0, "%s, call %d", schemes[i], (int)k);
        }
        buffer_free(&file);
        kvq_cache_free(cache);
    }
}

/* The format is frozen: this cache must always save to these bytes. Hash of a file made by version 1. */
Test(snapshot, format_is_frozen)
{
    kvq_cache *cache = cache_of("kivi2,r=32,s=2", (shape){1, 2, 2, 16, 1}, NULL);
    float k[200 * 32], v[200 * 32];
    for (size_t i = 0; i < 200 * 32; i++) {
        k[i] = (float)(int)(i * 37 % 101 - 50) / 8;
        v[i] = (float)(int)(i * 53 % 89 - 40) / 16;
    }
    cr_assert_eq(kvq_cache_append(cache, 0, 0, k, v, 200), KVQ_OK);
    buffer file = saved(cache);
    uint64_t hash = XXH3_64bits(file.data, file.n);
    cr_assert_eq(hash, UINT64_C(0xe9dea3314443a0a1), "%zu bytes hash to 0x%016llx", file.n,
                 (unsigned long long)hash);
    buffer_free(&file);
    kvq_cache_free(cache);
}
