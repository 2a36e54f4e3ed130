/* The page: sections in their order (page.h). */
#include "eval/page/page.h"

#include "eval/page/charts.h"
#include "eval/page/markup.h"
#include "eval/page/style.h"

#include <stdlib.h>
#include <string.h>

typedef bool (*chart_fn)(pictures *list, const view *v, eval_error *e);

/* A chart: the section it stands in (NULL: that of the row above), and why there might be none. */
typedef struct section {
    const char *id, *title, *missing;
    const char *name; /* of the chart, where it is missing */
    chart_fn chart;
} section;

static const section sections[] = {
    {"front", "How much quality for how many bytes", "there are no figures of quality, or none above zero",
     "quality against size", chart_front},
    {"position", "Token by token", "the windows are too short, or there are no figures of quality",
     "quality by position", chart_position},
    {"spread", NULL, "nothing reaches the next-token distribution, or it differs nowhere",
     "how divergences are spread", chart_spread},
    {"bytes", "Where the bytes go", "none of the schemes is known to this program", "bytes by purpose",
     chart_bytes},
    {"heads", "Inside the model", "no head has figures", "errors by layer and head", chart_heads},
    {"portrait", NULL, "the results hold no picture of them", "keys and values of a head", chart_portrait},
    {"worst", "The worst tokens", "the results name none", "the worst tokens", chart_worst},
    {"schemes", "All schemes", "there are none", "all schemes", chart_schemes},
};
enum { N_SECTIONS = sizeof sections / sizeof sections[0] };

bool page_make(page *p, const results *r, const char *command, const char *const *files, size_t n_files,
               size_t context, const char *baseline, eval_error *e)
{
    *p = (page){.r = r, .command = command, .files = files, .n_files = n_files, .n = r->n_experiments};
    p->views = calloc(p->n + 1, sizeof *p->views);
    p->lists = calloc(p->n + 1, sizeof *p->lists);
    bool good = (p->views && p->lists) || eval_fail(e, "no memory for the page");
    for (size_t i = 0; good && i < p->n; i++) {
        good = view_make(&p->views[i], r, i, context, baseline, e);
        for (size_t s = 0; good && s < N_SECTIONS; s++)
            good = sections[s].chart(&p->lists[i], &p->views[i], e);
    }
    if (!good)
        page_free(p);
    return good;
}

void page_free(page *p)
{
    for (size_t i = 0; i < p->n; i++) {
        if (p->views)
            view_free(&p->views[i]);
        if (p->lists)
            pictures_clear(&p->lists[i]);
    }
    free(p->views);
    free(p->lists);
    memset(p, 0, sizeof *p);
}

void page_figure_name(char *name, size_t size, const page *p, size_t experiment_index, const picture *fig)
{
    if (p->n > 1)
        snprintf(name, size, "%zu-%s", experiment_index + 1, fig->id);
    else
        snprintf(name, size, "%s", fig->id);
}

static size_t n_of_section(const pictures *list, const char *id)
{
    size_t n = 0;
    for (size_t i = 0; i < list->n; i++)
        n += strcmp(list->at[i].section, id) == 0;
    return n;
}

/* Pictures of the section that begins at row s, those of the rows that join it included. */
static size_t n_of_group(const pictures *list, size_t s)
{
    size_t n = n_of_section(list, sections[s].id);
    while (++s < N_SECTIONS && !sections[s].title)
        n += n_of_section(list, sections[s].id);
    return n;
}

static void put_section(FILE *f, size_t s, const pictures *list, const char *prefix)
{
    if (!sections[s].title || n_of_group(list, s) == 0)
        return;
    fprintf(f, "<section id=\"%s%s-section\">\n<h3>%s</h3>\n<div class=\"grid2\">\n", prefix, sections[s].id,
            sections[s].title);
    size_t row = s;
    do {
        for (size_t i = 0; i < list->n; i++)
            if (strcmp(list->at[i].section, sections[row].id) == 0)
                picture_html(f, &list->at[i], prefix);
        row++;
    } while (row < N_SECTIONS && !sections[row].title);
    fputs("</div>\n</section>\n", f);
}

static void put_links(FILE *f, const pictures *list, const char *prefix)
{
    fputs("<nav aria-label=\"sections\"><ul>\n", f);
    for (size_t s = 0; s < N_SECTIONS; s++)
        if (sections[s].title && n_of_group(list, s) > 0)
            fprintf(f, "<li><a href=\"#%s%s-section\">%s</a></li>\n", prefix, sections[s].id,
                    sections[s].title);
    fprintf(f, "<li><a href=\"#%smeasured\">How it was measured</a></li>\n</ul></nav>\n", prefix);
}

static void put_title(FILE *f, const experiment *x)
{
    markup_text(f, x->model);
    if (x->text[0] != '\0')
        markup_textf(f, " on %s", x->text);
    markup_textf(f, ", windows of %zu tokens%s%s", x->n_tokens, x->append_only ? ", append only" : "",
                 x->kv_only ? ", keys and values alone" : "");
}

static void put_experiment(FILE *f, const page *p, size_t i)
{
    char prefix[32];
    const pictures *list = &p->lists[i];
    snprintf(prefix, sizeof prefix, "e%zu-", i + 1);
    fprintf(f, "<article id=\"e%zu\">\n<h2>", i + 1);
    put_title(f, p->views[i].x);
    fputs("</h2>\n", f);
    verdict_html(f, &p->views[i]);
    put_links(f, list, prefix);
    for (size_t s = 0; s < N_SECTIONS; s++)
        put_section(f, s, list, prefix);
    fprintf(f, "<section id=\"%smeasured\">\n<h3>How it was measured</h3>\n", prefix);
    measured_html(f, p, &p->views[i]);
    for (size_t s = 0; s < N_SECTIONS; s++)
        if (n_of_section(list, sections[s].id) == 0)
            fprintf(f, "<p class=\"dim\">Left out: <i>%s</i>, because %s.</p>\n", sections[s].name,
                    sections[s].missing);
    fputs("</section>\n</article>\n", f);
}

void page_html(FILE *f, const page *p)
{
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
          "'unsafe-inline'\">\n"
          "<link rel=\"icon\" href=\"data:,\">\n"
          "<title>KV cache quantization",
          f);
    if (p->n == 1)
        markup_textf(f, ": %s", p->views[0].x->model);
    fputs("</title>\n<style>\n", f);
    style_page(f);
    fputs("</style>\n</head>\n<body>\n<header>\n<h1>What quantizing the KV cache costs, and what it "
          "saves</h1>\n"
          "<p class=\"dim\">Each scheme stores the same keys and values in fewer bits while the model "
          "decodes the same text; "
          "everything is compared with the fp32 cache, token by token. Intervals are 95 %.</p>\n",
          f);
    if (p->n > 1) {
        fputs("<nav aria-label=\"experiments\"><ul>\n", f);
        for (size_t i = 0; i < p->n; i++) {
            fprintf(f, "<li><a href=\"#e%zu\">", i + 1);
            put_title(f, p->views[i].x);
            fputs("</a></li>\n", f);
        }
        fputs("</ul></nav>\n", f);
    }
    fputs("</header>\n<main>\n", f);
    if (p->n == 0)
        fputs("<p>The files hold no results.</p>\n", f);
    for (size_t i = 0; i < p->n; i++)
        put_experiment(f, p, i);
    fputs("</main>\n<footer>Made by kvq-eval report. Point at a mark to read it; every figure has its "
          "numbers below "
          "it.</footer>\n</body>\n</html>\n",
          f);
}
