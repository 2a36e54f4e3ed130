/* The forward pass of Llama-type models, as model.h cuts it into pieces. `own` of the model is a
 * llama_model. */
#ifndef KVQ_EVAL_MODEL_LLAMA_FORWARD_H
#define KVQ_EVAL_MODEL_LLAMA_FORWARD_H

#include "eval/model/model.h"

extern const model_kind llama_kind;

#endif
