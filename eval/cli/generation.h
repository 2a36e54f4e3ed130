/* --generate: what fp32 and each scheme write, shown as it is written. */
#ifndef KVQ_EVAL_CLI_GENERATION_H
#define KVQ_EVAL_CLI_GENERATION_H

#include "eval/cli/options.h"
#include "eval/common/error.h"
#include "eval/model/inputs.h"

/** Generate, print or write --json. The text comes before a file that cannot be written fails. */
EVAL_MUST_CHECK bool run_generation(const inputs *in, const options *o, const char *isa, eval_error *e);

#endif
