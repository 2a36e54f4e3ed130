/* Lists of schemes to sweep over: files of them, and grids of choices. */
#ifndef KVQ_EVAL_SWEEP_GRID_H
#define KVQ_EVAL_SWEEP_GRID_H

#include "eval/common/error.h"
#include "lib/kvq.h"

#include <stddef.h>

enum { GRID_MAX_SCHEMES = 1 << 16 };

typedef struct scheme_list {
    kvq_scheme **schemes; /* distinct by their canonical texts, in the order they came; owned */
    size_t n, n_allocated;
    size_t n_duplicates;
    size_t n_invalid;        /* combinations of a grid that make no scheme */
    char first_invalid[256]; /* one of them, and why */
} scheme_list;

void scheme_list_free(scheme_list *list); /* an all-zero one is fine */

/** Add one scheme; an error names `source` (an option, or a file and its line) and the character. */
EVAL_MUST_CHECK bool scheme_list_add(scheme_list *list, const char *source, const char *text, eval_error *e);

/** Add the schemes of a file ("-": standard input): one a line; empty lines and lines that begin with # are
 * left out, as are spaces around a scheme. At least one. */
EVAL_MUST_CHECK bool scheme_list_add_file(scheme_list *list, const char *path, eval_error *e);

/**
 * Add all combinations of a grid.
 *
 *   grid    := "families" | factor (" " factor)*
 *   factor  := KEY "=" value ("," value)*     values without a comma
 *            | KEY "=" value ("|" value)+     values that may hold commas
 *   KEY     := "base" | "k" | "v" | "r" | "mode" | "rtype" | "s" | "hh" | "arith"
 *
 * A combination takes one value of each factor: "base=kvq2,kivi2 s=0,4" gives kvq2,s=0; kvq2,s=4; kivi2,s=0;
 * kivi2,s=4. A value of base stands first, without its key: a preset, or the beginning of a scheme's text, as
 * in "base=kivi4,r=64|k=4,v=2". A number that follows a value with a colon, in a list with commas, continues
 * it: "k=tier:1.5,2,3" is tier:1.5, tier:2 and tier:3 (4 bits of KIVI beside it come first:
 * "k=4,tier:1.5,2"). An empty value leaves the factor out: "s=,4". A grid with neither base nor both k and v
 * changes kvq2. "families" is a list of grids that comes with kvq-eval: grid_families.
 *
 * Combinations that make no scheme are counted; if there are no others, it is an error.
 */
EVAL_MUST_CHECK bool scheme_list_add_grid(scheme_list *list, const char *grid, eval_error *e);

/** The i-th grid of "families", and what family it is; NULL past the last. */
const char *grid_families(size_t i, const char **family);

#endif
