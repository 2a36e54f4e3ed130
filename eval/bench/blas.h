/* The baseline: attention of one new token over a float32 cache, written on OpenBLAS as well as we can. */
#ifndef KVQ_EVAL_BENCH_BLAS_H
#define KVQ_EVAL_BENCH_BLAS_H

#include "eval/bench/options.h"

#include <stddef.h>

/* One layer. Each head's keys lie together, [Hkv][T][D], and so its values: the layout that suits BLAS
 * best. */
typedef struct bench_blas {
    bench_shape shape;
    size_t n_tokens;
    float *k, *v;   /* on huge pages */
    float *scratch; /* [H][T] probabilities; one layer's use at a time, so it may be shared */
} bench_blas;

/** Take memory for n_tokens tokens. False if there is none; then nothing is held. */
EVAL_MUST_CHECK bool bench_blas_init(bench_blas *b, bench_shape shape, size_t n_tokens);
void bench_blas_free(bench_blas *b);

/** Store n tokens from position `at` on: k, v are [n][Hkv][D], as kvq_cache_append takes them. */
void bench_blas_fill(bench_blas *b, size_t at, const float *k, const float *v, size_t n);

/**
 * out[H][D] = softmax(scale * q K^T) V for q[H][D], with n_threads threads over the heads and OpenBLAS
 * single-threaded in each. gemv: two matrix-vector products per query head. Otherwise matrix products per KV
 * head and tile of tokens, which read it once for all its query heads; where OpenBLAS has kernels for small
 * matrices they win with one query head, too.
 */
void bench_blas_attend(const bench_blas *b, const float *q, float scale, int n_threads, bool gemv,
                       float *out);

#endif
