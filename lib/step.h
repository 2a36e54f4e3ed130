/*
 * A call of kvq_cache_step, for the two files that carry it out: step.c, what is checked, taken, packed and
 * stored; step_attend.c, attention and the attention received.
 */
#ifndef KVQ_LIB_STEP_H
#define KVQ_LIB_STEP_H

#include "lib/internal.h"

/** What one sequence has in the call. */
typedef struct kvq_part {
    size_t sequence, n_new;
    size_t first_query;        /* in the call's arrays */
    size_t watched;            /* newest tokens whose received attention is gathered */
    float *received;           /* [Hkv][watched] */
    float *fresh[KVQ_N_ROLES]; /* [heads][n_new][D] of the batch in flight, if they are laid out anew */
} kvq_part;

/** One call. */
typedef struct kvq_step {
    kvq_cache *cache;
    const kvq_layer_plan *plan;
    size_t layer, n_parts;
    int n_threads; /* that the call may use */
    const void *q, *k, *v;
    kvq_dtype kv_dtype;
    float *probabilities; /* the caller's, or NULL */
    kvq_attention_call attention;
    kvq_part *parts; /* [n_parts], as the next */
    kvq_span *spans;
    float *received; /* of all parts */
    float *batch;    /* what a batch needs */
} kvq_step;

static inline kvq_layer *kvq_part_layer(const kvq_step *s, const kvq_part *p)
{
    return &s->cache->sequence[p->sequence][s->layer];
}

/* ---- step_attend.c ---- */

/** Floats that s->batch must hold; the parts must say how many tokens are watched, at most. */
size_t kvq_step_batch_floats(const kvq_step *s);

/** Attend with all queries to what is stored and to the call's own tokens; what those that are watched
 * receive is added to p->received of their part. Cannot fail. */
void kvq_step_attend(kvq_step *s);

#endif /* KVQ_LIB_STEP_H */
