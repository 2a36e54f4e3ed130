/* Free-running greedy generation (generate.h). */
#include "eval/measure/generate.h"

#include "eval/common/progress.h"
#include "eval/measure/memory.h"
#include "eval/measure/metrics.h"
#include "eval/model/pass_arrays.h"

#include <assert.h>

static bool stopped(const generate_config *config, eval_error *e)
{
    return config->stop && config->stop(config->stop_ctx) && !eval_fail(e, "stopped while generating");
}

typedef struct generator {
    const model *model;
    kvq_cache *cache;
    kvq_precision precision;
    int n_threads;
    pass_arrays a; /* of the prompt */
} generator;

static bool set_up(generator *g, const kvq_scheme *scheme, size_t n_prompt, eval_error *e)
{
    const model_shape *shape = &g->model->shape;
    return pass_arrays_allocate(&g->a, g->model, n_prompt, e) &&
           memory_make_cache(&g->cache, shape, shape->n_layer, scheme, e);
}

static void tear_down(generator *g)
{
    kvq_cache_free(g->cache);
    pass_arrays_free(&g->a);
}

/* Feed n tokens that begin at position `at`; n > 1 only for the prompt. Leaves the choice after the last one.
 */
static bool feed(generator *g, const int32_t *ids, size_t at, size_t n, int32_t *next, eval_error *e)
{
    const model *m = g->model;
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.n_threads = g->n_threads;
    options.precision = g->precision;
    model_embed(m, ids, at, n, g->a.x);
    for (size_t layer = 0; layer < m->shape.n_layer; layer++) {
        options.window = model_attn_window(m, layer);
        model_layer_qkv(m, layer, g->a.x, at, n, g->a.scratch, g->a.q, g->a.k, g->a.v);
        const kvq_status status = kvq_cache_step(g->cache, layer, NULL, 1, &n, g->a.q, g->a.k, g->a.v,
                                                 model_attn_scale(m, layer), &options, g->a.attn);
        if (status != KVQ_OK) {
            return eval_fail(e, "generation at layer %zu, token %zu: %s", layer, at,
                             kvq_status_string(status));
        }
        model_layer_finish(m, layer, g->a.x, g->a.attn, n, g->a.scratch);
    }
    model_logits(m, g->a.x + (n - 1) * m->shape.n_embd, 1, g->a.scratch, g->a.logits);
    *next = (int32_t)metric_argmax(g->a.logits, m->shape.vocab_size);
    return true;
}

bool generate(const generate_config *config, int32_t *out, double *seconds, bool *packed, eval_error *e)
{
    const size_t n_prompt = config->n_prompt;
    assert(n_prompt > 0 && config->n_tokens > 0);
    generator g = {.model = config->model, .precision = config->precision, .n_threads = config->n_threads};
    bool good = set_up(&g, config->scheme, n_prompt, e) && !stopped(config, e) &&
                feed(&g, config->ids, 0, n_prompt, &out[0], e);
    const double start = progress_now();
    for (size_t i = 0; good && i < config->n_tokens; i++) {
        good = i == 0 || (!stopped(config, e) && feed(&g, &out[i - 1], n_prompt + i - 1, 1, &out[i], e));
        if (good && config->chosen)
            config->chosen(config->ctx, out[i]);
    }
    *seconds = progress_now() - start;
    kvq_usage usage = {0};
    if (good) {
        const kvq_status status = kvq_cache_usage(g.cache, &usage);
        good = status == KVQ_OK || eval_fail(e, "memory usage: %s", kvq_status_string(status));
    }
    *packed = usage.n_packed_elements > 0;
    tear_down(&g);
    return good;
}
