/* The first token of greedy text that differs (divergence.h). */
#include "eval/measure/divergence.h"

#include "eval/measure/generate.h"

#include <assert.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* A token that is written takes about as long as this many that are run through one cache, all at once. Only
 * the time left depends on it. */
static const double PASSES_OF_WRITING = 4.0;

/* fp32's texts, one window's after the other's, and how far the work is. */
typedef struct writing {
    const evaluate_config *config;
    const kvq_scheme *fp32;
    size_t n_prompt, n;
    int32_t *ids;  /* [n_windows][n_prompt + n] */
    double n_done; /* tokens written so far, of all windows */
    double share;  /* of all the work */
} writing;

static void one_more(void *ctx, int32_t id)
{
    (void)id;
    writing *w = ctx;
    double done;
#pragma omp atomic capture
    done = w->n_done += 1.0;
    const evaluate_config *c = w->config;
    if (c->progress && omp_get_thread_num() == 0)
        c->progress(c->progress_ctx, w->share * done / ((double)c->n_windows * (double)w->n));
}

static bool write_one(writing *w, size_t window, int n_threads, eval_error *e)
{
    const evaluate_config *c = w->config;
    int32_t *ids = w->ids + window * (w->n_prompt + w->n);
    memcpy(ids, c->ids + window * c->n_tokens, w->n_prompt * sizeof ids[0]);
    const generate_config config = {.model = c->model,
                                    .scheme = w->fp32,
                                    .ids = ids,
                                    .n_prompt = w->n_prompt,
                                    .n_tokens = w->n,
                                    .precision = c->precision,
                                    .n_threads = n_threads,
                                    .chosen = one_more,
                                    .ctx = w,
                                    .stop = c->stop,
                                    .stop_ctx = c->stop_ctx};
    double seconds;
    bool packed;
    return generate(&config, ids + w->n_prompt, &seconds, &packed, e);
}

/* Side by side, as evaluate has its windows; on failure *e is the first one's. */
static bool write_all(writing *w, eval_error *e)
{
    const size_t n = w->config->n_windows;
    const int most = w->config->n_threads > 0 ? w->config->n_threads : omp_get_max_threads();
    if (n == 1) /* so that the threads may serve within a step */
        return write_one(w, 0, w->config->n_threads, e);
    (void)most; /* where OpenMP is left out, as static analysis does */
    size_t failed = n;
#pragma omp parallel for schedule(dynamic, 1) num_threads(most)
    for (size_t i = 0; i < n; i++) {
        eval_error own;
        if (!write_one(w, i, 1, &own)) {
#pragma omp critical(divergence_failed)
            if (i < failed) {
                failed = i;
                *e = own;
            }
        }
    }
    return failed == n;
}

static void evaluated(void *ctx, double fraction)
{
    const writing *w = ctx;
    w->config->progress(w->config->progress_ctx, w->share + (1.0 - w->share) * fraction);
}

/* Step i has seen token i of the text and chooses the next one. */
static size_t first_difference(const evaluate_step *scheme, const evaluate_step *fp32, size_t n)
{
    size_t n_same = 1; /* what follows the prompt, which is exact */
    while (n_same < n && scheme[n_same - 1].best == fp32[n_same - 1].best)
        n_same++;
    return n_same;
}

static bool compare(divergence *d, const evaluation *ev, eval_error *e)
{
    d->runs = calloc(ev->n_runs, sizeof d->runs[0]);
    if (!d->runs)
        return eval_fail(e, "out of memory");
    d->n_runs = ev->n_runs;
    d->n_windows = ev->n_windows;
    for (size_t i = 0; i < d->n_runs; i++) {
        divergence_run *run = &d->runs[i];
        run->first = calloc(d->n_windows, sizeof run->first[0]);
        if (!run->first)
            return eval_fail(e, "out of memory");
        for (size_t window = 0; window < d->n_windows; window++)
            run->first[window] =
                first_difference(ev->runs[i].steps + window * d->n, ev->runs[0].steps + window * d->n, d->n);
        run->median = divergence_median(run->first, d->n_windows, d->n);
    }
    return true;
}

/* All schemes over fp32's texts. */
static bool run_schemes(divergence *d, writing *w, eval_error *e)
{
    evaluate_config config = *w->config;
    config.ids = w->ids;
    config.n_tokens = w->n_prompt + w->n;
    config.n_prompt = w->n_prompt;
    config.propagated_only = true;
    config.bound_every = 0;
    config.logits_stream = NULL;
    config.progress = w->config->progress ? evaluated : NULL;
    config.progress_ctx = w;
    evaluation ev = {0};
    const bool good = evaluate(&ev, &config, e) && compare(d, &ev, e);
    evaluation_free(&ev);
    return good;
}

bool divergence_measure(divergence *out, const evaluate_config *config, size_t n_prompt, size_t n,
                        eval_error *e)
{
    assert(config->model && !config->model->random && !config->append_only);
    assert(n_prompt > 0 && n >= 2 && n_prompt + n <= config->n_tokens);
    divergence d = {.n = n, .n_prompt = n_prompt, .n_windows_asked = config->n_windows};
    kvq_scheme *fp32 = NULL;
    writing w = {.config = config,
                 .n_prompt = n_prompt,
                 .n = n,
                 .ids = calloc(config->n_windows, (n_prompt + n) * sizeof w.ids[0]),
                 .share = PASSES_OF_WRITING / (PASSES_OF_WRITING + 1.0 + (double)config->n_schemes)};
    bool good = (w.ids || eval_fail(e, "out of memory")) && evaluate_make_scheme(&fp32, "fp32", e);
    w.fp32 = fp32;
    good = good && write_all(&w, e) && run_schemes(&d, &w, e);
    free(w.ids);
    kvq_scheme_free(fp32);
    if (!good) {
        divergence_free(&d);
        d = (divergence){.n = n, .n_prompt = n_prompt, .n_windows_asked = config->n_windows};
        if (!config->stop || !config->stop(config->stop_ctx))
            return false;
    }
    *out = d;
    return true;
}

void divergence_free(divergence *d)
{
    for (size_t i = 0; d->runs && i < d->n_runs; i++)
        free(d->runs[i].first);
    free(d->runs);
    memset(d, 0, sizeof *d);
}

size_t divergence_median(const size_t *first, size_t n_windows, size_t n)
{
    size_t median = n;
    for (size_t i = 0; i < n_windows; i++) {
        size_t n_by_then = 0;
        for (size_t k = 0; k < n_windows; k++)
            n_by_then += first[k] <= first[i] ? 1 : 0;
        if (2 * n_by_then >= n_windows && first[i] < median)
            median = first[i];
    }
    return median;
}
