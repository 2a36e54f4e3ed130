/* What schemes have written, for programs. */
#ifndef KVQ_EVAL_REPORT_GENERATION_H
#define KVQ_EVAL_REPORT_GENERATION_H

#include "eval/common/error.h"
#include "eval/model/tokenizer.h"
#include "lib/kvq.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct generation_run {
    const char *scheme; /* its text */
    bool is_reference;  /* fp32, which the others are compared with */
    int32_t *ids;       /* [n_ids] */
    size_t n_ids;
    size_t n_same; /* tokens before the first that differs from the reference; n_ids if none does */
    double tokens_per_second; /* 0: too short to time */
    bool packed;              /* the cache held packed keys or values at the end */
} generation_run;

typedef struct generation_report {
    const char *isa, *precision;
    int threads;
    uint64_t seed;
    const char *model_name, *text_name;
    const tokenizer *tokenizer; /* NULL: tokens have no text */
    const int32_t *prompt;
    size_t n_prompt;
    const generation_run *runs;
    size_t n_runs;
} generation_report;

/** One JSON object, schema kvq-eval-generate/1. Bytes of the text that are not UTF-8 become U+FFFD. */
EVAL_MUST_CHECK bool report_generation_json(FILE *f, const generation_report *r, eval_error *e);

#endif
