/* The forward pass of GPT-2 in pieces, float32 on OpenBLAS, over n tokens at a time.
 *
 *     gpt2_embed(m, ids, pos0, n, x);
 *     for each layer l:
 *         gpt2_layer_qkv(m, l, x, n, scratch, q, k, v);
 *         attention
 *         gpt2_layer_finish(m, l, x, attn, n, scratch);
 *     gpt2_logits(m, x, n, scratch, logits);
 *
 * E = n_embd, H = n_head, D = head_dim, E = H * D. All arrays are row-major float32 without gaps, the
 * caller's, and do not overlap. Nothing is allocated here and nothing can fail; n = 0 is fine. Every function
 * uses OpenMP or BLAS threads. Calls with different scratch are independent; one token at a time and n
 * together differ by rounding only.
 */
#ifndef KVQ_EVAL_MODEL_GPT2_FORWARD_H
#define KVQ_EVAL_MODEL_GPT2_FORWARD_H

#include "eval/model/gpt2_model.h"

#include <stddef.h>
#include <stdint.h>

/** Number of floats that `scratch` must hold for calls with up to n tokens. */
size_t gpt2_scratch_floats(const gpt2_config *c, size_t n);

/** x[n][E] = token embedding + position embedding of positions pos0.. ; ids < vocab_size, pos0 + n <= n_ctx.
 */
void gpt2_embed(const gpt2_model *m, const int32_t *ids, size_t pos0, size_t n, float *x);

/** LayerNorm and the attention's input projection: q, k, v [n][H][D] from x[n][E]. */
void gpt2_layer_qkv(const gpt2_model *m, size_t layer, const float *x, size_t n, float *scratch, float *q,
                    float *k, float *v);

/** The rest of the layer: x += projection of attn_out[n][H][D]; x += MLP(LayerNorm(x)). x is [n][E]. */
void gpt2_layer_finish(const gpt2_model *m, size_t layer, float *x, const float *attn_out, size_t n,
                       float *scratch);

/** Final LayerNorm and head: logits[n][vocab_size] from x[n][E]. */
void gpt2_logits(const gpt2_model *m, const float *x, size_t n, float *scratch, float *logits);

/** The factor on q.k before the softmax. */
float gpt2_attn_scale(const gpt2_model *m, size_t layer);

#endif
