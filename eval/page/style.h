/* Colours and letters: one palette, as variables of a page's CSS (light and dark) or as plain values in
 * an SVG file. */
#ifndef KVQ_EVAL_PAGE_STYLE_H
#define KVQ_EVAL_PAGE_STYLE_H

#include <stdio.h>

enum {
    STYLE_N_COLOURS = 7, /* classes c0 to c6: Okabe and Ito's, without the yellow that white paper swallows */
    STYLE_N_HEAT = 9,    /* classes h0 to h8, from little to much */
};

/** The content of the page's <style>. */
void style_page(FILE *f);

/** A <style> element for an SVG file: light colours, no variables. */
void style_svg(FILE *f);

#endif
