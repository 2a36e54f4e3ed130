/* The command line of kvq-eval without a command: every option, parsed and checked as far as that needs no
 * model. */
#ifndef KVQ_EVAL_CLI_OPTIONS_H
#define KVQ_EVAL_CLI_OPTIONS_H

#include "eval/common/error.h"
#include "eval/model/inputs.h"
#include "lib/kvq.h"

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OPTIONS_MAX_SCHEMES = 64 };

typedef struct options_limit {
    bool set;
    double value;
} options_limit;

typedef struct options {
    inputs_request in;
    kvq_scheme *schemes[OPTIONS_MAX_SCHEMES];
    size_t n_schemes; /* at least 1 */
    kvq_precision precision;
    bool append_only;
    bool bound_set;
    size_t bound;  /* every how many steps the certified bound is checked; 0: never */
    size_t greedy; /* tokens of greedy text to compare with fp32's; 0: none */
    int threads;   /* 0: as many as OpenMP gives */
    bool per_layer, markdown, quiet;
    const char *json, *csv, *logits, *per_token; /* files; NULL: not wanted; "-": standard output */
    bool confident;                              /* limits hold against the end of the 95 % interval */
    options_limit max_kld, max_attn_error, max_ppl_increase, min_ratio;
} options;

/** What can be given; ends with an all-zero row. */
extern const struct argp_option options_list[];

/** The words that the option of this key takes, ending with NULL; NULL for options that take others. */
const char *const *options_words(int key);

/**
 * Parse the command line; `doc` is what --help says first. --help, --version and wrong usage end the
 * process here, as argp does, the latter with STATUS_BAD_USAGE. Returns false for schemes that make no
 * sense; the message may have two more lines that show where. Strings point into argv.
 */
EVAL_MUST_CHECK bool options_parse(options *o, const char *doc, int argc, char **argv, eval_error *e);

#endif
