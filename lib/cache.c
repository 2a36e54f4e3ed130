/*
 * A cache's life: create, free, reset, and what it says of itself (config, tokens, bytes, integrity).
 */
#include "lib/internal.h"
#include "lib/sized.h"

#include <math.h>

_Static_assert((int)KVQ_MAX_HEAD_DIM == (int)KVQ_DIM_MAX, "kernels size their scratch for the public limit");
_Static_assert((int)KVQ_GROUP_FULL == 0, "sides take 0 for a full group");

static const kvq_config default_config = {
    .n_sequences = 1,
    .max_tokens = KVQ_MAX_TOKENS,
    .scheme_text = "kivi2",
};

void kvq_config_init_sized(kvq_config *config, size_t struct_size)
{
    if (config != NULL)
        (void)kvq_sized_write(config, struct_size, &default_config, sizeof default_config, false);
}

static kvq_status check_config(const kvq_config *config)
{
    if (config->n_layers == 0 || config->n_layers > KVQ_MAX_LAYERS || config->n_kv_heads == 0 ||
        config->n_heads > KVQ_MAX_HEADS || config->n_heads % config->n_kv_heads != 0 ||
        config->n_heads == 0 || config->head_dim == 0 || config->head_dim > KVQ_MAX_HEAD_DIM ||
        config->n_sequences == 0 || config->n_sequences > KVQ_MAX_SEQUENCES || config->max_tokens == 0 ||
        config->max_tokens > KVQ_MAX_TOKENS)
        return KVQ_ERR_ARG;
    if (config->allocator != NULL && (config->allocator->alloc == NULL || config->allocator->free == NULL))
        return KVQ_ERR_ARG;
    if (!kvq_parallel_is_valid(config->parallel, config->n_threads))
        return KVQ_ERR_ARG;
    if (config->layer_schemes == NULL)
        return config->scheme == NULL && config->scheme_text == NULL ? KVQ_ERR_ARG : KVQ_OK;
    for (size_t i = 0; i < config->n_layers; i++)
        if (config->layer_schemes[i] == NULL)
            return KVQ_ERR_ARG;
    return KVQ_OK;
}

/* The pool for slots of this size; cache->pool has room for a new one. */
static kvq_pool *pool_for(kvq_cache *cache, size_t slot_bytes)
{
    for (size_t i = 0; i < cache->n_pools; i++)
        if (cache->pool[i].slot_bytes == slot_bytes)
            return &cache->pool[i];
    cache->pool[cache->n_pools] = (kvq_pool){.slot_bytes = slot_bytes};
    return &cache->pool[cache->n_pools++];
}

/* False if a codec cannot store this head dimension. */
static bool init_plan(kvq_cache *cache, size_t layer)
{
    kvq_layer_plan *plan = &cache->plan[layer];
    size_t dim = cache->config.head_dim, n_kv_heads = cache->config.n_kv_heads;
    plan->scheme = cache->schemes[layer];
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        if (kvq_scheme_side(&plan->scheme, role, dim, &plan->side[role]) != NULL)
            return false;
        plan->evidence |= plan->side[role].evidence;
        plan->head_bytes += plan->side[role].bytes;
        plan->row_bytes[role] = kvq_row_bytes(plan->scheme.residual_dtype[role], dim);
        plan->sinks_bytes[role] = plan->scheme.sinks * n_kv_heads * plan->row_bytes[role];
    }
    if ((plan->evidence & (KVQ_EVIDENCE_ENERGY | KVQ_EVIDENCE_MOMENT)) != 0)
        plan->n_learned = dim;
    if ((plan->evidence & KVQ_EVIDENCE_MOMENT) != 0)
        plan->n_learned += dim * (dim + 1) / 2;
    plan->page_bytes = n_kv_heads * plan->head_bytes;
    plan->pages = pool_for(cache, plan->page_bytes);
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++)
        plan->blocks[role] = pool_for(cache, kvq_block_bytes(cache, plan, role));
    return true;
}

/* The arrays of the cache struct; what fails leaves NULLs for kvq_cache_free. */
static kvq_status take_arrays(kvq_cache *cache)
{
    kvq_memory *memory = &cache->memory;
    size_t n_layers = cache->config.n_layers;
    cache->schemes = kvq_memory_take(memory, KVQ_FOR_BOOKKEEPING, n_layers, sizeof *cache->schemes);
    cache->scheme_pointers =
        kvq_memory_take(memory, KVQ_FOR_BOOKKEEPING, n_layers, sizeof *cache->scheme_pointers);
    cache->plan = kvq_memory_take(memory, KVQ_FOR_BOOKKEEPING, n_layers, sizeof *cache->plan);
    cache->pool = kvq_memory_take(memory, KVQ_FOR_BOOKKEEPING, 3 * n_layers, sizeof *cache->pool);
    cache->sequence =
        kvq_memory_take(memory, KVQ_FOR_BOOKKEEPING, cache->config.n_sequences, sizeof *cache->sequence);
    cache->scratch =
        kvq_memory_take(memory, KVQ_FOR_BOOKKEEPING, KVQ_SUPERBLOCK * cache->config.head_dim, sizeof(float));
    bool all = cache->schemes != NULL && cache->scheme_pointers != NULL && cache->plan != NULL &&
               cache->pool != NULL && cache->sequence != NULL && cache->scratch != NULL;
    return all ? KVQ_OK : KVQ_ERR_NOMEM;
}

/* Every layer's scheme, from whichever of the three ways to say it is in force. What a cache holds is plain.
 */
static kvq_status choose_schemes(kvq_cache *cache, const kvq_config *config, const kvq_scheme *common)
{
    for (size_t i = 0; i < config->n_layers; i++) {
        const kvq_scheme *scheme = config->layer_schemes == NULL ? common : config->layer_schemes[i];
        if (kvq_scheme_min_layers(scheme) > config->n_layers)
            return KVQ_ERR_SCHEME;
        cache->schemes[i] = *kvq_scheme_of_layer(scheme, i);
        cache->scheme_pointers[i] = &cache->schemes[i];
        if (!init_plan(cache, i))
            return KVQ_ERR_SCHEME;
    }
    cache->config.layer_schemes = cache->scheme_pointers;
    return KVQ_OK;
}

/* From a config that is whole and right; config->scheme is in force unless layer_schemes are there. */
static kvq_status make_cache(kvq_cache **out, const kvq_config *config)
{
    const kvq_kernels *kernels = config->isa == NULL ? kvq_kernels_get() : kvq_kernels_for_isa(config->isa);
    if (kernels == NULL)
        return KVQ_ERR_ISA;
    kvq_memory memory;
    kvq_memory_init(&memory, config->allocator);
    kvq_cache *cache = kvq_memory_take(&memory, KVQ_FOR_BOOKKEEPING, 1, sizeof *cache);
    if (cache == NULL)
        return KVQ_ERR_NOMEM;
    cache->memory = memory;
    cache->kernels = kernels;
    cache->config = *config;
    cache->config.scheme_text = NULL;
    cache->config.scheme = NULL;
    cache->config.allocator = NULL;
    cache->config.isa = kernels->isa;
    kvq_status status = take_arrays(cache);
    if (status == KVQ_OK)
        status = choose_schemes(cache, config, config->scheme);
    if (status != KVQ_OK) {
        kvq_cache_free(cache);
        return status;
    }
    *out = cache;
    return KVQ_OK;
}

kvq_status kvq_cache_create(kvq_cache **out, const kvq_config *given)
{
    kvq_config config = default_config;
    if (out == NULL || given == NULL ||
        !kvq_sized_read(&config, sizeof config, given, KVQ_SIZE_THROUGH(kvq_config, isa)))
        return KVQ_ERR_ARG;
    KVQ_TRY(check_config(&config));
    kvq_scheme *from_text = NULL;
    if (config.layer_schemes == NULL && config.scheme == NULL) {
        KVQ_TRY(kvq_scheme_create(&from_text, config.scheme_text, NULL));
        config.scheme = from_text;
    }
    const kvq_status status = make_cache(out, &config);
    kvq_scheme_free(from_text);
    return status;
}

void kvq_cache_reset(kvq_cache *cache)
{
    if (cache == NULL || cache->sequence == NULL)
        return;
    for (size_t i = 0; i < cache->config.n_sequences; i++) {
        kvq_sequence_free(cache, cache->sequence[i]);
        cache->sequence[i] = NULL;
    }
    for (size_t i = 0; i < cache->n_pools; i++)
        kvq_pool_free(&cache->memory, &cache->pool[i]);
}

void kvq_cache_free(kvq_cache *cache)
{
    if (cache == NULL)
        return;
    kvq_cache_reset(cache);
    kvq_memory memory = cache->memory;
    size_t n_layers = cache->config.n_layers;
    kvq_memory_give(&memory, KVQ_FOR_BOOKKEEPING, cache->scratch, KVQ_SUPERBLOCK * cache->config.head_dim,
                    sizeof(float));
    kvq_memory_give(&memory, KVQ_FOR_BOOKKEEPING, cache->sequence, cache->config.n_sequences,
                    sizeof *cache->sequence);
    kvq_memory_give(&memory, KVQ_FOR_BOOKKEEPING, cache->pool, 3 * n_layers, sizeof *cache->pool);
    kvq_memory_give(&memory, KVQ_FOR_BOOKKEEPING, cache->plan, n_layers, sizeof *cache->plan);
    kvq_memory_give(&memory, KVQ_FOR_BOOKKEEPING, cache->scheme_pointers, n_layers,
                    sizeof *cache->scheme_pointers);
    kvq_memory_give(&memory, KVQ_FOR_BOOKKEEPING, cache->schemes, n_layers, sizeof *cache->schemes);
    kvq_memory_give(&memory, KVQ_FOR_BOOKKEEPING, cache, 1, sizeof *cache);
}

void kvq_cache_get_config_sized(const kvq_cache *cache, kvq_config *out, size_t struct_size)
{
    if (cache != NULL && out != NULL)
        (void)kvq_sized_write(out, struct_size, &cache->config, sizeof cache->config, false);
}

const char *kvq_cache_isa(const kvq_cache *cache)
{
    return cache == NULL ? NULL : cache->kernels->isa;
}

size_t kvq_cache_n_tokens(const kvq_cache *cache, size_t layer, size_t sequence)
{
    if (cache == NULL || layer >= cache->config.n_layers || sequence >= cache->config.n_sequences)
        return 0;
    const kvq_layer *state = kvq_layer_of(cache, layer, sequence);
    return state == NULL ? 0 : state->n_tokens;
}

kvq_status kvq_cache_n_packed(const kvq_cache *cache, size_t layer, size_t sequence, size_t *k, size_t *v)
{
    if (cache == NULL || layer >= cache->config.n_layers || sequence >= cache->config.n_sequences)
        return KVQ_ERR_ARG;
    const kvq_layer *state = kvq_layer_of(cache, layer, sequence);
    if (k != NULL)
        *k = state == NULL ? 0 : state->packed[KVQ_KEYS];
    if (v != NULL)
        *v = state == NULL ? 0 : state->packed[KVQ_VALUES];
    return KVQ_OK;
}

/* ---- Memory ---- */

static void add_layer_usage(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                            kvq_usage *sum)
{
    size_t n_kv_heads = cache->config.n_kv_heads, token_elements = n_kv_heads * cache->config.head_dim;
    size_t n = kvq_past_sinks(plan, layer->n_tokens);
    for (size_t role = 0; role < KVQ_N_ROLES; role++) {
        const kvq_side *side = &plan->side[role];
        size_t packed = layer->packed[role], n_runs = packed / side->tokens_per_run;
        sum->payload += n_kv_heads * n_runs * side->payload_per_run;
        sum->metadata += n_kv_heads * n_runs * side->metadata_per_run;
        sum->residual += (n - packed) * n_kv_heads * plan->row_bytes[role];
        sum->sinks += (layer->n_tokens - n) * n_kv_heads * plan->row_bytes[role];
        sum->n_elements += layer->n_tokens * token_elements;
        sum->n_packed_elements += packed * token_elements;
    }
    sum->evidence += kvq_evidence_bytes(cache, plan, layer);
}

kvq_status kvq_cache_usage_sized(const kvq_cache *cache, kvq_usage *out, size_t struct_size)
{
    if (cache == NULL || out == NULL)
        return KVQ_ERR_ARG;
    kvq_usage sum = {0};
    for (size_t s = 0; s < cache->config.n_sequences; s++)
        for (size_t i = 0; cache->sequence[s] != NULL && i < cache->config.n_layers; i++)
            add_layer_usage(cache, &cache->plan[i], &cache->sequence[s][i], &sum);
    sum.bookkeeping = cache->memory.bookkeeping_bytes;
    sum.slack =
        cache->memory.data_bytes - (sum.payload + sum.metadata + sum.residual + sum.sinks + sum.evidence);
    sum.total = cache->memory.data_bytes + sum.bookkeeping;
    return kvq_sized_write(out, struct_size, &sum, sizeof sum, true) ? KVQ_OK : KVQ_ERR_ARG;
}

/* ---- Integrity ---- */

kvq_status kvq_cache_verify(const kvq_cache *cache, kvq_damage *damage)
{
    if (cache == NULL)
        return KVQ_ERR_ARG;
    for (size_t s = 0; s < cache->config.n_sequences; s++) {
        for (size_t i = 0; cache->sequence[s] != NULL && i < cache->config.n_layers; i++) {
            const kvq_layer *layer = &cache->sequence[s][i];
            for (size_t p = 0; p < kvq_n_sealed(layer); p++) {
                if (kvq_page_hash(&cache->plan[i], &layer->page[p]) == layer->page[p].hash)
                    continue;
                if (damage != NULL)
                    *damage = (kvq_damage){.layer = i, .sequence = s, .page = p};
                return KVQ_ERR_CHECKSUM;
            }
        }
    }
    return KVQ_OK;
}
