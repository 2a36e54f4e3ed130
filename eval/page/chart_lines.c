/* Lines: the main figure by position, and how divergences are spread (charts.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/page/charts.h"
#include "eval/page/markup.h"
#include "eval/page/svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *line_class(size_t i, const char *kind)
{
    static const char *const lines[] = {"ln c0", "ln c1", "ln c2", "ln c3", "ln c4", "ln c5"};
    static const char *const points[] = {"pt c0", "pt c1", "pt c2", "pt c3", "pt c4", "pt c5"};
    static const char *const plain[] = {"c0", "c1", "c2", "c3", "c4", "c5"};
    return kind[0] == 'l' ? lines[i] : kind[0] == 'p' ? points[i] : plain[i];
}

enum { MOST_MARKED = 24 }; /* points of a line that have marks */

/* One line for each chosen scheme, n points each, all with the same x: y is [n_chosen][n]. */
typedef struct lines {
    const view *v;
    axes a;
    size_t n;
    double *x, *y;
    const char *x_unit, *y_unit; /* of hover texts */
} lines;

static void draw_lines(FILE *f, const lines *l)
{
    const view *v = l->v;
    double *px = malloc(2 * l->n * sizeof *px);
    if (!px)
        return;
    svg_axes(f, &l->a);
    for (size_t c = v->n_chosen; c-- > 0;) { /* the best one last, on top */
        const double *y = l->y + c * l->n;
        for (size_t i = 0; i < l->n; i++) {
            px[i] = scale_at(&l->a.x, l->x[i]);
            px[l->n + i] =
                isnan(y[i]) || (l->a.y.log && !(y[i] > 0.0)) ? (double)NAN : scale_at(&l->a.y, y[i]);
        }
        svg_polyline(f, line_class(c, "line"), px, px + l->n, l->n);
        const size_t every = l->n > 40 ? l->n / 40 + 1 : 1;
        for (size_t i = 0; i < l->n; i++) {
            char hover[256], x[32], value[MARKUP_NUMBER];
            if (isnan(px[l->n + i]) || i % every != 0)
                continue;
            scale_label(x, sizeof x, l->x[i]);
            markup_number(value, y[i]);
            snprintf(hover, sizeof hover, "%s, %s %s: %s %s", v->schemes[v->chosen[c]].label, l->x_unit, x,
                     value, l->y_unit);
            svg_begin(f, line_class(c, "point"), px[i], px[l->n + i], hover);
            if (l->n <= MOST_MARKED)
                svg_marker(f, c);
            fputs("<circle class=\"hit\" r=\"7\"/>", f);
            svg_end(f);
        }
    }
    free(px);
}

static bool finish(picture *fig, const lines *l, eval_error *e)
{
    legend_item items[VIEW_MAX_CHOSEN];
    const view *v = l->v;
    for (size_t c = 0; c < v->n_chosen; c++)
        items[c] = (legend_item){v->schemes[v->chosen[c]].label, line_class(c, "class"),
                                 l->n <= MOST_MARKED ? c : LEGEND_LINE};
    const double bottom = l->a.y.from, wide = PICTURE_WIDTH - 16;
    FILE *f = picture_open(fig, bottom + 46 + svg_legend(NULL, items, v->n_chosen, 8, 0, wide));
    if (!f)
        return eval_fail(e, "no memory for the page");
    draw_lines(f, l);
    svg_legend(f, items, v->n_chosen, 8, bottom + 44, wide);
    table *t = &fig->table;
    table_column(t, l->a.x_title, true);
    for (size_t c = 0; c < v->n_chosen; c++)
        table_column(t, v->schemes[v->chosen[c]].text, true);
    for (size_t i = 0; i < l->n; i++) {
        table_number(t, l->x[i]);
        for (size_t c = 0; c < v->n_chosen; c++)
            table_number(t, l->y[c * l->n + i]);
    }
    return chart_done(fig, picture_close(f), e);
}

/* Sums of block b over a scheme's windows. */
static double block_value(const view *v, const scheme_view *s, size_t b)
{
    double kl = 0, n = 0, error = 0, reference = 0;
    for (size_t i = 0; i < s->n_cells; i++) {
        if (b >= s->cells[i]->n_blocks)
            continue;
        const cell_block *block = &s->cells[i]->blocks[b];
        kl += block->kl;
        n += block->n_steps;
        error += block->attn_error;
        reference += block->attn_reference;
    }
    if (v->main == FIGURE_KL)
        return n > 0.0 ? kl / n : (double)NAN;
    return reference > 0.0 ? sqrt(error / reference) : (double)NAN;
}

bool chart_position(pictures *list, const view *v, eval_error *e)
{
    size_t n = 0;
    for (size_t c = 0; c < v->n_chosen; c++)
        for (size_t i = 0; i < v->schemes[v->chosen[c]].n_cells; i++)
            n = v->schemes[v->chosen[c]].cells[i]->n_blocks > n ? v->schemes[v->chosen[c]].cells[i]->n_blocks
                                                                : n;
    double *x = calloc((n + 1) * (v->n_chosen + 1), sizeof *x);
    if (!x)
        return eval_fail(e, "no memory for the page");
    lines l = {.v = v,
               .n = n,
               .x = x,
               .y = x + n,
               .x_unit = "tokens from",
               .y_unit = v->main == FIGURE_KL ? "nats" : ""};
    for (size_t b = 0; b < n; b++) {
        l.x[b] = (double)(v->x->n_prompt + b * CELL_BLOCK);
        for (size_t c = 0; c < v->n_chosen; c++)
            l.y[c * n + b] = block_value(v, &v->schemes[v->chosen[c]], b);
    }
    double lo, hi;
    bool good = true;
    if (n > 1 && chart_range(l.y, n * v->n_chosen, &lo, &hi)) {
        l.a = (axes){.x = scale_linear(l.x[0], l.x[n - 1], 52, PICTURE_WIDTH - 22),
                     .y = scale_log(lo, hi, 300, 34),
                     .x_title = "position in the window, tokens",
                     .y_title = v->main == FIGURE_KL ? "KL from fp32 (nats per token)"
                                                     : "relative error of attention",
                     .n_x = 7,
                     .n_y = 9};
        picture *fig = pictures_next(list, "position", "position");
        snprintf(fig->title, sizeof fig->title, "%s by position",
                 v->main == FIGURE_KL ? "Divergence" : "Error of attention");
        snprintf(fig->note, sizeof fig->note,
                 "Each point is the mean over a block of %d tokens of all windows. A flat line: errors do "
                 "not pile up.",
                 (int)CELL_BLOCK);
        for (size_t i = 0; i < n * v->n_chosen; i++)
            if (l.y[i] == 0.0)
                snprintf(fig->foot, sizeof fig->foot,
                         "Not drawn: blocks without any divergence, where nothing is packed yet.");
        good = finish(fig, &l, e);
    }
    free(x);
    return good;
}

bool chart_spread(pictures *list, const view *v, eval_error *e)
{
    if (v->main != FIGURE_KL || !v->has_figure || v->n_chosen == 0)
        return true;
    double *x = calloc(CELL_N_BINS * (VIEW_MAX_CHOSEN + 1), sizeof *x);
    if (!x)
        return eval_fail(e, "no memory for the page");
    lines l = {.v = v,
               .n = CELL_N_BINS - 1,
               .x = x,
               .y = x + CELL_N_BINS - 1,
               .x_unit = "KL above",
               .y_unit = "% of tokens"};
    size_t first = l.n, last = 0;
    for (size_t c = 0; c < v->n_chosen; c++) {
        const scheme_view *s = &v->schemes[v->chosen[c]];
        double bins[CELL_N_BINS] = {0}, total = 0, above = 0;
        for (size_t i = 0; i < s->n_cells; i++)
            for (size_t b = 0; b < CELL_N_BINS; b++)
                bins[b] += s->cells[i]->bins[b];
        for (size_t b = 0; b < CELL_N_BINS; b++)
            total += bins[b];
        for (size_t b = CELL_N_BINS - 1; b > 0; b--) {
            above += bins[b];
            l.x[b - 1] = cell_bin_edge(b);
            l.y[c * l.n + b - 1] = total > 0.0 ? 100.0 * above / total : (double)NAN;
            if (above > 0.0 && above < total) {
                first = b - 1 < first ? b - 1 : first;
                last = b > last ? b : last;
            }
        }
    }
    bool good = true;
    if (first < last) {
        last = last < l.n ? last : l.n - 1;
        l.a = (axes){.x = scale_log(l.x[first], l.x[last], 52, PICTURE_WIDTH - 22),
                     .y = scale_linear(0, 100, 300, 34),
                     .x_title = "KL of one token, nats",
                     .y_title = "share of tokens above it, %",
                     .n_x = 6,
                     .n_y = 6};
        /* From the first bin that says something to the last. */
        const size_t n = last - first + 1, n_all = l.n;
        memmove(l.x, l.x + first, n * sizeof *x);
        for (size_t c = 0; c < v->n_chosen; c++)
            memmove(l.y + c * n, l.y + c * n_all + first, n * sizeof *x);
        l.n = n;
        picture *fig = pictures_next(list, "spread", "spread");
        snprintf(fig->title, sizeof fig->title, "How the divergences of single tokens are spread");
        snprintf(fig->note, sizeof fig->note,
                 "Where a line crosses 50 %% lies half of the tokens; how far it reaches to the right says "
                 "how bad the worst "
                 "are. Further left is better.");
        good = finish(fig, &l, e);
    }
    free(x);
    return good;
}
