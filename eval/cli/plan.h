/* `kvq-eval plan`: inference arithmetic before anything is run. */
#ifndef KVQ_EVAL_CLI_PLAN_H
#define KVQ_EVAL_CLI_PLAN_H

#include <argp.h>

extern const struct argp_option plan_options_list[];
const char *const *plan_words(int key);
int plan_main(const char *doc, int argc, char **argv);

#endif
