/* `kvq-eval completion`: what a shell needs to complete the commands and options, made from their tables. */
#ifndef KVQ_EVAL_CLI_COMPLETION_H
#define KVQ_EVAL_CLI_COMPLETION_H

#include <argp.h>

extern const struct argp_option completion_options_list[];
extern const char *const completion_arguments[]; /* the shells it knows, ending with NULL */

/** Run the command (commands.h). */
int completion_main(const char *doc, int argc, char **argv);

#endif
