/* Shapes of published models, by name: one table for random: models and for arithmetic on paper. */
#ifndef KVQ_EVAL_MODEL_SHAPES_H
#define KVQ_EVAL_MODEL_SHAPES_H

#include "eval/common/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As the config.json of the repository on huggingface.co says. */
typedef struct published_shape {
    const char *name, *source;
    const char *architecture; /* model_type; gpt2 and gemma3_text are no Llamas */
    size_t n_layer, n_head, n_kv_head, head_dim, n_embd, n_inner, n_ctx, vocab_size;
    double theta;   /* of RoPE; 0 for gpt2 */
    double scaling; /* factor of "llama3" scaling; 0: none */
    double epsilon;
    bool tied_head;
    size_t window;     /* tokens that a layer with a sliding window sees; 0: no layer has one */
    size_t full_every; /* of layers 1, 2, ... the multiples of this see everything */
} published_shape;

/** Row i of the table; NULL behind the last. */
const published_shape *shapes_at(size_t i);

/** The row of this name; NULL if there is none. */
const published_shape *shapes_find(const char *name);

/** May `random:` make a model of this shape, of the Llama family? */
bool shapes_is_llama(const published_shape *s);

/** The names of all shapes, or of the Llamas alone, with commas between. */
void shapes_names(char *text, size_t size, bool llamas_only);

/* All that decides a model's parameters, arithmetic and cache. */
typedef struct model_dims {
    char name[256];
    char source[256]; /* where the numbers are from */
    char architecture[32];
    size_t n_layer, n_head, n_kv_head, head_dim, n_embd, n_inner, n_ctx, vocab_size;
    bool tied_head, qkv_bias, out_bias, mlp_bias, qk_norm;
    size_t window;     /* 0: no layer has one */
    size_t n_windowed; /* layers that have it */
} model_dims;

/**
 * The dimensions of a named shape, with or without `random:` before it, or of a model on disk: a Hugging Face
 * directory, of which config.json is read, or a GGUF file, of which the header is. An unknown name that is no
 * file either is refused with the list of names.
 */
EVAL_MUST_CHECK bool model_dims_find(model_dims *d, const char *name, eval_error *e);

/* Parameters by what a decode step does with them. */
typedef struct model_params {
    uint64_t layers;    /* matrices of all layers: read for every token */
    uint64_t embedding; /* of tokens: a row is read */
    uint64_t positions; /* embedding of positions (gpt2): a row is read */
    uint64_t head;      /* what the head multiplies with: the embedding again if it is tied */
    uint64_t vectors;   /* norms and biases */
    uint64_t total;     /* a tied head counts once */
} model_params;

void model_count_params(const model_dims *d, model_params *p);

#endif
