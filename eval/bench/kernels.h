/* `kvq-eval bench --kernels`: every kernel of every instruction set, alone, against portable C. */
#ifndef KVQ_EVAL_BENCH_KERNELS_H
#define KVQ_EVAL_BENCH_KERNELS_H

#include "eval/bench/options.h"
#include "eval/bench/report.h"
#include "eval/common/progress.h"

/** Measure and add the table "kernels", headline and notes to the report. */
EVAL_MUST_CHECK bool bench_kernels(const bench_options *o, bench_report *r, progress *p, eval_error *e);

#endif
