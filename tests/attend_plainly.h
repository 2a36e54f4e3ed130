/* Attention as its definition has it, for the tests. */
#ifndef KVQ_TESTS_ATTEND_PLAINLY_H
#define KVQ_TESTS_ATTEND_PLAINLY_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

/* One query over n keys in double; rows of k and v are `stride` floats apart. */
static inline void attend_plainly(const float *q, const float *k, const float *v, size_t n, size_t stride,
                                  size_t D, double scale, float *out)
{
    double *p = calloc(n, sizeof *p), max = -INFINITY, sum = 0;
    cr_assert_not_null(p);
    for (size_t t = 0; t < n; t++) {
        for (size_t d = 0; d < D; d++)
            p[t] += (double)q[d] * (double)k[t * stride + d] * scale;
        max = p[t] > max ? p[t] : max;
    }
    for (size_t t = 0; t < n; t++)
        sum += p[t] = exp(p[t] - max);
    for (size_t d = 0; d < D; d++) {
        double o = 0;
        for (size_t t = 0; t < n; t++)
            o += p[t] / sum * (double)v[t * stride + d];
        out[d] = (float)o;
    }
    free(p);
}

#endif
