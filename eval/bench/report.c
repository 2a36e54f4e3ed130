/* Tables of a benchmark for people, as Markdown and as CSV (report.h). */
#include "eval/bench/report.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { CELL = 160 };

/* ---- filling ---- */

static bench_value *next_value(bench_table *t)
{
    if (t->n == t->capacity && !t->failed) {
        const size_t capacity = t->capacity > 0 ? 2 * t->capacity : 16 * t->n_columns;
        bench_value *values = realloc(t->values, capacity * sizeof values[0]);
        t->failed = !values;
        if (values) {
            t->values = values;
            t->capacity = capacity;
        }
    }
    return t->failed ? NULL : &t->values[t->n++];
}

void bench_put_text(bench_table *t, const char *text)
{
    assert(t->columns[t->n % t->n_columns].decimals == BENCH_TEXT || t->failed);
    bench_value *v = next_value(t);
    if (v) {
        v->number = NAN;
        snprintf(v->text, sizeof v->text, "%s", text);
    }
}

void bench_put_number(bench_table *t, double x)
{
    assert(t->columns[t->n % t->n_columns].decimals != BENCH_TEXT || t->failed);
    bench_value *v = next_value(t);
    if (v) {
        v->number = x;
        v->text[0] = '\0';
    }
}

void bench_put_sample(bench_table *t, const bench_sample *s)
{
    bench_put_number(t, BENCH_MEDIAN(s));
    bench_put_number(t, bench_quantile(s, 0.1));
    bench_put_number(t, bench_quantile(s, 0.9));
}

void bench_headline(bench_report *r, const char *format, ...)
{
    if (r->n_headline < BENCH_MAX_LINES) {
        va_list args;
        va_start(args, format);
        vsnprintf(r->headline[r->n_headline++], BENCH_LINE_SIZE, format, args);
        va_end(args);
    }
}

void bench_note(bench_report *r, const char *format, ...)
{
    if (r->n_notes < BENCH_MAX_LINES) {
        va_list args;
        va_start(args, format);
        vsnprintf(r->notes[r->n_notes++], BENCH_LINE_SIZE, format, args);
        va_end(args);
    }
}

bench_table *bench_add_table(bench_report *r, const char *key, const char *title, const bench_column *columns,
                             size_t n_columns, size_t n_group)
{
    assert(r->n_tables < BENCH_MAX_TABLES);
    bench_table *t = &r->tables[r->n_tables++];
    *t = (bench_table){
        .key = key, .title = title, .columns = columns, .n_columns = n_columns, .n_group = n_group};
    return t;
}

size_t bench_column_of(const bench_table *t, const char *key)
{
    size_t i = 0;
    while (i < t->n_columns && strcmp(t->columns[i].key, key) != 0)
        i++;
    return i;
}

/* Rows of a table with a spread, and in *n_wide those of too wide a one. */
static size_t count_spreads(const bench_table *t, size_t *n_wide)
{
    size_t n = 0;
    for (size_t i = bench_column_of(t, t->noise); !t->failed && i + 2 < t->n; i += t->n_columns) {
        const double p10 = t->values[i + 1].number, p90 = t->values[i + 2].number;
        n += isfinite(p10) && isfinite(p90);
        *n_wide += p90 > 1.5 * p10;
    }
    return n;
}

/* Room for one before all others. */
static char *first_headline(bench_report *r)
{
    const size_t n = r->n_headline < BENCH_MAX_LINES ? r->n_headline : BENCH_MAX_LINES - 1;
    memmove(r->headline[1], r->headline[0], n * sizeof r->headline[0]);
    r->n_headline = n + 1;
    return r->headline[0];
}

void bench_say_threads(bench_report *r, const int *threads, size_t n_threads)
{
    int most = 0;
    for (size_t i = 0; i < n_threads; i++)
        most = threads[i] > most ? threads[i] : most;
    if (most > r->machine.n_cores)
        snprintf(
            first_headline(r), BENCH_LINE_SIZE,
            "DO NOT QUOTE: %d threads shared %d core%s, so that their times, and the bandwidth they seem "
            "to reach, mean nothing.",
            most, r->machine.n_cores, r->machine.n_cores == 1 ? "" : "s");
}

void bench_say_noise(bench_report *r)
{
    for (size_t i = 0; i < r->n_tables; i++) {
        const bench_table *t = &r->tables[i];
        size_t n_wide = 0;
        const size_t n_rows = t->noise ? count_spreads(t, &n_wide) : 0;
        if (4 * n_wide <= n_rows)
            continue;
        snprintf(first_headline(r), BENCH_LINE_SIZE,
                 "DO NOT QUOTE: this machine was not quiet; in %zu of %zu rows the 90th percentile of %s is "
                 "over 1.5 times the 10th.",
                 n_wide, n_rows, t->noise);
    }
}

void bench_leave_out(bench_report *r, const char *where, size_t n_tokens, const char *scheme, const char *why,
                     ...)
{
    static const bench_column columns[] = {
        {"where", "where", BENCH_TEXT},
        {"tokens", "tokens", 0},
        {"scheme", "scheme", BENCH_TEXT},
        {"why", "why", BENCH_TEXT},
    };
    bench_table *t = &r->left_out;
    char text[BENCH_TEXT_SIZE];
    va_list args;
    va_start(args, why);
    vsnprintf(text, sizeof text, why, args);
    va_end(args);
    t->title = "Left out";
    t->columns = columns;
    t->n_columns = sizeof columns / sizeof columns[0];
    for (size_t i = 0; i < t->n && !t->failed; i += t->n_columns) { /* said already, of another ISA */
        const bench_value *row = &t->values[i];
        const size_t n = isfinite(row[1].number) ? (size_t)row[1].number : 0;
        if (n == n_tokens && strcmp(row[0].text, where) == 0 && strcmp(row[2].text, scheme) == 0 &&
            strcmp(row[3].text, text) == 0)
            return;
    }
    bench_put_text(t, where);
    bench_put_number(t, n_tokens > 0 ? (double)n_tokens : NAN);
    bench_put_text(t, scheme);
    bench_put_text(t, text);
}

bool bench_nothing_measured(const bench_report *r, eval_error *e)
{
    const bench_table *t = &r->left_out;
    const bench_value *row = !t->failed && t->n > 0 ? &t->values[t->n - t->n_columns] : NULL;
    return eval_fail(e, "nothing to measure: %s%s%s: %s", row ? row[0].text : "",
                     row && row[2].text[0] ? ", " : "", row ? row[2].text : "",
                     row ? row[3].text : "no time");
}

void bench_add_bandwidth(bench_report *r, const bench_bandwidth *b, size_t n)
{
    static const bench_column columns[] = {
        {"level", "level", BENCH_TEXT}, {"threads", "threads", 0}, {"bytes", NULL, 0},
        {"mb", "MB read", 1},           {"gb_s", "GB/s", 1},       {"gb_s_p10", "p10", 1},
        {"gb_s_p90", "p90", 1},         {"rounds", "rounds", 0},
    };
    bench_table *t = bench_add_table(r, "bandwidth", "Read bandwidth of this machine", columns,
                                     sizeof columns / sizeof columns[0], 0);
    for (size_t i = 0; i < n; i++) {
        bench_put_text(t, bench_level_names[b[i].level]);
        bench_put_number(t, b[i].n_threads);
        bench_put_number(t, (double)b[i].n_bytes);
        bench_put_number(t, (double)b[i].n_bytes * 1e-6);
        bench_put_sample(t, &b[i].gb_s);
        bench_put_number(t, (double)b[i].gb_s.n);
    }
}

bool bench_report_check(const bench_report *r, eval_error *e)
{
    if (r->left_out.failed)
        return eval_fail(e, "out of memory for the report");
    for (size_t i = 0; i < r->n_tables; i++) {
        if (r->tables[i].failed)
            return eval_fail(e, "out of memory for the report");
        assert(r->tables[i].n % r->tables[i].n_columns == 0);
    }
    return true;
}

void bench_report_free(bench_report *r)
{
    for (size_t i = 0; i < r->n_tables; i++)
        free(r->tables[i].values);
    free(r->left_out.values);
    r->left_out = (bench_table){0};
    r->n_tables = 0;
}

/* ---- printing ---- */

/* One half of a title: the part before '|' or after it. A title of one part stands on the second line. */
static void title_part(const bench_column *c, bool second, char *text)
{
    const char *bar = strchr(c->title, '|');
    if (!bar)
        snprintf(text, CELL, "%s", second ? c->title : "");
    else if (second)
        snprintf(text, CELL, "%s", bar + 1);
    else
        snprintf(text, CELL, "%.*s", (int)(bar - c->title), c->title);
}

/* Whole numbers with commas between thousands: token counts are what is read most. */
static void print_whole(double x, char *text)
{
    char digits[64];
    snprintf(digits, sizeof digits, "%.0f", x);
    const size_t n = strlen(digits), first = digits[0] == '-' ? 1 : 0;
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > first && (n - i) % 3 == 0)
            text[used++] = ',';
        text[used++] = digits[i];
    }
    text[used] = '\0';
}

static void cell_text(const bench_column *c, const bench_value *v, char *text)
{
    if (c->decimals == BENCH_TEXT)
        snprintf(text, CELL, "%s", v->text);
    else if (!isfinite(v->number))
        text[0] = '\0';
    else if (c->decimals == 0)
        print_whole(v->number, text);
    else if (v->number != 0.0 && fabs(v->number) < 0.5 * pow(10.0, -c->decimals))
        snprintf(text, CELL, "%.1e", v->number);
    else
        snprintf(text, CELL, "%.*f", c->decimals, v->number);
}

static bool same_group(const bench_table *t, size_t row)
{
    const bench_value *a = &t->values[(row - 1) * t->n_columns], *b = a + t->n_columns;
    for (size_t i = 0; i < t->n_group; i++)
        if (strcmp(a[i].text, b[i].text) != 0 || (a[i].number < b[i].number || a[i].number > b[i].number))
            return false;
    return true;
}

static void column_widths(const bench_table *t, int *widths)
{
    char text[CELL];
    for (size_t i = 0; i < t->n_columns; i++) {
        widths[i] = 0;
        for (int second = 0; t->columns[i].title && second < 2; second++) {
            title_part(&t->columns[i], second != 0, text);
            widths[i] = (int)strlen(text) > widths[i] ? (int)strlen(text) : widths[i];
        }
        for (size_t at = i; t->columns[i].title && at < t->n; at += t->n_columns) {
            cell_text(&t->columns[i], &t->values[at], text);
            widths[i] = (int)strlen(text) > widths[i] ? (int)strlen(text) : widths[i];
        }
    }
}

static bool has_two_lines(const bench_table *t)
{
    for (size_t i = 0; i < t->n_columns; i++)
        if (t->columns[i].title && strchr(t->columns[i].title, '|'))
            return true;
    return false;
}

static void print_text_table(FILE *f, const bench_table *t)
{
    enum { MAX_COLUMNS = 64 };
    char text[CELL];
    int widths[MAX_COLUMNS];
    assert(t->n_columns <= MAX_COLUMNS);
    column_widths(t, widths);
    /* Lines 0 and 1 are the titles; rows follow. */
    const size_t n_rows = t->n / t->n_columns;
    for (size_t line = has_two_lines(t) ? 0 : 1; line < n_rows + 2; line++) {
        if (line > 2 && t->n_group > 0 && !same_group(t, line - 2))
            fputc('\n', f);
        const char *gap = "";
        for (size_t i = 0; i < t->n_columns; i++) {
            if (!t->columns[i].title)
                continue;
            if (line < 2)
                title_part(&t->columns[i], line == 1, text);
            else
                cell_text(&t->columns[i], &t->values[(line - 2) * t->n_columns + i], text);
            fprintf(f, "%s%*s", gap, t->columns[i].decimals == BENCH_TEXT ? -widths[i] : widths[i], text);
            gap = "  ";
        }
        fputc('\n', f);
    }
}

static void print_markdown_table(FILE *f, const bench_table *t)
{
    char first[CELL], second[CELL];
    for (int line = 0; line < 2; line++) {
        for (size_t i = 0; i < t->n_columns; i++) {
            if (!t->columns[i].title)
                continue;
            title_part(&t->columns[i], false, first);
            title_part(&t->columns[i], true, second);
            if (line == 0)
                fprintf(f, "| %s%s%s ", first, first[0] ? " " : "", second);
            else
                fputs(t->columns[i].decimals == BENCH_TEXT ? "|---" : "|---:", f);
        }
        fputs("|\n", f);
    }
    for (size_t at = 0; at < t->n; at++) {
        assert(t->n_columns > 0);
        const size_t i = at % t->n_columns;
        if (t->columns[i].title) {
            cell_text(&t->columns[i], &t->values[at], first);
            fprintf(f, "| %s ", first);
        }
        fputs(i + 1 == t->n_columns ? "|\n" : "", f);
    }
}

static void print_table(FILE *f, const bench_table *t, bool markdown)
{
    if (t->n == 0)
        return;
    fprintf(f, markdown ? "\n**%s**\n\n" : "\n%s\n\n", t->title);
    if (markdown)
        print_markdown_table(f, t);
    else
        print_text_table(f, t);
}

void bench_report_people(FILE *f, const bench_report *r, bool markdown)
{
    char machine[BENCH_LINE_SIZE];
    bench_machine_print(&r->machine, machine, sizeof machine);
    for (size_t i = 0; i < r->n_headline; i++)
        fprintf(f, "%s%s\n", markdown ? "- " : "", r->headline[i]);
    fprintf(f, "%s%s\n", r->n_headline > 0 ? "\n" : "", machine);
    for (size_t i = 0; i < r->n_tables; i++)
        print_table(f, &r->tables[i], markdown);
    print_table(f, &r->left_out, markdown);
    fputc('\n', f);
    for (size_t i = 0; i < r->n_notes; i++)
        fprintf(f, "- %s\n", r->notes[i]);
}

void bench_report_csv(FILE *f, const bench_report *r)
{
    const bench_table *t = &r->tables[r->main_table];
    for (size_t i = 0; i < t->n_columns; i++)
        fprintf(f, "%s%s", i > 0 ? "," : "", t->columns[i].key);
    fputc('\n', f);
    for (size_t at = 0; at < t->n; at++) {
        assert(t->n_columns > 0);
        const size_t i = at % t->n_columns;
        fputs(i > 0 ? "," : "", f);
        if (t->columns[i].decimals == BENCH_TEXT)
            fprintf(f, "\"%s\"", t->values[at].text); /* schemes hold commas; nothing holds quotes */
        else if (isfinite(t->values[at].number))
            fprintf(f, "%.9g", t->values[at].number);
        fputs(i + 1 == t->n_columns ? "\n" : "", f);
    }
}
