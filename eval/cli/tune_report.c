/* The choice by layer, what it is worth, and how sure that is (tune_report.h). */
#include "eval/cli/tune_report.h"

#include "eval/common/output_file.h"
#include "eval/report/estimate.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

/* ---- for people ---- */

static void print_layers(FILE *f, const tune_result *r)
{
    const choice_table *t = &r->table;
    fputs("layer  K bits  V bits   KL of K alone   KL of V alone\n", f);
    for (size_t l = 0; l < t->n_layers; l++) {
        const choice *c = &r->choices[l];
        fprintf(f, "%5zu%8s%8s%16.1e%16.1e\n", l, choice_k_bits[c->k], choice_v_bits[c->v],
                t->k_kl[l * CHOICE_N_K + c->k], t->v_kl[l * CHOICE_N_V + c->v]);
    }
    fprintf(f, "hh=%zu, r=%zu\n\n", r->common.heavy_hitters, r->common.residual);
}

static void print_row(FILE *f, const char *name, const tuned *x)
{
    fprintf(f, "%-34.34s%12.1f%11.2e ±%8.1e%11.2e ±%8.1e\n", name, x->bytes, x->tuning.value, x->tuning.se,
            x->unseen.value, x->unseen.se);
}

/* How much less the chosen one diverges, and whether that is more than chance. */
static void print_verdict(FILE *f, const tune_result *r)
{
    const difference *d = &r->verdict;
    if (r->n_uniform == 0) {
        fputs("No scheme with the same widths in all layers fits the size.\n", f);
        return;
    }
    if (!isfinite(d->log_ratio.value)) {
        fputs("One of the two does not diverge at all on unseen windows: take more of them.\n", f);
        return;
    }
    const bool less = d->log_ratio.value < 0.0;
    fprintf(f,
            "On unseen windows it diverges %.2f times %s than the best uniform scheme of at most this size",
            exp(fabs(d->log_ratio.value)), less ? "less" : "more");
    if (isfinite(d->log_ratio.low))
        fprintf(f, "\n(95 %% interval of the ratio %.2f to %.2f): %s.\n", exp(-d->log_ratio.high),
                exp(-d->log_ratio.low),
                d->log_ratio.high < 0.0 ? "better, and more than chance"
                : less                  ? "this may be chance"
                                        : "no better, so take the uniform one");
    else
        fputs(".\n", f);
}

void tune_report_people(FILE *f, const tune_config *c, const tune_result *r)
{
    const choice_budget *b = &c->budget;
    if (b->context > 0)
        fprintf(f, "%s: at most %.0f bytes with %zu tokens", c->sweep.in->model_name, b->bytes, b->context);
    else
        fprintf(f, "%s: at most %.1f bytes per token", c->sweep.in->model_name, b->bytes);
    fprintf(f, "; tuned on %zu, judged on %zu windows of %zu tokens\n\n", r->n_tune_windows,
            r->n_unseen_windows, c->sweep.in->n_tokens);
    print_layers(f, r);
    fprintf(f, "%-34s%12s%11s %9s%11s %9s\n", "", "", "token KL,", "", "token KL,", "");
    fprintf(f, "%-34s%12s%11s %9s%11s %9s\n", "scheme", b->context > 0 ? "bytes" : "bytes/token", "tuning",
            "s.e.", "unseen", "s.e.");
    print_row(f, "this one", &r->chosen);
    for (size_t i = 0; i < r->n_uniform; i++)
        print_row(f, r->uniform[i].scheme, &r->uniform[i]);
    fputc('\n', f);
    print_verdict(f, r);
    fprintf(f, "\n--scheme %s\n", r->chosen.scheme);
}

/* ---- for programs ---- */

static json_t *tuned_json(const tuned *x)
{
    return json_pack("{s:s,s:o,s:o,s:o}", "scheme", x->scheme, "bytes", real_json(x->bytes), "kld_tuning",
                     estimate_json(&x->tuning), "kld_unseen", estimate_json(&x->unseen));
}

static json_t *layers_json(const tune_result *r)
{
    const choice_table *t = &r->table;
    json_t *list = json_array();
    for (size_t l = 0; l < t->n_layers; l++) {
        json_t *k = json_array(), *v = json_array();
        for (size_t i = 0; i < CHOICE_N_K; i++)
            json_array_append_new(
                k, json_pack("{s:s,s:f}", "bits", choice_k_bits[i], "kld", t->k_kl[l * CHOICE_N_K + i]));
        for (size_t i = 0; i < CHOICE_N_V; i++)
            json_array_append_new(
                v, json_pack("{s:s,s:f}", "bits", choice_v_bits[i], "kld", t->v_kl[l * CHOICE_N_V + i]));
        json_array_append_new(list, json_pack("{s:s,s:s,s:o,s:o}", "k_bits", choice_k_bits[r->choices[l].k],
                                              "v_bits", choice_v_bits[r->choices[l].v], "k_alone", k,
                                              "v_alone", v));
    }
    return list;
}

static json_t *result_json(const tune_config *c, const tune_result *r)
{
    json_t *uniform = json_array();
    for (size_t i = 0; i < r->n_uniform; i++)
        json_array_append_new(uniform, tuned_json(&r->uniform[i]));
    json_t *budget =
        json_pack("{s:f,s:o}", "bytes", c->budget.bytes, "context",
                  c->budget.context > 0 ? json_integer((json_int_t)c->budget.context) : json_null());
    json_t *root = json_pack("{s:s,s:s,s:s,s:o,s:o,s:o,s:o}", "schema", "kvq-eval-tune/1", "version",
                             kvq_version(), "model", c->sweep.in->model_name, "budget", budget, "chosen",
                             tuned_json(&r->chosen), "uniform", uniform, "layers", layers_json(r));
    json_object_set_new(root, "log_ratio",
                        r->n_uniform > 0 ? estimate_json(&r->verdict.log_ratio) : json_null());
    json_object_set_new(root, "n_tune_windows", json_integer((json_int_t)r->n_tune_windows));
    json_object_set_new(root, "n_unseen_windows", json_integer((json_int_t)r->n_unseen_windows));
    json_object_set_new(root, "n_tokens", json_integer((json_int_t)c->sweep.in->n_tokens));
    json_object_set_new(root, "n_schemes_measured", json_integer((json_int_t)r->n_measured));
    json_object_set_new(root, "n_trades", json_integer((json_int_t)r->n_trades));
    json_object_set_new(root, "seed", json_integer((json_int_t)STATISTICS_SEED));
    return root;
}

bool tune_report_json(const char *path, const tune_config *c, const tune_result *r, eval_error *e)
{
    output_file file;
    if (!output_file_open(&file, path, e))
        return false;
    json_t *root = result_json(c, r);
    char *dump = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (!dump) {
        output_file_discard(&file);
        return eval_fail(e, "out of memory for the JSON report");
    }
    fprintf(file.stream, "%s\n", dump);
    free(dump);
    return output_file_commit(&file, e);
}
