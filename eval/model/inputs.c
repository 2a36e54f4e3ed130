/* Model, text and windows (inputs.h). */
#define _XOPEN_SOURCE 700

#include "eval/model/inputs.h"

#include "eval/common/input_file.h"
#include "eval/common/splitmix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef KVQ_DATA_DIR
#define KVQ_DATA_DIR "data"
#endif

enum {
    DEFAULT_WINDOWS = 4,
    DEFAULT_TOKENS = 1024,
    DEFAULT_GENERATE_PROMPT = 32,
    MIN_COUNTED = 2, /* steps of a window after the prompt: perplexity needs one with a token after it */
};

enum { TEXT_NAME_SIZE = sizeof(((inputs *)0)->text_name) };

#define DEFAULT_MODEL "gpt2-6m"
#define DEFAULT_TEXT  "sample.txt"

void inputs_data_dir(char *path, size_t size)
{
    const char *env = getenv("KVQ_DATA_DIR");
    if (env && env[0] != '\0') {
        snprintf(path, size, "%s", env);
        return;
    }
    char program[2048];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n > 0) {
        program[n] = '\0';
        char *slash = strrchr(program, '/');
        if (slash)
            *slash = '\0';
        struct stat info;
        snprintf(path, size, "%s/../share/kvq", program);
        if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
            return;
    }
    snprintf(path, size, "%s", KVQ_DATA_DIR);
}

static bool join(char *path, size_t size, const char *directory, const char *name, eval_error *e)
{
    const int n = snprintf(path, size, "%s/%s", directory, name);
    return (n >= 0 && (size_t)n < size) || eval_fail(e, "%s: path too long", directory);
}

/* The last part of a path, for reports: they should not tell where on a machine things lie. */
static void last_part(char *name, size_t size, const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    snprintf(name, size, "%.*s", (int)(end - begin), path + begin);
    char *resolved = NULL;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        resolved = realpath(path, NULL);
        const char *slash = resolved ? strrchr(resolved, '/') : NULL;
        snprintf(name, size, "%s", slash && slash[1] != '\0' ? slash + 1 : path);
    }
    free(resolved);
    /* Names go into JSON, which must be UTF-8, and to terminals. */
    const size_t good = utf8_valid_prefix(name, strlen(name));
    for (char *c = name; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f || c >= name + good)
            *c = '?';
}

static bool default_path(char *path, size_t size, const char *name, eval_error *e)
{
    char data[4096];
    inputs_data_dir(data, sizeof data);
    return join(path, size, data, name, e);
}

bool inputs_load_model(inputs *in, const char *name, uint64_t seed, progress *line, eval_error *e)
{
    char path[4096];
    memset(in, 0, sizeof *in);
    in->bos_id = -1;
    if (name && model_is_random(name)) {
        snprintf(in->model_name, sizeof in->model_name, "%s", name);
        progress_say(line, "making weights of %s", in->model_name);
        return model_random(&in->model, name, seed, e);
    }
    if (!name && !default_path(path, sizeof path, DEFAULT_MODEL, e))
        return false;
    last_part(in->model_name, sizeof in->model_name, name ? name : path);
    progress_say(line, "loading %s", in->model_name);
    return model_load(&in->model, name ? name : path, e);
}

const char *inputs_note(const inputs *in)
{
    if (in->recording)
        return recording_note(in->recording);
    if (in->model && in->model->note[0] != '\0')
        return in->model->note; /* of a directory; a tokenizer's is of a GGUF file */
    return in->tokenizer ? tokenizer_note(in->tokenizer) : NULL;
}

bool inputs_load_tokenizer(tokenizer **out, const char *model_path, eval_error *e)
{
    char path[4096];
    if (!model_path && !default_path(path, sizeof path, DEFAULT_MODEL, e))
        return false;
    const char *from = model_path ? model_path : path;
    if (!model_is_gguf(from))
        return tokenizer_load(out, from, e);
    gguf *g = NULL;
    if (!gguf_open(&g, from, e))
        return false;
    const bool good = tokenizer_load_gguf(out, g, e);
    gguf_close(g);
    return good;
}

static bool load_tokenizer(inputs *in, const char *model_path, eval_error *e)
{
    if (!inputs_load_tokenizer(&in->tokenizer, model_path, e))
        return false;
    const size_t n = tokenizer_vocab_size(in->tokenizer), vocab = in->model->shape.vocab_size;
    return in->model->random || n <= vocab ||
           eval_fail(e, "%s: the tokenizer has %zu tokens, but the model's vocabulary is %zu",
                     model_path ? model_path : DEFAULT_MODEL, n, vocab);
}

/* Tokens drawn from the seed. */
static bool random_ids(inputs *in, uint64_t seed, size_t n, eval_error *e)
{
    in->ids = calloc(n, sizeof in->ids[0]);
    if (!in->ids)
        return eval_fail(e, "out of memory for %zu tokens", n);
    in->n_ids = n;
    for (size_t i = 0; i < n; i++)
        in->ids[i] = (int32_t)(splitmix64(seed, i + 1) % in->model->shape.vocab_size);
    return true;
}

bool inputs_tokenize(const tokenizer *t, const char *path, int32_t **ids, size_t *n_ids, char *text_name,
                     progress *line, eval_error *e)
{
    char default_text[4096];
    if (!path && !default_path(default_text, sizeof default_text, DEFAULT_TEXT, e))
        return false;
    path = path ? path : default_text;
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    input_file file;
    last_part(text_name, TEXT_NAME_SIZE, name);
    progress_say(line, "reading %s", text_name);
    if (!input_file_read_stream(&file, path, e))
        return false;
    const char *text = (const char *)file.data;
    progress_say(line, "tokenizing %s", text_name);
    const bool good =
        text_check_utf8(name, text, file.size, e) && tokenizer_encode(t, text, file.size, ids, n_ids, e);
    input_file_free(&file);
    return good;
}

static bool check_prompt(const inputs *in, eval_error *e)
{
    return (in->n_tokens >= MIN_COUNTED && in->n_prompt <= in->n_tokens - MIN_COUNTED) ||
           eval_fail(e, "--prompt %zu: must leave at least %d of a window's %zu tokens to decode",
                     in->n_prompt, MIN_COUNTED, in->n_tokens);
}

/* The length of a window from --context, --tokens and --prompt. */
static bool plan_window(inputs *in, const inputs_request *r, eval_error *e)
{
    const size_t n_ctx = in->model->shape.n_ctx;
    if (r->context > n_ctx)
        return eval_fail(e, "--context %zu: over the model's context of %zu tokens", r->context, n_ctx);
    const size_t context = r->context ? r->context : n_ctx;
    if (r->tokens > context) {
        return eval_fail(e,
                         "--tokens %zu: over the context of %zu tokens; more --windows take more of the text",
                         r->tokens, context);
    }
    const size_t most = r->context || context < DEFAULT_TOKENS ? context : DEFAULT_TOKENS;
    in->n_tokens = r->tokens ? r->tokens : most;
    in->n_prompt = r->prompt;
    if (r->generate > 0) {
        in->n_prompt = r->prompt_set ? r->prompt : DEFAULT_GENERATE_PROMPT;
        if (in->n_prompt == 0)
            return eval_fail(e, "--prompt 0: --generate needs a prompt of at least 1 token");
        return (in->n_prompt <= context && r->generate <= context - in->n_prompt) ||
               eval_fail(e, "--generate %zu: with a prompt of %zu over the context of %zu tokens",
                         r->generate, in->n_prompt, context);
    }
    return check_prompt(in, e);
}

/* The number of windows, once the text's tokens are known, of which each window takes `own`. */
static bool plan_windows(inputs *in, const inputs_request *r, const char *text, size_t n_found, size_t own,
                         eval_error *e)
{
    const size_t available = n_found / own;
    in->n_windows = r->windows ? r->windows : available < DEFAULT_WINDOWS ? available : DEFAULT_WINDOWS;
    if (available > 0 && in->n_windows <= available)
        return true;
    const size_t needed = r->windows ? r->windows : 1;
    return eval_fail(e,
                     "%s: %zu tokens found, %zu needed for %zu window%s of %zu (--tokens makes them shorter)",
                     text, n_found, needed * own, needed, needed == 1 ? "" : "s", in->n_tokens);
}

/* Cut the text's tokens into windows, each a sequence of its own: with the BOS token first, if there is one.
 */
static bool cut_windows(inputs *in, const inputs_request *r, const char *text, const int32_t *found,
                        size_t n_found, eval_error *e)
{
    const size_t n_bos = in->bos_id >= 0 ? 1 : 0, length = r->generate > 0 ? in->n_prompt : in->n_tokens;
    const size_t own = length - n_bos;
    if (r->generate > 0) {
        in->n_windows = 1;
        if (n_found < own)
            return eval_fail(e, "%s: %zu tokens found, --prompt needs %zu", text, n_found, own);
    } else if (!plan_windows(in, r, text, n_found, own, e)) {
        return false;
    }
    in->n_ids = in->n_windows * length;
    in->ids = calloc(in->n_ids, sizeof in->ids[0]);
    if (!in->ids)
        return eval_fail(e, "out of memory for %zu tokens", in->n_ids);
    for (size_t w = 0; w < in->n_windows; w++) {
        in->ids[w * length] = in->bos_id; /* stays where there is one */
        for (size_t i = 0; i < own; i++)
            in->ids[w * length + n_bos + i] = found[w * own + i];
    }
    return true;
}

/* Tokens of a text, for a model of its own tokenizer or for random weights. */
static bool load_windows(inputs *in, const inputs_request *r, progress *line, eval_error *e)
{
    int32_t *found = NULL;
    size_t n_found = 0;
    if (!inputs_tokenize(in->tokenizer, r->text, &found, &n_found, in->text_name, line, e))
        return false;
    const size_t vocab = in->model->shape.vocab_size;
    for (size_t i = 0; in->model->random && i < n_found; i++)
        found[i] = (int32_t)((size_t)found[i] % vocab);
    const char *text = !r->text ? in->text_name : strcmp(r->text, "-") == 0 ? "standard input" : r->text;
    const bool good = cut_windows(in, r, text, found, n_found, e);
    free(found);
    return good;
}

/* The recording's sequences as windows. */
static bool load_recording(inputs *in, const inputs_request *r, progress *line, eval_error *e)
{
    memset(in, 0, sizeof *in);
    in->bos_id = -1;
    last_part(in->model_name, sizeof in->model_name, r->kv);
    progress_say(line, "opening %s", in->model_name);
    if (!recording_open(&in->recording, r->kv, e))
        return false;
    const size_t n_tokens = recording_shape(in->recording)->n_ctx;
    const size_t n_sequences = recording_n_sequences(in->recording);
    snprintf(in->text_name, sizeof in->text_name, "%s", recording_text(in->recording));
    if (r->tokens > n_tokens)
        return eval_fail(e, "--tokens %zu: over the %zu tokens of a sequence of %s", r->tokens, n_tokens,
                         r->kv);
    if (r->windows > n_sequences)
        return eval_fail(e, "--windows %zu: over the %zu sequence%s of %s", r->windows, n_sequences,
                         n_sequences == 1 ? "" : "s", r->kv);
    in->n_tokens = r->tokens ? r->tokens : n_tokens;
    in->n_windows = r->windows ? r->windows : n_sequences;
    in->n_prompt = r->prompt;
    return check_prompt(in, e);
}

bool inputs_load(inputs *in, const inputs_request *r, progress *line, eval_error *e)
{
    if (r->kv)
        return load_recording(in, r, line, e);
    if (!inputs_load_model(in, r->model, r->seed, line, e))
        return false;
    const bool random = in->model->random;
    if (!random && !load_tokenizer(in, r->model, e))
        return false;
    if (!plan_window(in, r, e))
        return false;
    if (random && !r->text) {
        snprintf(in->text_name, sizeof in->text_name, "random tokens");
        in->n_windows = r->windows ? r->windows : 1;
        if (in->n_windows > SIZE_MAX / sizeof(int32_t) / in->n_tokens)
            return eval_fail(e, "--windows %zu: too many", in->n_windows);
        return random_ids(in, r->seed, r->generate ? in->n_prompt : in->n_windows * in->n_tokens, e);
    }
    if (random && !load_tokenizer(in, NULL, e))
        return false;
    if (!random && !r->no_bos)
        in->bos_id = tokenizer_bos_id(in->tokenizer);
    return load_windows(in, r, line, e);
}

void inputs_free(inputs *in)
{
    model_free(in->model);
    recording_close(in->recording);
    tokenizer_free(in->tokenizer);
    free(in->ids);
    memset(in, 0, sizeof *in);
}
