/* Exact causal self-attention over a prompt, in tiles. */
#ifndef KVQ_EVAL_MODEL_ATTENTION_H
#define KVQ_EVAL_MODEL_ATTENTION_H

#include <stddef.h>

/* Of one layer. */
typedef struct attention_shape {
    size_t H, Hkv, D; /* query head h uses KV head h / (H / Hkv) */
    float scale;      /* on q.k before the softmax */
    size_t window;    /* token i sees tokens j with i - window < j <= i; 0: all j <= i */
} attention_shape;

/**
 * n tokens that begin a sequence: out [n][H][D] from q [n][H][D], k and v [n][Hkv][D], float32. Tiles of
 * scores on the stack bound the memory; what lies outside the window is not computed. The result does not
 * depend on the number of threads.
 */
void attention_causal(const attention_shape *s, const float *q, const float *k, const float *v, size_t n,
                      float *out);

#endif
