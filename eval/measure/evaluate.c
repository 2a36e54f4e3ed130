/* The windows of an evaluation shared out to workers (window.h), and their results summed up.
 *
 * Windows do not depend on each other, so as many run side by side as there are threads, each on one thread:
 * a step's attention takes microseconds, and threads that meet after each would mostly wait for each other.
 * Only a single window has the threads within a step. Results are merged in the order of the windows.
 *
 * The bytes reported are those of the local caches: real ones, with all their layers, slack and bookkeeping.
 */
#include "eval/measure/evaluate.h"

#include "eval/measure/cells.h"
#include "eval/measure/memory.h"
#include "eval/measure/quality.h"
#include "eval/measure/window.h"

#include <assert.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

size_t evaluate_attn_window(const evaluate_config *config, size_t layer)
{
    return config->recording ? recording_window(config->recording, layer)
                             : model_attn_window(config->model, layer);
}

const model_shape *evaluate_shape(const evaluate_config *config)
{
    return config->recording ? recording_shape(config->recording) : &config->model->shape;
}

bool evaluate_make_scheme(kvq_scheme **out, const char *text, eval_error *e)
{
    kvq_error why = {KVQ_OK, "", 0};
    const kvq_status status = kvq_scheme_create(out, text, &why);
    return status == KVQ_OK ||
           eval_fail(e, "scheme '%.200s': character %llu: %s", text, (unsigned long long)why.offset + 1,
                     status == KVQ_ERR_SCHEME ? why.message : kvq_status_string(status));
}

/* ---- one window ---- */

static bool measure_bytes(evaluate_run *run, const kvq_cache *cache, const work *w, eval_error *e)
{
    const kvq_status status = kvq_cache_usage(cache, &run->usage);
    if (status != KVQ_OK)
        return eval_fail(e, "scheme %s: memory usage: %s", run->text, kvq_status_string(status));
    const kvq_usage *u = &run->usage;
    run->fp32_bytes = memory_plain_bytes(evaluate_shape(w->config), w->T, 4);
    run->fp16_bytes = memory_plain_bytes(evaluate_shape(w->config), w->T, 2);
    run->ratio_vs_fp32 = (double)run->fp32_bytes / (double)run->usage.total;
    run->ratio_vs_fp16 = (double)run->fp16_bytes / (double)run->usage.total;
    run->bits_packed = u->n_packed_elements > 0
                           ? 8.0 * (double)(u->payload + u->metadata) / (double)u->n_packed_elements
                           : (double)NAN;
    run->bits_here = 8.0 * (double)u->total / (double)u->n_elements;
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

/* The logits of a window in steps of a layer: by weights, of which the head has so many and a layer the
 * rest's share. Only the time left depends on it. */
static double logits_steps(const evaluate_config *c, size_t n_streams)
{
    const model *m = c->model;
    const double head = (double)m->shape.vocab_size * (double)m->shape.n_embd;
    const double layer = (double)m->n_params / (double)m->shape.n_layer;
    return head / layer * (double)(c->n_tokens - c->n_prompt) * (double)(1 + n_streams);
}

/* The window's logits of all streams against the reference's; and the file of logits, if it is wanted. */
static bool judge_window(work *w, size_t window, eval_error *e)
{
    const evaluate_config *c = w->config;
    FILE *logits_stream = window == 0 ? c->logits_stream : NULL;
    eval_error why; /* the measurement goes on without the logits */
    if (logits_stream && !quality_write_logits(c->model, w->x, w->T, logits_stream, &why))
        w->result->logits_failed = why;
    if (!w->quality)
        return true;
    quality_begin_window(w->quality, window, c->ids + window * w->T, w->x);
    for (size_t i = 0; i < w->n_streams; i++)
        quality_set_stream(w->quality, i, w->streams[i].run->text, w->streams[i].x);
    const bool good = quality_end_window(w->quality, e);
    work_steps_done(w, logits_steps(c, w->n_streams));
    return good;
}

/* What a finished window gives to the result. Called for one window after the other. */
static bool finish_window(work *w, size_t window, eval_error *e)
{
    evaluate_run *reference = &w->result->runs[0];
    if (!judge_window(w, window, e))
        return false;
    /* Every window ends with the same number of tokens, so any window's bytes are all windows' bytes. */
    if (reference->is_reference) {
        if (!measure_bytes(reference, w->reference, w, e) || !cells_make_reference(reference, w, window, e))
            return false;
        merge_heads(reference->heads, w->ref_heads, w->L * w->H);
        reference->seconds += w->ref_seconds;
    }
    w->ref_seconds = 0.0;
    for (size_t i = 0; i < w->n_streams; i++) {
        stream *s = &w->streams[i];
        if ((s->local && !measure_bytes(s->run, s->local, w, e)) || !cells_make(w, i, window, e))
            return false;
        merge_heads(s->run->heads, s->heads, w->L * w->H);
        memset(s->blocks, 0, cells_n_blocks(w->config) * sizeof s->blocks[0]);
        s->run->seconds += s->seconds;
        s->seconds = 0.0;
    }
    return true;
}

/* Run windows [first, first + n) side by side; on failure *e is the first one's. */
static bool run_side_by_side(work *workers, size_t first, size_t n, eval_error *e)
{
    if (n == 1) /* so that the threads may serve within a step */
        return work_run(&workers[0], first, e);
    size_t failed = n;
#pragma omp parallel for schedule(static, 1) num_threads((int)n)
    for (size_t i = 0; i < n; i++) {
        eval_error own;
        if (!work_run(&workers[i], first + i, &own)) {
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
    run->k_rel_l2 = metric_l2_value(&all.k);
    run->v_rel_l2 = metric_l2_value(&all.v);
    run->k_rel_l2_packed = evaluate_packed_error(run, &all.k_packed);
    run->v_rel_l2_packed = evaluate_packed_error(run, &all.v_packed);
    if (run->kv_only) {
        run->attn_rel_l2 = run->attn_max_abs = run->attn_worst_rel_l2 = run->attn_prob_kl = (double)NAN;
        run->bound_max = run->bound_looseness = (double)NAN;
        return;
    }
    find_worst_head(run, n_layers, n_heads);
    run->attn_rel_l2 = metric_l2_value(&all.attn);
    run->attn_max_abs = (double)all.attn_max_abs;
    run->attn_prob_kl = evaluate_head_prob_kl(&all);
    run->bound_max = all.bound.n > 0 ? all.bound.max : (double)NAN;
    run->bound_looseness = metric_bound_looseness(&all.bound);
}

static bool set_scheme(evaluate_run *run, const char *text, eval_error *e)
{
    if (!evaluate_make_scheme(&run->scheme, text, e))
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
        runs[i].kv_only = result->kv_only;
        runs[i].heads = calloc(result->n_layer * result->n_head, sizeof runs[i].heads[0]);
        runs[i].cells = calloc(c->n_windows, sizeof runs[i].cells[0]);
        if (!runs[i].heads || !runs[i].cells)
            return eval_fail(e, "out of memory");
    }
    return true;
}

/* Long contexts, and large models, would take more memory to weigh than to measure. */
static size_t weighed_tokens(const evaluate_config *c)
{
    const uint64_t most_bytes = (uint64_t)1 << 30, most_tokens = 4096;
    const model_shape *shape = evaluate_shape(c);
    const uint64_t affordable = most_bytes / memory_plain_bytes(shape, 1, sizeof(float));
    const size_t enough = (size_t)(affordable < most_tokens ? affordable : most_tokens);
    return shape->n_ctx <= enough ? shape->n_ctx : c->n_tokens > enough ? c->n_tokens : enough;
}

static bool weigh_runs(evaluation *result, const evaluate_config *c, eval_error *e)
{
    result->n_weighed = weighed_tokens(c);
    for (size_t i = 0; i < result->n_runs; i++) {
        evaluate_run *run = &result->runs[i];
        if (!memory_pays_from(evaluate_shape(c), run->scheme, result->n_weighed, &run->pays_from, e))
            return false;
    }
    return true;
}

static bool estimate_run(const evaluation *result, evaluate_run *run, eval_error *e)
{
    const cell **cells = evaluate_cells(result, run);
    if (!cells)
        return eval_fail(e, "out of memory for the figures' uncertainty");
    for (figure f = 0; f < N_FIGURES; f++)
        run->estimates[f] = statistics_estimate(f, cells, result->n_windows, STATISTICS_SEED);
    free(cells);
    return true;
}

static bool summarize(const work *w, eval_error *e)
{
    evaluation *result = w->result;
    const bool local = !w->config->propagated_only;
    for (size_t i = 0; local && i < result->n_runs; i++)
        if (!estimate_run(result, &result->runs[i], e))
            return false;
    for (size_t i = 0; local && i < result->n_runs; i++)
        summarize_local(&result->runs[i], w->L, w->H);
    for (size_t i = 0; w->quality && i < w->n_streams; i++)
        quality_finish(w->quality, i, w->streams[i].run);
    if (w->quality && result->runs[0].is_reference)
        quality_finish_reference(w->quality, &result->runs[0]);
    return true;
}

/* The runs are made: set up the workers, run, sum up. */
static bool evaluate_runs(evaluation *result, const evaluate_config *config, eval_error *e)
{
    const model_shape *shape = evaluate_shape(config);
    const size_t n_streams = result->n_runs - (result->runs[0].is_reference ? 1 : 0);
    const size_t n_threads = (size_t)(config->n_threads > 0 ? config->n_threads : omp_get_max_threads());
    const size_t n_workers = n_threads < config->n_windows ? n_threads : config->n_windows;
    const double per_stream = (result->has_quality ? 1.0 : 0.0) + (config->propagated_only ? 0.0 : 1.0);
    const double passes = 1.0 + per_stream * (double)n_streams;
    shared_progress steps = {.total = (double)config->n_windows * (double)shape->n_layer *
                                      (double)(config->n_tokens - config->n_prompt) * passes};
    if (result->has_quality)
        steps.total += (double)config->n_windows * logits_steps(config, n_streams);
    work *workers = calloc(n_workers, sizeof workers[0]);
    quality *shared_quality = result->has_quality ? quality_create(config, n_streams) : NULL;
    bool good = (workers && (shared_quality || !result->has_quality)) || eval_fail(e, "out of memory");
    for (size_t i = 0; good && i < n_workers; i++) {
        workers[i] = (work){.n_threads = n_workers > 1 ? 1 : config->n_threads,
                            .quality = shared_quality,
                            .progress = &steps};
        good = work_set_up(&workers[i], config, result, e);
    }
    good = good && run_windows(workers, n_workers, e) && summarize(&workers[0], e);
    for (size_t i = 0; workers && i < n_workers; i++)
        work_free(&workers[i]);
    free(workers);
    quality_free(shared_quality);
    return good;
}

bool evaluate(evaluation *out, const evaluate_config *config, eval_error *e)
{
    const model_shape *shape = evaluate_shape(config);
    assert(!config->model != !config->recording);
    assert(!config->propagated_only || (config->model && !config->model->random));
    assert(!config->recording ||
           config->first_window + config->n_windows <= recording_n_sequences(config->recording));
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
                         .has_quality = config->model && !config->model->random,
                         .recorded = config->recording != NULL,
                         .kv_only = config->recording && !recording_has_queries(config->recording)};
    for (size_t layer = 0; layer < shape->n_layer; layer++) {
        const size_t window = evaluate_attn_window(config, layer);
        result.n_layer_windowed += window > 0 ? 1 : 0;
        result.attn_window = window > 0 ? window : result.attn_window;
    }
    if (!make_runs(&result, config, e) || (!config->propagated_only && !weigh_runs(&result, config, e)) ||
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
        evaluate_run *run = &ev->runs[i];
        for (size_t k = 0; run->cells && k < ev->n_windows_asked; k++)
            cell_clear(&run->cells[k]);
        free(run->cells);
        free(run->steps);
        free(run->heads);
        kvq_scheme_free(run->scheme);
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

const cell **evaluate_cells(const evaluation *ev, const evaluate_run *run)
{
    const cell **list = run->cells ? calloc(ev->n_windows, sizeof list[0]) : NULL;
    for (size_t i = 0; list && i < ev->n_windows; i++)
        list[i] = &run->cells[i];
    return list;
}
