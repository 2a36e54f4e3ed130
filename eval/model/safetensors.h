/* Safetensors checkpoints, one file or shards: the headers are validated in open, the data is read on
 * request. */
#ifndef KVQ_EVAL_MODEL_SAFETENSORS_H
#define KVQ_EVAL_MODEL_SAFETENSORS_H

#include "eval/common/error.h"
#include "eval/model/tensor.h"

#include <stddef.h>

typedef struct safetensors safetensors;

/**
 * Open the checkpoint in a Hugging Face directory: `model.safetensors`, or else the shards named by
 * `model.safetensors.index.json`. On failure *out is untouched and the message names file, tensor and byte.
 */
EVAL_MUST_CHECK bool safetensors_open_dir(safetensors **out, const char *dir, eval_error *e);

/** Open one file by its path. */
EVAL_MUST_CHECK bool safetensors_open_file(safetensors **out, const char *path, eval_error *e);

/** Open one file held in memory, which must outlive the handle. `name` is used in messages. */
EVAL_MUST_CHECK bool safetensors_open_memory(safetensors **out, const char *name, const void *data,
                                             size_t size, eval_error *e);

void safetensors_close(safetensors *st); /* NULL is fine */

/** All tensors; those of a dtype that is no F32, F16 or BF16 are TENSOR_UNREADABLE. */
const tensor_list *safetensors_tensors(const safetensors *st);

/** The string that `__metadata__` of a single file maps `key` to; NULL if there is none. */
const char *safetensors_metadata(const safetensors *st, const char *key);

#endif
