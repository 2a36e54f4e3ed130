/* The arithmetic of the metrics (metrics.h has the definitions). Everything is summed in double. */
#include "eval/measure/metrics.h"

#include <math.h>
#include <stdlib.h>

float metric_l2_add(metric_l2 *m, const float *reference, const float *x, size_t n)
{
    double error = 0.0, sum = 0.0;
    float max_abs = 0.0f;
    for (size_t i = 0; i < n; i++) {
        const double r = (double)reference[i];
        const double d = (double)x[i] - r;
        error += d * d;
        sum += r * r;
        const float a = fabsf(x[i] - reference[i]);
        max_abs = a > max_abs ? a : max_abs;
    }
    m->error += error;
    m->reference += sum;
    m->n += n;
    return max_abs;
}

void metric_l2_merge(metric_l2 *m, const metric_l2 *other)
{
    m->error += other->error;
    m->reference += other->reference;
    m->n += other->n;
}

double metric_l2_value(const metric_l2 *m)
{
    if (m->error == 0.0)
        return 0.0;
    return sqrt(m->error / m->reference);
}

double metric_kl_probabilities(const float *p, const float *q, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double a = (double)p[i];
        const double b = (double)q[i];
        if (p[i] == q[i])
            continue; /* exactly 0, also where both underflowed */
        if (p[i] == 0.0f) {
            sum += b;
            continue;
        }
        const double floored = b < METRIC_MIN_PROBABILITY ? METRIC_MIN_PROBABILITY : b;
        const double term = a * log(a / floored) - a + floored;
        sum += term > 0.0 || isnan(term) ? term : 0.0; /* rounding only: the exact term is >= 0 */
    }
    return sum;
}

double metric_log_sum_exp(const float *logits, size_t n)
{
    double max = (double)logits[0];
    for (size_t i = 1; i < n; i++)
        max = (double)logits[i] > max ? (double)logits[i] : max;
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - max);
    return max + log(sum);
}

double metric_kl_logits(const float *reference, double reference_lse, const float *x, double x_lse, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double log_p = (double)reference[i] - reference_lse;
        const double log_q = (double)x[i] - x_lse;
        sum += exp(log_p) * (log_p - log_q);
    }
    return sum > 0.0 || isnan(sum) ? sum : 0.0; /* rounding only: a divergence is >= 0 */
}

bool metric_all_finite(const float *x, size_t n)
{
    bool bad = false;
    for (size_t i = 0; i < n; i++)
        bad |= !isfinite(x[i]);
    return !bad;
}

size_t metric_argmax(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

double metric_quantile(double *values, size_t n, double fraction)
{
    if (n == 0)
        return 0.0;
    qsort(values, n, sizeof values[0], compare_doubles);
    const double rank = ceil(fraction * (double)n); /* from 1 */
    const size_t index = rank < 1.0 ? 0 : (size_t)rank - 1;
    return values[index < n ? index : n - 1];
}

void metric_bound_add(metric_bound *m, double bound, double reference_bound, double error)
{
    m->n++;
    m->max = bound > m->max ? bound : m->max;
    if (!(error <= bound + reference_bound))
        m->n_violations++;
    if (error > 0.0 && bound > 0.0 && isfinite(bound)) {
        m->log_ratio_sum += log(bound / error);
        m->n_ratios++;
    }
}

void metric_bound_merge(metric_bound *m, const metric_bound *other)
{
    m->n += other->n;
    m->max = other->max > m->max ? other->max : m->max;
    m->log_ratio_sum += other->log_ratio_sum;
    m->n_ratios += other->n_ratios;
    m->n_violations += other->n_violations;
}

double metric_bound_looseness(const metric_bound *m)
{
    return m->n_ratios ? exp(m->log_ratio_sum / (double)m->n_ratios) : (double)NAN;
}
