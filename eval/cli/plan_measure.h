/* What `kvq-eval plan` measures: this machine, and a decode step to lay beside its prediction. */
#ifndef KVQ_EVAL_CLI_PLAN_MEASURE_H
#define KVQ_EVAL_CLI_PLAN_MEASURE_H

#include "eval/common/error.h"
#include "eval/common/progress.h"
#include "eval/plan/plan.h"

/* This machine as bench measures it. */
typedef struct this_machine {
    plan_machine machine; /* with the bandwidth of its memory */
    double level_gb_s[3]; /* of L2, L3 and memory */
} this_machine;

/** Memory, bandwidth of all threads, and OpenBLAS's float32 products: two seconds. */
EVAL_MUST_CHECK bool plan_measure_machine(this_machine *m, progress *line, eval_error *e);

/**
 * Run decode steps of one sequence with random weights of the request's shape (up to 20 seconds, `bench
 * --decode
 * --quick`), and predict them with the bandwidth of the level from which they read. Errors: a shape that
 * random: does not know, too little memory.
 */
EVAL_MUST_CHECK bool plan_measure_steps(const plan_request *r, const this_machine *m, plan_measured *out,
                                        progress *line, eval_error *e);

#endif
