/*
 * Evidence: what a layer has learned from the queries it has seen, for encoders that spend their bits where
 * queries look.
 *
 * Per KV head, from the queries of its whole group: the energy of each channel and, where an encoder asks
 * for it, the second moment (both sums over all queries so far); and for each token of the residual the
 * attention it has received, which lies in the residual's blocks and leaves with them. Sums are float32, in
 * the order of the queries, so that a given sequence of calls always gives the same bytes. They stop growing
 * long before they could overflow (KVQ_MOMENT_MOST), and numbers of queries are taken for 2^61 at most: what
 * counts is how channels and tokens compare.
 *
 * Gathered by kvq_cache_step alone (step.c).
 */
#include "lib/internal.h"

/* Of a query's numbers, so that those of as many as are added at a time cannot overflow a sum. */
static const float MOST = 0x1p61f;

enum {
    AT_ONCE = 16,           /* queries */
    MIN_PRODUCTS = 1 << 18, /* for another thread, below which it costs more than it saves */
};

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

/* Queries [n][H][D] that a layer learns from. */
typedef struct lesson {
    const kvq_cache *cache;
    const kvq_layer_plan *plan;
    kvq_layer *layer;
    kvq_dtype dtype;
    const void *queries;
    size_t n;
} lesson;

/* The i-th query of a KV head's group, in the order in which they count, up to a multiple of 16 numbers. */
static void read_query(const lesson *l, size_t kv_head, size_t i, float *to)
{
    const size_t dim = l->cache->config.head_dim, n_heads = l->cache->config.n_heads;
    const size_t per_kv_head = n_heads / l->cache->config.n_kv_heads;
    const size_t index = i / per_kv_head * n_heads + kv_head * per_kv_head + i % per_kv_head;
    const float *q = kvq_row_as_f32(l->cache, l->dtype, kvq_element(l->queries, l->dtype, index * dim), to);
    for (size_t c = 0; c < dim; c++)
        to[c] = q[c] > MOST ? MOST : q[c] < -MOST ? -MOST : q[c];
    for (size_t c = dim; c % KVQ_LANES != 0; c++)
        to[c] = 0.0f;
}

/* What all of them teach about a KV head. */
static void learn(void *arg, size_t kv_head)
{
    const lesson *l = arg;
    const size_t dim = l->cache->config.head_dim, stride = (dim + KVQ_LANES - 1) / KVQ_LANES * KVQ_LANES;
    const size_t n_queries = l->n * (l->cache->config.n_heads / l->cache->config.n_kv_heads);
    float *energy = l->layer->learned + kv_head * l->plan->n_learned, *moment = energy + dim;
    float q[AT_ONCE * KVQ_DIM_MAX];
    for (size_t i = 0, n; i < n_queries; i += n) {
        n = kvq_min_size(AT_ONCE, n_queries - i);
        for (size_t j = 0; j < n; j++)
            read_query(l, kv_head, i + j, q + j * stride);
        for (size_t j = 0; j < n; j++)
            for (size_t c = 0; c < dim; c++)
                energy[c] += q[j * stride + c] * q[j * stride + c];
        for (size_t c = 0; c < dim; c++)
            energy[c] = energy[c] > KVQ_MOMENT_MOST ? KVQ_MOMENT_MOST : energy[c];
        if ((l->plan->evidence & KVQ_EVIDENCE_MOMENT) != 0)
            l->cache->kernels->add_moment_f32(q, n, dim, moment);
    }
}

void kvq_evidence_add_queries(const kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer,
                              kvq_dtype dtype, const void *queries, size_t n, int n_threads)
{
    if (layer->learned == NULL)
        return;
    layer->n_queries += n;
    const size_t most = n * cache->config.n_heads * plan->n_learned / MIN_PRODUCTS;
    lesson l = {cache, plan, layer, dtype, queries, n};
    kvq_parallel_for(cache, most > 1 ? kvq_n_threads(cache, n_threads, most) : 1, cache->config.n_kv_heads,
                     learn, &l);
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
