/*
 * The rotation that several codecs store numbers in: x -> H x, H block-diagonal of orthonormal Hadamard
 * matrices. D is split into powers of two, the largest first: 96 is 64 + 32, 100 is 64 + 32 + 4. The matrix
 * of 2n is (H H; H -H) / sqrt(2) of that of n, and that of 1 is 1; H is its own inverse.
 */
#ifndef KVQ_QUANT_TRANSFORM_H
#define KVQ_QUANT_TRANSFORM_H

#include "quant/rows.h"

/** In place, in double, which leaves room for sums of the largest floats. */
static inline void kvq_hadamard(double *x, size_t dim)
{
    size_t n = 1;
    while (n <= dim / 2)
        n *= 2;
    for (; dim > 0; x += n, dim -= n) {
        while (n > dim)
            n /= 2;
        for (size_t half = 1; half < n; half *= 2)
            for (size_t i = 0; i < n; i += 2 * half)
                for (size_t j = i; j < i + half; j++) {
                    double a = x[j], b = x[j + half];
                    x[j] = a + b;
                    x[j + half] = a - b;
                }
        double root = sqrt((double)n);
        for (size_t i = 0; i < n; i++)
            x[i] /= root;
    }
}

/** out = H x, saturating; x may be out. */
static inline void kvq_rotate_f64(const float *x, size_t dim, float *out)
{
    double y[KVQ_DIM_MAX];
    for (size_t c = 0; c < dim; c++)
        y[c] = (double)x[c];
    kvq_hadamard(y, dim);
    for (size_t c = 0; c < dim; c++)
        out[c] = kvq_f32_saturating(y[c]);
}

#endif /* KVQ_QUANT_TRANSFORM_H */
