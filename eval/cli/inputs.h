/* What is evaluated: the model, the text's tokens, and the windows they are cut into. */
#ifndef KVQ_EVAL_CLI_INPUTS_H
#define KVQ_EVAL_CLI_INPUTS_H

#include "eval/cli/options.h"
#include "eval/common/error.h"
#include "eval/model/gpt2_model.h"
#include "eval/model/tokenizer.h"

#include <stddef.h>
#include <stdint.h>

typedef struct inputs {
    gpt2_model *model;
    tokenizer *tokenizer; /* NULL for random weights on random tokens */
    int32_t *ids;         /* [n_ids] */
    size_t n_ids;
    size_t n_windows, n_tokens, n_prompt; /* as evaluate.h means them; n_prompt also for --generate */
    char model_name[256];                 /* last part of its path, or random:... */
    char text_name[256];
} inputs;

/**
 * Load what the options name. Defaults come from the data directory (inputs_data_dir).
 *
 * Random weights: without --text the tokens are drawn from the seed; with it, the default model's tokenizer
 * cuts the text and ids are taken modulo the vocabulary. Errors name the file or option and what was
 * expected. On failure inputs_free still may be called.
 */
EVAL_MUST_CHECK bool inputs_load(inputs *in, const options *o, eval_error *e);

void inputs_free(inputs *in); /* an all-zero one is fine */

/**
 * Directory of the default model and text: $KVQ_DATA_DIR; else share/kvq beside the program's bin/, if it is
 * there; else the one the build was told. path has `size` bytes.
 */
void inputs_data_dir(char *path, size_t size);

#endif
