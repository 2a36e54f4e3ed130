/* The arrays of a forward pass (model.h), for callers that run it token by token. */
#ifndef KVQ_EVAL_MODEL_PASS_ARRAYS_H
#define KVQ_EVAL_MODEL_PASS_ARRAYS_H

#include "eval/model/model.h"

typedef struct pass_arrays {
    float *x;        /* [n][E] */
    float *q, *attn; /* [n][H][D] */
    float *k, *v;    /* [n][Hkv][D] */
    float *scratch;  /* for up to n tokens */
    float *logits;   /* of one token */
} pass_arrays;

/** For passes of up to n tokens; zeros. On failure pass_arrays_free still must be called. */
EVAL_MUST_CHECK bool pass_arrays_allocate(pass_arrays *a, const model *m, size_t n, eval_error *e);

void pass_arrays_free(pass_arrays *a); /* all-zero ones are fine */

#endif
