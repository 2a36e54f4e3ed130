/* The command line of `kvq-eval bench` (options.h), on the C library's argp. */
#define _GNU_SOURCE

#include "eval/bench/options.h"

#include "eval/common/arguments.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_QUERIES = 16384 };

enum {
    KEY_QUICK = 0x200,
    KEY_PHASES,
    KEY_PROMPTS,
    KEY_KERNELS,
    KEY_DECODE,
    KEY_SHAPE,
    KEY_TOKENS,
    KEY_QUERIES,
    KEY_SCHEME,
    KEY_ISA,
    KEY_THREADS,
    KEY_MODEL,
    KEY_SECONDS,
    KEY_MEMORY,
    KEY_SEED,
    KEY_JSON,
    KEY_CSV,
    KEY_MARKDOWN,
    KEY_QUIET,
};

const struct argp_option bench_options_list[] = {
    {NULL, 0, NULL, 0,
     "What is measured (default: attention and encoding, against OpenBLAS, fp32, fp16):", 1},
    {"phases", KEY_PHASES, NULL, 0,
     "Instead, the parts of a step: fold, score, softmax, accumulate, window, rotate, other", 1},
    {"prompts", KEY_PROMPTS, NULL, 0, "Instead, whole prompts, each in one step (kvq_cache_step)", 1},
    {"kernels", KEY_KERNELS, NULL, 0, "Instead, each kernel alone, against portable C", 1},
    {"decode", KEY_DECODE, NULL, 0, "Instead, whole generation steps: no cache, fp32, fp16 and packed caches",
     1},
    {"quick", KEY_QUICK, NULL, 0, "A smaller grid: under 30 seconds instead of under 10 minutes", 1},

    {NULL, 0, NULL, 0, "The grid; each may be given many times:", 2},
    {"shape", KEY_SHAPE, "D,H[,HKV]", 0, "Head dimension, query heads and KV heads (default: as many)", 2},
    {"tokens", KEY_TOKENS, "N", 0, "Tokens in the cache; with --prompts, of the prompt", 2},
    {"queries", KEY_QUERIES, "N", 0,
     "Queries of the last N tokens at once, as of a part of a prompt (one number; default 1)", 2},
    {"scheme", KEY_SCHEME, "TEXT", 0,
     "A scheme, such as kivi4 or kivi2,mode=sliding,r=0, which has no residual", 2},
    {"isa", KEY_ISA, "NAME", 0, "Instruction set, as KVQ_ISA takes it", 2},
    {"threads", KEY_THREADS, "N", 0, "Threads (default: 1, and one per processor)", 2},
    {"model", KEY_MODEL, "PATH", 0, "With --decode: a model, as kvq-eval takes it, or `default'", 2},

    {NULL, 0, NULL, 0, "How it is measured:", 3},
    {"seconds", KEY_SECONDS, "S", 0,
     "Time for one cell of the grid (at least 9 rounds are made, 5 if quick) or one kernel", 3},
    {"memory", KEY_MEMORY, "GB", 0, "Memory that one cell of the grid may take (default 4, or 2 if quick)",
     3},
    {"seed", KEY_SEED, "N", 0, "Seed of the random numbers (default 1)", 3},

    {NULL, 0, NULL, 0, "What is shown:", 4},
    {"json", KEY_JSON, "FILE", 0,
     "Write everything as JSON; - is standard output, and then nothing else is there", 4},
    {"csv", KEY_CSV, "FILE", 0, "Write the main table as CSV; - as for --json", 4},
    {"markdown", KEY_MARKDOWN, NULL, 0, "Print the tables as Markdown", 4},
    {"quiet", KEY_QUIET, NULL, 0, "No progress on standard error", 4},

    {NULL, 0, NULL, 0, "Other:", -1},
    {0},
};

typedef struct parse_state {
    bench_options *o;
    const char *schemes[BENCH_MAX_LIST];
    size_t n_schemes;
    bool mode_given, two_modes;
} parse_state;

bool bench_takes(const kvq_scheme *scheme, size_t head_dim)
{
    return kvq_scheme_bits_per_element(scheme, head_dim) > 0.0;
}

void bench_shape_print(bench_shape s, char *text, size_t size)
{
    if (s.n_heads == s.n_kv_heads)
        snprintf(text, size, "%zu x %zu", s.head_dim, s.n_kv_heads);
    else
        snprintf(text, size, "%zu x %zu, %zu q", s.head_dim, s.n_kv_heads, s.n_heads);
}

bool bench_wants(const bench_options *o, size_t isa, size_t scheme)
{
    return isa == 0 || scheme < 2 || o->isas_given || o->schemes_given;
}

static bench_shape parse_shape(const struct argp_state *state, const char *text)
{
    static const size_t most[] = {KVQ_MAX_HEAD_DIM, KVQ_MAX_HEADS, KVQ_MAX_HEADS};
    size_t part[3] = {0}, n = 0;
    const char *at = text;
    for (; n < 3; n++) {
        char *end = NULL;
        const unsigned long long value = at[0] >= '0' && at[0] <= '9' ? strtoull(at, &end, 10) : 0;
        if (value == 0 || value > most[n])
            break;
        part[n] = (size_t)value;
        at = end;
        if (*at != ',') {
            n++;
            break;
        }
        at++;
    }
    const bench_shape s = {part[0], part[1], n == 3 ? part[2] : part[1]};
    if (n < 2 || *at != '\0' || at[-1] == ',' || s.n_heads % s.n_kv_heads != 0) {
        argp_error(
            state,
            "--shape: expected D,H or D,H,HKV (head dimension up to %d; query heads up to %d; KV heads "
            "that divide them), such as 128,32,8, not '%s'",
            KVQ_MAX_HEAD_DIM, KVQ_MAX_HEADS, text);
    }
    return s;
}

static size_t next_place(const struct argp_state *state, const char *name, size_t *n)
{
    if (*n == BENCH_MAX_LIST)
        argp_error(state, "--%s: at most %d", name, BENCH_MAX_LIST);
    return (*n)++;
}

static error_t parse_grid_option(int key, char *arg, const struct argp_state *state, parse_state *p)
{
    bench_options *o = p->o;
    switch (key) {
    case KEY_SHAPE:
        o->shapes[next_place(state, "shape", &o->n_shapes)] = parse_shape(state, arg);
        return 0;
    case KEY_TOKENS:
        o->tokens[next_place(state, "tokens", &o->n_tokens)] =
            argument_number(state, "tokens", arg, 1, KVQ_MAX_TOKENS);
        return 0;
    case KEY_QUERIES:
        o->n_queries = argument_number(state, "queries", arg, 1, MAX_QUERIES);
        return 0;
    case KEY_SCHEME:
        p->schemes[next_place(state, "scheme", &p->n_schemes)] = arg;
        return 0;
    case KEY_ISA:
        o->isas[next_place(state, "isa", &o->n_isas)] = arg;
        return 0;
    case KEY_THREADS:
        o->threads[next_place(state, "threads", &o->n_threads)] =
            (int)argument_number(state, "threads", arg, 1, 1024);
        return 0;
    case KEY_MODEL:
        o->models[next_place(state, "model", &o->n_models)] = argument_file(state, "model", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void choose_mode(parse_state *p, bench_mode mode)
{
    p->two_modes = p->two_modes || (p->mode_given && p->o->mode != mode);
    p->mode_given = true;
    p->o->mode = mode;
}

/* What means nothing in a mode is refused rather than ignored. */
static void check_combinations(const struct argp_state *state, const parse_state *p)
{
    const bench_options *o = p->o;
    static const char *const modes[] = {
        [BENCH_PHASES] = "phases",
        [BENCH_PROMPTS] = "prompts",
        [BENCH_KERNELS] = "kernels",
        [BENCH_DECODE] = "decode",
    };
    const bool prompts = o->mode == BENCH_PROMPTS;
    const bool grid = o->mode == BENCH_ATTEND || o->mode == BENCH_PHASES || prompts;
    const bool decode = o->mode == BENCH_DECODE, kernels = o->mode == BENCH_KERNELS;
    if (p->two_modes)
        argp_error(state, "--phases, --prompts, --kernels and --decode: only one at a time");
    const struct {
        const char *name;
        bool given, fits;
        const char *how_often;
    } rules[] = {
        {"shape", o->n_shapes > 0, grid, ""},
        {"tokens", o->n_tokens > 0, grid, ""},
        {"queries", o->n_queries > 0, grid && !prompts, ""},
        {"memory", o->memory > 0.0, grid, ""},
        {"scheme", p->n_schemes > 0, !kernels, ""},
        {"isa", o->n_isas > 1, !decode, " more than once"},
        {"threads", o->n_threads > 0, grid ? o->mode != BENCH_PHASES : decode, ""},
        {"threads", o->n_threads > 1, !decode, " more than once"},
        {"seconds", o->seconds > 0.0, !decode, ""},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (rules[i].given && !rules[i].fits)
            argp_error(state, "--%s: means nothing with --%s%s", rules[i].name, modes[o->mode],
                       rules[i].how_often);
    if (o->n_models > 0 && !decode)
        argp_error(state, "--model: means nothing without --decode");
    for (size_t i = 0; i < o->n_tokens; i++)
        if (o->n_queries > o->tokens[i])
            argp_error(state, "--queries: %zu are more than --tokens %zu", o->n_queries, o->tokens[i]);
    if (o->json && o->csv && strcmp(o->json, "-") == 0 && strcmp(o->csv, "-") == 0)
        argp_error(state, "only one of --json and --csv can go to standard output");
    argument_different_files(state, "json", o->json, "csv", o->csv);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    parse_state *p = state->input;
    bench_options *o = p->o;
    switch (key) {
    case KEY_PHASES:
        choose_mode(p, BENCH_PHASES);
        return 0;
    case KEY_PROMPTS:
        choose_mode(p, BENCH_PROMPTS);
        return 0;
    case KEY_KERNELS:
        choose_mode(p, BENCH_KERNELS);
        return 0;
    case KEY_DECODE:
        choose_mode(p, BENCH_DECODE);
        return 0;
    case KEY_QUICK:
        o->quick = true;
        return 0;
    case KEY_SECONDS:
        o->seconds = argument_real(state, "seconds", arg, false, 3600.0);
        return 0;
    case KEY_MEMORY:
        o->memory = argument_real(state, "memory", arg, false, 1e6) * 1e9;
        return 0;
    case KEY_SEED:
        o->seed = argument_number(state, "seed", arg, 0, INT64_MAX);
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
    case KEY_QUIET:
        o->quiet = true;
        return 0;
    case ARGP_KEY_END:
        check_combinations(state, p);
        return 0;
    default:
        return parse_grid_option(key, arg, state, p);
    }
}

static bool add_scheme(bench_options *o, const char *text, eval_error *e)
{
    kvq_error why;
    if (kvq_scheme_create(&o->schemes[o->n_schemes], text, &why) != KVQ_OK) {
        return eval_fail(e, "--scheme: %s, at character %llu of '%.200s'", why.message,
                         (unsigned long long)why.offset + 1, text);
    }
    if (kvq_scheme_min_layers(o->schemes[o->n_schemes++]) > 0)
        return eval_fail(e,
                         "--scheme: '%.200s' differs by layer, and bench has one layer: give its schemes one "
                         "by one",
                         text);
    return true;
}

static bool is_no_isa(const char *name, eval_error *e)
{
    char names[128] = "";
    size_t n = 0;
    for (size_t i = 0; kvq_isa_name(i) && n < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i > 0 ? ", " : "", kvq_isa_name(i));
    return eval_fail(e, "--isa %.64s: no instruction set of that name runs here; expected one of: %s", name,
                     names);
}

static bool choose_isas(bench_options *o, eval_error *e)
{
    const char *wanted = getenv("KVQ_ISA");
    o->isas_given = o->n_isas > 0 || (wanted && wanted[0] != '\0');
    for (size_t i = 0; i < o->n_isas; i++) {
        size_t j = 0;
        for (const char *name = kvq_isa_name(0); name && strcmp(name, o->isas[i]) != 0;)
            name = kvq_isa_name(++j);
        if (!kvq_isa_name(j))
            return is_no_isa(o->isas[i], e);
    }
    if (o->n_isas > 0)
        return true;
    /* All of them, the best one first; in quick, phases, prompts and decode runs the best one alone. */
    const char *best = kvq_isa();
    o->isas[o->n_isas++] = best;
    const bool all = o->mode == BENCH_KERNELS || (o->mode == BENCH_ATTEND && !o->quick);
    for (size_t i = 0; all && !o->isas_given && kvq_isa_name(i) && o->n_isas < BENCH_MAX_LIST; i++)
        if (strcmp(kvq_isa_name(i), best) != 0)
            o->isas[o->n_isas++] = kvq_isa_name(i);
    return true;
}

/* What is measured where nothing is given; a headline, if there is one, is about the first scheme. */
typedef struct mode_defaults {
    const char *schemes[8];
    size_t n_schemes, n_quick_schemes;
    bench_shape shapes[4];
    size_t n_shapes;
    size_t tokens[4], n_tokens, n_quick_tokens;
    double seconds, quick_seconds;
} mode_defaults;

static const mode_defaults defaults[] = {
    [BENCH_ATTEND] = {.schemes = {"kvq2", "kvq2,r=0,s=0", "kvq2,rtype=i8", "kivi2,mode=sliding,r=0", "kivi2",
                                  "kivi4,mode=sliding,r=0", "kivi8,mode=sliding,r=0"},
                      .n_schemes = 7,
                      .n_quick_schemes = 4,
                      .shapes = {{64, 12, 12}, {128, 32, 32}, {128, 32, 8}},
                      .n_shapes = 3,
                      .tokens = {1024, 4096, 16384, 65536},
                      .n_tokens = 4,
                      .n_quick_tokens = 2,
                      .seconds = 12.0,
                      .quick_seconds = 0.6},
    [BENCH_PHASES] = {.schemes = {"kvq2", "kvq2,rtype=i8", "kvq2,r=0,s=0", "kivi2"},
                      .n_schemes = 4,
                      .n_quick_schemes = 4,
                      .shapes = {{64, 12, 12}, {128, 32, 32}, {128, 32, 8}, {64, 9, 3}},
                      .n_shapes = 4,
                      .tokens = {1024, 4096},
                      .n_tokens = 2,
                      .n_quick_tokens = 2,
                      .seconds = 2.0,
                      .quick_seconds = 0.4},
    [BENCH_PROMPTS] = {.schemes = {"fp16", "kvq2", "kivi2"},
                       .n_schemes = 3,
                       .n_quick_schemes = 3,
                       .shapes = {{64, 12, 12}, {128, 32, 32}, {128, 32, 8}},
                       .n_shapes = 3,
                       .tokens = {512, 2048},
                       .n_tokens = 2,
                       .n_quick_tokens = 1,
                       .seconds = 5.0,
                       .quick_seconds = 0.4},
    [BENCH_KERNELS] = {.seconds = 0.3, .quick_seconds = 0.05},
    [BENCH_DECODE] = {.schemes = {"kivi4", "kivi2"}, .n_schemes = 2, .n_quick_schemes = 2},
};

static bool choose_schemes(bench_options *o, const parse_state *p, eval_error *e)
{
    const mode_defaults *d = &defaults[o->mode];
    o->schemes_given = p->n_schemes > 0;
    const char *const *texts = p->n_schemes > 0 ? p->schemes : d->schemes;
    const size_t n = p->n_schemes > 0 ? p->n_schemes : o->quick ? d->n_quick_schemes : d->n_schemes;
    for (size_t i = 0; i < n; i++)
        if (!add_scheme(o, texts[i], e))
            return false;
    return true;
}

static void choose_grid(bench_options *o)
{
    const mode_defaults *d = &defaults[o->mode];
    if (o->n_shapes == 0) {
        o->n_shapes = d->n_shapes;
        memcpy(o->shapes, d->shapes, o->n_shapes * sizeof o->shapes[0]);
    }
    o->n_queries = o->n_queries > 0 ? o->n_queries : 1;
    if (o->n_tokens == 0) {
        const size_t n = o->quick ? d->n_quick_tokens : d->n_tokens;
        for (size_t i = 0; i < n; i++)
            if (d->tokens[i] >= o->n_queries)
                o->tokens[o->n_tokens++] = d->tokens[i];
        if (o->n_tokens == 0)
            o->tokens[o->n_tokens++] = o->n_queries;
    }
    if (o->n_threads == 0) {
        const int all = omp_get_max_threads();
        if (all > 1 && o->mode != BENCH_DECODE)
            o->threads[o->n_threads++] = 1;
        if (all == 1 || o->mode != BENCH_PHASES)
            o->threads[o->n_threads++] = all;
    }
    if (o->n_models == 0) {
        static const char *const models[] = {"default", "random:gpt2", "random:gpt2-medium"};
        o->n_models = o->quick ? 1 : 3;
        memcpy(o->models, models, o->n_models * sizeof models[0]);
    }
    if (o->seconds <= 0.0)
        o->seconds = o->quick ? d->quick_seconds : d->seconds;
    if (o->memory <= 0.0) {
        /* Whatever is asked for by default, leave half of what is free to others. */
        const double free_now = (double)sysconf(_SC_AVPHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
        o->memory = fmin(o->quick ? 2e9 : 4e9, 0.5 * free_now);
    }
}

/* Everything of a cell runs in turns, and nothing is left out without a word: so what one cell cannot hold is
 * refused. */
static bool check_sizes(const bench_options *o, eval_error *e)
{
    if (o->mode != BENCH_ATTEND)
        return true;
    size_t n_pairs = 0;
    for (size_t isa = 0; isa < o->n_isas; isa++)
        for (size_t i = 0; i < o->n_schemes; i++)
            if (bench_wants(o, isa, i))
                n_pairs++;
    if (n_pairs > BENCH_MAX_PAIRS)
        return eval_fail(e,
                         "%zu combinations of --scheme and --isa are too many for one run: at most %d, so "
                         "measure some of them in another one",
                         n_pairs, BENCH_MAX_PAIRS);
    /* With OpenBLAS, fp32 and fp16, and the first scheme in exact precision. */
    const size_t n_blas = o->n_queries == 1 ? 2 : 1, n_exact = o->quick ? 0 : 1;
    const size_t n = o->n_threads * (n_blas + 2 + n_pairs + n_exact);
    return n <= BENCH_MAX_COMPETITORS ||
           eval_fail(e,
                     "%zu combinations of --scheme, --isa and --threads, baselines included, are too many "
                     "for one run: at most %d, so measure some of them in another one",
                     n, BENCH_MAX_COMPETITORS);
}

bool bench_options_parse(bench_options *o, const char *doc, int argc, char **argv, eval_error *e)
{
    static const char after[] = "All competitors of one cell run in turns (A B A B ...); times are medians, "
                                "with the 10th and the 90th "
                                "percentile in the JSON and CSV reports.\n\n"
                                "Exit status: 0 good, 1 bad input or failure, 2 bad usage. See kvq-eval(1).";
    memset(o, 0, sizeof *o);
    o->seed = 1;
    parse_state p = {.o = o};
    arguments_parse(bench_options_list, parse_option, doc, after, argc, argv, &p);
    if (!kvq_isa()) {
        const char *wanted = getenv("KVQ_ISA");
        return eval_fail(e, "KVQ_ISA=%s: no instruction set of that name runs here", wanted ? wanted : "");
    }
    if (!choose_isas(o, e) || !choose_schemes(o, &p, e))
        return false;
    choose_grid(o);
    return check_sizes(o, e);
}
