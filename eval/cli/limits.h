/* The limits of --max-kld and its like: does a run keep them? */
#ifndef KVQ_EVAL_CLI_LIMITS_H
#define KVQ_EVAL_CLI_LIMITS_H

#include "eval/cli/options.h"
#include "eval/measure/evaluate.h"

#include <stdio.h>

/**
 * Print one line per limit that a scheme breaks and return how many there are.
 *
 * Every scheme that was asked for is checked; fp32 only against the limits of errors, because it saves
 * nothing. A figure that is not a number breaks its limit.
 */
size_t limits_check(FILE *f, const options *o, const evaluation *ev);

#endif
