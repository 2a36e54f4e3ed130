/* One tensor of a checkpoint, whatever the file's format: what the header says of it, and its numbers on
 * request. safetensors.h and gguf.h make lists of these. */
#ifndef KVQ_EVAL_MODEL_TENSOR_H
#define KVQ_EVAL_MODEL_TENSOR_H

#include "eval/common/error.h"
#include "eval/model/tensor_type.h"

#include <stddef.h>
#include <stdint.h>

#define TENSOR_MAX_DIMS 8

/* Where bytes come from: a file that stays open, or memory. */
typedef struct tensor_source {
    char path[4096];       /* for messages */
    int fd;                /* -1: the bytes are in memory */
    const uint8_t *memory; /* NULL unless they are there */
    size_t size;           /* when it was opened */
} tensor_source;

/** Fill dst with n_bytes from byte `at`. Errors: a read that fails; a file that has become shorter. */
EVAL_MUST_CHECK bool tensor_source_read(const tensor_source *s, size_t at, size_t n_bytes, void *dst,
                                        eval_error *e);

/* What a header says of one tensor; valid until its file is closed. */
typedef struct tensor {
    const char *name;
    tensor_type type;
    const char *type_name; /* as the file has it */
    size_t n_dims;
    size_t shape[TENSOR_MAX_DIMS]; /* row-major, slowest dimension first (GGUF's order turned round) */
    size_t n_elems;                /* product of shape */
    size_t n_bytes;                /* 0 if the size of an unreadable type is not known */
    size_t file_offset;            /* of its data, in bytes */
    const tensor_source *source;
} tensor;

/* Sorted by name, without duplicates. */
typedef struct tensor_list {
    tensor *tensors;
    size_t n;
} tensor_list;

/** The tensor of that name, or NULL. */
const tensor *tensor_find(const tensor_list *list, const char *name);

/**
 * Read n_bytes from byte `first` of the tensor's data. Errors: a read that fails; a file that has become
 * shorter since it was opened.
 */
EVAL_MUST_CHECK bool tensor_read_bytes(const tensor *t, size_t first, size_t n_bytes, void *dst,
                                       eval_error *e);

/**
 * Read elements [first, first + n) as float32 into dst[n]; both are multiples of the type's block. Exact for
 * F32, F16 and BF16, subnormals, infinities and NaN included. The type must not be TENSOR_UNREADABLE. Errors
 * as tensor_read_bytes.
 */
EVAL_MUST_CHECK bool tensor_read_f32(const tensor *t, size_t first, size_t n, float *dst, eval_error *e);

#endif
