/* The report as JSON, schema kvq-eval/1 (report.h). */
#include "eval/report/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

/* JSON has no infinity and no NaN; null says that there is no number. */
static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *whole(uint64_t x)
{
    return json_integer((json_int_t)x);
}

static json_t *model_json(const report_context *c)
{
    const gpt2_config *shape = &c->model->config;
    char checksum[17];
    snprintf(checksum, sizeof checksum, "%016" PRIx64, c->model_checksum);
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(c->model_name));
    json_object_set_new(o, "n_layer", whole(shape->n_layer));
    json_object_set_new(o, "n_head", whole(shape->n_head));
    json_object_set_new(o, "n_kv_head", whole(shape->n_head)); /* GPT-2 has no grouped queries */
    json_object_set_new(o, "head_dim", whole(shape->head_dim));
    json_object_set_new(o, "n_ctx", whole(shape->n_ctx));
    json_object_set_new(o, "n_params", whole(c->model->n_params));
    json_object_set_new(o, "checksum", json_string(checksum));
    json_object_set_new(o, "head", json_string(shape->tied_head ? "wte.weight" : "lm_head.weight"));
    return o;
}

static json_t *bytes_json(const kvq_usage *u)
{
    json_t *o = json_object();
    json_object_set_new(o, "payload", whole(u->payload));
    json_object_set_new(o, "metadata", whole(u->metadata));
    json_object_set_new(o, "residual", whole(u->residual));
    json_object_set_new(o, "sinks", whole(u->sinks));
    json_object_set_new(o, "slack", whole(u->slack));
    json_object_set_new(o, "bookkeeping", whole(u->bookkeeping));
    json_object_set_new(o, "total", whole(u->total));
    return o;
}

static json_t *local_json(const evaluate_run *run)
{
    json_t *o = json_object();
    json_object_set_new(o, "k_rel_l2", number(run->k_rel_l2));
    json_object_set_new(o, "v_rel_l2", number(run->v_rel_l2));
    json_object_set_new(o, "attn_rel_l2", number(run->attn_rel_l2));
    json_object_set_new(o, "attn_max_abs", number(run->attn_max_abs));
    json_object_set_new(o, "attn_prob_kl", number(run->attn_prob_kl));
    json_object_set_new(o, "bound_max", number(run->bound_max));
    json_object_set_new(o, "bound_looseness", number(run->bound_looseness));
    return o;
}

static json_t *propagated_json(const evaluate_run *run)
{
    json_t *o = json_object();
    json_object_set_new(o, "kld_mean", number(run->kld_mean));
    json_object_set_new(o, "kld_p99", number(run->kld_p99));
    json_object_set_new(o, "kld_max", number(run->kld_max));
    json_object_set_new(o, "top1", number(run->top1));
    json_object_set_new(o, "ppl", number(run->ppl));
    json_object_set_new(o, "ppl_fp32", number(run->ppl_fp32));
    return o;
}

static json_t *per_layer_json(const evaluation *ev, const evaluate_run *run)
{
    json_t *list = json_array();
    for (size_t layer = 0; layer < ev->n_layer; layer++) {
        for (size_t h = 0; h < ev->n_head; h++) {
            const evaluate_head *head = &run->heads[layer * ev->n_head + h];
            json_t *o = json_object();
            json_object_set_new(o, "layer", whole(layer));
            json_object_set_new(o, "head", whole(h));
            json_object_set_new(o, "k_rel_l2", number(metric_l2_value(&head->k)));
            json_object_set_new(o, "v_rel_l2", number(metric_l2_value(&head->v)));
            json_object_set_new(o, "attn_rel_l2", number(metric_l2_value(&head->attn)));
            const double kl = head->n_steps ? head->prob_kl_sum / (double)head->n_steps : 0.0;
            json_object_set_new(o, "attn_prob_kl", number(kl));
            json_array_append_new(list, o);
        }
    }
    return list;
}

static json_t *run_json(const evaluation *ev, const evaluate_run *run, size_t head_dim)
{
    const kvq_scheme *s = run->scheme;
    json_t *o = json_object();
    json_object_set_new(o, "scheme", json_string(run->text));
    json_object_set_new(o, "k_bits", whole(report_keys(s).bits));
    json_object_set_new(o, "v_bits", whole(report_values(s).bits));
    json_object_set_new(o, "group", whole(report_group(s, head_dim)));
    json_object_set_new(o, "residual", whole(kvq_scheme_residual(s)));
    json_object_set_new(o, "residual_mode",
                        json_string(kvq_scheme_residual_mode(s) == KVQ_RESIDUAL_KIVI ? "kivi" : "sliding"));
    json_object_set_new(o, "residual_dtype",
                        json_string(kvq_scheme_residual_dtype(s) == KVQ_F32 ? "f32" : "f16"));
    json_object_set_new(o, "sinks", whole(kvq_scheme_sinks(s)));
    json_object_set_new(o, "bits_per_element", number(run->bits_per_element));
    json_object_set_new(o, "bytes", bytes_json(&run->usage));
    json_object_set_new(o, "fp32_bytes", whole(run->fp32_bytes));
    json_object_set_new(o, "fp16_bytes", whole(run->fp16_bytes));
    json_object_set_new(o, "ratio_vs_fp32", number(run->ratio_vs_fp32));
    json_object_set_new(o, "ratio_vs_fp16", number(run->ratio_vs_fp16));
    json_object_set_new(o, "local", local_json(run));
    if (ev->has_quality)
        json_object_set_new(o, "propagated", propagated_json(run));
    json_object_set_new(o, "per_layer", per_layer_json(ev, run));
    json_object_set_new(o, "seconds", number(run->seconds));
    return o;
}

bool report_json(FILE *f, const report_context *c, const evaluation *ev, eval_error *e)
{
    json_t *text = json_object();
    json_object_set_new(text, "name", json_string(c->text_name));
    json_object_set_new(text, "n_tokens", whole(ev->n_windows * ev->n_tokens));
    json_object_set_new(text, "n_windows", whole(ev->n_windows));
    json_object_set_new(text, "n_windows_asked", whole(ev->n_windows_asked));
    json_t *runs = json_array();
    for (size_t i = 0; i < ev->n_runs; i++)
        json_array_append_new(runs, run_json(ev, &ev->runs[i], c->model->config.head_dim));
    json_t *root = json_object();
    json_object_set_new(root, "schema", json_string("kvq-eval/1"));
    json_object_set_new(root, "version", json_string(kvq_version()));
    json_object_set_new(root, "isa", json_string(c->isa));
    json_object_set_new(root, "precision", json_string(c->precision));
    json_object_set_new(root, "threads", json_integer(c->threads));
    json_object_set_new(root, "seed", whole(c->seed));
    json_object_set_new(root, "partial", json_boolean(evaluation_is_partial(ev)));
    json_object_set_new(root, "model", model_json(c));
    json_object_set_new(root, "text", text);
    json_object_set_new(root, "runs", runs);
    char *dump = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (!dump)
        return eval_fail(e, "out of memory for the JSON report");
    fputs(dump, f);
    fputc('\n', f);
    free(dump);
    return true;
}
