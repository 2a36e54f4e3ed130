/* `kvq-eval dump`: record a model's queries, keys and values into a file that --kv reads. */
#ifndef KVQ_EVAL_CLI_DUMP_H
#define KVQ_EVAL_CLI_DUMP_H

#include <argp.h>

extern const struct argp_option dump_options_list[];

/** The words that --dtype takes. */
const char *const *dump_words(int key);

/** Parse, run, write; gives the exit status. */
int dump_main(const char *doc, int argc, char **argv);

#endif
