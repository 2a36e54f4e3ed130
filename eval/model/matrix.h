/* Weight matrices in the type they are stored in, and their products with float32.
 *
 * W is [n_out][n_in] row-major; a row is whole blocks of its type. Types other than F32 are converted a panel
 * at a time just before the panel is multiplied. Nothing is allocated. A result depends on the numbers alone,
 * not on the number of threads: the panels are always the same and each is one thread's.
 */
#ifndef KVQ_EVAL_MODEL_MATRIX_H
#define KVQ_EVAL_MODEL_MATRIX_H

#include "eval/model/tensor_type.h"

#include <stddef.h>

typedef struct matrix {
    size_t n_out, n_in;
    tensor_type type;
    const void *data;
    const float *bias; /* [n_out], or NULL */
} matrix;

/** Bytes of one row of n_in elements, a multiple of the type's block. */
size_t matrix_row_bytes(tensor_type type, size_t n_in);

/** Floats that `scratch` must hold for products with at most n_threads threads; n_threads >= 1. */
size_t matrix_scratch_floats(int n_threads);

/**
 * y[n][n_out] = x[n][n_in] Wᵀ + bias. Inside a parallel region the calling thread works alone, outside at
 * most n_threads do.
 */
void matrix_multiply(const matrix *w, const float *x, size_t n, int n_threads, float *scratch, float *y);

/** The same, added to y. */
void matrix_multiply_add(const matrix *w, const float *x, size_t n, int n_threads, float *scratch, float *y);

/** One row of W as float32: an embedding. */
void matrix_row(const matrix *w, size_t row, float *dst);

#endif
