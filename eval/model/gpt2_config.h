/* The shape and constants of a GPT-2 model, from Hugging Face's config.json or a "random:" description. */
#ifndef KVQ_EVAL_MODEL_GPT2_CONFIG_H
#define KVQ_EVAL_MODEL_GPT2_CONFIG_H

#include "eval/common/error.h"
#include "eval/model/gguf.h"

#include <stddef.h>

typedef struct gpt2_config {
    size_t n_layer;
    size_t n_head;
    size_t head_dim; /* n_embd / n_head */
    size_t n_embd;
    size_t n_inner; /* width of the MLP, 4 * n_embd unless given */
    size_t n_ctx;   /* learned positions */
    size_t vocab_size;
    float layer_norm_epsilon;
    bool tied_head;           /* logits use the token embedding; otherwise lm_head.weight */
    bool scale_attn;          /* divide scores by sqrt(head_dim) */
    bool scale_attn_by_layer; /* and by layer + 1 */
    long bos_token_id;        /* -1 if there is none */
    long eos_token_id;
} gpt2_config;

/** Read `dir`/config.json. Errors name the field and the range expected; on failure *c is unspecified. */
EVAL_MUST_CHECK bool gpt2_config_load(gpt2_config *c, const char *dir, eval_error *e);

/** The same from memory; `file` is used in messages. */
EVAL_MUST_CHECK bool gpt2_config_parse(gpt2_config *c, const char *file, const void *json, size_t size,
                                       eval_error *e);

/** The same from a GGUF file's metadata; the vocabulary is its embedding's. */
EVAL_MUST_CHECK bool gpt2_config_gguf(gpt2_config *c, const gguf *g, eval_error *e);

/**
 * Read a description of a random model: `random:` and then gpt2, gpt2-medium, gpt2-large, gpt2-xl (the
 * published shapes) or five numbers L,H,D,ctx,vocab (layers, heads, head dimension, positions, vocabulary).
 */
EVAL_MUST_CHECK bool gpt2_config_random(gpt2_config *c, const char *spec, eval_error *e);

/** True if the name of a model begins with `random:`. */
bool gpt2_config_is_random(const char *spec);

#endif
