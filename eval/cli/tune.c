/* `kvq-eval tune` (tune.h): options and messages; eval/tune does the work, tune_report.c says what it found.
 */
#define _GNU_SOURCE

#include "eval/cli/tune.h"

#include "eval/cli/input_options.h"
#include "eval/cli/tune_report.h"
#include "eval/common/arguments.h"
#include "eval/common/exit_status.h"
#include "eval/common/output_file.h"
#include "eval/common/stop.h"
#include "eval/tune/tune.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_BITS = 0x400,
    KEY_BYTES_PER_TOKEN,
    KEY_BYTES_AT,
    KEY_TUNE_WINDOWS,
    KEY_ROUNDS,
    KEY_OUT,
    KEY_SCHEME_FILE,
    KEY_JSON,
    KEY_GROUP,
    KEY_PRECISION,
    KEY_THREADS,
    KEY_QUIET,
};

const struct argp_option tune_options_list[] = {
    {NULL, 0, NULL, 0, "The size, one of:", 1},
    {"bits", KEY_BITS, "B", 0,
     "Bits that a key or value adds to a long cache, all layers' mean, metadata and tables counted", 1},
    {"bytes-per-token", KEY_BYTES_PER_TOKEN, "N", 0, "Bytes that a token adds to a long cache, all layers",
     1},
    {"bytes-at", KEY_BYTES_AT, "CONTEXT=BYTES", 0,
     "Bytes of a whole cache of CONTEXT tokens, such as 32k=100000000; windows and sinks count then", 1},

    {NULL, 0, NULL, 0, "What it is measured on; all as without a command:", 2},
    {"model", INPUT_KEY_MODEL, "PATH", 0, "The model", 2},
    {"text", INPUT_KEY_TEXT, "FILE", 0, "The text", 2},
    {"no-bos", INPUT_KEY_NO_BOS, NULL, 0, "Windows begin with the text", 2},
    {"context", INPUT_KEY_CONTEXT, "N", 0, "Context length", 2},
    {"tokens", INPUT_KEY_TOKENS, "N", 0, "Tokens of each window", 2},
    {"windows", INPUT_KEY_WINDOWS, "N", 0, "Windows taken from the text one after the other", 2},
    {"tune-windows", KEY_TUNE_WINDOWS, "N", 0,
     "The first N of them are for tuning (default: half); the others judge what came of it", 2},
    {"precision", KEY_PRECISION, "P", 0, "Arithmetic of attention: fast (default) or exact", 2},

    {NULL, 0, NULL, 0, "How:", 3},
    {"rounds", KEY_ROUNDS, "N", 0, "Rounds of trades between layers at most (default 6)", 3},
    {"out", KEY_OUT, "FILE", 0,
     "What is measured, as of kvq-eval sweep; what is in it is not measured again (default tune.jsonl)", 3},
    {"scheme-file", KEY_SCHEME_FILE, "FILE", 0, "Also write the scheme's text there", 3},
    {"json", KEY_JSON, "FILE", 0, "Write all that is said as JSON; - is standard output", 3},
    {"group", KEY_GROUP, "N", 0, "Schemes that share one fp32 pass over a window (default 8)", 3},
    {"threads", KEY_THREADS, "N", 0, "Threads (default: one per processor)", 3},
    {"quiet", KEY_QUIET, NULL, 0, "No progress on standard error", 3},

    {NULL, 0, NULL, 0, "Other:", -1},
    {0},
};

static const char *const precision_words[] = {"fast", "exact", NULL};

const char *const *tune_words(int key)
{
    return key == KEY_PRECISION ? precision_words : NULL;
}

typedef struct tune_options {
    inputs_request in;
    int n_budgets;
    double bits;
    choice_budget budget;
    size_t tune_windows, rounds, group;
    kvq_precision precision;
    int threads;
    const char *out, *scheme_file, *json;
    bool quiet;
} tune_options;

/* ---- options ---- */

static void parse_bytes_at(const struct argp_state *state, tune_options *o, const char *text)
{
    char context[32];
    const char *equals = strchr(text, '=');
    if (!equals || (size_t)(equals - text) >= sizeof context) {
        argp_error(state, "--bytes-at: expected CONTEXT=BYTES, such as 32k=100000000, not '%s'", text);
        return;
    }
    snprintf(context, sizeof context, "%.*s", (int)(equals - text), text);
    o->budget.context = argument_count(state, "bytes-at", context, 2, KVQ_MAX_TOKENS);
    o->budget.bytes = argument_real(state, "bytes-at", equals + 1, false, 1e18);
}

static void check(const struct argp_state *state, const tune_options *o)
{
    if (o->n_budgets != 1)
        argp_error(state,
                   "give one of --bits, --bytes-per-token and --bytes-at: how large may the cache be?");
    if (o->in.model && strncmp(o->in.model, "random:", 7) == 0)
        argp_error(state, "random weights have nothing to tune for");
    argument_different_files(state, "out", o->out, "scheme-file", o->scheme_file);
    argument_different_files(state, "out", o->out, "json", o->json);
    argument_different_files(state, "scheme-file", o->scheme_file, "json", o->json);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    tune_options *o = state->input;
    switch (key) {
    case KEY_BITS:
        o->bits = argument_real(state, "bits", arg, false, 32.0);
        o->n_budgets++;
        return 0;
    case KEY_BYTES_PER_TOKEN:
        o->budget.bytes = argument_real(state, "bytes-per-token", arg, false, 1e12);
        o->n_budgets++;
        return 0;
    case KEY_BYTES_AT:
        parse_bytes_at(state, o, arg);
        o->n_budgets++;
        return 0;
    case KEY_TUNE_WINDOWS:
        o->tune_windows = argument_number(state, "tune-windows", arg, 1, KVQ_MAX_TOKENS);
        return 0;
    case KEY_ROUNDS:
        o->rounds = argument_number(state, "rounds", arg, 0, 1000);
        return 0;
    case KEY_OUT:
        o->out = argument_file(state, "out", arg);
        if (strcmp(arg, "-") == 0)
            argp_error(state, "--out -: results are read again, which standard output is not; take a file");
        return 0;
    case KEY_SCHEME_FILE:
        o->scheme_file = argument_file(state, "scheme-file", arg);
        return 0;
    case KEY_JSON:
        o->json = argument_file(state, "json", arg);
        return 0;
    case KEY_GROUP:
        o->group = argument_number(state, "group", arg, 1, 1024);
        return 0;
    case KEY_PRECISION:
        o->precision = strcmp(argument_word(state, "precision", arg, precision_words), "fast") == 0
                           ? KVQ_PRECISION_FAST
                           : KVQ_PRECISION_EXACT;
        return 0;
    case KEY_THREADS:
        o->threads = (int)argument_number(state, "threads", arg, 1, 1024);
        return 0;
    case KEY_QUIET:
        o->quiet = true;
        return 0;
    case ARGP_KEY_END:
        check(state, o);
        return 0;
    default:
        return input_option(key, arg, state, &o->in);
    }
}

/* ---- the work ---- */

typedef struct session {
    const tune_options *o;
    progress line;
    sweep_state state;
    const char *phase;
} session;

static void show_phase(void *ctx, const char *what)
{
    session *s = ctx;
    s->phase = what;
    memset(&s->state, 0, sizeof s->state);
    progress_end(&s->line);
    progress_start(&s->line, s->o->quiet);
}

static void show_progress(void *ctx)
{
    session *s = ctx;
    const double n = (double)s->state.n_cells;
    if (n > 0.0) {
        progress_count(&s->line, n, "cells");
        progress_update(&s->line, s->phase, (double)s->state.thousandths / 1000.0 / n);
    }
}

static bool should_stop(void *ctx)
{
    (void)ctx;
    return stop_requested() != 0;
}

/* Windows for tuning and for the verdict, and the budget in bytes. */
static bool set_up(tune_config *c, const tune_options *o, const inputs *in, eval_error *e)
{
    const model_shape *s = &in->model->shape;
    c->n_tune_windows = o->tune_windows > 0 ? o->tune_windows : in->n_windows / 2;
    c->budget = o->budget;
    if (o->bits > 0.0)
        c->budget.bytes = o->bits / 8.0 * 2.0 * (double)(s->n_layer * s->n_kv_head * s->head_dim);
    if (c->n_tune_windows == 0 || c->n_tune_windows >= in->n_windows)
        return eval_fail(
            e,
            "%zu windows of %zu tokens, of which %zu are for tuning: at least one must be left for "
            "the verdict; take a longer text, fewer --tokens, or fewer --tune-windows",
            in->n_windows, in->n_tokens, c->n_tune_windows);
    return true;
}

static bool write_scheme(const char *path, const char *scheme, eval_error *e)
{
    output_file file;
    if (!output_file_open(&file, path, e))
        return false;
    fprintf(file.stream, "%s\n", scheme);
    return output_file_commit(&file, e);
}

static bool report(const tune_options *o, const tune_config *c, const tune_result *r, eval_error *e)
{
    if (!o->json || strcmp(o->json, "-") != 0)
        tune_report_people(stdout, c, r);
    return (!o->scheme_file || write_scheme(o->scheme_file, r->chosen.scheme, e)) &&
           (!o->json || tune_report_json(o->json, c, r, e));
}

static bool run(session *s, inputs *in, eval_error *e)
{
    const tune_options *o = s->o;
    const int n_threads = o->threads > 0 ? o->threads : omp_get_max_threads();
    omp_set_num_threads(n_threads);
    openblas_set_num_threads(n_threads);
    tune_config config = {.sweep = {.in = in,
                                    .precision = o->precision,
                                    .n_threads = n_threads,
                                    .group = o->group,
                                    .out = o->out,
                                    .state = &s->state,
                                    .progress = show_progress,
                                    .progress_ctx = s,
                                    .stop = should_stop,
                                    .stop_ctx = s},
                          .n_rounds = o->rounds,
                          .phase = show_phase,
                          .phase_ctx = s};
    tune_result r = {0};
    if (!inputs_load(in, &o->in, &s->line, e) || !set_up(&config, o, in, e))
        return false;
    stop_on_request(true);
    bool good = tune(&r, &config, e);
    progress_end(&s->line);
    good = good && report(o, &config, &r, e);
    tune_result_free(&r);
    return good;
}

int tune_main(const char *doc, int argc, char **argv)
{
    static tune_options o = {.in = {.seed = 1}, .out = "tune.jsonl", .group = 8, .rounds = 6};
    static session s = {.o = &o};
    inputs in = {0};
    eval_error e = {""};
    arguments_parse(tune_options_list, parse_option, doc, "", argc, argv, &o);
    const char *wanted = getenv("KVQ_ISA");
    bool good = kvq_isa() || eval_fail(&e, "KVQ_ISA=%s: no instruction set of that name runs here", wanted);
    good = good && output_file_check(o.out, &e) && (!o.json || output_file_check(o.json, &e)) &&
           (!o.scheme_file || output_file_check(o.scheme_file, &e));
    progress_start(&s.line, o.quiet);
    good = good && run(&s, &in, &e);
    progress_end(&s.line);
    stop_on_request(false);
    inputs_free(&in);
    if (stop_requested()) {
        fprintf(stderr,
                "kvq-eval: interrupted: what was measured is in %s; the same command goes on from there\n",
                o.out);
        return STATUS_SIGNAL + stop_requested();
    }
    if (!good)
        fprintf(stderr, "kvq-eval: %s\n", e.text);
    return good ? STATUS_GOOD : STATUS_BAD_INPUT;
}
