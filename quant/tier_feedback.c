/*
 * Feedback of codec_tier.c: from the second moments of queries to how much of a channel's error later
 * channels make up for. Doubles in an order that is written down here: the same bits on every machine.
 */
#include "quant/tier.h"

#include <float.h>
#include <math.h>

enum { AT_ONCE = 16, MAX = KVQ_TIER_FEEDBACK_DIM_MAX };

/* Replace A by the columns of R, upper triangular with A = R R^T: row k becomes column k. False if A is not
 * positive. Each row loses what those behind it take from it, the last one first; what is computed past its
 * diagonal is nothing. */
static bool factor(const kvq_kernels *k, double *a, size_t n)
{
    const double *behind[MAX]; /* the last row first */
    double by[MAX];
    for (size_t i = 0; i < n; i++)
        behind[i] = a + kvq_tier_row(n - 1 - i);
    for (size_t j = n; j-- > 0;) {
        double *row = a + kvq_tier_row(j), rest[AT_ONCE];
        for (size_t i = 0; i < n - 1 - j; i++)
            by[i] = behind[i][j];
        for (size_t c = 0; c <= j; c += AT_ONCE) {
            memcpy(rest, row + c, sizeof rest);
            k->subtract_rows_f64(behind, c, by, n - 1 - j, rest);
            memcpy(row + c, rest, (j + 1 - c < AT_ONCE ? j + 1 - c : AT_ONCE) * sizeof *rest);
        }
        const double root = sqrt(row[j]);
        if (!(root > 0 && root < DBL_MAX))
            return false;
        row[j] = root;
        for (size_t i = 0; i < j; i++)
            row[i] /= root;
    }
    return true;
}

/* Replace the columns of R by those of its inverse U: AT_ONCE columns at a time, from the last ones on,
 * upwards. Those that begin above row i have a 0 there, which changes nothing. */
static void invert(const kvq_kernels *k, double *r, size_t n)
{
    double u[MAX][AT_ONCE], by[MAX];
    const double *below[MAX]; /* rows of u, the last first */
    for (size_t first = (n - 1) / AT_ONCE * AT_ONCE, end = n;; end = first, first -= AT_ONCE) {
        for (size_t i = end; i-- > 0;) {
            const double diagonal = r[kvq_tier_row(i) + i];
            memset(u[i], 0, sizeof u[i]);
            for (size_t j = 0; j < end - 1 - i; j++)
                by[j] = r[kvq_tier_row(end - 1 - j) + i];
            k->subtract_rows_f64(below, 0, by, end - 1 - i, u[i]);
            if (i >= first)
                u[i][i - first] = 1;
            for (size_t j = 0; j < AT_ONCE; j++)
                u[i][j] /= diagonal;
            below[end - 1 - i] = u[i];
        }
        for (size_t j = first; j < end; j++)
            for (size_t i = 0; i <= j; i++)
                r[kvq_tier_row(j) + i] = u[i][j - first];
        if (first == 0)
            return;
    }
}

bool kvq_tier_make_feedback(const kvq_kernels *k, const float *moment, const uint16_t *turn, size_t n,
                            double *u)
{
    double trace = 0;
    for (size_t i = 0; i < n; i++)
        trace += (double)moment[kvq_tier_row(i) + i];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            size_t a = turn[i] > turn[j] ? turn[i] : turn[j], b = turn[i] > turn[j] ? turn[j] : turn[i];
            u[kvq_tier_row(i) + j] =
                (double)moment[kvq_tier_row(a) + b] + (i == j ? 0.05 * trace / (double)n : 0);
        }
    for (size_t i = 0; i < AT_ONCE; i++) /* so that what is read past the end is something */
        u[kvq_tier_row(n) + i] = 0;
    if (!factor(k, u, n))
        return false;
    invert(k, u, n);
    for (size_t i = 0; i < n; i++)
        if (!(u[kvq_tier_row(i) + i] > 0 && u[kvq_tier_row(i) + i] < DBL_MAX))
            return false;
    return true;
}
