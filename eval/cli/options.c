/* The command line of kvq-eval (options.h), on the C library's argp. */
#define _GNU_SOURCE

#include "eval/cli/options.h"

#include "eval/cli/input_options.h"
#include "eval/cli/plugins.h"
#include "eval/common/arguments.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_GROUP "32"
enum { OPTIONS_MAX_PLUGINS = 16 };

enum {
    KEY_BITS = 0x100,
    KEY_K_BITS,
    KEY_V_BITS,
    KEY_GROUP,
    KEY_RESIDUAL,
    KEY_RESIDUAL_MODE,
    KEY_RESIDUAL_DTYPE,
    KEY_SINKS,
    KEY_SCHEME,
    KEY_COMPARE,
    KEY_PLUGIN,
    KEY_KV,
    KEY_PROMPT,
    KEY_GENERATE,
    KEY_GREEDY,
    KEY_PRECISION,
    KEY_APPEND_ONLY,
    KEY_BOUND,
    KEY_THREADS,
    KEY_PER_LAYER,
    KEY_JSON,
    KEY_CSV,
    KEY_MARKDOWN,
    KEY_LOGITS,
    KEY_QUIET,
    KEY_MAX_KLD,
    KEY_MAX_ATTN_ERROR,
    KEY_MAX_PPL_INCREASE,
    KEY_MIN_RATIO,
    KEY_CONFIDENT,
    KEY_PER_TOKEN,
};

const struct argp_option options_list[] = {
    {NULL, 0, NULL, 0,
     "The scheme, beside fp32 (default: kivi2 and kvq2). The first eight make one scheme of KIVI's kind, "
     "which is kivi2 with what they change:",
     1},
    {"bits", KEY_BITS, "B", 0, "Bits of keys and values: 1, 2, 3, 4, 5, 6, 8, 16 (half) or 32", 1},
    {"k-bits", KEY_K_BITS, "B", 0, "Bits of the keys alone", 1},
    {"v-bits", KEY_V_BITS, "B", 0, "Bits of the values alone", 1},
    {"group", KEY_GROUP, "G", 0,
     "Values per scale: 16, 32, 64 or 128 (default 32), or full, which is one scale per token and head and "
     "needs --k-bits 16 or 32",
     1},
    {"residual", KEY_RESIDUAL, "R", 0, "Newest tokens kept in full precision (default 128)", 1},
    {"residual-mode", KEY_RESIDUAL_MODE, "MODE", 0, "kivi (default) or sliding", 1},
    {"residual-dtype", KEY_RESIDUAL_DTYPE, "TYPE", 0,
     "f32 (default), f16, i8, or f16/i8 for keys and values, of the residual and the sinks", 1},
    {"sinks", KEY_SINKS, "S", 0, "First tokens kept in full precision (default 0)", 1},
    {"scheme", KEY_SCHEME, "TEXT", 0,
     "A whole scheme, such as kivi4 or k=4/64,v=2,r=64; may be given many times, also beside the options "
     "above",
     1},

    {"compare", KEY_COMPARE, NULL, 0,
     "KIVI, the kvq schemes and every rival side by side, with the same window and sinks", 1},
    {"plugin", KEY_PLUGIN, "FILE", 0,
     "Load a codec from a shared object (kvq_experimental.h); its name then stands in --scheme", 1},

    {NULL, 0, NULL, 0, "What it is measured on:", 2},
    {"model", INPUT_KEY_MODEL, "PATH", 0,
     "Hugging Face directory or GGUF file of a GPT-2, Llama, Mistral, Qwen 2 or 3; or random: and a "
     "published "
     "shape such as gpt2 or llama-3.2-1b, or numbers (L,H,D,CTX,VOCAB for a GPT-2, L,H,HKV,D,CTX,VOCAB for a "
     "Llama), for seeded random weights (default: the model that comes with kvq-eval)",
     2},
    {"kv", KEY_KV, "FILE", 0,
     "Instead of a model: queries, keys and values recorded from any model, as .safetensors or .npy, or a "
     "directory of .npy; kvq-eval dump writes such files",
     2},
    {"text", INPUT_KEY_TEXT, "FILE", 0,
     "UTF-8 text; - is standard input (default: the sample that comes with kvq-eval)", 2},
    {"no-bos", INPUT_KEY_NO_BOS, NULL, 0,
     "Windows begin with the text, not with the token that the model's tokenizer puts before it", 2},
    {"context", INPUT_KEY_CONTEXT, "N", 0, "Context length, at most the model's, which is the default", 2},
    {"tokens", INPUT_KEY_TOKENS, "N", 0,
     "Tokens of each window, at most the context (default: that, up to 1024)", 2},
    {"windows", INPUT_KEY_WINDOWS, "N", 0,
     "Windows taken from the text one after the other (default: up to 4)", 2},
    {"prompt", KEY_PROMPT, "N", 0, "The first N tokens of a window are a prefill and not counted (default 0)",
     2},
    {"greedy", KEY_GREEDY, "N", 0,
     "Also let fp32 write N tokens greedily after the beginning of each window (--prompt tokens, else half "
     "of "
     "what N leaves), and tell where each scheme's text would differ first",
     2},
    {"generate", KEY_GENERATE, "N", 0,
     "Instead of measuring, write N tokens greedily after the text's first --prompt tokens (default 32)", 2},
    {"precision", KEY_PRECISION, "P", 0, "Arithmetic of attention: fast (default) or exact", 2},
    {"append-only", KEY_APPEND_ONLY, NULL, 0,
     "Let queries teach the caches nothing: what schemes are worth in an engine that does not hand them over",
     2},
    {"bound", KEY_BOUND, "N", 0,
     "Check the certified bound at every Nth step, or off (default: at eight steps of each window)", 2},
    {"threads", KEY_THREADS, "N", 0, "Threads (default: one per processor)", 2},
    {"seed", INPUT_KEY_SEED, "N", 0, "Seed of random: weights (default 1)", 2},

    {NULL, 0, NULL, 0, "What is shown:", 3},
    {"per-layer", KEY_PER_LAYER, NULL, 0, "Also a table of errors per layer and head", 3},
    {"json", KEY_JSON, "FILE", 0,
     "Write everything as JSON; - is standard output, and then nothing else is there", 3},
    {"csv", KEY_CSV, "FILE", 0, "Write one row per scheme; - as for --json", 3},
    {"markdown", KEY_MARKDOWN, NULL, 0, "Print the tables as Markdown", 3},
    {"logits", KEY_LOGITS, "FILE", 0,
     "Write the first window's fp32 logits, float32 [tokens][vocab], as .npy", 3},
    {"per-token", KEY_PER_TOKEN, "FILE", 0,
     "Write a JSON line for each scheme and counted step: divergence, likelihoods, most likely tokens", 3},
    {"quiet", KEY_QUIET, NULL, 0, "No progress on standard error", 3},

    {NULL, 0, NULL, 0, "Limits, for tests: the exit status is 3 if any scheme breaks one:", 4},
    {"max-kld", KEY_MAX_KLD, "X", 0, "Largest mean next-token KL divergence, in nats", 4},
    {"max-attn-error", KEY_MAX_ATTN_ERROR, "X", 0, "Largest relative L2 error of attention, such as 0.1", 4},
    {"max-ppl-increase", KEY_MAX_PPL_INCREASE, "X", 0, "Largest increase of perplexity, in percent", 4},
    {"min-ratio", KEY_MIN_RATIO, "X", 0, "Smallest fp32 bytes / cache bytes", 4},
    {"confident", KEY_CONFIDENT, NULL, 0,
     "The first three hold against the upper end of the figure's 95 % interval, not the figure itself", 4},

    {NULL, 0, NULL, 0, "Other:", -1},
    {0},
};

static const char *const default_schemes[] = {"kivi2", "kvq2", NULL};

/* What --compare adds: KIVI as published, with the sinks and the window of the others, and all presets of
 * ours and of the rivals. */
static const char *const compared_schemes[] = {
    "kivi2",
    "kivi2,s=4,mode=sliding,rtype=f16/i8",
    "kivi4,s=4,mode=sliding,rtype=f16/i8",
    "kvq1.5",
    "kvq2",
    "kvq2-fb",
    "kvq2.5",
    "kvq3",
    "kvq4",
    "q4_0",
    "q4_1",
    "q8_0",
    "turbo1",
    "turbo2",
    "turbo2-nc",
    "turbo3",
    "turbo3-nc",
    "turbo4",
    "turbo4-nc",
    "kvarn2",
    "kvarn4",
    "quarot2",
    "quarot4",
    "nuq2",
    NULL,
};

/* The scheme options as given; NULL where not. They become one scheme text, so that one parser judges them.
 */
typedef struct scheme_flags {
    const char *bits, *k_bits, *v_bits, *group, *residual, *residual_mode, *residual_dtype, *sinks;
} scheme_flags;

typedef struct parse_state {
    options *o;
    scheme_flags flags;
    const char *texts[OPTIONS_MAX_SCHEMES];
    size_t n_texts;
    const char *plugins[OPTIONS_MAX_PLUGINS];
    size_t n_plugins;
    bool compare;
} parse_state;

static void parse_limit(const struct argp_state *state, const char *name, const char *text,
                        options_limit *limit)
{
    limit->value = argument_real(state, name, text, true, INFINITY);
    limit->set = true;
}

/* What the library takes, as text, because the options become a scheme's text. */
static const char *const bits_words[] = {"1", "2", "3", "4", "5", "6", "8", "16", "32", NULL};
static const char *const group_words[] = {"16", "32", "64", "128", "full", NULL};
static const char *const mode_words[] = {"kivi", "sliding", NULL};
static const char *const dtype_words[] = {"f32", "f16", "i8", "f16/i8", NULL};
static const char *const precision_words[] = {"fast", "exact", NULL};
enum { MAX_RESIDUAL = 1 << 30, MAX_SINKS = 1 << 20 };

const char *const *options_words(int key)
{
    return key == KEY_BITS || key == KEY_K_BITS || key == KEY_V_BITS ? bits_words
           : key == KEY_GROUP                                        ? group_words
           : key == KEY_RESIDUAL_MODE                                ? mode_words
           : key == KEY_RESIDUAL_DTYPE                               ? dtype_words
           : key == KEY_PRECISION                                    ? precision_words
                                                                     : NULL;
}

static const char *one_of(const struct argp_state *state, const char *name, const char *text, int key)
{
    return argument_word(state, name, text, options_words(key));
}

static const char *number_text(const struct argp_state *state, const char *name, const char *text,
                               uint64_t max)
{
    (void)argument_number(state, name, text, 0, max);
    return text;
}

static error_t parse_scheme_option(int key, char *arg, const struct argp_state *state, scheme_flags *f)
{
    switch (key) {
    case KEY_BITS:
        f->bits = one_of(state, "bits", arg, key);
        return 0;
    case KEY_K_BITS:
        f->k_bits = one_of(state, "k-bits", arg, key);
        return 0;
    case KEY_V_BITS:
        f->v_bits = one_of(state, "v-bits", arg, key);
        return 0;
    case KEY_GROUP:
        f->group = one_of(state, "group", arg, key);
        return 0;
    case KEY_RESIDUAL:
        f->residual = number_text(state, "residual", arg, MAX_RESIDUAL);
        return 0;
    case KEY_RESIDUAL_MODE:
        f->residual_mode = one_of(state, "residual-mode", arg, key);
        return 0;
    case KEY_RESIDUAL_DTYPE:
        f->residual_dtype = one_of(state, "residual-dtype", arg, key);
        return 0;
    case KEY_SINKS:
        f->sinks = number_text(state, "sinks", arg, MAX_SINKS);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_output_option(int key, char *arg, const struct argp_state *state, options *o)
{
    switch (key) {
    case KEY_PER_LAYER:
        o->per_layer = true;
        return 0;
    case KEY_JSON:
        o->json = argument_file(state, "json", arg);
        return 0;
    case KEY_CSV:
        o->csv = argument_file(state, "csv", arg);
        return 0;
    case KEY_MARKDOWN:
        o->markdown = true;
        return 0;
    case KEY_LOGITS:
        o->logits = argument_file(state, "logits", arg);
        return 0;
    case KEY_PER_TOKEN:
        o->per_token = argument_file(state, "per-token", arg);
        return 0;
    case KEY_CONFIDENT:
        o->confident = true;
        return 0;
    case KEY_QUIET:
        o->quiet = true;
        return 0;
    case KEY_MAX_KLD:
        parse_limit(state, "max-kld", arg, &o->max_kld);
        return 0;
    case KEY_MAX_ATTN_ERROR:
        parse_limit(state, "max-attn-error", arg, &o->max_attn_error);
        return 0;
    case KEY_MAX_PPL_INCREASE:
        parse_limit(state, "max-ppl-increase", arg, &o->max_ppl_increase);
        return 0;
    case KEY_MIN_RATIO:
        parse_limit(state, "min-ratio", arg, &o->min_ratio);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_input_option(int key, char *arg, const struct argp_state *state, options *o)
{
    const uint64_t many = KVQ_MAX_TOKENS;
    switch (key) {
    case KEY_KV:
        o->in.kv = argument_file(state, "kv", arg);
        return 0;
    case KEY_PROMPT:
        o->in.prompt = argument_number(state, "prompt", arg, 0, many);
        o->in.prompt_set = true;
        return 0;
    case KEY_GENERATE:
        o->in.generate = argument_number(state, "generate", arg, 1, many);
        return 0;
    case KEY_GREEDY:
        o->greedy = argument_number(state, "greedy", arg, 2, many);
        return 0;
    case KEY_PRECISION:
        o->precision = strcmp(one_of(state, "precision", arg, key), "fast") == 0 ? KVQ_PRECISION_FAST
                                                                                 : KVQ_PRECISION_EXACT;
        return 0;
    case KEY_APPEND_ONLY:
        o->append_only = true;
        return 0;
    case KEY_BOUND:
        o->bound = strcmp(arg, "off") == 0 ? 0 : argument_number(state, "bound", arg, 1, many);
        o->bound_set = true;
        return 0;
    case KEY_THREADS:
        o->threads = (int)argument_number(state, "threads", arg, 1, 1024);
        return 0;
    default:
        return input_option(key, arg, state, &o->in);
    }
}

/* What the library would say about the scheme these options make, in terms of the options. */
static void check_scheme_flags(const struct argp_state *state, const scheme_flags *f)
{
    const char *bits = f->k_bits ? f->k_bits : f->bits ? f->bits : "2";
    if (strcmp(bits, "16") == 0 || strcmp(bits, "32") == 0)
        return; /* the rest is about keys, which these options group per channel */
    const char *group = f->group ? f->group : DEFAULT_GROUP;
    if (strcmp(group, "full") == 0) {
        argp_error(state,
                   "--group full: is for values only, and keys of %s bits have groups per channel; "
                   "take --k-bits 16 or 32, or --scheme k=%s@token/full,...",
                   bits, bits);
        return;
    }
    const uint64_t size = strtoull(group, NULL, 10);
    const uint64_t residual = f->residual ? strtoull(f->residual, NULL, 10) : size;
    const bool sliding = f->residual_mode && strcmp(f->residual_mode, "sliding") == 0;
    if (residual % size != 0 || (residual == 0 && !sliding)) {
        argp_error(state, "--residual: must be a multiple of the group of %s%s, not '%s'", group,
                   sliding ? "" : ", and not 0 with --residual-mode kivi", f->residual);
    }
}

/* A recording is instead of a model and its text, and knows of no logits. */
static void check_recording(const struct argp_state *state, const options *o)
{
    const struct {
        bool given;
        const char *name;
    } others[] = {{o->in.model, "model"},
                  {o->in.text, "text"},
                  {o->in.no_bos, "no-bos"},
                  {o->in.seed_set, "seed"},
                  {o->in.context > 0, "context"},
                  {o->in.generate > 0, "generate"},
                  {o->logits, "logits"},
                  {o->per_token, "per-token"},
                  {o->greedy > 0, "greedy"},
                  {o->max_kld.set, "max-kld"},
                  {o->max_ppl_increase.set, "max-ppl-increase"}};
    for (size_t i = 0; o->in.kv && i < sizeof others / sizeof others[0]; i++)
        if (others[i].given)
            argp_error(state, "--kv and --%s: a recording has no model to run and no text; take one of them",
                       others[i].name);
}

/* What a scheme would write, step by step. */
static void check_greedy(const struct argp_state *state, const options *o, bool random)
{
    if (o->greedy > 0 && o->in.generate > 0)
        argp_error(state, "--greedy and --generate: the former measures, the latter shows texts and measures "
                          "nothing; take one of them");
    if (o->greedy > 0 && o->append_only)
        argp_error(state, "--greedy and --append-only: prompts are not in full precision then, and texts "
                          "would differ from their first token on; take one of them");
    if (o->greedy > 0 && random)
        argp_error(state, "--greedy means nothing for random weights");
}

static void check_combinations(const struct argp_state *state, const options *o)
{
    const struct {
        const char *name, *path;
    } files[] = {{"json", o->json}, {"csv", o->csv}, {"logits", o->logits}, {"per-token", o->per_token}};
    const size_t n_files = sizeof files / sizeof files[0];
    int n_stdout = 0;
    for (size_t i = 0; i < n_files; i++) {
        n_stdout += files[i].path && strcmp(files[i].path, "-") == 0 ? 1 : 0;
        for (size_t k = i + 1; k < n_files; k++)
            argument_different_files(state, files[i].name, files[i].path, files[k].name, files[k].path);
    }
    if (n_stdout > 1)
        argp_error(state, "only one of --json, --csv, --logits and --per-token can go to standard output");
    const bool limits =
        o->max_kld.set || o->max_attn_error.set || o->max_ppl_increase.set || o->min_ratio.set;
    if (o->in.generate > 0 &&
        (o->csv || o->logits || o->per_token || o->per_layer || o->markdown || limits)) {
        argp_error(state, "--generate measures nothing: it goes with none of --csv, --logits, --per-token, "
                          "--per-layer, "
                          "--markdown and the limits");
    }
    const bool random = o->in.model && strncmp(o->in.model, "random:", 7) == 0;
    if (o->confident && !o->max_kld.set && !o->max_attn_error.set && !o->max_ppl_increase.set)
        argp_error(
            state,
            "--confident is about --max-kld, --max-attn-error and --max-ppl-increase, and none is given");
    check_greedy(state, o, random);
    if (random && o->per_token)
        argp_error(state, "--per-token means nothing for random weights");
    if (random && (o->max_kld.set || o->max_ppl_increase.set))
        argp_error(state, "--max-kld and --max-ppl-increase mean nothing for random weights");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    parse_state *p = state->input;
    if (key == KEY_SCHEME) {
        /* One place is kept for the scheme of the single options. */
        if (p->n_texts + 1 == OPTIONS_MAX_SCHEMES)
            argp_error(state, "--scheme: at most %d", OPTIONS_MAX_SCHEMES - 1);
        p->texts[p->n_texts++] = arg;
        return 0;
    }
    if (key == KEY_PLUGIN) {
        if (p->n_plugins == OPTIONS_MAX_PLUGINS)
            argp_error(state, "--plugin: at most %d", OPTIONS_MAX_PLUGINS);
        p->plugins[p->n_plugins++] = argument_file(state, "plugin", arg);
        return 0;
    }
    if (key == KEY_COMPARE) {
        p->compare = true;
        return 0;
    }
    if (key == ARGP_KEY_END) {
        check_scheme_flags(state, &p->flags);
        check_recording(state, p->o);
        check_combinations(state, p->o);
        return 0;
    }
    error_t status = parse_scheme_option(key, arg, state, &p->flags);
    if (status == ARGP_ERR_UNKNOWN)
        status = parse_input_option(key, arg, state, p->o);
    return status == ARGP_ERR_UNKNOWN ? parse_output_option(key, arg, state, p->o) : status;
}

/* Append one side as the scheme grammar writes it; 16 and 32 bits are the codecs without groups. */
static void append_side(char *text, size_t size, const char *name, const char *bits, const char *group)
{
    const size_t used = strlen(text);
    if (strcmp(bits, "16") == 0 || strcmp(bits, "32") == 0)
        snprintf(text + used, size - used, "%s=f%s,", name, bits);
    else
        snprintf(text + used, size - used, "%s=%s/%s,", name, bits, group);
}

static void append_item(char *text, size_t size, const char *name, const char *value)
{
    if (value) {
        const size_t used = strlen(text);
        snprintf(text + used, size - used, "%s=%s,", name, value);
    }
}

/* The single options as one scheme text. */
static void text_of_flags(const scheme_flags *f, char *text, size_t size)
{
    const char *bits = f->bits ? f->bits : "2";
    const char *k_bits = f->k_bits ? f->k_bits : bits;
    const char *v_bits = f->v_bits ? f->v_bits : bits;
    const char *group = f->group ? f->group : DEFAULT_GROUP;
    text[0] = '\0';
    const bool same = strcmp(k_bits, v_bits) == 0;
    if (same && strcmp(k_bits, "32") == 0) {
        snprintf(text, size, "fp32,"); /* the presets, because a residual before them gains nothing */
    } else if (same && strcmp(k_bits, "16") == 0) {
        snprintf(text, size, "fp16,");
    } else {
        append_side(text, size, "k", k_bits, group);
        append_side(text, size, "v", v_bits, group);
    }
    append_item(text, size, "r", f->residual);
    append_item(text, size, "mode", f->residual_mode);
    append_item(text, size, "rtype", f->residual_dtype);
    append_item(text, size, "s", f->sinks);
    text[strlen(text) - 1] = '\0'; /* the last comma */
}

/* Parse one scheme; on failure say what is wrong, and under which character. */
static bool add_scheme(options *o, const char *option, const char *text, eval_error *e)
{
    kvq_error why;
    if (kvq_scheme_create(&o->schemes[o->n_schemes], text, &why) == KVQ_OK) {
        o->n_schemes++;
        return true;
    }
    /* Room for the caret line must be left: a text that long is shown cut. */
    const int offset = why.offset > 200 ? 200 : (int)why.offset;
    (void)eval_fail(e, "%s: %s, at character %llu of the scheme", option, why.message,
                    (unsigned long long)why.offset + 1);
    const size_t used = strlen(e->text);
    char shown[256];
    snprintf(shown, sizeof shown, "%s", text);
    for (char *c = shown; *c; c++)
        *c = (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c;
    snprintf(e->text + used, sizeof e->text - used, "\n    %s\n    %*s", shown, offset + 1, "^");
    return false;
}

bool options_parse(options *o, const char *doc, int argc, char **argv, eval_error *e)
{
    static const char after[] =
        "Exit status: 0 good, 1 bad input or failure, 2 bad usage, 3 a limit is broken, 130 "
        "interrupted. See kvq-eval(1).";
    parse_state p = {.o = o};
    memset(o, 0, sizeof *o);
    o->in.seed = 1;
    arguments_parse(options_list, parse_option, doc, after, argc, argv, &p);
    for (size_t i = 0; i < p.n_plugins; i++)
        if (!plugin_load(p.plugins[i], e))
            return false;
    const scheme_flags none = {0};
    const bool flags = memcmp(&p.flags, &none, sizeof none) != 0;
    if (flags) {
        char text[512];
        text_of_flags(&p.flags, text, sizeof text);
        if (!add_scheme(o, "the scheme options", text, e))
            return false;
    }
    for (size_t i = 0; i < p.n_texts; i++)
        if (!add_scheme(o, "--scheme", p.texts[i], e))
            return false;
    const char *const *more = p.compare ? compared_schemes : flags || p.n_texts > 0 ? NULL : default_schemes;
    for (; more && *more; more++)
        if (!add_scheme(o, "a built-in list of schemes", *more, e))
            return false;
    return true;
}
