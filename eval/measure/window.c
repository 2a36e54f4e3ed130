/* Teacher-forced decodes of one window after the other, layer by layer (DESIGN.md, "Evaluation that is exact
 * and fast"); evaluate.c shares the windows out and sums up.
 *
 * Streams of activations x[T][E] go through the model side by side: the fp32 reference, and one per scheme
 * that feeds itself ("propagated"). At each layer the reference's queries, keys and values also go through a
 * cache of each scheme ("local"), whose attention is compared with the reference's step by step, so that no
 * [T][T] array of probabilities is ever held. A recording gives queries, keys and values, or the latter two,
 * and no stream: then there are only local caches.
 *
 * Caches: the reference and the local caches have all the model's layers and keep them to the end of the
 * window. A propagated cache is needed for one layer at a time, so it has one layer and is emptied between
 * layers, or made anew where the scheme differs by layer.
 */
#include "eval/measure/window.h"

#include "eval/common/progress.h"
#include "eval/measure/cells.h"
#include "eval/measure/memory.h"
#include "eval/model/model.h"
#include "eval/model/recording.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* ---- set up and tear down ---- */

static float *floats(size_t a, size_t b)
{
    /* calloc checks the product; what it multiplies are sizes the model was loaded with. */
    return calloc(a ? a : 1, (b ? b : 1) * sizeof(float));
}

static bool allocate(work *w, eval_error *e)
{
    const size_t T = w->T, E = w->E;
    const model *m = w->config->model;
    const struct {
        float **array;
        size_t width;
        bool needed;
    } wide[] = {{&w->x, E, m},
                {&w->ref_q, w->Q, w->has_queries},
                {&w->ref_out, w->Q, w->has_queries},
                {&w->ref_k, w->KV, true},
                {&w->ref_v, w->KV, true},
                {&w->q, w->Q, w->quality},
                {&w->out, w->Q, w->has_queries},
                {&w->k, w->KV, true},
                {&w->v, w->KV, true}};
    bool good = true;
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        *wide[i].array = wide[i].needed ? floats(T, wide[i].width) : NULL;
        good = good && (*wide[i].array || !wide[i].needed);
    }
    w->scratch = m ? floats(1, model_scratch_floats(m, T)) : NULL;
    w->ref_probabilities = floats(w->H, T);
    w->probabilities = floats(w->H, T);
    w->ref_bound = floats(w->H, 1);
    w->bound = floats(w->H, 1);
    w->ref_heads = calloc(w->L * w->H, sizeof w->ref_heads[0]);
    w->step_l2 = calloc(w->H, sizeof w->step_l2[0]);
    w->step_kl = calloc(w->H, sizeof w->step_kl[0]);
    good = good && (w->scratch || !m) && w->ref_probabilities && w->probabilities && w->ref_bound &&
           w->bound && w->ref_heads && w->step_l2 && w->step_kl;
    for (size_t i = 0; good && i < w->n_streams; i++) {
        w->streams[i].heads = calloc(w->L * w->H, sizeof w->streams[i].heads[0]);
        w->streams[i].blocks = calloc(cells_n_blocks(w->config), sizeof w->streams[i].blocks[0]);
        good = w->streams[i].heads && w->streams[i].blocks;
        if (good && w->quality) {
            w->streams[i].x = floats(T, E);
            good = w->streams[i].x != NULL;
        }
    }
    return good || eval_fail(e, "out of memory for windows of %zu tokens", T);
}

static bool make_caches(work *w, eval_error *e)
{
    const model_shape *shape = evaluate_shape(w->config);
    kvq_scheme *fp32 = NULL;
    bool good =
        evaluate_make_scheme(&fp32, "fp32", e) && memory_make_cache(&w->reference, shape, w->L, fp32, e);
    kvq_scheme_free(fp32);
    if (!good)
        return false;
    for (size_t i = 0; i < w->n_streams; i++) {
        stream *s = &w->streams[i];
        if (i < w->n_local && !memory_make_cache(&s->local, shape, w->L, s->run->scheme, e))
            return false;
        if (w->quality &&
            !memory_make_cache(&s->propagated, shape, 1, kvq_scheme_of_layer(s->run->scheme, 0), e))
            return false;
    }
    return true;
}

static bool make_streams(work *w, eval_error *e)
{
    evaluation *result = w->result;
    const size_t first = result->runs[0].is_reference ? 1 : 0;
    w->n_streams = result->n_runs - first;
    w->n_local = w->config->propagated_only ? 0 : w->n_streams;
    w->streams = calloc(w->n_streams ? w->n_streams : 1, sizeof w->streams[0]);
    if (!w->streams)
        return eval_fail(e, "out of memory");
    for (size_t i = 0; i < w->n_streams; i++)
        w->streams[i].run = &result->runs[i + first];
    return true;
}

bool work_set_up(work *w, const evaluate_config *config, evaluation *result, eval_error *e)
{
    const model_shape *shape = evaluate_shape(config);
    w->config = config;
    w->result = result;
    w->L = shape->n_layer;
    w->H = shape->n_head;
    w->Hkv = shape->n_kv_head;
    w->D = shape->head_dim;
    w->E = shape->n_embd;
    w->Q = w->H * w->D;
    w->KV = w->Hkv * w->D;
    w->T = config->n_tokens;
    w->has_queries = !result->kv_only;
    return make_streams(w, e) && allocate(w, e) && make_caches(w, e);
}

void work_free(work *w)
{
    for (size_t i = 0; w->streams && i < w->n_streams; i++) {
        kvq_cache_free(w->streams[i].local);
        kvq_cache_free(w->streams[i].propagated);
        free(w->streams[i].x);
        free(w->streams[i].heads);
        free(w->streams[i].blocks);
    }
    free(w->streams);
    free(w->ref_heads);
    free(w->step_l2);
    free(w->step_kl);
    kvq_cache_free(w->reference);
    float *const arrays[] = {
        w->x,         w->ref_q, w->ref_k, w->ref_v,   w->ref_out,           w->q,
        w->k,         w->v,     w->out,   w->scratch, w->ref_probabilities, w->probabilities,
        w->ref_bound, w->bound};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
}

void work_steps_done(work *w, double n)
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
    return eval_fail(e, "scheme %.600s: window %zu, layer %zu, token %zu: %s: %s", scheme,
                     w->config->first_window + w->window, layer, token, what, why);
}

static bool stopped(work *w, eval_error *e)
{
    w->interrupted = w->config->stop && w->config->stop(w->config->stop_ctx);
    if (w->interrupted)
        (void)eval_fail(e, "stopped before a window was done");
    return w->interrupted;
}

/* ---- one step ---- */

/* Tokens [t, t + n) of one layer: append, attend, learn. probabilities and bound may be NULL. */
static bool step_tokens(work *w, kvq_cache *cache, const char *scheme, size_t cache_layer, size_t layer,
                        size_t t, size_t n, const float *q, const float *k, const float *v,
                        float *probabilities, float *bound, float *out, eval_error *e)
{
    const size_t at = t * w->Q, at_kv = t * w->KV;
    if (stopped(w, e))
        return false;
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.precision = w->config->precision;
    options.n_threads = w->n_threads;
    options.probabilities = probabilities;
    options.bound = bound;
    options.window = evaluate_attn_window(w->config, layer);
    const recording *r = w->config->recording;
    const float scale = r ? recording_scale(r) : model_attn_scale(w->config->model, layer);
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
static void compare_step(const work *w, stream *s, size_t layer, size_t t, bool with_bound)
{
    const size_t D = w->D, n = t + 1;
    evaluate_head *heads = s->heads + layer * w->H;
#pragma omp parallel for schedule(static) if (w->n_threads != 1 && w->H * n > 4096)
    for (size_t h = 0; h < w->H; h++) {
        evaluate_head *head = &heads[h];
        const size_t at = t * w->Q + h * D;
        metric_l2 step = {0};
        const float max_abs = metric_l2_add(&step, w->ref_out + at, w->out + at, D);
        metric_l2_merge(&head->attn, &step);
        head->attn_max_abs = max_abs > head->attn_max_abs ? max_abs : head->attn_max_abs;
        const double kl = metric_kl_probabilities(w->ref_probabilities + h * n, w->probabilities + h * n, n);
        head->prob_kl_sum += kl;
        head->n_steps++;
        w->step_l2[h] = step;
        w->step_kl[h] = kl;
        if (with_bound)
            metric_bound_add(&head->bound, (double)w->bound[h], (double)w->ref_bound[h], (double)max_abs);
    }
    cell_block *block = &s->blocks[(t - w->config->n_prompt) / CELL_BLOCK];
    for (size_t h = 0; h < w->H; h++) { /* in order, so that sums do not depend on the number of threads */
        block->attn_error += w->step_l2[h].error;
        block->attn_reference += w->step_l2[h].reference;
        block->attn_kl += w->step_kl[h];
    }
    block->n_attn += w->H;
}

static bool check_bounds(const work *w, const stream *s, const evaluate_head *heads, size_t layer, size_t t,
                         eval_error *e)
{
    for (size_t h = 0; h < w->H; h++)
        if (heads[h].bound.n_violations > 0)
            return eval_fail(e,
                             "internal error: scheme %s: window %zu, layer %zu, head %zu, token %zu: "
                             "attention error above the certified bound",
                             s->run->text, w->config->first_window + w->window, layer, h, t);
    return true;
}

/* Does a scheme that differs by layer keep this one in fp32? Then its figures here are the reference's to the
 * last bit, as those of fp32 itself are, which does go the long way. Tuning asks for many such schemes. */
static bool is_fp32_layer(const stream *s, size_t layer)
{
    const kvq_scheme *scheme = s->run->scheme;
    return kvq_scheme_min_layers(scheme) > 0 &&
           strcmp(kvq_scheme_text(kvq_scheme_of_layer(scheme, layer)), "fp32") == 0;
}

/* A local step of such a layer: the cache takes the token, and attention is the reference's. */
static bool copy_step(work *w, stream *s, size_t layer, size_t t, eval_error *e)
{
    const size_t at = t * w->Q, at_kv = t * w->KV;
    const kvq_status status = kvq_cache_append(s->local, layer, 0, w->ref_k + at_kv, w->ref_v + at_kv, 1);
    if (status != KVQ_OK)
        return step_failed(w, s->run->text, layer, t, "append", kvq_status_string(status), e);
    memcpy(w->out + at, w->ref_out + at, w->Q * sizeof(float));
    memcpy(w->probabilities, w->ref_probabilities, w->H * (t + 1) * sizeof(float));
    memcpy(w->bound, w->ref_bound, w->H * sizeof(float));
    return true;
}

static bool local_step(work *w, stream *s, size_t layer, size_t t, bool with_bound, eval_error *e)
{
    const double start = progress_now();
    if (is_fp32_layer(s, layer)) {
        if (!copy_step(w, s, layer, t, e))
            return false;
    } else if (!decode_step(w, s->local, s->run->text, layer, layer, t, w->ref_q, w->ref_k, w->ref_v,
                            w->probabilities, with_bound ? w->bound : NULL, w->out, e))
        return false;
    compare_step(w, s, layer, t, with_bound);
    s->seconds += progress_now() - start;
    return !with_bound || check_bounds(w, s, s->heads + layer * w->H, layer, t, e);
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
    /* packed tokens lie between the sinks and the residual */
    const size_t first = kvq_scheme_sinks(kvq_scheme_of_layer(s->run->scheme, layer));
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

/* What attention gets at this layer, from the model or from the recording. */
static bool reference_inputs(work *w, size_t layer, eval_error *e)
{
    const evaluate_config *c = w->config;
    if (c->recording)
        return recording_read(c->recording, layer, c->first_window + w->window, w->T, w->ref_q, w->ref_k,
                              w->ref_v, e);
    model_layer_qkv(c->model, layer, w->x, 0, w->T, w->scratch, w->ref_q, w->ref_k, w->ref_v);
    return true;
}

/* A counted token of the reference's, and of every local cache. */
static bool reference_step(work *w, size_t layer, size_t t, eval_error *e)
{
    const bool with_bound = asks_for_bound(w, t);
    const double start = progress_now();
    if (!decode_step(w, w->reference, "fp32", layer, layer, t, w->ref_q, w->ref_k, w->ref_v,
                     w->ref_probabilities, with_bound ? w->ref_bound : NULL, w->ref_out, e))
        return false;
    w->ref_seconds += progress_now() - start;
    for (size_t h = 0; with_bound && h < w->H; h++)
        metric_bound_add(&w->ref_heads[layer * w->H + h].bound, (double)w->ref_bound[h], 0.0, 0.0);
    for (size_t i = 0; i < w->n_local; i++)
        if (!local_step(w, &w->streams[i], layer, t, with_bound, e))
            return false;
    work_steps_done(w, 1.0 + (double)w->n_local);
    return true;
}

/* Attention of the reference at this layer, and beside it of the local caches, which see the same queries,
 * keys and values. */
static bool attend_layer(work *w, size_t layer, eval_error *e)
{
    const double start = progress_now();
    if (!prefill(w, w->reference, "fp32", layer, layer, w->ref_q, w->ref_k, w->ref_v, w->ref_out, e))
        return false;
    w->ref_seconds += progress_now() - start;
    for (size_t i = 0; i < w->n_local; i++)
        if (!prefill(w, w->streams[i].local, w->streams[i].run->text, layer, layer, w->ref_q, w->ref_k,
                     w->ref_v, w->out, e))
            return false;
    for (size_t t = w->config->n_prompt; t < w->T; t++)
        if (!reference_step(w, layer, t, e))
            return false;
    return true;
}

/* Without queries: the caches take the keys and values, and that is all. */
static bool append_layer(work *w, size_t layer, eval_error *e)
{
    for (size_t i = 0; i <= w->n_streams; i++) {
        stream *s = i > 0 ? &w->streams[i - 1] : NULL;
        const double start = progress_now();
        if (stopped(w, e))
            return false;
        const kvq_status status =
            kvq_cache_append(s ? s->local : w->reference, layer, 0, w->ref_k, w->ref_v, w->T);
        if (status != KVQ_OK)
            return step_failed(w, s ? s->run->text : "fp32", layer, 0, "append", kvq_status_string(status),
                               e);
        *(s ? &s->seconds : &w->ref_seconds) += progress_now() - start;
        work_steps_done(w, (double)(w->T - w->config->n_prompt));
    }
    return true;
}

/* The reference through this layer, the local caches beside it. */
static bool reference_layer(work *w, size_t layer, eval_error *e)
{
    double start = progress_now();
    if (!reference_inputs(w, layer, e))
        return false;
    w->ref_seconds += progress_now() - start;
    if (!(w->has_queries ? attend_layer(w, layer, e) : append_layer(w, layer, e)))
        return false;
    for (size_t i = 0; i < w->n_local; i++)
        if (!compare_cache(w, &w->streams[i], layer, e))
            return false;
    start = progress_now();
    if (w->config->model)
        model_layer_finish(w->config->model, layer, w->x, w->ref_out, w->T, w->scratch);
    w->ref_seconds += progress_now() - start;
    return true;
}

/* Make the stream's own cache an empty one of this layer. */
static bool begin_propagated(work *w, stream *s, size_t layer, eval_error *e)
{
    const kvq_scheme *scheme = s->run->scheme;
    if (kvq_scheme_min_layers(scheme) == 0) {
        kvq_cache_reset(s->propagated);
        return true;
    }
    kvq_cache_free(s->propagated);
    s->propagated = NULL;
    return memory_make_cache(&s->propagated, evaluate_shape(w->config), 1, kvq_scheme_of_layer(scheme, layer),
                             e);
}

/* A stream that feeds itself, through this layer. */
static bool propagated_layer(work *w, stream *s, size_t layer, eval_error *e)
{
    const model *m = w->config->model;
    const double start = progress_now();
    s->is_reference = s->is_reference && is_fp32_layer(s, layer);
    if (s->is_reference) {
        memcpy(s->x, w->x, w->T * w->E * sizeof(float));
        work_steps_done(w, (double)(w->T - w->config->n_prompt));
        return true;
    }
    model_layer_qkv(m, layer, s->x, 0, w->T, w->scratch, w->q, w->k, w->v);
    if (!begin_propagated(w, s, layer, e) ||
        !prefill(w, s->propagated, s->run->text, 0, layer, w->q, w->k, w->v, w->out, e))
        return false;
    for (size_t t = w->config->n_prompt; t < w->T; t++) {
        if (!decode_step(w, s->propagated, s->run->text, 0, layer, t, w->q, w->k, w->v, NULL, NULL, w->out,
                         e))
            return false;
        work_steps_done(w, 1.0);
    }
    model_layer_finish(m, layer, s->x, w->out, w->T, w->scratch);
    s->seconds += progress_now() - start;
    return true;
}

/* ---- one window ---- */

bool work_run(work *w, size_t window, eval_error *e)
{
    w->window = window;
    w->finished = w->interrupted = false;
    if (w->config->model)
        model_embed(w->config->model, w->config->ids + window * w->T, 0, w->T, w->x);
    kvq_cache_reset(w->reference);
    for (size_t i = 0; i < w->n_streams; i++) {
        kvq_cache_reset(w->streams[i].local);
        w->streams[i].is_reference = true;
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
