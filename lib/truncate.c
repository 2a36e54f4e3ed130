/*
 * Truncation: a sequence goes back to its first n tokens.
 *
 * The layer must end up packed as a fresh one of n tokens would be, or later appends would pack other groups.
 * Tokens that are packed now but were not then are dequantized into the residual; that needs blocks, which
 * are taken for every layer before any layer changes.
 *
 * Evidence: what a removed query has taught cannot be taken out of a sum; it stays, with the weight of the
 * tokens that remain. What packed tokens had received is gone; those that come back start from nothing, or,
 * if their page kept them as heavy hitters, from 1, so that they are kept again.
 */
#include "lib/internal.h"

/* Where one side of a layer goes. */
typedef struct plan_back {
    size_t n;      /* indices that stay */
    size_t packed; /* of them packed */
} plan_back;

static plan_back plan_side(const kvq_layer_plan *plan, const kvq_layer *layer, kvq_role role, size_t n_tokens)
{
    size_t n = kvq_past_sinks(plan, n_tokens);
    return (plan_back){.n = n, .packed = kvq_min_size(layer->packed[role], kvq_packed_target(plan, role, n))};
}

/* Blocks that the residual lacks at its front to reach back to `packed`. */
static size_t blocks_before(const kvq_residual *residual, plan_back back)
{
    if (back.packed == back.n)
        return 0;
    size_t begin = back.packed / KVQ_BLOCK, end = (back.n + KVQ_BLOCK - 1) / KVQ_BLOCK;
    if (residual->n > 0)
        end = kvq_min_size(end, residual->first);
    return end > begin ? end - begin : 0;
}

/* Put the reserved blocks before the others and drop those past the end. */
static void move_residual_back(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, kvq_role role,
                               plan_back back)
{
    kvq_residual *residual = &layer->residual[role];
    size_t begin = back.packed / KVQ_BLOCK;
    size_t end = back.packed < back.n ? (back.n + KVQ_BLOCK - 1) / KVQ_BLOCK : begin;
    size_t n_front = residual->n_reserved, n_wanted = end - begin;
    for (; n_front > 0;
         n_front--) { /* rotate one reserved block to the front at a time; residuals are short */
        uint8_t *block = residual->block[residual->n];
        memmove(residual->block + 1, residual->block, residual->n * sizeof *residual->block);
        residual->block[0] = block;
        residual->n++;
    }
    residual->n_reserved = 0;
    while (residual->n > n_wanted)
        kvq_pool_give(&cache->memory, plan->blocks[role], residual->block[--residual->n]);
    residual->first = begin;
}

static void truncate_side(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, kvq_role role,
                          size_t n_tokens)
{
    const kvq_side *side = &plan->side[role];
    plan_back back = plan_side(plan, layer, role, n_tokens);
    size_t dim = cache->config.head_dim, unpack_end = kvq_min_size(layer->packed[role], back.n);
    move_residual_back(cache, plan, layer, role, back);
    for (size_t head = 0; head < cache->config.n_kv_heads; head++) {
        for (size_t i = back.packed; i < unpack_end; i++) {
            const uint8_t *superblock = kvq_superblock(plan, &layer->page[i / KVQ_SUPERBLOCK], role, head);
            kvq_side_read(cache->kernels, side, superblock, i % KVQ_SUPERBLOCK, 1, cache->scratch, dim);
            kvq_row_store(cache, plan->scheme.residual_dtype[role],
                          kvq_residual_row(plan, layer, role, head, i), cache->scratch);
            float *received = kvq_residual_received(cache, plan, layer, role, head, i);
            if (received !=
                NULL) /* forgotten when the token was packed; but the page knows its heavy hitters */
                *received = kvq_side_is_kept(side, superblock, i % KVQ_SUPERBLOCK) ? 1.0f : 0.0f;
        }
        if (back.packed < layer->packed[role] && back.packed % KVQ_SUPERBLOCK != 0) {
            uint8_t *last = kvq_superblock(plan, &layer->page[back.packed / KVQ_SUPERBLOCK], role, head);
            kvq_side_clear(side, last, back.packed % KVQ_SUPERBLOCK);
        }
    }
}

static void truncate_layer(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, size_t n_tokens)
{
    size_t most = 0;
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        size_t packed = plan_side(plan, layer, role, n_tokens).packed;
        truncate_side(cache, plan, layer, role, n_tokens);
        layer->packed[role] = packed;
        most = kvq_max_size(most, packed);
    }
    size_t n_pages = (most + KVQ_SUPERBLOCK - 1) / KVQ_SUPERBLOCK;
    /* A page that stays only for the other side still holds this side's old codes. */
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++)
        for (size_t p = (layer->packed[role] + KVQ_SUPERBLOCK - 1) / KVQ_SUPERBLOCK; p < n_pages; p++)
            for (size_t head = 0; head < cache->config.n_kv_heads; head++)
                kvq_side_clear(&plan->side[role], kvq_superblock(plan, &layer->page[p], role, head), 0);
    kvq_pages_shrink(cache, plan, layer, n_pages);
    kvq_evidence_shrink(cache, plan, layer, n_tokens, layer->n_tokens);
    layer->n_tokens = n_tokens;
}

kvq_status kvq_cache_truncate(kvq_cache *cache, size_t sequence, size_t n_tokens)
{
    if (cache == NULL || sequence >= cache->config.n_sequences)
        return KVQ_ERR_ARG;
    kvq_layer *layers = cache->sequence[sequence];
    if (layers == NULL)
        return KVQ_OK;
    if (n_tokens == 0) {
        kvq_sequence_free(cache, layers);
        cache->sequence[sequence] = NULL;
        return KVQ_OK;
    }
    kvq_status status = KVQ_OK;
    for (size_t i = 0; i < cache->config.n_layers && status == KVQ_OK; i++)
        for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES && status == KVQ_OK; role++) {
            if (layers[i].n_tokens <= n_tokens)
                continue;
            plan_back back = plan_side(&cache->plan[i], &layers[i], role, n_tokens);
            kvq_residual *residual = &layers[i].residual[role];
            status =
                kvq_residual_reserve(cache, &cache->plan[i], &layers[i], role, blocks_before(residual, back));
        }
    for (size_t i = 0; i < cache->config.n_layers; i++)
        if (status != KVQ_OK)
            kvq_layer_release(cache, &cache->plan[i], &layers[i], layers[i].n_pages);
        else if (layers[i].n_tokens > n_tokens)
            truncate_layer(cache, &cache->plan[i], &layers[i], n_tokens);
    return status;
}
