/* The types weights are stored in, and how each becomes float32. */
#ifndef KVQ_EVAL_MODEL_TENSOR_TYPE_H
#define KVQ_EVAL_MODEL_TENSOR_TYPE_H

#include <stddef.h>

typedef enum tensor_type {
    TENSOR_F32,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_Q4_0,
    TENSOR_Q4_1,
    TENSOR_Q5_0,
    TENSOR_Q5_1,
    TENSOR_Q8_0,
    TENSOR_Q2_K,
    TENSOR_Q3_K,
    TENSOR_Q4_K,
    TENSOR_Q5_K,
    TENSOR_Q6_K,
    TENSOR_UNREADABLE, /* a known type that cannot be read as float here, e.g. BOOL, I64 or IQ2_XS */
} tensor_type;

/* Elements come in blocks of block_elems (1 for plain types) that take block_bytes. */
typedef struct tensor_type_info {
    const char *name;
    size_t block_elems, block_bytes;
} tensor_type_info;

const tensor_type_info *tensor_type_of(tensor_type type);

/** n elements, a multiple of the type's block, from bytes that need not be aligned. */
void tensor_to_f32(tensor_type type, const void *bytes, size_t n, float *dst);

#endif
