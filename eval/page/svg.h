/* Shapes in SVG, written to a stream. Colours are classes, which style.h gives for a page and for a file.
 * Places are written with two decimals. */
#ifndef KVQ_EVAL_PAGE_SVG_H
#define KVQ_EVAL_PAGE_SVG_H

#include "eval/page/scale.h"

#include <stdio.h>

/** Width of a text of so many characters at the largest size that a page shows it in. */
double svg_text_width(size_t n_characters);

void svg_line(FILE *f, const char *class, double x1, double y1, double x2, double y2);
void svg_rect(FILE *f, const char *class, double x, double y, double width, double height);

/** anchor: start, middle or end. y is the middle of the letters. */
void svg_text(FILE *f, const char *class, const char *anchor, double x, double y, const char *text);

/** A line through n points; those with NaN are left out, and the line is broken there. */
void svg_polyline(FILE *f, const char *class, const double *x, const double *y, size_t n);

/** The shape of a kind (any number), about 9 wide, around 0, 0. */
void svg_marker(FILE *f, size_t kind);

/** A group that says `text` when pointed at, placed at x, y; svg_end ends it. */
void svg_begin(FILE *f, const char *class, double x, double y, const char *text);
void svg_end(FILE *f);

/* The inner rectangle of a chart, and what its axes say. */
typedef struct axes {
    scale x, y;
    const char *x_title, *y_title;
    size_t n_x, n_y;                /* most marks; 0: none */
    const char *(*x_label)(double); /* NULL: scale_label */
} axes;

/** Lines of the grid, marks, titles. */
void svg_axes(FILE *f, const axes *a);

typedef struct legend_item {
    const char *text, *class;
    size_t marker; /* SIZE_MAX: a square, SIZE_MAX - 1: a line */
} legend_item;
#define LEGEND_SQUARE SIZE_MAX
#define LEGEND_LINE   (SIZE_MAX - 1)

/** Rows of items in `width` from x, y on; gives the height. f may be NULL: only the height. */
double svg_legend(FILE *f, const legend_item *items, size_t n, double x, double y, double width);

#endif
