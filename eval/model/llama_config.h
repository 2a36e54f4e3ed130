/* The shape and constants of a model of the Llama family, from config.json, GGUF metadata or a name. */
#ifndef KVQ_EVAL_MODEL_LLAMA_CONFIG_H
#define KVQ_EVAL_MODEL_LLAMA_CONFIG_H

#include "eval/common/error.h"
#include "eval/model/gguf.h"
#include "eval/model/rope.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* Far above every published model, and low enough that no product of sizes can overflow. */
#define LLAMA_MAX_LAYERS   1024
#define LLAMA_MAX_HEADS    1024
#define LLAMA_MAX_HEAD_DIM ROPE_MAX_DIM
#define LLAMA_MAX_WIDTH    (1u << 18) /* hidden_size, and heads * head_dim */
#define LLAMA_MAX_INNER    (1u << 20)
#define LLAMA_MAX_CONTEXT  (1u << 24)
#define LLAMA_MAX_VOCAB    (1u << 22)

typedef struct llama_config {
    char architecture[32]; /* llama, mistral, qwen2, qwen3, smollm3 */
    size_t n_layer;
    size_t n_head;
    size_t n_kv_head; /* divides n_head */
    size_t head_dim;  /* even; n_head * head_dim need not be n_embd */
    size_t n_embd;
    size_t n_inner; /* width of the MLP */
    size_t n_ctx;
    size_t vocab_size;
    float norm_epsilon;
    bool tied_head;                    /* logits use the token embedding */
    bool qkv_bias, out_bias, mlp_bias; /* of q, k, v; of the projection back; of all three of the MLP */
    bool qk_norm;                      /* RMSNorm over each head of q and k */
    rope_config rope;
    size_t window;                  /* of the layers that slide: tokens a token attends to; 0 if none does */
    bool slides[LLAMA_MAX_LAYERS];  /* [n_layer] */
    bool rotates[LLAMA_MAX_LAYERS]; /* [n_layer]; without RoPE otherwise */
} llama_config;

/* A window of a `llama`: in config.json its class does not look at sliding_window, and neither is it looked
 * at here. GGUF has no other name for a Mistral, so there llama.attention.sliding_window is of all layers. */

/**
 * Read a config.json that has been parsed; `file` is used in messages. What Hugging Face's class of this
 * model_type does not look at is not looked at either; what would be computed differently is refused by name.
 * On failure *c is unspecified.
 */
EVAL_MUST_CHECK bool llama_config_parse(llama_config *c, const char *file, const json_t *root, eval_error *e);

/** The same from a GGUF file's metadata, and its tensors where only they know: biases, the vocabulary. */
EVAL_MUST_CHECK bool llama_config_gguf(llama_config *c, const gguf *g, eval_error *e);

/** Does a GGUF file of that architecture store the two halves of a rotated head interleaved? */
bool llama_gguf_interleaves(const char *architecture);

/**
 * What follows `random:` in a name: a published shape, or L,H,Hkv,D,ctx,vocab, with hidden_size H * D and an
 * MLP of 8/3 of that, rounded up to a multiple of 32 (as Llama 2's, but for the multiple). *known is false,
 * and *c unspecified, if it is neither.
 */
EVAL_MUST_CHECK bool llama_config_random(llama_config *c, const char *shape, bool *known, eval_error *e);

/** Checks that need all of *c, the same for every source; `file` and the names of the fields are for
 * messages. */
EVAL_MUST_CHECK bool llama_config_check(llama_config *c, const char *file, eval_error *e);

#endif
