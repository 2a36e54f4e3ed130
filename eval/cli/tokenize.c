/* `kvq-eval tokenize` (tokenize.h). */
#define _GNU_SOURCE

#include "eval/cli/tokenize.h"

#include "eval/cli/input_options.h"
#include "eval/common/arguments.h"
#include "eval/common/exit_status.h"
#include "eval/model/inputs.h"

#include <stdio.h>
#include <stdlib.h>

enum { KEY_PIECES = 0x400 };

const struct argp_option tokenize_options_list[] = {
    {"model", INPUT_KEY_MODEL, "PATH", 0,
     "Hugging Face directory or GGUF file (default: the model that comes with kvq-eval); its weights are not "
     "read",
     0},
    {"text", INPUT_KEY_TEXT, "FILE", 0, "UTF-8 text (default: standard input)", 0},
    {"no-bos", INPUT_KEY_NO_BOS, NULL, 0, "Leave out the token that the model's configuration puts first", 0},
    {"pieces", KEY_PIECES, NULL, 0, "After each id a tab and its bytes, with backslash escapes", 0},
    {0}};

typedef struct request {
    inputs_request in;
    bool pieces;
} request;

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case KEY_PIECES:
        r->pieces = true;
        return 0;
    default:
        return input_option(key, arg, state, &r->in);
    }
}

/* One line: what is not printable ASCII, and the backslash, as \n, \t or \xHH. */
static void print_piece(const tokenizer *t, int32_t id)
{
    size_t n = 0;
    const char *bytes = tokenizer_token(t, id, &n);
    putchar('\t');
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)bytes[i];
        if (c == '\\')
            fputs("\\\\", stdout);
        else if (c == '\n')
            fputs("\\n", stdout);
        else if (c == '\t')
            fputs("\\t", stdout);
        else if (c < 0x20 || c > 0x7e)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
}

static void print_id(const tokenizer *t, int32_t id, bool pieces)
{
    printf("%d", (int)id);
    if (pieces)
        print_piece(t, id);
    putchar('\n');
}

int tokenize_main(const char *doc, int argc, char **argv)
{
    request r = {.in = {.text = "-"}};
    arguments_parse(tokenize_options_list, parse_option, doc, "", argc, argv, &r);
    eval_error e = {""};
    tokenizer *t = NULL;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    char text_name[256];
    progress line;
    progress_start(&line, true);
    const bool good = inputs_load_tokenizer(&t, r.in.model, &e) &&
                      inputs_tokenize(t, r.in.text, &ids, &n_ids, text_name, &line, &e);
    if (!good)
        fprintf(stderr, "kvq-eval: %s\n", e.text);
    if (good && tokenizer_note(t))
        fprintf(stderr, "kvq-eval: note: %s: %s\n", r.in.model, tokenizer_note(t));
    if (good && !r.in.no_bos && tokenizer_bos_id(t) >= 0)
        print_id(t, tokenizer_bos_id(t), r.pieces);
    for (size_t i = 0; i < n_ids; i++)
        print_id(t, ids[i], r.pieces);
    free(ids);
    tokenizer_free(t);
    return good ? STATUS_GOOD : STATUS_BAD_INPUT;
}
