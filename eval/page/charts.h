/* The charts of an experiment, each of which adds its pictures to the list. True, and nothing added,
 * where there is no data; false without memory (or, for chart_bytes, without a cache). */
#ifndef KVQ_EVAL_PAGE_CHARTS_H
#define KVQ_EVAL_PAGE_CHARTS_H

#include "eval/page/picture.h"
#include "eval/page/view.h"

/** Size against the main figure, bits and bytes (section "front"). */
EVAL_MUST_CHECK bool chart_front(pictures *list, const view *v, eval_error *e);

/** The main figure by position (section "position"). */
EVAL_MUST_CHECK bool chart_position(pictures *list, const view *v, eval_error *e);

/** Divergences of tokens (section "spread"). */
EVAL_MUST_CHECK bool chart_spread(pictures *list, const view *v, eval_error *e);

/** Layer by head, of attention, keys, values (section "heads"). */
EVAL_MUST_CHECK bool chart_heads(pictures *list, const view *v, eval_error *e);

/** A head's keys and values, token by channel (section "portrait"). */
EVAL_MUST_CHECK bool chart_portrait(pictures *list, const view *v, eval_error *e);

/** Bytes by purpose as a sequence grows (section "bytes"). */
EVAL_MUST_CHECK bool chart_bytes(pictures *list, const view *v, eval_error *e);

/** All schemes, and the worst tokens: tables without a picture (sections "schemes", "worst"). */
EVAL_MUST_CHECK bool chart_schemes(pictures *list, const view *v, eval_error *e);
EVAL_MUST_CHECK bool chart_worst(pictures *list, const view *v, eval_error *e);

/** What every chart function ends with: was there memory? */
EVAL_MUST_CHECK bool chart_done(const picture *p, bool closed, eval_error *e);

/** Least and largest positive value of n; false if there is none. */
bool chart_range(const double *x, size_t n, double *lo, double *hi);

#endif
