/* The options that say what is run on: model, text and windows, the same for every command that has them. Each command
 * has rows of its own for those it takes, with these keys. */
#ifndef KVQ_EVAL_CLI_INPUT_OPTIONS_H
#define KVQ_EVAL_CLI_INPUT_OPTIONS_H

#include "eval/model/inputs.h"

#include <argp.h>

enum {
    INPUT_MODEL = 0x800,
    INPUT_KV,
    INPUT_TEXT,
    INPUT_NO_BOS,
    INPUT_CONTEXT,
    INPUT_TOKENS,
    INPUT_WINDOWS,
    INPUT_PROMPT,
    INPUT_GENERATE,
    INPUT_SEED,
};

/** Take an option with one of these keys; ARGP_ERR_UNKNOWN for all others. */
error_t input_option_parse(int key, char *arg, const struct argp_state *state, inputs_request *in);

/** A recording is instead of a model and its text: what does not go with --kv ends the process. */
void input_options_check(const struct argp_state *state, const inputs_request *in);

/** The same for another option. */
void input_options_check_recording(const struct argp_state *state, const inputs_request *in, bool given,
                                   const char *name);

#endif
