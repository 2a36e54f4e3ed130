/* The command line of kvq-eval: every option, parsed and checked as far as that needs no model. */
#ifndef KVQ_EVAL_CLI_OPTIONS_H
#define KVQ_EVAL_CLI_OPTIONS_H

#include "eval/common/error.h"
#include "lib/kvq.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    OPTIONS_MAX_SCHEMES = 64,
    /* Exit statuses; eval/kvq-eval.1 lists them. */
    STATUS_GOOD = 0,
    STATUS_BAD_INPUT = 1,
    STATUS_BAD_USAGE = 2,
    STATUS_LIMIT_VIOLATED = 3,
};

typedef struct options_limit {
    bool set;
    double value;
} options_limit;

typedef struct options {
    const char *model; /* directory or random:...; NULL for the default */
    const char *text;  /* file; NULL for the default */
    kvq_scheme *schemes[OPTIONS_MAX_SCHEMES];
    size_t n_schemes; /* at least 1 */
    size_t context;   /* 0: the model's */
    size_t tokens;    /* per window; 0: the context, but at most 1,024 */
    size_t windows;   /* 0: what the text gives, at most 4 */
    bool prompt_set;
    size_t prompt;
    size_t generate;
    kvq_precision precision;
    bool bound_set;
    size_t bound; /* every how many steps the certified bound is checked; 0: never */
    int threads;  /* 0: as many as OpenMP gives */
    uint64_t seed;
    bool info, per_layer, markdown, quiet;
    const char *json, *csv, *logits; /* files; NULL: not wanted; "-": standard output */
    options_limit max_kld, max_attn_error, max_ppl_increase, min_ratio;
} options;

/**
 * Parse the command line. --help, --version and wrong usage end the process here, as argp does, the latter
 * with STATUS_BAD_USAGE. Returns false for schemes that make no sense; the message may have two more lines
 * that show where. Strings point into argv.
 */
EVAL_MUST_CHECK bool options_parse(options *o, int argc, char **argv, eval_error *e);

struct argp_state;

/** The value of the option --name as a whole number from min to max; ends the process with argp's error
 * otherwise. */
uint64_t options_number(const struct argp_state *state, const char *name, const char *text, uint64_t min,
                        uint64_t max);

#endif
