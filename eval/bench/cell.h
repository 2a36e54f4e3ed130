/* One cell of the attention benchmark: a shape, a number of tokens, and all who compete over them. */
#ifndef KVQ_EVAL_BENCH_CELL_H
#define KVQ_EVAL_BENCH_CELL_H

#include "eval/bench/blas.h"
#include "eval/bench/machine.h"
#include "eval/bench/options.h"
#include "eval/bench/report.h"
#include "eval/common/progress.h"
#include "lib/kvq.h"

/* A cache that competitors attend over: one scheme and instruction set, every layer filled alike. */
typedef struct bench_source {
    kvq_scheme *scheme; /* its own */
    const char *text;   /* of the scheme */
    const char *isa;
    kvq_cache *cache;   /* of one layer; its sequences are the layers */
    double bytes_read;  /* by one layer's attention: codes, metadata, residual, sinks */
    double bytes_total; /* of one layer's memory, slack and bookkeeping included */
    double fast_error;  /* of precision fast against exact, relative L2; NaN without packed values */
    kvq_attend_counters counters; /* of one layer's step with precision fast */
} bench_source;

/* Who runs in turns with the others. */
typedef struct bench_competitor {
    const bench_source *source; /* NULL: OpenBLAS */
    bool gemv;                  /* of OpenBLAS */
    kvq_precision precision;
    int n_threads;
    size_t n_walks; /* through all layers in one turn, so that it is worth waiting for */
    size_t n_steps; /* of one layer each in one sample, so that it is not too short to time */
    size_t n_rounds;
    bench_sample us;      /* microseconds per step of one layer */
    bench_sample spoiled; /* likewise, of steps that another program interrupted */
} bench_competitor;

enum { BENCH_MAX_SOURCES = BENCH_MAX_PAIRS + 2 };

/* The cell itself. */
typedef struct bench_cell {
    const bench_options *options;
    bench_shape shape;
    size_t n_tokens, n_layers, n_q;
    double warm_bytes;            /* competitors that read more find nothing of it in the caches again */
    size_t n_chunk;               /* tokens of random keys and values, repeated to fill the caches */
    float *k, *v;                 /* [n_chunk][Hkv][D] */
    float *q, *q_blas;            /* [n_q][H][D], and as bench_blas_attend wants them */
    float *teachers;              /* [..][H][D]: queries that caches have seen before */
    float *out, *other, *scratch; /* out has room for theirs, too */
    float scale;
    bench_blas *blas; /* [n_layers] */
    bench_source sources[BENCH_MAX_SOURCES];
    size_t n_sources, n_baselines; /* the first n_baselines are fp32 and fp16, or there are none */
    bench_competitor competitors[BENCH_MAX_COMPETITORS];
    size_t n_competitors;
} bench_cell;

/**
 * Make and fill everything and check that all compute the same. *skipped: no scheme takes the head dimension,
 * or one layer would not fit the memory allowed, and nothing can be run; the report says so, and what schemes
 * were left out otherwise. With table NULL there are OpenBLAS, fp32, fp16 and every scheme on every
 * instruction set of the options; otherwise every scheme with the kernels of that name (kvq_config.isa)
 * alone.
 */
EVAL_MUST_CHECK bool bench_cell_open(bench_cell *c, bench_report *r, const bench_options *o,
                                     bench_shape shape, size_t n_tokens, const char *table, bool *skipped,
                                     eval_error *e);

/** The arithmetic that a competitor's steps ran in, by the library's own account: "fast", "fast keys" (values
 * in float32), "exact" (31 bits), "float32" (throughout), "mixed" (some superblocks so), or "" for OpenBLAS.
 */
const char *bench_cell_precision(const bench_competitor *who);

/** What nanoseconds are given per: tokens times KV heads; with more queries than one, query heads times
 * queries. */
double bench_cell_units(const bench_cell *c);

/** Bring back into the caches what others displaced, if any of it would still be there; untimed. */
EVAL_MUST_CHECK bool bench_cell_warm(const bench_cell *c, bench_competitor *who, eval_error *e);

/** One step over one layer. */
EVAL_MUST_CHECK bool bench_cell_step(const bench_cell *c, const bench_competitor *who, size_t layer,
                                     eval_error *e);

/** One turn, who->n_walks walks through all layers; adds to us a sample for every who->n_steps steps, or to
 * spoiled if another program interrupted them. Single
 * steps rather than whole walks, so that another program that interrupts spoils few samples of many.
 * bench_cell_warm must have been before. */
EVAL_MUST_CHECK bool bench_cell_walk(const bench_cell *c, const bench_competitor *who, bench_sample *us,
                                     bench_sample *spoiled, eval_error *e);

/** Free the spoiled samples; where there are hardly others, they count all the same. */
EVAL_MUST_CHECK bool bench_cell_settle(bench_sample *us, bench_sample *spoiled, eval_error *e);

/** Is another round of samples to be taken, after n_rounds since `start` (progress_now)? */
bool bench_cell_goes_on(const bench_options *o, size_t n_rounds, double start);

/** Take the samples of all competitors. */
EVAL_MUST_CHECK bool bench_cell_run(bench_cell *c, progress *p, double fraction, eval_error *e);
void bench_cell_free(bench_cell *c);

#endif
