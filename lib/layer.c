/*
 * What one layer of one sequence holds: pages with their checksums, sinks.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "lib/internal.h"

/* ---- Sequences ---- */

kvq_status kvq_sequence_ensure(kvq_cache *cache, size_t sequence)
{
    if (cache->sequence[sequence] == NULL)
        cache->sequence[sequence] =
            kvq_memory_take(&cache->memory, KVQ_FOR_BOOKKEEPING, cache->config.n_layers, sizeof(kvq_layer));
    return cache->sequence[sequence] == NULL ? KVQ_ERR_NOMEM : KVQ_OK;
}

void kvq_sequence_free(kvq_cache *cache, kvq_layer *layers)
{
    if (layers == NULL)
        return;
    for (size_t i = 0; i < cache->config.n_layers; i++) {
        const kvq_layer_plan *plan = &cache->plan[i];
        kvq_layer *layer = &layers[i];
        kvq_pages_shrink(cache, plan, layer, 0);
        kvq_memory_give(&cache->memory, KVQ_FOR_BOOKKEEPING, layer->page, layer->page_capacity,
                        sizeof(kvq_page));
        for (size_t role = 0; role < KVQ_N_ROLES; role++) {
            kvq_residual *residual = &layer->residual[role];
            kvq_residual_release(cache, plan, layer, (kvq_role)role);
            kvq_residual_advance(cache, plan, layer, (kvq_role)role, 0, 0);
            kvq_memory_give(&cache->memory, KVQ_FOR_BOOKKEEPING, residual->block, residual->capacity,
                            sizeof *residual->block);
            kvq_memory_give(&cache->memory, KVQ_FOR_DATA, layer->sinks[role], plan->sinks_bytes[role], 1);
        }
        kvq_evidence_free(cache, plan, layer);
    }
    kvq_memory_give(&cache->memory, KVQ_FOR_BOOKKEEPING, layers, cache->config.n_layers, sizeof(kvq_layer));
}

void kvq_layer_release(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, size_t n_pages)
{
    kvq_pages_shrink(cache, plan, layer, n_pages);
    for (size_t role = 0; role < KVQ_N_ROLES; role++)
        kvq_residual_release(cache, plan, layer, (kvq_role)role);
}

/* ---- Sinks ---- */

kvq_status kvq_sinks_ensure(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer)
{
    for (size_t role = 0; plan->scheme.sinks > 0 && role < KVQ_N_ROLES; role++) {
        if (layer->sinks[role] != NULL)
            continue;
        layer->sinks[role] = kvq_memory_take(&cache->memory, KVQ_FOR_DATA, plan->sinks_bytes[role], 1);
        if (layer->sinks[role] == NULL)
            return KVQ_ERR_NOMEM;
    }
    return KVQ_OK;
}

/* ---- Pages ---- */

kvq_status kvq_pages_grow(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, size_t n_pages)
{
    void *table = layer->page;
    if (!kvq_memory_grow(&cache->memory, &table, &layer->page_capacity, n_pages, sizeof(kvq_page)))
        return KVQ_ERR_NOMEM;
    layer->page = table;
    while (layer->n_pages < n_pages) {
        uint8_t *data = kvq_pool_take(&cache->memory, plan->pages);
        if (data == NULL)
            return KVQ_ERR_NOMEM;
        layer->page[layer->n_pages++] = (kvq_page){.data = data};
    }
    return KVQ_OK;
}

void kvq_pages_shrink(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, size_t n_pages)
{
    while (layer->n_pages > n_pages)
        kvq_pool_give(&cache->memory, plan->pages, layer->page[--layer->n_pages].data);
}

uint64_t kvq_page_hash(const kvq_layer_plan *plan, const kvq_page *page)
{
    return XXH3_64bits(page->data, plan->page_bytes);
}

void kvq_pages_seal(const kvq_layer_plan *plan, kvq_layer *layer, size_t from)
{
    for (size_t i = from; i < kvq_n_sealed(layer); i++)
        layer->page[i].hash = kvq_page_hash(plan, &layer->page[i]);
}
