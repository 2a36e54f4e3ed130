/* From values to places in a picture, and which values get a mark. */
#ifndef KVQ_EVAL_PAGE_SCALE_H
#define KVQ_EVAL_PAGE_SCALE_H

#include <stdbool.h>
#include <stddef.h>

enum { SCALE_MAX_TICKS = 16 };

typedef struct scale {
    bool log;
    double lo, hi;   /* values; above 0 if log; lo < hi */
    double from, to; /* their places */
} scale;

/** Limits rounded outward to steps of 1, 2 or 5 times a power of ten. An empty or no range becomes one. */
scale scale_linear(double lo, double hi, double from, double to);

/** Limits with a margin of 4 % of the length at each end. Values must be positive. */
scale scale_log(double lo, double hi, double from, double to);

/** The place of x; values past the limits lie at them. */
double scale_at(const scale *s, double x);

/** Values to mark, in rising order, between the limits: at most n_max, which counts as at
 * least 4. On a log scale powers of ten, and between them, if there are few, 2 and 5, or 1.5 to 8. */
size_t scale_ticks(const scale *s, size_t n_max, double ticks[SCALE_MAX_TICKS]);

/** A mark's text, as short as it can be: 0.001, 1e-5, 20, 1,000 as 1000. */
void scale_label(char *text, size_t size, double tick);

#endif
