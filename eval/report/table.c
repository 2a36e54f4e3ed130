/* The tables, made from the list of columns (table.h). */
#include "eval/report/table.h"

#include "eval/report/format.h"

#include <string.h>

enum {
    MAX_COLUMNS = 32,
    MAX_TITLE = 48,
    SCHEME_WIDTH = 12, /* longer scheme texts stand on a line of their own */
    INDEX_WIDTH = 6,   /* of the columns layer and head */
};

typedef struct selection {
    const column *c[MAX_COLUMNS];
    size_t n;
} selection;

/* The columns of the table that mean something for these runs, up to a rank. */
static selection columns_to_rank(const evaluation *ev, int rank)
{
    selection s = {.n = 0};
    for (size_t i = 0; i < n_columns; i++)
        if (columns[i].rank > 0 && columns[i].rank <= rank && column_applies(&columns[i], ev))
            s.c[s.n++] = &columns[i];
    return s;
}

static size_t plain_width(const selection *s)
{
    size_t width = SCHEME_WIDTH;
    for (size_t i = 0; i < s->n; i++)
        width += (size_t)s->c[i]->width;
    return width;
}

static selection columns_that_fit(const evaluation *ev, size_t width)
{
    int rank = MAX_COLUMNS;
    selection s = columns_to_rank(ev, rank);
    while (width > 0 && plain_width(&s) > width && rank > 1)
        s = columns_to_rank(ev, --rank);
    return s;
}

/* ---- plain ---- */

/* One of a title's two lines; a title of one line is the lower one. */
static void title_line(char *s, const char *title, int line)
{
    const char *bar = strchr(title, '|');
    const char *lower = bar ? bar + 1 : title;
    if (line == 1)
        snprintf(s, MAX_TITLE, "%s", lower);
    else
        snprintf(s, MAX_TITLE, "%.*s", bar ? (int)(bar - title) : 0, title);
}

/* The heading, after `left`, which stands at the beginning of its lower line. */
static void print_heading(FILE *f, const char *left, int left_width, const selection *s, bool colour)
{
    for (int line = 0; line < 2; line++) {
        char text[512];
        int used = snprintf(text, sizeof text, "%-*s", left_width, line == 0 ? "" : left);
        for (size_t i = 0; i < s->n; i++) {
            char title[MAX_TITLE];
            title_line(title, s->c[i]->title, line);
            used += snprintf(text + used, sizeof text - (size_t)used, "%*s", s->c[i]->width, title);
        }
        while (used > 0 && text[used - 1] == ' ')
            text[--used] = '\0';
        fprintf(f, colour ? "\033[1m%s\033[0m\n" : "%s\n", text);
    }
}

static void print_left_out(FILE *f, const evaluation *ev, const selection *shown, size_t width)
{
    const selection all = columns_to_rank(ev, MAX_COLUMNS);
    char text[1024];
    int used = snprintf(text, sizeof text, "Not shown at a width of %zu: ", width);
    const int begin = used;
    for (size_t i = 0, j = 0; i < all.n; i++) {
        if (j < shown->n && shown->c[j] == all.c[i]) {
            j++;
            continue;
        }
        char title[MAX_TITLE];
        format_title(title, sizeof title, all.c[i]->title);
        used += snprintf(text + used, sizeof text - (size_t)used, "%s%s", used > begin ? ", " : "", title);
    }
    snprintf(text + used, sizeof text - (size_t)used, " (--markdown shows them).");
    if (used > begin)
        format_paragraph(f, text, width);
}

static void print_plain_row(FILE *f, const evaluation *ev, const evaluate_run *run, const selection *s)
{
    if (strlen(run->text) >= SCHEME_WIDTH)
        fprintf(f, "%s\n%-*s", run->text, SCHEME_WIDTH, "");
    else
        fprintf(f, "%-*s", SCHEME_WIDTH, run->text);
    for (size_t i = 0; i < s->n; i++) {
        char shown[FORMAT_SIZE];
        const column_value value = s->c[i]->of_run(ev, run);
        format_value(shown, s->c[i]->unit, &value);
        fprintf(f, " %*s", s->c[i]->width - 1, shown); /* wide figures do not touch */
    }
}

static void plain_runs(FILE *f, const evaluation *ev, const report_style *style)
{
    const selection s = columns_that_fit(ev, style->width);
    print_heading(f, "scheme", SCHEME_WIDTH, &s, style->colour);
    for (size_t i = 0; i < ev->n_runs; i++) {
        const bool faint = style->colour && report_is_fp32(&ev->runs[i]);
        fputs(faint ? "\033[2m" : "", f);
        print_plain_row(f, ev, &ev->runs[i], &s);
        fputs(faint ? "\033[0m\n" : "\n", f);
    }
    print_left_out(f, ev, &s, style->width);
    fputc('\n', f);
}

/* ---- Markdown ---- */

/* `left` is the first cells of the row, such as "scheme" or "layer | head". */
static void markdown_heading(FILE *f, const char *left, const char *left_rule, const selection *s)
{
    fprintf(f, "| %s |", left);
    for (size_t i = 0; i < s->n; i++) {
        char title[MAX_TITLE];
        format_title(title, sizeof title, s->c[i]->title);
        fprintf(f, " %s |", title);
    }
    fprintf(f, "\n%s", left_rule);
    for (size_t i = 0; i < s->n; i++)
        fputs("---:|", f);
    fputc('\n', f);
}

static void markdown_cell(FILE *f, const column *c, column_value value)
{
    char shown[FORMAT_SIZE];
    format_value(shown, c->unit, &value);
    fprintf(f, " %s |", shown);
}

static void markdown_runs(FILE *f, const evaluation *ev)
{
    const selection s = columns_to_rank(ev, MAX_COLUMNS);
    markdown_heading(f, "scheme", "|---|", &s);
    for (size_t i = 0; i < ev->n_runs; i++) {
        fprintf(f, "| %s |", ev->runs[i].text);
        for (size_t j = 0; j < s.n; j++)
            markdown_cell(f, s.c[j], s.c[j]->of_run(ev, &ev->runs[i]));
        fputc('\n', f);
    }
    fputc('\n', f);
}

void table_runs(FILE *f, const evaluation *ev, const report_style *style)
{
    if (style->markdown)
        markdown_runs(f, ev);
    else
        plain_runs(f, ev, style);
}

/* ---- per layer and head ---- */

static selection columns_of_heads(const evaluation *ev)
{
    const selection all = columns_to_rank(ev, MAX_COLUMNS);
    selection s = {.n = 0};
    for (size_t i = 0; i < all.n; i++)
        if (all.c[i]->of_head)
            s.c[s.n++] = all.c[i];
    return s;
}

void table_heads(FILE *f, const evaluation *ev, const evaluate_run *run, const report_style *style)
{
    const selection s = columns_of_heads(ev);
    fprintf(f, "Per layer and head, %s:\n", run->text);
    if (style->markdown) {
        fputc('\n', f);
        markdown_heading(f, "layer | head", "|---:|---:|", &s);
    } else {
        print_heading(f, " layer  head", 2 * INDEX_WIDTH, &s, style->colour);
    }
    for (size_t i = 0; i < ev->n_layer * ev->n_head; i++) {
        const size_t layer = i / ev->n_head, head = i % ev->n_head;
        if (style->markdown)
            fprintf(f, "| %zu | %zu |", layer, head);
        else
            fprintf(f, "%*zu%*zu", INDEX_WIDTH, layer, INDEX_WIDTH, head);
        for (size_t j = 0; j < s.n; j++) {
            const column_value value = s.c[j]->of_head(run, &run->heads[i]);
            if (style->markdown) {
                markdown_cell(f, s.c[j], value);
            } else {
                char shown[FORMAT_SIZE];
                format_value(shown, s.c[j]->unit, &value);
                fprintf(f, " %*s", s.c[j]->width - 1, shown);
            }
        }
        fputc('\n', f);
    }
    fputc('\n', f);
}
