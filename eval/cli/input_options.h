/* The options that say what is decoded, which several commands take and all understand alike. */
#ifndef KVQ_EVAL_CLI_INPUT_OPTIONS_H
#define KVQ_EVAL_CLI_INPUT_OPTIONS_H

#include "eval/model/inputs.h"

#include <argp.h>

/* Their keys; those of a command's own options begin elsewhere. */
enum {
    INPUT_KEY_MODEL = 0x800,
    INPUT_KEY_TEXT,
    INPUT_KEY_NO_BOS,
    INPUT_KEY_CONTEXT,
    INPUT_KEY_TOKENS,
    INPUT_KEY_WINDOWS,
    INPUT_KEY_SEED,
};

/** Take the option of this key; ARGP_ERR_UNKNOWN if it is none of them. Strings point into argv. */
error_t input_option(int key, char *arg, const struct argp_state *state, inputs_request *in);

#endif
