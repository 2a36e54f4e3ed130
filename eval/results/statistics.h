/* Figures from cells, with their uncertainty: a bootstrap over windows, or over blocks of consecutive tokens
 * where windows are few.
 *
 * Neighbouring tokens' divergences are alike, so tokens cannot be drawn one by one: what is drawn with
 * replacement are whole windows if there are at least STATISTICS_MIN_WINDOWS, else blocks of CELL_BLOCK steps
 * (the block bootstrap of Kuensch, Annals of Statistics 17(3), 1989, with blocks that do not overlap). Every
 * figure is a function of sums, so a replicate is the function of the drawn units' sums. Two schemes are
 * compared on the same draws of the same windows (paired), which is what makes small differences visible.
 */
#ifndef KVQ_EVAL_RESULTS_STATISTICS_H
#define KVQ_EVAL_RESULTS_STATISTICS_H

#include "eval/results/cell.h"

enum {
    STATISTICS_MIN_WINDOWS = 16,
    STATISTICS_REPLICATES = 1000,
};
#define STATISTICS_SEED UINT64_C(20260101)

typedef enum figure {
    FIGURE_KL,         /* mean next-token divergence, nats */
    FIGURE_TOP1,       /* share of steps whose most likely token is fp32's */
    FIGURE_PPL,        /* perplexity */
    FIGURE_PPL_CHANGE, /* of it against fp32's on the same tokens, in percent */
    FIGURE_ATTN_ERROR, /* relative L2 error of attention's output */
    FIGURE_ATTN_KL,    /* mean divergence of attention's probabilities, nats */
    N_FIGURES,
} figure;

/* An estimate: NaN throughout where there is no such figure; se, low and high are NaN where there are fewer
 * than two units to draw from. */
typedef struct estimate {
    double value;
    double se;        /* standard error: deviation of the replicates */
    double low, high; /* 95 % interval: quantiles of the replicates */
} estimate;

/** What is drawn, as reports say it: "windows" or "blocks of 64 tokens". */
const char *statistics_unit(size_t n_windows);

/** A figure of one scheme's cells (pointers to n of them, one per window). Depends on the cells' order and on
 * the seed, on nothing else. */
estimate statistics_estimate(figure f, const cell *const *cells, size_t n, uint64_t seed);

/** Is a scheme of this size and figure (less is better) at least as good as another in both, and better in
 * one? On the front are those that no other beats. False where something is NaN. */
bool statistics_beats(double size, double value, double other_size, double other_value);

typedef struct difference {
    estimate a, b;
    estimate diff;      /* a - b, paired */
    estimate log_ratio; /* log(a / b), paired; NaN where a figure is not positive */
    double
        a_is_less; /* share of the replicates where a is less than b, ties counting half; NaN where one is */
} difference;

/** Two schemes' cells of the same windows in the same order. */
difference statistics_compare(figure f, const cell *const *a, const cell *const *b, size_t n, uint64_t seed);

#endif
