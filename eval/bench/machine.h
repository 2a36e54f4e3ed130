/* The machine as a benchmark sees it: features, caches, large pages, the clock, and what it can read. */
#ifndef KVQ_EVAL_BENCH_MACHINE_H
#define KVQ_EVAL_BENCH_MACHINE_H

#include "eval/common/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct bench_machine {
    char features[256];   /* instruction sets of the processor, beyond the baseline of its architecture */
    char huge_pages[32];  /* the kernel's setting: always, madvise, never, unknown */
    const char *blas;     /* OpenBLAS's name for its kernels */
    char blas_forced[64]; /* OPENBLAS_CORETYPE, which chooses others than OpenBLAS would; "" if not set */
    int n_cores;
    size_t l1d, l2, l3; /* bytes; l1d and l2 of one core */
    uint64_t memory;    /* bytes */
} bench_machine;

void bench_machine_read(bench_machine *m);

/** "2 cores, avx2 ...; L2 1 MB, ..." on one line. No names of hosts. */
void bench_machine_print(const bench_machine *m, char *text, size_t size);

/** Memory on 2 MB boundaries with huge pages asked for; NULL if there is none. Free with free(). */
void *bench_alloc(size_t n_bytes);

/* A sample of one quantity, such as microseconds per step, one value per round. */
typedef struct bench_sample {
    double *values;
    size_t n, capacity;
} bench_sample;

/** False if memory is short. */
EVAL_MUST_CHECK bool bench_sample_add(bench_sample *s, double value);
/** The value below which the fraction q of the sample lies (linear between values); NaN if it is empty. */
double bench_quantile(const bench_sample *s, double q);
void bench_sample_free(bench_sample *s);

/** How often the scheduler has taken a processor away from this thread, or for more threads than one from any
 * of the process. */
long bench_interruptions(int n_threads);

#define BENCH_MEDIAN(s) bench_quantile((s), 0.5)

/** Nearly normal numbers, mean 0, variance 1, that depend on seed and index only. */
void bench_fill_normal(float *x, size_t n, uint64_t seed);

/** |x - reference| / |reference|. */
double bench_relative_l2(const float *x, const float *reference, size_t n);

enum { BENCH_L2, BENCH_L3, BENCH_DRAM, BENCH_N_LEVELS };
extern const char *const bench_level_names[BENCH_N_LEVELS];

/* Read bandwidth of one level with one number of threads. */
typedef struct bench_bandwidth {
    int level, n_threads;
    size_t n_bytes;    /* read by all threads together, again and again */
    bench_sample gb_s; /* GB/s, 1e9 bytes */
} bench_bandwidth;

/** Measure every level for each number of threads: out is [n_threads][BENCH_N_LEVELS]. */
EVAL_MUST_CHECK bool bench_measure_bandwidth(const bench_machine *m, const int *threads, size_t n_threads,
                                             double seconds, bench_bandwidth *out, eval_error *e);

/** FLOP/s of OpenBLAS's product of float32 matrices of 1,024 by 1,024, with the threads that OpenMP has
 * now. */
EVAL_MUST_CHECK bool bench_measure_flops(double seconds, double *flops, eval_error *e);

/** The level in which n_bytes lie that are read again and again by n_threads. */
int bench_level_of(const bench_machine *m, double n_bytes, int n_threads);

#endif
