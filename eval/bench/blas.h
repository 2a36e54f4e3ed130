/* The baseline: attention of new tokens over a float32 cache, written on OpenBLAS as well as we can. */
#ifndef KVQ_EVAL_BENCH_BLAS_H
#define KVQ_EVAL_BENCH_BLAS_H

#include "eval/bench/options.h"

#include <stddef.h>

/* One layer. Each head's keys lie together, [Hkv][n_room][D], and so its values: the layout that suits BLAS
 * best. */
typedef struct bench_blas {
    bench_shape shape;
    size_t n_room;   /* tokens that there is memory for */
    size_t n_tokens; /* the first of them are attended to: n_room, unless somebody says less */
    float *k, *v;    /* on huge pages */
} bench_blas;

/** Take memory for n_tokens tokens. False if there is none; then nothing is held. */
EVAL_MUST_CHECK bool bench_blas_init(bench_blas *b, bench_shape shape, size_t n_tokens);
void bench_blas_free(bench_blas *b);

/** Store n tokens from position `at` on: k, v are [n][Hkv][D], as kvq_cache_append takes them. */
void bench_blas_fill(bench_blas *b, size_t at, const float *k, const float *v, size_t n);

/** q or out of n_q queries, as the library has them ([n_q][H][D]), into the order of bench_blas_attend, or
 * back. */
void bench_blas_reorder(bench_shape shape, size_t n_q, const float *from, float *to, bool for_blas);

/** Floats that bench_blas_attend needs as scratch memory, which layers may share: probabilities of one KV
 * head for each thread. */
size_t bench_blas_scratch(bench_shape shape, size_t n_tokens, size_t n_q, int n_threads);

/**
 * out = softmax(scale * q K^T) V for the last n_q tokens, with n_threads threads over the KV heads and
 * OpenBLAS single-threaded in each; q and out are [Hkv][n_q][H / Hkv][D], which is [H][D] for one query.
 *
 * gemv, for n_q = 1 only: two matrix-vector products per query head. Otherwise matrix products per KV head,
 * which read it once for all its queries: in tiles of tokens for few of them, because where OpenBLAS has
 * kernels for small matrices these win with one query head, too. Queries are causal: products are of all
 * tokens, and what a query may not see is left out of its softmax and has probability 0.
 */
void bench_blas_attend(const bench_blas *b, const float *q, size_t n_q, float scale, int n_threads, bool gemv,
                       float *scratch, float *out);

#endif
