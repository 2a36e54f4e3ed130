/* Results for people (tables, sentences) and for programs (JSON, CSV, NumPy arrays). */
#ifndef KVQ_EVAL_REPORT_REPORT_H
#define KVQ_EVAL_REPORT_REPORT_H

#include "eval/common/error.h"
#include "eval/measure/divergence.h"
#include "eval/measure/evaluate.h"

#include <stdbool.h>
#include <stdio.h>

/* What a report says besides the measurements. */
typedef struct report_context {
    const char *isa;
    const char *precision; /* fast or exact */
    bool append_only;      /* as evaluate_config has it */
    int threads;
    uint64_t seed;
    const char *model_name; /* or the recording's */
    const model *model;     /* NULL for a recording */
    const recording *recording;
    uint64_t model_checksum;
    const char *text_name;    /* "" if a recording does not say */
    int32_t bos_id;           /* what each window begins with; -1: with the text */
    const divergence *greedy; /* of the same schemes; NULL: not measured */
} report_context;

typedef struct report_style {
    bool markdown;
    bool colour; /* not with markdown */
    bool per_layer;
    size_t width; /* of lines, but for Markdown's tables; 0: as long as they are */
} report_style;

/** One line: model, text, instruction set, threads. */
void report_header(FILE *f, const report_context *c, size_t n_windows, size_t n_tokens, size_t n_prompt,
                   const report_style *style);

/** The table, the table per layer if wanted, and what the numbers mean in sentences. */
void report_people(FILE *f, const report_context *c, const evaluation *ev, const report_style *style);

/** One JSON object, schema kvq-eval/1. Figures that would mean nothing are left out, infinite ones are null.
 */
EVAL_MUST_CHECK bool report_json(FILE *f, const report_context *c, const evaluation *ev, eval_error *e);

/** A header and one row per run: JSON's runs without per_layer. Missing figures are empty. */
void report_csv(FILE *f, const evaluation *ev);

/**
 * One JSON object a line for each run and counted step: scheme, window, position (of the last token seen),
 * token (its id), next (the id that follows; null at a window's end), kl, nll and nll_fp32 (of next; null
 * without one), best and best_fp32 (ids). ids are [n_windows][n_tokens]. Only with quality.
 */
void report_per_token(FILE *f, const evaluation *ev, const int32_t *ids);

/** The header of a NumPy array [rows][columns] of float32 in the byte order of this machine. */
void report_npy_header(FILE *f, size_t rows, size_t columns);

/** True for fp32 itself: not a scheme that saves anything. */
bool report_is_fp32(const evaluate_run *run);

#endif
