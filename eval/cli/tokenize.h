/* `kvq-eval tokenize`: a text's tokens as a model sees them. */
#ifndef KVQ_EVAL_CLI_TOKENIZE_H
#define KVQ_EVAL_CLI_TOKENIZE_H

#include <argp.h>

extern const struct argp_option tokenize_options_list[];

int tokenize_main(const char *doc, int argc, char **argv);

#endif
