/* The table at a sweep's end (sweep_table.h). */
#include "eval/cli/sweep_table.h"

#include "eval/report/format.h"
#include "eval/results/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct row {
    const char *scheme;
    size_t place; /* among the sweep's schemes */
    uint64_t bytes;
    double bits;
    estimate figures[N_FIGURES];
    bool front; /* no other is as small and as good, and better in one of both */
} row;

/* The figure by which schemes are good. */
static figure main_figure(const experiment *x)
{
    return x->has_quality ? FIGURE_KL : FIGURE_ATTN_ERROR;
}

static int by_bytes(const void *a, const void *b)
{
    const row *p = a, *q = b;
    if (p->bytes != q->bytes)
        return p->bytes < q->bytes ? -1 : 1;
    return p->place < q->place ? -1 : 1;
}

/* False if a window is missing. */
static bool fill_row(row *out, const results *r, const sweep_plan *plan, size_t scheme, const cell **cells)
{
    for (size_t w = 0; w < plan->n_windows; w++) {
        cells[w] = results_find(r, sweep_key(plan, scheme, w));
        if (!cells[w])
            return false;
    }
    const kvq_usage *u = &cells[0]->usage; /* the same in every window: they have the same length */
    *out = (row){.scheme = plan->schemes[scheme],
                 .place = scheme,
                 .bytes = u->total,
                 .bits = 8.0 * (double)u->total / (double)u->n_elements};
    for (int f = 0; f < N_FIGURES; f++)
        out->figures[f] = statistics_estimate((figure)f, cells, plan->n_windows, STATISTICS_SEED);
    return true;
}

static void find_front(row *rows, size_t n, figure f)
{
    for (size_t i = 0; i < n; i++) {
        const double value = rows[i].figures[f].value;
        rows[i].front = !isnan(value);
        for (size_t j = 0; j < n; j++)
            if (statistics_beats((double)rows[j].bytes, rows[j].figures[f].value, (double)rows[i].bytes,
                                 value))
                rows[i].front = false;
    }
}

/* The last on a line has nothing behind it. */
static void print_estimate(FILE *f, const estimate *x, double unit, const char *format, bool last)
{
    char value[32] = "-", error[32] = "";
    if (!isnan(x->value))
        snprintf(value, sizeof value, format, unit * x->value);
    if (!isnan(x->se) && x->se > 0.0)
        snprintf(error, sizeof error, "± %.2g", unit * x->se);
    fprintf(f, "  %9s", value);
    if (!last)
        fprintf(f, " %-*s", 9 + (error[0] ? 1 : 0), error); /* the sign has two bytes */
    else if (error[0])
        fprintf(f, " %s", error);
}

static void print_row(FILE *f, const row *r, const experiment *x, int width)
{
    char bytes[FORMAT_SIZE];
    format_bytes(bytes, r->bytes);
    fprintf(f, "%c %-*s %6.2f %9s", r->front ? '*' : ' ', width, r->scheme, r->bits, bytes);
    if (x->has_quality) {
        print_estimate(f, &r->figures[FIGURE_KL], 1000.0, "%.3g", false);
        fprintf(f, "  %6.2f %%", 100.0 * r->figures[FIGURE_TOP1].value);
        print_estimate(f, &r->figures[FIGURE_PPL_CHANGE], 1.0, "%+.2f", true);
    } else if (!x->kv_only) {
        print_estimate(f, &r->figures[FIGURE_ATTN_ERROR], 1.0, "%.3g", true);
    }
    fputc('\n', f);
}

static void print_rows(FILE *f, const row *rows, size_t n, const sweep_plan *plan)
{
    const experiment *x = &plan->experiment;
    int width = 6;
    for (size_t i = 0; i < n; i++)
        width = (int)strlen(rows[i].scheme) > width ? (int)strlen(rows[i].scheme) : width;
    fprintf(f, "%s, %s: %zu window%s of %zu tokens\n\n", x->model, x->text[0] ? x->text : "recorded",
            plan->n_windows, plan->n_windows == 1 ? "" : "s", x->n_tokens);
    fprintf(f, "  %-*s %6s %9s", width, "scheme", "bits", "bytes");
    if (x->has_quality)
        fprintf(f, "  %9s %-9s  %8s  %9s", "KL x 1000", "", "top-1", "ppl, %");
    else if (!x->kv_only)
        fprintf(f, "  %9s", "attention");
    fputc('\n', f);
    for (size_t i = 0; i < n; i++)
        print_row(f, &rows[i], x, width);
    if (!x->kv_only)
        fprintf(
            f,
            "\n* is on the front: no scheme here is as small and has as little %s. ± is the standard error "
            "over %s.\n",
            x->has_quality ? "divergence" : "error", statistics_unit(plan->n_windows));
}

bool sweep_table(FILE *f, const results *r, const sweep_plan *plan, eval_error *e)
{
    size_t n = 0;
    row *rows = calloc(plan->n_schemes, sizeof rows[0]);
    const cell **cells = calloc(plan->n_windows, sizeof cells[0]);
    if (!rows || !cells) {
        free(rows);
        free(cells);
        return eval_fail(e, "out of memory for the table");
    }
    for (size_t i = 0; i < plan->n_schemes; i++)
        n += fill_row(&rows[n], r, plan, i, cells) ? 1 : 0;
    find_front(rows, n, main_figure(&plan->experiment));
    qsort(rows, n, sizeof rows[0], by_bytes);
    print_rows(f, rows, n, plan);
    free(rows);
    free(cells);
    return true;
}
