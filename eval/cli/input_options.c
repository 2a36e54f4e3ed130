/* The options that say what is decoded (input_options.h). */
#define _GNU_SOURCE

#include "eval/cli/input_options.h"

#include "eval/common/arguments.h"
#include "lib/kvq.h"

error_t input_option(int key, char *arg, const struct argp_state *state, inputs_request *in)
{
    const uint64_t many = KVQ_MAX_TOKENS;
    switch (key) {
    case INPUT_KEY_MODEL:
        in->model = argument_file(state, "model", arg);
        return 0;
    case INPUT_KEY_TEXT:
        in->text = argument_file(state, "text", arg);
        return 0;
    case INPUT_KEY_NO_BOS:
        in->no_bos = true;
        return 0;
    case INPUT_KEY_CONTEXT:
        in->context = argument_number(state, "context", arg, 2, many);
        return 0;
    case INPUT_KEY_TOKENS:
        in->tokens = argument_number(state, "tokens", arg, 2, many);
        return 0;
    case INPUT_KEY_WINDOWS:
        in->windows = argument_number(state, "windows", arg, 1, many);
        return 0;
    case INPUT_KEY_SEED:
        in->seed = argument_number(state, "seed", arg, 0, INT64_MAX);
        in->seed_set = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}
