/*
 * Saving sequences through a write callback.
 */
#include "lib/snapshot.h"

typedef struct writer {
    kvq_write_fn write;
    void *ctx;
    kvq_hash hash; /* of the rows written since the last checksum */
} writer;

static kvq_status put(writer *w, const void *data, size_t n_bytes)
{
    return w->write(w->ctx, data, n_bytes) ? KVQ_OK : KVQ_ERR_IO;
}

static kvq_status put_rows(writer *w, const void *data, size_t n_bytes)
{
    kvq_hash_add(&w->hash, data, n_bytes);
    return put(w, data, n_bytes);
}

/* The full-precision tokens of one side: sinks, then residual, head by head. */
static kvq_status put_full_precision(writer *w, const kvq_cache *cache, const kvq_layer_plan *plan,
                                     const kvq_layer *layer, kvq_role role)
{
    size_t row_bytes = plan->row_bytes[role], n = kvq_past_sinks(plan, layer->n_tokens);
    for (size_t head = 0; head < cache->config.n_kv_heads; head++)
        if (layer->n_tokens > n)
            KVQ_TRY(
                put_rows(w, kvq_sinks_row(plan, layer, role, head, 0), (layer->n_tokens - n) * row_bytes));
    for (size_t head = 0; head < cache->config.n_kv_heads; head++)
        for (size_t i = layer->packed[role], run; i < n; i += run) {
            run = kvq_min_size(n - i, KVQ_BLOCK - i % KVQ_BLOCK);
            KVQ_TRY(put_rows(w, kvq_residual_row(plan, layer, role, head, i), run * row_bytes));
        }
    return KVQ_OK;
}

/* What queries have taught, and what residual tokens have received. */
static kvq_status put_evidence(writer *w, const kvq_cache *cache, const kvq_layer_plan *plan,
                               const kvq_layer *layer, const kvq_snapshot_layer *place)
{
    if (plan->evidence == 0)
        return KVQ_OK;
    size_t n = kvq_past_sinks(plan, layer->n_tokens), n_kv_heads = cache->config.n_kv_heads;
    static const float none;
    kvq_hash_start(&w->hash);
    KVQ_TRY(put_rows(w, &layer->n_queries, sizeof layer->n_queries));
    size_t n_learned = n_kv_heads * plan->n_learned;
    if (layer->learned != NULL)
        KVQ_TRY(put_rows(w, layer->learned, n_learned * sizeof none));
    for (size_t i = 0; i < n_learned && layer->learned == NULL; i++)
        KVQ_TRY(put_rows(w, &none, sizeof none));
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++)
        for (size_t head = 0; head < n_kv_heads; head++)
            for (size_t i = layer->packed[role], run; i < n; i += run) {
                const float *received = kvq_residual_received(cache, plan, layer, role, head, i);
                run = kvq_min_size(n - i, KVQ_BLOCK - i % KVQ_BLOCK);
                if (received != NULL)
                    KVQ_TRY(put_rows(w, received, run * sizeof *received));
            }
    uint64_t hash = kvq_snapshot_bind(kvq_hash_value(&w->hash), place, KVQ_SNAPSHOT_EVIDENCE);
    return put(w, &hash, sizeof hash);
}

static kvq_status put_pages(writer *w, const kvq_layer_plan *plan, const kvq_layer *layer,
                            const kvq_snapshot_layer *place)
{
    for (size_t p = 0; p < layer->n_pages; p++) {
        uint64_t hash = kvq_page_hash(plan, &layer->page[p]);
        if (p < kvq_n_sealed(layer) && hash != layer->page[p].hash)
            return KVQ_ERR_CHECKSUM;
        hash = kvq_snapshot_bind(hash, place, (int64_t)p);
        KVQ_TRY(put(w, layer->page[p].data, plan->page_bytes));
        KVQ_TRY(put(w, &hash, sizeof hash));
    }
    return KVQ_OK;
}

static kvq_status put_layer(writer *w, const kvq_cache *cache, size_t sequence, size_t index,
                            const kvq_layer *layer)
{
    const kvq_layer_plan *plan = &cache->plan[index];
    kvq_snapshot_layer record = {
        .sequence = (uint32_t)sequence,
        .layer = (uint32_t)index,
        .n_tokens = layer->n_tokens,
        .k_packed = layer->packed[KVQ_KEYS],
        .v_packed = layer->packed[KVQ_VALUES],
    };
    record.hash = kvq_snapshot_layer_hash(record);
    KVQ_TRY(put(w, &record, sizeof record));
    if (layer->n_tokens == 0)
        return KVQ_OK;
    kvq_hash_start(&w->hash);
    KVQ_TRY(put_full_precision(w, cache, plan, layer, KVQ_KEYS));
    KVQ_TRY(put_full_precision(w, cache, plan, layer, KVQ_VALUES));
    uint64_t hash = kvq_snapshot_bind(kvq_hash_value(&w->hash), &record, KVQ_SNAPSHOT_ROWS);
    KVQ_TRY(put(w, &hash, sizeof hash));
    KVQ_TRY(put_evidence(w, cache, plan, layer, &record));
    return put_pages(w, plan, layer, &record);
}

static kvq_status put_header(writer *w, const kvq_cache *cache, size_t n_sequences)
{
    const kvq_config *config = &cache->config;
    kvq_snapshot_header header = {
        .magic = KVQ_SNAPSHOT_MAGIC,
        .version = KVQ_SNAPSHOT_VERSION,
        .n_layers = (uint32_t)config->n_layers,
        .n_heads = (uint32_t)config->n_heads,
        .n_kv_heads = (uint32_t)config->n_kv_heads,
        .head_dim = (uint32_t)config->head_dim,
        .n_sequences = (uint32_t)n_sequences,
        .max_tokens = config->max_tokens,
    };
    kvq_snapshot_scheme scheme;
    kvq_snapshot_header_hash_start(&w->hash, header);
    for (size_t i = 0; i < config->n_layers; i++) {
        kvq_snapshot_scheme_pack(&cache->schemes[i], &scheme);
        kvq_hash_add(&w->hash, &scheme, sizeof scheme);
    }
    header.hash = kvq_hash_value(&w->hash);
    KVQ_TRY(put(w, &header, sizeof header));
    for (size_t i = 0; i < config->n_layers; i++) {
        kvq_snapshot_scheme_pack(&cache->schemes[i], &scheme);
        KVQ_TRY(put(w, &scheme, sizeof scheme));
    }
    return KVQ_OK;
}

kvq_status kvq_cache_save(const kvq_cache *cache, const size_t *sequences, size_t n_sequences,
                          kvq_write_fn write, void *ctx)
{
    if (cache == NULL || write == NULL || n_sequences > KVQ_MAX_SEQUENCES)
        return KVQ_ERR_ARG;
    for (size_t s = 0; s < n_sequences; s++)
        if ((sequences == NULL ? s : sequences[s]) >= cache->config.n_sequences)
            return KVQ_ERR_ARG;
    static const kvq_layer empty;
    writer w = {.write = write, .ctx = ctx};
    KVQ_TRY(put_header(&w, cache, n_sequences));
    for (size_t s = 0; s < n_sequences; s++)
        for (size_t i = 0; i < cache->config.n_layers; i++) {
            const kvq_layer *layer = kvq_layer_of(cache, i, sequences == NULL ? s : sequences[s]);
            KVQ_TRY(put_layer(&w, cache, s, i, layer == NULL ? &empty : layer));
        }
    return KVQ_OK;
}
