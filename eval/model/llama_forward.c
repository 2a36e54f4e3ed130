/* RMSNorm, projections, RoPE, SwiGLU and head of Llama-type models.
 *
 * Sources: Touvron et al., LLaMA, arXiv 2302.13971 (the layer); Zhang and Sennrich, RMSNorm, arXiv
 * 1910.07467; Shazeer, GLU variants, arXiv 2002.05202; Ainslie et al., grouped queries, arXiv 2305.13245.
 * Qwen's biases and norms: arXiv 2407.10671 and 2505.09388.
 */
#include "eval/model/llama_forward.h"

#include "eval/common/checksum.h"
#include "eval/model/exp_f32.h"
#include "eval/model/llama_weights.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Below this many floats a loop is over before threads have started. */
#define PARALLEL_FLOATS 16384

static const llama_model *own(const model *m)
{
    return m->own;
}

static void rms_norm_row(float *y, const float *x, const float *weight, size_t n, float epsilon)
{
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (size_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    const float inverse = 1.0f / sqrtf(squares / (float)n + epsilon);
    for (size_t i = 0; i < n; i++)
        y[i] = weight[i] * (x[i] * inverse);
}

/* Rows of E floats; y may be x. */
static void rms_norm(const llama_model *m, const float *x, size_t n, const float *weight, float *y)
{
    const size_t E = m->config.n_embd;
#pragma omp parallel for schedule(static) if (n * E > PARALLEL_FLOATS)
    for (size_t t = 0; t < n; t++)
        rms_norm_row(y + t * E, x + t * E, weight, E, m->config.norm_epsilon);
}

static void swiglu_part(float *restrict gate, const float *restrict up, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1.0f + exp_f32(-gate[i])) * up[i];
}

/* gate * sigmoid(gate) * up, into gate. */
static void swiglu(float *gate, const float *up, size_t n)
{
    const size_t part = 4096;
#pragma omp parallel for schedule(static) if (n > PARALLEL_FLOATS)
    for (size_t done = 0; done < n; done += part)
        swiglu_part(gate + done, up + done, n - done < part ? n - done : part);
}

/* Norms of the heads of q and k where the model has them, then the rotation. */
static void finish_heads(const llama_model *m, size_t layer, size_t pos0, size_t n, float *q, float *k)
{
    const llama_config *c = &m->config;
    const llama_layer *w = &m->layers[layer];
    const size_t D = c->head_dim, H = c->n_head, Hkv = c->n_kv_head;
    if (!c->qk_norm && !c->rotates[layer])
        return;
#pragma omp parallel for schedule(static) if (n * H * D > PARALLEL_FLOATS)
    for (size_t t = 0; t < n; t++) {
        float cosine[ROPE_MAX_DIM / 2], sine[ROPE_MAX_DIM / 2];
        float *qt = q + t * H * D, *kt = k + t * Hkv * D;
        for (size_t h = 0; c->qk_norm && h < H; h++)
            rms_norm_row(qt + h * D, qt + h * D, w->q_norm, D, c->norm_epsilon);
        for (size_t h = 0; c->qk_norm && h < Hkv; h++)
            rms_norm_row(kt + h * D, kt + h * D, w->k_norm, D, c->norm_epsilon);
        if (c->rotates[layer]) {
            rope_angles(m->frequencies, (float)c->rope.attention_factor, D, pos0 + t, cosine, sine);
            rope_apply(cosine, sine, D, H, qt);
            rope_apply(cosine, sine, D, Hkv, kt);
        }
    }
}

/* ---- the pass ---- */

/* Scratch: n normalized rows; n rows each of gate and up; the panels of the products. */
static size_t scratch_floats(const model *m, size_t n)
{
    const llama_config *c = &own(m)->config;
    return n * (c->n_embd + 2 * c->n_inner) + matrix_scratch_floats(own(m)->n_threads);
}

static void embed(const model *m, const int32_t *ids, size_t pos0, size_t n, float *x)
{
    const llama_config *c = &own(m)->config;
    assert(pos0 <= c->n_ctx && n <= c->n_ctx - pos0);
    (void)pos0;
    for (size_t t = 0; t < n; t++) {
        assert(ids[t] >= 0 && (size_t)ids[t] < c->vocab_size);
        matrix_row(&own(m)->embedding, (size_t)ids[t], x + t * c->n_embd);
    }
}

static void layer_qkv(const model *m, size_t layer, const float *x, size_t pos0, size_t n, float *scratch,
                      float *q, float *k, float *v)
{
    const llama_model *l = own(m);
    const llama_layer *w = &l->layers[layer];
    float *normalized = scratch, *panels = scratch + n * l->config.n_embd;
    rms_norm(l, x, n, w->attn_norm, normalized);
    matrix_multiply(&w->q, normalized, n, l->n_threads, panels, q);
    matrix_multiply(&w->k, normalized, n, l->n_threads, panels, k);
    matrix_multiply(&w->v, normalized, n, l->n_threads, panels, v);
    finish_heads(l, layer, pos0, n, q, k);
}

static void layer_finish(const model *m, size_t layer, float *x, const float *attn, size_t n, float *scratch)
{
    const llama_model *l = own(m);
    const llama_layer *w = &l->layers[layer];
    const size_t E = l->config.n_embd, F = l->config.n_inner;
    float *normalized = scratch, *gate = normalized + n * E, *up = gate + n * F, *panels = up + n * F;
    matrix_multiply_add(&w->out, attn, n, l->n_threads, panels, x);
    rms_norm(l, x, n, w->mlp_norm, normalized);
    matrix_multiply(&w->gate, normalized, n, l->n_threads, panels, gate);
    matrix_multiply(&w->up, normalized, n, l->n_threads, panels, up);
    swiglu(gate, up, n * F);
    matrix_multiply_add(&w->down, gate, n, l->n_threads, panels, x);
}

static void logits_of(const model *m, const float *x, size_t n, float *scratch, float *logits)
{
    const llama_model *l = own(m);
    rms_norm(l, x, n, l->final_norm, scratch);
    matrix_multiply(&l->head, scratch, n, l->n_threads, scratch + n * l->config.n_embd, logits);
}

static float attn_scale(const model *m, size_t layer)
{
    (void)layer;
    return 1.0f / sqrtf((float)own(m)->config.head_dim);
}

static size_t attn_window(const model *m, size_t layer)
{
    const llama_config *c = &own(m)->config;
    return c->slides[layer] ? c->window : 0;
}

/* ---- the rest of the kind ---- */

/* What else than weights the forward pass depends on. */
static void checksum_constants(const llama_model *m, XXH3_state_t *state)
{
    const llama_config *c = &m->config;
    const float numbers[] = {c->norm_epsilon, (float)c->rope.attention_factor};
    checksum_words(state, numbers, 2);
    checksum_words(state, m->frequencies, c->head_dim / 2);
    for (size_t layer = 0; layer < c->n_layer; layer++) {
        const uint32_t of_layer[] = {c->rotates[layer], c->slides[layer] ? (uint32_t)c->window : 0};
        checksum_words(state, of_layer, 2);
    }
}

static uint64_t checksum(const model *m)
{
    enum { CHUNK = 1 << 12 }; /* a multiple of every type's block */
    float chunk[CHUNK];
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (size_t i = 0; i < own(m)->n_weights; i++) {
        const llama_weight *w = &own(m)->weights[i];
        for (size_t done = 0; done < w->n_elems; done += CHUNK) {
            const size_t n = w->n_elems - done < CHUNK ? w->n_elems - done : CHUNK;
            tensor_to_f32(w->type, w->data + matrix_row_bytes(w->type, done), n, chunk);
            XXH3_64bits_update(&state, chunk, n * sizeof chunk[0]);
        }
    }
    checksum_constants(own(m), &state);
    return XXH3_64bits_digest(&state);
}

static void free_own(model *m)
{
    llama_weights_free(m->own);
}

const model_kind llama_kind = {
    .scratch_floats = scratch_floats,
    .embed = embed,
    .layer_qkv = layer_qkv,
    .layer_finish = layer_finish,
    .logits = logits_of,
    .attn_scale = attn_scale,
    .attn_window = attn_window,
    .checksum = checksum,
    .free = free_own,
};
