/*
 * What the tests share: random data with outliers, comparisons that say where they failed, an allocator that
 * counts and can fail, caches made from a line of text.
 */
#ifndef KVQ_TESTS_SUPPORT_H
#define KVQ_TESTS_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/kvq.h"

/* ---- Random data. The seed is KVQ_SEED from the environment, or a fixed one; failures print it. ---- */

typedef struct rng {
    uint64_t state;
} rng;

uint64_t test_seed(void);
rng rng_make(uint64_t stream); /* independent streams of test_seed() */
uint64_t rng_u64(rng *r);
size_t rng_below(rng *r, size_t n);
float rng_uniform(rng *r); /* [0, 1) */
float rng_normal(rng *r);

typedef enum fill_kind {
    FILL_ZERO,
    FILL_EQUAL, /* one value, not a half */
    FILL_NORMAL,
    FILL_HEAVY,   /* normal cubed: heavy tails */
    FILL_OUTLIER, /* one channel times 1000 */
    FILL_OFFSETS, /* normal plus a large offset per channel: what keys look like */
    FILL_TINY,    /* subnormal halves */
    FILL_HUGE,    /* around the largest half and beyond */
    FILL_TIES,    /* multiples of a half step */
    N_FILLS,
} fill_kind;

extern const char *const fill_names[N_FILLS];

/** n rows of dim values; channels matter for OUTLIER and OFFSETS. */
void fill(rng *r, fill_kind kind, float *x, size_t n, size_t dim);

/* ---- Comparisons: false, with a message on stderr, at the first difference ---- */

bool same_bits(const char *what, const void *a, const void *b, size_t n_bytes);
bool within(const char *what, const float *got, const float *wanted, const float *bound, size_t n);

double rel_l2(const float *got, const float *wanted, size_t n);

/* ---- An allocator that counts what it handed out and can fail ---- */

typedef struct test_memory {
    uint64_t live_bytes, live_blocks, n_calls;
    uint64_t fail_at; /* the call (from 1) that returns NULL; 0 for none */
} test_memory;

kvq_allocator test_allocator(test_memory *memory);

/* ---- Caches ---- */

typedef struct shape {
    size_t n_layers, n_heads, n_kv_heads, head_dim, n_sequences;
} shape;

/** The scheme of a text, kept for the rest of the program; aborts the test if the text is wrong. */
kvq_scheme *scheme_of(const char *text);

/** Aborts likewise. */
kvq_cache *cache_of(const char *scheme, shape s, const kvq_allocator *allocator);

/* ---- A file in memory, for save and load ---- */

typedef struct buffer {
    uint8_t *data;
    size_t n, capacity, at; /* at: where reading goes on */
} buffer;

bool buffer_write(void *ctx, const void *data, size_t n_bytes);
size_t buffer_read(void *ctx, void *data, size_t n_bytes);
void buffer_free(buffer *b);

/** All of a cache's sequences, as saved. */
buffer saved(const kvq_cache *cache);

#endif /* KVQ_TESTS_SUPPORT_H */
