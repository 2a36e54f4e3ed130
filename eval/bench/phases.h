/* `kvq-eval bench --phases`: where the time of one step of one layer goes. */
#ifndef KVQ_EVAL_BENCH_PHASES_H
#define KVQ_EVAL_BENCH_PHASES_H

#include "eval/bench/options.h"
#include "eval/bench/report.h"
#include "eval/common/progress.h"

/** Measure and add the table "phases", headline and notes to the report. */
EVAL_MUST_CHECK bool bench_phases(const bench_options *o, bench_report *r, progress *p, eval_error *e);

#endif
