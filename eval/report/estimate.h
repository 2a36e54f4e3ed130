/* An estimate (results/statistics.h) as JSON, the same in every report. */
#ifndef KVQ_EVAL_REPORT_ESTIMATE_H
#define KVQ_EVAL_REPORT_ESTIMATE_H

#include "eval/results/statistics.h"

#include <jansson.h>

/** A number; null for what is none or infinite. */
json_t *real_json(double x);

/** {"value": ..., "se": ..., "low": ..., "high": ...} */
json_t *estimate_json(const estimate *e);

#endif
