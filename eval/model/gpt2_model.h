/* The weights of a GPT-2 model in float32: loaded from a Hugging Face directory, or random. */
#ifndef KVQ_EVAL_MODEL_GPT2_MODEL_H
#define KVQ_EVAL_MODEL_GPT2_MODEL_H

#include "eval/common/error.h"
#include "eval/model/gguf.h"
#include "eval/model/gpt2_config.h"

#include <stddef.h>
#include <stdint.h>

/* E = n_embd, F = n_inner. Matrices are row-major [inputs][outputs], as GPT-2's Conv1D stores them. */
typedef struct gpt2_layer {
    const float *ln_1_weight, *ln_1_bias; /* [E] */
    const float *attn_weight, *attn_bias; /* c_attn [E][3E]: queries, keys, values side by side; [3E] */
    const float *attn_out_weight, *attn_out_bias; /* attn.c_proj [E][E]; [E] */
    const float *ln_2_weight, *ln_2_bias;         /* [E] */
    const float *mlp_in_weight, *mlp_in_bias;     /* c_fc [E][F]; [F] */
    const float *mlp_out_weight, *mlp_out_bias;   /* mlp.c_proj [F][E]; [E] */
} gpt2_layer;

/* One weight array, for going through all of them. */
typedef struct gpt2_tensor {
    char name[48]; /* Hugging Face's, without the `transformer.` prefix */
    size_t n_dims; /* 1 or 2 */
    size_t shape[2];
    size_t n_elems;
    float *data;               /* 64-byte aligned */
    float init_mean, init_std; /* of a random model */
} gpt2_tensor;

typedef struct gpt2_model {
    gpt2_config config;
    bool random;       /* seeded noise: speed and memory are real, quality means nothing */
    uint64_t n_params; /* a tied head counts once */
    /* config.json ties the head to wte, but the file has another lm_head.weight, which is used.
     * config.tied_head says what is so. */
    bool head_against_config;

    const float *wte;                     /* token embedding [vocab][E] */
    const float *wpe;                     /* position embedding [n_ctx][E] */
    gpt2_layer *layers;                   /* [n_layer] */
    const float *ln_f_weight, *ln_f_bias; /* [E] */
    const float *head;                    /* [vocab][E]; wte if tied */

    gpt2_tensor *tensors; /* every array above once, in a fixed order */
    size_t n_tensors;
    float *arena; /* the memory of all of them */
} gpt2_model;

/**
 * Load config.json and model.safetensors (or its shards) from `dir`.
 *
 * F32, F16 and BF16; tensor names with or without `transformer.`; other tensors (attention mask buffers)
 * are ignored. The head is wte if tie_word_embeddings is true, unless the file has an lm_head.weight with
 * other numbers (head_against_config), and lm_head.weight otherwise. Errors name the tensor and what was
 * expected: missing, shape against config, dtype, NaN or infinite element, more layers in the file than in
 * the config. On failure *out is untouched.
 */
EVAL_MUST_CHECK bool gpt2_model_load(gpt2_model **out, const char *dir, eval_error *e);

/** The same from an open GGUF file, which may be closed then: any type that tensor_type.h reads. */
EVAL_MUST_CHECK bool gpt2_model_load_gguf(gpt2_model **out, const gguf *g, eval_error *e);

/**
 * Make a model from a description (see gpt2_config_random) with GPT-2's initialization: matrices and
 * embeddings normal with standard deviation 0.02, the two projections into the residual stream 0.02 /
 * sqrt(2 L); biases 0, LayerNorm weights 1. Depends on spec and seed only, not on the number of threads.
 */
EVAL_MUST_CHECK bool gpt2_model_random(gpt2_model **out, const char *spec, uint64_t seed, eval_error *e);

void gpt2_model_free(gpt2_model *m); /* NULL is fine */

/** XXH3-64 of all weights as little-endian float32 in the order of `tensors`: the same for every stored
 * dtype. */
uint64_t gpt2_model_checksum(const gpt2_model *m);

#endif
