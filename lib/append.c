/*
 * Appending tokens: into the sinks, into pages, into the residual, in that order of age.
 *
 * Which indices end up packed depends only on how many tokens there are (kvq_packed_target), so a token goes
 * either from the caller's array straight into a page, or through the residual first; the codes are the same
 * either way, because a group is always encoded as a whole from the same values. All memory is taken before
 * anything changes, so a failed append changes no token; memory it took for sinks and tables stays for the
 * next.
 */
#include "lib/internal.h"

/* One call's tokens past the sinks, seen as indices [first, first + n) of a layer. */
typedef struct append_input {
    const float *x[KVQ_N_ROLES]; /* [n][Hkv][D] */
    size_t first, n;
} append_input;

/* Below this many values, threads cost more than they save. */
enum { MIN_PARALLEL_ELEMENTS = 1 << 16 };

static const float *input_row(const kvq_cache *cache, const append_input *in, kvq_role role, size_t head,
                              size_t index)
{
    return in->x[role] + ((index - in->first) * cache->config.n_kv_heads + head) * cache->config.head_dim;
}

/* Collect rows [index, index + n) of a head, wherever they are, as the residual would hold them. */
static void gather(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer, kvq_role role,
                   size_t head, const append_input *in, size_t index, size_t n, float *out)
{
    size_t dim = cache->config.head_dim;
    uint16_t rounded[KVQ_DIM_MAX];
    for (size_t i = index; i < index + n; i++, out += dim) {
        if (i < in->first) {
            kvq_row_load(cache, plan, kvq_residual_row(cache, plan, layer, role, head, i), out);
        } else if (plan->scheme.residual_dtype == KVQ_F16) {
            cache->kernels->convert_f32_f16(input_row(cache, in, role, head, i), dim, rounded);
            cache->kernels->convert_f16_f32(rounded, dim, out);
        } else {
            memcpy(out, input_row(cache, in, role, head, i), dim * sizeof *out);
        }
    }
}

static void encode_gathered(kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                            kvq_role role, size_t begin, size_t end, const append_input *in)
{
    const kvq_layout *layout = &plan->layout[role];
    size_t dim = cache->config.head_dim, n;
    for (size_t i = begin; i < end; i += n) {
        n = kvq_min_size(end, (i / KVQ_SUPERBLOCK + 1) * KVQ_SUPERBLOCK) - i;
        for (size_t head = 0; head < cache->config.n_kv_heads; head++) {
            gather(cache, plan, layer, role, head, in, i, n, cache->scratch);
            layout->codec->encode(cache->kernels, layout,
                                  kvq_superblock(plan, &layer->page[i / KVQ_SUPERBLOCK], role, head),
                                  i % KVQ_SUPERBLOCK, n, cache->scratch, dim);
        }
    }
}

static void encode_head_direct(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                               kvq_role role, size_t head, size_t begin, size_t end, const append_input *in)
{
    const kvq_layout *layout = &plan->layout[role];
    size_t stride = cache->config.n_kv_heads * cache->config.head_dim, n;
    for (size_t i = begin; i < end; i += n) {
        n = kvq_min_size(end, (i / KVQ_SUPERBLOCK + 1) * KVQ_SUPERBLOCK) - i;
        layout->codec->encode(cache->kernels, layout,
                              kvq_superblock(plan, &layer->page[i / KVQ_SUPERBLOCK], role, head),
                              i % KVQ_SUPERBLOCK, n, input_row(cache, in, role, head, i), stride);
    }
}

static void encode_direct(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                          kvq_role role, size_t begin, size_t end, const append_input *in)
{
    size_t n_heads = cache->config.n_kv_heads;
    bool large = (end - begin) * n_heads * cache->config.head_dim >= MIN_PARALLEL_ELEMENTS;
    int n_threads = large ? kvq_n_threads(0, n_heads) : 1;
    if (n_threads == 1) { /* no pragma at all: see run_parallel in attend.c, and kvq_n_threads */
        for (size_t head = 0; head < n_heads; head++)
            encode_head_direct(cache, plan, layer, role, head, begin, end, in);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (size_t head = 0; head < n_heads; head++)
        encode_head_direct(cache, plan, layer, role, head, begin, end, in);
}

/* Pack indices [layer->packed, target) of one side. */
static void pack_side(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, kvq_role role,
                      size_t target, const append_input *in)
{
    size_t begin = layer->packed[role], run = plan->layout[role].tokens_per_run;
    /* From here on whole runs come from the caller's array; with a rounded residual every value must pass
     * through it. */
    size_t direct = plan->scheme.residual_dtype == KVQ_F16 ? target : (in->first + run - 1) / run * run;
    direct = kvq_max_size(begin, kvq_min_size(direct, target));
    encode_gathered(cache, plan, layer, role, begin, direct, in);
    encode_direct(cache, plan, layer, role, direct, target, in);
}

/* Write the newest tokens, which stay in full precision, into the residual (already advanced to [packed,
 * n)). */
static void fill_residual(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                          kvq_role role, const append_input *in)
{
    size_t begin = kvq_max_size(layer->packed[role], in->first);
    for (size_t i = begin; i < in->first + in->n; i++)
        for (size_t head = 0; head < cache->config.n_kv_heads; head++)
            kvq_row_store(cache, plan, kvq_residual_row(cache, plan, layer, role, head, i),
                          input_row(cache, in, role, head, i));
}

static void fill_sinks(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                       kvq_role role, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t head = 0; head < cache->config.n_kv_heads; head++, x += cache->config.head_dim)
            kvq_row_store(cache, plan, kvq_sinks_row(cache, plan, layer, role, head, layer->n_tokens + i), x);
}

/* Take all the memory that a layer of n indices needs, without changing what it holds. */
static kvq_status reserve(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer,
                          const size_t target[KVQ_N_ROLES], size_t n)
{
    size_t most = kvq_max_size(target[KVQ_KEYS], target[KVQ_VALUES]);
    KVQ_TRY(kvq_sinks_ensure(cache, plan, layer));
    KVQ_TRY(kvq_pages_grow(cache, plan, layer, (most + KVQ_SUPERBLOCK - 1) / KVQ_SUPERBLOCK));
    for (size_t role = 0; role < KVQ_N_ROLES; role++) {
        kvq_residual *residual = &layer->residual[role];
        KVQ_TRY(kvq_residual_reserve(cache, plan, residual, kvq_residual_need(residual, target[role], n)));
    }
    return KVQ_OK;
}

static void take_tokens(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer,
                        const size_t target[KVQ_N_ROLES], const append_input *in)
{
    size_t sealed = kvq_n_sealed(layer);
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        pack_side(cache, plan, layer, role, target[role], in);
        layer->packed[role] = target[role];
        kvq_residual_advance(cache, plan, &layer->residual[role], target[role], in->first + in->n);
        fill_residual(cache, plan, layer, role, in);
    }
    kvq_pages_seal(plan, layer, sealed);
}

kvq_status kvq_cache_append(kvq_cache *cache, size_t layer_index, size_t sequence, const float *k,
                            const float *v, size_t n_tokens)
{
    if (cache == NULL || layer_index >= cache->config.n_layers || sequence >= cache->config.n_sequences)
        return KVQ_ERR_ARG;
    if (n_tokens == 0)
        return KVQ_OK;
    size_t token_elements = cache->config.n_kv_heads * cache->config.head_dim;
    if (k == NULL || v == NULL)
        return KVQ_ERR_ARG;
    if (n_tokens > cache->config.max_tokens - kvq_cache_n_tokens(cache, layer_index, sequence))
        return KVQ_ERR_FULL;
    if (!cache->kernels->all_finite_f32(k, n_tokens * token_elements) ||
        !cache->kernels->all_finite_f32(v, n_tokens * token_elements))
        return KVQ_ERR_NONFINITE;
    KVQ_TRY(kvq_sequence_ensure(cache, sequence));

    const kvq_layer_plan *plan = &cache->plan[layer_index];
    kvq_layer *layer = &cache->sequence[sequence][layer_index];
    size_t n_before = kvq_past_sinks(plan, layer->n_tokens),
           n = kvq_past_sinks(plan, layer->n_tokens + n_tokens);
    size_t n_to_sinks = n_tokens - (n - n_before), n_pages = layer->n_pages;
    size_t target[KVQ_N_ROLES];
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES;
         role++) /* an import may have packed more than the scheme */
        target[role] = kvq_max_size(layer->packed[role], kvq_packed_target(plan, role, n));
    if (reserve(cache, plan, layer, target, n) != KVQ_OK) {
        kvq_layer_release(cache, plan, layer, n_pages);
        return KVQ_ERR_NOMEM;
    }
    append_input in = {
        .x = {k + n_to_sinks * token_elements, v + n_to_sinks * token_elements},
        .first = n_before,
        .n = n - n_before,
    };
    fill_sinks(cache, plan, layer, KVQ_KEYS, k, n_to_sinks);
    fill_sinks(cache, plan, layer, KVQ_VALUES, v, n_to_sinks);
    take_tokens(cache, plan, layer, target, &in);
    layer->n_tokens += n_tokens;
    return KVQ_OK;
}
