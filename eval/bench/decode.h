/* `kvq-eval bench --decode`: tokens per second of GPT-2 generation without a cache and with each kind of
 * one. */
#ifndef KVQ_EVAL_BENCH_DECODE_H
#define KVQ_EVAL_BENCH_DECODE_H

#include "eval/bench/options.h"
#include "eval/bench/report.h"
#include "eval/common/progress.h"
#include "eval/model/pass_arrays.h"

enum {
    DECODE_PROMPT = 16, /* tokens before the first one generated */
    DECODE_MAX_OUTPUT = 1000,
    DECODE_MAX_CACHES = BENCH_MAX_LIST + 3,
    DECODE_MAX_POINTS = 8,
};

/* One way to generate. Step i is the one that gives output token i; token 0 comes from the prompt. */
typedef struct decode_way {
    char name[BENCH_TEXT_SIZE]; /* "no cache" or a scheme */
    bool has_cache;
    kvq_cache *cache;
    bench_sample first; /* seconds to the first token */
    double *step;       /* [n_output] seconds; of no cache measured at the points, else interpolated */
    double *attention;  /* [n_output] the part of it spent on append and attention */
    double bytes;       /* of the cache at the end */
} decode_way;

typedef struct decode_run {
    char model_name[256];
    const model *model;
    const char *isa;
    int n_threads;
    size_t n_output;
    double seconds;                   /* when they are over, the last point reached becomes the end */
    size_t points[DECODE_MAX_POINTS]; /* output lengths reported, rising; the last is n_output */
    size_t n_points;
    int32_t *ids; /* [DECODE_PROMPT + n_output], random: what is fed is not what comes out */
    pass_arrays a;
    decode_way ways[DECODE_MAX_CACHES]; /* 0: no cache, 1: fp32, 2: fp16, then the schemes */
    size_t n_ways;
} decode_run;

/** Measure every model of the options and add tables, headline and notes to the report. */
EVAL_MUST_CHECK bool bench_decode(const bench_options *o, bench_report *r, progress *p, eval_error *e);

/** Rows and sentences of one model, from a finished run. */
void bench_decode_rows(bench_report *r, const decode_run *d);
void bench_decode_table(bench_report *r);

#endif
