/* Maps: layer by head, token by channel (charts.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/page/charts.h"
#include "eval/page/markup.h"
#include "eval/page/style.h"
#include "eval/page/svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const heat[STYLE_N_HEAT] = {"h0", "h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8"};

static size_t heat_of(double x, double lo, double hi)
{
    const double share = hi > lo ? (x - lo) / (hi - lo) : 0.0;
    const double i = share * STYLE_N_HEAT;
    return !(i > 0.0) ? 0 : i >= STYLE_N_HEAT ? STYLE_N_HEAT - 1 : (size_t)i;
}

/* The colours with what they stand for, in a row: by the logarithm. */
static void draw_key(FILE *f, double y, double lo, double hi)
{
    const double left = 120, wide = 24;
    char text[MARKUP_NUMBER];
    for (size_t i = 0; i < STYLE_N_HEAT; i++)
        svg_rect(f, heat[i], left + (double)i * wide, y, wide, 12);
    markup_number(text, lo);
    svg_text(f, "tx", "end", left - 8, y + 6, text);
    markup_number(text, hi);
    svg_text(f, "tx", "start", left + STYLE_N_HEAT * wide + 8, y + 6, text);
}

/* ---- layer by head ---- */

typedef enum side { SIDE_ATTENTION, SIDE_KEYS, SIDE_VALUES } side;

typedef struct map {
    const view *v;
    side what;
    size_t schemes[2], n_schemes, n_columns;
    double lo, hi;
} map;

static double value_at(const map *m, size_t scheme, size_t layer, size_t column)
{
    const experiment *x = m->v->x;
    const size_t head = m->what == SIDE_ATTENTION ? column : column * (x->n_head / x->n_kv_head);
    const head_errors h = view_head(m->v, &m->v->schemes[m->schemes[scheme]], layer, head);
    return m->what == SIDE_ATTENTION ? h.attn : m->what == SIDE_KEYS ? h.k : h.v;
}

static void draw_map(FILE *f, const map *m, size_t scheme, double left, double top, double wide, double high)
{
    const view *v = m->v;
    const scheme_view *s = &v->schemes[m->schemes[scheme]];
    const size_t n_layer = v->x->n_layer;
    const double w = wide / (double)m->n_columns, h = high / (double)n_layer;
    char label[VIEW_NAME];
    markup_cut(label, sizeof label, s->label, 24);
    svg_text(f, "strong", "middle", left + wide / 2, top - 12, label);
    for (size_t layer = 0; layer < n_layer; layer++) {
        for (size_t c = 0; c < m->n_columns; c++) {
            const double x = value_at(m, scheme, layer, c);
            char number[MARKUP_NUMBER];
            if (isnan(x))
                continue;
            markup_number(number, x);
            fprintf(f,
                    "<rect class=\"%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"><title>layer "
                    "%zu, head "
                    "%zu: %s</title></rect>\n",
                    heat[heat_of(log(fmax(x, m->lo)), log(m->lo), log(m->hi))], left + (double)c * w,
                    top + (double)layer * h, w - (w > 6 ? 1 : 0), h - (h > 6 ? 1 : 0), layer, c, number);
        }
    }
    const size_t y_step = n_layer > 16 ? (n_layer > 40 ? 10 : 5) : n_layer > 8 ? 2 : 1;
    for (size_t layer = 0; scheme == 0 && layer < n_layer; layer += y_step) {
        char number[MARKUP_NUMBER];
        snprintf(number, sizeof number, "%zu", layer);
        svg_text(f, "ty", "end", left - 5, top + ((double)layer + 0.5) * h, number);
    }
    const size_t x_step = m->n_columns > 16 ? (m->n_columns > 40 ? 10 : 5) : m->n_columns > 8 ? 2 : 1;
    for (size_t c = 0; c < m->n_columns; c += x_step) {
        char number[MARKUP_NUMBER];
        snprintf(number, sizeof number, "%zu", c);
        svg_text(f, "tx", "middle", left + ((double)c + 0.5) * w, top + high + 11, number);
    }
    svg_text(f, "title", "middle", left + wide / 2, top + high + 29,
             m->what == SIDE_ATTENTION ? "query head" : "KV head");
}

static void map_table(table *t, const map *m)
{
    table_column(t, "layer", true);
    table_column(t, m->what == SIDE_ATTENTION ? "query head" : "KV head", true);
    for (size_t i = 0; i < m->n_schemes; i++)
        table_column(t, m->v->schemes[m->schemes[i]].text, true);
    for (size_t layer = 0; layer < m->v->x->n_layer; layer++) {
        for (size_t c = 0; c < m->n_columns; c++) {
            table_number(t, (double)layer);
            table_number(t, (double)c);
            for (size_t i = 0; i < m->n_schemes; i++)
                table_number(t, value_at(m, i, layer, c));
        }
    }
}

static bool one_map(pictures *list, map *m, eval_error *e)
{
    static const char *const names[] = {"attention's output", "keys", "values"};
    static const char *const ids[] = {"heads-attention", "heads-keys", "heads-values"};
    const experiment *x = m->v->x;
    m->n_columns = m->what == SIDE_ATTENTION ? x->n_head : x->n_kv_head;
    m->lo = INFINITY;
    m->hi = -INFINITY;
    for (size_t i = 0; i < m->n_schemes; i++) {
        for (size_t layer = 0; layer < x->n_layer; layer++) {
            for (size_t c = 0; c < m->n_columns; c++) {
                const double value = value_at(m, i, layer, c);
                if (value > 0.0) {
                    m->lo = fmin(m->lo, value);
                    m->hi = fmax(m->hi, value);
                }
            }
        }
    }
    if (!(m->lo <= m->hi))
        return true;
    picture *fig = pictures_next(list, "heads", ids[m->what]);
    snprintf(fig->title, sizeof fig->title, "Relative error of %s, by layer and head", names[m->what]);
    snprintf(fig->note, sizeof fig->note,
             "Each cache is fed the fp32 run's own data, so this is the error of that place alone. Both maps "
             "share one "
             "scale, which is logarithmic.");
    map_table(&fig->table, m);
    const double left = 40, top = 46, gap = 22;
    const double wide = m->n_schemes == 1 ? 2 * 199.0 : (PICTURE_WIDTH - left - 8 - gap) / 2;
    const double high = fmin(fmax((double)x->n_layer * 17, 80), 320);
    FILE *f = picture_open(fig, top + high + 70);
    if (!f)
        return eval_fail(e, "no memory for the page");
    svg_text(f, "title", "start", 2, 10, "layer");
    for (size_t i = 0; i < m->n_schemes; i++)
        draw_map(f, m, i, left + (double)i * (wide + gap), top, wide, high);
    draw_key(f, top + high + 48, m->lo, m->hi);
    return chart_done(fig, picture_close(f), e);
}

bool chart_heads(pictures *list, const view *v, eval_error *e)
{
    map m = {.v = v};
    for (size_t i = 0; i < v->n_chosen && i < 2; i++)
        m.schemes[m.n_schemes++] = v->chosen[i];
    if (m.n_schemes == 0 || v->x->n_kv_head == 0)
        return true;
    for (int what = SIDE_ATTENTION; what <= SIDE_VALUES; what++) {
        m.what = (side)what;
        if (!one_map(list, &m, e))
            return false;
    }
    return true;
}

/* ---- token by channel ---- */

/* All fields of one colour as one path, runs along a row joined. */
static void draw_field(FILE *f, const float *x, size_t n_rows, size_t n_columns, double lo, double hi,
                       double left, double top, double w, double h)
{
    for (size_t k = 0; k < STYLE_N_HEAT; k++) {
        fprintf(f, "<path class=\"%s\" d=\"", heat[k]);
        for (size_t r = 0; r < n_rows; r++) {
            for (size_t c = 0; c < n_columns;) {
                size_t end = c;
                while (end < n_columns &&
                       heat_of(log(fmax((double)x[r * n_columns + end], 1e-30)), lo, hi) == k)
                    end++;
                if (end > c)
                    fprintf(f, "M%.2f %.2fh%.2fv%.2fh%.2fz", left + (double)c * w, top + (double)r * h,
                            (double)(end - c) * w, h, -(double)(end - c) * w);
                c = end > c ? end : c + 1;
            }
        }
        fputs("\"/>\n", f);
    }
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The range of colours: from the 2nd to the 99.8th hundredth, so that a few outliers do not make all else
 * pale. */
static bool field_range(const float *x, size_t n, double *lo, double *hi)
{
    float *sorted = malloc(n * sizeof *sorted);
    if (!sorted)
        return false;
    memcpy(sorted, x, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_value);
    *lo = log(fmax((double)sorted[n / 50], 1e-30));
    *hi = log(fmax((double)sorted[n - 1 - n / 500], 1e-30));
    free(sorted);
    return true;
}

static bool draw_portrait(FILE *f, const cell_portrait *p, const float *x, const char *name, double top,
                          double high)
{
    double lo, hi;
    const double left = 52, wide = PICTURE_WIDTH - left - 14;
    const double w = wide / (double)p->n_columns, h = high / (double)p->n_rows;
    if (!field_range(x, p->n_rows * p->n_columns, &lo, &hi))
        return false;
    draw_field(f, x, p->n_rows, p->n_columns, lo, hi, left, top, w, h);
    for (size_t c = 0; c < p->n_columns; c++) {
        float largest = 0;
        char number[MARKUP_NUMBER];
        for (size_t r = 0; r < p->n_rows; r++)
            largest = fmaxf(largest, x[r * p->n_columns + c]);
        markup_number(number, (double)largest);
        fprintf(f,
                "<rect class=\"hit\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"><title>%s, channel "
                "%zu: "
                "largest %s</title></rect>\n",
                left + (double)c * w, top, w, high, name, c, number);
    }
    svg_text(f, "strong", "start", left, top - 12, name);
    svg_text(f, "ty", "end", left - 5, top + 6, "first");
    svg_text(f, "ty", "end", left - 5, top + high / 2, "token");
    svg_text(f, "ty", "end", left - 5, top + high - 6, "last");
    const size_t step = p->n_columns > 64 ? 32 : p->n_columns > 16 ? 8 : 4;
    for (size_t c = 0; c < p->n_columns; c += step) {
        char number[MARKUP_NUMBER];
        snprintf(number, sizeof number, "%zu", c);
        svg_text(f, "tx", "middle", left + ((double)c + 0.5) * w, top + high + 11, number);
    }
    draw_key(f, top + high + 24, exp(lo), exp(hi));
    return true;
}

static void portrait_table(table *t, const cell_portrait *p)
{
    table_column(t, "channel", true);
    table_column(t, "largest |K|", true);
    table_column(t, "mean of |K| over rows", true);
    table_column(t, "largest |V|", true);
    table_column(t, "mean of |V| over rows", true);
    for (size_t c = 0; c < p->n_columns; c++) {
        double k = 0, v = 0, k_sum = 0, v_sum = 0;
        for (size_t r = 0; r < p->n_rows; r++) {
            const double a = (double)p->k[r * p->n_columns + c], b = (double)p->v[r * p->n_columns + c];
            k = fmax(k, a);
            v = fmax(v, b);
            k_sum += a;
            v_sum += b;
        }
        table_number(t, (double)c);
        table_number(t, k);
        table_number(t, k_sum / (double)p->n_rows);
        table_number(t, v);
        table_number(t, v_sum / (double)p->n_rows);
    }
}

bool chart_portrait(pictures *list, const view *v, eval_error *e)
{
    const cell_portrait *p = NULL;
    for (size_t i = 0; i < v->n && !p; i++)
        for (size_t j = 0; j < v->schemes[i].n_cells && !p; j++)
            if (v->schemes[i].cells[j]->portrait.n_rows > 0)
                p = &v->schemes[i].cells[j]->portrait;
    if (!p)
        return true;
    picture *fig = pictures_next(list, "portrait", "portrait");
    snprintf(fig->title, sizeof fig->title, "How large keys and values are: layer %zu, KV head %zu", p->layer,
             p->kv_head);
    snprintf(fig->note, sizeof fig->note,
             "One column per channel, time runs down. Vertical stripes among the keys are channels that are "
             "always large: "
             "why keys are quantized per channel. Colours by the logarithm.");
    portrait_table(&fig->table, p);
    const double high = 150;
    FILE *f = picture_open(fig, 34 + 2 * high + 110);
    if (!f)
        return eval_fail(e, "no memory for the page");
    const bool drawn =
        draw_portrait(f, p, p->k, "|K|", 34, high) && draw_portrait(f, p, p->v, "|V|", 34 + high + 68, high);
    return chart_done(fig, picture_close(f) && drawn, e);
}
