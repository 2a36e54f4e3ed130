/* How long a scheme's greedy text is fp32's: the first token that differs, for the prompts of all windows. */
#ifndef KVQ_EVAL_MEASURE_DIVERGENCE_H
#define KVQ_EVAL_MEASURE_DIVERGENCE_H

#include "eval/common/error.h"
#include "eval/measure/evaluate.h"

#include <stddef.h>

typedef struct divergence_run {
    size_t *first; /* [n_windows]: tokens like fp32's before the first that differs; n where none does */
    size_t median; /* of first, see divergence_median */
} divergence_run;

typedef struct divergence {
    size_t n;        /* tokens written after each prompt */
    size_t n_prompt; /* tokens of each */
    /* Fewer than asked for, maybe 0, if the work was stopped: those are the first that were done. */
    size_t n_windows, n_windows_asked;
    divergence_run *runs; /* as those of an evaluation of the same schemes; NULL if n_windows is 0 */
    size_t n_runs;
} divergence;

/**
 * Let fp32 write n tokens greedily after the first n_prompt tokens of each window, and find where each scheme
 * would write another one.
 *
 * A scheme's text is fp32's up to the first difference, so no scheme has to write: it is run over prompt and
 * fp32's text with the prompt prefilled (evaluate, propagated errors only), and the first step that prefers
 * another token than fp32 there is the one. The prompt sees itself in full precision, so the first token is
 * always fp32's. What a scheme writes token by token may differ elsewhere, rarely: matrix products of one
 * token and of many round otherwise, and near the middle of two codes, or of two tokens as likely, that
 * decides.
 *
 * config    of a model with trained weights, not append_only, whose prompts attend to packed tokens;
 * n_prompt, bound_every and logits_stream of it are not used. n         at least 2, with n_prompt (at least
 * 1) at most the windows' tokens. On failure *out is untouched. Being stopped is none.
 */
EVAL_MUST_CHECK bool divergence_measure(divergence *out, const evaluate_config *config, size_t n_prompt,
                                        size_t n, eval_error *e);

void divergence_free(divergence *d); /* an all-zero one is fine */

/** The fewest tokens within which half of the texts or more have differed; n if fewer than half ever did, or
 * if there are none. So it is always one of those seen, and needs no text to its end. */
size_t divergence_median(const size_t *first, size_t n_windows, size_t n);

#endif
