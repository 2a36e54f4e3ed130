/* The arithmetic of the metrics: relative L2 errors, KL divergences, quantiles, the looseness of bounds. */
#ifndef KVQ_EVAL_MEASURE_METRICS_H
#define KVQ_EVAL_MEASURE_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Relative L2 error of many vectors together: sqrt(sum |x - xhat|^2 / sum |x|^2), sums in double. Zero a
 * struct to start; two of them add up field by field.
 */
typedef struct metric_l2 {
    double error;     /* sum of squared differences */
    double reference; /* sum of squares of the reference */
    uint64_t n;       /* values */
} metric_l2;

/** Add n values; returns their largest absolute difference. A NaN in either array shows in metric_l2_value.
 */
float metric_l2_add(metric_l2 *m, const float *reference, const float *x, size_t n);

/** Fold another accumulator in. */
void metric_l2_merge(metric_l2 *m, const metric_l2 *other);

/** The error; 0 where nothing differs, +Inf where only the reference is zero. */
double metric_l2_value(const metric_l2 *m);

/**
 * KL(p || q) in nats of two discrete distributions [n] whose sums are 1 but for float rounding.
 *
 * Computed as sum p log(p/q) - p + q, each term of which is >= 0: rounding of the sums can't make it
 * negative, and equal arrays give exactly 0. A q below METRIC_MIN_PROBABILITY counts as that floor, because
 * softmax in float underflows to 0 there; a term adds at most 88 p then. Terms with p = 0 add q.
 */
#define METRIC_MIN_PROBABILITY 1e-38
double metric_kl_probabilities(const float *p, const float *q, size_t n);

/** log(sum exp(logits[i])) in double, n >= 1. */
double metric_log_sum_exp(const float *logits, size_t n);

/**
 * KL(softmax(reference) || softmax(x)) in nats over n logits, in double from log-softmax. The two arguments
 * *_lse are metric_log_sum_exp of the arrays. Exactly 0 for equal arrays; never negative.
 */
double metric_kl_logits(const float *reference, double reference_lse, const float *x, double x_lse, size_t n);

/** True if no value is infinite or NaN. */
bool metric_all_finite(const float *x, size_t n);

/** Index of the largest value, the first of equals; n >= 1. */
size_t metric_argmax(const float *x, size_t n);

/**
 * Quantile `fraction` in [0, 1] by the nearest-rank rule: the smallest value that at least fraction * n of
 * the values do not exceed. Sorts the array. 0 for n = 0.
 */
double metric_quantile(double *values, size_t n, double fraction);

/**
 * How loose certified bounds are. One observation is one query head at one step: the bound promised for
 * max |out - exact| and the difference seen.
 */
typedef struct metric_bound {
    uint64_t n;           /* observations */
    double max;           /* largest bound seen, +Inf included */
    double log_ratio_sum; /* sum of log(bound / error) over the n_ratios observations below */
    uint64_t n_ratios;    /* finite bound and error > 0 */
    uint64_t n_violations;
} metric_bound;

/**
 * Add one observation. The error was measured against a reference that is itself only within
 * `reference_bound` of the truth, so a violation is error > bound + reference_bound.
 */
void metric_bound_add(metric_bound *m, double bound, double reference_bound, double error);

void metric_bound_merge(metric_bound *m, const metric_bound *other);

/** Geometric mean of bound / error where there was an error; NaN if there was none. */
double metric_bound_looseness(const metric_bound *m);

#endif
