/* What the figures mean, in sentences. */
#ifndef KVQ_EVAL_REPORT_SENTENCES_H
#define KVQ_EVAL_REPORT_SENTENCES_H

#include "eval/measure/evaluate.h"

#include <stdio.h>

/** Two paragraphs about the first scheme that is not fp32; lines of at most `width` characters and 110. */
void sentences(FILE *f, const evaluation *ev, size_t width);

#endif
