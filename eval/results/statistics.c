/* Estimates by the bootstrap (statistics.h). */
#include "eval/results/statistics.h"

#include "eval/common/splitmix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* The sums that all figures are made of. */
typedef struct sums {
    double n_steps, n_targets, n_agree;
    double kl, nll, nll_fp32;
    double attn_error, attn_reference, attn_kl, n_attn;
} sums;

static void add_block(sums *s, const cell_block *b)
{
    s->n_steps += b->n_steps;
    s->n_targets += b->n_targets;
    s->n_agree += b->n_agree;
    s->kl += b->kl;
    s->nll += b->nll;
    s->nll_fp32 += b->nll_fp32;
    s->attn_error += b->attn_error;
    s->attn_reference += b->attn_reference;
    s->attn_kl += b->attn_kl;
    s->n_attn += (double)b->n_attn;
}

static void add_sums(sums *s, const sums *b)
{
    s->n_steps += b->n_steps;
    s->n_targets += b->n_targets;
    s->n_agree += b->n_agree;
    s->kl += b->kl;
    s->nll += b->nll;
    s->nll_fp32 += b->nll_fp32;
    s->attn_error += b->attn_error;
    s->attn_reference += b->attn_reference;
    s->attn_kl += b->attn_kl;
    s->n_attn += b->n_attn;
}

static double value_of(figure f, const sums *s)
{
    switch (f) {
    case FIGURE_KL:
        return s->kl / s->n_steps;
    case FIGURE_TOP1:
        return s->n_agree / s->n_steps;
    case FIGURE_PPL:
        return exp(s->nll / s->n_targets);
    case FIGURE_PPL_CHANGE:
        return 100.0 * expm1((s->nll - s->nll_fp32) / s->n_targets);
    case FIGURE_ATTN_ERROR:
        return s->attn_error == 0.0 && s->n_attn > 0.0 ? 0.0 : sqrt(s->attn_error / s->attn_reference);
    case FIGURE_ATTN_KL:
        return s->attn_kl / s->n_attn;
    case N_FIGURES:
        break;
    }
    return (double)NAN;
}

static bool draws_windows(size_t n_windows)
{
    return n_windows >= STATISTICS_MIN_WINDOWS;
}

const char *statistics_unit(size_t n_windows)
{
    return draws_windows(n_windows) ? "windows" : "blocks of 64 tokens";
}
_Static_assert(CELL_BLOCK == 64, "statistics_unit says so");

/* One scheme's units: what is drawn. */
typedef struct units {
    sums *sums;
    size_t n;
    sums total;
} units;

static bool make_units(units *u, const cell *const *cells, size_t n)
{
    size_t n_max = 1;
    for (size_t i = 0; i < n; i++)
        n_max += cells[i]->n_blocks;
    *u = (units){.sums = calloc(n_max, sizeof u->sums[0])};
    if (!u->sums)
        return false;
    for (size_t i = 0; i < n; i++) {
        for (size_t b = 0; b < cells[i]->n_blocks; b++) {
            add_block(&u->sums[draws_windows(n) ? i : u->n + b], &cells[i]->blocks[b]);
            add_block(&u->total, &cells[i]->blocks[b]);
        }
        u->n += draws_windows(n) ? 1 : cells[i]->n_blocks;
    }
    return true;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Deviation and quantiles of the replicates, which are sorted by this. */
static estimate from_replicates(double value, double *r, size_t n_units)
{
    enum { N = STATISTICS_REPLICATES };
    estimate e = {.value = value, .se = (double)NAN, .low = (double)NAN, .high = (double)NAN};
    if (n_units < 2)
        return e;
    double mean = 0.0, square = 0.0;
    for (size_t i = 0; i < N; i++) {
        if (isnan(r[i])) /* a draw without any step that has the figure */
            return e;
        mean += r[i] / N;
    }
    for (size_t i = 0; i < N; i++)
        square += (r[i] - mean) * (r[i] - mean);
    qsort(r, N, sizeof r[0], ascending);
    e.se = sqrt(square / (N - 1));
    e.low = r[N * 25 / 1000];
    e.high = r[N - 1 - N * 25 / 1000];
    return e;
}

/* The k-th draw of a replicate: from n units. n is far below 2^64, so the modulo's bias does not matter. */
static size_t draw(uint64_t seed, size_t replicate, size_t k, size_t n)
{
    return (size_t)(splitmix64(splitmix64(seed, replicate + 1), k + 1) % n);
}

static const estimate no_estimate = {(double)NAN, (double)NAN, (double)NAN, (double)NAN};

estimate statistics_estimate(figure f, const cell *const *cells, size_t n, uint64_t seed)
{
    double replicates[STATISTICS_REPLICATES];
    units u;
    if (n == 0 || !make_units(&u, cells, n))
        return no_estimate;
    for (size_t i = 0; i < STATISTICS_REPLICATES && u.n > 0; i++) {
        sums s = {0};
        for (size_t j = 0; j < u.n; j++)
            add_sums(&s, &u.sums[draw(seed, i, j, u.n)]);
        replicates[i] = value_of(f, &s);
    }
    const estimate e = from_replicates(value_of(f, &u.total), replicates, u.n);
    free(u.sums);
    return e;
}

bool statistics_beats(double size, double value, double other_size, double other_value)
{
    return size <= other_size && value <= other_value && (size < other_size || value < other_value);
}

/* The replicates of two schemes on the same draws. */
static void compare_units(difference *d, figure f, const units *a, const units *b, uint64_t seed)
{
    enum { N = STATISTICS_REPLICATES };
    double of_a[N], of_b[N], diff[N], ratio[N];
    double n_less = 0.0;
    for (size_t i = 0; i < N; i++) {
        sums sa = {0}, sb = {0};
        for (size_t j = 0; j < a->n; j++) {
            const size_t at = draw(seed, i, j, a->n);
            add_sums(&sa, &a->sums[at]);
            add_sums(&sb, &b->sums[at]);
        }
        of_a[i] = value_of(f, &sa);
        of_b[i] = value_of(f, &sb);
        diff[i] = of_a[i] - of_b[i];
        ratio[i] = of_a[i] > 0.0 && of_b[i] > 0.0 ? log(of_a[i] / of_b[i]) : (double)NAN;
        n_less += isnan(diff[i]) && of_a[i] != of_b[i] ? (double)NAN
                  : of_a[i] < of_b[i]                  ? 1.0
                  : of_a[i] == of_b[i]                 ? 0.5
                                                       : 0.0;
    }
    const double va = value_of(f, &a->total), vb = value_of(f, &b->total);
    d->a = from_replicates(va, of_a, a->n);
    d->b = from_replicates(vb, of_b, b->n);
    d->diff = from_replicates(va - vb, diff, a->n);
    d->log_ratio = from_replicates(va > 0.0 && vb > 0.0 ? log(va / vb) : (double)NAN, ratio, a->n);
    d->a_is_less = a->n < 2 ? (double)NAN : n_less / N;
}

difference statistics_compare(figure f, const cell *const *a, const cell *const *b, size_t n, uint64_t seed)
{
    difference d = {no_estimate, no_estimate, no_estimate, no_estimate, (double)NAN};
    units ua = {0}, ub = {0};
    if (n > 0 && make_units(&ua, a, n) && make_units(&ub, b, n) && ua.n == ub.n && ua.n > 0)
        compare_units(&d, f, &ua, &ub, seed);
    free(ua.sums);
    free(ub.sums);
    return d;
}
