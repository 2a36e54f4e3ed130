/* `kvq-eval bench`: how fast the library encodes. */
#ifndef KVQ_EVAL_BENCH_ENCODE_H
#define KVQ_EVAL_BENCH_ENCODE_H

#include "eval/bench/options.h"
#include "eval/bench/report.h"

/** Encoding speed of one shape: rows of the table "encode", which the first call makes. */
EVAL_MUST_CHECK bool bench_encode(const bench_options *o, bench_shape shape, bench_report *r, eval_error *e);

#endif
