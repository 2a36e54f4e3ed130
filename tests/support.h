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

/* For what takes minutes under a sanitizer, and is served by shorter tests as well. */
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED true
#endif
#endif
#ifndef SANITIZED
#define SANITIZED false
#endif

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

/*
 * All kinds of schemes: what the suites of cache, snapshot, attend, bound and the fuzz targets run over. They
 * take every path between them: modes, axes, widths, groups, dtypes of the residual, sinks, codecs, also one
 * that only tests have (toy_codec.h). One more kind is one more line.
 */
#define FAMILIES(X)                                                                                          \
    X("kivi2")                                                                                               \
    X("kivi2,r=32")                                                                                          \
    X("kivi1,r=32")                                                                                          \
    X("kivi4-g16,r=48")                                                                                      \
    X("kivi8-g64,r=64,s=5")                                                                                  \
    X("kivi8-g128,s=140")                                                                                    \
    X("kivi3,r=64,mode=sliding")                                                                             \
    X("kivi2,r=0,mode=sliding")                                                                              \
    X("k=1@token/16,v=6@channel/128,r=128")                                                                  \
    X("k=4@token/32,v=4@channel/32,r=32")                                                                    \
    X("k=5@token/full,v=2@token/full,r=7,s=3")                                                               \
    X("k=8@token/full,v=8@token/full,r=0,mode=sliding")                                                      \
    X("kivi2,r=32,arith=kivi-f16")                                                                           \
    X("kivi4,r=0,mode=sliding,arith=kivi-f16")                                                               \
    X("k=f16,v=2,r=16")                                                                                      \
    X("fp16")                                                                                                \
    X("fp32")                                                                                                \
    X("fp32,r=40,mode=kivi,rtype=f16")                                                                       \
    X("kivi2,r=32,s=130,rtype=f16")                                                                          \
    X("kivi2,r=32,s=3,rtype=i8")                                                                             \
    X("kivi4,r=64,mode=sliding,rtype=f16/i8")                                                                \
    X("k=f32,v=4,r=33,mode=sliding,s=2,rtype=i8/f32")                                                        \
    X("k=toy,v=toy")                                                                                         \
    X("k=toy:0,v=toy:5,r=0,mode=sliding,s=3")                                                                \
    X("k=2,v=toy:2,r=128,mode=sliding,rtype=f16")                                                            \
    X("kvq2")                                                                                                \
    X("kvq2-fb,r=0")                                                                                         \
    X("kvq1.5,s=0,rtype=f32")                                                                                \
    X("k=tier:3.5,v=rot:3,hh=8,r=256")                                                                       \
    X("k=tier:2:cert,v=rot:4,hh=3,mode=sliding,s=2,rtype=f16")                                               \
    X("k=tier:2:u=1:cert,v=rot:4:page=0,r=128")                                                              \
    X("k=tier:4,v=2,rtype=i8/f32")                                                                           \
    X("q8_0")                                                                                                \
    X("q4_1,r=0,s=0")                                                                                        \
    X("turbo2-nc,rtype=f32")                                                                                 \
    X("kvarn2")                                                                                              \
    X("quarot4,r=16")                                                                                        \
    X("nuq2,r=0")

#define FAMILY_COUNT(text) +1
enum { N_FAMILIES = 0 FAMILIES(FAMILY_COUNT) };
extern const char *const families[N_FAMILIES];

/** Is what its residual holds rounded? Then bounds are not 0 there, and what truncation unpacks is rounded
 * once more. */
bool family_rounds(const char *scheme);

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
