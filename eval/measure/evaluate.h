/* What a scheme costs on teacher-forced decodes: the run itself, layer by layer, and its results. */
#ifndef KVQ_EVAL_MEASURE_EVALUATE_H
#define KVQ_EVAL_MEASURE_EVALUATE_H

#include "eval/common/error.h"
#include "eval/measure/metrics.h"
#include "eval/model/model.h"
#include "eval/model/recording.h"
#include "eval/results/cell.h"
#include "eval/results/statistics.h"
#include "lib/kvq.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct evaluate_config {
    /* One of them; the other is NULL. Windows are texts that the model runs over, or the recording's first
     * sequences, each from its first token on. */
    const model *model;
    const recording *recording;
    const int32_t *ids; /* [n_windows][n_tokens]; NULL for a recording */
    size_t n_windows;
    /* The number of the first of these windows, where they are part of more: cells and errors count from it,
     * and of a recording it is the first sequence. */
    size_t first_window;
    size_t n_tokens;  /* per window, 2 to the model's n_ctx or the recording's T */
    bool append_only; /* queries teach the caches nothing: append and attend apart, instead of a step */
    /* Of each window: prefilled with full-precision attention and not counted; at most n_tokens - 2. */
    size_t n_prompt;
    /* Only runs that feed themselves, in about half the time: figures of K, V, attention and bytes stay 0,
     * and there are no estimates. For a model with trained weights. */
    bool propagated_only;
    kvq_scheme *const *schemes; /* [n_schemes] */
    size_t n_schemes;
    kvq_precision precision; /* of attention, but for steps that ask for the bound, which are exact */
    /* Step t of a window asks for the certified bound if t + 1 is a multiple of this or the window's last
     * step; 0: none does. */
    size_t bound_every;
    int n_threads; /* for attention; 0: as many as OpenMP gives */
    FILE
        *logits_stream; /* gets the first window's fp32 logits, float32 [n_tokens][vocab]; NULL: not wanted */
    void (*progress)(void *ctx, double fraction); /* may be NULL */
    void *progress_ctx;
    /* Asked before every step, by any thread: true ends the work early. May be NULL. */
    bool (*stop)(void *ctx);
    void *stop_ctx;
} evaluate_config;

/* Errors of one head of one layer whose cache was fed with the fp32 run's keys, values and queries. */
typedef struct evaluate_head {
    metric_l2 k, v;               /* all tokens of each window, read back at its end */
    metric_l2 k_packed, v_packed; /* of them those that are packed by then */
    metric_l2 attn;               /* attention output of the counted steps */
    double prob_kl_sum;
    uint64_t n_steps;
    float attn_max_abs;
    metric_bound bound;
} evaluate_head;

/* What a counted step's next-token distribution says. */
typedef struct evaluate_step {
    double kl;    /* from fp32's, nats */
    double nll;   /* of the token that follows, nats; 0 at a window's last step */
    int32_t best; /* the most likely token, the first of equals */
} evaluate_step;

/* A scheme and what was measured. Averages run over all windows. */
typedef struct evaluate_run {
    kvq_scheme *scheme; /* the run's own */
    const char *text;   /* its canonical form */
    /* True for the fp32 row that stands for the reference itself: its errors are 0 by definition, its bytes
     * and its perplexity are measured. False for every scheme that was asked for, fp32 included. */
    bool is_reference;
    bool kv_only; /* as the evaluation: figures of attention are NaN, and the counts among them 0 */

    kvq_usage usage;                 /* of a cache of all layers at the end of a window */
    double bits_packed;              /* payload and metadata per packed element; NaN if nothing is packed */
    double bits_here;                /* all bytes of the cache per element held */
    uint64_t fp32_bytes, fp16_bytes; /* the same keys and values as plain arrays */
    double ratio_vs_fp32, ratio_vs_fp16;
    uint64_t pays_from; /* fewest tokens from which on the cache is smaller than fp16_bytes; 0: never */

    /* Local errors, each one figure for all layers and heads together; attn_prob_kl is a mean over steps,
     * layers and query heads. The two of packed tokens are NaN where nothing is packed. */
    double k_rel_l2, v_rel_l2, k_rel_l2_packed, v_rel_l2_packed, attn_rel_l2, attn_max_abs, attn_prob_kl;
    /* The layer and head whose attn_rel_l2 alone is the largest; the first of equals. */
    double attn_worst_rel_l2;
    uint64_t attn_worst_layer, attn_worst_head;
    double bound_max;       /* +Inf where nothing is promised; NaN if no step asked for a bound */
    double bound_looseness; /* geometric mean of bound / error; NaN if no error was seen */
    evaluate_head *heads;   /* [n_layer][n_head] */

    /* What reaches the next-token distribution when the run feeds itself; has_quality only. */
    double kld_mean, kld_p99, kld_max, top1, ppl, ppl_fp32;
    evaluate_step *steps; /* [n_windows][n_tokens - n_prompt]; has_quality only */

    cell *cells; /* [n_windows]: the same by window */
    /* What the cells say, with its uncertainty by STATISTICS_SEED; the values are those above but for
     * rounding. */
    estimate estimates[N_FIGURES];

    /* This scheme's own work, for is_reference the fp32 pass; windows that ran side by side are added up. */
    double seconds;
} evaluate_run;

typedef struct evaluation {
    size_t n_layer, n_head, head_dim, n_windows, n_tokens, n_prompt;
    /* More than n_windows if the work was stopped: those are the first that were done. */
    size_t n_windows_asked;
    /* Layers whose tokens attend to the newest attn_window alone (sliding-window attention); 0 if none. */
    size_t n_layer_windowed, attn_window;
    size_t bound_every; /* as in the config */
    /* pays_from was looked for up to so many tokens: the model's context, if not too long. */
    size_t n_weighed;
    eval_error logits_failed; /* "" unless logits_stream could not be written, which ends nothing */
    bool has_quality;         /* false for random weights and for recordings */
    bool recorded;            /* measured on a recording */
    bool kv_only;             /* one without queries: there are no figures of attention */
    evaluate_run *runs;
    size_t n_runs;
} evaluation;

/**
 * bound_every for windows of n_tokens: eight steps of each window, the last among them. A bound costs 10 to
 * 150 times the attention of its step; eight of them are 7 to 15 % of a run (measured with windows of 128 to
 * 8,192 tokens), where every eighth step of 1,024 tokens would be two thirds of it.
 */
size_t evaluate_default_bound_every(size_t n_tokens);

/**
 * Run all windows. runs[0] is fp32: the scheme itself if it is among those asked for, otherwise the
 * reference. The others follow in the order given.
 *
 * Each window is run layer by layer, which gives what token-by-token decoding gives (a layer's keys and
 * values of tokens up to t are all that step t needs of it), while the matrix products run over all tokens at
 * once. Errors: out of memory; a library error with scheme, layer and token; attention or logits that
 * are not finite, with scheme, window and token; an attention error above the library's certified bound,
 * which is a defect of the library; stopped before a window was done. On failure *out is untouched.
 */
EVAL_MUST_CHECK bool evaluate(evaluation *out, const evaluate_config *config, eval_error *e);

void evaluation_free(evaluation *ev); /* an all-zero one is fine */

/** The shape of the configuration's model or recording. */
const model_shape *evaluate_shape(const evaluate_config *config);

/** How many tokens a token of this layer attends to, itself the last of them; 0: all. */
size_t evaluate_attn_window(const evaluate_config *config, size_t layer);

/** kvq_scheme_create with a message. */
EVAL_MUST_CHECK bool evaluate_make_scheme(kvq_scheme **out, const char *text, eval_error *e);

/** Mean over a head's steps of the KL divergence of its attention probabilities. */
double evaluate_head_prob_kl(const evaluate_head *head);

/** Relative L2 error of a run's packed tokens, given their sums: NaN if nothing was packed, but 0 for the
 * reference. */
double evaluate_packed_error(const evaluate_run *run, const metric_l2 *packed);

/** How far perplexity is above fp32's, in percent. */
double evaluate_ppl_increase(const evaluate_run *run);

/** Was the work stopped before all windows were done? */
bool evaluation_is_partial(const evaluation *ev);

/** Number of steps that count: each token of each window after its prompt. */
size_t evaluation_n_steps(const evaluation *ev);

/** The cells of a run's windows as a list [n_windows], which the caller frees; NULL without memory, or
 * without cells. */
const cell **evaluate_cells(const evaluation *ev, const evaluate_run *run);

/**
 * What all cells of this configuration have in common. Names are what reports call model and text. Takes as
 * long as reading all weights, or the recorded file, once. Errors: reading the recording.
 */
EVAL_MUST_CHECK bool evaluate_experiment(experiment *x, const evaluate_config *config, const char *model_name,
                                         const char *text_name, int32_t bos_id, uint64_t seed, eval_error *e);

/** cell.ids_checksum of a window. */
uint64_t evaluate_ids_checksum(const evaluate_config *config, size_t window);

#endif
