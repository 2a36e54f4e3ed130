/* The report as CSV, made from the list of columns (report.h). */
#include "eval/report/columns.h"
#include "eval/report/report.h"

#include <inttypes.h>

/* Texts are quoted, because a scheme's holds commas. None holds quotes. */
static void print_field(FILE *f, const column_value *value)
{
    if (value->missing)
        return;
    if (value->text)
        fprintf(f, "\"%s\"", value->text);
    else if (value->is_whole)
        fprintf(f, "%" PRIu64, value->whole);
    else
        fprintf(f, "%.9g", value->real);
}

void report_csv(FILE *f, const evaluation *ev)
{
    for (size_t c = 0; c < n_columns; c++)
        fprintf(f, "%s%s", c > 0 ? "," : "", column_csv_name(&columns[c]));
    fputc('\n', f);
    for (size_t i = 0; i < ev->n_runs; i++) {
        for (size_t c = 0; c < n_columns; c++) {
            column_value value = columns[c].of_run(ev, &ev->runs[i]);
            value.missing = value.missing || !column_applies(&columns[c], ev);
            fputs(c > 0 ? "," : "", f);
            print_field(f, &value);
        }
        fputc('\n', f);
    }
}
