/* What is evaluated: the model, the text's tokens, and the windows they are cut into. */
#ifndef KVQ_EVAL_MODEL_INPUTS_H
#define KVQ_EVAL_MODEL_INPUTS_H

#include "eval/common/error.h"
#include "eval/common/progress.h"
#include "eval/model/model.h"
#include "eval/model/recording.h"
#include "eval/model/tokenizer.h"

#include <stddef.h>
#include <stdint.h>

/* What is asked for; the messages about it name the options of the command line. */
typedef struct inputs_request {
    const char *model; /* directory, GGUF file or random:...; NULL for the default */
    const char *text;  /* file, - for standard input; NULL for the default */
    size_t context;    /* 0: the model's */
    size_t tokens;     /* per window; 0: the context, but at most 1,024 */
    size_t windows;    /* 0: what the text gives, at most 4 */
    size_t prompt;
    bool prompt_set; /* only for generate, which has a default of its own */
    size_t generate; /* tokens to generate instead of windows; 0: none */
    uint64_t seed;
    bool seed_set;  /* by the user: without effect on a recording */
    bool no_bos;    /* windows do not begin with the token that the tokenizer's configuration puts first */
    const char *kv; /* a recording (recording.h) instead of model and text; NULL: none */
} inputs_request;

typedef struct inputs {
    model *model;         /* NULL for a recording */
    recording *recording; /* NULL for a model */
    tokenizer *tokenizer; /* NULL for random weights on random tokens */
    int32_t *ids;         /* [n_ids]: windows one after the other, or the prompt to generate after */
    size_t n_ids;
    int32_t bos_id;                       /* what each window begins with; -1: with the text */
    size_t n_windows, n_tokens, n_prompt; /* as evaluate.h means them; n_prompt also to generate */
    char model_name[256];                 /* last part of its or the recording's path, or random:... */
    char text_name[256];                  /* "" if a recording does not say */
} inputs;

/**
 * Load what is asked for. Defaults come from the data directory (inputs_data_dir). `line` says what is
 * being loaded.
 *
 * Random weights: without a text the tokens are drawn from the seed; with one, the default model's
 * tokenizer cuts it and ids are taken modulo the vocabulary. Errors name the file or option and what was
 * expected. On failure inputs_free still may be called.
 *
 * A recording has no tokens, and its windows are its sequences; tokens and windows take the first of them.
 */
EVAL_MUST_CHECK bool inputs_load(inputs *in, const inputs_request *r, progress *line, eval_error *e);

/** Load or make the model alone, without its tokenizer: only model and model_name of *in are set. */
EVAL_MUST_CHECK bool inputs_load_model(inputs *in, const char *name, uint64_t seed, progress *line,
                                       eval_error *e);

/** The tokenizer of a model (a directory or a GGUF file; NULL for the default), without its weights. */
EVAL_MUST_CHECK bool inputs_load_tokenizer(tokenizer **out, const char *model, eval_error *e);

/** Read a text (`path`, - for standard input, NULL for the default), check that it is UTF-8, and cut it into
 * tokens; the caller frees *ids. text_name has 256 bytes. */
EVAL_MUST_CHECK bool inputs_tokenize(const tokenizer *t, const char *path, int32_t **ids, size_t *n_ids,
                                     char *text_name, progress *line, eval_error *e);

/** What a user should know of how the model or recording was read, as a sentence; NULL if there is nothing to
 * say. */
const char *inputs_note(const inputs *in);

void inputs_free(inputs *in); /* an all-zero one is fine */

/**
 * Directory of the default model and text: $KVQ_DATA_DIR; else share/kvq beside the program's bin/, if it
 * is there; else the one the build was told. path has `size` bytes.
 */
void inputs_data_dir(char *path, size_t size);

#endif
