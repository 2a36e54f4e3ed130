/* `kvq-eval bench --prompts`: a whole prompt in one call of kvq_cache_step. */
#ifndef KVQ_EVAL_BENCH_PROMPT_H
#define KVQ_EVAL_BENCH_PROMPT_H

#include "eval/bench/options.h"
#include "eval/bench/report.h"
#include "eval/common/progress.h"

/** Measure what the options ask for and add its table and notes to the report. */
EVAL_MUST_CHECK bool bench_prompt(const bench_options *o, bench_report *r, progress *p, eval_error *e);

#endif
