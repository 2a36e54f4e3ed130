/* The report for people: a header line, tables and sentences, in this order (report.h). */
#include "eval/report/report.h"

#include "eval/report/format.h"
#include "eval/report/sentences.h"
#include "eval/report/table.h"

#include <string.h>

bool report_is_fp32(const evaluate_run *run)
{
    return strcmp(run->text, "fp32") == 0;
}

void report_header(FILE *f, const report_context *c, size_t n_windows, size_t n_tokens, size_t n_prompt,
                   const report_style *style)
{
    char tokens[FORMAT_SIZE], prompt[FORMAT_SIZE + 12] = "", bos[40] = "", text[1024];
    format_count(tokens, n_tokens);
    if (n_prompt > 0) {
        char count[FORMAT_SIZE];
        format_count(count, n_prompt);
        snprintf(prompt, sizeof prompt, " (prompt %s)", count);
    }
    if (c->bos_id >= 0)
        snprintf(bos, sizeof bos, ", each after BOS (%d)", (int)c->bos_id);
    const char *mark = style->markdown ? "**" : "";
    snprintf(text, sizeof text,
             "%s%s (%.1f M parameters%s), %s: %zu window%s of %s tokens%s%s, %s kernels, %d thread%s%s%s",
             mark, c->model_name, (double)c->model->n_params / 1e6, c->model->random ? ", random" : "",
             c->text_name, n_windows, n_windows == 1 ? "" : "s", tokens, prompt, bos, c->isa, c->threads,
             c->threads == 1 ? "" : "s", c->append_only ? ", without evidence (append only)" : "", mark);
    format_paragraph(f, text, style->width);
    fputc('\n', f);
}

void report_people(FILE *f, const report_context *c, const evaluation *ev, const report_style *style)
{
    report_header(f, c, ev->n_windows, ev->n_tokens, ev->n_prompt, style);
    if (evaluation_is_partial(ev)) {
        fprintf(f, "PARTIAL: interrupted when %zu of %zu windows were done.\n\n", ev->n_windows,
                ev->n_windows_asked);
    }
    table_runs(f, ev, style);
    for (size_t i = 0; style->per_layer && i < ev->n_runs; i++)
        if (!ev->runs[i].is_reference)
            table_heads(f, ev, &ev->runs[i], style);
    sentences(f, ev, style->width);
}
