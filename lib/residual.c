/*
 * The residual: the newest tokens in full precision, as rows in blocks of 32 tokens, and the rows themselves,
 * which sinks are made of, too.
 */
#include "lib/internal.h"
#include "quant/bf16.h"
#include "quant/row8.h"

#include <math.h>

/* ---- Blocks ---- */

static uint8_t *block_of(const kvq_layer *layer, kvq_role role, size_t index)
{
    const kvq_residual *residual = &layer->residual[role];
    return residual->block[index / KVQ_BLOCK - residual->first];
}

uint8_t *kvq_residual_row(const kvq_layer_plan *plan, const kvq_layer *layer, kvq_role role, size_t head,
                          size_t index)
{
    return block_of(layer, role, index) + (head * KVQ_BLOCK + index % KVQ_BLOCK) * plan->row_bytes[role];
}

float *kvq_residual_received(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                             kvq_role role, size_t head, size_t index)
{
    if ((plan->side[role].evidence & KVQ_EVIDENCE_RECEIVED) == 0)
        return NULL;
    size_t rows_bytes = cache->config.n_kv_heads * KVQ_BLOCK * plan->row_bytes[role];
    float *received = (float *)(void *)(block_of(layer, role, index) + rows_bytes);
    return received + head * KVQ_BLOCK + index % KVQ_BLOCK;
}

size_t kvq_block_bytes(const kvq_cache *cache, const kvq_layer_plan *plan, kvq_role role)
{
    bool received = (plan->side[role].evidence & KVQ_EVIDENCE_RECEIVED) != 0;
    size_t token_bytes = plan->row_bytes[role] + (received ? sizeof(float) : 0);
    size_t bytes = cache->config.n_kv_heads * KVQ_BLOCK * token_bytes;
    return (bytes + KVQ_ALIGNMENT - 1) / KVQ_ALIGNMENT * KVQ_ALIGNMENT;
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

kvq_status kvq_residual_reserve(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, kvq_role role,
                                size_t n)
{
    kvq_residual *residual = &layer->residual[role];
    void *blocks = residual->block;
    if (!kvq_memory_grow(&cache->memory, &blocks, &residual->capacity, residual->n + residual->n_reserved + n,
                         sizeof *residual->block))
        return KVQ_ERR_NOMEM;
    residual->block = blocks;
    for (; n > 0; n--) {
        uint8_t *block = kvq_pool_take(&cache->memory, plan->blocks[role]);
        if (block == NULL)
            return KVQ_ERR_NOMEM;
        residual->block[residual->n + residual->n_reserved++] = block;
    }
    return KVQ_OK;
}

void kvq_residual_release(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, kvq_role role)
{
    kvq_residual *residual = &layer->residual[role];
    while (residual->n_reserved > 0)
        kvq_pool_give(&cache->memory, plan->blocks[role],
                      residual->block[residual->n + --residual->n_reserved]);
}

void kvq_residual_advance(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, kvq_role role,
                          size_t packed, size_t n)
{
    kvq_residual *residual = &layer->residual[role];
    size_t begin = packed / KVQ_BLOCK, end = end_block(packed, n), n_dropped = 0;
    while (n_dropped < residual->n && (residual->first + n_dropped < begin || begin == end))
        kvq_pool_give(&cache->memory, plan->blocks[role], residual->block[n_dropped++]);
    residual->n += residual->n_reserved - n_dropped;
    residual->n_reserved = 0;
    if (n_dropped > 0)
        memmove(residual->block, residual->block + n_dropped, residual->n * sizeof *residual->block);
    residual->first = begin;
}

/* ---- Rows ---- */

size_t kvq_row_bytes(kvq_dtype dtype, size_t dim)
{
    return dtype == KVQ_I8 ? kvq_row8_bytes(dim) : dim * kvq_element_bytes(dtype);
}

void kvq_row_store(const kvq_cache *cache, kvq_dtype dtype, uint8_t *row, const float *x)
{
    size_t dim = cache->config.head_dim;
    if (dtype == KVQ_F32)
        memcpy(row, x, dim * sizeof *x);
    else if (dtype == KVQ_F16)
        cache->kernels->convert_f32_f16(x, dim, (uint16_t *)(void *)row);
    else if (dtype == KVQ_BF16)
        cache->kernels->convert_f32_bf16(x, dim, (uint16_t *)(void *)row);
    else
        cache->kernels->convert_f32_i8(x, dim, row);
}

void kvq_row_load(const kvq_cache *cache, kvq_dtype dtype, const uint8_t *row, float *x)
{
    size_t dim = cache->config.head_dim;
    if (dtype == KVQ_F32)
        memcpy(x, row, dim * sizeof *x);
    else if (dtype == KVQ_F16)
        cache->kernels->convert_f16_f32((const uint16_t *)(const void *)row, dim, x);
    else if (dtype == KVQ_BF16)
        cache->kernels->convert_bf16_f32((const uint16_t *)(const void *)row, dim, x);
    else
        cache->kernels->convert_i8_f32(row, dim, x);
}

const float *kvq_row_as_f32(const kvq_cache *cache, kvq_dtype dtype, const void *row, float *buffer)
{
    if (dtype == KVQ_F32)
        return row;
    kvq_row_load(cache, dtype, row, buffer);
    return buffer;
}

void kvq_row_store_any(const kvq_cache *cache, kvq_dtype dtype, uint8_t *row, const float *x)
{
    size_t dim = cache->config.head_dim;
    if (dtype == KVQ_F32 || cache->kernels->all_finite_f32(x, dim)) {
        kvq_row_store(cache, dtype, row, x);
        return;
    }
    uint16_t *out = (uint16_t *)(void *)row;
    for (size_t c = 0; c < dim; c++) {
        if (dtype == KVQ_F16)
            out[c] = isfinite(x[c]) ? kvq_f16_from_f32_saturating(x[c]) : kvq_f16_from_f32(x[c]);
        else /* the upper half of Inf is Inf; NaN is made the one that every machine takes for quiet */
            out[c] = isfinite(x[c]) ? kvq_bf16_from_f32_saturating(x[c])
                     : isnan(x[c])  ? 0x7fc0
                                    : (uint16_t)(kvq_bits_of_f32(x[c]) >> 16);
    }
}

/* Of numbers whose exponent has these bits. No early end, so that the loop vectorises. */
static bool all_finite_16(const uint16_t *x, size_t n, unsigned exponent)
{
    unsigned n_bad = 0;
    for (size_t i = 0; i < n; i++)
        n_bad |= (x[i] & exponent) == exponent;
    return n_bad == 0;
}

bool kvq_rows_are_valid(const kvq_cache *cache, kvq_dtype dtype, const uint8_t *rows, size_t n)
{
    size_t dim = cache->config.head_dim;
    if (dtype == KVQ_F32)
        return cache->kernels->all_finite_f32((const float *)(const void *)rows, n * dim);
    if (dtype == KVQ_F16 || dtype == KVQ_BF16)
        return all_finite_16((const uint16_t *)(const void *)rows, n * dim,
                             dtype == KVQ_F16 ? 0x7c00u : 0x7f80u);
    for (size_t i = 0; i < n; i++)
        if (!kvq_row8_is_valid(rows + i * kvq_row_bytes(dtype, dim), dim))
            return false;
    return true;
}
