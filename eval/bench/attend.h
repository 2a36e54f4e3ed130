/* `kvq-eval bench`: attention and encoding through the library, against OpenBLAS, fp32 and fp16 caches. */
#ifndef KVQ_EVAL_BENCH_ATTEND_H
#define KVQ_EVAL_BENCH_ATTEND_H

#include "eval/bench/options.h"
#include "eval/bench/report.h"
#include "eval/common/progress.h"

/** Measure what the options ask for and add its tables, headline and notes to the report. */
EVAL_MUST_CHECK bool bench_attend(const bench_options *o, bench_report *r, progress *p, eval_error *e);

#endif
