/*
 * Evidence: what a layer has learned from the queries it has seen, for encoders that spend their bits where
 * queries look.
 *
 * Per KV head, from the queries of its whole group: the energy of each channel and, where an encoder asks
 * for it, the second moment (both sums over all queries so far); and for each token of the residual the
 * attention it has received, which lies in the residual's blocks and leaves with them. Sums are float32, in
 * the order of the queries, so that a given sequence of calls always gives the same bytes. They stop growing
 * long before they could overflow; what counts is how channels and tokens compare.
 *
 * Gathered by kvq_cache_step alone (step.c).
 */
#include "lib/internal.h"

#include <math.h>

static const float MOST = 0x1p120f; /* of any sum */

static float add_bounded(float sum, float more)
{
    float result = sum + more;
    return result > MOST ? MOST : result < -MOST ? -MOST : result;
}

static size_t learned_floats(const kvq_cache *cache, const kvq_layer_plan *plan)
{
    return cache->config.n_kv_heads * plan->n_learned;
}

kvq_status kvq_evidence_ensure(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer)
{
    if (plan->n_learned == 0 || layer->learned != NULL)
        return KVQ_OK;
    size_t n = learned_floats(cache, plan);
    layer->learned = kvq_memory_take(&cache->memory, KVQ_FOR_DATA, n, sizeof *layer->learned);
    if (layer->learned == NULL)
        return KVQ_ERR_NOMEM;
    memset(layer->learned, 0, n * sizeof *layer->learned);
    return KVQ_OK;
}

void kvq_evidence_free(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer)
{
    kvq_memory_give(&cache->memory, KVQ_FOR_DATA, layer->learned, learned_floats(cache, plan),
                    sizeof *layer->learned);
    layer->learned = NULL;
    layer->n_queries = 0;
}

uint64_t kvq_evidence_bytes(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer)
{
    size_t n_received = 0, n = kvq_past_sinks(plan, layer->n_tokens);
    for (size_t role = 0; role < KVQ_N_ROLES; role++)
        if ((plan->side[role].evidence & KVQ_EVIDENCE_RECEIVED) != 0)
            n_received += cache->config.n_kv_heads * (n - layer->packed[role]);
    size_t n_learned = layer->learned == NULL ? 0 : learned_floats(cache, plan);
    return (n_learned + n_received) * sizeof(float);
}

void kvq_evidence_add_queries(const kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer,
                              kvq_dtype dtype, const void *queries, size_t n)
{
    float buffer[KVQ_DIM_MAX];
    size_t dim = cache->config.head_dim, n_heads = cache->config.n_heads;
    size_t heads_per_kv = n_heads / cache->config.n_kv_heads;
    if (layer->learned == NULL)
        return;
    layer->n_queries += n;
    for (size_t i = 0; i < n; i++)
        for (size_t head = 0; head < n_heads; head++) {
            const float *q =
                kvq_row_as_f32(cache, dtype, kvq_element(queries, dtype, (i * n_heads + head) * dim), buffer);
            float *energy = layer->learned + head / heads_per_kv * plan->n_learned, *moment = energy + dim;
            for (size_t c = 0; c < dim; c++)
                energy[c] = add_bounded(energy[c], q[c] * q[c]);
            if ((plan->evidence & KVQ_EVIDENCE_MOMENT) == 0)
                continue;
            for (size_t c = 0; c < dim; moment += ++c)
                for (size_t j = 0; j <= c; j++)
                    moment[j] = add_bounded(moment[j], q[c] * q[j]);
        }
}

void kvq_evidence_shrink(const kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, size_t n_after,
                         size_t n_before)
{
    if (layer->learned == NULL || n_after >= n_before)
        return;
    double share = (double)n_after / (double)n_before;
    if (layer->n_queries > 0) /* a little is still something */
        layer->n_queries = 1 + (uint64_t)((double)(layer->n_queries - 1) * share);
    for (size_t i = 0; i < learned_floats(cache, plan); i++)
        layer->learned[i] = (float)((double)layer->learned[i] * share);
}

kvq_evidence kvq_evidence_of(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                             size_t head, const float *received, size_t n)
{
    kvq_evidence evidence = {0};
    if (layer->learned != NULL && layer->n_queries > 0) {
        evidence.energy = layer->learned + head * plan->n_learned;
        if ((plan->evidence & KVQ_EVIDENCE_MOMENT) != 0)
            evidence.moment = evidence.energy + cache->config.head_dim;
    }
    for (size_t i = 0; i < n && received != NULL && evidence.received == NULL; i++)
        if (received[i] > 0.0f)
            evidence.received = received;
    return evidence;
}
