/* One experiment of results as the charts see it: schemes with their figures, families, the front, the
 * verdict. */
#ifndef KVQ_EVAL_PAGE_VIEW_H
#define KVQ_EVAL_PAGE_VIEW_H

#include "eval/common/error.h"
#include "eval/model/model.h"
#include "eval/results/results.h"
#include "eval/results/statistics.h"

enum {
    VIEW_MAX_FAMILIES = 12, /* the last is "other" if there are more */
    VIEW_MAX_CHOSEN = 6,
    VIEW_NAME = 40,
};

typedef struct scheme_view {
    const char *text;
    char label[VIEW_NAME]; /* the text, cut */
    size_t family;
    kvq_scheme *scheme; /* NULL: one that is not known here, such as a plug-in's */
    const cell **cells; /* [n_cells], by window */
    size_t n_cells;
    bool plain;             /* f16 or f32 on both sides */
    double bits;            /* all bytes of the cache * 8 / numbers held, over its windows */
    double bytes_per_token; /* at the view's context; NaN if it cannot be told */
    estimate figures[N_FIGURES];
    double k_error, v_error; /* relative L2 over all heads; NaN: none */
    double kl_max;
    bool front_bits, front_bytes; /* none is better in the main figure at as few bits, or bytes */
} scheme_view;

typedef struct view {
    const experiment *x;
    size_t index;
    model_shape shape;
    size_t context;       /* bytes_per_token is for so many tokens */
    bool has_figure;      /* is there a main figure? */
    figure main;          /* FIGURE_KL, or FIGURE_ATTN_ERROR where nothing reaches the logits */
    scheme_view *schemes; /* [n], by bits */
    size_t n;
    char families[VIEW_MAX_FAMILIES][VIEW_NAME];
    size_t n_families;
    size_t n_windows;               /* of the scheme that has most */
    size_t baseline, best;          /* indices; n: none */
    bool compared;                  /* best and baseline share windows, and this is their main figure */
    size_t n_common;                /* those windows */
    difference against;             /* best against baseline */
    size_t chosen[VIEW_MAX_CHOSEN]; /* best, baseline, and others of the front */
    size_t n_chosen;
} view;

/** context 0: the windows' length. baseline: canonical text; NULL, or one that was not measured: it is chosen. Weighs caches of every scheme. */
EVAL_MUST_CHECK bool view_make(view *v, const results *r, size_t experiment, size_t context,
                               const char *baseline, eval_error *e);

void view_free(view *v); /* an all-zero one is fine */

/** Name of the main figure, with its unit. */
const char *view_main_name(const view *v);

/** Colour class and marker of a family. */
const char *view_colour(size_t family);

/** Sums of relative errors' parts over the cells' heads. */
typedef struct head_errors {
    double k, v, attn; /* relative L2; NaN: none */
} head_errors;
head_errors view_head(const view *v, const scheme_view *s, size_t layer, size_t head);

#endif
