/* Figures from cells, and their uncertainty: against hand-worked sums, and against data whose spread is
 * known. */
#include "eval/common/splitmix.h"
#include "eval/results/statistics.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void assert_close(double x, double expected, double relative)
{
    cr_assert(fabs(x - expected) <= relative * fabs(expected), "%.17g, expected %.17g", x, expected);
}

static cell_block block_of(uint32_t n, double kl)
{
    return (cell_block){.n_steps = n, .n_targets = n, .n_agree = n, .kl = kl};
}

Test(statistics, figures_are_functions_of_the_sums_of_all_blocks)
{
    cell_block one[] = {
        {64, 64, 60, 6.4, 130.0, 128.0, 2.0, 50.0, 1.5, 640},
        {36, 35, 35, 0.1, 70.0, 71.0, 1.0, 25.0, 0.5, 360},
    };
    cell_block two[] = {{64, 63, 64, 0.5, 120.0, 121.0, 0.0, 25.0, 0.0, 640}};
    const cell a = {.blocks = one, .n_blocks = 2}, b = {.blocks = two, .n_blocks = 1};
    const cell *const cells[] = {&a, &b};
    assert_close(statistics_estimate(FIGURE_KL, cells, 2, 1).value, 7.0 / 164.0, 1e-14);
    assert_close(statistics_estimate(FIGURE_TOP1, cells, 2, 1).value, 159.0 / 164.0, 1e-14);
    assert_close(statistics_estimate(FIGURE_PPL, cells, 2, 1).value, exp(320.0 / 162.0), 1e-14);
    /* 320 nats are as many as fp32's: exp(0) */
    cr_assert_eq(statistics_estimate(FIGURE_PPL_CHANGE, cells, 2, 1).value, 0.0);
    assert_close(statistics_estimate(FIGURE_PPL_CHANGE, cells, 1, 1).value, 100.0 * (exp(1.0 / 99.0) - 1.0),
                 1e-12);
    assert_close(statistics_estimate(FIGURE_ATTN_ERROR, cells, 2, 1).value, sqrt(0.03), 1e-14);
    assert_close(statistics_estimate(FIGURE_ATTN_KL, cells, 2, 1).value, 2.0 / 1640.0, 1e-14);
}

/* n windows of n_blocks blocks whose divergences come from `draw`. */
static cell *make_cells(size_t n, size_t n_blocks, double (*draw)(size_t i, uint64_t seed), uint64_t seed)
{
    cell *cells = calloc(n, sizeof cells[0]);
    cr_assert_not_null(cells);
    for (size_t w = 0; w < n; w++) {
        cells[w].n_blocks = n_blocks;
        cells[w].blocks = calloc(n_blocks, sizeof cells[w].blocks[0]);
        for (size_t i = 0; i < n_blocks; i++)
            cells[w].blocks[i] = block_of(CELL_BLOCK, CELL_BLOCK * draw(w * n_blocks + i, seed));
    }
    return cells;
}

static void free_cells(cell *cells, size_t n)
{
    for (size_t w = 0; w < n; w++)
        cell_clear(&cells[w]);
    free(cells);
}

static const cell *const *pointers(const cell *cells, size_t n)
{
    static const cell *list[64];
    for (size_t i = 0; i < n; i++)
        list[i] = &cells[i];
    return list;
}

static double uniform(size_t i, uint64_t seed)
{
    return (double)(splitmix64(seed, i + 1) >> 11) * 0x1p-53;
}

Test(statistics, the_standard_error_of_independent_blocks_is_what_theory_says)
{
    /* The mean of n uniform numbers has a deviation of sqrt(1 / 12 / n). The bootstrap's estimate of it
     * strays by about 1 / sqrt(2 n) for the sample and 1 / sqrt(2 * 1000) for the replicates: 3.6 % with n =
     * 480; four times that is allowed. */
    cell *cells = make_cells(8, 60, uniform, 7);
    const estimate e = statistics_estimate(FIGURE_KL, pointers(cells, 8), 8, 3);
    const double theory = sqrt(1.0 / 12.0 / 480.0);
    assert_close(e.se, theory, 0.15);
    assert_close(e.high - e.low, 2 * 1.96 * theory, 0.2);
    cr_assert(e.low < e.value && e.value < e.high);
    free_cells(cells, 8);
}

Test(statistics, limits_are_the_quantiles_of_95_percent)
{
    /* Sums of 480 numbers are normal: the limits lie 1.96 standard errors from the mean, those of 90 %
     * at 1.64. One quantile of 1000 draws strays by .08 of them; the mean over 20 seeds by .02. */
    cell *cells = make_cells(8, 60, uniform, 7);
    double low = 0.0, high = 0.0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        const estimate e = statistics_estimate(FIGURE_KL, pointers(cells, 8), 8, seed);
        low += (e.value - e.low) / e.se / 20;
        high += (e.high - e.value) / e.se / 20;
    }
    cr_expect_float_eq(low, 1.96, 0.08, "%g", low);
    cr_expect_float_eq(high, 1.96, 0.08, "%g", high);
    free_cells(cells, 8);
}

Test(statistics, every_figure_has_its_own_uncertainty)
{
    /* Blocks in which all figures are functions of the divergence: from the same draws they have the same
     * quantiles. */
    cell *cells = make_cells(4, 16, uniform, 17);
    for (size_t i = 0; i < 4 * 16; i++) {
        cell_block *b = &cells[i / 16].blocks[i % 16];
        b->n_agree = (uint32_t)b->kl; /* whole */
        b->kl = b->n_agree;
        b->nll = b->kl;
        b->nll_fp32 = 0.25 * b->kl;
        b->n_attn = 1000;
        b->attn_kl = b->kl * 1000 / CELL_BLOCK;
        b->attn_reference = 3.0;
        b->attn_error = 3.0 * b->kl / CELL_BLOCK;
    }
    estimate of[N_FIGURES];
    for (int f = 0; f < N_FIGURES; f++)
        of[f] = statistics_estimate((figure)f, pointers(cells, 4), 4, 3);
    const double limits[] = {of[FIGURE_KL].low, of[FIGURE_KL].high};
    for (size_t i = 0; i < 2; i++) {
        const double x = limits[i];
        const double found[] = {i == 0 ? of[FIGURE_TOP1].low : of[FIGURE_TOP1].high,
                                i == 0 ? of[FIGURE_PPL].low : of[FIGURE_PPL].high,
                                i == 0 ? of[FIGURE_PPL_CHANGE].low : of[FIGURE_PPL_CHANGE].high,
                                i == 0 ? of[FIGURE_ATTN_ERROR].low : of[FIGURE_ATTN_ERROR].high,
                                i == 0 ? of[FIGURE_ATTN_KL].low : of[FIGURE_ATTN_KL].high};
        const double wanted[] = {x, exp(x), 100.0 * expm1(0.75 * x), sqrt(x), x};
        for (size_t f = 0; f < 5; f++)
            assert_close(found[f], wanted[f], 1e-9);
    }
    assert_close(of[FIGURE_TOP1].se, of[FIGURE_KL].se, 1e-9);
    assert_close(of[FIGURE_ATTN_KL].se, of[FIGURE_KL].se, 1e-9);
    free_cells(cells, 4);
}

Test(statistics, an_interval_holds_the_truth_about_as_often_as_it_says)
{
    /* 200 experiments of 64 blocks each: 95 % of the intervals should hold the true mean .5; the number that
     * do has a deviation of 3.1, and intervals from few units are a little short. 4.5 deviations below: 176.
     */
    size_t n_held = 0;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        cell *cells = make_cells(4, 16, uniform, 1000 * seed);
        const estimate e = statistics_estimate(FIGURE_KL, pointers(cells, 4), 4, seed);
        n_held += e.low <= 0.5 && 0.5 <= e.high ? 1 : 0;
        free_cells(cells, 4);
    }
    cr_assert(n_held >= 176 && n_held < 200, "%zu of 200", n_held);
}

/* One number for all blocks of a window of 4: drawing blocks would make it look four times as certain. */
static double by_window(size_t i, uint64_t seed)
{
    return uniform(i / 4, seed);
}

Test(statistics, many_windows_are_drawn_whole)
{
    cell *cells = make_cells(40, 4, by_window, 5);
    const estimate e = statistics_estimate(FIGURE_KL, pointers(cells, 40), 40, 3);
    assert_close(e.se, sqrt(1.0 / 12.0 / 40.0),
                 0.4); /* of 40 windows, not of 160 blocks, which is half of it */
    cr_assert_str_eq(statistics_unit(40), "windows");
    cr_assert_str_eq(statistics_unit(15), "blocks of 64 tokens");
    free_cells(cells, 40);
}

/* The same numbers, each a hundredth larger. */
static double a_little_more(size_t i, uint64_t seed)
{
    return 1.01 * uniform(i, seed) + 0.001;
}

Test(statistics, paired_differences_see_what_intervals_apart_would_not)
{
    cell *a = make_cells(4, 16, uniform, 11), *b = make_cells(4, 16, a_little_more, 11);
    const cell *of_a[4];
    memcpy(of_a, pointers(a, 4), sizeof of_a);
    const difference d = statistics_compare(FIGURE_KL, of_a, pointers(b, 4), 4, 9);
    cr_assert(d.a.high > d.b.low, "apart, the intervals overlap");
    cr_assert(d.diff.high < 0.0, "but together a is less: %g", d.diff.high);
    cr_assert_eq(d.a_is_less, 1.0);
    assert_close(d.diff.value, -(0.01 * d.a.value + 0.001), 1e-9);
    assert_close(d.log_ratio.value, log(d.a.value / d.b.value), 1e-12);
    const difference same = statistics_compare(FIGURE_KL, of_a, of_a, 4, 9);
    cr_assert_eq(same.diff.se, 0.0);
    cr_assert_eq(same.a_is_less, 0.5);
    free_cells(a, 4);
    free_cells(b, 4);
}

Test(statistics, what_cannot_be_known_is_nan)
{
    cell_block one[] = {block_of(64, 1.0)};
    const cell a = {.blocks = one, .n_blocks = 1};
    const cell *const cells[] = {&a};
    const estimate e = statistics_estimate(FIGURE_KL, cells, 1, 1);
    assert_close(e.value, 1.0 / 64.0, 1e-14);
    cr_assert(isnan(e.se) && isnan(e.low) && isnan(e.high), "one block says nothing of its spread");
    cr_assert(isnan(statistics_estimate(FIGURE_ATTN_KL, cells, 1, 1).value), "no attention was measured");
    cr_assert(isnan(statistics_estimate(FIGURE_ATTN_ERROR, cells, 1, 1).value));
    cr_assert(isnan(statistics_estimate(FIGURE_KL, cells, 0, 1).value));
    cr_assert(isnan(statistics_compare(FIGURE_KL, cells, cells, 0, 1).diff.value));
}

/* A draw of the last block alone has no token that follows: no perplexity, and no share that counts it as a
 * loss. */
Test(statistics, a_share_with_draws_that_have_no_figure_is_nan)
{
    cell_block one[] = {block_of(64, 1.0), {.n_steps = 1, .n_agree = 1, .kl = 0.1}};
    const cell a = {.blocks = one, .n_blocks = 2};
    const cell *const cells[] = {&a};
    cr_expect(isnan(statistics_compare(FIGURE_PPL, cells, cells, 1, 1).a_is_less));
    cr_expect_eq(statistics_compare(FIGURE_KL, cells, cells, 1, 1).a_is_less, 0.5);
}

Test(statistics, one_beats_another_by_being_better_in_one_and_no_worse_in_the_other)
{
    static const struct {
        double size, value;
        bool beats; /* (10, 1) */
    } cases[] = {{9, 0.5, true},           {9, 1, true},     {10, 0.5, true},
                 {10, 1, false},           {11, 0.5, false}, {9, 1.5, false},
                 {9, (double)NAN, false},  {11, 1, false},   {10, 1.5, false},
                 {(double)NAN, 0.5, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect_eq(statistics_beats(cases[i].size, cases[i].value, 10, 1), cases[i].beats, "%g, %g",
                     cases[i].size, cases[i].value);
    cr_expect_not(statistics_beats(9, 0.5, 10, (double)NAN));
}

Test(statistics, the_seed_alone_decides)
{
    cell *cells = make_cells(4, 16, uniform, 13);
    const estimate a = statistics_estimate(FIGURE_KL, pointers(cells, 4), 4, 1);
    const estimate b = statistics_estimate(FIGURE_KL, pointers(cells, 4), 4, 1);
    const estimate c = statistics_estimate(FIGURE_KL, pointers(cells, 4), 4, 2);
    cr_assert(a.se == b.se && a.low == b.low && a.high == b.high);
    cr_assert_neq(a.se, c.se);
    free_cells(cells, 4);
}

Test(cell, bins_and_edges_agree)
{
    cr_assert_eq(cell_bin(0.0), 0);
    cr_assert_eq(cell_bin(0.99e-8), 0);
    cr_assert_eq(cell_bin(1e30), CELL_N_BINS - 1);
    for (size_t b = 1; b < CELL_N_BINS; b++) {
        cr_assert_eq(cell_bin(cell_bin_edge(b)), b, "bin %zu begins at its edge", b);
        cr_assert_eq(cell_bin(nextafter(cell_bin_edge(b), 0.0)), b - 1);
    }
    assert_close(cell_bin_edge(5), 1e-7, 1e-12);
}
