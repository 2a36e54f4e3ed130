/* One worker of an evaluation: its caches and arrays, and a window's way through all layers. */
#ifndef KVQ_EVAL_MEASURE_WINDOW_H
#define KVQ_EVAL_MEASURE_WINDOW_H

#include "eval/measure/evaluate.h"
#include "eval/measure/quality.h"

/* One scheme's own state. */
typedef struct stream {
    evaluate_run *run;     /* only read while windows run side by side */
    evaluate_head *heads;  /* [L][H], of this window */
    cell_block *blocks;    /* of this window: attention's sums only */
    double seconds;        /* likewise */
    kvq_cache *local;      /* all layers, fed by the reference; NULL if propagated_only */
    kvq_cache *propagated; /* one layer at a time, fed by x; NULL without quality */
    float *x;              /* [T][E]; NULL without quality */
    bool is_reference;     /* x is the reference's so far: only fp32 layers lie behind */
} stream;

/* What the windows that run side by side share. */
typedef struct shared_progress {
    double done, total; /* steps of a layer, or work that takes as long */
} shared_progress;

/* One window at work. */
typedef struct work {
    const evaluate_config *config;
    evaluation *result;
    int n_threads;            /* within a step */
    evaluate_head *ref_heads; /* [L][H]: the bounds of the reference */
    double ref_seconds;
    size_t L, H, Hkv, D, E, T; /* layers, heads, KV heads, head dimension, width, tokens per window */
    size_t Q, KV;              /* H * D and Hkv * D */
    bool has_queries;          /* else there is no attention */
    size_t window;             /* its number, from 0 */
    kvq_cache *reference;
    float *x;                                 /* reference activations [T][E]; NULL for a recording */
    float *ref_q, *ref_out;                   /* [T][H][D] */
    float *ref_k, *ref_v;                     /* [T][Hkv][D] */
    float *q, *k, *v, *out;                   /* of whichever stream runs; k and v also for reading back */
    float *scratch;                           /* for the forward pass over T tokens; NULL for a recording */
    float *ref_probabilities, *probabilities; /* [H][t + 1] of one step */
    float *ref_bound, *bound;                 /* [H] of one step */
    metric_l2 *step_l2;                       /* [H] of one step */
    double *step_kl;                          /* likewise */
    stream *streams;
    size_t n_streams, n_local; /* n_local: with a local cache, which is all of them or none */
    quality *quality;          /* shared; NULL where there are only local errors */
    shared_progress *progress;
    bool finished, interrupted; /* the window it was given last: through all its layers, or stopped before */
} work;

/**
 * Get ready for windows of the configuration, one stream per run of `result` but a reference's own. On
 * failure work_free still may be called.
 */
EVAL_MUST_CHECK bool work_set_up(work *w, const evaluate_config *config, evaluation *result, eval_error *e);

void work_free(work *w); /* an all-zero one is fine */

/** All layers of one window. Touches nothing that another worker touches, but the progress. */
EVAL_MUST_CHECK bool work_run(work *w, size_t window, eval_error *e);

/** Tell the progress of n more steps. */
void work_steps_done(work *w, double n);

#endif
