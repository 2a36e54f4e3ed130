/* One cell of the attention benchmark: a shape, a number of tokens, and all who compete over them. */
#ifndef KVQ_EVAL_BENCH_CELL_H
#define KVQ_EVAL_BENCH_CELL_H

#include "eval/bench/blas.h"
#include "eval/bench/machine.h"
#include "eval/bench/options.h"
#include "eval/common/progress.h"
#include "lib/kvq.h"

/* A cache that competitors attend over: one scheme and instruction set, every layer filled alike. */
typedef struct bench_source {
    kvq_scheme *scheme; /* its own */
    const char *text;   /* of the scheme */
    const char *isa;
    kvq_cache *cache;
    double bytes_read;  /* by one layer's attention: codes, metadata, residual, sinks */
    double bytes_total; /* of one layer's memory, slack and bookkeeping included */
    double fast_error;  /* of precision fast against exact, relative L2; NaN without packed values */
    kvq_attend_counters counters; /* of one step of one layer with precision fast */
} bench_source;

/* Who runs in turns with the others. */
typedef struct bench_competitor {
    const bench_source *source; /* NULL: OpenBLAS */
    bool gemv;                  /* of OpenBLAS */
    kvq_precision precision;
    int n_threads;
    size_t n_walks;  /* through all layers in one sample, so that a sample is not too short to time */
    bench_sample us; /* microseconds per step of one layer */
} bench_competitor;

enum { BENCH_MAX_SOURCES = BENCH_MAX_LIST * 4 + 2, BENCH_MAX_COMPETITORS = 256 };

/* The cell itself. */
typedef struct bench_cell {
    const bench_options *options;
    bench_shape shape;
    size_t n_tokens, n_layers;
    double warm_bytes;      /* competitors that read more find nothing of it in the caches again */
    size_t n_chunk;         /* tokens of random keys and values, repeated to fill the caches */
    float *k, *v;           /* [n_chunk][Hkv][D] */
    float *q, *out, *other; /* [H][D] */
    float scale;
    bench_blas *blas; /* [n_layers] */
    bench_source sources[BENCH_MAX_SOURCES];
    size_t n_sources; /* 0 is fp32, 1 is fp16 */
    bench_competitor competitors[BENCH_MAX_COMPETITORS];
    size_t n_competitors;
} bench_cell;

/** Fill everything and take the samples. *skipped: one layer would not fit the memory allowed. */
EVAL_MUST_CHECK bool bench_cell_run(bench_cell *c, const bench_machine *m, const bench_options *o,
                                    bench_shape shape, size_t n_tokens, bool *skipped, progress *p,
                                    double fraction, eval_error *e);
void bench_cell_free(bench_cell *c);

#endif
