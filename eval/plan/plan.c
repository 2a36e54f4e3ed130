/* The arithmetic (plan.h; README.md has it as formulas). */
#include "eval/plan/plan.h"

#include "eval/measure/memory.h"

#include <math.h>
#include <string.h>

const char *const plan_weight_names[] = {"f32",  "f16",  "bf16", "q8_0", "q6_k", "q5_k", "q5_1",
                                         "q5_0", "q4_k", "q4_1", "q4_0", "q3_k", "q2_k", NULL};
static const tensor_type weight_types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q6_K,
                                           TENSOR_Q5_K, TENSOR_Q5_1, TENSOR_Q5_0, TENSOR_Q4_K, TENSOR_Q4_1,
                                           TENSOR_Q4_0, TENSOR_Q3_K, TENSOR_Q2_K};

bool plan_weight_type(const char *name, tensor_type *type)
{
    for (size_t i = 0; plan_weight_names[i]; i++) {
        if (strcmp(plan_weight_names[i], name) == 0) {
            *type = weight_types[i];
            return true;
        }
    }
    return false;
}

/* ---- weights ---- */

static double bytes_each(tensor_type type)
{
    const tensor_type_info *info = tensor_type_of(type);
    return (double)info->block_bytes / (double)info->block_elems;
}

static uint64_t bytes_of(const model_params *p, uint64_t matrices, tensor_type type)
{
    const bool blocks = tensor_type_of(type)->block_elems > 1;
    return (uint64_t)((double)matrices * bytes_each(type) +
                      (double)p->vectors * (blocks ? 4.0 : bytes_each(type)));
}

uint64_t plan_weight_bytes(const model_dims *d, tensor_type type)
{
    model_params p;
    model_count_params(d, &p);
    return bytes_of(&p, p.total - p.vectors, type);
}

uint64_t plan_step_weight_bytes(const model_dims *d, tensor_type type)
{
    model_params p;
    model_count_params(d, &p);
    return bytes_of(&p, p.layers + p.head, type);
}

uint64_t plan_rwkv_state(uint64_t n_layer, uint64_t n_embd, uint64_t head)
{
    return n_layer * (n_embd / head * head * head + 2 * n_embd) * 4;
}

/* ---- work ---- */

static plan_work work_of(double flops, double bytes, const plan_machine *m)
{
    const double compute = flops / m->flops, read = bytes / m->bandwidth;
    return (plan_work){.flops = flops,
                       .bytes = bytes,
                       .intensity = flops / bytes,
                       .seconds = fmax(compute, read),
                       .binds_on_compute = compute > read};
}

/* Tokens that the next token of all layers attends to, where a window allows. */
static double attended(const model_dims *d, size_t n_tokens)
{
    const size_t windowed = d->n_windowed > 0 && d->window < n_tokens ? d->window : n_tokens;
    return (double)(d->n_layer - d->n_windowed) * (double)n_tokens + (double)d->n_windowed * (double)windowed;
}

/* The same, summed over the tokens of a prompt: 1 + 2 + ... + T, and w each after the first w. */
static double attended_prompt(const model_dims *d, size_t n_tokens)
{
    const double T = (double)n_tokens, w = fmin((double)d->window, T);
    return (double)(d->n_layer - d->n_windowed) * (T * (T + 1) / 2) +
           (double)d->n_windowed * (w * (w + 1) / 2 + (T - w) * w);
}

/* Scores and weighted sum: a multiplication and an addition each, for each number of each query head. */
static double attention_flops(const model_dims *d, double n_attended)
{
    return 4.0 * n_attended * (double)d->n_head * (double)d->head_dim;
}

plan_work plan_decode_step(const model_dims *d, tensor_type type, const plan_machine *m, size_t n_tokens,
                           size_t batch, double cache_read)
{
    model_params p;
    model_count_params(d, &p);
    const double B = (double)batch;
    return work_of(B * (2.0 * (double)(p.layers + p.head) + attention_flops(d, attended(d, n_tokens))),
                   (double)plan_step_weight_bytes(d, type) + cache_read, m);
}

plan_work plan_prefill(const model_dims *d, tensor_type type, const plan_machine *m, size_t n_tokens,
                       size_t batch)
{
    model_params p;
    model_count_params(d, &p);
    const double B = (double)batch, T = (double)n_tokens;
    return work_of(B * (2.0 * (double)p.layers * T + 2.0 * (double)p.head +
                        attention_flops(d, attended_prompt(d, n_tokens))),
                   (double)plan_step_weight_bytes(d, type), m);
}

/* ---- how a cache grows ---- */

/* Bytes of one kind of layer in one sequence, as a straight line in the tokens it holds. */
typedef struct growth {
    double fixed, per_token;
    size_t most; /* tokens that such a layer keeps; 0: all */
} growth;

typedef struct growths {
    growth kind[2];
    size_t n;
} growths;

static double linear(const cache_bytes *b)
{
    return (double)(b->payload + b->metadata + b->residual + b->sinks + b->evidence);
}

/* The line through two lengths; what pools hold beyond that counts in proportion, as at this context. */
static bool grow(const plan_request *r, const kvq_scheme *scheme, size_t n_layers, size_t n_tokens,
                 double overhead, growth *out, eval_error *e)
{
    const size_t page = 128;
    const size_t high = (n_tokens > 8 * page ? n_tokens : 8 * page) / page * page,
                 low = high / 2 / page * page;
    cache_bytes a, b;
    if (!usage_of_layers(&r->dims, scheme, 1, low, 1, USAGE_BUDGET, &a, e) ||
        !usage_of_layers(&r->dims, scheme, 1, high, 1, USAGE_BUDGET, &b, e))
        return false;
    out->per_token = (double)n_layers * overhead * (linear(&b) - linear(&a)) / (double)(high - low);
    out->fixed = (double)n_layers * overhead * linear(&b) - out->per_token * (double)high;
    return true;
}

static bool grow_all(const plan_request *r, const kvq_scheme *scheme, const cache_bytes *here, growths *g,
                     eval_error *e)
{
    const model_dims *d = &r->dims;
    const double overhead = (double)here->total / linear(here);
    *g = (growths){.n = 0};
    if (d->n_layer > d->n_windowed) {
        if (!grow(r, scheme, d->n_layer - d->n_windowed, r->context, overhead, &g->kind[g->n], e))
            return false;
        g->kind[g->n++].most = 0;
    }
    if (d->n_windowed > 0) {
        if (!grow(r, scheme, d->n_windowed, d->window, overhead, &g->kind[g->n], e))
            return false;
        g->kind[g->n++].most = d->window;
    }
    return true;
}

static double bytes_at(const growths *g, double n_tokens)
{
    double sum = 0.0;
    for (size_t i = 0; i < g->n; i++) {
        const growth *k = &g->kind[i];
        const double n = k->most > 0 && n_tokens > (double)k->most ? (double)k->most : n_tokens;
        sum += fmax(k->fixed + k->per_token * n, 0.0);
    }
    return sum;
}

static const double no_limit = 1e12; /* tokens; a cache that has not got there by then will not */

/* The most tokens with at most so many bytes for each sequence. */
static uint64_t tokens_within(const growths *g, double bytes)
{
    double low = 0.0, high = 1.0;
    if (bytes_at(g, 1.0) > bytes)
        return 0;
    while (high < no_limit && bytes_at(g, high) <= bytes)
        high *= 2.0;
    if (high >= no_limit)
        return UINT64_MAX;
    while (high - low > 0.5) {
        const double middle = (low + high) / 2.0;
        if (bytes_at(g, middle) <= bytes)
            low = middle;
        else
            high = middle;
    }
    return (uint64_t)low;
}

/* The context from which there are more bytes; 0 if there never are. */
static uint64_t tokens_beyond(const growths *g, double bytes)
{
    const uint64_t n = tokens_within(g, bytes);
    return n == UINT64_MAX ? 0 : n + 1;
}

/* ---- one scheme ---- */

static void fit(const plan_request *r, const plan_result *p, const growths *g, plan_scheme *s)
{
    const double room = r->machine.memory - (double)p->weight_bytes,
                 per_sequence = (double)s->cache.total / (double)r->batch;
    s->fits = room >= (double)s->cache.total;
    s->max_batch = room > 0.0 ? (uint64_t)(room / per_sequence) : 0;
    s->max_context = room > 0.0 ? tokens_within(g, room / (double)r->batch) : 0;
    if (s->fits && s->max_batch < r->batch) /* rounding must not contradict what was weighed */
        s->max_batch = r->batch;
    if (s->fits && s->max_context < r->context)
        s->max_context = r->context;
    s->outweighs_at = tokens_beyond(g, (double)p->weight_bytes / (double)r->batch);
    s->outweighs_batch = (uint64_t)((double)p->weight_bytes / per_sequence) + 1;
    s->state_from = r->state_bytes > 0 ? tokens_beyond(g, (double)r->state_bytes) : 0;
}

static void time_step(const plan_request *r, const plan_scheme *fp16, plan_scheme *s)
{
    const double read = (double)usage_read(&s->cache);
    s->step = plan_decode_step(&r->dims, r->weights, &r->machine, r->context, r->batch, read);
    s->tokens_per_s = (double)r->batch / s->step.seconds;
    s->time_vs_fp16 = s->step.seconds / fp16->step.seconds;
    /* Each further sequence costs FLOPs and bytes; weights are read once for all. */
    const double f = s->step.flops / (double)r->batch / r->machine.flops,
                 c = read / (double)r->batch / r->machine.bandwidth,
                 w = (double)plan_step_weight_bytes(&r->dims, r->weights) / r->machine.bandwidth;
    s->compute_from_batch = f > c ? (uint64_t)(w / (f - c)) + 1 : 0;
}

/* Where a short sequence's cache crosses others: token by token, where pages and residuals are no straight
 * line. Where the state holds less only beyond that, the line of fit() stands. */
static bool cross(const plan_request *r, const plan_result *p, const kvq_scheme *scheme, plan_scheme *s,
                  eval_error *e)
{
    const model_dims *d = &r->dims;
    const model_shape shape = {.n_layer = p->n_pays_layers,
                               .n_head = p->n_pays_heads,
                               .n_kv_head = p->n_pays_heads,
                               .head_dim = d->head_dim};
    const double factor =
        (double)d->n_layer / (double)shape.n_layer * (double)d->n_kv_head / (double)shape.n_kv_head;
    static uint64_t total[PLAN_PAYS_TOKENS];
    size_t larger = 0, state_holds = 0;
    if (!memory_growth(&shape, scheme, PLAN_PAYS_TOKENS, total, e))
        return false;
    const size_t seen = d->n_windowed > 0 && d->window < PLAN_PAYS_TOKENS ? d->window : PLAN_PAYS_TOKENS;
    for (size_t n = 1; n <= PLAN_PAYS_TOKENS; n++) {
        larger = total[n - 1] >= memory_plain_bytes(&shape, n, 2) ? n : larger;
        state_holds = n <= seen && factor * (double)total[n - 1] <= (double)r->state_bytes ? n : state_holds;
    }
    s->pays_from = larger < PLAN_PAYS_TOKENS ? larger + 1 : 0;
    if (r->state_bytes > 0 && state_holds < seen)
        s->state_from = state_holds + 1;
    return true;
}

/* As many layers, and of very wide ones as many heads, as are weighed token by token in about a second. */
static void choose_pays(const plan_request *r, plan_result *p)
{
    const model_dims *d = &r->dims;
    const uint64_t head = (uint64_t)PLAN_PAYS_TOKENS * 2 * d->head_dim, heads = USAGE_BUDGET / head;
    p->n_pays_heads = heads < 1 ? 1 : heads < d->n_kv_head ? (size_t)heads : d->n_kv_head;
    const uint64_t layers = USAGE_BUDGET / (head * p->n_pays_heads);
    p->n_pays_layers = layers < 1 ? 1 : layers < d->n_layer ? (size_t)layers : d->n_layer;
}

bool plan_compute(const plan_request *r, plan_result *out, progress *line, eval_error *e)
{
    memset(out, 0, sizeof *out);
    model_count_params(&r->dims, &out->params);
    out->weight_bytes = plan_weight_bytes(&r->dims, r->weights);
    out->balance = r->machine.flops / r->machine.bandwidth;
    out->prefill = plan_prefill(&r->dims, r->weights, &r->machine, r->context, r->batch);
    choose_pays(r, out);
    for (size_t i = 0; i < r->n_schemes; i++) {
        plan_scheme *s = &out->schemes[i];
        growths g;
        s->text = kvq_scheme_text(r->schemes[i]);
        progress_say(line, "weighing a cache of %s", s->text);
        if (!usage_of(&r->dims, r->schemes[i], r->context, r->batch, USAGE_BUDGET, &s->cache, e) ||
            !grow_all(r, r->schemes[i], &s->cache, &g, e))
            return false;
        time_step(r, &out->schemes[0], s);
        fit(r, out, &g, s);
        if (!cross(r, out, r->schemes[i], s, e))
            return false;
        if (i == 0)
            s->pays_from = 0; /* it does not pay against itself */
    }
    return true;
}
