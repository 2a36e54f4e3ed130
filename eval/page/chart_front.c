/* Size against quality, with the front (charts.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/page/charts.h"
#include "eval/page/markup.h"
#include "eval/page/svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct box {
    double x0, y0, x1, y1;
} box;

typedef struct plot {
    const view *v;
    bool bytes;
    axes a;
    box *taken; /* points and texts that a text must not hide */
    size_t n_taken;
} plot;

bool chart_done(const picture *p, bool closed, eval_error *e)
{
    return (closed && !p->table.failed) || eval_fail(e, "no memory for the page");
}

bool chart_range(const double *x, size_t n, double *lo, double *hi)
{
    *lo = INFINITY;
    *hi = 0;
    for (size_t i = 0; i < n; i++) {
        if (x[i] > 0.0 && isfinite(x[i])) {
            *lo = fmin(*lo, x[i]);
            *hi = fmax(*hi, x[i]);
        }
    }
    return *hi > 0.0;
}

static double size_of(const plot *p, const scheme_view *s)
{
    return p->bytes ? s->bytes_per_token : s->bits;
}

static double value_of(const plot *p, const scheme_view *s)
{
    return s->figures[p->v->main].value;
}

static bool is_drawn(const plot *p, const scheme_view *s)
{
    return !s->plain && value_of(p, s) > 0.0 && isfinite(value_of(p, s)) && size_of(p, s) > 0.0;
}

static bool is_front(const plot *p, const scheme_view *s)
{
    return p->bytes ? s->front_bytes : s->front_bits;
}

/* Limits of the axes: all points, with their error bars. */
static bool find_axes(plot *p, double bottom)
{
    const view *v = p->v;
    double x0 = INFINITY, x1 = 0, y0 = INFINITY, y1 = 0;
    for (size_t i = 0; i < v->n; i++) {
        const scheme_view *s = &v->schemes[i];
        if (!is_drawn(p, s))
            continue;
        const estimate *q = &s->figures[v->main];
        x0 = fmin(x0, size_of(p, s));
        x1 = fmax(x1, size_of(p, s));
        y0 = fmin(y0, q->low > q->value / 5 ? q->low : q->value);
        y1 = fmax(y1, q->high < q->value * 5 ? q->high : q->value);
    }
    if (x1 <= 0.0)
        return false;
    p->a = (axes){.x = scale_log(x0, x1, 52, PICTURE_WIDTH - 22),
                  .y = scale_log(y0, y1, bottom, 34),
                  .x_title = p->bytes ? "bytes per token, all layers" : "bits per number, all bytes counted",
                  .y_title =
                      v->main == FIGURE_KL ? "KL from fp32 (nats per token)" : "relative error of attention",
                  .n_x = 8,
                  .n_y = 9};
    return true;
}

static size_t overlaps(const plot *p, box b)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_taken; i++) {
        const box *t = &p->taken[i];
        n += t->x0 < b.x1 && b.x0 < t->x1 && t->y0 < b.y1 && b.y0 < t->y1;
    }
    return n;
}

/* A text beside its point, where it hides nothing; none if there is no such place. */
static void draw_label(FILE *f, plot *p, double x, double y, const char *text, bool strong)
{
    static const struct {
        double dx, dy;
        int side; /* of the point: 1 right, -1 left */
    } places[] = {{9, 0, 1},    {8, -10, 1},    {8, 10, 1},    {-9, 0, -1},    {-8, -10, -1}, {-8, 10, -1},
                  {14, -20, 1}, {14, 20, 1},    {-14, 20, -1}, {-14, -20, -1}, {20, -34, 1},  {-20, 34, -1},
                  {20, 34, 1},  {-20, -34, -1}, {26, -50, 1},  {-26, 50, -1}};
    const double wide = svg_text_width(markup_length(text)), high = 8;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const double at = x + places[i].dx, middle = y + places[i].dy;
        const box b = {places[i].side > 0 ? at : at - wide, middle - high,
                       places[i].side > 0 ? at + wide : at, middle + high};
        if (b.x0 < p->a.x.from + 2 || b.x1 > p->a.x.to || b.y0 < p->a.y.to - 4 || b.y1 > p->a.y.from - 2 ||
            overlaps(p, b) > 0)
            continue;
        if (fabs(places[i].dy) > 10)
            svg_line(f, "leader", x, y, at - places[i].side * 2, middle);
        svg_text(f, strong ? "strong" : "label", places[i].side > 0 ? "start" : "end", at, middle, text);
        p->taken[p->n_taken++] = b;
        return;
    }
}

static void draw_point(FILE *f, const plot *p, size_t i)
{
    const view *v = p->v;
    const scheme_view *s = &v->schemes[i];
    const estimate *q = &s->figures[v->main];
    char class[32], hover[512], value[MARKUP_NUMBER], low[MARKUP_NUMBER], high[MARKUP_NUMBER],
        bits[MARKUP_NUMBER];
    const double x = scale_at(&p->a.x, size_of(p, s)), y = scale_at(&p->a.y, q->value);
    markup_number(value, q->value);
    markup_number(low, q->low);
    markup_number(high, q->high);
    if (p->bytes)
        markup_bytes(bits, s->bytes_per_token);
    else
        markup_number(bits, s->bits);
    snprintf(hover, sizeof hover, "%.200s: %s %s, %s %s [%s, %s]", s->text, bits,
             p->bytes ? "per token" : "bits", v->main == FIGURE_KL ? "KL" : "error", value, low, high);
    if (q->low > 0.0 && q->high > q->low) {
        snprintf(class, sizeof class, "bar %s", view_colour(s->family));
        svg_line(f, class, x, scale_at(&p->a.y, q->low), x, scale_at(&p->a.y, q->high));
    }
    snprintf(class, sizeof class, "pt %s%s", view_colour(s->family), is_front(p, s) ? "" : " faint");
    svg_begin(f, class, x, y, hover);
    svg_marker(f, s->family);
    fputs("<circle class=\"hit\" r=\"9\"/>", f);
    svg_end(f);
    if (i == v->best || i == v->baseline)
        fprintf(f, "<g class=\"ring\"><circle class=\"r\" cx=\"%.2f\" cy=\"%.2f\" r=\"8\"/></g>\n", x, y);
}

static bool draw(FILE *f, plot *p)
{
    const view *v = p->v;
    double *x = malloc(2 * (v->n + 1) * sizeof *x), *y = x ? x + v->n + 1 : NULL;
    p->taken = calloc(2 * v->n + 1, sizeof *p->taken);
    if (!x || !p->taken) {
        free(x);
        free(p->taken);
        return false;
    }
    svg_axes(f, &p->a);
    size_t n = 0;
    /* Schemes lie by bits; bytes rise in another order. */
    for (double last = 0;; n++) {
        size_t next = v->n;
        for (size_t i = 0; i < v->n; i++)
            if (is_front(p, &v->schemes[i]) && is_drawn(p, &v->schemes[i]) &&
                size_of(p, &v->schemes[i]) > last &&
                (next == v->n || size_of(p, &v->schemes[i]) < size_of(p, &v->schemes[next])))
                next = i;
        if (next == v->n)
            break;
        last = size_of(p, &v->schemes[next]);
        x[n] = scale_at(&p->a.x, last);
        y[n] = scale_at(&p->a.y, value_of(p, &v->schemes[next]));
    }
    svg_polyline(f, "front", x, y, n);
    free(x);
    for (int front = 0; front < 2; front++) {
        for (size_t i = 0; i < v->n; i++) {
            const scheme_view *s = &v->schemes[i];
            if (!is_drawn(p, s) || is_front(p, s) != (front == 1))
                continue;
            draw_point(f, p, i);
            const double px = scale_at(&p->a.x, size_of(p, s)), py = scale_at(&p->a.y, value_of(p, s));
            p->taken[p->n_taken++] = (box){px - 6, py - 6, px + 6, py + 6};
        }
    }
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < v->n; i++) {
            const scheme_view *s = &v->schemes[i];
            const bool first = i == v->best || i == v->baseline;
            if (is_drawn(p, s) && (pass == 0 ? first : !first && is_front(p, s)))
                draw_label(f, p, scale_at(&p->a.x, size_of(p, s)), scale_at(&p->a.y, value_of(p, s)),
                           s->label, first);
        }
    }
    free(p->taken);
    return true;
}

static void fill_table(table *t, const plot *p)
{
    const view *v = p->v;
    table_column(t, "scheme", false);
    table_column(t, "family", false);
    table_column(t, p->bytes ? "bytes per token" : "bits per number", true);
    table_column(t, v->main == FIGURE_KL ? "KL" : "attention error", true);
    table_column(t, "low", true);
    table_column(t, "high", true);
    table_column(t, "front", false);
    for (size_t i = 0; i < v->n; i++) {
        const scheme_view *s = &v->schemes[i];
        table_text(t, s->text);
        table_text(t, v->families[s->family]);
        table_number(t, size_of(p, s));
        table_number(t, value_of(p, s));
        table_number(t, s->figures[v->main].low);
        table_number(t, s->figures[v->main].high);
        table_text(t, is_front(p, s) ? "yes" : "");
    }
}

static void write_notes(picture *fig, const plot *p)
{
    const view *v = p->v;
    size_t used = 0, n_unknown = 0;
    snprintf(fig->note, sizeof fig->note,
             "Lower and further left is better. The line joins the front: schemes that none beats in both. "
             "Bars: 95 %% "
             "intervals. Rings: the two that the summary compares.");
    for (size_t i = 0; i < v->n; i++) {
        const scheme_view *s = &v->schemes[i];
        char size[MARKUP_NUMBER], value[MARKUP_NUMBER];
        if (is_drawn(p, s))
            continue;
        markup_number(size, size_of(p, s));
        markup_number(value, value_of(p, s));
        if (isnan(size_of(p, s)))
            n_unknown++;
        else if (used + 100 < sizeof fig->foot)
            used += (size_t)snprintf(fig->foot + used, sizeof fig->foot - used, "%s%.40s (%s, %s)",
                                     used == 0 ? "Not drawn: " : ", ", s->label, size, value);
    }
    if (used > 0)
        used += (size_t)snprintf(fig->foot + used, sizeof fig->foot - used, ". ");
    if (n_unknown > 0)
        snprintf(fig->foot + used, sizeof fig->foot - used, "%zu scheme%s this program cannot weigh.",
                 n_unknown, n_unknown == 1 ? "" : "s");
}

static bool one(pictures *list, const view *v, bool bytes, eval_error *e)
{
    plot p = {.v = v, .bytes = bytes};
    legend_item items[VIEW_MAX_FAMILIES];
    size_t n_items = 0;
    for (size_t i = 0; i < v->n_families; i++) {
        bool used = false;
        for (size_t j = 0; j < v->n; j++)
            used = used || (v->schemes[j].family == i && is_drawn(&p, &v->schemes[j]));
        if (used)
            items[n_items++] = (legend_item){v->families[i], view_colour(i), i};
    }
    const double bottom = 330;
    if (!v->has_figure || !find_axes(&p, bottom))
        return true;
    picture *fig = pictures_next(list, "front", bytes ? "quality-bytes" : "quality-bits");
    const char *what = v->main == FIGURE_KL ? "Divergence" : "Error of attention";
    if (bytes)
        snprintf(fig->title, sizeof fig->title, "%s against bytes per token, at %zu tokens", what,
                 v->context);
    else
        snprintf(fig->title, sizeof fig->title, "%s against bits per number, at %zu tokens", what,
                 v->x->n_tokens);
    write_notes(fig, &p);
    fill_table(&fig->table, &p);
    const double legend = svg_legend(NULL, items, n_items, 8, 0, PICTURE_WIDTH - 16);
    FILE *f = picture_open(fig, bottom + 46 + legend);
    if (!f)
        return eval_fail(e, "no memory for the page");
    const bool drawn = draw(f, &p);
    svg_legend(f, items, n_items, 8, bottom + 44, PICTURE_WIDTH - 16);
    return chart_done(fig, picture_close(f) && drawn, e);
}

bool chart_front(pictures *list, const view *v, eval_error *e)
{
    return one(list, v, false, e) && one(list, v, true, e);
}
