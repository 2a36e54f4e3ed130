/* kvq-eval without a command (evaluation.h): load, measure, report. */
#define _POSIX_C_SOURCE 200809L

#include "eval/cli/evaluation.h"

#include "eval/cli/generation.h"
#include "eval/cli/limits.h"
#include "eval/cli/options.h"
#include "eval/common/exit_status.h"
#include "eval/common/output_file.h"
#include "eval/common/progress.h"
#include "eval/common/stop.h"
#include "eval/common/terminal.h"
#include "eval/measure/divergence.h"
#include "eval/measure/evaluate.h"
#include "eval/measure/memory.h"
#include "eval/report/report.h"

#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int complain(const eval_error *e)
{
    fprintf(stderr, "kvq-eval: %s\n", e->text);
    return STATUS_BAD_INPUT;
}

static bool is_stdout(const char *path)
{
    return path && strcmp(path, "-") == 0;
}

static bool want_colour(void)
{
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(STDOUT_FILENO) == 1 && !(no_color && no_color[0] != '\0') &&
           !(term && strcmp(term, "dumb") == 0);
}

/* ---- the run ---- */

static void show_progress(void *ctx, double fraction)
{
    progress_update(ctx, "decoding", fraction);
}

static bool should_stop(void *ctx)
{
    (void)ctx;
    return stop_requested() != 0;
}

static void show_greedy(void *ctx, double fraction)
{
    progress_update(ctx, "greedy text", fraction);
}

static evaluate_config config_of(const inputs *in, const options *o, progress *line)
{
    return (evaluate_config){.model = in->model,
                             .recording = in->recording,
                             .ids = in->ids,
                             .n_windows = in->n_windows,
                             .n_tokens = in->n_tokens,
                             .n_prompt = in->n_prompt,
                             .schemes = o->schemes,
                             .n_schemes = o->n_schemes,
                             .precision = o->precision,
                             .append_only = o->append_only,
                             .bound_every =
                                 o->bound_set ? o->bound : evaluate_default_bound_every(in->n_tokens),
                             .n_threads = o->threads,
                             .progress = show_progress,
                             .progress_ctx = line,
                             .stop = should_stop};
}

/* Run the windows, with the logits' header before them and the progress line around. */
static bool measure(evaluation *ev, const inputs *in, const options *o, FILE *logits, progress *line,
                    eval_error *e)
{
    if (logits)
        report_npy_header(logits, in->n_tokens, in->model->shape.vocab_size);
    progress_count(line, (double)in->n_windows * (double)(in->n_tokens - in->n_prompt), "steps");
    evaluate_config config = config_of(in, o, line);
    config.logits_stream = logits;
    progress_update(line, "decoding", 0.0);
    stop_on_request(true);
    const bool good = evaluate(ev, &config, e);
    stop_on_request(false);
    return good;
}

/* Of each window, the prompt that is continued: as asked for, or half of what the text to be written leaves.
 */
static bool find_greedy_prompt(size_t *n_prompt, const inputs *in, const options *o, eval_error *e)
{
    const size_t most = in->n_tokens > o->greedy ? in->n_tokens - o->greedy : 0;
    *n_prompt = o->in.prompt_set ? in->n_prompt : (most + 1) / 2;
    if (most == 0)
        return eval_fail(e, "--greedy %zu: windows of %zu tokens have no room for a prompt before it",
                         o->greedy, in->n_tokens);
    if (*n_prompt == 0)
        return eval_fail(e, "--prompt 0: --greedy needs a prompt of at least 1 token");
    return *n_prompt <= most ||
           eval_fail(e, "--greedy %zu: with a prompt of %zu over the windows' %zu tokens", o->greedy,
                     *n_prompt, in->n_tokens);
}

/* What is written after prompts of each window, if that is asked for. */
static bool measure_greedy(divergence *d, const inputs *in, const options *o, size_t n_prompt, progress *line,
                           eval_error *e)
{
    if (o->greedy == 0)
        return true;
    progress_count(line, (double)in->n_windows * (double)o->greedy, "tokens");
    evaluate_config config = config_of(in, o, line);
    config.progress = show_greedy;
    stop_on_request(true);
    const bool good = divergence_measure(d, &config, n_prompt, o->greedy, e);
    stop_on_request(false);
    return good;
}

/* ---- the reports ---- */

static bool write_json(const char *path, const report_context *context, const evaluation *ev, eval_error *e)
{
    output_file file;
    if (!output_file_open(&file, path, e))
        return false;
    if (!report_json(file.stream, context, ev, e)) {
        output_file_discard(&file);
        return false;
    }
    return output_file_commit(&file, e);
}

static bool write_csv(const char *path, const evaluation *ev, eval_error *e)
{
    output_file file;
    if (!output_file_open(&file, path, e))
        return false;
    report_csv(file.stream, ev);
    return output_file_commit(&file, e);
}

static bool write_per_token(const options *o, const inputs *in, const evaluation *ev, eval_error *e)
{
    output_file file;
    if (!output_file_open(&file, o->per_token, e))
        return false;
    report_per_token(file.stream, ev, in->ids);
    return output_file_commit(&file, e);
}

static bool finish_logits(output_file *logits, const evaluation *ev, eval_error *e)
{
    if (ev->logits_failed.text[0] == '\0')
        return output_file_commit(logits, e);
    /* evaluate knows why, but not the name */
    const char *name = logits->is_stdout ? "standard output" : logits->path;
    output_file_discard(logits);
    return eval_fail(e, "%s: %s", name, ev->logits_failed.text);
}

/* First what is on the screen, then the files: one that cannot be written must not cost the run. */
static int write_reports(const options *o, const inputs *in, const report_context *context,
                         const evaluation *ev, output_file *logits)
{
    eval_error e = {""};
    int status = STATUS_GOOD;
    if (!is_stdout(o->json) && !is_stdout(o->csv) && !is_stdout(o->logits) && !is_stdout(o->per_token)) {
        const report_style style = {.markdown = o->markdown,
                                    .colour = !o->markdown && want_colour(),
                                    .per_layer = o->per_layer,
                                    .width = terminal_width()};
        report_people(stdout, context, ev, &style);
        fflush(stdout); /* close_stdout says if it failed */
    }
    if (o->logits && !finish_logits(logits, ev, &e))
        status = complain(&e);
    if (o->json && !write_json(o->json, context, ev, &e))
        status = complain(&e);
    if (o->csv && !write_csv(o->csv, ev, &e))
        status = complain(&e);
    if (o->per_token && !write_per_token(o, in, ev, &e))
        status = complain(&e);
    return status;
}

static bool is_partial(const evaluation *ev, const divergence *greedy)
{
    return evaluation_is_partial(ev) || greedy->n_windows < greedy->n_windows_asked;
}

static int say_stopped(const evaluation *ev, const divergence *greedy)
{
    fprintf(stderr, "kvq-eval: interrupted: %zu of %zu windows are done", ev->n_windows, ev->n_windows_asked);
    if (greedy->n_windows < greedy->n_windows_asked)
        fprintf(stderr, ", and the greedy text of %zu", greedy->n_windows);
    fputc('\n', stderr);
    return STATUS_SIGNAL + stop_requested();
}

static int run_evaluation(const inputs *in, const options *o, const char *isa, progress *line)
{
    evaluation ev = {0};
    eval_error e = {""};
    output_file logits = {0};
    divergence greedy = {0};
    size_t n_greedy_prompt = 0;
    if (o->greedy > 0 && !find_greedy_prompt(&n_greedy_prompt, in, o, &e))
        return complain(&e);
    if (o->max_attn_error.set && in->recording && !recording_has_queries(in->recording)) {
        (void)eval_fail(&e, "--max-attn-error: %s has no queries, so attention cannot be measured",
                        in->model_name);
        return complain(&e);
    }
    if ((o->json && !output_file_check(o->json, &e)) || (o->csv && !output_file_check(o->csv, &e)) ||
        (o->per_token && !output_file_check(o->per_token, &e)) ||
        (o->logits && !output_file_open(&logits, o->logits, &e)))
        return complain(&e); /* better now than after the work */
    const bool measured = measure(&ev, in, o, logits.stream, line, &e);
    const bool good = measured && measure_greedy(&greedy, in, o, n_greedy_prompt, line, &e);
    progress_end(line);
    if (!good) {
        evaluation_free(&ev);
        output_file_discard(&logits);
        if (measured || !stop_requested())
            return complain(&e);
        fputs("kvq-eval: interrupted before a window was done: there is nothing to report\n", stderr);
        return STATUS_SIGNAL + stop_requested();
    }
    report_context context = {.isa = isa,
                              .precision = o->precision == KVQ_PRECISION_FAST ? "fast" : "exact",
                              .append_only = o->append_only,
                              .threads = omp_get_max_threads(),
                              .seed = o->in.seed,
                              .model_name = in->model_name,
                              .model = in->model,
                              .recording = in->recording,
                              .text_name = in->text_name,
                              .bos_id = in->bos_id,
                              .greedy = o->greedy > 0 ? &greedy : NULL};
    if (o->json && context.model)
        context.model_checksum = model_checksum(context.model);
    int status = write_reports(o, in, &context, &ev, &logits);
    if (is_partial(&ev, &greedy)) /* limits are about all windows */
        status = say_stopped(&ev, &greedy);
    else if (status == STATUS_GOOD && limits_check(stderr, o, &ev) > 0)
        status = STATUS_LIMIT_VIOLATED;
    divergence_free(&greedy);
    evaluation_free(&ev);
    return status;
}

/* Better before the work than when it comes to that scheme. */
static bool check_layers(const inputs *in, const options *o, eval_error *e)
{
    const size_t n_layers = in->model ? in->model->shape.n_layer : recording_shape(in->recording)->n_layer;
    for (size_t i = 0; i < o->n_schemes; i++)
        if (!memory_check_layers(o->schemes[i], n_layers, e))
            return false;
    return true;
}

int evaluation_main(const char *doc, int argc, char **argv)
{
    static options o;
    eval_error e = {""};
    if (!options_parse(&o, doc, argc, argv, &e))
        return complain(&e);
    if (o.threads > 0) {
        omp_set_num_threads(o.threads);
        openblas_set_num_threads(o.threads);
    }
    const char *isa = kvq_isa(), *wanted = getenv("KVQ_ISA");
    if (!isa) {
        (void)eval_fail(&e, "KVQ_ISA=%s: no instruction set of that name runs here", wanted ? wanted : "");
        return complain(&e);
    }
    progress line;
    progress_start(&line, o.quiet);
    inputs in;
    int status = STATUS_GOOD;
    const bool loaded = inputs_load(&in, &o.in, &line, &e);
    if (!loaded || inputs_note(&in) || o.in.generate > 0)
        progress_end(&line);
    if (loaded && inputs_note(&in)) {
        fprintf(stderr, "kvq-eval: note: %s: %s\n", in.model_name, inputs_note(&in));
        progress_start(&line, o.quiet);
    }
    if (!loaded || !check_layers(&in, &o, &e))
        status = complain(&e);
    else if (o.in.generate > 0)
        status = run_generation(&in, &o, isa, &e) ? STATUS_GOOD : complain(&e);
    else
        status = run_evaluation(&in, &o, isa, &line);
    progress_end(&line);
    inputs_free(&in);
    return status;
}
