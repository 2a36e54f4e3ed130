/* Comparisons (compare.h). */
#include "eval/report/compare.h"

#include "eval/report/estimate.h"
#include "eval/report/format.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

/* What is compared. All but top-1 are the better the smaller they are. */
typedef struct compared {
    figure figure;
    const char *title, *name;
    const char *format;
    double unit; /* what is printed, by what is measured */
    bool needs_quality, larger_is_better;
} compared;

static const compared list[] = {
    {FIGURE_KL, "next-token KL, nats", "kld_mean", "%.3g", 1.0, true, false},
    {FIGURE_TOP1, "top-1 same, %", "top1", "%.2f", 100.0, true, true},
    {FIGURE_PPL_CHANGE, "perplexity, % above fp32", "ppl_increase", "%+.3f", 1.0, true, false},
    {FIGURE_ATTN_ERROR, "attention error, %", "attn_rel_l2", "%.3g", 100.0, false, false},
    {FIGURE_ATTN_KL, "attention KL, nats", "attn_prob_kl", "%.3g", 1.0, false, false},
};
enum { N_COMPARED = sizeof list / sizeof list[0] };

/* Where a comparison has something to say. */
static bool applies(const compared *c, const experiment *x)
{
    return c->needs_quality ? x->has_quality : !x->kv_only;
}

static void print_estimate(FILE *f, const compared *c, const estimate *e)
{
    char value[32], text[64];
    snprintf(value, sizeof value, c->format, c->unit * e->value);
    if (isfinite(e->se))
        snprintf(text, sizeof text, "%s ± %.1g", value, c->unit * e->se);
    else
        snprintf(text, sizeof text, "%s", value);
    fprintf(f, "%*s", isfinite(e->se) ? 25 : 24, text); /* the sign has two bytes */
}

/* The share of the replicates in which a is the better one. */
static double a_is_better(const compared *c, const difference *d)
{
    return c->larger_is_better ? 1.0 - d->a_is_less : d->a_is_less;
}

static void print_sure(FILE *f, double share)
{
    if (isnan(share))
        fprintf(f, "%12s\n", "-");
    else if (share > 0.999)
        fprintf(f, "%12s\n", "> 99.9 %");
    else if (share < 0.001)
        fprintf(f, "%12s\n", "< 0.1 %");
    else
        fprintf(f, "%10.1f %%\n", 100.0 * share);
}

static void print_bytes(FILE *f, const cell *a, const cell *b)
{
    char of_a[FORMAT_SIZE], of_b[FORMAT_SIZE];
    format_bytes(of_a, a->usage.total);
    format_bytes(of_b, b->usage.total);
    fprintf(f, "%-26s%24s%24s%23.1f %%\n", "bytes of the cache", of_a, of_b,
            100.0 * ((double)a->usage.total / (double)b->usage.total - 1.0));
}

static void print_factor(FILE *f, double log_ratio)
{
    const double x = exp(fabs(log_ratio));
    fprintf(f, x < 9.95 ? "%.2f" : "%.0f", x);
}

/* One sentence on the figure that matters most, one on bytes. */
static void print_verdict(FILE *f, const compared *c, const difference *d, const cell *a, const cell *b)
{
    const bool less = d->diff.value < 0.0;
    const double factor = (double)a->usage.total / (double)b->usage.total;
    const bool sure = less ? d->diff.high < 0.0 : d->diff.low > 0.0;
    if (d->diff.value == 0.0) {
        fputs("\nBoth are equal here, to the last bit", f);
    } else {
        fprintf(f, "\n%s is closer to fp32 than %s: ", less ? "A" : "B", less ? "B" : "A");
        if (isfinite(d->log_ratio.value)) {
            print_factor(f, d->log_ratio.value);
            fputs(" times less", f);
        } else { /* zero has no factor */
            fputs("it has no", f);
        }
        fprintf(f, " %s", c->figure == FIGURE_KL ? "next-token divergence" : "attention error");
        if (isfinite(d->log_ratio.low) && isfinite(d->log_ratio.high)) {
            fputs(" (95 % interval ", f);
            const double first = less ? -d->log_ratio.high : d->log_ratio.low;
            const double last = less ? -d->log_ratio.low : d->log_ratio.high;
            fprintf(f, "%.3g to %.3g)", exp(first), exp(last));
        } else if (isfinite(d->log_ratio.value) && isfinite(d->diff.low)) {
            fprintf(f, " (no interval: some draws have no %s)",
                    c->figure == FIGURE_KL ? "divergence" : "error");
        }
        fputs(isnan(d->diff.low) ? "; how sure that is, one block of tokens cannot tell"
              : sure             ? ", which is more than chance"
                                 : ", which may be chance",
              f);
    }
    if (factor == 1.0)
        fputs(". Both take the same bytes.\n", f);
    else
        fprintf(f, ". A takes %.1f %% %s bytes.\n", 100.0 * fabs(factor - 1.0),
                factor < 1.0 ? "fewer" : "more");
}

void report_compare(FILE *f, const experiment *x, const cell *const *a, const cell *const *b, size_t n,
                    uint64_t seed)
{
    const compared *main_figure = NULL;
    difference main_difference = {.a_is_less = (double)NAN};
    fprintf(f, "%s, %s: %zu window%s of %zu tokens; %d draws of %s, seed %" PRIu64 "\n", x->model,
            x->text[0] ? x->text : "a recording", n, n == 1 ? "" : "s", x->n_tokens, STATISTICS_REPLICATES,
            statistics_unit(n), seed);
    fprintf(f, "A: %s\nB: %s\n\n%-26s%24s%24s%25s%12s\n", a[0]->scheme, b[0]->scheme, "± standard error", "A",
            "B", "A - B", "A better");
    print_bytes(f, a[0], b[0]);
    for (size_t i = 0; i < N_COMPARED; i++) {
        if (!applies(&list[i], x))
            continue;
        const difference d = statistics_compare(list[i].figure, a, b, n, seed);
        fprintf(f, "%-26s", list[i].title);
        print_estimate(f, &list[i], &d.a);
        print_estimate(f, &list[i], &d.b);
        fputc(' ', f);
        print_estimate(f, &list[i], &d.diff);
        print_sure(f, a_is_better(&list[i], &d));
        if (!main_figure) {
            main_figure = &list[i];
            main_difference = d;
        }
    }
    if (main_figure)
        print_verdict(f, main_figure, &main_difference, a[0], b[0]);
}

/* ---- for programs ---- */

static json_t *side_json(const cell *c)
{
    return json_pack("{s:s,s:I}", "scheme", c->scheme, "bytes", (json_int_t)c->usage.total);
}

bool report_compare_json(FILE *f, const experiment *x, const cell *const *a, const cell *const *b, size_t n,
                         uint64_t seed)
{
    json_t *figures = json_object();
    for (size_t i = 0; i < N_COMPARED; i++) {
        if (!applies(&list[i], x))
            continue;
        const difference d = statistics_compare(list[i].figure, a, b, n, seed);
        json_object_set_new(figures, list[i].name,
                            json_pack("{s:o,s:o,s:o,s:o,s:o}", "a", estimate_json(&d.a), "b",
                                      estimate_json(&d.b), "difference", estimate_json(&d.diff), "log_ratio",
                                      estimate_json(&d.log_ratio), "a_is_better",
                                      real_json(a_is_better(&list[i], &d))));
    }
    json_t *root = json_pack(
        "{s:s,s:s,s:s,s:s,s:I,s:I,s:s,s:I,s:I,s:o,s:o,s:o}", "schema", "kvq-eval-compare/1", "version",
        x->version, "model", x->model, "text", x->text, "n_windows", (json_int_t)n, "n_tokens",
        (json_int_t)x->n_tokens, "drawn", statistics_unit(n), "replicates", (json_int_t)STATISTICS_REPLICATES,
        "seed", (json_int_t)seed, "a", side_json(a[0]), "b", side_json(b[0]), "figures", figures);
    char *dump = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (dump)
        fprintf(f, "%s\n", dump);
    free(dump);
    return dump != NULL;
}
