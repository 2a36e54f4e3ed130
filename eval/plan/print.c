/* The plan for people: does it fit, what binds, what does it save; then the tables (plan.h). */
#include "eval/plan/plan.h"
#include "eval/report/format.h"

#include <inttypes.h>
#include <string.h>

enum { NAME_WIDTH = 22 };

static void print_name(const char *text)
{
    printf("%-*s", NAME_WIDTH, text);
    if (strlen(text) >= NAME_WIDTH)
        printf("\n%-*s", NAME_WIDTH, "");
}

static void format_seconds(char *s, double seconds)
{
    if (seconds < 1.0)
        snprintf(s, FORMAT_SIZE, "%.3g ms", 1e3 * seconds);
    else
        snprintf(s, FORMAT_SIZE, seconds < 100.0 ? "%.2f s" : "%.0f s", seconds);
}

/* 0 stands for "there is none". */
static void format_limit(char *s, uint64_t n, const char *none)
{
    if (n == UINT64_MAX || n > UINT64_C(999999999))
        snprintf(s, FORMAT_SIZE, "over 1e9");
    else if (n == 0)
        snprintf(s, FORMAT_SIZE, "%s", none);
    else
        format_count(s, n);
}

static void format_rate(char *s, double x)
{
    if (x < 100.0)
        snprintf(s, FORMAT_SIZE, "%.3g", x);
    else
        format_count(s, (uint64_t)(x + 0.5));
}

/* ---- what comes first ---- */

static void print_head(const plan_request *r, const plan_result *p)
{
    const model_dims *d = &r->dims;
    char context[FORMAT_SIZE], batch[FORMAT_SIZE], memory[FORMAT_SIZE], weights[FORMAT_SIZE];
    format_count(context, r->context);
    format_count(batch, r->batch);
    format_bytes(memory, (uint64_t)r->machine.memory);
    format_bytes(weights, p->weight_bytes);
    printf("%s: %.4g billion parameters, %zu layers, %zu query heads on %zu KV heads of %zu\n(%s)\n", d->name,
           (double)p->params.total / 1e9, d->n_layer, d->n_head, d->n_kv_head, d->head_dim, d->source);
    printf("%s sequence%s of %s tokens, %s weights: %s\n", batch, r->batch == 1 ? "" : "s", context,
           tensor_type_of(r->weights)->name, weights);
    printf("%s: %s of memory, %.4g GB/s, %.3g TFLOP/s\n\n", r->machine.name, memory,
           r->machine.bandwidth / 1e9, r->machine.flops / 1e12);
    if (r->context > d->n_ctx) {
        format_count(context, d->n_ctx);
        printf("The model was made for %s tokens; what it says beyond them is another question.\n", context);
    }
    if (d->n_windowed > 0) {
        format_count(context, d->window);
        printf(
            "%zu of the layers see the newest %s tokens; that is what is counted for them. An engine has to\n"
            "drop the older ones: the library keeps all tokens until it is told otherwise.\n",
            d->n_windowed, context);
    }
    if (r->context > d->n_ctx || d->n_windowed > 0)
        printf("\n");
}

static void say_fit(const plan_request *r, const plan_result *p, const plan_scheme *s)
{
    char cache[FORMAT_SIZE], all[FORMAT_SIZE], memory[FORMAT_SIZE];
    format_bytes(cache, s->cache.total);
    format_bytes(all, p->weight_bytes + s->cache.total);
    format_bytes(memory, (uint64_t)r->machine.memory);
    printf("%s with %s: weights and %s of cache are %s, %.0f %% of %s.\n", s->fits ? "Fits" : "Does not fit",
           s->text, cache, all, 100.0 * (double)(p->weight_bytes + s->cache.total) / r->machine.memory,
           memory);
}

/* Two or three sentences that answer the questions; the tables say the same of every scheme. */
static void print_answers(const plan_request *r, const plan_result *p)
{
    const plan_scheme *fp16 = &p->schemes[0], *best = fp16;
    for (size_t i = 1; i < r->n_schemes; i++)
        if (p->schemes[i].cache.total < best->cache.total)
            best = &p->schemes[i];
    say_fit(r, p, fp16);
    if (best != fp16)
        say_fit(r, p, best);
    printf("A decode step is bound by %s: %.3g FLOPs per byte read, where the machine could do %.3g.\n",
           fp16->step.binds_on_compute ? "arithmetic" : "memory", fp16->step.intensity, p->balance);
    if (best != fp16)
        printf("%s stores %.2f times less than fp16, and a step reads %.2f times less: up to %.2f times the "
               "tokens per second.\n",
               best->text, (double)fp16->cache.total / (double)best->cache.total,
               fp16->step.bytes / best->step.bytes, 1.0 / best->time_vs_fp16);
    char seconds[FORMAT_SIZE], flops[FORMAT_SIZE];
    format_seconds(seconds, p->prefill.seconds);
    format_rate(flops, p->prefill.flops / 1e12);
    printf("The prompts take %s at least (%s TFLOP, bound by %s).\n", seconds, flops,
           p->prefill.binds_on_compute ? "arithmetic" : "memory");
}

/* ---- tables ---- */

static void print_fit(const plan_request *r, const plan_result *p)
{
    printf("\nDoes it fit?\n%-*s%12s%14s%6s%12s%15s\n", NAME_WIDTH, "scheme", "cache", "with weights", "fits",
           "most seqs", "most context");
    for (size_t i = 0; i < r->n_schemes; i++) {
        const plan_scheme *s = &p->schemes[i];
        char cache[FORMAT_SIZE], all[FORMAT_SIZE], batch[FORMAT_SIZE], context[FORMAT_SIZE];
        format_bytes(cache, s->cache.total);
        format_bytes(all, p->weight_bytes + s->cache.total);
        format_limit(batch, s->max_batch, "none");
        format_limit(context, s->max_context, "none");
        print_name(s->text);
        printf("%12s%14s%6s%12s%15s\n", cache, all, s->fits ? "yes" : "no", batch, context);
    }
}

static void print_speed(const plan_request *r, const plan_result *p)
{
    printf("\nA decode step of the batch\n%-*s%11s%9s%9s%12s%11s%10s\n", NAME_WIDTH, "scheme", "reads",
           "FLOP/B", "binds", "time", "tokens/s", "time:fp16");
    for (size_t i = 0; i < r->n_schemes; i++) {
        const plan_scheme *s = &p->schemes[i];
        char bytes[FORMAT_SIZE], seconds[FORMAT_SIZE], rate[FORMAT_SIZE];
        format_bytes(bytes, (uint64_t)s->step.bytes);
        format_seconds(seconds, s->step.seconds);
        format_rate(rate, s->tokens_per_s);
        print_name(s->text);
        printf("%11s%9.3g%9s%12s%11s%9.2fx\n", bytes, s->step.intensity,
               s->step.binds_on_compute ? "FLOPs" : "memory", seconds, rate, s->time_vs_fp16);
    }
}

static void print_bytes(const plan_request *r, const plan_result *p)
{
    printf("\nThe cache by purpose\n%-*s%11s%11s%11s%11s%11s%11s%11s\n", NAME_WIDTH, "scheme", "payload",
           "metadata", "residual", "sinks", "evidence", "slack", "tables");
    bool computed = false;
    for (size_t i = 0; i < r->n_schemes; i++) {
        const cache_bytes *c = &p->schemes[i].cache;
        const uint64_t parts[] = {c->payload,  c->metadata, c->residual,   c->sinks,
                                  c->evidence, c->slack,    c->bookkeeping};
        computed = computed || c->computed;
        print_name(p->schemes[i].text);
        for (size_t j = 0; j < sizeof parts / sizeof parts[0]; j++) {
            char text[FORMAT_SIZE];
            format_bytes(text, parts[j]);
            printf("%11s", parts[j] == 0 ? "-" : text);
        }
        printf("\n");
    }
    printf(computed
               ? "Computed from caches that were filled with fewer layers, sequences or heads: exact but for "
                 "slack and\ntables, which are estimates.\n"
               : "Asked of caches of this size, filled with zeros.\n");
}

static void print_crossings(const plan_request *r, const plan_result *p)
{
    char context[FORMAT_SIZE];
    printf("\nFrom where on\n%-*s%14s%14s%13s%14s", NAME_WIDTH, "", "cache >", "cache >", "cache <",
           "bound by");
    printf(r->state_bytes > 0 ? "%14s\n" : "\n", "state <");
    printf("%-*s%14s%14s%13s%14s", NAME_WIDTH, "", "weights,", "weights,", "fp16,", "FLOPs,");
    printf(r->state_bytes > 0 ? "%14s\n" : "\n", "cache,");
    printf("%-*s%14s%14s%13s%14s", NAME_WIDTH, "scheme", "tokens", "sequences", "tokens", "sequences");
    printf(r->state_bytes > 0 ? "%14s\n" : "\n", "tokens");
    for (size_t i = 0; i < r->n_schemes; i++) {
        const plan_scheme *s = &p->schemes[i];
        char at[FORMAT_SIZE], batch[FORMAT_SIZE], pays[FORMAT_SIZE], compute[FORMAT_SIZE], state[FORMAT_SIZE];
        format_limit(at, s->outweighs_at, "never");
        format_limit(batch, s->outweighs_batch, "never");
        format_limit(pays, s->pays_from, i == 0 ? "-" : "never");
        format_limit(compute, s->compute_from_batch, "never");
        format_limit(state, s->state_from, "never");
        print_name(s->text);
        printf("%14s%14s%13s%14s", at, batch, pays, compute);
        printf(r->state_bytes > 0 ? "%14s\n" : "\n", state);
    }
    format_count(context, (uint64_t)PLAN_PAYS_TOKENS);
    printf("Tokens of each sequence at this batch, sequences at this context. Cache < fp16: against plain "
           "arrays, "
           "up to\n%s tokens, weighed with %zu layers.\n",
           context, p->n_pays_layers);
    if (r->state_bytes > 0) {
        format_bytes(context, r->state_bytes);
        printf("State: %s per sequence, however long it gets.\n", context);
    }
}

static void print_measured(const plan_measured *m)
{
    char tokens[FORMAT_SIZE];
    format_count(tokens, m->n_tokens);
    printf(
        "\nMeasured here: a step of one sequence of %s tokens, %s weights, read from %s\n%-*s%14s%14s%12s\n",
        tokens, m->weights, m->read_from, NAME_WIDTH, "scheme", "predicted", "measured", "error");
    for (size_t i = 0; i < m->n; i++) {
        print_name(m->steps[i].scheme);
        printf("%11.3f ms%11.3f ms%+10.0f %%\n", 1e3 * m->steps[i].predicted, 1e3 * m->steps[i].measured,
               m->steps[i].error_percent);
    }
}

void plan_print(const plan_request *r, const plan_result *p)
{
    print_head(r, p);
    print_answers(r, p);
    print_fit(r, p);
    print_speed(r, p);
    print_bytes(r, p);
    print_crossings(r, p);
    printf("\nTimes are what memory and arithmetic allow at their full rates, with nothing in between: real "
           "ones are "
           "longer.\nAttention over packed keys and values is taken to keep up with the memory.\n");
    if (p->measured.n > 0)
        print_measured(&p->measured);
}
