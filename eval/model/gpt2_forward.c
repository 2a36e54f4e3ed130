/* GPT-2's LayerNorm, projections, MLP, head and prompt attention.
 *
 * Source: Radford et al., "Language models are unsupervised multitask learners", 2019; pre-norm, learned
 * positions, tanh GELU.
 */
#include "eval/model/gpt2_forward.h"

#include "eval/model/exp_f32.h"

#include <assert.h>
#include <cblas.h>
#include <math.h>
#include <string.h>

/* Below this many floats a loop is over before threads have started. */
#define PARALLEL_FLOATS 16384

/* ---- small functions of one float or one row ---- */

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
