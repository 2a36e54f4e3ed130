/*
 * Softmax in vectors, and the look for what is not finite: the operations of kernels_portable.c in its order,
 * sixteen lanes at a time.
 */
#ifndef KVQ_QUANT_VECTOR_SOFTMAX_H
#define KVQ_QUANT_VECTOR_SOFTMAX_H

#include <math.h>

#include "quant/kernels.h"
#include "quant/vector_complete.h"

static bool all_finite_f32_v(const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        if (!v_all_finite(v_load(x + i)))
            return false;
    return i == n || v_all_finite(v_load_part(x + i, n - i));
}

static float max_f32_v(const float *x, size_t n)
{
    if (n < 16)
        return kvq_kernels_portable.max_f32(x, n);
    /* The last sixteen first: they overlap what the loops see, which a maximum does not mind. */
    v_f even = v_load(x + n - 16), odd = even; /* largest so far, so that neither waits for the other */
    v_f of_even = v_sub(even, even), of_odd = of_even; /* 0, or NaN if not all were finite */
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        v_f a = v_load(x + i), b = v_load(x + i + 16);
        even = v_max(even, a);
        odd = v_max(odd, b);
        of_even = v_add(of_even, v_sub(a, a));
        of_odd = v_add(of_odd, v_sub(b, b));
    }
    if (i + 16 <= n) {
        v_f a = v_load(x + i);
        even = v_max(even, a);
        of_even = v_add(of_even, v_sub(a, a));
    }
    return v_all_finite(v_add(of_even, of_odd)) ? v_largest(v_max(even, odd)) + 0.0f : NAN;
}

/* 2^x for x <= 100, as in kernels_portable.c, operation by operation. */
V_INLINE v_f exp2_of(v_f x)
{
    static const float coefficient[] = KVQ_EXP2_COEFFICIENTS;
    const v_f to_eighths = v_set1(KVQ_TO_EIGHTHS);
    v_f rounded = v_add(x, to_eighths), r = v_sub(x, v_sub(rounded, to_eighths)), p = v_set1(coefficient[0]);
    V_UNROLL(8)
    for (size_t i = 1; i < sizeof coefficient / sizeof coefficient[0]; i++)
        p = v_add(v_mul(p, r), v_set1(coefficient[i]));
    p = v_mul(p, v_power_of_2_8th(rounded));
    return v_if_less(x, v_set1(KVQ_EXP2_SMALLEST), v_set1(0.0f), p);
}

static float exp2_sum_f32_v(float *x, size_t n, float ref)
{
    const v_f shift = v_set1(ref);
    v_f sum = v_set1(0.0f);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v_f y = exp2_of(v_sub(v_load(x + i), shift));
        v_store(x + i, y);
        sum = v_add(sum, y);
    }
    if (i < n) {
        v_f y = exp2_of(v_sub(v_load_part(x + i, n - i), shift));
        v_store_part(x + i, y, n - i);
        sum = v_add(sum, v_load_part(x + i, n - i));
    }
    return v_sum(sum);
}

/* The slots of a table that this file fills. */
#define V_SOFTMAX_KERNELS                                                                                    \
    .all_finite_f32 = all_finite_f32_v, .max_f32 = max_f32_v, .exp2_sum_f32 = exp2_sum_f32_v

#endif /* KVQ_QUANT_VECTOR_SOFTMAX_H */
