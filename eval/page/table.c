/* Tables (table.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/page/table.h"

#include "eval/page/markup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void table_column(table *t, const char *name, bool number)
{
    if (t->n_columns == TABLE_MAX_COLUMNS)
        return;
    t->names[t->n_columns] = strdup(name);
    t->failed = t->failed || !t->names[t->n_columns];
    t->numbers[t->n_columns++] = number;
}

void table_text(table *t, const char *text)
{
    if (t->n_cells == t->capacity) {
        const size_t capacity = t->capacity > 0 ? 2 * t->capacity : 64;
        char **cells = realloc(t->cells, capacity * sizeof *cells);
        if (!cells) {
            t->failed = true;
            return;
        }
        t->cells = cells;
        t->capacity = capacity;
    }
    char *copy = strdup(text);
    if (copy)
        t->cells[t->n_cells++] = copy;
    else
        t->failed = true;
}

void table_number(table *t, double x)
{
    char text[32];
    snprintf(text, sizeof text, "%.6g", x == 0.0 ? 0.0 : x);
    table_text(t, isnan(x) ? "" : text);
}

/* Line ends and tabs as signs, so that a token that is nothing else is seen. */
static void visible(FILE *f, const char *text)
{
    char piece[2] = "";
    for (; *text != '\0'; text += strcspn(text, "\n\t")) {
        if (*text == '\n' || *text == '\t')
            fputs(*text++ == '\n' ? "\342\206\265" : "\342\207\245", f);
        const size_t n = strcspn(text, "\n\t");
        char *copy = n > 0 ? strndup(text, n) : NULL;
        markup_text(f, copy ? copy : piece);
        free(copy);
    }
}

/* A number of a cell with as many digits as people read; the CSV file has more. */
static void readable(FILE *f, const char *text)
{
    char number[MARKUP_NUMBER], *end = NULL;
    const double x = strtod(text, &end);
    if (end == text)
        fputs("\342\200\223", f);
    else if (fabs(x) >= 100.0 && x == floor(x) && fabs(x) < 1e15)
        fprintf(f, "%.0f", x);
    else if (x == floor(x) && fabs(x) < 100.0)
        fprintf(f, "%.0f", x);
    else {
        markup_number(number, x);
        markup_text(f, number);
    }
}

void table_html(FILE *f, const table *t)
{
    fputs("<div class=\"box\" tabindex=\"0\" role=\"group\" aria-label=\"table\"><table>\n<thead><tr>", f);
    for (size_t i = 0; i < t->n_columns; i++) {
        if (strcmp(t->names[i], TABLE_NEXT) == 0)
            continue;
        fputs(t->numbers[i] ? "<th scope=\"col\" class=\"n\">" : "<th scope=\"col\">", f);
        markup_text(f, t->names[i]);
        fputs("</th>", f);
    }
    fputs("</tr></thead>\n<tbody>\n", f);
    for (size_t i = 0; t->n_columns > 0 && i < t->n_cells; i++) {
        const size_t column = i % t->n_columns;
        fputs(column == 0 ? "<tr>" : "", f);
        if (strcmp(t->names[column], TABLE_TEXT_BEFORE) == 0) {
            fputs("<td class=\"text\">", f);
            markup_text(f, t->cells[i]);
            continue;
        }
        if (strcmp(t->names[column], TABLE_NEXT) == 0) {
            fputs("<mark>", f);
            visible(f, t->cells[i]);
            fputs("</mark></td>", f);
            continue;
        }
        fputs(t->numbers[column] ? "<td class=\"n\">" : "<td>", f);
        if (t->numbers[column])
            readable(f, t->cells[i]);
        else
            visible(f, t->cells[i]);
        fputs(column + 1 == t->n_columns ? "</td></tr>\n" : "</td>", f);
    }
    fputs("</tbody></table></div>\n", f);
}

static void csv_cell(FILE *f, const char *text, bool last)
{
    if (strpbrk(text, ",\"\r\n")) {
        putc('"', f);
        for (; *text != '\0'; text++) {
            if (*text == '"')
                putc('"', f);
            putc(*text, f);
        }
        putc('"', f);
    } else {
        fputs(text, f);
    }
    putc(last ? '\n' : ',', f);
}

void table_csv(FILE *f, const table *t)
{
    for (size_t i = 0; i < t->n_columns; i++)
        csv_cell(f, t->names[i], i + 1 == t->n_columns);
    for (size_t i = 0; t->n_columns > 0 && i < t->n_cells; i++)
        csv_cell(f, t->cells[i], (i + 1) % t->n_columns == 0);
}

void table_clear(table *t)
{
    for (size_t i = 0; i < t->n_columns; i++)
        free(t->names[i]);
    for (size_t i = 0; i < t->n_cells; i++)
        free(t->cells[i]);
    free(t->cells);
    memset(t, 0, sizeof *t);
}
