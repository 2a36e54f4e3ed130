/* The one list of what is reported of a run. The table, Markdown, CSV, JSON and the table per layer are made
 * from it, and a test holds the manual's METRICS against it: a new figure is one row in columns.c. */
#ifndef KVQ_EVAL_REPORT_COLUMNS_H
#define KVQ_EVAL_REPORT_COLUMNS_H

#include "eval/measure/evaluate.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** What a column is about. Columns of one part stand together, in the order of the parts. */
typedef enum column_part {
    PART_SCHEME,
    PART_BYTES,
    PART_MEMORY,
    PART_LOCAL,
    PART_PROPAGATED,
    PART_RUN,
    N_PARTS,
} column_part;

typedef struct column_part_info {
    const char *title;  /* the manual's heading */
    const char *object; /* the JSON object inside a run that holds them; NULL: the run itself */
    bool needs_trained; /* means nothing for random weights, and is left out then */
} column_part_info;

extern const column_part_info column_parts[N_PARTS];

/** Says how a value is printed for people. Programs get the plain number. */
typedef enum column_unit {
    UNIT_TEXT,
    UNIT_COUNT,
    UNIT_BYTES,
    UNIT_BITS,
    UNIT_RATIO, /* 2.17x */
    UNIT_ERROR, /* relative errors, and divergences in nats */
    UNIT_SHARE, /* a share of 1, printed in percent */
    UNIT_PERPLEXITY,
    UNIT_CHANGE, /* in percent */
    UNIT_POINTS, /* percent without a sign */
    UNIT_SECONDS,
} column_unit;

typedef struct column_value {
    bool missing; /* there is no such figure: null in JSON, empty in CSV, a dash in tables */
    bool is_whole;
    const char *text; /* UNIT_TEXT only, else NULL */
    uint64_t whole;
    double real; /* of whole numbers as well; NaN if missing */
} column_value;

typedef struct column {
    const char *name; /* in JSON, CSV and the manual */
    const char
        *csv_name; /* where `name` alone, without JSON's object around it, says too little; else NULL */
    column_part part;
    column_unit unit;
    const char *title; /* for people; '|' breaks it into two lines */
    int rank;          /* in the table: 1 stays longest when it gets narrow; 0: not in the table */
    int width;         /* there, with the space before it */
    column_value (*of_run)(const evaluation *ev, const evaluate_run *run);
    /* The same figure of one layer and head alone; NULL if there is none. */
    column_value (*of_head)(const evaluate_run *run, const evaluate_head *head);
    const char *doc; /* sentences for the manual */
} column;

extern const column columns[];
extern const size_t n_columns;

/** True if the column has a meaning for these runs. */
bool column_applies(const column *c, const evaluation *ev);

/** Its name without JSON's objects. */
const char *column_csv_name(const column *c);

#endif
