/* The weights of a Llama-type model: one list of all of them, and their memory.
 *
 * How they get there is told by llama_model.c (files) and llama_random.c (a seed).
 */
#ifndef KVQ_EVAL_MODEL_LLAMA_WEIGHTS_H
#define KVQ_EVAL_MODEL_LLAMA_WEIGHTS_H

#include "eval/common/error.h"
#include "eval/model/llama_config.h"
#include "eval/model/matrix.h"
#include "eval/model/model.h"

#include <stddef.h>
#include <stdint.h>

/* E = n_embd, F = n_inner, A = n_head * head_dim, C = n_kv_head * head_dim. */
typedef struct llama_layer {
    const float *attn_norm, *mlp_norm; /* [E] */
    const float *q_norm, *k_norm;      /* [head_dim]; NULL without qk_norm */
    matrix q, k, v;                    /* [A][E], [C][E], [C][E] */
    matrix out;                        /* [E][A] */
    matrix gate, up, down;             /* [F][E], [F][E], [E][F] */
} llama_layer;

/* One weight array, for going through all of them. */
typedef struct llama_weight {
    char name[64];      /* Hugging Face's, with `model.` but for the head's */
    char gguf_name[64]; /* GGUF's */
    size_t n_dims;      /* 1, in float32, or 2, in a type of its own */
    size_t shape[2];
    size_t n_elems;
    tensor_type type; /* that it has in memory */
    size_t n_bytes;
    uint8_t *data;        /* 64-byte aligned */
    size_t rotated_heads; /* rows are channels of that many heads that RoPE rotates; 0: they are not */
} llama_weight;

typedef struct llama_model {
    llama_config config;
    int n_threads;           /* that have room in scratch; 2 at least (see matrix.c) */
    float *frequencies;      /* [head_dim / 2], of RoPE */
    matrix embedding;        /* [vocab][E] */
    matrix head;             /* [vocab][E]; the embedding if tied */
    const float *final_norm; /* [E] */
    llama_layer *layers;     /* [n_layer] */

    llama_weight *weights; /* every array once, in a fixed order: checksum and random numbers depend on it */
    size_t n_weights;
    uint64_t n_params;
    size_t n_bytes;
    uint8_t *arena; /* the memory of all of them */
} llama_model;

/** A model of that config with its list of weights, all types F32, and no memory for them yet; NULL: out of
 * memory. */
llama_model *llama_weights_list(const llama_config *c);

/**
 * Allocate all weights by their types and set the model's pointers; false if there is not the memory. The
 * numbers are the caller's to fill in.
 */
EVAL_MUST_CHECK bool llama_weights_allocate(llama_model *m);

/** Is there a weight that is called `suffix` after `model.layers.N.` (in_gguf: after `blk.N.`)? */
bool llama_weights_has_part(const llama_config *c, const char *suffix, bool in_gguf);

/** Fill the model that everybody sees, but for `random` and `note`; it owns l from now on. */
void llama_weights_describe(llama_model *l, model *m);

void llama_weights_free(llama_model *m); /* NULL is fine */

#endif
