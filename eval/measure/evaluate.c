/* Teacher-forced decodes, layer by layer (DESIGN.md, "Evaluation that is exact and fast").
 *
 * Streams of activations x[T][E] go through the model side by side: the fp32 reference, and one per scheme
 * that feeds itself ("propagated"). At each layer the reference's queries, keys and values also go through a
 * cache of each scheme ("local"), whose attention is compared with the reference's step by step, so that no
 * [T][T] array of probabilities is ever held.
 *
 * Caches: the reference and the local caches have all the model's layers and keep them to the end of the
 * window. The bytes reported are those of these caches: real ones, with all their layers, slack and
 * bookkeeping. A propagated cache is needed for one layer at a time, so it has one layer and is emptied
 * between layers.
 *
 * Windows do not depend on each other, so as many run side by side as there are threads, each on one thread:
 * a step's attention takes microseconds, and threads that meet after each would mostly wait for each other.
 * Only a single window has the threads within a step. Results are merged in
 * the order of the windows.
 */
#include "eval/measure/evaluate.h"

#include "eval/common/progress.h"
#include "eval/measure/memory.h"
#include "eval/measure/quality.h"
#include "eval/model/model.h"

#include <assert.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* One scheme's own state. */
typedef struct stream {
    evaluate_run *run;     /* only read while windows run side by side */
    evaluate_head *heads;  /* [L][H], of this window */
    double seconds;        /* likewise */
    kvq_cache *local;      /* all layers, fed by the reference */
    kvq_cache *propagated; /* one layer at a time, fed by x; NULL without quality */
    float *x;              /* [T][E]; NULL without quality */
} stream;

/* What the windows that run side by side share. */
typedef struct shared_progress {
    double done, total; /* attention steps */
} shared_progress;

/* One window at work. */
typedef struct work {
    const evaluate_config *config;
    evaluation *result;
    int n_threads;            /* within a step */
    evaluate_head *ref_heads; /* [L][H]: the bounds of the reference */
    double ref_seconds;
    size_t L, H, Hkv, D, E, T; /* layers, heads, KV heads, head dimension, width, tokens per window */
    size_t Q, KV;              /* H * D and Hkv * D */
    size_t window;             /* its number, from 0 */
    kvq_cache *reference;
    float *x;                                 /* reference activations [T][E] */
    float *ref_q, *ref_out;                   /* [T][H][D] */
    float *ref_k, *ref_v;                     /* [T][Hkv][D] */
    float *q, *k, *v, *out;                   /* of whichever stream runs; k and v also for reading back */
    float *scratch;                           /* for the forward pass over T tokens */
    float *ref_probabilities, *probabilities; /* [H][t + 1] of one step */
    float *ref_bound, *bound;                 /* [H] of one step */
    stream *streams;
    size_t n_streams;
    quality *quality; /* shared; NULL for random weights */
    shared_progress *progress;
    bool finished, interrupted; /* the window it was given last: through all its layers, or stopped before */
} work;

/* ---- set up and tear down ---- */

static float *floats(size_t a, size_t b)
{
    /* calloc checks the product; what it multiplies are sizes the model was loaded with. */
    return calloc(a ? a : 1, (b ? b : 1) * sizeof(float));
}

static bool allocate(work *w, eval_error *e)
{
    const size_t T = w->T, E = w->E;
    const struct {
        float **array;
        size_t width;
    } wide[] = {{&w->x, E},    {&w->ref_q, w->Q}, {&w->ref_out, w->Q}, {&w->ref_k, w->KV}, {&w->ref_v, w->KV},
                {&w->q, w->Q}, {&w->out, w->Q},   {&w->k, w->KV},      {&w->v, w->KV}};
    bool good = true;
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        *wide[i].array = floats(T, wide[i].width);
        good = good && *wide[i].array;
    }
    w->scratch = floats(1, model_scratch_floats(w->config->model, T));
    w->ref_probabilities = floats(w->H, T);
    w->probabilities = floats(w->H, T);
    w->ref_bound = floats(w->H, 1);
    w->bound = floats(w->H, 1);
    w->ref_heads = calloc(w->L * w->H, sizeof w->ref_heads[0]);
    good = good && w->scratch && w->ref_probabilities && w->probabilities && w->ref_bound && w->bound &&
           w->ref_heads;
    for (size_t i = 0; good && i < w->n_streams; i++) {
        w->streams[i].heads = calloc(w->L * w->H, sizeof w->streams[i].heads[0]);
        good = w->streams[i].heads != NULL;
        if (good && w->quality) {
            w->streams[i].x = floats(T, E);
            good = w->streams[i].x != NULL;
        }
    }
    return good || eval_fail(e, "out of memory for windows of %zu tokens", T);
}

static bool copy_scheme(kvq_scheme **out, const char *text, eval_error *e)
{
    const kvq_status status = kvq_scheme_create(out, text, NULL);
    return status == KVQ_OK || eval_fail(e, "scheme %s: %s", text, kvq_status_string(status));
}

static bool make_caches(work *w, eval_error *e)
{
    const model_shape *shape = &w->config->model->shape;
    kvq_scheme *fp32 = NULL;
    bool good = copy_scheme(&fp32, "fp32", e) && memory_make_cache(&w->reference, shape, w->L, fp32, e);
    kvq_scheme_free(fp32);
    if (!good)
        return false;
    for (size_t i = 0; i < w->n_streams; i++) {
        stream *s = &w->streams[i];
        if (!memory_make_cache(&s->local, shape, w->L, s->run->scheme, e))
            return false;
        if (w->quality && !memory_make_cache(&s->propagated, shape, 1, s->run->scheme, e))
            return false;
    }
    return true;
}

static void work_free(work *w)
{
    for (size_t i = 0; w->streams && i < w->n_streams; i++) {
        kvq_cache_free(w->streams[i].local);
        kvq_cache_free(w->streams[i].propagated);
        free(w->streams[i].x);
        free(w->streams[i].heads);
    }
    free(w->streams);
    free(w->ref_heads);
    kvq_cache_free(w->reference);
    float *const arrays[] = {
        w->x,         w->ref_q, w->ref_k, w->ref_v,   w->ref_out,           w->q,
        w->k,         w->v,     w->out,   w->scratch, w->ref_probabilities, w->probabilities,
        w->ref_bound, w->bound};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
}

static void step_done(work *w, double n)
{
    double done;
#pragma omp atomic capture
    done = w->progress->done += n;
    if (w->config->progress && omp_get_thread_num() == 0)
        w->config->progress(w->config->progress_ctx, done / w->progress->total);
}

/* Windows, layers, heads and tokens count from 0. */
static bool step_failed(const work *w, const char *scheme, size_t layer, size_t token, const char *what,
                        const char *why, eval_error *e)
{
    return eval_fail(e, "scheme %s: window %zu, layer %zu, token %zu: %s: %s", scheme, w->window, layer,
                     token, what, why);
}

/* ---- one step ---- */

/* Tokens [t, t + n) of one layer: append, attend, learn. probabilities and bound may be NULL. */
static bool step_tokens(work *w, kvq_cache *cache, const char *scheme, size_t cache_layer, size_t layer,
                        size_t t, size_t n, const float *q, const float *k, const float *v,
                        float *probabilities, float *bound, float *out, eval_error *e)
{
    const size_t at = t * w->Q, at_kv = t * w->KV;
    w->interrupted = w->config->stop && w->config->stop(w->config->stop_ctx);
    if (w->interrupted)
        return eval_fail(e, "stopped before a window was done");
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.precision = w->config->precision;
    options.n_threads = w->n_threads;
    options.probabilities = probabilities;
    options.bound = bound;
    options.window = model_attn_window(w->config->model, layer);
    const float scale = model_attn_scale(w->config->model, layer);
    kvq_status status = KVQ_OK;
    if (w->config->append_only) {
        status = kvq_cache_append(cache, cache_layer, 0, k + at_kv, v + at_kv, n);
        if (status == KVQ_OK)
            status = kvq_cache_attend(cache, cache_layer, NULL, 1, q + at, n, scale, &options, out + at);
    } else {
        status = kvq_cache_step(cache, cache_layer, NULL, 1, &n, q + at, k + at_kv, v + at_kv, scale,
                                &options, out + at);
    }
    if (status != KVQ_OK)
        return step_failed(w, scheme, layer, t, "attention", kvq_status_string(status), e);
    return metric_all_finite(out + at, n * w->Q) ||
           step_failed(w, scheme, layer, t, "attention", "the output is not finite (NaN or Inf)", e);
}

/* Append token t and attend with its query. */
static bool decode_step(work *w, kvq_cache *cache, const char *scheme, size_t cache_layer, size_t layer,
                        size_t t, const float *q, const float *k, const float *v, float *probabilities,
                        float *bound, float *out, eval_error *e)
{
    return step_tokens(w, cache, scheme, cache_layer, layer, t, 1, q, k, v, probabilities, bound, out, e);
}

/* The prompt: one step, whose tokens see each other in full precision, as in KIVI's prefill. */
static bool prefill(work *w, kvq_cache *cache, const char *scheme, size_t cache_layer, size_t layer,
                    const float *q, const float *k, const float *v, float *out, eval_error *e)
{
    const size_t n = w->config->n_prompt;
    return n == 0 || step_tokens(w, cache, scheme, cache_layer, layer, 0, n, q, k, v, NULL, NULL, out, e);
}

/* Compare one local step, whose attention stands in w->out, with the reference's. */
static void compare_step(const work *w, evaluate_head *heads, size_t t, bool with_bound)
{
    const size_t D = w->D, n = t + 1;
#pragma omp parallel for schedule(static) if (w->n_threads != 1 && w->H * n > 4096)
    for (size_t h = 0; h < w->H; h++) {
        evaluate_head *head = &heads[h];
        const size_t at = t * w->Q + h * D;
        const float max_abs = metric_l2_add(&head->attn, w->ref_out + at, w->out + at, D);
        head->attn_max_abs = max_abs > head->attn_max_abs ? max_abs : head->attn_max_abs;
        head->prob_kl_sum +=
            metric_kl_probabilities(w->ref_probabilities + h * n, w->probabilities + h * n, n);
        head->n_steps++;
        if (with_bound)
            metric_bound_add(&head->bound, (double)w->bound[h], (double)w->ref_bound[h], (double)max_abs);
    }
}

static bool check_bounds(const work *w, const stream *s, const evaluate_head *heads, size_t layer, size_t t,
                         eval_error *e)
{
    for (size_t h = 0; h < w->H; h++)
        if (heads[h].bound.n_violations > 0)
            return eval_fail(e,
                             "internal error: scheme %s: window %zu, layer %zu, head %zu, token %zu: "
                             "attention error above the certified bound",
                             s->run->text, w->window, layer, h, t);
    return true;
}

static bool local_step(work *w, stream *s, size_t layer, size_t t, bool with_bound, eval_error *e)
{
    const double start = progress_now();
    evaluate_head *heads = s->heads + layer * w->H;
    if (!decode_step(w, s->local, s->run->text, layer, layer, t, w->ref_q, w->ref_k, w->ref_v,
                     w->probabilities, with_bound ? w->bound : NULL, w->out, e))
        return false;
    compare_step(w, heads, t, with_bound);
    s->seconds += progress_now() - start;
    return !with_bound || check_bounds(w, s, heads, layer, t, e);
}

/* ---- one layer ---- */

static void add_token(evaluate_head *head, const metric_l2 *k, bool k_packed, const metric_l2 *v,
                      bool v_packed)
{
    metric_l2_merge(&head->k, k);
    metric_l2_merge(&head->v, v);
    if (k_packed)
        metric_l2_merge(&head->k_packed, k);
    if (v_packed)
        metric_l2_merge(&head->v_packed, v);
}

/* Read the layer's local cache back and compare it with what it was fed. */
static bool compare_cache(const work *w, const stream *s, size_t layer, eval_error *e)
{
    size_t n_k = 0, n_v = 0;
    kvq_status status = kvq_cache_n_packed(s->local, layer, 0, &n_k, &n_v);
    if (status == KVQ_OK)
        status = kvq_cache_read(s->local, layer, 0, 0, w->T, w->k, w->v);
    if (status != KVQ_OK)
        return step_failed(w, s->run->text, layer, 0, "reading back", kvq_status_string(status), e);
    const size_t first =
        kvq_scheme_sinks(s->run->scheme); /* packed tokens lie between the sinks and the residual */
    for (size_t t = 0; t < w->T; t++) {
        for (size_t h = 0; h < w->Hkv; h++) {
            const size_t at = t * w->KV + h * w->D;
            metric_l2 k = {0}, v = {0};
            metric_l2_add(&k, w->ref_k + at, w->k + at, w->D);
            metric_l2_add(&v, w->ref_v + at, w->v + at, w->D);
            const bool k_packed = t >= first && t - first < n_k, v_packed = t >= first && t - first < n_v;
            for (size_t i = h * w->H / w->Hkv; i < (h + 1) * w->H / w->Hkv;
                 i++) /* the query heads it serves */
                add_token(&s->heads[layer * w->H + i], &k, k_packed, &v, v_packed);
        }
    }
    return true;
}

static bool asks_for_bound(const work *w, size_t t)
{
    const size_t every = w->config->bound_every;
    return every > 0 && ((t + 1) % every == 0 || t + 1 == w->T);
}

/* The reference through this layer, and beside it the local caches, which see the same queries, keys, values.
 */
static bool reference_layer(work *w, size_t layer, eval_error *e)
{
    const model *m = w->config->model;
    double start = progress_now();
    model_layer_qkv(m, layer, w->x, 0, w->T, w->scratch, w->ref_q, w->ref_k, w->ref_v);
    if (!prefill(w, w->reference, "fp32", layer, layer, w->ref_q, w->ref_k, w->ref_v, w->ref_out, e))
        return false;
    w->ref_seconds += progress_now() - start;
    for (size_t i = 0; i < w->n_streams; i++)
        if (!prefill(w, w->streams[i].local, w->streams[i].run->text, layer, layer, w->ref_q, w->ref_k,
                     w->ref_v, w->out, e))
            return false;
    for (size_t t = w->config->n_prompt; t < w->T; t++) {
        const bool with_bound = asks_for_bound(w, t);
        start = progress_now();
        if (!decode_step(w, w->reference, "fp32", layer, layer, t, w->ref_q, w->ref_k, w->ref_v,
                         w->ref_probabilities, with_bound ? w->ref_bound : NULL, w->ref_out, e))
            return false;
        w->ref_seconds += progress_now() - start;
        for (size_t h = 0; with_bound && h < w->H; h++)
            metric_bound_add(&w->ref_heads[layer * w->H + h].bound, (double)w->ref_bound[h], 0.0, 0.0);
        for (size_t i = 0; i < w->n_streams; i++)
            if (!local_step(w, &w->streams[i], layer, t, with_bound, e))
                return false;
        step_done(w, 1.0 + (double)w->n_streams);
    }
    for (size_t i = 0; i < w->n_streams; i++)
        if (!compare_cache(w, &w->streams[i], layer, e))
            return false;
    start = progress_now();
    model_layer_finish(m, layer, w->x, w->ref_out, w->T, w->scratch);
    w->ref_seconds += progress_now() - start;
    return true;
}

/* A stream that feeds itself, through this layer. */
static bool propagated_layer(work *w, stream *s, size_t layer, eval_error *e)
{
    const model *m = w->config->model;
    const double start = progress_now();
    model_layer_qkv(m, layer, s->x, 0, w->T, w->scratch, w->q, w->k, w->v);
    kvq_cache_reset(s->propagated);
    if (!prefill(w, s->propagated, s->run->text, 0, layer, w->q, w->k, w->v, w->out, e))
        return false;
    for (size_t t = w->config->n_prompt; t < w->T; t++) {
        if (!decode_step(w, s->propagated, s->run->text, 0, layer, t, w->q, w->k, w->v, NULL, NULL, w->out,
                         e))
            return false;
        step_done(w, 1.0);
    }
    model_layer_finish(m, layer, s->x, w->out, w->T, w->scratch);
    s->seconds += progress_now() - start;
    return true;
}

/* ---- one window ---- */

static bool measure_bytes(evaluate_run *run, const kvq_cache *cache, const work *w, eval_error *e)
{
    const kvq_status status = kvq_cache_usage(cache, &run->usage);
    if (status != KVQ_OK)
        return eval_fail(e, "scheme %s: memory usage: %s", run->text, kvq_status_string(status));
    const kvq_usage *u = &run->usage;
    run->fp32_bytes = memory_plain_bytes(&w->config->model->shape, w->T, 4);
    run->fp16_bytes = memory_plain_bytes(&w->config->model->shape, w->T, 2);
    run->ratio_vs_fp32 = (double)run->fp32_bytes / (double)run->usage.total;
    run->ratio_vs_fp16 = (double)run->fp16_bytes / (double)run->usage.total;
    run->bits_packed = u->n_packed_elements > 0
                           ? 8.0 * (double)(u->payload + u->metadata) / (double)u->n_packed_elements
                           : (double)NAN;
    run->bits_here = 8.0 * (double)u->total / (double)u->n_elements;
    return true;
}

/* All layers. Touches nothing that another window touches. */
static bool run_window(work *w, size_t window, eval_error *e)
{
    w->window = window;
    w->finished = w->interrupted = false;
    model_embed(w->config->model, w->config->ids + window * w->T, 0, w->T, w->x);
    kvq_cache_reset(w->reference);
    for (size_t i = 0; i < w->n_streams; i++) {
        kvq_cache_reset(w->streams[i].local);
        if (w->quality)
            memcpy(w->streams[i].x, w->x, w->T * w->E * sizeof(float));
    }
    for (size_t layer = 0; layer < w->L; layer++) {
        if (!reference_layer(w, layer, e))
            return false;
        for (size_t i = 0; w->quality && i < w->n_streams; i++)
            if (!propagated_layer(w, &w->streams[i], layer, e))
                return false;
    }
    w->finished = true;
    return true;
}

/* Add a window's sums to the run's, and make them ready for the next window. */
static void merge_heads(evaluate_head *into, evaluate_head *from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        metric_l2_merge(&into[i].k, &from[i].k);
        metric_l2_merge(&into[i].v, &from[i].v);
        metric_l2_merge(&into[i].k_packed, &from[i].k_packed);
        metric_l2_merge(&into[i].v_packed, &from[i].v_packed);
        metric_l2_merge(&into[i].attn, &from[i].attn);
        metric_bound_merge(&into[i].bound, &from[i].bound);
        into[i].prob_kl_sum += from[i].prob_kl_sum;
        into[i].n_steps += from[i].n_steps;
        into[i].attn_max_abs = fmaxf(into[i].attn_max_abs, from[i].attn_max_abs);
    }
    memset(from, 0, n * sizeof from[0]);
}

/* What a finished window gives to the result. Called for one window after the other. */
static bool finish_window(work *w, size_t window, eval_error *e)
{
    const evaluate_config *c = w->config;
    evaluate_run *reference = &w->result->runs[0];
    FILE *logits_stream = window == 0 ? c->logits_stream : NULL;
    /* Every window ends with the same number of tokens, so any window's bytes are all windows' bytes. */
    if (reference->is_reference) {
        merge_heads(reference->heads, w->ref_heads, w->L * w->H);
        reference->seconds += w->ref_seconds;
        if (!measure_bytes(reference, w->reference, w, e))
            return false;
    }
    w->ref_seconds = 0.0;
    for (size_t i = 0; i < w->n_streams; i++) {
        stream *s = &w->streams[i];
        merge_heads(s->run->heads, s->heads, w->L * w->H);
        s->run->seconds += s->seconds;
        s->seconds = 0.0;
        if (!measure_bytes(s->run, s->local, w, e))
            return false;
    }
    eval_error why; /* the measurement goes on without the logits */
    if (logits_stream && !quality_write_logits(c->model, w->x, w->T, logits_stream, &why))
        w->result->logits_failed = why;
    if (!w->quality)
        return true;
    quality_begin_window(w->quality, window, c->ids + window * w->T, w->x);
    for (size_t i = 0; i < w->n_streams; i++)
        quality_set_stream(w->quality, i, w->streams[i].run->text, w->streams[i].x);
    return quality_end_window(w->quality, e);
}

/* Run windows [first, first + n) side by side; on failure *e is the first one's. */
static bool run_side_by_side(work *workers, size_t first, size_t n, eval_error *e)
{
    if (n == 1) /* so that the threads may serve within a step */
        return run_window(&workers[0], first, e);
    size_t failed = n;
#pragma omp parallel for schedule(static, 1) num_threads((int)n)
    for (size_t i = 0; i < n; i++) {
        eval_error own;
        if (!run_window(&workers[i], first + i, &own)) {
#pragma omp critical(evaluate_failed)
            if (i < failed) {
                failed = i;
                *e = own;
            }
        }
    }
    return failed == n;
}

/* When the work is stopped, the windows before the first unfinished one are the result, if there are any. */
static bool run_windows(work *workers, size_t n_workers, eval_error *e)
{
    evaluation *result = workers[0].result;
    assert(result != NULL && workers[0].config != NULL);
    const size_t n_windows = workers[0].config->n_windows;
    result->n_windows = 0;
    while (result->n_windows < n_windows) {
        const size_t first = result->n_windows;
        const size_t n = n_windows - first < n_workers ? n_windows - first : n_workers;
        const bool good = run_side_by_side(workers, first, n, e);
        for (size_t i = 0; i < n; i++)
            if (!workers[i].finished && !workers[i].interrupted)
                return false;
        for (size_t i = 0; i < n && workers[i].finished; i++) {
            if (!finish_window(&workers[i], first + i, e))
                return false;
            result->n_windows++;
        }
        if (!good)
            return result->n_windows > 0;
    }
    return true;
}

/* ---- results ---- */

static void find_worst_head(evaluate_run *run, size_t n_layers, size_t n_heads)
{
    for (size_t i = 0; i < n_layers * n_heads; i++) {
        const double error = metric_l2_value(&run->heads[i].attn);
        if (error > run->attn_worst_rel_l2) {
            run->attn_worst_rel_l2 = error;
            run->attn_worst_layer = i / n_heads;
            run->attn_worst_head = i % n_heads;
        }
    }
}

static void summarize_local(evaluate_run *run, size_t n_layers, size_t n_heads)
{
    evaluate_head all = {0};
    for (size_t i = 0; i < n_layers * n_heads; i++) {
        evaluate_head head = run->heads[i];
        merge_heads(&all, &head, 1);
    }
    find_worst_head(run, n_layers, n_heads);
    run->k_rel_l2 = metric_l2_value(&all.k);
    run->v_rel_l2 = metric_l2_value(&all.v);
    run->k_rel_l2_packed = evaluate_packed_error(run, &all.k_packed);
    run->v_rel_l2_packed = evaluate_packed_error(run, &all.v_packed);
    run->attn_rel_l2 = metric_l2_value(&all.attn);
    run->attn_max_abs = (double)all.attn_max_abs;
    run->attn_prob_kl = evaluate_head_prob_kl(&all);
    run->bound_max = all.bound.n > 0 ? all.bound.max : (double)NAN;
    run->bound_looseness = metric_bound_looseness(&all.bound);
}

static bool set_scheme(evaluate_run *run, const char *text, eval_error *e)
{
    if (!copy_scheme(&run->scheme, text, e))
        return false;
    run->text = kvq_scheme_text(run->scheme);
    return true;
}

/* The rows of the result: fp32 first, then the schemes in their order. */
static bool make_runs(evaluation *result, const evaluate_config *c, eval_error *e)
{
    result->runs = calloc(c->n_schemes + 1, sizeof result->runs[0]);
    if (!result->runs)
        return eval_fail(e, "out of memory");
    evaluate_run *runs = result->runs;
    result->n_runs = 1;
    runs[0].is_reference = true;
    if (!set_scheme(&runs[0], "fp32", e))
        return false;
    for (size_t i = 0; i < c->n_schemes; i++) {
        const char *text = kvq_scheme_text(c->schemes[i]);
        if (runs[0].is_reference && strcmp(text, "fp32") == 0)
            runs[0].is_reference = false; /* asked for: what stood for the reference is it */
        else if (!set_scheme(&runs[result->n_runs++], text, e))
            return false;
    }
    for (size_t i = 0; i < result->n_runs; i++) {
        runs[i].heads = calloc(result->n_layer * result->n_head, sizeof runs[i].heads[0]);
        if (!runs[i].heads)
            return eval_fail(e, "out of memory");
    }
    return true;
}

/* Long contexts, and large models, would take more memory to weigh than to measure. */
static size_t weighed_tokens(const evaluate_config *c)
{
    const uint64_t most_bytes = (uint64_t)1 << 30, most_tokens = 4096;
    const model_shape *shape = &c->model->shape;
    const uint64_t affordable = most_bytes / memory_plain_bytes(shape, 1, sizeof(float));
    const size_t enough = (size_t)(affordable < most_tokens ? affordable : most_tokens);
    return shape->n_ctx <= enough ? shape->n_ctx : c->n_tokens > enough ? c->n_tokens : enough;
}

static bool weigh_runs(evaluation *result, const evaluate_config *c, eval_error *e)
{
    result->n_weighed = weighed_tokens(c);
    for (size_t i = 0; i < result->n_runs; i++) {
        evaluate_run *run = &result->runs[i];
        if (!memory_pays_from(&c->model->shape, run->scheme, result->n_weighed, &run->pays_from, e))
            return false;
    }
    return true;
}

static bool set_up(work *w, eval_error *e)
{
    evaluation *result = w->result;
    const bool has_reference_row = result->runs[0].is_reference;
    w->n_streams = result->n_runs - (has_reference_row ? 1 : 0);
    w->streams = calloc(w->n_streams ? w->n_streams : 1, sizeof w->streams[0]);
    if (!w->streams)
        return eval_fail(e, "out of memory");
    for (size_t i = 0; i < w->n_streams; i++)
        w->streams[i].run = &result->runs[i + (has_reference_row ? 1 : 0)];
    return allocate(w, e) && make_caches(w, e);
}

static void summarize(const work *w)
{
    evaluation *result = w->result;
    for (size_t i = 0; i < result->n_runs; i++)
        summarize_local(&result->runs[i], w->L, w->H);
    for (size_t i = 0; w->quality && i < w->n_streams; i++)
        quality_finish(w->quality, i, w->streams[i].run);
    if (w->quality && result->runs[0].is_reference)
        quality_finish_reference(w->quality, &result->runs[0]);
}

/* The runs are made: set up the workers, run, sum up. */
static bool evaluate_runs(evaluation *result, const evaluate_config *config, eval_error *e)
{
    const model_shape *shape = &config->model->shape;
    const size_t n_streams = result->n_runs - (result->runs[0].is_reference ? 1 : 0);
    const size_t n_threads = (size_t)(config->n_threads > 0 ? config->n_threads : omp_get_max_threads());
    const size_t n_workers = n_threads < config->n_windows ? n_threads : config->n_windows;
    const double passes = 1.0 + (result->has_quality ? 2.0 : 1.0) * (double)n_streams;
    shared_progress steps = {.total = (double)config->n_windows * (double)shape->n_layer *
                                      (double)(config->n_tokens - config->n_prompt) * passes};
    work *workers = calloc(n_workers, sizeof workers[0]);
    quality *shared_quality = result->has_quality ? quality_create(config, n_streams) : NULL;
    bool good = (workers && (shared_quality || !result->has_quality)) || eval_fail(e, "out of memory");
    for (size_t i = 0; good && i < n_workers; i++) {
        workers[i] = (work){.config = config,
                            .result = result,
                            .n_threads = n_workers > 1 ? 1 : config->n_threads,
                            .L = shape->n_layer,
                            .H = shape->n_head,
                            .Hkv = shape->n_kv_head,
                            .D = shape->head_dim,
                            .E = shape->n_embd,
                            .Q = shape->n_head * shape->head_dim,
                            .KV = shape->n_kv_head * shape->head_dim,
                            .T = config->n_tokens,
                            .quality = shared_quality,
                            .progress = &steps};
        good = set_up(&workers[i], e);
    }
    good = good && run_windows(workers, n_workers, e);
    if (good)
        summarize(&workers[0]);
    for (size_t i = 0; workers && i < n_workers; i++)
        work_free(&workers[i]);
    free(workers);
    quality_free(shared_quality);
    return good;
}

bool evaluate(evaluation *out, const evaluate_config *config, eval_error *e)
{
    const model_shape *shape = &config->model->shape;
    if (config->n_tokens < 2 || config->n_tokens > shape->n_ctx || config->n_prompt + 2 > config->n_tokens ||
        config->n_windows == 0) {
        return eval_fail(e, "windows of %zu tokens with a prompt of %zu do not fit a context of %zu",
                         config->n_tokens, config->n_prompt, shape->n_ctx);
    }
    evaluation result = {.n_layer = shape->n_layer,
                         .n_head = shape->n_head,
                         .head_dim = shape->head_dim,
                         .n_windows_asked = config->n_windows,
                         .n_tokens = config->n_tokens,
                         .n_prompt = config->n_prompt,
                         .bound_every = config->bound_every,
                         .has_quality = !config->model->random};
    for (size_t layer = 0; layer < shape->n_layer; layer++) {
        const size_t window = model_attn_window(config->model, layer);
        result.n_layer_windowed += window > 0 ? 1 : 0;
        result.attn_window = window > 0 ? window : result.attn_window;
    }
    if (!make_runs(&result, config, e) || !weigh_runs(&result, config, e) ||
        !evaluate_runs(&result, config, e)) {
        evaluation_free(&result);
        return false;
    }
    *out = result;
    return true;
}

size_t evaluate_default_bound_every(size_t n_tokens)
{
    return (n_tokens + 7) / 8;
}

void evaluation_free(evaluation *ev)
{
    for (size_t i = 0; ev->runs && i < ev->n_runs; i++) {
        free(ev->runs[i].heads);
        kvq_scheme_free(ev->runs[i].scheme);
    }
    free(ev->runs);
    memset(ev, 0, sizeof *ev);
}

double evaluate_head_prob_kl(const evaluate_head *head)
{
    return head->n_steps ? head->prob_kl_sum / (double)head->n_steps : 0.0;
}

double evaluate_packed_error(const evaluate_run *run, const metric_l2 *packed)
{
    return packed->n > 0 || run->is_reference ? metric_l2_value(packed) : (double)NAN;
}

double evaluate_ppl_increase(const evaluate_run *run)
{
    return 100.0 * (run->ppl / run->ppl_fp32 - 1.0);
}

bool evaluation_is_partial(const evaluation *ev)
{
    return ev->n_windows < ev->n_windows_asked;
}

size_t evaluation_n_steps(const evaluation *ev)
{
    return ev->n_windows * (ev->n_tokens - ev->n_prompt);
}
