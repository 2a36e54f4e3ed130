/*
 * The state of one layer of one sequence: page table, residual blocks, sinks, and the rule of what is packed
 * when.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "lib/internal.h"

/* Tokens that the sliding residual packs together: the larger G, where a full group counts as a block and a
 * codec without groups as one token. All are powers of two, so the larger is a multiple of the other. */
static size_t sliding_step(const kvq_layer_plan *plan)
{
    const kvq_side_scheme *sides[] = {&plan->scheme.k, &plan->scheme.v};
    size_t step = 1;
    for (size_t i = 0; i < 2; i++) {
        if (sides[i]->codec != KVQ_CODEC_AFFINE)
            continue;
        step = kvq_max_size(step, sides[i]->group == KVQ_GROUP_FULL ? KVQ_BLOCK : sides[i]->group);
    }
    return step;
}

size_t kvq_packed_target(const kvq_layer_plan *plan, kvq_role role, size_t n)
{
    size_t residual = plan->scheme.residual;
    if (plan->scheme.residual_mode == KVQ_RESIDUAL_SLIDING) {
        size_t step = sliding_step(plan);
        return n > residual ? (n - residual) / step * step : 0;
    }
    if (plan->layout[role].tokens_per_run > 1)
        return n == 0 ? 0 : (n - 1) / residual * residual;
    return n > residual + 1 ? n - residual - 1 : 0;
}

size_t kvq_n_sealed(const kvq_layer *layer)
{
    return kvq_min_size(layer->packed[KVQ_KEYS], layer->packed[KVQ_VALUES]) / KVQ_SUPERBLOCK;
}

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
            kvq_residual_release(cache, plan, residual);
            kvq_residual_advance(cache, plan, residual, 0, 0);
            kvq_memory_give(&cache->memory, KVQ_FOR_BOOKKEEPING, residual->block, residual->capacity,
                            sizeof *residual->block);
            kvq_memory_give(&cache->memory, KVQ_FOR_DATA, layer->sinks[role], plan->sinks_bytes, 1);
        }
    }
    kvq_memory_give(&cache->memory, KVQ_FOR_BOOKKEEPING, layers, cache->config.n_layers, sizeof(kvq_layer));
}

void kvq_layer_release(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, size_t n_pages)
{
    kvq_pages_shrink(cache, plan, layer, n_pages);
    for (size_t role = 0; role < KVQ_N_ROLES; role++)
        kvq_residual_release(cache, plan, &layer->residual[role]);
}

/* ---- Sinks ---- */

kvq_status kvq_sinks_ensure(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer)
{
    for (size_t role = 0; plan->scheme.sinks > 0 && role < KVQ_N_ROLES; role++) {
        if (layer->sinks[role] != NULL)
            continue;
        layer->sinks[role] = kvq_memory_take(&cache->memory, KVQ_FOR_DATA, plan->sinks_bytes, 1);
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

/* ---- Residual ---- */

uint8_t *kvq_residual_row(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                          kvq_role role, size_t head, size_t index)
{
    const kvq_residual *residual = &layer->residual[role];
    size_t row = head * KVQ_BLOCK + index % KVQ_BLOCK;
    return residual->block[index / KVQ_BLOCK - residual->first] +
           row * cache->config.head_dim * plan->element_bytes;
}

static size_t end_block(size_t packed, size_t n)
{
    return packed < n ? (n + KVQ_BLOCK - 1) / KVQ_BLOCK : packed / KVQ_BLOCK;
}

size_t kvq_residual_need(const kvq_residual *residual, size_t packed, size_t n)
{
    size_t held_end = residual->n > 0 ? residual->first + residual->n : 0;
    size_t begin = kvq_max_size(held_end, packed / KVQ_BLOCK), end = end_block(packed, n);
    return end > begin ? end - begin : 0;
}

kvq_status kvq_residual_reserve(kvq_cache *cache, const kvq_layer_plan *plan, kvq_residual *residual,
                                size_t n)
{
    void *blocks = residual->block;
    if (!kvq_memory_grow(&cache->memory, &blocks, &residual->capacity, residual->n + residual->n_reserved + n,
                         sizeof *residual->block))
        return KVQ_ERR_NOMEM;
    residual->block = blocks;
    for (; n > 0; n--) {
        uint8_t *block = kvq_pool_take(&cache->memory, plan->blocks);
        if (block == NULL)
            return KVQ_ERR_NOMEM;
        residual->block[residual->n + residual->n_reserved++] = block;
    }
    return KVQ_OK;
}

void kvq_residual_release(kvq_cache *cache, const kvq_layer_plan *plan, kvq_residual *residual)
{
    while (residual->n_reserved > 0)
        kvq_pool_give(&cache->memory, plan->blocks, residual->block[residual->n + --residual->n_reserved]);
}

void kvq_residual_advance(kvq_cache *cache, const kvq_layer_plan *plan, kvq_residual *residual, size_t packed,
                          size_t n)
{
    size_t begin = packed / KVQ_BLOCK, end = end_block(packed, n), n_dropped = 0;
    while (n_dropped < residual->n && (residual->first + n_dropped < begin || begin == end))
        kvq_pool_give(&cache->memory, plan->blocks, residual->block[n_dropped++]);
    residual->n += residual->n_reserved - n_dropped;
    residual->n_reserved = 0;
    if (n_dropped > 0)
        memmove(residual->block, residual->block + n_dropped, residual->n * sizeof *residual->block);
    residual->first = begin;
}

void kvq_row_store(const kvq_cache *cache, const kvq_layer_plan *plan, uint8_t *row, const float *x)
{
    size_t dim = cache->config.head_dim;
    if (plan->scheme.residual_dtype == KVQ_F16)
        cache->kernels->convert_f32_f16(x, dim, (uint16_t *)(void *)row);
    else
        memcpy(row, x, dim * sizeof *x);
}

void kvq_row_load(const kvq_cache *cache, const kvq_layer_plan *plan, const uint8_t *row, float *x)
{
    size_t dim = cache->config.head_dim;
    if (plan->scheme.residual_dtype == KVQ_F16)
        cache->kernels->convert_f16_f32((const uint16_t *)(const void *)row, dim, x);
    else
        memcpy(x, row, dim * sizeof *x);
}
