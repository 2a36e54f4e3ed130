/* GPT-2's LayerNorm, projections, MLP, head and prompt attention.
 *
 * Source: Radford et al., "Language models are unsupervised multitask learners", 2019; pre-norm, learned
 * positions, tanh GELU.
 */
#include "eval/model/gpt2_forward.h"

#include <assert.h>
#include <cblas.h>
#include <float.h>
#include <math.h>
#include <string.h>

/* Below this many floats a loop is over before threads have started. */
#define PARALLEL_FLOATS 16384

/* ---- small functions of one float or one row ---- */

/* e^x to about 2 units in the last place: 2^n * e^r with n = round(x / ln 2), so |r| <= ln(2) / 2, and the
 * Taylor series of e^r to the 7th degree (remainder below 6e-9). Written without branches and calls, so that
 * compilers vectorise the loops around it; expf would keep them scalar. Arguments beyond what a normal float
 * can hold are clamped: the smallest result is about 1e-38. */
static inline float exp_f32(float x)
{
    const float round_magic = 0x1.8p23f; /* adding it rounds to an integer, kept in the low mantissa bits */
    const float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f; /* n * ln2_high is exact for |n| <= 255 */
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 0x1.715476p+0f + round_magic;
    float n = shifted - round_magic;
    float r = (x - n * ln2_high) - n * ln2_low;
    float e = 1.0f / 5040;
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    uint32_t bits, n_bits;
    memcpy(&bits, &e, sizeof bits);
    memcpy(&n_bits, &shifted, sizeof n_bits);
    bits += n_bits << 23; /* multiplies by 2^n; the magic's own bits are shifted out */
    memcpy(&e, &bits, sizeof e);
    return e;
}

/* gelu_new: x/2 * (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), which is x / (1 + e^(-2u)). */
static void gelu_row(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float u = 0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        x[i] = x[i] / (1.0f + exp_f32(-2.0f * u));
    }
}

static void layer_norm_row(float *y, const float *x, const float *weight, const float *bias, size_t n,
                           float epsilon)
{
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    const float mean = sum / (float)n;
#pragma omp simd reduction(+ : squares)
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    const float inverse = 1.0f / sqrtf(squares / (float)n + epsilon);
    for (size_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
}

static void layer_norm(const gpt2_model *m, const float *x, size_t n, const float *weight, const float *bias,
                       float *y)
{
    const size_t E = m->config.n_embd;
#pragma omp parallel for schedule(static) if (n * E > PARALLEL_FLOATS)
    for (size_t t = 0; t < n; t++)
        layer_norm_row(y + t * E, x + t * E, weight, bias, E, m->config.layer_norm_epsilon);
}

/* ---- matrix products ---- */

/* y[n][n_out] += x[n][n_in] w[n_in][n_out], where a row of w has `stride` floats. */
static void add_product(const float *x, size_t n, size_t n_in, const float *w, size_t stride, size_t n_out,
                        float *y)
{
    const blasint rows = (blasint)n, in = (blasint)n_in, out = (blasint)n_out, ldw = (blasint)stride;
    if (n == 1)
        cblas_sgemv(CblasRowMajor, CblasTrans, in, out, 1.0f, w, ldw, x, 1, 1.0f, y, 1);
    else if (n > 1)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, out, in, 1.0f, x, in, w, ldw, 1.0f, y,
                    out);
}

/* y[n][n_out] = bias + x[n][n_in] w */
static void linear(const float *x, size_t n, size_t n_in, const float *w, size_t stride, const float *bias,
                   size_t n_out, float *y)
{
#pragma omp parallel for schedule(static) if (n * n_out > PARALLEL_FLOATS)
    for (size_t t = 0; t < n; t++)
        memcpy(y + t * n_out, bias, n_out * sizeof *y);
    add_product(x, n, n_in, w, stride, n_out, y);
}

/* x[n][n_out] += bias + y[n][n_in] w: a projection back into the residual stream. */
static void linear_residual(const float *y, size_t n, size_t n_in, const float *w, const float *bias,
                            size_t n_out, float *x)
{
#pragma omp parallel for schedule(static) if (n * n_out > PARALLEL_FLOATS)
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < n_out; i++)
            x[t * n_out + i] += bias[i];
    add_product(y, n, n_in, w, n_out, n_out, x);
}

/* ---- the pass ---- */

size_t gpt2_scratch_floats(const gpt2_config *c, size_t n)
{
    return n * (c->n_embd + c->n_inner);
}

void gpt2_embed(const gpt2_model *m, const int32_t *ids, size_t pos0, size_t n, float *x)
{
    const size_t E = m->config.n_embd;
    assert(pos0 <= m->config.n_ctx && n <= m->config.n_ctx - pos0);
    for (size_t t = 0; t < n; t++) {
        assert(ids[t] >= 0 && (size_t)ids[t] < m->config.vocab_size);
        const float *token = m->wte + (size_t)ids[t] * E;
        const float *position = m->wpe + (pos0 + t) * E;
        for (size_t i = 0; i < E; i++)
            x[t * E + i] = token[i] + position[i];
    }
}

void gpt2_layer_qkv(const gpt2_model *m, size_t layer, const float *x, size_t n, float *scratch, float *q,
                    float *k, float *v)
{
    const gpt2_layer *w = &m->layers[layer];
    const size_t E = m->config.n_embd;
    layer_norm(m, x, n, w->ln_1_weight, w->ln_1_bias, scratch);
    float *parts[3] = {q, k, v};
    for (size_t i = 0; i < 3; i++) /* three products, so that each lands in its own array without a copy */
        linear(scratch, n, E, w->attn_weight + i * E, 3 * E, w->attn_bias + i * E, E, parts[i]);
}

void gpt2_layer_finish(const gpt2_model *m, size_t layer, float *x, const float *attn_out, size_t n,
                       float *scratch)
{
    const gpt2_layer *w = &m->layers[layer];
    const size_t E = m->config.n_embd, F = m->config.n_inner;
    float *normed = scratch, *hidden = scratch + n * E;
    linear_residual(attn_out, n, E, w->attn_out_weight, w->attn_out_bias, E, x);
    layer_norm(m, x, n, w->ln_2_weight, w->ln_2_bias, normed);
    linear(normed, n, E, w->mlp_in_weight, F, w->mlp_in_bias, F, hidden);
#pragma omp parallel for schedule(static) if (n * F > PARALLEL_FLOATS)
    for (size_t t = 0; t < n; t++)
        gelu_row(hidden + t * F, F);
    linear_residual(hidden, n, F, w->mlp_out_weight, w->mlp_out_bias, E, x);
}

void gpt2_logits(const gpt2_model *m, const float *x, size_t n, float *scratch, float *logits)
{
    const blasint rows = (blasint)n, E = (blasint)m->config.n_embd, vocab = (blasint)m->config.vocab_size;
    layer_norm(m, x, n, m->ln_f_weight, m->ln_f_bias, scratch);
    if (n == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, vocab, E, 1.0f, m->head, E, scratch, 1, 0.0f, logits, 1);
    else if (n > 1)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, vocab, E, 1.0f, scratch, E, m->head, E,
                    0.0f, logits, vocab);
}

float gpt2_attn_scale(const gpt2_model *m, size_t layer)
{
    float scale = m->config.scale_attn ? 1.0f / sqrtf((float)m->config.head_dim) : 1.0f;
    return m->config.scale_attn_by_layer ? scale / (float)(layer + 1) : scale;
}

/* ---- attention over a prompt ---- */

/* A tile of scores lives on the stack: 32 KB. Query tiles divide key tiles, so in every key tile that a query
 * tile looks at, each of its rows sees at least one key. */
#define QUERY_TILE 64
#define KEY_TILE   128
_Static_assert(KEY_TILE % QUERY_TILE == 0, "a row could be left without keys");

/* Online softmax of one row: turns the scores of `visible` keys into weights relative to the new maximum, the
 * others into 0, and scales what has been summed so far (the running sum and out[D]) to that maximum. */
static void softmax_step(float *scores, size_t visible, size_t n_keys, float *running_max, float *running_sum,
                         float *out, size_t D)
{
    float max = *running_max, sum = 0.0f;
    for (size_t j = 0; j < visible; j++)
        max = scores[j] > max ? scores[j] : max;
#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < visible; j++) {
        scores[j] = exp_f32(scores[j] - max);
        sum += scores[j];
    }
    memset(scores + visible, 0, (n_keys - visible) * sizeof *scores);
    const float correction = exp_f32(*running_max - max);
    for (size_t i = 0; i < D; i++)
        out[i] *= correction;
    *running_sum = *running_sum * correction + sum;
    *running_max = max;
}

/* Queries first..first+n_queries-1 of one head; q, k, v, out point at the head's first token, E floats apart.
 */
static void attend_tile(const float *q, const float *k, const float *v, size_t first, size_t n_queries,
                        size_t E, size_t D, float scale, float *out)
{
    float scores[QUERY_TILE * KEY_TILE], running_max[QUERY_TILE], running_sum[QUERY_TILE];
    const blasint stride = (blasint)E, dim = (blasint)D, rows = (blasint)n_queries;
    const size_t end = first + n_queries;
    for (size_t i = 0; i < n_queries; i++) {
        running_max[i] = -FLT_MAX;
        running_sum[i] = 0.0f;
        memset(out + (first + i) * E, 0, D * sizeof *out);
    }
    for (size_t key = 0; key < end; key += KEY_TILE) {
        const size_t n_keys = end - key < KEY_TILE ? end - key : KEY_TILE;
        const blasint columns = (blasint)n_keys;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, columns, dim, scale, q + first * E, stride,
                    k + key * E, stride, 0.0f, scores, columns);
        for (size_t i = 0; i < n_queries; i++) {
            size_t visible = first + i + 1 - key;
            visible = visible < n_keys ? visible : n_keys;
            softmax_step(scores + i * n_keys, visible, n_keys, &running_max[i], &running_sum[i],
                         out + (first + i) * E, D);
        }
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, dim, columns, 1.0f, scores, columns,
                    v + key * E, stride, 1.0f, out + first * E, stride);
    }
    for (size_t i = 0; i < n_queries; i++)
        for (size_t d = 0; d < D; d++)
            out[(first + i) * E + d] /= running_sum[i];
}

void gpt2_attention_causal(const gpt2_model *m, size_t layer, const float *q, const float *k, const float *v,
                           size_t n, float *out)
{
    const size_t H = m->config.n_head, D = m->config.head_dim, E = m->config.n_embd;
    const size_t n_tiles = (n + QUERY_TILE - 1) / QUERY_TILE;
    const float scale = gpt2_attn_scale(m, layer);
    /* Inside a parallel region OpenBLAS runs each product on the calling thread. Late tiles, which see the
     * most keys, come first, so that the threads finish together. */
#pragma omp parallel for schedule(dynamic)
    for (size_t job = 0; job < n_tiles * H; job++) {
        const size_t head = job % H * D, first = (n_tiles - 1 - job / H) * QUERY_TILE;
        const size_t n_queries = n - first < QUERY_TILE ? n - first : QUERY_TILE;
        attend_tile(q + head, k + head, v + head, first, n_queries, E, D, scale, out + head);
    }
}
