/* `kvq-eval dump` (dump.h). */
#define _GNU_SOURCE

#include "eval/cli/dump.h"

#include "eval/cli/input_options.h"
#include "eval/common/arguments.h"
#include "eval/common/exit_status.h"
#include "eval/common/input_file.h"
#include "eval/common/output_file.h"
#include "eval/common/progress.h"
#include "eval/model/inputs.h"
#include "eval/model/record.h"
#include "eval/report/format.h"

#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

enum {
    KEY_THREADS = 0x400,
    KEY_OUT,
    KEY_DTYPE,
    KEY_QUIET,
};

const struct argp_option dump_options_list[] = {
    {NULL, 0, NULL, 0, "What is recorded; all as without a command:", 1},
    {"model", INPUT_KEY_MODEL, "PATH", 0, "The model", 1},
    {"text", INPUT_KEY_TEXT, "FILE", 0, "The text; - is standard input", 1},
    {"no-bos", INPUT_KEY_NO_BOS, NULL, 0, "Windows begin with the text, not with a token before it", 1},
    {"context", INPUT_KEY_CONTEXT, "N", 0, "Context length", 1},
    {"tokens", INPUT_KEY_TOKENS, "N", 0, "Tokens of each window", 1},
    {"windows", INPUT_KEY_WINDOWS, "N", 0, "Windows; each becomes a sequence of the recording", 1},
    {"seed", INPUT_KEY_SEED, "N", 0, "Seed of random: weights (default 1)", 1},

    {NULL, 0, NULL, 0, "How:", 2},
    {"out", KEY_OUT, "FILE", 0,
     "Where to; a name that ends in .safetensors, for q, k and v, or in .npy, for one array of keys and "
     "values "
     "as past_key_values",
     2},
    {"dtype", KEY_DTYPE, "TYPE", 0, "f32 (default), f16 or bf16", 2},
    {"threads", KEY_THREADS, "N", 0, "Threads (default: one per processor)", 2},
    {"quiet", KEY_QUIET, NULL, 0, "No progress on standard error, and no last line", 2},

    {NULL, 0, NULL, 0, "Other:", -1},
    {0},
};

static const char *const dtype_words[] = {"f32", "f16", "bf16", NULL};
static const tensor_type dtypes[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16};

const char *const *dump_words(int key)
{
    return key == KEY_DTYPE ? dtype_words : NULL;
}

typedef struct dump_options {
    inputs_request in;
    const char *out;
    tensor_type type;
    int threads;
    bool quiet;
} dump_options;

static tensor_type dtype_of(const struct argp_state *state, const char *text)
{
    (void)argument_word(state, "dtype", text, dtype_words); /* ends the program if it is none */
    size_t i = 0;
    while (dtype_words[i + 1] && strcmp(dtype_words[i], text) != 0)
        i++;
    return dtypes[i];
}

static void check_out(const struct argp_state *state, const dump_options *o)
{
    if (!o->out)
        argp_error(state, "--out FILE is missing: where should the recording go?");
    else if (!input_file_has_suffix(o->out, ".npy") && !input_file_has_suffix(o->out, ".safetensors"))
        argp_error(state, "--out: expected a name that ends in .safetensors or .npy, not '%s'", o->out);
    else if (input_file_has_suffix(o->out, ".npy") && o->type == TENSOR_BF16)
        argp_error(state, "--dtype bf16: .npy has no such type; take f32, f16 or a .safetensors file");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    dump_options *o = state->input;
    switch (key) {
    case KEY_THREADS:
        o->threads = (int)argument_number(state, "threads", arg, 1, 1024);
        return 0;
    case KEY_OUT:
        o->out = argument_file(state, "out", arg);
        return 0;
    case KEY_DTYPE:
        o->type = dtype_of(state, arg);
        return 0;
    case KEY_QUIET:
        o->quiet = true;
        return 0;
    case ARGP_KEY_END:
        check_out(state, o);
        return 0;
    default:
        return input_option(key, arg, state, &o->in);
    }
}

static void show_progress(void *ctx, double fraction)
{
    progress_update(ctx, "recording", fraction);
}

static void say_done(const dump_options *o, const record_config *c)
{
    const model_shape *s = &c->model->shape;
    char bytes[FORMAT_SIZE], tokens[FORMAT_SIZE];
    format_bytes(bytes, record_bytes(c));
    format_count(tokens, c->n_tokens);
    printf("%s: %s of %s, %zu layer%s, %zu sequence%s of %s tokens, ", o->out,
           c->npy ? "keys and values" : "queries, keys and values", c->model_name, s->n_layer,
           eval_s(s->n_layer), c->n_windows, eval_s(c->n_windows), tokens);
    if (!c->npy)
        printf("%zu query head%s, ", s->n_head, eval_s(s->n_head));
    printf("%zu KV head%s of %zu, %s: %s\n", s->n_kv_head, eval_s(s->n_kv_head), s->head_dim,
           tensor_type_of(c->type)->name, bytes);
}

static bool dump(const dump_options *o, const inputs *in, progress *line, eval_error *e)
{
    const record_config config = {.model = in->model,
                                  .ids = in->ids,
                                  .n_windows = in->n_windows,
                                  .n_tokens = in->n_tokens,
                                  .model_name = in->model_name,
                                  .text_name = in->text_name,
                                  .type = o->type,
                                  .npy = input_file_has_suffix(o->out, ".npy"),
                                  .progress = show_progress,
                                  .progress_ctx = line};
    output_file file;
    if (!output_file_open(&file, o->out, e))
        return false;
    progress_count(line, (double)(in->n_windows * in->model->shape.n_layer), "layers");
    if (!record_write(file.stream, o->out, &config, e)) {
        output_file_discard(&file);
        return false;
    }
    if (!output_file_commit(&file, e))
        return false;
    progress_end(line);
    if (!o->quiet)
        say_done(o, &config);
    return true;
}

int dump_main(const char *doc, int argc, char **argv)
{
    dump_options o = {.in = {.seed = 1}, .type = TENSOR_F32};
    eval_error e = {""};
    arguments_parse(dump_options_list, parse_option, doc, "", argc, argv, &o);
    if (o.threads > 0) {
        omp_set_num_threads(o.threads);
        openblas_set_num_threads(o.threads);
    }
    progress line;
    progress_start(&line, o.quiet);
    inputs in;
    const bool loaded = inputs_load(&in, &o.in, &line, &e);
    if (loaded && inputs_note(&in)) {
        progress_end(&line);
        fprintf(stderr, "kvq-eval: note: %s: %s\n", in.model_name, inputs_note(&in));
        progress_start(&line, o.quiet);
    }
    const bool good = loaded && dump(&o, &in, &line, &e);
    progress_end(&line);
    inputs_free(&in);
    if (!good)
        fprintf(stderr, "kvq-eval: %s\n", e.text);
    return good ? STATUS_GOOD : STATUS_BAD_INPUT;
}
