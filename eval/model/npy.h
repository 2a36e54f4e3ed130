/* One NumPy array in a file: the header is validated in open, the data is read on request. */
#ifndef KVQ_EVAL_MODEL_NPY_H
#define KVQ_EVAL_MODEL_NPY_H

#include "eval/common/error.h"
#include "eval/model/tensor.h"

#include <stdio.h>

typedef struct npy npy;

/**
 * Open `dir`/`name`, or just `name` if dir is NULL: format 1.0, 2.0 or 3.0, little-endian float32 or float16
 * ('<f4', '<f2'), C order, and exactly as much data as the shape says. On failure *out is untouched and the
 * message names file, byte and what was expected.
 */
EVAL_MUST_CHECK bool npy_open(npy **out, const char *dir, const char *name, eval_error *e);

/** Open one held in memory, which must outlive the handle. `name` is used in messages. */
EVAL_MUST_CHECK bool npy_open_memory(npy **out, const char *name, const void *data, size_t size,
                                     eval_error *e);

void npy_close(npy *a); /* NULL is fine */

/** The array, named after its file. */
const tensor *npy_tensor(const npy *a);

/** Write the header of a C-ordered array of F32 or F16; the data follows. Says nothing of a failed write. */
void npy_write_header(FILE *f, tensor_type type, const size_t *shape, size_t n_dims);

#endif
