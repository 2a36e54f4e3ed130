/* Tables of text, for pages and for CSV files. */
#ifndef KVQ_EVAL_PAGE_TABLE_H
#define KVQ_EVAL_PAGE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum { TABLE_MAX_COLUMNS = 40 };

/* Two columns that stand next to each other and that a page shows as one, the second marked. */
#define TABLE_TEXT_BEFORE "text"
#define TABLE_NEXT        "next token"

typedef struct table {
    size_t n_columns, n_cells, capacity;
    char *names[TABLE_MAX_COLUMNS];
    bool numbers[TABLE_MAX_COLUMNS]; /* to the right */
    char **cells;                    /* row by row */
    bool failed;                     /* without memory: what was added since is missing */
} table;

/** One more column; before the first cell. */
void table_column(table *t, const char *name, bool number);

/** The next cell: text, or a number with six digits, "" for NaN. */
void table_text(table *t, const char *text);
void table_number(table *t, double x);

/** A <table> in a box that scrolls. */
void table_html(FILE *f, const table *t);

/** As RFC 4180 has it, but for line ends, which are \n. */
void table_csv(FILE *f, const table *t);

void table_clear(table *t); /* an all-zero one is fine */

#endif
