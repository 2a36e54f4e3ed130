/* The tables: one row per scheme, and one row per layer and head. */
#ifndef KVQ_EVAL_REPORT_TABLE_H
#define KVQ_EVAL_REPORT_TABLE_H

#include "eval/report/report.h"

#include <stdio.h>

/**
 * All runs. Markdown has every column that is meant for the table; the plain table those that its width
 * takes, the least important left out first, and then a line that names them.
 */
void table_runs(FILE *f, const evaluation *ev, const report_style *style);

/** One run, each layer and head: the columns of the table that have a figure there. */
void table_heads(FILE *f, const evaluation *ev, const evaluate_run *run, const report_style *style);

#endif
