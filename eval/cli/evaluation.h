/* kvq-eval without a command: measure schemes, or with --generate let them write. */
#ifndef KVQ_EVAL_CLI_EVALUATION_H
#define KVQ_EVAL_CLI_EVALUATION_H

/** Run the command (commands.h). */
int evaluation_main(const char *doc, int argc, char **argv);

#endif
