/* A figure: a picture, a sentence that says how to read it, and the table behind it. */
#ifndef KVQ_EVAL_PAGE_PICTURE_H
#define KVQ_EVAL_PAGE_PICTURE_H

#include "eval/common/error.h"
#include "eval/page/table.h"

#include <stdio.h>

enum {
    PICTURES_MAX = 24,   /* of one experiment */
    PICTURE_WIDTH = 460, /* of every picture, in units of its own: letters are 11.5 high, on a phone 15 */
};

typedef struct picture {
    const char *section; /* the id of the section it belongs to */
    char id[64], title[256];
    char note[512]; /* how to read it, above the picture */
    char foot[512]; /* what it leaves out, below it; "" for nothing */
    double height;
    char *body; /* elements of SVG; NULL: the figure is a table only */
    size_t body_size;
    table table;
} picture;

typedef struct pictures {
    picture at[PICTURES_MAX];
    size_t n;
} pictures;

/** The next figure; its fields are the caller's to fill. There is room, or the program is wrong: NULL. */
picture *pictures_next(pictures *list, const char *section, const char *id);

/** A stream for the body; NULL without memory. Close it with picture_close before the figure is used. */
FILE *picture_open(picture *f, double height);
EVAL_MUST_CHECK bool picture_close(FILE *stream);

/** Into a page: picture, note, and the table in a <details>. prefix makes ids unique in the page. */
void picture_html(FILE *f, const picture *fig, const char *prefix);

/** As a file of its own, with its colours inside. */
void picture_svg(FILE *f, const picture *fig);

void pictures_clear(pictures *list); /* an all-zero one is fine */

#endif
