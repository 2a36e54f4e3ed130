/* Two schemes against each other on the same tokens: which is better, by how much, how sure. */
#ifndef KVQ_EVAL_REPORT_COMPARE_H
#define KVQ_EVAL_REPORT_COMPARE_H

#include "eval/results/statistics.h"

#include <stdio.h>

/** A table and a verdict of cells [n] of the same windows, for people. Seed: of the bootstrap. */
void report_compare(FILE *f, const experiment *x, const cell *const *a, const cell *const *b, size_t n,
                    uint64_t seed);

/** The same as one line of JSON, schema kvq-eval-compare/1. False without memory. */
bool report_compare_json(FILE *f, const experiment *x, const cell *const *a, const cell *const *b, size_t n,
                         uint64_t seed);

#endif
