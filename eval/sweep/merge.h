/* Results files of several machines made one. */
#ifndef KVQ_EVAL_SWEEP_MERGE_H
#define KVQ_EVAL_SWEEP_MERGE_H

#include "eval/common/error.h"
#include "eval/results/results.h"

#include <stdio.h>

/** Write every cell once: experiments and schemes in the order of their first lines, within an experiment by
 * window, within a window by scheme. */
EVAL_MUST_CHECK bool merge_write(FILE *f, const results *r, eval_error *e);

#endif
