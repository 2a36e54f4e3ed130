/* `kvq-eval merge`: results files of several machines made one. */
#ifndef KVQ_EVAL_CLI_MERGE_H
#define KVQ_EVAL_CLI_MERGE_H

#include <argp.h>

extern const struct argp_option merge_options_list[];

/** Run the command (commands.h). */
int merge_main(const char *doc, int argc, char **argv);

#endif
