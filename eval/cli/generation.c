/* --generate (generation.h). */
#include "eval/cli/generation.h"

#include "eval/cli/text_stream.h"
#include "eval/common/output_file.h"
#include "eval/measure/generate.h"
#include "eval/report/generation.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where chosen tokens are shown. */
typedef struct screen {
    const inputs *in;
    text_stream text;
    size_t n; /* so far */
} screen;

/* Random weights have no words: ids. */
static void show(void *ctx, int32_t id)
{
    screen *s = ctx;
    if (s->in->model->random) {
        fprintf(s->text.stream, "%s%d", s->n > 0 ? " " : "", (int)id);
        fflush(s->text.stream);
    } else if ((size_t)id <
               tokenizer_vocab_size(s->in->tokenizer)) { /* the model's vocabulary may be padded */
        size_t n_bytes = 0;
        const char *bytes = tokenizer_token(s->in->tokenizer, id, &n_bytes);
        text_stream_put(&s->text, bytes, n_bytes);
    }
    s->n++;
}

static void show_prompt(const inputs *in)
{
    screen s = {.in = in, .text = {.stream = stdout}};
    printf("--- prompt, %zu tokens of %s\n", in->n_prompt, in->text_name);
    for (size_t i = 0; i < in->n_prompt; i++)
        show(&s, in->ids[i]);
    text_stream_end(&s.text);
    fputs("\n\n", stdout);
}

static void show_result(const generation_run *run)
{
    fputs("\n(", stdout);
    if (run->tokens_per_second > 0.0)
        printf("%.1f tokens/s", run->tokens_per_second);
    else
        fputs("one token", stdout);
    if (!run->is_reference && run->n_same == run->n_ids)
        printf(", all %zu tokens as fp32", run->n_same);
    else if (!run->is_reference)
        printf(", %zu of %zu tokens before the first that differs from fp32", run->n_same, run->n_ids);
    if (!run->is_reference && !run->packed)
        fputs("; nothing is packed yet, because all tokens fit the full-precision residual", stdout);
    fputs(")\n\n", stdout);
}

/* Generate with one scheme; reference is fp32's run, NULL for that one itself. */
static bool generate_one(const inputs *in, const options *o, const kvq_scheme *scheme,
                         const generation_run *reference, generation_run *run, eval_error *e)
{
    const bool visible = !(o->json && strcmp(o->json, "-") == 0);
    screen s = {.in = in, .text = {.stream = stdout}};
    const generate_config config = {.model = in->model,
                                    .scheme = scheme,
                                    .ids = in->ids,
                                    .n_prompt = in->n_prompt,
                                    .n_tokens = o->in.generate,
                                    .precision = o->precision,
                                    .n_threads = o->threads,
                                    .chosen = visible ? show : NULL,
                                    .ctx = &s};
    double seconds = 0.0;
    run->is_reference = !reference;
    run->n_ids = o->in.generate;
    run->ids = calloc(run->n_ids, sizeof run->ids[0]);
    if (!run->ids)
        return eval_fail(e, "out of memory for %zu tokens", run->n_ids);
    run->scheme = kvq_scheme_text(scheme);
    if (visible)
        printf("--- %s\n", run->scheme);
    fflush(stdout);
    if (!generate(&config, run->ids, &seconds, &run->packed, e))
        return false;
    if (run->n_ids > 1 && seconds > 0.0)
        run->tokens_per_second = (double)(run->n_ids - 1) / seconds;
    while (reference && run->n_same < run->n_ids && run->ids[run->n_same] == reference->ids[run->n_same])
        run->n_same++;
    if (visible) {
        text_stream_end(&s.text);
        show_result(run);
    }
    return true;
}

static bool write_json(const options *o, const generation_report *report, eval_error *e)
{
    output_file file;
    if (!output_file_open(&file, o->json, e))
        return false;
    if (!report_generation_json(file.stream, report, e)) {
        output_file_discard(&file);
        return false;
    }
    return output_file_commit(&file, e);
}

bool run_generation(const inputs *in, const options *o, const char *isa, eval_error *e)
{
    kvq_scheme *fp32 = NULL;
    generation_run *runs = calloc(o->n_schemes + 1, sizeof runs[0]);
    bool good = runs || eval_fail(e, "out of memory");
    good = good && (!o->json || output_file_check(o->json, e)); /* better now than after the work */
    good =
        good && (kvq_scheme_create(&fp32, "fp32", NULL) == KVQ_OK || eval_fail(e, "internal error: no fp32"));
    if (good && !(o->json && strcmp(o->json, "-") == 0))
        show_prompt(in);
    good = good && generate_one(in, o, fp32, NULL, &runs[0], e);
    for (size_t i = 0; good && i < o->n_schemes; i++)
        good = generate_one(in, o, o->schemes[i], &runs[0], &runs[i + 1], e);
    if (good && o->json) {
        const generation_report report = {.isa = isa,
                                          .precision = o->precision == KVQ_PRECISION_FAST ? "fast" : "exact",
                                          .threads = omp_get_max_threads(),
                                          .seed = o->in.seed,
                                          .model_name = in->model_name,
                                          .text_name = in->text_name,
                                          .tokenizer = in->model->random ? NULL : in->tokenizer,
                                          .prompt = in->ids,
                                          .n_prompt = in->n_prompt,
                                          .runs = runs,
                                          .n_runs = o->n_schemes + 1};
        good = write_json(o, &report, e);
    }
    for (size_t i = 0; runs && i <= o->n_schemes; i++)
        free(runs[i].ids);
    free(runs);
    kvq_scheme_free(fp32);
    return good;
}
