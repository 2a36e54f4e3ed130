/* Greedy text (greedy.h). A plus after a number: no difference within so many tokens. */
#include "eval/report/greedy.h"

#include "eval/report/format.h"

#include <string.h>

enum { SCHEME_WIDTH = 12, N_CELLS = 4, CELL_SIZE = 64 };
static const char *const titles[N_CELLS] = {"median", "least", "most", "never"};
static const int widths[N_CELLS] = {10, 10, 10, 14};

typedef struct cells {
    char text[N_CELLS][CELL_SIZE];
} cells;

static void count_cell(char *s, size_t n_same, size_t n)
{
    char count[FORMAT_SIZE];
    format_count(count, n_same);
    snprintf(s, CELL_SIZE, "%s%s", count, n_same == n ? "+" : "");
}

static cells cells_of(const divergence *d, const divergence_run *run)
{
    size_t least = d->n, most = 0, n_never = 0;
    for (size_t i = 0; i < d->n_windows; i++) {
        const size_t first = run->first[i];
        least = first < least ? first : least;
        most = first > most ? first : most;
        n_never += first == d->n ? 1 : 0;
    }
    cells c = {.text = {{0}}};
    count_cell(c.text[0], run->median, d->n);
    count_cell(c.text[1], least, d->n);
    count_cell(c.text[2], most, d->n);
    snprintf(c.text[3], CELL_SIZE, "%zu of %zu", n_never, d->n_windows);
    return c;
}

static void print_heading(FILE *f, const report_style *style)
{
    if (style->markdown) {
        fputs("\n| scheme |", f);
        for (size_t i = 0; i < N_CELLS; i++)
            fprintf(f, " %s |", titles[i]);
        fputs("\n|---|---:|---:|---:|---:|\n", f);
        return;
    }
    fprintf(f, "%s%-*s", style->colour ? "\033[1m" : "", SCHEME_WIDTH, "scheme");
    for (size_t i = 0; i < N_CELLS; i++)
        fprintf(f, "%*s", widths[i], titles[i]);
    fputs(style->colour ? "\033[0m\n" : "\n", f);
}

static void print_row(FILE *f, const char *scheme, const cells *c, bool markdown)
{
    if (markdown)
        fprintf(f, "| %s |", scheme);
    else if (strlen(scheme) >= SCHEME_WIDTH)
        fprintf(f, "%s\n%-*s", scheme, SCHEME_WIDTH, "");
    else
        fprintf(f, "%-*s", SCHEME_WIDTH, scheme);
    for (size_t i = 0; i < N_CELLS; i++)
        if (markdown)
            fprintf(f, " %s |", c->text[i]);
        else
            fprintf(f, "%*s", widths[i], c->text[i]);
    fputc('\n', f);
}

void greedy_table(FILE *f, const divergence *d, const evaluation *ev, const report_style *style)
{
    char n[FORMAT_SIZE], prompt[FORMAT_SIZE], text[512];
    if (d->n_windows < d->n_windows_asked)
        fprintf(f, "PARTIAL: interrupted when the greedy text of %zu of %zu windows was done.\n\n",
                d->n_windows, d->n_windows_asked);
    if (d->n_windows == 0)
        return;
    format_count(n, d->n);
    format_count(prompt, d->n_prompt);
    snprintf(
        text, sizeof text,
        "Greedy text, %s tokens after a prompt of %s in %s%zu window%s: tokens as fp32 writes them before "
        "the first that differs (%s+: none does).",
        n, prompt, d->n_windows > 1 ? "each of " : "", d->n_windows, eval_s(d->n_windows), n);
    format_paragraph(f, text, style->width);
    print_heading(f, style);
    for (size_t i = 0; i < ev->n_runs; i++)
        if (!ev->runs[i].is_reference) {
            const cells c = cells_of(d, &d->runs[i]);
            print_row(f, ev->runs[i].text, &c, style->markdown);
        }
    fputc('\n', f);
}

static json_t *count_json(size_t n_same, size_t n)
{
    return n_same < n ? json_integer((json_int_t)n_same) : json_null();
}

json_t *greedy_json(const divergence *d, size_t run)
{
    json_t *o = json_object(), *first = json_array();
    for (size_t i = 0; i < d->n_windows; i++)
        json_array_append_new(first, count_json(d->runs[run].first[i], d->n));
    json_object_set_new(o, "n", json_integer((json_int_t)d->n));
    json_object_set_new(o, "n_prompt", json_integer((json_int_t)d->n_prompt));
    json_object_set_new(o, "first_difference", first);
    json_object_set_new(o, "median", d->n_windows > 0 ? count_json(d->runs[run].median, d->n) : json_null());
    return o;
}
