/* A decoder-only transformer as everybody outside this room sees it: a shape, and a forward pass in pieces
 * with attention left to the caller. gpt2 and llama stand behind it.
 *
 *     model_embed(m, ids, pos0, n, x);
 *     for each layer l:
 *         model_layer_qkv(m, l, x, pos0, n, scratch, q, k, v);
 *         attention of your own, or model_attention_causal(m, l, q, k, v, n, attn);
 *         model_layer_finish(m, l, x, attn, n, scratch);
 *     model_logits(m, x, n, scratch, logits);
 *
 * E = n_embd, H = n_head, Hkv = n_kv_head, D = head_dim; H * D need not be E. All arrays are row-major
 * float32 without gaps, the caller's, and do not overlap: x [n][E], q and attn [n][H][D], k and v
 * [n][Hkv][D], logits [n][vocab_size]. Keys are as a cache stores them, rotated by their positions where the
 * model does that. Nothing is allocated in a pass and nothing can fail; n = 0 is fine. Every function uses
 * OpenMP or BLAS threads. Calls with different scratch are independent; one token at a time and n together
 * differ by rounding only.
 */
#ifndef KVQ_EVAL_MODEL_MODEL_H
#define KVQ_EVAL_MODEL_MODEL_H

#include "eval/common/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct model_shape {
    char architecture[32]; /* "gpt2", "llama", "mistral", "qwen2", ...: config.json's model_type */
    size_t n_layer;
    size_t n_head;
    size_t n_kv_head; /* n_head is a multiple of it */
    size_t head_dim;
    size_t n_embd;
    size_t n_ctx; /* positions the model was made for */
    size_t vocab_size;
} model_shape;

typedef struct model model;

/* What each kind of model does; arguments as in the calls below. */
typedef struct model_kind {
    size_t (*scratch_floats)(const model *m, size_t n);
    void (*embed)(const model *m, const int32_t *ids, size_t pos0, size_t n, float *x);
    void (*layer_qkv)(const model *m, size_t layer, const float *x, size_t pos0, size_t n, float *scratch,
                      float *q, float *k, float *v);
    void (*layer_finish)(const model *m, size_t layer, float *x, const float *attn, size_t n, float *scratch);
    void (*logits)(const model *m, const float *x, size_t n, float *scratch, float *logits);
    float (*attn_scale)(const model *m, size_t layer);
    size_t (*attn_window)(const model *m, size_t layer); /* NULL: no layer has one */
    uint64_t (*checksum)(const model *m);
    void (*free)(model *m); /* what `own` points at; m itself is freed by model_free */
} model_kind;

struct model {
    const model_kind *kind;
    model_shape shape;
    void *own;           /* the kind's */
    bool random;         /* seeded noise: speed and memory are real, quality means nothing */
    uint64_t n_params;   /* a tied head counts once */
    size_t weight_bytes; /* in memory */
    char weights[64];    /* the types they have there, e.g. "F32" or "Q4_1, Q8_0, F32" */
    char head[32];       /* the tensor that turns activations into logits, as the file names it */
    char note[256];      /* what a user should know of how it was read; "" if nothing */
};

/**
 * Load a Hugging Face directory (config.json and model.safetensors or its shards) or a GGUF file. Errors name
 * file, field, tensor or byte and what was expected; an architecture or setting that is not computed exactly
 * is refused by name. On failure *out is untouched.
 */
EVAL_MUST_CHECK bool model_load(model **out, const char *path, eval_error *e);

/**
 * A model with random weights: `random:` and the name of a published shape (an unknown one is refused with
 * the list of them) or numbers, L,H,D,ctx,vocab for a GPT-2 and L,H,Hkv,D,ctx,vocab for a Llama. Depends on
 * spec and seed only, not on the number of threads.
 */
EVAL_MUST_CHECK bool model_random(model **out, const char *spec, uint64_t seed, eval_error *e);

/** True if the name of a model begins with `random:`. */
bool model_is_random(const char *spec);

/** True if the path names a GGUF file: one that is no directory, or if there is none, one called so. */
bool model_is_gguf(const char *path);

void model_free(model *m); /* NULL is fine */

/** XXH3-64 of all weights as little-endian float32 in a fixed order: the same for every stored type that
 * holds the same numbers. After them come the constants that the forward pass depends on besides: epsilon,
 * rotation, windows. */
uint64_t model_checksum(const model *m);

/** Number of floats that `scratch` must hold for calls with up to n tokens. */
size_t model_scratch_floats(const model *m, size_t n);

/** ids < vocab_size, pos0 + n <= n_ctx. */
void model_embed(const model *m, const int32_t *ids, size_t pos0, size_t n, float *x);

/** Norm and the attention's input projections of tokens at positions pos0.. . */
void model_layer_qkv(const model *m, size_t layer, const float *x, size_t pos0, size_t n, float *scratch,
                     float *q, float *k, float *v);

/** The rest of the layer: x += projection of attn; x += MLP(norm(x)). */
void model_layer_finish(const model *m, size_t layer, float *x, const float *attn, size_t n, float *scratch);

/** Final norm and head. */
void model_logits(const model *m, const float *x, size_t n, float *scratch, float *logits);

/** The factor on q.k before the softmax. */
float model_attn_scale(const model *m, size_t layer);

/** How many tokens, itself the last of them, a token of this layer attends to; 0: all. */
size_t model_attn_window(const model *m, size_t layer);

/**
 * Exact causal self-attention of n tokens that begin a sequence, within the layer's window. Tiles of scores
 * on the stack bound the memory. The result does not depend on the number of threads.
 */
void model_attention_causal(const model *m, size_t layer, const float *q, const float *k, const float *v,
                            size_t n, float *attn);

#endif
