/* Safetensors checkpoints, one file or shards: the headers are validated in open, the data is read on
 * request. */
#ifndef KVQ_EVAL_MODEL_SAFETENSORS_H
#define KVQ_EVAL_MODEL_SAFETENSORS_H

#include "eval/common/error.h"

#include <stddef.h>
#include <stdint.h>

#define SAFETENSORS_MAX_DIMS 8

typedef struct safetensors safetensors;

typedef enum safetensors_dtype {
    SAFETENSORS_F32,
    SAFETENSORS_F16,
    SAFETENSORS_BF16,
    SAFETENSORS_NOT_FLOAT, /* a known dtype that cannot be read as float here, e.g. BOOL or I64 */
} safetensors_dtype;

/* What the header says of one tensor; valid until safetensors_close. */
typedef struct safetensors_tensor {
    const char *name;
    const char *file; /* path of the file that holds it */
    safetensors_dtype dtype;
    const char *dtype_name; /* as written in the file */
    size_t n_dims;
    size_t shape[SAFETENSORS_MAX_DIMS];
    size_t n_elems; /* product of shape */
    size_t n_bytes;
    size_t file_offset;                     /* of its data, in bytes */
    const struct safetensors_shard *source; /* the file that is read */
} safetensors_tensor;

/**
 * Open the checkpoint in a Hugging Face directory: `model.safetensors`, or else the shards named by
 * `model.safetensors.index.json`. On failure *out is untouched and the message names file, tensor and byte.
 */
EVAL_MUST_CHECK bool safetensors_open_dir(safetensors **out, const char *dir, eval_error *e);

/** Open one file held in memory, which must outlive the handle. `name` is used in messages. */
EVAL_MUST_CHECK bool safetensors_open_memory(safetensors **out, const char *name, const void *data,
                                             size_t size, eval_error *e);

void safetensors_close(safetensors *st); /* NULL is fine */

/** The tensor of that name, or NULL. */
const safetensors_tensor *safetensors_find(const safetensors *st, const char *name);

/** All tensors, sorted by name. */
size_t safetensors_count(const safetensors *st);
const safetensors_tensor *safetensors_at(const safetensors *st, size_t i);

/**
 * Read elements [first, first + n) as float32 into dst[n]. Exact for F32, F16 and BF16, subnormals,
 * infinities and NaN included. The dtype must not be SAFETENSORS_NOT_FLOAT. Errors: a read that fails; a
 * file that has become shorter since it was opened.
 */
EVAL_MUST_CHECK bool safetensors_read_f32(const safetensors_tensor *t, size_t first, size_t n, float *dst,
                                          eval_error *e);

#endif
