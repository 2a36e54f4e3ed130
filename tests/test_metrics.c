/* The metrics' arithmetic against formulas written out, hand-worked values, and edge cases. */
#include "eval/measure/metrics.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

static void assert_close(double x, double expected, double relative)
{
    cr_assert(fabs(x - expected) <= relative * fabs(expected), "%.17g, expected %.17g", x, expected);
}

Test(metrics, relative_l2_of_a_hand_worked_case)
{
    const float reference[] = {3.0f, 4.0f}, x[] = {3.0f, 3.5f};
    metric_l2 m = {0};
    cr_assert_eq(metric_l2_add(&m, reference, x, 2), 0.5f);
    assert_close(metric_l2_value(&m), 0.1, 1e-15); /* sqrt(0.25 / 25) */
}

Test(metrics, relative_l2_is_of_all_vectors_together)
{
    const float reference[] = {1.0f, 0.0f, 0.0f, 2.0f}, x[] = {1.5f, 0.0f, 0.0f, 1.0f};
    metric_l2 whole = {0}, first = {0}, second = {0};
    metric_l2_add(&whole, reference, x, 4);
    metric_l2_add(&first, reference, x, 2);
    metric_l2_add(&second, reference + 2, x + 2, 2);
    metric_l2_merge(&first, &second);
    cr_assert_eq(first.n, 4);
    cr_assert_eq(metric_l2_value(&first), metric_l2_value(&whole));
    assert_close(metric_l2_value(&whole), sqrt(1.25 / 5.0), 1e-15);
}

Test(metrics, relative_l2_edge_cases)
{
    const float zero[2] = {0}, one[2] = {1.0f, 1.0f}, nan_value[2] = {1.0f, NAN};
    metric_l2 m = {0};
    cr_assert_eq(metric_l2_value(&m), 0.0, "nothing added");
    metric_l2_add(&m, zero, zero, 2);
    cr_assert_eq(metric_l2_value(&m), 0.0, "zero against zero");
    metric_l2_add(&m, zero, one, 2);
    cr_assert(isinf(metric_l2_value(&m)), "an error against nothing");
    metric_l2_add(&m, one, nan_value, 2);
    cr_assert(isnan(metric_l2_value(&m)), "NaN must show");
}

Test(metrics, squares_of_large_values_do_not_overflow)
{
    const float reference[] = {FLT_MAX, FLT_MAX}, x[] = {FLT_MAX, 0.0f};
    metric_l2 m = {0};
    metric_l2_add(&m, reference, x, 2);
    assert_close(metric_l2_value(&m), sqrt(0.5), 1e-15);
}

Test(metrics, all_finite_sees_every_place)
{
    float x[67] = {0};
    cr_assert(metric_all_finite(x, 67) && metric_all_finite(x, 0));
    x[3] = FLT_MAX;
    cr_assert(metric_all_finite(x, 67));
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 67; i++)
        for (size_t j = 0; j < 3; j++) {
            const float old = x[i];
            x[i] = bad[j];
            cr_expect_not(metric_all_finite(x, 67), "%g at %zu", (double)bad[j], i);
            x[i] = old;
        }
}

Test(metrics, kl_of_probabilities)
{
    const float p[] = {0.5f, 0.25f, 0.25f}, q[] = {0.25f, 0.5f, 0.25f};
    assert_close(metric_kl_probabilities(p, q, 3), 0.25 * log(2.0), 1e-12);
    cr_assert_eq(metric_kl_probabilities(p, p, 3), 0.0);
}

/* KL((1/2, 1/2) || (1/4, 3/4)) = ln(4/3) / 2, and the other way round it is ln(27/16) / 4. */
Test(metrics, kl_has_a_direction)
{
    const float p[] = {0.5f, 0.5f}, q[] = {0.25f, 0.75f};
    assert_close(metric_kl_probabilities(p, q, 2), 0.5 * log(4.0 / 3.0), 1e-14);
    assert_close(metric_kl_probabilities(q, p, 2), 0.25 * log(27.0 / 16.0), 1e-14);
    const float a[] = {5.0f, 5.0f}, b[] = {-1.0f, -1.0f + logf(3.0f)}; /* the logits of p and q */
    const double a_lse = metric_log_sum_exp(a, 2), b_lse = metric_log_sum_exp(b, 2);
    assert_close(metric_kl_logits(a, a_lse, b, b_lse, 2), 0.5 * log(4.0 / 3.0), 1e-6);
    assert_close(metric_kl_logits(b, b_lse, a, a_lse, 2), 0.25 * log(27.0 / 16.0), 1e-6);
}

Test(metrics, kl_of_probabilities_survives_zeros)
{
    const float p[] = {0.5f, 0.5f, 0.0f}, q[] = {1.0f, 0.0f, 0.0f};
    /* The floor stands in for the q that underflowed. */
    assert_close(metric_kl_probabilities(p, q, 3), 0.5 * log(0.5) + 0.5 * log(0.5 / METRIC_MIN_PROBABILITY),
                 1e-12);
    cr_assert_eq(metric_kl_probabilities(q, q, 3), 0.0);
    cr_assert_geq(metric_kl_probabilities(q, p, 3), log(2.0) - 1e-12);
}

Test(metrics, kl_of_probabilities_is_never_negative)
{
    unsigned state = 1;
    for (int trial = 0; trial < 2000; trial++) {
        float p[17], q[17];
        float p_sum = 0.0f, q_sum = 0.0f;
        for (int i = 0; i < 17; i++) {
            state = state * 1664525u + 1013904223u;
            p[i] = expf((float)(state >> 16) / 4096.0f);
            q[i] = p[i] * (1.0f + (float)(state >> 8 & 7u) * 1e-7f);
            p_sum += p[i];
            q_sum += q[i];
        }
        for (int i = 0; i < 17; i++) {
            p[i] /= p_sum;
            q[i] /= q_sum;
        }
        const double kl = metric_kl_probabilities(p, q, 17);
        cr_assert(kl >= 0.0 && kl < 1e-9, "trial %d: %g", trial, kl);
    }
}

Test(metrics, kl_of_logits_is_kl_of_their_softmax)
{
    const float a[] = {1.0f, -2.0f, 0.5f, 3.0f}, b[] = {0.0f, 1.0f, 0.25f, 2.0f};
    double za = 0.0, zb = 0.0, expected = 0.0;
    for (int i = 0; i < 4; i++) {
        za += exp((double)a[i]);
        zb += exp((double)b[i]);
    }
    for (int i = 0; i < 4; i++) {
        const double p = exp((double)a[i]) / za, q = exp((double)b[i]) / zb;
        expected += p * log(p / q);
    }
    const double a_lse = metric_log_sum_exp(a, 4), b_lse = metric_log_sum_exp(b, 4);
    assert_close(a_lse, log(za), 1e-14);
    assert_close(metric_kl_logits(a, a_lse, b, b_lse, 4), expected, 1e-12);
    cr_assert_eq(metric_kl_logits(a, a_lse, a, a_lse, 4), 0.0);
}

Test(metrics, logits_of_any_size_are_fine)
{
    const float large[] = {3e38f, 3e38f}, mixed[] = {-3e38f, 0.0f};
    assert_close(metric_log_sum_exp(large, 2), 3e38, 1e-6);
    cr_assert_eq(metric_log_sum_exp(mixed, 2), 0.0);
    /* A constant added to all logits changes nothing. */
    const float a[] = {0.0f, 1.0f, 2.0f}, b[] = {1000.0f, 1001.0f, 1002.0f};
    cr_assert_lt(metric_kl_logits(a, metric_log_sum_exp(a, 3), b, metric_log_sum_exp(b, 3), 3), 1e-12);
}

Test(metrics, argmax_takes_the_first_of_equals)
{
    const float x[] = {1.0f, 3.0f, 3.0f, 2.0f};
    cr_assert_eq(metric_argmax(x, 4), 1);
    cr_assert_eq(metric_argmax(x, 1), 0);
}

Test(metrics, quantiles_by_nearest_rank)
{
    double x[100];
    for (int i = 0; i < 100; i++)
        x[i] = (double)((i * 37) % 100 + 1); /* 1 to 100, shuffled */
    cr_assert_eq(metric_quantile(x, 100, 0.99), 99.0);
    cr_assert_eq(metric_quantile(x, 100, 0.5), 50.0);
    cr_assert_eq(metric_quantile(x, 100, 1.0), 100.0);
    cr_assert_eq(metric_quantile(x, 100, 0.0), 1.0);
    double one[] = {7.0};
    cr_assert_eq(metric_quantile(one, 1, 0.99), 7.0);
    cr_assert_eq(metric_quantile(NULL, 0, 0.5), 0.0);
}

Test(metrics, bounds_count_violations_and_looseness)
{
    metric_bound m = {0}, other = {0};
    cr_assert(isnan(metric_bound_looseness(&m)));
    metric_bound_add(&m, 0.0, 0.0, 0.0); /* exact: no ratio, no violation */
    cr_assert_eq(m.n_ratios + m.n_violations, 0);
    metric_bound_add(&m, 2.0, 0.0, 1.0);
    metric_bound_add(&other, 8.0, 0.0, 1.0);
    metric_bound_merge(&m, &other);
    assert_close(metric_bound_looseness(&m), 4.0, 1e-14); /* geometric mean of 2 and 8 */
    cr_assert_eq(m.max, 8.0);
    cr_assert_eq(m.n, 3);
    metric_bound larger = {.max = 9.0};
    metric_bound_merge(&larger, &other);
    cr_assert_eq(larger.max, 9.0, "the larger one stays");
    metric_bound_add(&m, 1.0, 0.5, 1.5); /* at the edge of both bounds together */
    cr_assert_eq(m.n_violations, 0);
    metric_bound_add(&m, 1.0, 0.5, 1.5001);
    cr_assert_eq(m.n_violations, 1);
    metric_bound_add(&m, 1.0, 0.0, (double)NAN);
    cr_assert_eq(m.n_violations, 2, "an error that is no number breaks every bound");
    metric_bound_add(&m, (double)INFINITY, 0.0, 1.0);
    cr_assert(isinf(m.max) && isfinite(metric_bound_looseness(&m)));
}
