/*
 * The residual: the newest tokens in full precision, as rows in blocks of 32 tokens, and the rows themselves,
 * which sinks are made of, too.
 */
#include "lib/internal.h"

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
