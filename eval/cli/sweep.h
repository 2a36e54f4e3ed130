/* `kvq-eval sweep`: many schemes, measured cell by cell into a file from which it goes on. */
#ifndef KVQ_EVAL_CLI_SWEEP_H
#define KVQ_EVAL_CLI_SWEEP_H

#include <argp.h>

extern const struct argp_option sweep_options_list[];

/** The words that the option of this key takes. */
const char *const *sweep_words(int key);

/** Run the command (commands.h). */
int sweep_main(const char *doc, int argc, char **argv);

#endif
