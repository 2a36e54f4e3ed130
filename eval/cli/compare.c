/* `kvq-eval compare` (compare.h): from results files, or measured now. */
#define _GNU_SOURCE

#include "eval/cli/compare.h"

#include "eval/cli/input_options.h"
#include "eval/common/arguments.h"
#include "eval/common/exit_status.h"
#include "eval/common/output_file.h"
#include "eval/common/stop.h"
#include "eval/measure/evaluate.h"
#include "eval/report/compare.h"
#include "eval/results/results.h"

#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_KV = 0x400, KEY_PROMPT, KEY_PRECISION, KEY_SEED, KEY_JSON, KEY_THREADS, KEY_QUIET };

const struct argp_option compare_options_list[] = {
    {NULL, 0, NULL, 0, "What they are measured on, if there are no results; all as without a command:", 1},
    {"model", INPUT_KEY_MODEL, "PATH", 0, "The model", 1},
    {"kv", KEY_KV, "FILE", 0, "Instead of a model: a recording", 1},
    {"text", INPUT_KEY_TEXT, "FILE", 0, "The text", 1},
    {"no-bos", INPUT_KEY_NO_BOS, NULL, 0, "Windows begin with the text", 1},
    {"context", INPUT_KEY_CONTEXT, "N", 0, "Context length", 1},
    {"tokens", INPUT_KEY_TOKENS, "N", 0, "Tokens of each window", 1},
    {"windows", INPUT_KEY_WINDOWS, "N", 0, "Windows taken from the text one after the other", 1},
    {"prompt", KEY_PROMPT, "N", 0, "The first N tokens of a window are not counted", 1},
    {"precision", KEY_PRECISION, "P", 0, "Arithmetic of attention: fast (default) or exact", 1},
    {"threads", KEY_THREADS, "N", 0, "Threads (default: one per processor)", 1},

    {NULL, 0, NULL, 0, "How:", 2},
    {"bootstrap-seed", KEY_SEED, "N", 0, "Seed of the draws that give standard errors and intervals", 2},
    {"json", KEY_JSON, "FILE", 0, "Write a JSON line for each comparison; - is standard output", 2},
    {"quiet", KEY_QUIET, NULL, 0, "No progress on standard error", 2},

    {NULL, 0, NULL, 0, "Other:", -1},
    {0},
};

static const char *const precision_words[] = {"fast", "exact", NULL};

const char *const *compare_words(int key)
{
    return key == KEY_PRECISION ? precision_words : NULL;
}

typedef struct request {
    inputs_request in;
    const char *texts[2];
    size_t n_texts;
    const char **files; /* as many as there are words at most */
    size_t n_files;
    kvq_precision precision;
    int threads;
    uint64_t seed;
    const char *json;
    bool quiet, measures; /* an option of measuring was given */
    kvq_scheme *schemes[2];
    output_file out;
} request;

/* ---- options ---- */

static void check(const struct argp_state *state, const request *r)
{
    if (r->n_texts < 2)
        argp_error(state, "which two schemes? For example: kvq-eval compare kvq2 kivi2");
    if (r->n_files > 0 && r->measures)
        argp_error(state,
                   "results are there already: options that say what is measured mean nothing beside them");
    if (r->in.kv && (r->in.model || r->in.text))
        argp_error(state, "--kv and --model or --text: a recording has no model to run and no text");
}

static error_t parse_own(int key, char *arg, const struct argp_state *state, request *r)
{
    switch (key) {
    case KEY_KV:
        r->in.kv = argument_file(state, "kv", arg);
        return 0;
    case KEY_PROMPT:
        r->in.prompt = argument_number(state, "prompt", arg, 0, KVQ_MAX_TOKENS);
        r->in.prompt_set = true;
        return 0;
    case KEY_PRECISION:
        r->precision = strcmp(argument_word(state, "precision", arg, precision_words), "fast") == 0
                           ? KVQ_PRECISION_FAST
                           : KVQ_PRECISION_EXACT;
        return 0;
    case KEY_THREADS:
        r->threads = (int)argument_number(state, "threads", arg, 1, 1024);
        return 0;
    default:
        return input_option(key, arg, state, &r->in);
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case KEY_SEED:
        r->seed = argument_number(state, "bootstrap-seed", arg, 0, INT64_MAX);
        return 0;
    case KEY_JSON:
        r->json = argument_file(state, "json", arg);
        return 0;
    case KEY_QUIET:
        r->quiet = true;
        return 0;
    case ARGP_KEY_ARG:
        if (r->n_texts < 2)
            r->texts[r->n_texts++] = arg;
        else
            r->files[r->n_files++] = arg;
        return 0;
    case ARGP_KEY_END:
        check(state, r);
        return 0;
    default: {
        const error_t status = parse_own(key, arg, state, r);
        r->measures = r->measures || status == 0;
        return status;
    }
    }
}

/* ---- the work ---- */

static bool say(request *r, const experiment *x, const cell *const *a, const cell *const *b, size_t n,
                eval_error *e)
{
    if (r->json && !report_compare_json(r->out.stream, x, a, b, n, r->seed))
        return eval_fail(e, "out of memory for the JSON report");
    if (!r->out.is_stdout)
        report_compare(stdout, x, a, b, n, r->seed);
    return true;
}

/* The windows of one experiment that both schemes were measured on. */
static bool compare_in(request *r, const results *all, size_t which, size_t *n_said, eval_error *e)
{
    const char *of_a = kvq_scheme_text(r->schemes[0]), *of_b = kvq_scheme_text(r->schemes[1]);
    const cell **a = calloc(2 * all->n_entries + 1, sizeof a[0]), **b = a ? a + all->n_entries : NULL;
    if (!a)
        return eval_fail(e, "out of memory");
    const size_t n_a = results_of_scheme(all, which, of_a, a, all->n_entries);
    const size_t n_b = results_of_scheme(all, which, of_b, b, all->n_entries);
    const size_t n = results_pair(a, n_a, b, n_b);
    if (n > 0 && *n_said > 0 && !r->out.is_stdout)
        fputc('\n', stdout);
    const bool good = n == 0 || say(r, &all->experiments[which], a, b, n, e);
    *n_said += n > 0 ? 1 : 0;
    free(a);
    return good;
}

static bool compare_results(request *r, eval_error *e)
{
    results all = {0};
    size_t n_said = 0;
    if (!results_load_some(&all, r->files, r->n_files, e))
        return false;
    results_note_skipped(stderr, &all);
    bool good = true;
    for (size_t i = 0; good && i < all.n_experiments; i++)
        good = compare_in(r, &all, i, &n_said, e);
    if (good && n_said == 0)
        good = eval_fail(e, "%s: there is no window that both %.300s and %.300s were measured on",
                         r->n_files == 1 ? r->files[0] : "the results", kvq_scheme_text(r->schemes[0]),
                         kvq_scheme_text(r->schemes[1]));
    results_free(&all);
    return good;
}

static void show_progress(void *ctx, double fraction)
{
    progress_update(ctx, "decoding", fraction);
}

static bool should_stop(void *ctx)
{
    (void)ctx;
    return stop_requested() != 0;
}

/* The run of a scheme: fp32 is the first one's. */
static const evaluate_run *run_of(const evaluation *ev, const kvq_scheme *scheme)
{
    for (size_t i = 0; i < ev->n_runs; i++)
        if (strcmp(ev->runs[i].text, kvq_scheme_text(scheme)) == 0)
            return &ev->runs[i];
    return NULL;
}

static bool compare_evaluation(request *r, const evaluate_config *config, const inputs *in,
                               const evaluation *ev, eval_error *e)
{
    experiment x;
    const evaluate_run *run_a = run_of(ev, r->schemes[0]), *run_b = run_of(ev, r->schemes[1]);
    if (!evaluate_experiment(&x, config, in->model_name, in->text_name, in->bos_id, r->in.seed, e))
        return false;
    const cell **a = run_a ? evaluate_cells(ev, run_a) : NULL, **b = run_b ? evaluate_cells(ev, run_b) : NULL;
    const bool good = a && b ? say(r, &x, a, b, ev->n_windows, e) : eval_fail(e, "out of memory");
    free(a);
    free(b);
    return good;
}

static bool compare_now(request *r, eval_error *e)
{
    inputs in = {0};
    progress line;
    evaluation ev = {0};
    progress_start(&line, r->quiet);
    bool good = inputs_load(&in, &r->in, &line, e);
    const evaluate_config config = {.model = in.model,
                                    .recording = in.recording,
                                    .ids = in.ids,
                                    .n_windows = in.n_windows,
                                    .n_tokens = in.n_tokens,
                                    .n_prompt = in.n_prompt,
                                    .schemes = r->schemes,
                                    .n_schemes = 2,
                                    .precision = r->precision,
                                    .n_threads = r->threads,
                                    .progress = show_progress,
                                    .progress_ctx = &line,
                                    .stop = should_stop};
    progress_count(&line, (double)in.n_windows * (double)(in.n_tokens - in.n_prompt), "steps");
    stop_on_request(true);
    good = good && evaluate(&ev, &config, e);
    stop_on_request(false);
    progress_end(&line);
    if (good && evaluation_is_partial(&ev))
        fprintf(stderr, "kvq-eval: interrupted: %zu of %zu windows are done\n", ev.n_windows,
                ev.n_windows_asked);
    good = good && compare_evaluation(r, &config, &in, &ev, e);
    evaluation_free(&ev);
    inputs_free(&in);
    return good;
}

static bool run(request *r, eval_error *e)
{
    for (size_t i = 0; i < 2; i++)
        if (!evaluate_make_scheme(&r->schemes[i], r->texts[i], e))
            return false;
    if (strcmp(kvq_scheme_text(r->schemes[0]), kvq_scheme_text(r->schemes[1])) == 0)
        return eval_fail(e, "%.200s and %.200s are the same scheme", r->texts[0], r->texts[1]);
    if (r->threads > 0) {
        omp_set_num_threads(r->threads);
        openblas_set_num_threads(r->threads);
    }
    if (r->json && !output_file_open(&r->out, r->json, e))
        return false;
    const bool good = r->n_files > 0 ? compare_results(r, e) : compare_now(r, e);
    if (!good)
        output_file_discard(&r->out);
    return good && (!r->json || output_file_commit(&r->out, e));
}

int compare_main(const char *doc, int argc, char **argv)
{
    static request r = {.in = {.seed = 1}, .seed = STATISTICS_SEED};
    eval_error e = {""};
    const char *wanted = getenv("KVQ_ISA");
    r.files = calloc((size_t)argc + 1, sizeof r.files[0]);
    bool good = r.files || eval_fail(&e, "out of memory");
    if (good)
        arguments_parse_words(compare_options_list, parse_option, "A B [RESULTS...]", doc, "", argc, argv,
                              &r);
    good =
        good && (kvq_isa() || eval_fail(&e, "KVQ_ISA=%s: no instruction set of that name runs here", wanted));
    good = good && run(&r, &e);
    kvq_scheme_free(r.schemes[0]);
    kvq_scheme_free(r.schemes[1]);
    free(r.files);
    if (stop_requested()) {
        if (!good)
            fputs("kvq-eval: interrupted before a window was done\n", stderr);
        return STATUS_SIGNAL + stop_requested();
    }
    if (!good)
        fprintf(stderr, "kvq-eval: %s\n", e.text);
    return good ? STATUS_GOOD : STATUS_BAD_INPUT;
}
