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

/* One token more of a sequence, with queries, so that there is evidence where the scheme uses any. */
static void step_once(kvq_cache *cache, size_t layer, size_t sequence)
{
    float q[4 * 20], k[2 * 20], v[2 * 20], out[4 * 20];
    rng r = rng_make(98);
    fill(&r, FILL_NORMAL, q, 1, 4 * 20);
    fill(&r, FILL_OFFSETS, k, 1, 2 * 20);
    fill(&r, FILL_HEAVY, v, 1, 2 * 20);
    cr_assert_eq(kvq_cache_step(cache, layer, &sequence, 1, NULL, q, k, v, 0.2f, NULL, out), KVQ_OK);
}

static kvq_status load_with(kvq_cache **out, const kvq_allocator *allocator, kvq_read_fn read, void *ctx,
                            kvq_error *err)
{
    kvq_load_options options;
    kvq_load_options_init(&options);
    options.allocator = allocator;
    return kvq_cache_load(out, &options, read, ctx, err);
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
    for (size_t i = 0; i < N_FAMILIES; i++) {
        test_memory memory = {0};
        kvq_allocator allocator = test_allocator(&memory);
        kvq_cache *cache = filled(families[i], 300, NULL), *loaded = NULL;
        step_once(cache, 1, 0);
        buffer file = saved(cache);
        kvq_error err;
        kvq_status status = load_with(&loaded, &allocator, buffer_read, &file, &err);
        cr_assert_eq(status, KVQ_OK, "%s: %s at %d", families[i], err.message, (int)err.offset);
        cr_assert_eq(file.at, file.n, "everything is read, nothing more");
        buffer again = saved(loaded);
        cr_assert(again.n == file.n && same_bits(families[i], again.data, file.data, file.n));
        float a[4 * 20], b[4 * 20];
        for (size_t s = 0; s < 3; s += 2) {
            attend_all(cache, s, a), attend_all(loaded, s, b);
            cr_assert(same_bits(families[i], b, a, sizeof a));
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
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = filled(families[i], 200, NULL), *loaded = NULL;
        step_once(cache, 0, 0);
        buffer file = saved(cache);
        cr_assert_eq(kvq_cache_load(&loaded, NULL, buffer_read, &file, NULL), KVQ_OK);
        float k[150 * 40];
        rng r = rng_make(5);
        fill(&r, FILL_NORMAL, k, 150, 40);
        cr_assert_eq(kvq_cache_append(cache, 0, 0, k, k, 150), KVQ_OK);
        cr_assert_eq(kvq_cache_append(loaded, 0, 0, k, k, 150), KVQ_OK);
        buffer a = saved(cache), b = saved(loaded);
        cr_assert(a.n == b.n && same_bits(families[i], b.data, a.data, a.n));
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
    kvq_status status = load_with(&cache, &allocator, buffer_read, file, err);
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
    static const char *const schemes[] = {"kivi2,r=32,s=3", "kvq2,r=0", "kvq2-fb,r=0", "turbo2-nc,r=0",
                                          "nuq2,r=0"};
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        kvq_cache *cache = filled(schemes[i], 149, NULL);
        kvq_error err;
        step_once(cache, 1, 0);
        buffer file = saved(cache);
        size_t whole = file.n;
        for (file.n = 0; file.n < whole; file.n += i == 0 ? 1 : 11) {
            cr_assert_eq(load_damaged(&file, &err), KVQ_ERR_TRUNCATED, "%s cut at %zu of %zu", schemes[i],
                         file.n, whole);
            cr_assert_eq(err.offset, file.n);
        }
        file.n = whole;
        cr_assert_eq(load_damaged(&file, &err), KVQ_OK);
        buffer_free(&file);
        kvq_cache_free(cache);
    }
}

Test(snapshot, ten_thousand_flipped_bytes_are_found)
{
    rng r = rng_make(6);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = filled(families[i], 140, NULL);
        step_once(cache, 0, 0);
        buffer file = saved(cache);
        for (size_t trial = 0; trial < 10000 / N_FAMILIES + 1; trial++) {
            size_t at = trial < 400 ? trial % file.n : rng_below(&r, file.n); /* the header, then anywhere */
            uint8_t flip = (uint8_t)(1 + rng_below(&r, 255));
            kvq_error err;
            file.data[at] ^= flip;
            cr_assert_neq(load_damaged(&file, &err), KVQ_OK, "%s: byte %zu changed by %02x", families[i], at,
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
    if (header->n_layers <= 2) {
        kvq_hash hash;
        kvq_snapshot_header_hash_start(&hash, *header);
        kvq_hash_add(&hash, schemes_of(file), header->n_layers * sizeof(kvq_snapshot_scheme));
        header->hash = kvq_hash_value(&hash);
    }
    first_layer_of(file)->hash = kvq_snapshot_layer_hash(*first_layer_of(file));
}

static void set_text(buffer *file, const char *text)
{
    memset(schemes_of(file)[0].text, 0, KVQ_SCHEME_TEXT_MAX);
    memcpy(schemes_of(file)[0].text, text, strlen(text));
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
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->version = 0);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->version = 4);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_layers = 0);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_layers = UINT32_MAX);
    EXPECT_LIE(KVQ_ERR_CHECKSUM, header_of(&file)->n_layers = 4);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_heads = 5000);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_kv_heads = 3);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_kv_heads = 0);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->head_dim = 0);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->head_dim = 1025);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->n_sequences = KVQ_MAX_SEQUENCES + 1);
    EXPECT_LIE(KVQ_ERR_FORMAT, header_of(&file)->max_tokens = 0);
    EXPECT_LIE(KVQ_ERR_FULL, header_of(&file)->max_tokens = 100);
    EXPECT_LIE(KVQ_ERR_SCHEME, schemes_of(&file)[1].text[2] = '7');
    EXPECT_LIE(KVQ_ERR_SCHEME, schemes_of(&file)[0].text[0] = 'x');
    EXPECT_LIE(KVQ_ERR_SCHEME,
               set_text(&file, "k=2@channel/32,v=2@token/32,r=33,mode=kivi,rtype=f32,s=3,arith=f32"));
    EXPECT_LIE(KVQ_ERR_FORMAT, set_text(&file, "kivi2,r=32,s=3")); /* the same, but not in explicit form */
    EXPECT_LIE(KVQ_ERR_FORMAT, schemes_of(&file)[0].text[KVQ_SCHEME_TEXT_MAX - 1] = 'k');
    EXPECT_LIE(KVQ_ERR_FORMAT, memset(schemes_of(&file)[0].text, 'k', KVQ_SCHEME_TEXT_MAX));
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

/* Where the first page of sequence 0, layer 0 is. A page is followed by its hash. */
static size_t first_page_of(const kvq_cache *cache)
{
    const kvq_layer_plan *plan = &cache->plan[0];
    const kvq_layer *layer = &cache->sequence[0][0];
    size_t at = sizeof(kvq_snapshot_header) + 2 * sizeof(kvq_snapshot_scheme) + sizeof(kvq_snapshot_layer);
    for (size_t role = 0; role < 2; role++) /* sinks and residual */
        at += (layer->n_tokens - layer->packed[role]) * small.n_kv_heads * plan->row_bytes[role];
    at += 8; /* and their hash */
    return at;
}

/* Put a number into it, and hash it again. */
static void poke_page(buffer *file, const kvq_cache *cache, size_t offset, uint16_t value)
{
    size_t at = first_page_of(cache), page_bytes = cache->plan[0].page_bytes;
    memcpy(file->data + at + offset, &value, sizeof value);
    uint64_t hash = kvq_snapshot_bind(XXH3_64bits(file->data + at, page_bytes), first_layer_of(file), 0);
    memcpy(file->data + at + page_bytes, &hash, sizeof hash);
}

Test(snapshot, numbers_that_no_encoder_writes_are_found)
{
    kvq_cache *cache = filled("kivi2,r=32", 150, NULL);
    buffer good = saved(cache);
    const kvq_layout *k = kvq_side_affine_layout(&cache->plan[0].side[KVQ_KEYS]);
    size_t scale = kvq_scale_offset(k, 0, 0), min = scale + k->min_offset;
    EXPECT_LIE(KVQ_OK, poke_page(&file, cache, scale, 0x3c00));
    EXPECT_LIE(KVQ_ERR_FORMAT, poke_page(&file, cache, scale, 0x7c00));
    EXPECT_LIE(KVQ_ERR_FORMAT, poke_page(&file, cache, scale, 0xbc00));
    EXPECT_LIE(KVQ_ERR_FORMAT, poke_page(&file, cache, min, 0x7e01));
    EXPECT_LIE(KVQ_OK, poke_page(&file, cache, min, 0xbc00));
    buffer_free(&good);
    kvq_cache_free(cache);
}

Test(snapshot, nonfinite_residual_is_found)
{
    kvq_cache *cache = filled("kivi2,r=32", 150, NULL);
    float *row = (float *)(void *)kvq_residual_row(&cache->plan[0], &cache->sequence[0][0], KVQ_KEYS, 0, 140);
    row[3] = NAN; /* as a program with a stray pointer would leave it */
    buffer file = saved(cache);
    kvq_error err;
    cr_assert_eq(load_damaged(&file, &err), KVQ_ERR_NONFINITE);
    buffer_free(&file);
    kvq_cache_free(cache);
}

static void swap_bytes(uint8_t *a, uint8_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = a[i];
        a[i] = b[i], b[i] = byte;
    }
}

/* Whole contents, checksums and all, that went to another place of the same size. */
Test(snapshot, swapped_pages_and_rows_are_found)
{
    kvq_cache *cache = filled("kivi2,r=32", 600, NULL);
    size_t piece = cache->plan[0].page_bytes + 8, first = first_page_of(cache),
           n = cache->sequence[0][0].n_pages;
    size_t rows =
        first - sizeof(kvq_snapshot_layer) - sizeof(kvq_snapshot_header) - 2 * sizeof(kvq_snapshot_scheme);
    size_t layer_bytes = sizeof(kvq_snapshot_layer) + rows + n * piece; /* both layers hold as many tokens */
    buffer file = saved(cache);
    kvq_error err;
    cr_assert_eq(load_damaged(&file, &err), KVQ_OK);
    swap_bytes(file.data + first, file.data + first + piece, piece);
    cr_assert_eq(load_damaged(&file, &err), KVQ_ERR_CHECKSUM, "two pages of a layer");
    cr_assert_eq(err.offset, first);
    swap_bytes(file.data + first, file.data + first + piece, piece);
    swap_bytes(file.data + first, file.data + first + layer_bytes, piece);
    cr_assert_eq(load_damaged(&file, &err), KVQ_ERR_CHECKSUM, "page 0 of two layers");
    swap_bytes(file.data + first, file.data + first + layer_bytes, piece);
    swap_bytes(file.data + first - rows, file.data + first - rows + layer_bytes, rows);
    cr_assert_eq(load_damaged(&file, &err), KVQ_ERR_CHECKSUM, "full-precision tokens of two layers");
    swap_bytes(file.data + first - rows, file.data + first - rows + layer_bytes, rows);
    cr_assert_eq(load_damaged(&file, &err), KVQ_OK);
    buffer_free(&file);
    kvq_cache_free(cache);
}

/* xxHash compares a new seed with the one it finds in a state; what the memory held before must not
 * matter. */
Test(snapshot, hashing_does_not_depend_on_what_memory_held)
{
    kvq_snapshot_header header = {.magic = KVQ_SNAPSHOT_MAGIC, .version = 3, .n_layers = 9};
    kvq_hash clean = {0}, dirty;
    char data[1000] = {1}; /* more than xxHash's short inputs, which take another way */
    kvq_snapshot_header_hash_start(&clean, header);
    kvq_hash_add(&clean, data, sizeof data);
    for (int trial = 0; trial < 3; trial++) {
        dirty = clean; /* an old state of the very same header ... */
        memset(dirty.state.customSecret, 0x5a + trial,
               sizeof dirty.state.customSecret); /* ... overwritten in part */
        kvq_snapshot_header_hash_start(&dirty, header);
        kvq_hash_add(&dirty, data, sizeof data);
        cr_assert_eq(kvq_hash_value(&dirty), kvq_hash_value(&clean));
    }
}

/* Fill a stretch of stack with what a call may find there. */
static __attribute__((noinline)) void dirty_stack(uint8_t byte)
{
    volatile uint8_t stack[200000];
    for (size_t i = 0; i < sizeof stack; i++)
        stack[i] = byte;
}

Test(snapshot, many_layers_load_whatever_the_stack_holds)
{
    for (size_t n_layers = 1; n_layers <= 48; n_layers++) {
        shape s = {n_layers, 2, 2, 32, 1};
        kvq_cache *cache = cache_of("kivi2", s, NULL);
        float x[64] = {1, 2, 3}, out[64];
        for (size_t layer = 0; layer < n_layers; layer++)
            cr_assert_eq(kvq_cache_append(cache, layer, 0, x, x, 1), KVQ_OK);
        buffer file = saved(cache);
        for (int trial = 0; trial < 6; trial++) {
            kvq_error err;
            cr_assert_eq(load_damaged(&file, &err), KVQ_OK, "%zu layers, trial %d", n_layers, trial);
            if (trial % 2 == 0)
                dirty_stack((uint8_t)(0x5a + trial));
            cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, x, 1, 1.0f, NULL, out), KVQ_OK);
        }
        buffer_free(&file);
        kvq_cache_free(cache);
    }
}

Test(snapshot, no_sequences_are_a_file_too)
{
    kvq_cache *cache = filled("kivi2,r=32", 40, NULL), *loaded;
    buffer file = {0};
    cr_assert_eq(kvq_cache_save(cache, NULL, 0, buffer_write, &file), KVQ_OK);
    cr_assert_eq(kvq_cache_load_into(cache, NULL, 0, buffer_read, &file, NULL), KVQ_OK);
    cr_assert_eq(kvq_cache_n_tokens(cache, 1, 0), 40, "nothing was replaced");
    file.at = 0;
    cr_assert_eq(kvq_cache_load(&loaded, NULL, buffer_read, &file, NULL), KVQ_OK);
    kvq_config config;
    kvq_cache_get_config(loaded, &config);
    cr_assert(config.n_sequences == 1 && config.n_layers == small.n_layers);
    cr_assert_eq(kvq_cache_n_tokens(loaded, 0, 0), 0);
    buffer_free(&file);
    kvq_cache_free(cache), kvq_cache_free(loaded);
}

Test(snapshot, loading_chooses_the_instruction_set)
{
    kvq_cache *cache = filled("kivi2,r=32", 40, NULL), *loaded = NULL;
    buffer file = saved(cache);
    kvq_load_options options;
    kvq_load_options_init(&options);
    options.isa = "portable";
    cr_assert_eq(kvq_cache_load(&loaded, &options, buffer_read, &file, NULL), KVQ_OK);
    cr_assert_str_eq(kvq_cache_isa(loaded), "portable");
    kvq_cache_free(loaded);
    options.isa = "none such";
    file.at = 0;
    cr_assert_eq(kvq_cache_load(&loaded, &options, buffer_read, &file, NULL), KVQ_ERR_ISA);
    options.struct_size = 3;
    cr_assert_eq(kvq_cache_load(&loaded, &options, buffer_read, &file, NULL), KVQ_ERR_ARG);
    buffer_free(&file);
    kvq_cache_free(cache);
}

/* Many sequences, all given by index: a file of none of their tokens loads in time that grows with their
 * number. */
Test(snapshot, hundred_thousand_sequences_load_at_once, .timeout = 60)
{
    enum { N = 200000 };
    kvq_cache *cache = cache_of("kivi2", (shape){1, 1, 1, 8, N}, NULL);
    size_t *places = malloc(N * sizeof *places);
    for (size_t i = 0; i < N; i++)
        places[i] = N - 1 - i;
    float x[8] = {1, 2, 3};
    cr_assert_eq(kvq_cache_append(cache, 0, 7, x, x, 1), KVQ_OK);
    buffer file = {0};
    cr_assert_eq(kvq_cache_save(cache, places, N, buffer_write, &file), KVQ_OK);
    cr_assert_eq(kvq_cache_load_into(cache, NULL, N, buffer_read, &file, NULL), KVQ_OK);
    file.at = 0;
    cr_assert_eq(kvq_cache_load_into(cache, places, N, buffer_read, &file, NULL), KVQ_OK);
    cr_assert_eq(kvq_cache_n_tokens(cache, 0, 7), 1);
    cr_assert_eq(kvq_cache_n_tokens(cache, 0, N - 1 - 7), 0, "overwritten by an empty one");
    places[3] = places[N - 2];
    file.at = 0;
    cr_assert_eq(kvq_cache_load_into(cache, places, N, buffer_read, &file, NULL), KVQ_ERR_ARG);
    buffer_free(&file);
    free(places);
    kvq_cache_free(cache);
}

/* ---- Versions 1 and 2 ---- */

static float number_of(uint32_t i)
{
    return (float)((int32_t)((i * 2654435761u) >> 16) % 2001 - 1000) * (i % 7 == 0 ? 1.0f / 16 : 1.0f / 256);
}

/* The cache that older libraries saved: 0.1.0 as snapshots/version1.kvq, 0.2.0 as version2.kvq. */
static kvq_cache *cache_of_older_versions(void)
{
    const kvq_scheme *const layers[] = {scheme_of("kivi2,r=32,s=3"),
                                        scheme_of("k=4@token/16,v=f16,r=64,mode=sliding,rtype=f16")};
    kvq_config config;
    kvq_cache *cache;
    kvq_config_init(&config);
    config.n_layers = 2, config.n_heads = 4, config.n_kv_heads = 2, config.head_dim = 20;
    config.n_sequences = 2, config.max_tokens = 1000, config.layer_schemes = layers;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK);
    float a[200 * 40], b[200 * 40];
    for (uint32_t i = 0; i < 200 * 40; i++)
        a[i] = number_of(i), b[i] = number_of(i + 100000);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, a, b, 200), KVQ_OK);
    cr_assert_eq(kvq_cache_append(cache, 1, 0, b, a, 200), KVQ_OK);
    cr_assert_eq(kvq_cache_append(cache, 1, 1, a, a, 37), KVQ_OK);
    return cache;
}

static buffer file_of_version(int version)
{
    char path[512];
    buffer file = {0};
    (void)snprintf(path, sizeof path, "%s/tests/snapshots/version%d.kvq", KVQ_SOURCE_DIR, version);
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f);
    uint8_t chunk[4096];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;)
        buffer_write(&file, chunk, n);
    fclose(f);
    cr_assert_eq(header_of(&file)->version, (uint32_t)version);
    return file;
}

/* n_first: bytes of the header and its schemes, which are all flipped once. */
static void check_older_version(int version, size_t n_first)
{
    buffer file = file_of_version(version);
    kvq_cache *fresh = cache_of_older_versions(), *loaded;
    kvq_error err;
    cr_assert_eq(kvq_cache_load(&loaded, NULL, buffer_read, &file, &err), KVQ_OK, "%s", err.message);
    cr_assert_eq(file.at, file.n);
    buffer a = saved(fresh), b = saved(loaded);
    cr_assert(a.n == b.n && same_bits("an older version, saved again", b.data, a.data, a.n));
    cr_assert_eq(header_of(&b)->version, 3);
    kvq_cache_reset(loaded);
    file.at = 0;
    cr_assert_eq(kvq_cache_load_into(loaded, NULL, 2, buffer_read, &file, &err), KVQ_OK, "%s", err.message);
    buffer c = saved(loaded);
    cr_assert(a.n == c.n && same_bits("an older version, loaded into a cache", c.data, a.data, a.n));
    rng r = rng_make(8);
    for (size_t trial = 0; trial < n_first + 400; trial++) {
        size_t at = trial < n_first ? trial : rng_below(&r, file.n);
        file.data[at] ^= 0x11;
        cr_assert_neq(load_damaged(&file, &err), KVQ_OK, "byte %zu", at);
        file.data[at] ^= 0x11;
    }
    buffer_free(&file), buffer_free(&a), buffer_free(&b), buffer_free(&c);
    kvq_cache_free(fresh), kvq_cache_free(loaded);
}

Test(snapshot, version_1_loads_as_what_was_saved)
{
    check_older_version(1, sizeof(kvq_snapshot_header) + 2 * sizeof(kvq_snapshot_scheme_v1));
}

Test(snapshot, version_2_loads_as_what_was_saved)
{
    check_older_version(2, sizeof(kvq_snapshot_header) + 2 * sizeof(kvq_snapshot_scheme));
}

/* Without evidence, which version 2 has none of, the two differ in their number alone. */
Test(snapshot, version_2_is_version_3_by_another_number)
{
    kvq_cache *cache = cache_of_older_versions();
    buffer now = saved(cache), then = file_of_version(2);
    header_of(&now)->version = 2;
    rehash(&now);
    cr_assert(now.n == then.n && same_bits("version 2", now.data, then.data, then.n));
    buffer_free(&now), buffer_free(&then);
    kvq_cache_free(cache);
}

/* Bytes that mean nothing in version 1 must be zero, whatever the checksum says. */
Test(snapshot, version_1_has_no_room_for_more)
{
    buffer file = file_of_version(1);
    kvq_snapshot_header *header = header_of(&file);
    kvq_snapshot_scheme_v1 *stored = (kvq_snapshot_scheme_v1 *)(void *)(file.data + sizeof *header);
    kvq_error err;
    stored[1].zero2 = 1;
    header->hash = kvq_snapshot_header_hash_v1(*header, stored);
    cr_assert_eq(load_damaged(&file, &err), KVQ_ERR_FORMAT, "%s", err.message);
    cr_assert_eq(err.offset, sizeof *header + sizeof *stored);
    stored[1].zero2 = 0, stored[1].k.bits = 7;
    header->hash = kvq_snapshot_header_hash_v1(*header, stored);
    cr_assert_eq(load_damaged(&file, &err), KVQ_ERR_SCHEME, "%s", err.message);
    buffer_free(&file);
}

/* What differs may be the query heads alone, or the scheme of a later layer. */
Test(snapshot, load_into_wants_the_same_heads_and_every_scheme)
{
    kvq_cache *cache = filled("kivi2,r=32", 40, NULL), *other;
    buffer file = saved(cache);
    kvq_error err;
    shape heads = small;
    heads.n_heads = 2;
    other = cache_of("kivi2,r=32", heads, NULL);
    cr_assert_eq(kvq_cache_load_into(other, NULL, 3, buffer_read, &file, &err), KVQ_ERR_MISMATCH);
    kvq_cache_free(other);
    kvq_config config;
    kvq_cache_get_config(cache, &config);
    const kvq_scheme *const layers[] = {scheme_of("kivi2,r=32"), scheme_of("kivi2,r=64")};
    config.layer_schemes = layers;
    cr_assert_eq(kvq_cache_create(&other, &config), KVQ_OK);
    file.at = 0;
    cr_assert_eq(kvq_cache_load_into(other, NULL, 3, buffer_read, &file, &err), KVQ_ERR_MISMATCH);
    cr_assert_eq(err.offset, sizeof(kvq_snapshot_header) + sizeof(kvq_snapshot_scheme), "the second scheme");
    buffer_free(&file);
    kvq_cache_free(cache), kvq_cache_free(other);
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
    cr_assert_eq(kvq_cache_save(cache, NULL, 4, buffer_write, &file), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_save(cache, NULL, 1, NULL, &file), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_load(NULL, NULL, buffer_read, &file, &err), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_load_into(NULL, NULL, 1, buffer_read, &file, &err), KVQ_ERR_ARG);
    buffer_free(&file);
    kvq_cache_free(cache), kvq_cache_free(loaded);
}

Test(snapshot, loading_survives_every_allocation_failure)
{
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = filled(families[i], 150, NULL);
        step_once(cache, 1, 2);
        buffer file = saved(cache);
        kvq_status status = KVQ_ERR_NOMEM;
        for (uint64_t k = 1; status != KVQ_OK; k++) {
            test_memory memory = {.fail_at = k};
            kvq_allocator allocator = test_allocator(&memory);
            kvq_cache *loaded = NULL;
            kvq_error err;
            file.at = 0;
            status = load_with(&loaded, &allocator, buffer_read, &file, &err);
            cr_assert(status == KVQ_OK || status == KVQ_ERR_NOMEM, "%s", kvq_status_string(status));
            kvq_cache_free(loaded);
            cr_assert_eq(memory.live_bytes, 0, "%s, call %d", families[i], (int)k);
        }
        buffer_free(&file);
        kvq_cache_free(cache);
    }
}

/* The format is frozen: this cache must always save to these bytes, of version 3. */
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
    cr_assert_eq(hash, UINT64_C(0x963f903f33a85a16), "%zu bytes hash to 0x%016llx", file.n,
                 (unsigned long long)hash);
    buffer_free(&file);
    kvq_cache_free(cache);
}
