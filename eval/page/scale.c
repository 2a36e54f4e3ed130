/* Scales and round numbers (scale.h). */
#include "eval/page/scale.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The least of 1, 2, 5 times a power of ten that is not below x. */
static double round_step(double x)
{
    const double power = pow(10.0, floor(log10(x)));
    const double m = x / power;
    return power * (m <= 1.0 + 1e-9 ? 1.0 : m <= 2.0 + 1e-9 ? 2.0 : m <= 5.0 + 1e-9 ? 5.0 : 10.0);
}

scale scale_linear(double lo, double hi, double from, double to)
{
    if (!(lo < hi)) {
        const double middle = isfinite(lo) ? lo : 0.0;
        lo = middle - (middle == 0.0 ? 0.0 : fabs(middle) / 2);
        hi = middle + (middle == 0.0 ? 1.0 : fabs(middle) / 2);
    }
    const double step = round_step((hi - lo) / 8);
    return (scale){.log = false,
                   .lo = floor(lo / step + 1e-9) * step,
                   .hi = ceil(hi / step - 1e-9) * step,
                   .from = from,
                   .to = to};
}

scale scale_log(double lo, double hi, double from, double to)
{
    if (!(lo > 0.0 && lo < hi)) {
        const double middle = isfinite(lo) && lo > 0.0 ? lo : 1.0;
        lo = middle / 2;
        hi = middle * 2;
    }
    const double margin = pow(hi / lo, 0.04);
    return (scale){.log = true, .lo = lo / margin, .hi = hi * margin, .from = from, .to = to};
}

double scale_at(const scale *s, double x)
{
    const double share = s->log ? log(x / s->lo) / log(s->hi / s->lo) : (x - s->lo) / (s->hi - s->lo);
    return s->from + fmin(fmax(share, 0.0), 1.0) * (s->to - s->from);
}

static size_t linear_ticks(const scale *s, size_t n_max, double *ticks)
{
    double step = round_step((s->hi - s->lo) / (double)(n_max - 1));
    size_t n = 0;
    for (double i = ceil(s->lo / step - 1e-9); i * step <= s->hi + step * 1e-9 && n < n_max; i += 1.0)
        ticks[n++] = i == 0.0 ? 0.0 : i * step;
    return n;
}

/* Marks at these factors of each `every`-th power of ten; n_max + 1 if there were more than n_max. */
static size_t log_ticks(const scale *s, const double *factors, size_t n_factors, int every, size_t n_max,
                        double *ticks)
{
    size_t n = 0;
    const int first = (int)floor(log10(s->lo)), last = (int)floor(log10(s->hi));
    for (int p = first; p <= last; p++) {
        for (size_t i = 0; p % every == 0 && i < n_factors; i++) {
            /* By text, so that 0.3 is 0.3. */
            const double x = p < 0 ? factors[i] / pow(10.0, -p) : factors[i] * pow(10.0, p);
            if (x < s->lo * (1 - 1e-9) || x > s->hi * (1 + 1e-9))
                continue;
            if (n == n_max)
                return n_max + 1;
            ticks[n++] = x;
        }
    }
    return n;
}

size_t scale_ticks(const scale *s, size_t n_max, double ticks[SCALE_MAX_TICKS])
{
    static const double dense[] = {1, 1.5, 2, 3, 4, 6, 8}, some[] = {1, 2, 5}, ends[] = {1, 3};
    n_max = n_max < 4 ? 4 : n_max > SCALE_MAX_TICKS ? SCALE_MAX_TICKS : n_max;
    if (!s->log)
        return linear_ticks(s, n_max, ticks);
    const double decades = log10(s->hi / s->lo);
    size_t n = n_max + 1;
    if (decades < 2.0)
        n = log_ticks(s, dense, 7, 1, n_max, ticks);
    if (n > n_max && decades < 3.0)
        n = log_ticks(s, some, 3, 1, n_max, ticks);
    if (n > n_max && decades < 3.0)
        n = log_ticks(s, ends, 2, 1, n_max, ticks);
    for (int every = 1; n > n_max; every++)
        n = log_ticks(s, some, 1, every, n_max, ticks);
    if (n >= 2 || decades >= 0.5)
        return n;
    scale flat = *s; /* less than a factor of about 1.3: marks as on a linear scale */
    flat.log = false;
    return linear_ticks(&flat, n_max, ticks);
}

void scale_label(char *text, size_t size, double tick)
{
    const double a = fabs(tick);
    if (a != 0.0 && (a < 0.99e-3 || a >= 1e6)) {
        snprintf(text, size, "%.4g", tick);
        /* 1e-05 -> 1e-5; 0.0001 -> 1e-4 */
        if (!strchr(text, 'e')) {
            const int p = (int)floor(log10(a) + 1e-9);
            snprintf(text, size, "%.4ge%d", tick / pow(10.0, p), p);
            return;
        }
        char *e = strchr(text, 'e') + 1;
        char *digits = e + (*e == '-' || *e == '+' ? 1 : 0);
        char *kept = digits + strspn(digits, "0");
        memmove(*e == '+' ? e : digits, kept, strlen(kept) + 1);
    } else {
        snprintf(text, size, "%.6g", tick);
    }
}
