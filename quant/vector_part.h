/*
 * A row that ends anywhere, sixteen numbers at a time. For templates.
 */
#ifndef KVQ_QUANT_VECTOR_PART_H
#define KVQ_QUANT_VECTOR_PART_H

#include "quant/vector.h"

/* Numbers i and following of a row of n; 0 past its end. */
V_INLINE v_f row_part(const float *x, size_t n, size_t i)
{
    return i + 16 <= n ? v_load(x + i) : i < n ? v_load_part(x + i, n - i) : v_set1(0.0f);
}

#endif /* KVQ_QUANT_VECTOR_PART_H */
