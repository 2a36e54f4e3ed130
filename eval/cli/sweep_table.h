/* What a sweep found, for people. */
#ifndef KVQ_EVAL_CLI_SWEEP_TABLE_H
#define KVQ_EVAL_CLI_SWEEP_TABLE_H

#include "eval/common/error.h"
#include "eval/sweep/sweep.h"

#include <stdio.h>

/** One row for each scheme of which all windows are there, by bytes. */
EVAL_MUST_CHECK bool sweep_table(FILE *f, const results *r, const sweep_plan *plan, eval_error *e);

#endif
