/* What tuning found, for people and for programs. */
#ifndef KVQ_EVAL_CLI_TUNE_REPORT_H
#define KVQ_EVAL_CLI_TUNE_REPORT_H

#include "eval/tune/tune.h"

#include <stdio.h>

void tune_report_people(FILE *f, const tune_config *c, const tune_result *r);

/** One JSON object, schema kvq-eval-tune/1; "-" is standard output. */
EVAL_MUST_CHECK bool tune_report_json(const char *path, const tune_config *c, const tune_result *r,
                                      eval_error *e);

#endif
