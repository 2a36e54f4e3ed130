/* One HTML page from results files, its figures as SVG files, their tables as CSV files. */
#ifndef KVQ_EVAL_PAGE_PAGE_H
#define KVQ_EVAL_PAGE_PAGE_H

#include "eval/common/error.h"
#include "eval/page/picture.h"
#include "eval/page/view.h"

#include <stdio.h>

typedef struct page {
    const results *r;
    const char *command;      /* the command line, for the reader */
    const char *const *files; /* [n_files]: what was read */
    size_t n_files;
    size_t n; /* experiments */
    view *views;
    pictures *lists;
} page;

/** Compute and draw everything; context and baseline as in view_make. results, command and files must outlive the page. */
EVAL_MUST_CHECK bool page_make(page *p, const results *r, const char *command, const char *const *files,
                               size_t n_files, size_t context, const char *baseline, eval_error *e);

/** The same results give the same bytes. Whether all was written, the stream knows. */
void page_html(FILE *f, const page *p);

/** Name of a figure's file without its ending: its id, with the experiment's number before it if there
 * are several. */
void page_figure_name(char *name, size_t size, const page *p, size_t experiment, const picture *fig);

void page_free(page *p); /* an all-zero one is fine */

/** The summary, in two sentences, as HTML paragraphs (verdict.c). */
void verdict_html(FILE *f, const view *v);

/** How it was measured, as a definition list (measured.c). */
void measured_html(FILE *f, const page *p, const view *v);

#endif
