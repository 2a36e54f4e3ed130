/* Attention over a float32 cache on OpenBLAS (blas.h). */
#include "eval/bench/blas.h"

#include "eval/bench/machine.h"
#include "eval/bench/target.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

bool bench_blas_init(bench_blas *b, bench_shape shape, size_t n_tokens)
{
    const size_t n = shape.n_kv_heads * n_tokens * shape.head_dim;
    *b = (bench_blas){.shape = shape,
                      .n_room = n_tokens,
                      .n_tokens = n_tokens,
                      .k = bench_alloc(n * sizeof(float)),
                      .v = bench_alloc(n * sizeof(float))};
    if (!b->k || !b->v) {
        bench_blas_free(b);
        return false;
    }
    return true;
}

void bench_blas_free(bench_blas *b)
{
    free(b->k);
    free(b->v);
    *b = (bench_blas){0};
}

void bench_blas_fill(bench_blas *b, size_t at, const float *k, const float *v, size_t n)
{
    const size_t d = b->shape.head_dim, heads = b->shape.n_kv_heads;
    for (size_t h = 0; h < heads; h++) {
        for (size_t t = 0; t < n; t++) {
            const size_t to = (h * b->n_room + at + t) * d, from = (t * heads + h) * d;
            memcpy(b->k + to, k + from, d * sizeof k[0]);
            memcpy(b->v + to, v + from, d * sizeof v[0]);
        }
    }
}

void bench_blas_reorder(bench_shape shape, size_t n_q, const float *from, float *to, bool for_blas)
{
    const size_t kv = shape.n_kv_heads, n = shape.n_heads / kv * shape.head_dim;
    for (size_t i = 0; i < n_q; i++) {
        for (size_t h = 0; h < kv; h++) {
            const size_t lib = (i * kv + h) * n, blas = (h * n_q + i) * n;
            memcpy(to + (for_blas ? blas : lib), from + (for_blas ? lib : blas), n * sizeof to[0]);
        }
    }
}

/*
 * exp(x), -1e6 < x <= 0: x = n ln 2 + r, |r| <= ln 2 / 2; a polynomial for exp(r), and 2^n into the exponent.
 * The relative error is below 1e-6; arguments under -88 give 0. It is the exponent that is kept from leaving
 * its range, not x: where x were a constant, gcc would make a path of its own for it, and no vectors.
 */
static inline BENCH_INLINE float exp_nonpositive(float x)
{
    const float magic = 0x1.8p23f; /* adding and subtracting it rounds to the nearest integer */
    const float n = (x * 1.44269504f + magic) - magic;
    const float r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const int32_t exponent = (int32_t)n + 127;
    const uint32_t bits = (uint32_t)(exponent > 0 ? exponent : 0) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* Sixteen sums side by side, so that the compiler may use vectors without being allowed to reorder sums.
 * Nothing reads x[0] before the loops: clang would carry it from turn to turn in the loop that writes x, and
 * make no vectors. tests/bench_assembly_test.sh looks whether there are some. */
static inline BENCH_INLINE void softmax_body(float *x, size_t n)
{
    enum { LANES = 16 };
    float max[LANES], sum[LANES] = {0};
    const size_t whole = n / LANES * LANES;
    for (size_t j = 0; j < LANES; j++)
        max[j] = -INFINITY;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            max[j] = x[i + j] > max[j] ? x[i + j] : max[j];
    float largest = -INFINITY, total = 0.0f;
    for (size_t i = whole; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    for (size_t j = 0; j < LANES; j++)
        largest = max[j] > largest ? max[j] : largest;
    for (size_t i = 0; i < n; i++)
        x[i] = exp_nonpositive(x[i] - largest);
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            sum[j] += x[i + j];
    for (size_t i = whole; i < n; i++)
        total += x[i];
    for (size_t j = 0; j < LANES; j++)
        total += sum[j];
    const float factor = 1.0f / total;
    for (size_t i = 0; i < n; i++)
        x[i] *= factor;
}

static inline BENCH_INLINE int softmax_rows_body(float *x, size_t n_rows, size_t stride, size_t n)
{
    for (size_t i = 0; i < n_rows; i++)
        softmax_body(x + i * stride, n);
    return 0;
}

BENCH_CLONES(int, softmax_rows, (float *x, size_t n_rows, size_t stride, size_t n), (x, n_rows, stride, n))

/* What one call of bench_blas_attend is about; q and out are those of one KV head. */
typedef struct blas_call {
    const bench_blas *blas;
    size_t n_q, group;
    float scale;
} blas_call;

static void attend_gemv(const blas_call *call, size_t kv_head, const float *q, float *p, float *out)
{
    const size_t d = call->blas->shape.head_dim, t = call->blas->n_tokens;
    const size_t head = kv_head * call->blas->n_room * d;
    const float *k = call->blas->k + head, *v = call->blas->v + head;
    const int rows = (int)t, columns = (int)d;
    for (size_t h = 0; h < call->group; h++) {
        cblas_sgemv(CblasRowMajor, CblasNoTrans, rows, columns, call->scale, k, columns, q + h * d, 1, 0.0f,
                    p, 1);
        (void)softmax_rows(p, 1, t, t);
        cblas_sgemv(CblasRowMajor, CblasTrans, rows, columns, 1.0f, v, columns, p, 1, 0.0f, out + h * d, 1);
    }
}

/* Tiles keep OpenBLAS on its path for small matrices, where it has one: there it reads the cache in place.
 * Larger products copy it first and take more than twice as long. With so many rows that a tile is too large
 * for that path (a million multiplications), one product is the fastest. */
static void attend_gemm(const blas_call *call, size_t kv_head, const float *q, float *p, float *out)
{
    enum { TILE = 256, SMALL = 1000000 };
    const size_t d = call->blas->shape.head_dim, t = call->blas->n_tokens;
    const size_t head = kv_head * call->blas->n_room * d;
    const float *k = call->blas->k + head, *v = call->blas->v + head;
    const int columns = (int)d, n_rows = (int)(call->n_q * call->group), row = (int)t;
    const size_t tile = call->n_q * call->group * TILE * d > SMALL ? t : TILE;
    for (size_t at = 0; at < t; at += tile) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n_rows, (int)(t - at < tile ? t - at : tile),
                    columns, call->scale, q, columns, k + at * d, columns, 0.0f, p + at, row);
    }
    for (size_t i = 0; i < call->n_q; i++) {
        const size_t seen = t - call->n_q + i + 1;
        float *rows = p + i * call->group * t;
        (void)softmax_rows(rows, call->group, t, seen);
        for (size_t h = 0; h < call->group; h++)
            memset(rows + h * t + seen, 0, (t - seen) * sizeof rows[0]);
    }
    for (size_t at = 0; at < t; at += tile) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n_rows, columns,
                    (int)(t - at < tile ? t - at : tile), 1.0f, p + at, row, v + at * d, columns,
                    at == 0 ? 0.0f : 1.0f, out, columns);
    }
}

size_t bench_blas_scratch(bench_shape shape, size_t n_tokens, size_t n_q, int n_threads)
{
    return (size_t)n_threads * n_q * (shape.n_heads / shape.n_kv_heads) * n_tokens;
}

static void attend_head(const blas_call *call, size_t kv_head, bool gemv, const float *q, float *scratch,
                        float *out)
{
    const bench_shape s = call->blas->shape;
    const size_t n = call->n_q * call->group * s.head_dim;
    float *p = scratch + bench_blas_scratch(s, call->blas->n_tokens, call->n_q, omp_get_thread_num());
    (gemv ? attend_gemv : attend_gemm)(call, kv_head, q + kv_head * n, p, out + kv_head * n);
}

void bench_blas_attend(const bench_blas *b, const float *q, size_t n_q, float scale, int n_threads, bool gemv,
                       float *scratch, float *out)
{
    const blas_call call = {b, n_q, b->shape.n_heads / b->shape.n_kv_heads, scale};
    /* Two branches: clang's OpenMP forgets num_threads for later regions where an if clause is false. */
    if (n_threads == 1) {
        /* OpenBLAS on OpenMP asks OpenMP, not openblas_set_num_threads, how many threads it may use. */
        const int before = omp_get_max_threads();
        omp_set_num_threads(1);
        for (size_t h = 0; h < b->shape.n_kv_heads; h++)
            attend_head(&call, h, gemv, q, scratch, out);
        omp_set_num_threads(before);
    } else { /* inside a parallel region it uses one by itself */
#pragma omp parallel for num_threads(n_threads) schedule(static)
        for (size_t h = 0; h < b->shape.n_kv_heads; h++)
            attend_head(&call, h, gemv, q, scratch, out);
    }
}
