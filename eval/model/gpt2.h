/* GPT-2 behind model.h. */
#ifndef KVQ_EVAL_MODEL_GPT2_H
#define KVQ_EVAL_MODEL_GPT2_H

#include "eval/common/error.h"
#include "eval/model/gguf.h"
#include "eval/model/model.h"

/** Fill in *m, which is all zero, from a Hugging Face directory, a GGUF file, or a description
 * (model_random). On failure model_free may be called on it, or not. */
EVAL_MUST_CHECK bool gpt2_load_directory(model *m, const char *dir, eval_error *e);
EVAL_MUST_CHECK bool gpt2_load_gguf(model *m, const gguf *g, eval_error *e);
EVAL_MUST_CHECK bool gpt2_make_random(model *m, const char *spec, uint64_t seed, eval_error *e);

#endif
