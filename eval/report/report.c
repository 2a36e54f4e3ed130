/* The report for people: a header line, tables and sentences, in this order (report.h). */
#include "eval/report/report.h"

#include "eval/report/format.h"
#include "eval/report/greedy.h"
#include "eval/report/sentences.h"
#include "eval/report/table.h"

#include <string.h>

bool report_is_fp32(const evaluate_run *run)
{
    return strcmp(run->text, "fp32") == 0;
}

/* What stands in brackets behind the name. */
static void origin_text(char *text, size_t size, const report_context *c)
{
    if (c->model) {
        snprintf(text, size, "%.1f M parameters%s", (double)c->model->n_params / 1e6,
                 c->model->random ? ", random" : "");
        return;
    }
    const model_shape *shape = recording_shape(c->recording);
    const char *from = recording_model(c->recording);
    char heads[64] = "";
    if (recording_has_queries(c->recording))
        snprintf(heads, sizeof heads, ", %zu query head%s", shape->n_head, eval_s(shape->n_head));
    snprintf(text, size, "recorded%s%s: %zu layer%s%s, %zu KV head%s of %zu%s",
             from[0] != '\0' ? " from " : "", from, shape->n_layer, eval_s(shape->n_layer), heads,
             shape->n_kv_head, eval_s(shape->n_kv_head), shape->head_dim,
             heads[0] != '\0' ? "" : ", no queries");
}

void report_header(FILE *f, const report_context *c, size_t n_windows, size_t n_tokens, size_t n_prompt,
                   const report_style *style)
{
    char tokens[FORMAT_SIZE], prompt[FORMAT_SIZE + 12] = "", bos[40] = "", origin[512], text[1280];
    format_count(tokens, n_tokens);
    if (n_prompt > 0) {
        char count[FORMAT_SIZE];
        format_count(count, n_prompt);
        snprintf(prompt, sizeof prompt, " (prompt %s)", count);
    }
    if (c->bos_id >= 0)
        snprintf(bos, sizeof bos, ", each after BOS (%d)", (int)c->bos_id);
    const char *mark = style->markdown ? "**" : "";
    origin_text(origin, sizeof origin, c);
    snprintf(text, sizeof text, "%s%s (%s)%s%s: %zu window%s of %s tokens%s%s, %s kernels, %d thread%s%s%s%s",
             mark, c->model_name, origin, c->text_name[0] != '\0' ? ", " : "", c->text_name, n_windows,
             n_windows == 1 ? "" : "s", tokens, prompt, bos, c->isa, c->threads, c->threads == 1 ? "" : "s",
             strcmp(c->precision, "exact") == 0 ? ", exact precision" : "",
             c->append_only ? ", without evidence (append only)" : "", mark);
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
    if (c->greedy)
        greedy_table(f, c->greedy, ev, style);
    for (size_t i = 0; style->per_layer && i < ev->n_runs; i++)
        if (!ev->runs[i].is_reference)
            table_heads(f, ev, &ev->runs[i], style);
    sentences(f, ev, style->width);
}
