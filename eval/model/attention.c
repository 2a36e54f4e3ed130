/* Causal attention of a prompt (attention.h): per head and tile of queries, an online softmax over tiles of
 * keys (Milakov and Gimelshein, arXiv 1805.02867), the products by BLAS. */
#include "eval/model/attention.h"

#include "eval/model/exp_f32.h"

#include <cblas.h>
#include <float.h>
#include <string.h>

/* A tile of scores lives on the stack: 32 KB. */
#define QUERY_TILE 64
#define KEY_TILE   128

/* Online softmax of one row: turns the scores of keys [begin, end) of the tile into weights relative to the
 * new maximum, the others into 0, and scales what has been summed so far (the running sum and out[D]) to that
 * maximum. Without a key that it sees, a row stays as it is. */
static void softmax_step(float *scores, size_t begin, size_t end, size_t n_keys, float *running_max,
                         float *running_sum, float *out, size_t D)
{
    if (begin >= end) {
        memset(scores, 0, n_keys * sizeof *scores);
        return;
    }
    float max = *running_max, sum = 0.0f;
    for (size_t j = begin; j < end; j++)
        max = scores[j] > max ? scores[j] : max;
#pragma omp simd reduction(+ : sum)
    for (size_t j = begin; j < end; j++) {
        scores[j] = exp_f32(scores[j] - max);
        sum += scores[j];
    }
    memset(scores, 0, begin * sizeof *scores);
    memset(scores + end, 0, (n_keys - end) * sizeof *scores);
    const float correction = exp_f32(*running_max - max);
    for (size_t i = 0; i < D; i++)
        out[i] *= correction;
    *running_sum = *running_sum * correction + sum;
    *running_max = max;
}

/* What a query at position p sees begins here. */
static size_t first_visible(const attention_shape *s, size_t p)
{
    return s->window == 0 || p < s->window ? 0 : p + 1 - s->window;
}

/* Queries first..first+n_queries-1 of one head; q, k, v, out point at the head's first token. */
static void attend_tile(const attention_shape *s, const float *q, const float *k, const float *v,
                        size_t first, size_t n_queries, float *out)
{
    float scores[QUERY_TILE * KEY_TILE], running_max[QUERY_TILE], running_sum[QUERY_TILE];
    const size_t D = s->D, q_row = s->H * D, k_row = s->Hkv * D, end = first + n_queries;
    const blasint q_stride = (blasint)q_row, k_stride = (blasint)k_row, dim = (blasint)D;
    const blasint rows = (blasint)n_queries;
    for (size_t i = 0; i < n_queries; i++) {
        running_max[i] = -FLT_MAX;
        running_sum[i] = 0.0f;
        memset(out + (first + i) * q_row, 0, D * sizeof *out);
    }
    for (size_t key = first_visible(s, first); key < end; key += KEY_TILE) {
        const size_t n_keys = end - key < KEY_TILE ? end - key : KEY_TILE;
        const blasint columns = (blasint)n_keys;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, columns, dim, s->scale, q + first * q_row,
                    q_stride, k + key * k_row, k_stride, 0.0f, scores, columns);
        for (size_t i = 0; i < n_queries; i++) {
            const size_t p = first + i, seen_from = first_visible(s, p);
            const size_t begin = seen_from > key ? seen_from - key : 0;
            const size_t past = p + 1 > key ? p + 1 - key : 0;
            softmax_step(scores + i * n_keys, begin, past < n_keys ? past : n_keys, n_keys, &running_max[i],
                         &running_sum[i], out + p * q_row, D);
        }
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, dim, columns, 1.0f, scores, columns,
                    v + key * k_row, k_stride, 1.0f, out + first * q_row, q_stride);
    }
    for (size_t i = 0; i < n_queries; i++)
        for (size_t d = 0; d < D; d++)
            out[(first + i) * q_row + d] /= running_sum[i];
}

void attention_causal(const attention_shape *s, const float *q, const float *k, const float *v, size_t n,
                      float *out)
{
    const size_t n_tiles = (n + QUERY_TILE - 1) / QUERY_TILE;
    /* Inside a parallel region OpenBLAS runs each product on the calling thread. Late tiles, which see the
     * most keys, come first, so that the threads finish together. */
#pragma omp parallel for schedule(dynamic)
    for (size_t job = 0; job < n_tiles * s->H; job++) {
        const size_t head = job % s->H, kv = head / (s->H / s->Hkv) * s->D;
        const size_t first = (n_tiles - 1 - job / s->H) * QUERY_TILE;
        const size_t n_queries = n - first < QUERY_TILE ? n - first : QUERY_TILE;
        attend_tile(s, q + head * s->D, k + kv, v + kv, first, n_queries, out + head * s->D);
    }
}
