/* How long schemes write what fp32 writes, for people; JSON has it in its runs. */
#ifndef KVQ_EVAL_REPORT_GREEDY_H
#define KVQ_EVAL_REPORT_GREEDY_H

#include "eval/report/report.h"

#include <jansson.h>

/** A sentence that says what is counted, and a row per scheme. */
void greedy_table(FILE *f, const divergence *d, const evaluation *ev, const report_style *style);

/** Of one run: n, n_prompt, first_difference per window, median; null where nothing differs. */
json_t *greedy_json(const divergence *d, size_t run);

#endif
