/* How it was measured (page.h). */
#include "eval/page/markup.h"
#include "eval/page/page.h"

#include <inttypes.h>
#include <string.h>

static void item(FILE *f, const char *name, const char *value)
{
    fprintf(f, "<dt>%s</dt><dd>", name);
    markup_text(f, value);
    fputs("</dd>\n", f);
}

static void put_model(FILE *f, const experiment *x)
{
    char text[512];
    snprintf(text, sizeof text, "%s%s%s%s%s", x->model, x->architecture[0] != '\0' ? ", " : "",
             x->architecture, x->weights[0] != '\0' ? ", " : "", x->weights);
    item(f, "Model", text);
    snprintf(text, sizeof text, "%zu layers, %zu query heads, %zu KV heads of %zu, vocabulary %zu",
             x->n_layer, x->n_head, x->n_kv_head, x->head_dim, x->vocab_size);
    item(f, "Shape", text);
    if (x->n_params > 0) {
        snprintf(text, sizeof text, "%.1f million", (double)x->n_params / 1e6);
        item(f, "Parameters", text);
    }
    if (x->attn_window > 0) {
        snprintf(text, sizeof text, "%zu tokens in %zu layers", x->attn_window, x->n_layer_windowed);
        item(f, "Sliding window", text);
    }
    snprintf(text, sizeof text, "%016" PRIx64, x->model_checksum);
    item(f, "Checksum of the weights", x->model_checksum != 0 ? text : "none");
    if (x->seed != 0) {
        snprintf(text, sizeof text, "%" PRIu64, x->seed);
        item(f, "Seed of random weights", text);
    }
}

/* The instruction sets that measured cells, each once. */
static void put_isas(FILE *f, const view *v)
{
    char text[256] = "";
    for (size_t i = 0; i < v->n; i++) {
        for (size_t j = 0; j < v->schemes[i].n_cells; j++) {
            const char *isa = v->schemes[i].cells[j]->isa;
            const size_t used = strlen(text);
            if (isa[0] != '\0' && !strstr(text, isa) && used + 20 < sizeof text)
                snprintf(text + used, sizeof text - used, "%s%s", used > 0 ? ", " : "", isa);
        }
    }
    item(f, "Instruction set", text[0] != '\0' ? text : "not said");
}

static void put_windows(FILE *f, const view *v)
{
    char text[512];
    const experiment *x = v->x;
    size_t fewest = v->n_windows;
    double seconds = 0;
    for (size_t i = 0; i < v->n; i++) {
        fewest = v->schemes[i].n_cells < fewest ? v->schemes[i].n_cells : fewest;
        for (size_t j = 0; j < v->schemes[i].n_cells; j++)
            seconds += v->schemes[i].cells[j]->seconds;
    }
    if (fewest == v->n_windows)
        snprintf(text, sizeof text, "%zu", v->n_windows);
    else
        snprintf(text, sizeof text, "%zu to %zu: not every scheme has all of them yet", fewest, v->n_windows);
    item(f, "Windows", text);
    snprintf(text, sizeof text, "%zu tokens, the first %zu a prompt that is not counted; begins with %s",
             x->n_tokens, x->n_prompt, x->bos_id >= 0 ? "the model\342\200\231s first token" : "the text");
    item(f, "Each window", text);
    snprintf(text, sizeof text, "%zu schemes, %.0f s of work", v->n, seconds);
    item(f, "Schemes", text);
    snprintf(text, sizeof text, "bootstrap over %s, %d replicates, seed %" PRIu64 "; 95 %% by quantiles",
             statistics_unit(v->n_windows), STATISTICS_REPLICATES, STATISTICS_SEED);
    item(f, "Intervals", text);
}

void measured_html(FILE *f, const page *p, const view *v)
{
    char text[256];
    const experiment *x = v->x;
    fputs("<dl>\n", f);
    put_model(f, x);
    item(f, "Text", x->text[0] != '\0' ? x->text : "not said");
    put_windows(f, v);
    snprintf(text, sizeof text, "%s; queries %s", x->precision[0] != '\0' ? x->precision : "not said",
             x->append_only ? "teach the caches nothing (append only)" : "teach the caches what they can");
    item(f, "Attention\342\200\231s precision", text);
    put_isas(f, v);
    snprintf(text, sizeof text, "%s; this page by %s", x->version, kvq_version());
    item(f, "libkvq", text);
    fputs("<dt>Command</dt><dd><code>", f);
    markup_text(f, p->command);
    fputs("</code></dd>\n<dt>Files read</dt><dd>", f);
    for (size_t i = 0; i < p->n_files; i++) {
        fputs(i > 0 ? ", " : "", f);
        markup_text(f, p->files[i]);
    }
    fprintf(f,
            "</dd>\n<dt>Lines</dt><dd>%zu cells of %zu experiment%s; %zu cut short, %zu repeated, both left "
            "out</dd>\n</dl>\n",
            p->r->n_entries, p->r->n_experiments, p->r->n_experiments == 1 ? "" : "s", p->r->n_cut,
            p->r->n_repeated);
}
