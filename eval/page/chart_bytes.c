/* Bytes by purpose as a sequence grows, from caches that are really grown (charts.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/measure/memory.h"
#include "eval/page/charts.h"
#include "eval/page/markup.h"
#include "eval/page/svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_PURPOSES = 7, MOST_LENGTHS = 96, MOST_WEIGHED = 4096 };
static const char *const purposes[N_PURPOSES] = {"payload",  "metadata", "residual",   "sinks",
                                                 "evidence", "slack",    "bookkeeping"};
static const char *const colours[N_PURPOSES] = {"c0", "c5", "c4", "c1", "c2", "c6", "c3"};

static double bytes_for(const kvq_usage *u, size_t purpose)
{
    const uint64_t bytes[N_PURPOSES] = {u->payload,  u->metadata, u->residual,   u->sinks,
                                        u->evidence, u->slack,    u->bookkeeping};
    return (double)bytes[purpose];
}

typedef struct growth {
    const view *v;
    const scheme_view *s;
    size_t n;
    size_t *lengths;  /* [n], rising: those that are drawn */
    kvq_usage *usage; /* [n] */
    kvq_usage *all;   /* [n_all], at every multiple of step */
    size_t n_all, step;
    double fp16, q8_0; /* bytes of one token */
    axes a;
} growth;

/* The shortest of all lengths from which on the cache is smaller than `rate` bytes a token; 0: not even
 * at the last. */
static size_t smaller_from(const growth *g, double rate)
{
    size_t i = g->n_all;
    while (i > 0 && (double)g->all[i - 1].total < rate * (double)(i * g->step))
        i--;
    return i < g->n_all ? (i + 1) * g->step : 0;
}

static void draw_layers(FILE *f, const growth *g)
{
    double *below = calloc(g->n, sizeof *below);
    if (!below)
        return;
    for (size_t p = 0; p < N_PURPOSES; p++) {
        fprintf(f, "<path class=\"%s\" style=\"stroke-width:.4\" d=\"M", colours[p]);
        for (size_t i = 0; i < g->n; i++)
            fprintf(f, "%s%.2f %.2f", i > 0 ? "L" : "", scale_at(&g->a.x, (double)g->lengths[i]),
                    scale_at(&g->a.y, (below[i] + bytes_for(&g->usage[i], p)) / (double)g->lengths[i]));
        for (size_t i = g->n; i-- > 0;)
            fprintf(f, "L%.2f %.2f", scale_at(&g->a.x, (double)g->lengths[i]),
                    scale_at(&g->a.y, below[i] / (double)g->lengths[i]));
        fputs("z\"><title>", f);
        markup_text(f, purposes[p]);
        fputs("</title></path>\n", f);
        for (size_t i = 0; i < g->n; i++)
            below[i] += bytes_for(&g->usage[i], p);
    }
    free(below);
}

static void draw_reference(FILE *f, const growth *g, double rate, const char *name, size_t from)
{
    char text[96];
    const double y = scale_at(&g->a.y, rate);
    svg_line(f, "ref", g->a.x.from, y, g->a.x.to, y);
    if (from > 0)
        snprintf(text, sizeof text, "%s: larger up to %zu tokens", name, from - 1);
    else
        snprintf(text, sizeof text, "%s: larger throughout", name);
    if (from == 1)
        snprintf(text, sizeof text, "%s: smaller from the first", name);
    svg_text(f, "strong", "end", g->a.x.to - 2, y - 9, text);
    if (from > 1) {
        snprintf(text, sizeof text, "smaller than %s from %zu tokens on", name, from);
        svg_begin(f, "ring", scale_at(&g->a.x, (double)from), y, text);
        fputs("<circle class=\"r\" r=\"4\"/><circle class=\"hit\" r=\"9\"/>", f);
        svg_end(f);
    }
}

static void growth_table(table *t, const growth *g)
{
    table_column(t, "tokens", true);
    for (size_t p = 0; p < N_PURPOSES; p++)
        table_column(t, purposes[p], true);
    table_column(t, "total", true);
    table_column(t, "fp16", true);
    table_column(t, "q8_0", true);
    for (size_t i = 0; i < g->n; i++) {
        table_number(t, (double)g->lengths[i]);
        for (size_t p = 0; p < N_PURPOSES; p++) {
            char text[32];
            snprintf(text, sizeof text, "%.0f", bytes_for(&g->usage[i], p));
            table_text(t, text);
        }
        char text[32];
        snprintf(text, sizeof text, "%.0f", (double)g->usage[i].total);
        table_text(t, text);
        snprintf(text, sizeof text, "%.0f", g->fp16 * (double)g->lengths[i]);
        table_text(t, text);
        snprintf(text, sizeof text, "%.0f", g->q8_0 * (double)g->lengths[i]);
        table_text(t, text);
    }
}

static bool draw(pictures *list, growth *g, size_t number, eval_error *e)
{
    char id[32];
    const size_t from_fp16 = smaller_from(g, g->fp16), from_q8_0 = smaller_from(g, g->q8_0);
    double most = 1.6 * g->fp16;
    /* Short sequences cost many times more for each token; the picture is cut where that says nothing
     * more. */
    g->a = (axes){.x = scale_log((double)g->lengths[0], (double)g->lengths[g->n - 1], 58, PICTURE_WIDTH - 22),
                  .y = {.log = false, .lo = 0, .hi = most, .from = 300, .to = 34},
                  .x_title = "tokens held",
                  .y_title = "bytes per token, all layers",
                  .n_x = 8,
                  .n_y = 7};
    legend_item items[N_PURPOSES];
    for (size_t p = 0; p < N_PURPOSES; p++)
        items[p] = (legend_item){purposes[p], colours[p], LEGEND_SQUARE};
    snprintf(id, sizeof id, "bytes-%zu", number);
    picture *fig = pictures_next(list, "bytes", id);
    snprintf(fig->title, sizeof fig->title, "What %.40s spends its bytes on", g->s->label);
    snprintf(
        fig->note, sizeof fig->note,
        "Bytes for each token held, from a cache of all layers grown to each length. Rings: from there on "
        "smaller than "
        "the dashed line, plain fp16 or q8_0 arrays of the same numbers. What lies above %.0f bytes is cut.",
        most);
    growth_table(&fig->table, g);
    const double legend = svg_legend(NULL, items, N_PURPOSES, 8, 0, PICTURE_WIDTH - 16);
    FILE *f = picture_open(fig, 346 + legend);
    if (!f)
        return eval_fail(e, "no memory for the page");
    svg_axes(f, &g->a);
    draw_layers(f, g);
    draw_reference(f, g, g->fp16, "fp16", from_fp16);
    draw_reference(f, g, g->q8_0, "q8_0", from_q8_0);
    svg_legend(f, items, N_PURPOSES, 8, 344, PICTURE_WIDTH - 16);
    return chart_done(fig, picture_close(f), e);
}

/* Weigh at every length, or at every so-manyth if they are many. */
static bool weigh_all(growth *g, size_t most, eval_error *e)
{
    g->step = (most + MOST_WEIGHED - 1) / MOST_WEIGHED;
    g->n_all = most / g->step;
    size_t *lengths = malloc(g->n_all * sizeof *lengths);
    g->all = malloc(g->n_all * sizeof *g->all);
    bool good = (lengths && g->all) || eval_fail(e, "no memory for the page");
    for (size_t i = 0; good && i < g->n_all; i++)
        lengths[i] = (i + 1) * g->step;
    good = good && memory_weigh(&g->v->shape, g->s->scheme, lengths, g->n_all, g->all, e);
    free(lengths);
    return good;
}

/* What is drawn: lengths from 16 on by equal factors. */
static void sample(growth *g)
{
    const double first = g->n_all > 16 ? 16 : 1;
    g->n = 0;
    for (size_t i = 0; i < MOST_LENGTHS; i++) {
        const double share = (double)i / (MOST_LENGTHS - 1);
        const size_t at = (size_t)(first * pow((double)g->n_all / first, share) + 0.5);
        if (g->n > 0 && at * g->step <= g->lengths[g->n - 1])
            continue;
        g->lengths[g->n] = at * g->step;
        g->usage[g->n++] = g->all[at - 1];
    }
}

bool chart_bytes(pictures *list, const view *v, eval_error *e)
{
    size_t lengths[MOST_LENGTHS];
    kvq_usage usage[MOST_LENGTHS];
    const size_t most = v->context > v->x->n_tokens ? v->context : v->x->n_tokens;
    growth g = {.v = v, .lengths = lengths, .usage = usage};
    const double numbers = (double)memory_plain_bytes(&v->shape, 1, 1);
    g.fp16 = 2 * numbers;
    g.q8_0 = numbers * 34 / 32; /* 32 bytes and a half for 32 numbers */
    bool good = true;
    for (size_t i = 0; good && i < v->n_chosen && i < 2; i++) {
        g.s = &v->schemes[v->chosen[i]];
        if (isnan(g.s->bytes_per_token))
            continue;
        good = weigh_all(&g, most, e);
        if (good) {
            sample(&g);
            good = draw(list, &g, i + 1, e);
        }
        free(g.all);
        g.all = NULL;
    }
    return good;
}
