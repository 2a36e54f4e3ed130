/* `kvq-eval sweep` (sweep.h): schemes and windows asked for, processes, messages; eval/sweep does the work.
 */
#define _GNU_SOURCE

#include "eval/cli/sweep.h"

#include "eval/cli/input_options.h"
#include "eval/cli/sweep_table.h"
#include "eval/common/arguments.h"
#include "eval/common/exit_status.h"
#include "eval/common/output_file.h"
#include "eval/common/stop.h"
#include "eval/sweep/append.h"
#include "eval/sweep/jobs.h"

#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_SCHEME = 0x400,
    KEY_SCHEMES,
    KEY_GRID,
    KEY_OUT,
    KEY_GROUP,
    KEY_SHARD,
    KEY_JOBS,
    KEY_KV,
    KEY_PROMPT,
    KEY_PRECISION,
    KEY_APPEND_ONLY,
    KEY_THREADS,
    KEY_QUIET,
};

const struct argp_option sweep_options_list[] = {
    {NULL, 0, NULL, 0,
     "The schemes, beside fp32 (default: --grid families); all may be given many times:", 1},
    {"scheme", KEY_SCHEME, "TEXT", 0, "One scheme", 1},
    {"schemes", KEY_SCHEMES, "FILE", 0, "One scheme a line; # begins a comment; - is standard input", 1},
    {"grid", KEY_GRID, "GRID", 0,
     "All combinations of factors KEY=VALUE,VALUE,... with spaces between them, such as 'base=kvq2,kivi2 "
     "s=0,4' or 'k=tier:1.5,2,3 v=rot:2 hh=0,2'; families: some 70 schemes of every kind there is",
     1},

    {NULL, 0, NULL, 0, "What they are measured on; all as without a command:", 2},
    {"model", INPUT_KEY_MODEL, "PATH", 0, "The model", 2},
    {"kv", KEY_KV, "FILE", 0, "Instead of a model: a recording", 2},
    {"text", INPUT_KEY_TEXT, "FILE", 0, "The text; - is standard input", 2},
    {"no-bos", INPUT_KEY_NO_BOS, NULL, 0, "Windows begin with the text", 2},
    {"context", INPUT_KEY_CONTEXT, "N", 0, "Context length", 2},
    {"tokens", INPUT_KEY_TOKENS, "N", 0, "Tokens of each window", 2},
    {"windows", INPUT_KEY_WINDOWS, "N", 0,
     "Windows taken from the text one after the other (default: up to 2)", 2},
    {"prompt", KEY_PROMPT, "N", 0, "The first N tokens of a window are not counted", 2},
    {"precision", KEY_PRECISION, "P", 0, "Arithmetic of attention: fast (default) or exact", 2},
    {"append-only", KEY_APPEND_ONLY, NULL, 0, "Let queries teach the caches nothing", 2},
    {"seed", INPUT_KEY_SEED, "N", 0, "Seed of random: weights (default 1)", 2},

    {NULL, 0, NULL, 0, "How:", 3},
    {"out", KEY_OUT, "FILE", 0,
     "Results, to which lines are appended; what is in it is not measured again (default sweep.jsonl)", 3},
    {"group", KEY_GROUP, "N", 0,
     "Schemes that share one fp32 pass over a window (default 4): what each thread loses at most if it is "
     "killed",
     3},
    {"threads", KEY_THREADS, "N", 0, "Threads of all processes together (default: one per processor)", 3},
    {"jobs", KEY_JOBS, "N", 0, "Processes that divide the work, and the threads (default 1)", 3},
    {"shard", KEY_SHARD, "I/N", 0,
     "Measure part I of N of the cells only (default: what Slurm's array or MPI says in the environment, "
     "else "
     "1/1)",
     3},
    {"quiet", KEY_QUIET, NULL, 0, "Neither progress nor counts on standard error", 3},

    {NULL, 0, NULL, 0, "Other:", -1},
    {0},
};

static const char *const precision_words[] = {"fast", "exact", NULL};

const char *const *sweep_words(int key)
{
    return key == KEY_PRECISION ? precision_words : NULL;
}

/* ---- options ---- */

/* Where schemes come from, in the order given. */
typedef struct source {
    int key;
    const char *text;
} source;

enum { MAX_SOURCES = 256, MAX_GROUP = 1024, DEFAULT_WINDOWS = 2 };

typedef struct sweep_options {
    inputs_request in;
    source sources[MAX_SOURCES];
    size_t n_sources;
    const char *out, *shard;
    size_t group, jobs;
    int threads;
    kvq_precision precision;
    bool append_only, quiet;
} sweep_options;

/* A recording is instead of a model and its text. */
static void check_recording(const struct argp_state *state, const inputs_request *in)
{
    const char *other = in->model ? "model" : in->text ? "text" : in->context > 0 ? "context" : NULL;
    if (in->kv && other)
        argp_error(state, "--kv and --%s: a recording has no model to run and no text; take one of them",
                   other);
}

static void check_stdin(const struct argp_state *state, const sweep_options *o)
{
    int n = o->in.text && strcmp(o->in.text, "-") == 0;
    if (n > 0 && o->jobs > 1)
        argp_error(state, "--text -: standard input cannot be read by each of --jobs; take a file");
    for (size_t i = 0; i < o->n_sources; i++)
        n += o->sources[i].key == KEY_SCHEMES && strcmp(o->sources[i].text, "-") == 0;
    if (n > 1)
        argp_error(state, "standard input can be read only once, by --text or one --schemes");
}

static void add_source(const struct argp_state *state, sweep_options *o, int key, const char *text)
{
    if (o->n_sources == MAX_SOURCES)
        argp_error(state, "at most %d of --scheme, --schemes and --grid", (int)MAX_SOURCES);
    o->sources[o->n_sources++] = (source){key, text};
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    sweep_options *o = state->input;
    switch (key) {
    case KEY_SCHEME:
    case KEY_GRID:
        add_source(state, o, key, arg);
        return 0;
    case KEY_SCHEMES:
        add_source(state, o, key, argument_file(state, "schemes", arg));
        return 0;
    case KEY_OUT:
        o->out = argument_file(state, "out", arg);
        if (strcmp(arg, "-") == 0)
            argp_error(state, "--out -: results are read again, which standard output is not; take a file");
        return 0;
    case KEY_GROUP:
        o->group = argument_number(state, "group", arg, 1, MAX_GROUP);
        return 0;
    case KEY_SHARD:
        o->shard = arg;
        return 0;
    case KEY_JOBS:
        o->jobs = argument_number(state, "jobs", arg, 1, JOBS_MAX);
        return 0;
    case KEY_KV:
        o->in.kv = argument_file(state, "kv", arg);
        return 0;
    case KEY_PROMPT:
        o->in.prompt = argument_number(state, "prompt", arg, 0, KVQ_MAX_TOKENS);
        return 0;
    case KEY_PRECISION:
        o->precision = strcmp(argument_word(state, "precision", arg, precision_words), "fast") == 0
                           ? KVQ_PRECISION_FAST
                           : KVQ_PRECISION_EXACT;
        return 0;
    case KEY_APPEND_ONLY:
        o->append_only = true;
        return 0;
    case KEY_THREADS:
        o->threads = (int)argument_number(state, "threads", arg, 1, 1024);
        return 0;
    case KEY_QUIET:
        o->quiet = true;
        return 0;
    case ARGP_KEY_END:
        check_recording(state, &o->in);
        check_stdin(state, o);
        return 0;
    default:
        return input_option(key, arg, state, &o->in);
    }
}

static bool make_list(scheme_list *list, const sweep_options *o, eval_error *e)
{
    bool good = o->n_sources > 0 || scheme_list_add_grid(list, "families", e);
    for (size_t i = 0; good && i < o->n_sources; i++) {
        const source *s = &o->sources[i];
        good = s->key == KEY_SCHEME    ? scheme_list_add(list, "--scheme", s->text, e)
               : s->key == KEY_SCHEMES ? scheme_list_add_file(list, s->text, e)
                                       : scheme_list_add_grid(list, s->text, e);
    }
    return good;
}

/* ---- messages ---- */

/* One process of the sweep. */
typedef struct session {
    const sweep_options *o;
    jobs jobs;
    progress line; /* of number 0 */
    bool counted;  /* the line has its unit */
} session;

static void clear_line(session *s)
{
    if (s->line.drawn)
        fputs("\r\033[K", stderr);
    s->line.drawn = false;
}

static void show_progress(void *ctx)
{
    session *s = ctx;
    sweep_state sum;
    if (s->jobs.mine > 0)
        return;
    if (stop_requested())
        atomic_store(s->jobs.stop, true);
    jobs_sum(&s->jobs, &sum);
    const double n = (double)sum.n_cells;
    if (!s->counted)
        progress_count(&s->line, n, "cells");
    s->counted = true;
    s->line.n_units = n; /* other processes may have told of theirs since */
    if (sum.n_cells > 0)
        progress_update(&s->line, "sweeping", (double)sum.thousandths / 1000.0 / n);
}

static bool should_stop(void *ctx)
{
    const session *s = ctx;
    return stop_requested() != 0 || atomic_load(s->jobs.stop);
}

static void say_failed(void *ctx, const char *scheme, size_t window, const eval_error *why)
{
    clear_line(ctx);
    fprintf(stderr, "kvq-eval: sweep: scheme %s, window %zu: %s\n", scheme, window, why->text);
}

static void say_left_out(const session *s, const scheme_list *list, const sweep_plan *plan)
{
    if (s->o->quiet)
        return;
    if (list->n_invalid > 0)
        fprintf(stderr, "kvq-eval: note: %zu combination%s of the grid make%s no scheme, such as %s\n",
                list->n_invalid, list->n_invalid == 1 ? "" : "s", list->n_invalid == 1 ? "s" : "",
                list->first_invalid);
    if (plan->n_unsuited > 0)
        fprintf(stderr, "kvq-eval: note: %zu scheme%s left out, which this model's caches cannot have: %s\n",
                plan->n_unsuited, plan->n_unsuited == 1 ? "" : "s", plan->first_unsuited);
}

/* ---- the work ---- */

/* This process's part. `in` and `plan` are for the table, and to be freed in every case. */
static bool run_part(session *s, const scheme_list *list, const shard *part, inputs *in, sweep_plan *plan,
                     eval_error *e)
{
    const sweep_options *o = s->o;
    const int all = o->threads > 0 ? o->threads : omp_get_max_threads(), n = (int)s->jobs.n;
    const int own = all / n + ((int)s->jobs.mine < all % n ? 1 : 0), n_threads = own > 0 ? own : 1;
    omp_set_num_threads(n_threads);
    openblas_set_num_threads(n_threads);
    sweep_config config = {.in = in,
                           .list = list,
                           .precision = o->precision,
                           .append_only = o->append_only,
                           .seed = o->in.seed,
                           .n_threads = n_threads,
                           .group = o->group,
                           .shard = *part,
                           .out = o->out,
                           .state = &s->jobs.all[s->jobs.mine].state,
                           .progress = show_progress,
                           .progress_ctx = s,
                           .stop = should_stop,
                           .stop_ctx = s,
                           .failed = say_failed,
                           .failed_ctx = s};
    shard_divide(&config.shard, s->jobs.mine, s->jobs.n);
    if (!inputs_load(in, &o->in, &s->line, e))
        return false;
    if (o->in.windows == 0 && in->n_windows > DEFAULT_WINDOWS)
        in->n_windows = DEFAULT_WINDOWS;
    if (!sweep_plan_make(plan, &config, e))
        return false;
    clear_line(s);
    if (s->jobs.mine == 0 && inputs_note(in))
        fprintf(stderr, "kvq-eval: note: %s: %s\n", in->model_name, inputs_note(in));
    if (s->jobs.mine == 0)
        say_left_out(s, list, plan);
    stop_on_request(true);
    const bool good = sweep_run(&config, plan, e);
    return good;
}

/* How many of the sweep's cells are in the file, and the table if all of them are that could be measured. */
static bool report(const session *s, const sweep_plan *plan, const sweep_state *sum, eval_error *e)
{
    results r = {0};
    size_t n = 0;
    const size_t all = plan->n_windows * plan->n_schemes;
    if (!sweep_load(&r, s->o->out, e))
        return false;
    results_note_skipped(stderr, &r);
    for (size_t i = 0; i < plan->n_schemes; i++)
        for (size_t w = 0; w < plan->n_windows; w++)
            n += results_find(&r, sweep_key(plan, i, w)) ? 1 : 0;
    if (!s->o->quiet)
        fprintf(stderr, "kvq-eval: %s: %zu of %zu cells, %zu of them measured now%s\n", s->o->out, n, all,
                (size_t)sum->n_done, r.n_cut > 0 ? "; a line that was cut short is left out" : "");
    const bool good = n + sum->n_failed < all || sweep_table(stdout, &r, plan, e);
    results_free(&r);
    return good;
}

/* What number 0 does when its own part is done, well or not. */
static int finish(session *s, bool good, const sweep_plan *plan, eval_error *e)
{
    sweep_state sum;
    eval_error others = {""};
    if (!good)
        atomic_store(s->jobs.stop, true);
    const bool all_good = jobs_wait(&s->jobs, show_progress, s, &others);
    jobs_sum(&s->jobs, &sum);
    progress_end(&s->line);
    if (stop_requested()) {
        fprintf(
            stderr,
            "kvq-eval: interrupted: %zu of %zu cells that were missing are done and in %s; the same command "
            "goes on from there\n",
            (size_t)sum.n_done, (size_t)sum.n_cells, s->o->out);
        return STATUS_SIGNAL + stop_requested();
    }
    if (good && !all_good)
        *e = others;
    good = good && all_good;
    good = good && report(s, plan, &sum, e);
    if (!good)
        fprintf(stderr, "kvq-eval: %s\n", e->text);
    else if (sum.n_failed > 0)
        fprintf(stderr, "kvq-eval: %zu cell%s could not be measured; the reasons stand above\n",
                (size_t)sum.n_failed, sum.n_failed == 1 ? "" : "s");
    return good && sum.n_failed == 0 ? STATUS_GOOD : STATUS_BAD_INPUT;
}

static int run_session(session *s, const scheme_list *list, const shard *part)
{
    inputs in = {0};
    sweep_plan plan = {0};
    eval_error e = {""};
    if (!jobs_start(&s->jobs, s->o->jobs, &e)) {
        fprintf(stderr, "kvq-eval: %s\n", e.text);
        return STATUS_BAD_INPUT;
    }
    progress_start(&s->line, s->o->quiet || s->jobs.mine > 0);
    const bool good = run_part(s, list, part, &in, &plan, &e);
    int status = good ? STATUS_GOOD : STATUS_BAD_INPUT;
    if (s->jobs.mine == 0)
        status = finish(s, good, &plan, &e);
    else if (!good && !should_stop(s))
        snprintf(s->jobs.all[s->jobs.mine].error, sizeof e.text, "%s", e.text);
    stop_on_request(false);
    sweep_plan_free(&plan);
    inputs_free(&in);
    jobs_free(&s->jobs);
    return status;
}

int sweep_main(const char *doc, int argc, char **argv)
{
    static sweep_options o = {.in = {.seed = 1}, .out = "sweep.jsonl", .group = 4, .jobs = 1};
    static session s = {.o = &o};
    scheme_list list = {0};
    shard part = {.n = 1};
    eval_error e = {""};
    arguments_parse(sweep_options_list, parse_option, doc, "", argc, argv, &o);
    const char *wanted = getenv("KVQ_ISA");
    bool good = kvq_isa() || eval_fail(&e, "KVQ_ISA=%s: no instruction set of that name runs here", wanted);
    good = good && (o.shard ? shard_parse(&part, o.shard, &e) : shard_from_environment(&part, &e));
    good = good && make_list(&list, &o, &e) && output_file_check(o.out, &e) && append_check(o.out, &e);
    if (good && part.n > 1 && !o.quiet)
        fprintf(stderr, "kvq-eval: part %zu of %zu of the cells (%s)\n", part.index + 1, part.n, part.source);
    int status = STATUS_BAD_INPUT;
    if (good)
        status = run_session(&s, &list, &part);
    else
        fprintf(stderr, "kvq-eval: %s\n", e.text);
    scheme_list_free(&list);
    return status;
}
