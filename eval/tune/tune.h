/* Finding a scheme that differs by layer and is worth more than one for all layers at the same bytes.
 *
 * 1. The keys, and the values, of each layer are quantized alone, in every width, on the tuning windows: what
 * that does to the next token's distribution (propagated KL) is the layer's sensitivity.
 * 2. If divergences add up, widths are chosen greedily for the budget (choice.h), once for each number of
 * heavy hitters and each residual that is considered; these are measured.
 * 3. From the best of them on, pairs of layers trade widths; every trade is measured and kept if the
 * divergence falls.
 * 4. The choice, and uniform schemes that fit the budget, are measured on windows that had no part in it.
 *
 * All is measured by a sweep into a results file, so tuning that was stopped goes on from there, and what it
 * has measured can be looked at in a report.
 */
#ifndef KVQ_EVAL_TUNE_TUNE_H
#define KVQ_EVAL_TUNE_TUNE_H

#include "eval/results/statistics.h"
#include "eval/sweep/sweep.h"
#include "eval/tune/choice.h"

typedef struct tune_config {
    sweep_config
        sweep; /* in, precision, append_only, seed, n_threads, group, out, stop: as there; the rest is
                              tuning's */
    size_t n_tune_windows; /* the first so many are for tuning, the others, at least one, for the verdict */
    choice_budget budget;
    size_t n_rounds; /* of trades at most */
    /* Told what is measured now. May be NULL. */
    void (*phase)(void *ctx, const char *what);
    void *phase_ctx;
} tune_config;

/* A scheme with what was measured of it. */
typedef struct tuned {
    char *scheme;    /* canonical text; owned */
    double bytes;    /* as the budget counts */
    estimate tuning; /* KL on the tuning windows */
    estimate unseen; /* on the others */
} tuned;

typedef struct tune_result {
    choice_table table; /* owned */
    choice *choices;    /* [n_layers]; owned */
    choice_common common;
    tuned chosen;
    tuned *uniform; /* those that fit the budget and were measured, the best on unseen windows first; owned */
    size_t n_uniform;
    difference verdict; /* chosen against the best uniform one on unseen windows */
    size_t n_trades;    /* kept */
    size_t n_measured;  /* schemes */
    size_t n_tune_windows, n_unseen_windows;
} tune_result;

/** Errors: the budget cannot be met (the message says the least that can); those of a sweep; stopped. On
 * failure *out is untouched. */
EVAL_MUST_CHECK bool tune(tune_result *out, const tune_config *config, eval_error *e);

void tune_result_free(tune_result *r); /* an all-zero one is fine */

#endif
