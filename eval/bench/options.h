/* The command line of `kvq-eval bench`, parsed and checked. */
#ifndef KVQ_EVAL_BENCH_OPTIONS_H
#define KVQ_EVAL_BENCH_OPTIONS_H

#include "eval/common/error.h"
#include "lib/kvq.h"

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BENCH_MAX_LIST = 16,                  /* of values of one repeatable option */
    BENCH_MAX_PAIRS = BENCH_MAX_LIST * 4, /* of a scheme and an instruction set, in one cell */
    BENCH_MAX_COMPETITORS = 256,          /* pairs and baselines, each with a number of threads */
};

typedef enum bench_mode {
    BENCH_ATTEND,  /* attention and encoding through the library, against baselines */
    BENCH_PHASES,  /* where the time of one step of one layer goes */
    BENCH_PROMPTS, /* whole prompts, each in one step of one layer */
    BENCH_KERNELS, /* each kernel alone, against portable */
    BENCH_DECODE,  /* GPT-2 generation, with and without a cache */
} bench_mode;

typedef struct bench_shape {
    size_t head_dim, n_heads, n_kv_heads;
} bench_shape;

/* Lists are never empty after bench_options_parse: what is not given has its default. */
typedef struct bench_options {
    bench_mode mode;
    bool quick, markdown, quiet;
    bench_shape shapes[BENCH_MAX_LIST];
    size_t n_shapes;
    size_t tokens[BENCH_MAX_LIST];
    size_t n_tokens;
    size_t n_queries; /* the last tokens, which attend together */
    kvq_scheme *schemes[BENCH_MAX_LIST];
    size_t n_schemes;
    bool schemes_given;
    const char *isas[BENCH_MAX_LIST];
    size_t n_isas;
    bool isas_given; /* by --isa or KVQ_ISA: then no length is too long for any of them */
    int threads[BENCH_MAX_LIST];
    size_t n_threads;
    const char *models[BENCH_MAX_LIST];
    size_t n_models;
    double seconds;         /* spent on measuring one cell of the grid, one kernel */
    double memory;          /* bytes that all caches of a cell may take together */
    uint64_t seed;          /* of keys, values and queries, of random models and of tokens */
    const char *json, *csv; /* files; NULL: not wanted; "-": standard output */
} bench_options;

/** Is this scheme measured on this instruction set? By default all on the best one, the first two on
 * others. */
bool bench_wants(const bench_options *o, size_t isa, size_t scheme);

/** Does every codec of a scheme take this head dimension? */
bool bench_takes(const kvq_scheme *scheme, size_t head_dim);

/** Why one that does not is left out, a format for the head dimension. */
#define BENCH_DOES_NOT_TAKE "does not take a head dimension of %zu"

/** "64 x 12", "128 x 8, 32 q": head dimension, KV heads, query heads if they are others. */
void bench_shape_print(bench_shape s, char *text, size_t size);

/** What can be given; ends with an all-zero row. */
extern const struct argp_option bench_options_list[];

/**
 * Parse the command line; argv[0] is printed as the program's name, and `doc` is what --help says first.
 * --help and wrong usage end the process here, as argp does, the latter with STATUS_BAD_USAGE. Returns
 * false for what is well-formed but cannot be: a scheme that makes no sense, an instruction set that does
 * not run here, more combinations than one run can hold. Strings point into argv.
 */
EVAL_MUST_CHECK bool bench_options_parse(bench_options *o, const char *doc, int argc, char **argv,
                                         eval_error *e);

#endif
