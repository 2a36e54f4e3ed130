/* `kvq-eval info`: what this build is and where it runs. */
#ifndef KVQ_EVAL_CLI_INFO_H
#define KVQ_EVAL_CLI_INFO_H

#include <argp.h>

extern const struct argp_option info_options_list[];

/** Run the command (commands.h). */
int info_main(const char *doc, int argc, char **argv);

#endif
