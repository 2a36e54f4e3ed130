/* Results of a benchmark: sentences and tables, printed for people, as Markdown, CSV or JSON. */
#ifndef KVQ_EVAL_BENCH_REPORT_H
#define KVQ_EVAL_BENCH_REPORT_H

#include "eval/bench/machine.h"
#include "eval/common/error.h"
#include "lib/kvq.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { BENCH_TEXT = -1, BENCH_MAX_TABLES = 4, BENCH_MAX_LINES = 32, BENCH_LINE_SIZE = 512 };

typedef struct bench_column {
    const char *key;   /* in JSON and CSV, with its unit */
    const char *title; /* for people; '|' breaks it into two lines; NULL: for programs only */
    int decimals;      /* of a number, for people; BENCH_TEXT for text */
} bench_column;

enum { BENCH_TEXT_SIZE = 128 }; /* bytes of a text in a table; longer ones are cut */

typedef struct bench_value {
    double number;
    char text[BENCH_TEXT_SIZE];
} bench_value;

/* Filled row by row, value by value, in the order of the columns. */
typedef struct bench_table {
    const char *key, *title;
    const bench_column *columns;
    size_t n_columns;
    size_t n_group; /* people see an empty line where one of the first n_group columns changes */
    /* The column that tells a busy machine: its times are of equal work, and the two columns after it are
     * their 10th and 90th percentile. NULL: none does. */
    const char *noise;
    bench_value *values;
    size_t n, capacity;
    bool failed; /* memory was short */
} bench_table;

void bench_put_text(bench_table *t, const char *text);
/** NaN stands for a number that does not exist: empty for people, null in JSON. */
void bench_put_number(bench_table *t, double x);
/** Median, 10th and 90th percentile. */
void bench_put_sample(bench_table *t, const bench_sample *s);

typedef struct bench_report {
    const char *mode;
    uint64_t seed;
    bool quick;
    bench_machine machine;
    char headline[BENCH_MAX_LINES][BENCH_LINE_SIZE];
    size_t n_headline;
    char notes[BENCH_MAX_LINES][BENCH_LINE_SIZE]; /* how it was measured, what was left out */
    size_t n_notes;
    bench_table tables[BENCH_MAX_TABLES];
    size_t n_tables, main_table; /* the latter becomes the CSV */
    bench_table left_out;        /* bench_leave_out */
} bench_report;

EVAL_PRINTF_LIKE(2, 3) void bench_headline(bench_report *r, const char *format, ...);
EVAL_PRINTF_LIKE(2, 3) void bench_note(bench_report *r, const char *format, ...);

/** A new table; columns must outlive the report. NULL only if BENCH_MAX_TABLES are there. */
bench_table *bench_add_table(bench_report *r, const char *key, const char *title, const bench_column *columns,
                             size_t n_columns, size_t n_group);

/** The place of a column; n_columns if there is none. */
size_t bench_column_of(const bench_table *t, const char *key);

/** A headline against quoting, before all others, if a table's column `noise` has too wide a spread in too
 * many of its rows: medians hide a busy machine. For every kind of measurement, once all rows are there. */
void bench_say_noise(bench_report *r);

/** Warn in the first line where threads had to share cores. */
void bench_say_threads(bench_report *r, const int *threads, size_t n_threads);

/** A row of "left_out": what was wanted and not measured, and why. `where` is a shape or a model, tokens 0
 * and scheme "" stand for all of them. */
EVAL_PRINTF_LIKE(5, 6)
void bench_leave_out(bench_report *r, const char *where, size_t n_tokens, const char *scheme, const char *why,
                     ...);

/** The error for a report without measurements: the last reason to leave something out. Returns false. */
bool bench_nothing_measured(const bench_report *r, eval_error *e);

/** The measured bandwidth as a table. */
void bench_add_bandwidth(bench_report *r, const bench_bandwidth *b, size_t n);

void bench_report_people(FILE *f, const bench_report *r, bool markdown);
void bench_report_csv(FILE *f, const bench_report *r);
/** Schema kvq-eval-bench/2: headline, notes, machine, and one array of objects per table. */
EVAL_MUST_CHECK bool bench_report_json(FILE *f, const bench_report *r, eval_error *e);

/** False, with the error said, if a table lacks rows for want of memory. */
EVAL_MUST_CHECK bool bench_report_check(const bench_report *r, eval_error *e);
void bench_report_free(bench_report *r);

#endif
