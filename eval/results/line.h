/* One line of a results file: an experiment and a cell as JSON and back. For results.c alone. */
#ifndef KVQ_EVAL_RESULTS_LINE_H
#define KVQ_EVAL_RESULTS_LINE_H

#include "eval/common/error.h"
#include "eval/results/cell.h"

#include <jansson.h>

#define LINE_SCHEMA "kvq-eval-cell/1"

/** The key that a line of this cell has. */
uint64_t line_key(const experiment *x, const char *scheme, size_t window, uint64_t ids_checksum);

/** Do both say the same in every field? */
bool line_same_experiment(const experiment *a, const experiment *b);

/** The object without white space, as a string of the caller's; NULL without memory. */
char *line_write(const experiment *x, const cell *c);

/**
 * Read an object; `where` is the file and the line, for errors, which name the field too. The key must be
 * that of what the line holds. On failure nothing needs to be freed.
 */
EVAL_MUST_CHECK bool line_read(const json_t *object, const char *where, experiment *x, cell *c, uint64_t *key,
                               eval_error *e);

#endif
