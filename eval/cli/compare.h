/* `kvq-eval compare`: two schemes, which is better, by how much, how sure. */
#ifndef KVQ_EVAL_CLI_COMPARE_H
#define KVQ_EVAL_CLI_COMPARE_H

#include <argp.h>

extern const struct argp_option compare_options_list[];

/** The words that the option of this key takes. */
const char *const *compare_words(int key);

/** Run the command (commands.h). */
int compare_main(const char *doc, int argc, char **argv);

#endif
