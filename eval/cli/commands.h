/* The commands of kvq-eval: one table, from which come dispatch, --help, messages and completion. */
#ifndef KVQ_EVAL_CLI_COMMANDS_H
#define KVQ_EVAL_CLI_COMMANDS_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct command {
    const char *name; /* "": what runs without a command */
    const char *doc;  /* one line */
    /* Runs it; argv[0] is its full name for messages, doc what its --help says first. Gives the exit
     * status. */
    int (*run)(const char *doc, int argc, char **argv);
    const struct argp_option *options;       /* ends with an all-zero row */
    const char *const *(*words_of)(int key); /* what the option of this key takes; NULL: nothing is known */
    const char *const *arguments;            /* the words it takes, ending with NULL; NULL: options only */
    bool files;                              /* it takes names of files */
} command;

/** Command i; NULL behind the last. The first is the one without a name. */
const command *commands_at(size_t i);

/** Find the command, check that its options and words exist, run it. Gives the exit status. */
int commands_main(int argc, char **argv);

#endif
