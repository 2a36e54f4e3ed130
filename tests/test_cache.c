/*
 * The cache as a store: streaming, reading back, truncation, memory, failures. Attention is in test_attend.c,
 * saving in test_snapshot.c.
 */
#define _POSIX_C_SOURCE 200809L /* setenv */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support.h"

typedef struct tokens {
    float *k, *v;
    size_t n, row;
} tokens;

static tokens random_tokens(uint64_t stream, shape s, size_t n)
{
    rng r = rng_make(stream);
    tokens t = {.n = n, .row = s.n_kv_heads * s.head_dim};
    t.k = malloc(n * t.row * sizeof *t.k);
    t.v = malloc(n * t.row * sizeof *t.v);
    fill(&r, FILL_OFFSETS, t.k, n, t.row);
    fill(&r, FILL_HEAVY, t.v, n, t.row);
    return t;
}

static void free_tokens(tokens *t)
{
    free(t->k), free(t->v);
}

static void append(kvq_cache *cache, size_t layer, size_t sequence, const tokens *t, size_t begin, size_t n)
{
    kvq_status status =
        kvq_cache_append(cache, layer, sequence, t->k + begin * t->row, t->v + begin * t->row, n);
    cr_assert_eq(status, KVQ_OK, "append: %s", kvq_status_string(status));
}

static void expect_same_cache(const char *what, const kvq_cache *a, const kvq_cache *b)
{
    buffer sa = saved(a), sb = saved(b);
    cr_assert_eq(sa.n, sb.n, "%s: %zu bytes saved, expected %zu", what, sa.n, sb.n);
    cr_assert(same_bits(what, sa.data, sb.data, sa.n));
    buffer_free(&sa), buffer_free(&sb);
}

/* ---- Streaming ---- */

Test(cache, every_split_in_two_is_the_same)
{
    shape s = {1, 2, 2, 20, 1};
    enum { N = 300 };
    tokens t = random_tokens(1, s, N);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *whole = cache_of(families[i], s, NULL);
        append(whole, 0, 0, &t, 0, N);
        for (size_t split = 0; split <= N; split++) {
            kvq_cache *parts = cache_of(families[i], s, NULL);
            append(parts, 0, 0, &t, 0, split);
            append(parts, 0, 0, &t, split, N - split);
            expect_same_cache(families[i], parts, whole);
            kvq_cache_free(parts);
        }
        kvq_cache_free(whole);
    }
    free_tokens(&t);
}

Test(cache, token_by_token_and_random_splits_are_the_same)
{
    shape s = {2, 4, 2, 33, 3};
    enum { N = 521 };
    tokens t = random_tokens(2, s, N);
    rng r = rng_make(3);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *whole = cache_of(families[i], s, NULL), *parts = cache_of(families[i], s, NULL);
        kvq_cache *single = cache_of(families[i], s, NULL);
        append(whole, 1, 2, &t, 0, N);
        for (size_t begin = 0, n; begin < N; begin += n) {
            n = 1 + rng_below(&r, 150);
            n = n < N - begin ? n : N - begin;
            append(parts, 1, 2, &t, begin, n);
        }
        for (size_t begin = 0; begin < N; begin++)
            append(single, 1, 2, &t, begin, 1);
        expect_same_cache(families[i], parts, whole);
        expect_same_cache(families[i], single, whole);
        cr_assert_eq(kvq_cache_n_tokens(whole, 1, 2), N);
        cr_assert_eq(kvq_cache_n_tokens(whole, 0, 2), 0);
        cr_assert_eq(kvq_cache_verify(whole, NULL), KVQ_OK);
        kvq_cache_free(whole), kvq_cache_free(parts), kvq_cache_free(single);
    }
    free_tokens(&t);
}

/* ---- What is stored ---- */

Test(cache, reads_back_within_the_promised_bound)
{
    shape s = {1, 3, 3, 40, 1};
    enum { N = 400 };
    rng r = rng_make(4);
    size_t row = s.n_kv_heads * s.head_dim, n = N * row;
    float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y);
    float *k = malloc(n * sizeof *k), *v = malloc(n * sizeof *v);
    float *k_bound = malloc(n * sizeof *k_bound), *v_bound = malloc(n * sizeof *v_bound);
    for (size_t kind = 0; kind < N_FILLS; kind++) {
        fill(&r, (fill_kind)kind, x, N, row);
        fill(&r, (fill_kind)kind, y, N, row);
        for (size_t i = 0; i < N_FAMILIES; i++) {
            kvq_cache *cache = cache_of(families[i], s, NULL);
            cr_assert_eq(kvq_cache_append(cache, 0, 0, x, y, N), KVQ_OK);
            cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, N, k, v), KVQ_OK);
            cr_assert_eq(kvq_cache_read_bound(cache, 0, 0, 0, N, k_bound, v_bound), KVQ_OK);
            cr_assert(within("keys", k, x, k_bound, n), "%s, %s", families[i], fill_names[kind]);
            cr_assert(within("values", v, y, v_bound, n), "%s, %s", families[i], fill_names[kind]);
            kvq_cache_free(cache);
        }
    }
    free(x), free(y), free(k), free(v), free(k_bound), free(v_bound);
}

/* Which tokens are exact follows the rule in kvq.h; a bound of 0 marks them. */
static void expect_exact_from(const char *scheme, size_t n_tokens, size_t k_from, size_t v_from)
{
    shape s = {1, 1, 1, 16, 1};
    tokens t = random_tokens(5, s, n_tokens);
    kvq_cache *cache = cache_of(scheme, s, NULL);
    float bound[2][16];
    append(cache, 0, 0, &t, 0, n_tokens);
    for (size_t i = 0; i < n_tokens; i++) {
        cr_assert_eq(kvq_cache_read_bound(cache, 0, 0, i, 1, bound[0], bound[1]), KVQ_OK);
        cr_assert_eq(bound[0][3] == 0, i >= k_from, "%s: key %zu of %zu", scheme, i, n_tokens);
        cr_assert_eq(bound[1][3] == 0, i >= v_from, "%s: value %zu of %zu", scheme, i, n_tokens);
    }
    kvq_cache_free(cache);
    free_tokens(&t);
}

Test(cache, residual_holds_what_the_scheme_says)
{
    expect_exact_from("kivi2,r=64", 64, 0, 0);  /* the step that completes R keys still sees them exact */
    expect_exact_from("kivi2,r=64", 65, 64, 0); /* values: R + 1 */
    expect_exact_from("kivi2,r=64", 66, 64, 1);
    expect_exact_from("kivi2,r=64", 128, 64, 63);
    expect_exact_from("kivi2,r=64", 129, 128, 64);
    expect_exact_from("kivi2,r=64,mode=sliding", 95, 0, 0);
    expect_exact_from("kivi2,r=64,mode=sliding", 96, 32, 32); /* R + G are held: the oldest G go */
    expect_exact_from("kivi2,r=64,mode=sliding", 127, 32, 32);
    expect_exact_from("kivi2,r=64,mode=sliding", 128, 64, 64);
    expect_exact_from("k=2@channel/64,v=2@token/32,r=64,mode=sliding", 127, 0, 0);
    expect_exact_from("k=2@channel/64,v=2@token/32,r=64,mode=sliding", 128, 64, 64);
    expect_exact_from("k=f16,v=f16,r=0,mode=sliding", 50, 50, 50);
    expect_exact_from("k=2@token/full,v=2@token/full,r=10,mode=sliding", 41, 0, 0);
    expect_exact_from("k=2@token/full,v=2@token/full,r=10,mode=sliding", 42, 32, 32);
}

Test(cache, sinks_stay_exact)
{
    shape s = {1, 2, 2, 24, 1};
    enum { N = 400, S = 9 };
    tokens t = random_tokens(6, s, N);
    kvq_cache *cache = cache_of("kivi2,r=32,s=9", s, NULL);
    float *k = malloc(N * t.row * sizeof *k), *v = malloc(N * t.row * sizeof *v);
    append(cache, 0, 0, &t, 0, 4);
    append(cache, 0, 0, &t, 4, N - 4);
    cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, N, k, v), KVQ_OK);
    cr_assert(same_bits("sink keys", k, t.k, S * t.row * sizeof *k));
    cr_assert(same_bits("sink values", v, t.v, S * t.row * sizeof *v));
    cr_assert_neq(memcmp(k + S * t.row, t.k + S * t.row, t.row * sizeof *k), 0,
                  "the token after them is packed");
    free(k), free(v);
    kvq_cache_free(cache);
    free_tokens(&t);
}

Test(cache, reads_any_range)
{
    shape s = {1, 2, 2, 17, 1};
    enum { N = 300 };
    tokens t = random_tokens(7, s, N);
    rng r = rng_make(8);
    float *all = malloc(N * t.row * sizeof *all), *part = malloc(N * t.row * sizeof *part);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        kvq_cache *cache = cache_of(families[i], s, NULL);
        append(cache, 0, 0, &t, 0, N);
        for (size_t side = 0; side < 2; side++) {
            cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, N, side ? NULL : all, side ? all : NULL), KVQ_OK);
            for (size_t trial = 0; trial < 50; trial++) {
                size_t begin = rng_below(&r, N + 1), n = rng_below(&r, N + 1 - begin);
                cr_assert_eq(kvq_cache_read(cache, 0, 0, begin, n, side ? NULL : part, side ? part : NULL),
                             KVQ_OK);
                cr_assert(same_bits(families[i], part, all + begin * t.row, n * t.row * sizeof *all));
            }
        }
        kvq_cache_free(cache);
    }
    free(all), free(part);
    free_tokens(&t);
}

/* ---- Truncation ---- */

/* First token of either side that is packed at n_tokens: a truncation to any length whose residual starts
 * there or later leaves only tokens that were in the residual all along. */
Test(cache, truncate_then_append_is_a_fresh_cache)
{
    shape s = {1, 2, 2, 20, 1};
    enum { N = 260 };
    tokens t = random_tokens(9, s, N);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        bool f32 = strcmp(families[i], "fp32") == 0;
        for (size_t keep = 0; keep < N; keep += 1 + keep % 7) {
            kvq_cache *cut = cache_of(families[i], s, NULL), *fresh = cache_of(families[i], s, NULL);
            kvq_cache *before = cache_of(families[i], s, NULL);
            append(before, 0, 0, &t, 0, keep);
            append(cut, 0, 0, &t, 0, N);
            append(fresh, 0, 0, &t, 0, N);
            cr_assert_eq(kvq_cache_truncate(cut, 0, keep), KVQ_OK);
            cr_assert_eq(kvq_cache_n_tokens(cut, 0, 0), keep);
            buffer a = saved(cut), b = saved(before);
            cr_assert_eq(a.n, b.n, "%s at %zu: the same tokens must be packed as in a fresh cache",
                         families[i], keep);
            bool equal = memcmp(a.data, b.data, a.n) == 0;
            cr_assert(equal || !f32, "%s at %zu", families[i], keep);
            append(cut, 0, 0, &t, keep, N - keep);
            if (equal)
                expect_same_cache(families[i], cut, fresh);
            cr_assert_eq(kvq_cache_verify(cut, NULL), KVQ_OK);
            buffer_free(&a), buffer_free(&b);
            kvq_cache_free(cut), kvq_cache_free(fresh), kvq_cache_free(before);
        }
    }
    free_tokens(&t);
}

Test(cache, truncation_within_the_residual_is_exact)
{
    shape s = {2, 2, 2, 20, 1};
    enum { N = 200 };
    tokens t = random_tokens(10, s, N);
    /* kivi at 200 with r = 128: keys from 128 and values from 71 are exact. 199 wants values from 70: one is
     * lost. */
    static const struct {
        const char *scheme;
        size_t shortest; /* the smallest length whose residual is still there */
    } cases[] = {{"kivi2,mode=sliding", 192}, {"k=2,v=f32", 129}, {"kivi2,r=128", 200}, {"fp32", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t keep = cases[i].shortest; keep <= N; keep++) {
            kvq_cache *cut = cache_of(cases[i].scheme, s, NULL), *fresh = cache_of(cases[i].scheme, s, NULL);
            for (size_t layer = 0; layer < 2; layer++) {
                append(cut, layer, 0, &t, 0, N);
                append(fresh, layer, 0, &t, 0, keep);
            }
            cr_assert_eq(kvq_cache_truncate(cut, 0, keep), KVQ_OK);
            expect_same_cache(cases[i].scheme, cut, fresh);
            kvq_cache_free(cut), kvq_cache_free(fresh);
        }
    free_tokens(&t);
}

Test(cache, tokens_that_truncation_unpacks_are_the_dequantized_ones)
{
    shape s = {1, 2, 2, 20, 1};
    enum { N = 300, KEEP = 150 };
    tokens t = random_tokens(11, s, N);
    float *before[2], *after[2];
    for (size_t i = 0; i < 2; i++) {
        before[i] = malloc(N * t.row * sizeof(float));
        after[i] = malloc(N * t.row * sizeof(float));
    }
    for (size_t i = 0; i < N_FAMILIES; i++) {
        if (family_rounds(families[i]))
            continue; /* there they are rounded once more */
        kvq_cache *cache = cache_of(families[i], s, NULL);
        append(cache, 0, 0, &t, 0, N);
        cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, KEEP, before[0], before[1]), KVQ_OK);
        cr_assert_eq(kvq_cache_truncate(cache, 0, KEEP), KVQ_OK);
        cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, KEEP, after[0], after[1]), KVQ_OK);
        cr_assert(same_bits(families[i], after[0], before[0], KEEP * t.row * sizeof(float)));
        cr_assert(same_bits(families[i], after[1], before[1], KEEP * t.row * sizeof(float)));
        kvq_cache_free(cache);
    }
    free(before[0]), free(before[1]), free(after[0]), free(after[1]);
    free_tokens(&t);
}

/* ---- Memory ---- */

/* Every byte in the usage report, computed here from the scheme's definition. */
Test(cache, usage_is_what_the_allocator_handed_out)
{
    shape s = {2, 4, 2, 64, 2};
    enum { N = 1000 };
    tokens t = random_tokens(12, s, N);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        test_memory memory = {0};
        kvq_allocator allocator = test_allocator(&memory);
        kvq_cache *cache = cache_of(families[i], s, &allocator);
        kvq_usage u;
        for (size_t begin = 0; begin < N; begin += 50) {
            append(cache, 0, 1, &t, begin, 50);
            append(cache, 1, begin % 2, &t, begin, 50);
            cr_assert_eq(kvq_cache_usage(cache, &u), KVQ_OK);
            cr_assert_eq(u.total, memory.live_bytes, "%s: %d reported, %d handed out", families[i],
                         (int)u.total, (int)memory.live_bytes);
            cr_assert_eq(u.total, u.payload + u.metadata + u.residual + u.sinks + u.slack + u.bookkeeping +
                                      u.evidence);
        }
        cr_assert_eq(u.n_elements, 2 * 2 * N * t.row);
        cr_assert_eq(kvq_cache_truncate(cache, 1, 77), KVQ_OK);
        cr_assert_eq(kvq_cache_usage(cache, &u), KVQ_OK);
        cr_assert_eq(u.total, memory.live_bytes);
        kvq_cache_reset(cache);
        cr_assert_eq(kvq_cache_usage(cache, &u), KVQ_OK);
        cr_assert_eq(u.total, memory.live_bytes);
        cr_assert_eq(u.total, u.bookkeeping, "nothing is kept for tokens after a reset");
        kvq_cache_free(cache);
        cr_assert(memory.live_bytes == 0 && memory.live_blocks == 0, "%s leaks", families[i]);
    }
    free_tokens(&t);
}

Test(cache, usage_of_kivi2_by_hand)
{
    /* T = 1000, D = 64, 2 KV heads, R = 128: keys pack floor(999/128) * 128 = 896, values 1000 - 129 = 871.
     */
    shape s = {1, 2, 2, 64, 1};
    tokens t = random_tokens(13, s, 1000);
    kvq_cache *cache = cache_of("kivi2", s, NULL);
    kvq_usage u;
    append(cache, 0, 0, &t, 0, 1000);
    cr_assert_eq(kvq_cache_usage(cache, &u), KVQ_OK);
    cr_assert_eq(u.payload, 2 * (896 + 871) * 64 * 2 / 8);
    cr_assert_eq(u.metadata, 2 * (896 / 32 * 64 + 871 * 64 / 32) * 4);
    cr_assert_eq(u.residual, 2 * (104 + 129) * 64 * 4);
    cr_assert_eq(u.sinks, 0);
    cr_assert_eq(u.n_packed_elements, 2 * (896 + 871) * 64);
    cr_assert_eq((u.payload + u.metadata) * 8, 3 * u.n_packed_elements, "3 bits per element");
    kvq_cache_free(cache);
    free_tokens(&t);
}

Test(cache, usage_of_a_rounded_residual_and_sinks_by_hand)
{
    /* T = 300, S = 40, so 260 indices; R = 32: keys pack floor(259/32) * 32 = 256, values 260 - 33 = 227. */
    shape s = {1, 2, 2, 16, 1};
    tokens t = random_tokens(19, s, 300);
    kvq_cache *cache = cache_of("kivi4-g16,r=32,rtype=f16,s=40", s, NULL);
    kvq_usage u;
    append(cache, 0, 0, &t, 0, 300);
    cr_assert_eq(kvq_cache_usage(cache, &u), KVQ_OK);
    cr_assert_eq(u.payload, 2 * (256 + 227) * 16 * 4 / 8);
    cr_assert_eq(u.metadata, 2 * (256 / 16 * 16 + 227 * 16 / 16) * 4);
    cr_assert_eq(u.residual, 2 * (4 + 33) * 16 * 2);
    cr_assert_eq(u.sinks, 2 * 2 * 40 * 16 * 2);
    kvq_cache_free(cache);
    free_tokens(&t);
}

/* A truncation that gets no memory for what it must unpack keeps nothing of what it took. */
Test(cache, a_failed_truncation_takes_nothing)
{
    shape s = {2, 2, 2, 20, 1};
    tokens t = random_tokens(20, s, 300);
    test_memory memory = {0};
    kvq_allocator allocator = test_allocator(&memory);
    kvq_cache *cache = cache_of("kivi2,r=128", s, &allocator);
    kvq_usage before, after;
    append(cache, 0, 0, &t, 0, 300);
    append(cache, 1, 0, &t, 0, 300);
    buffer wanted = saved(cache);
    cr_assert_eq(kvq_cache_usage(cache, &before), KVQ_OK);
    size_t n_failures = 0;
    for (uint64_t k = 1;; k++) {
        memory.fail_at = memory.n_calls + k;
        if (kvq_cache_truncate(cache, 0, 200) == KVQ_OK)
            break;
        n_failures++;
        cr_assert_eq(kvq_cache_usage(cache, &after), KVQ_OK);
        cr_assert_eq(after.total - after.bookkeeping, before.total - before.bookkeeping, "failure at call %d",
                     (int)k);
        buffer got = saved(cache);
        cr_assert(got.n == wanted.n && same_bits("after a failed truncation", got.data, wanted.data, got.n));
        buffer_free(&got);
    }
    cr_assert_gt(n_failures, 3, "the case is meant to need blocks");
    buffer_free(&wanted);
    kvq_cache_free(cache);
    free_tokens(&t);
}

/* Hand-worked counts (which tokens are packed: kvq_scheme in kvq.h); and outside of the range they name, each
 * token is read back as it was appended, inside none is. */
Test(cache, n_packed_names_the_packed_tokens)
{
    static const struct {
        const char *scheme;
        size_t n, sinks, k, v;
    } cases[] = {
        {"kivi2,r=32,s=3", 2, 2, 0, 0},
        {"kivi2,r=32,s=3", 35, 3, 0, 0},
        {"kivi2,r=32,s=3", 36, 3, 32, 0},
        {"kivi2,r=32,s=3", 37, 3, 32, 1},
        {"kivi2,r=32,s=3", 100, 3, 96, 64},
        {"kivi2,r=32,mode=sliding", 100, 0, 64, 64},
        {"fp16", 7, 0, 7, 7},
    };
    shape s = {1, 2, 2, 32, 1};
    tokens t = random_tokens(21, s, 100);
    float *x[2] = {malloc(100 * t.row * sizeof *x[0]), malloc(100 * t.row * sizeof *x[1])};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kvq_cache *cache = cache_of(cases[i].scheme, s, NULL);
        size_t n_packed[2] = {9, 9};
        cr_assert_eq(kvq_cache_n_packed(cache, 0, 0, &n_packed[0], &n_packed[1]), KVQ_OK);
        cr_assert(n_packed[0] == 0 && n_packed[1] == 0, "an empty cache");
        append(cache, 0, 0, &t, 0, cases[i].n);
        cr_assert_eq(kvq_cache_n_packed(cache, 0, 0, &n_packed[0], NULL), KVQ_OK);
        cr_assert_eq(kvq_cache_n_packed(cache, 0, 0, NULL, &n_packed[1]), KVQ_OK);
        cr_expect(n_packed[0] == cases[i].k && n_packed[1] == cases[i].v, "%s, %zu tokens: %zu and %zu",
                  cases[i].scheme, cases[i].n, n_packed[0], n_packed[1]);
        cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, cases[i].n, x[0], x[1]), KVQ_OK);
        for (size_t side = 0; side < 2; side++) {
            const float *given = side == 0 ? t.k : t.v;
            for (size_t j = 0; j < cases[i].n; j++) {
                const bool packed = j >= cases[i].sinks && j < cases[i].sinks + n_packed[side];
                const bool same = memcmp(x[side] + j * t.row, given + j * t.row, t.row * sizeof *given) == 0;
                cr_expect_eq(same, !packed, "%s, side %zu, token %zu", cases[i].scheme, side, j);
            }
        }
        kvq_cache_free(cache);
    }
    kvq_cache *cache = cache_of("kivi2", s, NULL);
    size_t n = 9;
    cr_assert_eq(kvq_cache_n_packed(NULL, 0, 0, &n, &n), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_n_packed(cache, 1, 0, &n, &n), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_n_packed(cache, 0, 1, &n, &n), KVQ_ERR_ARG);
    cr_assert_eq(n, 9, "written on KVQ_OK only");
    kvq_cache_free(cache);
    free(x[0]), free(x[1]);
    free_tokens(&t);
}

Test(cache, slack_stays_small_and_memory_comes_back)
{
    shape s = {1, 2, 2, 64, 1};
    enum { N = 20000 };
    tokens t = random_tokens(14, s, 1000);
    test_memory memory = {0};
    kvq_allocator allocator = test_allocator(&memory);
    kvq_cache *cache = cache_of("kivi2", s, &allocator);
    kvq_usage u;
    for (size_t i = 0; i < N / 1000; i++)
        append(cache, 0, 0, &t, 0, 1000);
    cr_assert_eq(kvq_cache_usage(cache, &u), KVQ_OK);
    /* Pools grow by an eighth; a residual block and an open page come on top. */
    cr_assert_lt(u.slack, (u.payload + u.metadata) / 7 + 128 * 1024, "slack %d of %d", (int)u.slack,
                 (int)u.total);
    uint64_t full = u.total;
    cr_assert_eq(kvq_cache_truncate(cache, 0, N / 4), KVQ_OK);
    cr_assert_eq(kvq_cache_usage(cache, &u), KVQ_OK);
    cr_assert_lt(u.total, full / 3, "a quarter of the tokens keep %d of %d bytes", (int)u.total, (int)full);
    kvq_cache_free(cache);
    free_tokens(&t);
}

Test(cache, holds_a_million_tokens)
{
    shape s = {1, 1, 1, 16, 1};
    enum { STEP = 10000, N = 1000000 };
    tokens t = random_tokens(15, s, STEP);
    kvq_cache *cache = cache_of("kivi2", s, NULL);
    for (size_t i = 0; i < N / STEP; i++)
        append(cache, 0, 0, &t, 0, STEP);
    float k[16], v[16], bound[2][16];
    for (size_t i = 0; i < 1000; i++) {
        size_t at = i * 997 % (N - 200);
        cr_assert_eq(kvq_cache_read(cache, 0, 0, at, 1, k, v), KVQ_OK);
        cr_assert_eq(kvq_cache_read_bound(cache, 0, 0, at, 1, bound[0], bound[1]), KVQ_OK);
        cr_assert(within("key", k, t.k + at % STEP * t.row, bound[0], 16));
        cr_assert(within("value", v, t.v + at % STEP * t.row, bound[1], 16));
    }
    float q[16] = {1}, out[16];
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 0.25f, NULL, out), KVQ_OK);
    cr_assert(isfinite(out[0]));
    cr_assert_eq(kvq_cache_verify(cache, NULL), KVQ_OK);
    kvq_cache_free(cache);
    free_tokens(&t);
}

/* ---- Failures ---- */

/* Create, append, truncate, with the allocator failing at its k-th call, for every k until all succeed. */
Test(cache, survives_every_allocation_failure)
{
    shape s = {2, 2, 2, 20, 2};
    enum { N = 300 };
    tokens t = random_tokens(16, s, N);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        bool failed = true;
        for (uint64_t k = 1; failed; k++) {
            test_memory memory = {.fail_at = k};
            kvq_allocator allocator = test_allocator(&memory);
            kvq_config config;
            kvq_config_init(&config);
            config.n_layers = 2, config.n_heads = 2, config.n_kv_heads = 2, config.head_dim = 20;
            config.n_sequences = 2;
            config.scheme_text = families[i];
            config.allocator = &allocator;
            kvq_cache *cache = NULL, *wanted = cache_of(families[i], s, NULL);
            failed = kvq_cache_create(&cache, &config) == KVQ_ERR_NOMEM;
            cr_assert_eq(failed, cache == NULL);
            static const size_t steps[] = {3, 140, 1, 156};
            for (size_t j = 0, begin = 0; cache != NULL && j < 4; begin += steps[j++]) {
                size_t tries = 0;
                while (kvq_cache_append(cache, 1, 1, t.k + begin * t.row, t.v + begin * t.row, steps[j]) !=
                       KVQ_OK) {
                    failed = true;
                    expect_same_cache("after a failed append", cache, wanted);
                    cr_assert_lt(++tries, 2, "only one call fails");
                }
                append(wanted, 1, 1, &t, begin, steps[j]);
                expect_same_cache(families[i], cache, wanted);
            }
            if (cache != NULL && kvq_cache_truncate(cache, 1, 100) == KVQ_ERR_NOMEM) {
                failed = true;
                expect_same_cache("after a failed truncation", cache, wanted);
                cr_assert_eq(kvq_cache_truncate(cache, 1, 100), KVQ_OK);
            }
            cr_assert_eq(kvq_cache_truncate(wanted, 1, 100), KVQ_OK);
            if (cache != NULL)
                expect_same_cache("after truncation", cache, wanted);
            kvq_cache_free(cache), kvq_cache_free(wanted);
            cr_assert_eq(memory.live_bytes, 0, "%s leaks when call %d fails", families[i], (int)k);
        }
    }
    free_tokens(&t);
}

Test(cache, nonfinite_input_changes_nothing)
{
    shape s = {1, 2, 2, 20, 1};
    tokens t = random_tokens(17, s, 400);
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t family = 0; family < N_FAMILIES; family++) {
        kvq_cache *cache = cache_of(families[family], s, NULL), *wanted = cache_of(families[family], s, NULL);
        append(cache, 0, 0, &t, 0, 100);
        append(wanted, 0, 0, &t, 0, 100);
        for (size_t i = 0; i < 3; i++)
            for (size_t side = 0; side < 2; side++) {
                float *x = (side ? t.v : t.k) + (size_t[]){150, 399, 100}[i] * t.row + 7, kept = *x;
                *x = bad[i];
                kvq_status status = kvq_cache_append(cache, 0, 0, t.k + 100 * t.row, t.v + 100 * t.row, 300);
                cr_assert_eq(status, KVQ_ERR_NONFINITE, "%s", families[family]);
                expect_same_cache(families[family], cache, wanted);
                *x = kept;
            }
        append(cache, 0, 0, &t, 100, 300);
        append(wanted, 0, 0, &t, 100, 300);
        expect_same_cache(families[family], cache, wanted);
        kvq_cache_free(cache), kvq_cache_free(wanted);
    }
    free_tokens(&t);
}

Test(cache, arguments_are_checked)
{
    shape s = {2, 4, 2, 8, 3};
    float x[16] = {0};
    kvq_config config;
    kvq_cache *cache = NULL;
    kvq_usage usage;
    kvq_config_init(&config);
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_ARG, "dimensions of 0");
#define EXPECT_BAD(status, change)                                                                           \
    kvq_config_init(&config);                                                                                \
    config.n_layers = 2, config.n_heads = 4, config.n_kv_heads = 2, config.head_dim = 8;                     \
    config.change;                                                                                           \
    cr_assert_eq(kvq_cache_create(&cache, &config), status, #change);                                        \
    cr_assert_null(cache)
    EXPECT_BAD(KVQ_ERR_ARG, struct_size = 3);
    EXPECT_BAD(KVQ_ERR_ARG, struct_size = offsetof(kvq_config, isa));
    EXPECT_BAD(KVQ_ERR_ARG, struct_size = 8192);
    EXPECT_BAD(KVQ_ERR_ARG, n_layers = KVQ_MAX_LAYERS + 1);
    EXPECT_BAD(KVQ_ERR_ARG, n_heads = 5);
    EXPECT_BAD(KVQ_ERR_ARG, head_dim = KVQ_MAX_HEAD_DIM + 1);
    EXPECT_BAD(KVQ_ERR_ARG, n_sequences = 0);
    EXPECT_BAD(KVQ_ERR_ARG, max_tokens = KVQ_MAX_TOKENS + 1);
    EXPECT_BAD(KVQ_ERR_SCHEME, scheme_text = "kivi7");
    EXPECT_BAD(KVQ_ERR_ARG, scheme_text = NULL);
    const kvq_scheme *const layers[2] = {scheme_of("kivi2"), NULL};
    EXPECT_BAD(KVQ_ERR_ARG, layer_schemes = layers);
    cr_assert_eq(kvq_cache_create(NULL, &config), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_create(&cache, NULL), KVQ_ERR_ARG);

    cache = cache_of("kivi2", s, NULL);
    cr_assert_eq(kvq_cache_append(NULL, 0, 0, x, x, 1), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_append(cache, 2, 0, x, x, 1), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_append(cache, 0, 3, x, x, 1), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, NULL, x, 1), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x, NULL, 1), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, NULL, NULL, 0), KVQ_OK);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x, x, KVQ_MAX_TOKENS + 1), KVQ_ERR_FULL);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x, x, 1), KVQ_OK);
    cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, 2, x, NULL), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_read(cache, 0, 0, 2, 0, x, NULL), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_read(cache, 0, 0, 1, SIZE_MAX, x, NULL), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_read(cache, 1, 2, 0, 0, x, NULL), KVQ_OK);
    cr_assert_eq(kvq_cache_truncate(cache, 3, 0), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_truncate(cache, 0, 10), KVQ_OK, "a shorter sequence stays as it is");
    cr_assert_eq(kvq_cache_n_tokens(cache, 0, 0), 1);
    cr_assert_eq(kvq_cache_n_tokens(cache, 9, 0), 0);
    cr_assert_eq(kvq_cache_usage(cache, NULL), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_usage(NULL, &usage), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_verify(NULL, NULL), KVQ_ERR_ARG);
    kvq_cache_free(cache);
    kvq_cache_free(NULL);
    kvq_cache_reset(NULL);
}

/* Every call that fills or frees something takes NULL. */
Test(cache, null_is_fine_where_it_can_be)
{
    kvq_config_init(NULL);
    kvq_attend_options_init(NULL);
    kvq_attend_counters_init(NULL);
    kvq_load_options_init(NULL);
    kvq_kivi_init(NULL);
    kvq_scheme_free(NULL);
    kvq_cache_free(NULL);
    kvq_cache_get_config(NULL, &(kvq_config){0});
    kvq_cache *cache = cache_of("kivi2", (shape){1, 1, 1, 8, 1}, NULL);
    kvq_config config;
    kvq_cache_get_config(cache, &config);
    cr_assert_eq(config.head_dim, 8);
    cr_assert_null(kvq_cache_isa(NULL));
    cr_assert_eq(kvq_cache_export_kivi(cache, 0, 0, NULL), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_import_kivi(cache, 0, 0, NULL), KVQ_ERR_ARG);
    struct {
        kvq_usage it;
        uint64_t behind[2];
    } usage;
    cr_assert_eq(kvq_cache_usage_sized(cache, &usage.it, 3), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_usage_sized(cache, &usage.it, 1 << 20), KVQ_ERR_ARG);
    cr_assert_eq(kvq_cache_usage_sized(cache, &usage.it, sizeof usage), KVQ_OK);
    cr_assert_eq(usage.it.struct_size, sizeof(kvq_usage), "what was filled of a larger one");
    cr_assert(usage.behind[0] == 0 && usage.behind[1] == 0);
    float q[8] = {0}, out[8] = {7};
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 0, q, 1, 1, NULL, out), KVQ_OK, "no sequences are a no-op");
    cr_assert_eq(out[0], 7);
    kvq_cache_free(cache);
}

Test(cache, max_tokens_holds)
{
    kvq_config config;
    kvq_cache *cache;
    float x[8] = {0};
    kvq_config_init(&config);
    config.n_layers = 1, config.n_heads = 1, config.n_kv_heads = 1, config.head_dim = 4;
    config.max_tokens = 3;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x, x, 2), KVQ_OK);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x, x, 2), KVQ_ERR_FULL);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x, x, 1), KVQ_OK);
    cr_assert_eq(kvq_cache_append(cache, 0, 0, x, x, 1), KVQ_ERR_FULL);
    cr_assert_eq(kvq_cache_n_tokens(cache, 0, 0), 3);
    kvq_cache_free(cache);
}

Test(cache, layers_may_differ)
{
    shape s = {2, 2, 2, 32, 1};
    tokens t = random_tokens(18, s, 300);
    const kvq_scheme *const layers[2] = {scheme_of("fp32"), scheme_of("kivi2,r=32")};
    kvq_config config, got;
    kvq_cache *mixed, *plain = cache_of("kivi2,r=32", s, NULL);
    kvq_config_init(&config);
    config.n_layers = 2, config.n_heads = 2, config.n_kv_heads = 2, config.head_dim = 32;
    config.layer_schemes = layers;
    cr_assert_eq(kvq_cache_create(&mixed, &config), KVQ_OK);
    kvq_cache_get_config(mixed, &got);
    cr_assert_str_eq(kvq_scheme_text(got.layer_schemes[0]), "fp32");
    cr_assert_str_eq(kvq_scheme_text(got.layer_schemes[1]), "kivi2,r=32");
    kvq_cache *alike;
    cr_assert_eq(kvq_cache_create(&alike, &got), KVQ_OK, "a config that a cache hands out makes another one");
    kvq_cache_free(alike);
    float *a = malloc(300 * t.row * sizeof *a), *b = malloc(300 * t.row * sizeof *b);
    for (size_t layer = 0; layer < 2; layer++) {
        append(mixed, layer, 0, &t, 0, 300);
        append(plain, layer, 0, &t, 0, 300);
    }
    cr_assert_eq(kvq_cache_read(mixed, 0, 0, 0, 300, a, NULL), KVQ_OK);
    cr_assert(same_bits("the fp32 layer", a, t.k, 300 * t.row * sizeof *a));
    cr_assert_eq(kvq_cache_read(mixed, 1, 0, 0, 300, a, NULL), KVQ_OK);
    cr_assert_eq(kvq_cache_read(plain, 1, 0, 0, 300, b, NULL), KVQ_OK);
    cr_assert(same_bits("the kivi2 layer", a, b, 300 * t.row * sizeof *a));
    free(a), free(b);
    kvq_cache_free(mixed), kvq_cache_free(plain);
    free_tokens(&t);
}

Test(cache, isa_is_chosen_by_the_environment)
{
    cr_assert_not_null(kvq_isa());
    kvq_cache *cache = cache_of("kivi2", (shape){1, 1, 1, 8, 1}, NULL);
    cr_assert_str_eq(kvq_cache_isa(cache), kvq_isa());
    kvq_cache_free(cache);
}

Test(cache, unknown_isa_is_an_error)
{
    setenv("KVQ_ISA", "sse9",
           1); /* each test is a process of its own, and nothing has asked for kernels yet */
    kvq_config config;
    kvq_cache *cache = NULL;
    kvq_config_init(&config);
    config.n_layers = config.n_heads = config.n_kv_heads = config.head_dim = 1;
    cr_assert_null(kvq_isa());
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_ISA);
    cr_assert_null(cache);
}

Test(cache, every_status_has_a_text)
{
    for (int i = KVQ_OK; i <= KVQ_ERR_MISMATCH; i++)
        for (int j = KVQ_OK; j < i; j++)
            cr_assert_str_neq(kvq_status_string((kvq_status)i), kvq_status_string((kvq_status)j));
    cr_assert_str_eq(kvq_status_string((kvq_status)99), "unknown status");
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", KVQ_VERSION_MAJOR, KVQ_VERSION_MINOR, KVQ_VERSION_PATCH);
    cr_assert_str_eq(kvq_version(), version);
}
