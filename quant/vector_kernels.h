/*
 * All kernels in vectors: for inclusion by a kernels_ISA.c after its vocabulary.
 */
#ifndef KVQ_QUANT_VECTOR_KERNELS_H
#define KVQ_QUANT_VECTOR_KERNELS_H

#include "quant/vector_dot.h"
#include "quant/vector_encode.h"
#include "quant/vector_fit.h"
#include "quant/vector_fold.h"
#include "quant/vector_rows.h"
#include "quant/vector_softmax.h"
#include "quant/vector_tier.h"

/* The slots of a table that they fill. */
#define V_KERNELS                                                                                            \
    V_ROWS_KERNELS, V_SOFTMAX_KERNELS, V_ENCODE_KERNELS, V_FOLD_KERNELS, V_DOT_KERNELS, V_FIT_KERNELS,       \
        V_TIER_KERNELS

#endif /* KVQ_QUANT_VECTOR_KERNELS_H */
