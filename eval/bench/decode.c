/* Generation, step by step, without a cache and with each kind of one in turns (decode.h). */
#define _GNU_SOURCE

#include "eval/bench/decode.h"

#include "eval/common/splitmix.h"
#include "eval/model/inputs.h"
#include "eval/model/model.h"

#include <cblas.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { N_PREFILLS = 9, MIN_REPEATS = 3, MAX_REPEATS = 15 };

/* ---- one forward pass ---- */

static bool library_failed(const decode_way *w, size_t at, kvq_status status, eval_error *e)
{
    return eval_fail(e, "generation with %s at token %zu: %s", w->name, at, kvq_status_string(status));
}

/* Tokens [at, at + n): all from the start (n of any size), or one more behind what the cache holds. */
static bool forward(const decode_run *d, const decode_way *w, size_t at, size_t n, double *seconds,
                    double *attention, eval_error *e)
{
    const model *m = d->model;
    kvq_attend_options how;
    kvq_attend_options_init(&how);
    how.n_threads = d->n_threads;
    const double start = progress_now();
    double spent = 0.0;
    model_embed(m, d->ids + at, at, n, d->a.x);
    for (size_t layer = 0; layer < m->shape.n_layer; layer++) {
        how.window = model_attn_window(m, layer);
        model_layer_qkv(m, layer, d->a.x, at, n, d->a.scratch, d->a.q, d->a.k, d->a.v);
        const double before = progress_now();
        kvq_status status = KVQ_OK;
        if (w->has_cache)
            status = kvq_cache_step(w->cache, layer, NULL, 1, &n, d->a.q, d->a.k, d->a.v,
                                    model_attn_scale(m, layer), &how, d->a.attn);
        else
            model_attention_causal(m, layer, d->a.q, d->a.k, d->a.v, n, d->a.attn);
        if (status != KVQ_OK)
            return library_failed(w, at, status, e);
        spent += progress_now() - before;
        model_layer_finish(m, layer, d->a.x, d->a.attn, n, d->a.scratch);
    }
    model_logits(m, d->a.x + (n - 1) * m->shape.n_embd, 1, d->a.scratch, d->a.logits);
    *seconds = progress_now() - start;
    *attention = spent;
    return true;
}

/* ---- set-up ---- */

static bool add_way(decode_run *d, const char *scheme, eval_error *e)
{
    decode_way *w = &d->ways[d->n_ways++];
    w->has_cache = scheme != NULL;
    w->step = calloc(d->n_output, sizeof w->step[0]);
    w->attention = calloc(d->n_output, sizeof w->attention[0]);
    if (!w->step || !w->attention)
        return eval_fail(e, "out of memory");
    if (!scheme) {
        snprintf(w->name, sizeof w->name, "no cache");
        return true;
    }
    snprintf(w->name, sizeof w->name, "%s", scheme);
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = d->model->shape.n_layer;
    config.n_heads = d->model->shape.n_head;
    config.n_kv_heads = d->model->shape.n_kv_head;
    config.head_dim = d->model->shape.head_dim;
    config.scheme_text = scheme;
    config.isa = d->isa;
    const kvq_status status = kvq_cache_create(&w->cache, &config);
    return status == KVQ_OK || eval_fail(e, "cannot create a cache: %s", kvq_status_string(status));
}

static size_t wanted_output(const decode_run *d)
{
    const size_t room = d->model->shape.n_ctx - DECODE_PROMPT;
    return room < DECODE_MAX_OUTPUT ? room : DECODE_MAX_OUTPUT;
}

static void choose_points(decode_run *d)
{
    static const size_t points[] = {16, 32, 64, 128, 256, 512, 1000};
    for (size_t i = 0; i < sizeof points / sizeof points[0] && points[i] < d->n_output; i++)
        d->points[d->n_points++] = points[i];
    d->points[d->n_points++] = d->n_output;
}

static bool set_up(decode_run *d, const bench_options *o, bench_report *r, eval_error *e)
{
    const model_shape *shape = &d->model->shape;
    if (shape->n_ctx < DECODE_PROMPT + 2) {
        return eval_fail(e, "%s: a context of at least %d tokens is needed, not %zu", d->model_name,
                         DECODE_PROMPT + 2, shape->n_ctx);
    }
    d->n_output = wanted_output(d);
    choose_points(d);
    const size_t n = DECODE_PROMPT + d->n_output;
    if (!pass_arrays_allocate(&d->a, d->model, n, e))
        return false;
    d->ids = calloc(n, sizeof d->ids[0]);
    if (!d->ids)
        return eval_fail(e, "out of memory for %zu tokens", n);
    for (size_t i = 0; i < n; i++)
        d->ids[i] = (int32_t)(splitmix64(o->seed, i + 1) % shape->vocab_size);
    bool good = add_way(d, NULL, e) && add_way(d, "fp32", e) && add_way(d, "fp16", e);
    for (size_t i = 0; good && i < o->n_schemes; i++) {
        const char *scheme = kvq_scheme_text(o->schemes[i]);
        if (bench_takes(o->schemes[i], shape->head_dim))
            good = add_way(d, scheme, e);
        else
            bench_leave_out(r, d->model_name, 0, scheme, BENCH_DOES_NOT_TAKE, shape->head_dim);
    }
    return good;
}

static void tear_down(decode_run *d)
{
    for (size_t i = 0; i < d->n_ways; i++) {
        kvq_cache_free(d->ways[i].cache);
        bench_sample_free(&d->ways[i].first);
        free(d->ways[i].step);
        free(d->ways[i].attention);
    }
    pass_arrays_free(&d->a);
    free(d->ids);
}

/* ---- the measurement ---- */

/* Prompts, again and again; the last one stays in the caches. */
static bool prefill(decode_run *d, eval_error *e)
{
    double seconds = 0.0, attention = 0.0;
    for (size_t round = 0; round <= N_PREFILLS; round++) {
        for (size_t i = 0; i < d->n_ways; i++) {
            kvq_cache_reset(d->ways[i].cache);
            if (!forward(d, &d->ways[i], 0, DECODE_PROMPT, &seconds, &attention, e))
                return false;
            if (round > 0 && !bench_sample_add(&d->ways[i].first, seconds)) /* round 0 warms up */
                return eval_fail(e, "out of memory");
        }
    }
    return true;
}

/* Without a cache, output token i costs a pass over all that is before it. The middle one of a few, more of
 * them where they are short. */
static bool recompute(const decode_run *d, decode_way *w, size_t i, eval_error *e)
{
    bench_sample seconds = {0}, attention = {0};
    bool good = true;
    const double start = progress_now();
    for (size_t j = 0; good && (j < MIN_REPEATS || (j < MAX_REPEATS && progress_now() - start < 0.1)); j++) {
        double s = 0.0, a = 0.0;
        good = forward(d, w, 0, DECODE_PROMPT + i, &s, &a, e) &&
               ((bench_sample_add(&seconds, s) && bench_sample_add(&attention, a)) ||
                eval_fail(e, "out of memory"));
    }
    w->step[i] = BENCH_MEDIAN(&seconds);
    w->attention[i] = BENCH_MEDIAN(&attention);
    bench_sample_free(&seconds);
    bench_sample_free(&attention);
    return good;
}

static bool is_point(const decode_run *d, size_t i)
{
    for (size_t j = 0; j < d->n_points; j++)
        if (i + 1 == d->points[j])
            return true;
    return i == 1;
}

/* Straight lines between the steps that were measured. Step 0 is the prompt's. */
static void interpolate(const decode_run *d, decode_way *w)
{
    size_t from = 1;
    for (size_t i = 2; i < d->n_output; i++) {
        if (!is_point(d, i))
            continue;
        for (size_t j = from + 1; j < i; j++) {
            const double part = (double)(j - from) / (double)(i - from);
            w->step[j] = w->step[from] + part * (w->step[i] - w->step[from]);
            w->attention[j] = w->attention[from] + part * (w->attention[i] - w->attention[from]);
        }
        from = i;
    }
}

/* The end, when time is up before n_output: the last point that was reached. */
static void cut_short(decode_run *d, size_t n_done)
{
    while (d->n_points > 1 && d->points[d->n_points - 1] > n_done)
        d->n_points--;
    d->n_output = d->points[d->n_points - 1];
}

static bool generate_all(decode_run *d, progress *p, double from, double share, eval_error *e)
{
    const double start = progress_now();
    for (size_t i = 1; i < d->n_output; i++) {
        if (i >= d->points[0] && progress_now() - start > d->seconds) {
            cut_short(d, i);
            break;
        }
        for (size_t j = 1; j < d->n_ways; j++) {
            decode_way *w = &d->ways[j];
            if (!forward(d, w, DECODE_PROMPT + i - 1, 1, &w->step[i], &w->attention[i], e))
                return false;
        }
        if (is_point(d, i) && !recompute(d, &d->ways[0], i, e))
            return false;
        progress_update(p, "generating", from + share * (double)i / (double)d->n_output);
    }
    interpolate(d, &d->ways[0]);
    for (size_t i = 0; i < d->n_ways; i++) {
        decode_way *w = &d->ways[i];
        kvq_usage usage = {0};
        const kvq_status status = w->has_cache ? kvq_cache_usage(w->cache, &usage) : KVQ_OK;
        if (status != KVQ_OK)
            return library_failed(w, d->n_output, status, e);
        w->step[0] = BENCH_MEDIAN(&w->first);
        w->bytes = (double)usage.total;
    }
    return true;
}

bool bench_decode(const bench_options *o, bench_report *r, progress *p, eval_error *e)
{
    bench_decode_table(r);
    omp_set_num_threads(o->threads[0]);
    openblas_set_num_threads(o->threads[0]);
    bool good = true;
    const double share = 1.0 / (double)o->n_models;
    for (size_t i = 0; good && i < o->n_models; i++) {
        const char *name = strcmp(o->models[i], "default") == 0 ? NULL : o->models[i];
        inputs in;
        if (!inputs_load_model(&in, name, o->seed, p, e))
            return false;
        if (inputs_note(&in))
            bench_note(r, "%s: %s.", in.model_name, inputs_note(&in));
        decode_run *d = calloc(1, sizeof *d);
        good = d || eval_fail(e, "out of memory");
        if (good) {
            d->model = in.model;
            memcpy(d->model_name, in.model_name, sizeof d->model_name);
            d->isa = o->isas[0];
            d->n_threads = o->threads[0];
            d->seconds = o->quick ? 18.0 : 170.0;
            good = set_up(d, o, r, e) && prefill(d, e) && generate_all(d, p, share * (double)i, share, e);
            if (good) {
                bench_decode_rows(r, d);
                if (d->n_output < wanted_output(d)) {
                    bench_note(r, "%s: ended after %zu output tokens, because %.0f s were over.",
                               d->model_name, d->n_output, d->seconds);
                }
            }
            tear_down(d);
        }
        free(d);
        inputs_free(&in);
    }
    bench_note(r,
               "Greedy or not does not matter: %d random tokens are the prompt, and random tokens are fed. "
               "%s kernels, "
               "%d thread%s. The ways take turns, one token each.",
               DECODE_PROMPT, o->isas[0], o->threads[0], o->threads[0] == 1 ? "" : "s");
    bench_note(
        r, "no cache: each token recomputes everything before it; measured at the lengths shown (medians of "
           "at least three) and at the second token, straight lines between.");
    bench_note(r, "tokens/s: output length by the time from the prompt on, the first token's included; a "
                  "step over four times the "
                  "median of its stretch counts as that, because something else had the cores. ms per token: "
                  "median over the "
                  "steps since the length before, p10 to p90. cache ms: of that, append and attention; the "
                  "rest is matrix work, "
                  "which reads the weights. It is the same for every token, so its spread tells a busy "
                  "machine.");
    return good;
}
