/* `kvq-eval tune`: a scheme that differs by layer, for a number of bytes. */
#ifndef KVQ_EVAL_CLI_TUNE_H
#define KVQ_EVAL_CLI_TUNE_H

#include <argp.h>

extern const struct argp_option tune_options_list[];

/** The words that the option of this key takes. */
const char *const *tune_words(int key);

/** Run the command (commands.h). */
int tune_main(const char *doc, int argc, char **argv);

#endif
