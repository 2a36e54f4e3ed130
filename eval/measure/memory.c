/* Grows a cache token by token and weighs it (memory.h). */
#include "eval/measure/memory.h"

#include <stdlib.h>

enum { MEMORY_BATCH = 128 }; /* tokens of an append */

bool memory_check_layers(const kvq_scheme *scheme, size_t n_layers, eval_error *e)
{
    const size_t needed = kvq_scheme_min_layers(scheme);
    return needed <= n_layers ||
           eval_fail(e, "scheme %.600s: layer %zu is named, but the model has %zu layers (0 to %zu)",
                     kvq_scheme_text(scheme), needed - 1, n_layers, n_layers - 1);
}

bool memory_make_cache(kvq_cache **out, const model_shape *shape, size_t n_layers, const kvq_scheme *scheme,
                       eval_error *e)
{
    if (!memory_check_layers(scheme, n_layers, e))
        return false;
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = n_layers;
    config.n_heads = shape->n_head;
    config.n_kv_heads = shape->n_kv_head;
    config.head_dim = shape->head_dim;
    config.scheme = scheme;
    const kvq_status status = kvq_cache_create(out, &config);
    if (status == KVQ_ERR_SCHEME || (status == KVQ_ERR_ARG && shape->head_dim > KVQ_MAX_HEAD_DIM))
        return eval_fail(e, "scheme %.600s: cannot store heads of %zu numbers", kvq_scheme_text(scheme),
                         shape->head_dim);
    return status == KVQ_OK || eval_fail(e, "cannot create a cache: %s", kvq_status_string(status));
}

uint64_t memory_plain_bytes(const model_shape *shape, size_t n_tokens, size_t bytes)
{
    return (uint64_t)n_tokens * shape->n_layer * 2 * shape->n_kv_head * shape->head_dim * bytes;
}

/* Add one token of zeros to every layer and weigh the cache. The first comes with a query, so that a scheme
 * that learns from queries holds what it learns; attention for all of them would take too long. */
static kvq_status grow(kvq_cache *cache, size_t n_layers, const float *zeros, float *out, bool first,
                       uint64_t *total)
{
    kvq_usage usage;
    kvq_status status = KVQ_OK;
    for (size_t layer = 0; status == KVQ_OK && layer < n_layers; layer++)
        status = first ? kvq_cache_step(cache, layer, NULL, 1, NULL, zeros, zeros, zeros, 1.0f, NULL, out)
                       : kvq_cache_append(cache, layer, 0, zeros, zeros, 1);
    if (status == KVQ_OK)
        status = kvq_cache_usage(cache, &usage);
    if (status == KVQ_OK)
        *total = usage.total;
    return status;
}

bool memory_growth(const model_shape *shape, const kvq_scheme *scheme, size_t n_max, uint64_t *total,
                   eval_error *e)
{
    kvq_cache *cache = NULL;
    const size_t width = shape->n_head * shape->head_dim;
    if (!memory_make_cache(&cache, shape, shape->n_layer, scheme, e))
        return false;
    float *zeros = calloc(2 * width, sizeof *zeros); /* and the output */
    kvq_status status = zeros ? KVQ_OK : KVQ_ERR_NOMEM;
    for (size_t n = 1; status == KVQ_OK && n <= n_max; n++)
        status = grow(cache, shape->n_layer, zeros, zeros + width, n == 1, &total[n - 1]);
    free(zeros);
    kvq_cache_free(cache);
    return status == KVQ_OK || eval_fail(e, "cannot weigh a cache: %s", kvq_status_string(status));
}

bool memory_pays_from(const model_shape *shape, const kvq_scheme *scheme, size_t n_max, uint64_t *n_tokens,
                      eval_error *e)
{
    uint64_t *total = calloc(n_max > 0 ? n_max : 1, sizeof *total);
    if (!total)
        return eval_fail(e, "out of memory for %zu numbers", n_max);
    const bool good = memory_growth(shape, scheme, n_max, total, e);
    size_t last_larger = 0;
    for (size_t n = 1; good && n <= n_max; n++)
        last_larger = total[n - 1] >= memory_plain_bytes(shape, n, 2) ? n : last_larger;
    free(total);
    if (good)
        *n_tokens = last_larger < n_max ? last_larger + 1 : 0;
    return good;
}

/* Add n_new tokens of zeros to every layer; the very first comes with a query, as above. */
static kvq_status grow_by(kvq_cache *cache, size_t n_layers, const float *zeros, float *out, size_t n_new,
                          bool first)
{
    kvq_status status = KVQ_OK;
    for (size_t layer = 0; status == KVQ_OK && layer < n_layers; layer++) {
        if (first)
            status = kvq_cache_step(cache, layer, NULL, 1, NULL, zeros, zeros, zeros, 1.0f, NULL, out);
        for (size_t left = n_new - first; status == KVQ_OK && left > 0;) {
            const size_t n = left < MEMORY_BATCH ? left : MEMORY_BATCH;
            status = kvq_cache_append(cache, layer, 0, zeros, zeros, n);
            left -= n;
        }
    }
    return status;
}

bool memory_weigh(const model_shape *shape, const kvq_scheme *scheme, const size_t *lengths, size_t n,
                  kvq_usage *out, eval_error *e)
{
    kvq_cache *cache = NULL;
    const size_t width = shape->n_head * shape->head_dim;
    if (!memory_make_cache(&cache, shape, shape->n_layer, scheme, e))
        return false;
    float *zeros = calloc((MEMORY_BATCH + 1) * width, sizeof *zeros); /* and the output */
    kvq_status status = zeros ? KVQ_OK : KVQ_ERR_NOMEM;
    size_t held = 0;
    for (size_t i = 0; status == KVQ_OK && i < n; i++) {
        if (lengths[i] > held)
            status = grow_by(cache, shape->n_layer, zeros, zeros + MEMORY_BATCH * width, lengths[i] - held,
                             held == 0);
        held = lengths[i];
        if (status == KVQ_OK)
            status = kvq_cache_usage(cache, &out[i]);
    }
    free(zeros);
    kvq_cache_free(cache);
    return status == KVQ_OK || eval_fail(e, "cannot weigh a cache: %s", kvq_status_string(status));
}
