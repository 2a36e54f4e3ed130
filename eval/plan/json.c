/* The plan for programs (plan.h). */
#include "eval/plan/plan.h"

#include <jansson.h>

static json_t *number(uint64_t x)
{
    return json_integer(x > (uint64_t)INT64_MAX ? INT64_MAX : (json_int_t)x);
}

/* Counts of which 0 says that there is none, and the largest that there is no limit. */
static json_t *limit(uint64_t x)
{
    return x == 0 || x == UINT64_MAX ? json_null() : number(x);
}

static json_t *of_work(const plan_work *w)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:s}", "flops", w->flops, "bytes", w->bytes, "flops_per_byte",
                     w->intensity, "seconds", w->seconds, "bound_by",
                     w->binds_on_compute ? "flops" : "memory");
}

static json_t *of_cache(const cache_bytes *c)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b}", "payload", number(c->payload),
                     "metadata", number(c->metadata), "residual", number(c->residual), "sinks",
                     number(c->sinks), "evidence", number(c->evidence), "slack", number(c->slack),
                     "bookkeeping", number(c->bookkeeping), "total", number(c->total), "computed",
                     c->computed);
}

static json_t *of_scheme(const plan_scheme *s)
{
    return json_pack("{s:s, s:o, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:f}", "scheme", s->text,
                     "cache_bytes", of_cache(&s->cache), "fits", s->fits, "max_batch", number(s->max_batch),
                     "max_context", s->max_context == UINT64_MAX ? json_null() : number(s->max_context),
                     "outweighs_weights_from_context", limit(s->outweighs_at), "outweighs_weights_from_batch",
                     limit(s->outweighs_batch), "smaller_than_fp16_from", limit(s->pays_from),
                     "flops_bind_from_batch", limit(s->compute_from_batch), "state_smaller_from_context",
                     limit(s->state_from), "decode_step", of_work(&s->step), "tokens_per_s", s->tokens_per_s,
                     "step_time_vs_fp16", s->time_vs_fp16);
}

static json_t *of_model(const plan_request *r, const plan_result *p)
{
    const model_dims *d = &r->dims;
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name", d->name,
                     "source", d->source, "architecture", d->architecture, "n_params",
                     number(p->params.total), "n_layer", number(d->n_layer), "n_head", number(d->n_head),
                     "n_kv_head", number(d->n_kv_head), "head_dim", number(d->head_dim), "n_embd",
                     number(d->n_embd), "n_inner", number(d->n_inner), "vocab_size", number(d->vocab_size),
                     "attn_window", number(d->window), "n_layer_windowed", number(d->n_windowed));
}

static json_t *of_measured(const plan_measured *m)
{
    if (m->n == 0)
        return json_null();
    json_t *rows = json_array();
    for (size_t i = 0; i < m->n; i++)
        (void)json_array_append_new(rows, json_pack("{s:s, s:f, s:f, s:f}", "scheme", m->steps[i].scheme,
                                                    "predicted_s", m->steps[i].predicted, "measured_s",
                                                    m->steps[i].measured, "error_percent",
                                                    m->steps[i].error_percent));
    return json_pack("{s:o, s:s, s:s, s:o}", "n_tokens", number(m->n_tokens), "read_from", m->read_from,
                     "weights", m->weights, "steps", rows);
}

bool plan_json(FILE *f, const plan_request *r, const plan_result *p, eval_error *e)
{
    json_t *schemes = json_array();
    for (size_t i = 0; i < r->n_schemes; i++)
        (void)json_array_append_new(schemes, of_scheme(&p->schemes[i])); /* a NULL is seen below */
    json_t *root = json_pack(
        "{s:s, s:o, s:s, s:o, s:o, s:o, s:{s:s, s:f, s:f, s:f, s:f}, s:o, s:o, s:o, s:o, s:o}", "schema",
        "kvq-eval-plan/1", "model", of_model(r, p), "weights", tensor_type_of(r->weights)->name,
        "weight_bytes", number(p->weight_bytes), "context", number(r->context), "batch", number(r->batch),
        "machine", "name", r->machine.name, "memory_bytes", r->machine.memory, "bandwidth_bytes_per_s",
        r->machine.bandwidth, "flops_per_s", r->machine.flops, "flops_per_byte", p->balance, "state_bytes",
        limit(r->state_bytes), "prefill", of_work(&p->prefill), "weighed_tokens", number(PLAN_PAYS_TOKENS),
        "measured", of_measured(&p->measured), "schemes", schemes);
    const bool good = root && json_array_size(schemes) == r->n_schemes &&
                      json_dumpf(root, f, JSON_INDENT(2)) == 0 && fputc('\n', f) != EOF;
    json_decref(root);
    return good || eval_fail(e, "cannot write JSON: out of memory, or a name that is not UTF-8");
}
