/* What loaders of every kind of model ask of the tensors they find. */
#ifndef KVQ_EVAL_MODEL_CHECKPOINT_H
#define KVQ_EVAL_MODEL_CHECKPOINT_H

#include "eval/common/error.h"
#include "eval/model/tensor.h"

#include <stdbool.h>
#include <stddef.h>

/** Is t of a type that can be read, and of that shape? The error says what `config` (a file's name) expects.
 */
EVAL_MUST_CHECK bool checkpoint_check_tensor(const tensor *t, const size_t *shape, size_t n_dims,
                                             const char *config, eval_error *e);

/**
 * Are the first n elements of t, which are in memory as `type` (t's own, or F32), all finite? n is a multiple
 * of the type's block. The error names the first that is not, and its byte in the file (its block's, where
 * there are blocks). Uses threads.
 */
EVAL_MUST_CHECK bool checkpoint_check_finite(const tensor *t, tensor_type type, const void *data, size_t n,
                                             eval_error *e);

/** Do both tensors hold the same numbers? Not if one cannot be read or their sizes differ. Errors: reading.
 */
EVAL_MUST_CHECK bool checkpoint_compare(const tensor *a, const tensor *b, bool *same, eval_error *e);

#endif
