/* Inference on paper: what a model, a context, a batch and a machine mean together, before anything is run.
 *
 * Formulas and their assumptions: README.md. T tokens of context, B sequences, L layers, H query heads of D.
 */
#ifndef KVQ_EVAL_PLAN_PLAN_H
#define KVQ_EVAL_PLAN_PLAN_H

#include "eval/common/error.h"
#include "eval/common/progress.h"
#include "eval/model/shapes.h"
#include "eval/model/tensor_type.h"
#include "eval/plan/machine.h"
#include "eval/plan/usage.h"
#include "lib/kvq.h"

#include <stdio.h>

enum { PLAN_MAX_SCHEMES = 16, PLAN_MAX_CONTEXT = 1 << 20, PLAN_MAX_BATCH = 1 << 16, PLAN_PAYS_TOKENS = 4096 };

typedef struct plan_request {
    model_dims dims;
    tensor_type weights;
    size_t context, batch;
    plan_machine machine;
    const kvq_scheme *schemes[PLAN_MAX_SCHEMES]; /* the first is fp16 */
    size_t n_schemes;
    uint64_t state_bytes; /* per sequence, of a model whose state does not grow; 0: none to compare with */
} plan_request;

/* A piece of work, and what limits it. */
typedef struct plan_work {
    double flops, bytes;   /* to be computed, to be read */
    double intensity;      /* FLOPs per byte */
    double seconds;        /* the longer of both */
    bool binds_on_compute; /* FLOPs take longer than bytes */
} plan_work;

typedef struct plan_scheme {
    const char *text;
    cache_bytes cache; /* of all sequences */
    bool fits;
    uint64_t max_batch;       /* at this context; 0: not even one sequence */
    uint64_t max_context;     /* at this batch; 0: not one token */
    uint64_t outweighs_at;    /* context from which the cache of the batch outweighs the weights; 0: none */
    uint64_t outweighs_batch; /* sequences of this context from which it does */
    uint64_t
        pays_from;  /* tokens from which it stays smaller than fp16 arrays; 0: not up to PLAN_PAYS_TOKENS */
    plan_work step; /* one decode step of the batch */
    double tokens_per_s;         /* of the batch */
    double time_vs_fp16;         /* of a step, of the first scheme's */
    uint64_t compute_from_batch; /* sequences from which a step is bound by FLOPs; 0: never at this context */
    uint64_t state_from; /* context from which the constant state holds less; 0: none up to a large one */
} plan_scheme;

typedef struct plan_measured_step {
    const char *scheme;
    double predicted, measured; /* seconds */
    double error_percent;       /* of the prediction, of what was measured */
} plan_measured_step;

/* Predictions beside measurements of one sequence; filled by who can measure. */
typedef struct plan_measured {
    size_t n_tokens;       /* in the cache, in the middle of the steps that were measured */
    const char *read_from; /* the level of memory in which a step's bytes lie */
    const char *weights;
    plan_measured_step steps[PLAN_MAX_SCHEMES];
    size_t n; /* 0: nothing was measured */
} plan_measured;

typedef struct plan_result {
    model_params params;
    uint64_t weight_bytes;
    double balance; /* FLOPs per byte at which the machine's memory and arithmetic take as long */
    plan_work prefill;
    size_t n_pays_layers, n_pays_heads; /* layers and KV heads of the cache that pays_from was asked of */
    plan_scheme schemes[PLAN_MAX_SCHEMES];
    plan_measured measured;
} plan_result;

/** Everything. `line` tells which scheme's cache is being weighed. */
EVAL_MUST_CHECK bool plan_compute(const plan_request *r, plan_result *out, progress *line, eval_error *e);

/* ---- the formulas, for tests and for predictions of what is measured ---- */

/** Bytes of the weights: matrices in the type, norms and biases in float32 beside a type of blocks. */
uint64_t plan_weight_bytes(const model_dims *d, tensor_type type);

/** Of them, those that a decode step reads: not the embedding, but for the head. */
uint64_t plan_step_weight_bytes(const model_dims *d, tensor_type type);

/** One decode step of `batch` sequences that hold n_tokens tokens; cache_read: bytes of all their caches. */
plan_work plan_decode_step(const model_dims *d, tensor_type type, const plan_machine *m, size_t n_tokens,
                           size_t batch, double cache_read);

/** A prompt of n_tokens tokens for each of `batch` sequences, with logits of the last token alone. */
plan_work plan_prefill(const model_dims *d, tensor_type type, const plan_machine *m, size_t n_tokens,
                       size_t batch);

/** Bytes per sequence of an RWKV's state (versions 5 to 7): L layers of a matrix of HEAD x HEAD per head and
 * two rows of E, in float32. HEAD must divide E. */
uint64_t plan_rwkv_state(uint64_t n_layer, uint64_t n_embd, uint64_t head);

/** The type of that name among those that --weights takes, "f32", "q4_0", ...; false if there is none. */
bool plan_weight_type(const char *name, tensor_type *type);
extern const char *const plan_weight_names[]; /* ends with NULL */

/** The sections for people. */
void plan_print(const plan_request *r, const plan_result *p);

/** Everything, as JSON; schema kvq-eval-plan/1. */
EVAL_MUST_CHECK bool plan_json(FILE *f, const plan_request *r, const plan_result *p, eval_error *e);

#endif
