/* Options of model, text and windows (input_options.h). */
#define _GNU_SOURCE

#include "eval/cli/input_options.h"

#include "eval/common/arguments.h"
#include "lib/kvq.h"

error_t input_option_parse(int key, char *arg, const struct argp_state *state, inputs_request *in)
{
    const uint64_t many = KVQ_MAX_TOKENS;
    switch (key) {
    case INPUT_MODEL:
        in->model = argument_file(state, "model", arg);
        return 0;
    case INPUT_KV:
        in->kv = argument_file(state, "kv", arg);
        return 0;
    case INPUT_TEXT:
        in->text = argument_file(state, "text", arg);
        return 0;
    case INPUT_NO_BOS:
        in->no_bos = true;
        return 0;
    case INPUT_CONTEXT:
        in->context = argument_number(state, "context", arg, 2, many);
        return 0;
    case INPUT_TOKENS:
        in->tokens = argument_number(state, "tokens", arg, 2, many);
        return 0;
    case INPUT_WINDOWS:
        in->windows = argument_number(state, "windows", arg, 1, many);
        return 0;
    case INPUT_PROMPT:
        in->prompt = argument_number(state, "prompt", arg, 0, many);
        in->prompt_set = true;
        return 0;
    case INPUT_GENERATE:
        in->generate = argument_number(state, "generate", arg, 1, many);
        return 0;
    case INPUT_SEED:
        in->seed = argument_number(state, "seed", arg, 0, INT64_MAX);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

void input_options_check_recording(const struct argp_state *state, const inputs_request *in, bool given,
                                   const char *name)
{
    if (in->kv && given)
        argp_error(state, "--kv and --%s: a recording has no model to run and no text; take one of them",
                   name);
}

void input_options_check(const struct argp_state *state, const inputs_request *in)
{
    input_options_check_recording(state, in, in->model != NULL, "model");
    input_options_check_recording(state, in, in->text != NULL, "text");
    input_options_check_recording(state, in, in->context > 0, "context");
    input_options_check_recording(state, in, in->generate > 0, "generate");
}
