/* kvq-eval: what does a quantized KV cache cost on a real decode, and what does it save? */
#define _POSIX_C_SOURCE 200809L

#include "eval/bench/bench.h"
#include "eval/cli/inputs.h"
#include "eval/cli/limits.h"
#include "eval/cli/options.h"
#include "eval/common/output_file.h"
#include "eval/common/progress.h"
#include "eval/common/terminal.h"
#include "eval/measure/evaluate.h"
#include "eval/measure/generate.h"
#include "eval/report/report.h"

#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool stdout_failure_told;

/* Data may still lie in stdout's buffer when main returns; a full disk must not look like success. */
static void close_stdout(void)
{
    if ((ferror(stdout) || fflush(stdout) != 0) && !stdout_failure_told) {
        fputs("kvq-eval: standard output: write failed\n", stderr);
        _exit(STATUS_BAD_INPUT);
    }
}

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

static void show_progress(void *ctx, double fraction)
{
    progress_update(ctx, "decoding", fraction);
}

static int print_info(const char *isa)
{
    char data[4096];
    inputs_data_dir(data, sizeof data);
    printf("kvq-eval         %d.%d.%d\n", KVQ_VERSION_MAJOR, KVQ_VERSION_MINOR, KVQ_VERSION_PATCH);
    printf("libkvq           %s\n", kvq_version());
    printf("instruction set  %s\n", isa);
    printf("threads          %d\n", omp_get_max_threads());
    printf("OpenBLAS         %s\n", openblas_get_config());
    printf("OpenBLAS kernels %s\n", openblas_get_corename());
    printf("data directory   %s\n", data);
    return STATUS_GOOD;
}

/* ---- generation ---- */

static bool print_tokens(const inputs *in, const int32_t *ids, size_t n, eval_error *e)
{
    if (in->model->random) {
        for (size_t i = 0; i < n; i++)
            printf("%s%d", i > 0 ? " " : "", (int)ids[i]);
        fputs("\n\n", stdout);
        return true;
    }
    char *text = NULL;
    size_t n_bytes = 0;
    if (!tokenizer_decode(in->tokenizer, ids, n, &text, &n_bytes, e))
        return false;
    fwrite(text, 1, n_bytes, stdout);
    fputs("\n\n", stdout);
    free(text);
    return true;
}

/* Generate with one scheme and print; reference is NULL for fp32 itself, which fills `out` for the others. */
static bool generate_one(const inputs *in, const options *o, const kvq_scheme *scheme,
                         const int32_t *reference, int32_t *out, eval_error *e)
{
    double seconds = 0.0;
    bool packed = false;
    if (!generate(in->model, scheme, in->ids, in->n_prompt, o->generate, o->threads, out, &seconds, &packed,
                  e))
        return false;
    printf("--- %s", kvq_scheme_text(scheme));
    if (o->generate > 1 && seconds > 0.0)
        printf(", %.1f tokens/s", (double)(o->generate - 1) / seconds);
    if (reference) {
        size_t same = 0;
        while (same < o->generate && out[same] == reference[same])
            same++;
        if (same == o->generate)
            printf(", all %zu tokens as fp32", same);
        else
            printf(", %zu of %zu tokens before the first that differs from fp32", same, o->generate);
        if (!packed)
            fputs("; nothing is packed yet, because all tokens fit the full-precision window", stdout);
    }
    putchar('\n');
    return print_tokens(in, out, o->generate, e);
}

static bool run_generation(const inputs *in, const options *o, eval_error *e)
{
    kvq_scheme *fp32 = NULL;
    int32_t *reference = calloc(o->generate, sizeof reference[0]);
    int32_t *out = calloc(o->generate, sizeof out[0]);
    bool good = (reference && out) || eval_fail(e, "out of memory for %zu tokens", o->generate);
    good =
        good && (kvq_scheme_create(&fp32, "fp32", NULL) == KVQ_OK || eval_fail(e, "internal error: no fp32"));
    if (good) {
        printf("--- prompt, %zu tokens of %s\n", in->n_prompt, in->text_name);
        good = print_tokens(in, in->ids, in->n_prompt, e) && generate_one(in, o, fp32, NULL, reference, e);
    }
    for (size_t i = 0; good && i < o->n_schemes; i++)
        good = generate_one(in, o, o->schemes[i], reference, out, e);
    kvq_scheme_free(fp32);
    free(reference);
    free(out);
    return good;
}

/* ---- evaluation ---- */

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

static bool write_reports(const options *o, report_context *context, const evaluation *ev, eval_error *e)
{
    if (o->json)
        context->model_checksum = gpt2_model_checksum(context->model);
    /* Files first: the table then says that all of it is there. */
    if ((o->json && !write_json(o->json, context, ev, e)) || (o->csv && !write_csv(o->csv, ev, e)))
        return false;
    if (!is_stdout(o->json) && !is_stdout(o->csv) && !is_stdout(o->logits)) {
        const report_style style = {.markdown = o->markdown,
                                    .colour = !o->markdown && want_colour(),
                                    .per_layer = o->per_layer,
                                    .width = terminal_width()};
        report_people(stdout, context, ev, &style);
    }
    return true;
}

/* Run the windows, with the logits file and the progress line around them. */
static bool measure(evaluation *ev, const inputs *in, const options *o, eval_error *e)
{
    output_file logits = {0};
    if ((o->json && !output_file_check(o->json, e)) || (o->csv && !output_file_check(o->csv, e)) ||
        (o->logits && !output_file_open(&logits, o->logits, e)))
        return false; /* better now than after the work */
    if (o->logits)
        report_npy_header(logits.stream, in->n_tokens, in->model->config.vocab_size);
    progress line;
    progress_start(&line, o->quiet);
    const evaluate_config config = {.model = in->model,
                                    .ids = in->ids,
                                    .n_windows = in->n_windows,
                                    .n_tokens = in->n_tokens,
                                    .n_prompt = in->n_prompt,
                                    .schemes = o->schemes,
                                    .n_schemes = o->n_schemes,
                                    .precision = o->precision,
                                    .bound_every =
                                        o->bound_set ? o->bound : evaluate_default_bound_every(in->n_tokens),
                                    .n_threads = o->threads,
                                    .logits_stream = logits.stream,
                                    .progress = show_progress,
                                    .progress_ctx = &line};
    const bool good = evaluate(ev, &config, e);
    progress_end(&line);
    if (!good) {
        if (o->logits && ferror(logits.stream)) { /* evaluate knows why, but not the name */
            const eval_error why = *e;
            (void)eval_fail(e, "%s: %s", is_stdout(o->logits) ? "standard output" : o->logits, why.text);
        }
        output_file_discard(&logits);
        return false;
    }
    return !o->logits || output_file_commit(&logits, e);
}

static int run_evaluation(const inputs *in, const options *o, const char *isa, eval_error *e)
{
    evaluation ev = {0};
    report_context context = {.isa = isa,
                              .precision = o->precision == KVQ_PRECISION_FAST ? "fast" : "exact",
                              .threads = omp_get_max_threads(),
                              .seed = o->seed,
                              .model_name = in->model_name,
                              .model = in->model,
                              .text_name = in->text_name};
    int status = STATUS_GOOD;
    if (!measure(&ev, in, o, e) || !write_reports(o, &context, &ev, e)) {
        status = complain(e);
        stdout_failure_told = ferror(stdout) != 0;
    } else if (fflush(stdout), limits_check(stderr, o, &ev) > 0) {
        status = STATUS_LIMIT_VIOLATED;
    }
    evaluation_free(&ev);
    return status;
}

/*
 * OpenMP's waiting threads spin, by default for milliseconds; where another program wants the cores, that
 * keeps the very thread they wait for from running, and a run takes many times as long. Both OpenMP libraries
 * read the limit from the environment before main begins, so set it and start again: about 50 microseconds
 * for gcc's, none for clang's, which counts in milliseconds.
 */
static void limit_spinning(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || getenv("KMP_BLOCKTIME"))
        return;
    if (setenv("GOMP_SPINCOUNT", "3000", 1) == 0 && setenv("KMP_BLOCKTIME", "0", 1) == 0)
        (void)execv("/proc/self/exe", argv); /* returns only if that fails; then it runs as it is */
}

int main(int argc, char **argv)
{
    static options o;
    eval_error e = {0};
    limit_spinning(argv);
    if (atexit(close_stdout) != 0)
        return STATUS_BAD_INPUT;
    output_file_handle_signals();
    if (argc > 1 && strcmp(argv[1], "bench") == 0) /* a command with options of its own */
        return bench_main(argc - 1, argv + 1);
    if (!options_parse(&o, argc, argv, &e))
        return complain(&e);
    if (o.threads > 0) {
        omp_set_num_threads(o.threads);
        openblas_set_num_threads(o.threads);
    }
    const char *isa = kvq_isa();
    if (!isa) {
        const char *wanted = getenv("KVQ_ISA");
        (void)eval_fail(&e, "KVQ_ISA=%s: no instruction set of that name runs here", wanted ? wanted : "");
        return complain(&e);
    }
    if (o.info)
        return print_info(isa);
    inputs in;
    int status = STATUS_GOOD;
    if (!inputs_load(&in, &o, &e))
        status = complain(&e);
    else if (o.generate > 0)
        status = run_generation(&in, &o, &e) ? STATUS_GOOD : complain(&e);
    else
        status = run_evaluation(&in, &o, isa, &e);
    inputs_free(&in);
    return status;
}
