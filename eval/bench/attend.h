/* `kvq-eval bench`: attention and encoding through the library, against OpenBLAS, fp32 and fp16 caches. */
#ifndef KVQ_EVAL_BENCH_ATTEND_H
#define KVQ_EVAL_BENCH_ATTEND_H

#include "eval/bench/blas.h"
#include "eval/bench/options.h"
#include "eval/bench/report.h"
#include "eval/common/progress.h"

/** Measure what the options ask for and add its tables, headline and notes to the report. */
EVAL_MUST_CHECK bool bench_attend(const bench_options *o, bench_report *r, progress *p, eval_error *e);

/* ---- parts of it ---- */

/* A cache that competitors attend over: one scheme and instruction set, every layer filled alike. */
typedef struct bench_source {
    kvq_scheme *scheme; /* its own */
    const char *text;   /* of the scheme */
    const char *isa;
    kvq_cache *cache;
    double bytes_read;  /* by one layer's attention: codes, metadata, window, sinks */
    double bytes_total; /* of one layer's memory, slack and bookkeeping included */
    double fast_error;  /* of precision fast against exact, relative L2; NaN without packed values */
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

/* One cell of the grid: a shape and a number of tokens. */
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

/** Tables "headline" and "attend", to which cells are then added. */
void bench_attend_tables(bench_report *r);
void bench_attend_rows(bench_report *r, const bench_cell *c, const bench_bandwidth *b, size_t n_bandwidth);
/** The sentences, and the notes on how it was measured; after the last cell. */
void bench_attend_sentences(bench_report *r, const bench_options *o);

/** "64 x 12", "128 x 8, 32 q": head dimension, KV heads, query heads if they are others. */
void bench_shape_print(bench_shape s, char *text, size_t size);

/** Encoding speed of one shape: rows of the table "encode", which the first call makes. */
EVAL_MUST_CHECK bool bench_encode(const bench_options *o, bench_shape shape, bench_report *r, eval_error *e);

#endif
