/* The Llama family behind model.h: llama, mistral, qwen2, qwen3 and smollm3, from Hugging Face directories
 * and GGUF files, or random.
 *
 * Each of the three entry points is given a zeroed model, which it fills completely (kind, shape, own,
 * random, n_params, weight_bytes, weights, note); on failure it leaves nothing behind in it. model_free
 * frees it with kind->free.
 */
#ifndef KVQ_EVAL_MODEL_LLAMA_MODEL_H
#define KVQ_EVAL_MODEL_LLAMA_MODEL_H

#include "eval/common/error.h"
#include "eval/model/gguf.h"
#include "eval/model/model.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/** True if this file's loaders read models of that type: config.json's model_type or GGUF's
 * general.architecture. */
bool llama_handles(const char *model_type);

/** One line that names what llama_handles says yes to, for messages: "llama, mistral, ...". */
const char *llama_handled(void);

/**
 * Load from `dir`, whose config.json has been parsed to `config` and is called `config_path` in messages.
 *
 * Tensor names with or without `model.`; other tensors are ignored, but layers beyond the config's are an
 * error. Weights stay in their stored type, norms and biases become float32. The head is the embedding if
 * tie_word_embeddings is true, unless the files have an lm_head.weight with other numbers, which `note` says.
 * Errors name the file, field or tensor and what was expected: a setting or tensor that would be computed
 * differently, a missing tensor, shape against config, NaN or infinite element.
 */
EVAL_MUST_CHECK bool llama_load_directory(model *m, const char *dir, const json_t *config,
                                          const char *config_path, eval_error *e);

/** The same from an open GGUF file, which may be closed afterwards. Keys come out in Hugging Face's channel
 * order. */
EVAL_MUST_CHECK bool llama_load_gguf(model *m, const gguf *g, eval_error *e);

/**
 * A model with random weights in BF16. `shape` is what follows `random:` in its name: a published shape or
 * L,H,Hkv,D,ctx,vocab. *known says whether it is one of these; if it is not, the function succeeds and does
 * nothing else. Errors: a number out of range; not enough memory. Depends on shape and seed only.
 */
EVAL_MUST_CHECK bool llama_random(model *m, const char *shape, uint64_t seed, bool *known, eval_error *e);

#endif
