/*
 * Reading back: dequantized values and their promised error, of any tokens, wherever they are.
 */
#include "lib/internal.h"

#include <math.h>

/* A stretch of tokens that lie side by side in one place. */
typedef struct stretch {
    size_t n;
    const uint8_t *rows;       /* sinks or residual rows, or NULL: */
    const uint8_t *superblock; /* packed, from token t0 of it on */
    size_t t0;
} stretch;

/* The place of token `begin`, and how many of the next n lie there with it. */
static stretch find_stretch(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                            kvq_role role, size_t head, size_t begin, size_t n)
{
    size_t sinks = plan->scheme.sinks;
    if (begin < sinks)
        return (stretch){.n = kvq_min_size(n, sinks - begin),
                         .rows = kvq_sinks_row(cache, plan, layer, role, head, begin)};
    size_t index = begin - sinks, packed = layer->packed[role];
    if (index >= packed)
        return (stretch){.n = kvq_min_size(n, KVQ_BLOCK - index % KVQ_BLOCK),
                         .rows = kvq_residual_row(cache, plan, layer, role, head, index)};
    size_t end = kvq_min_size(packed, (index / KVQ_SUPERBLOCK + 1) * KVQ_SUPERBLOCK);
    return (stretch){.n = kvq_min_size(n, end - index),
                     .superblock = kvq_superblock(plan, &layer->page[index / KVQ_SUPERBLOCK], role, head),
                     .t0 = index % KVQ_SUPERBLOCK};
}

void kvq_read_head(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer, kvq_role role,
                   size_t head, size_t begin, size_t n, float *out, size_t stride)
{
    const kvq_layout *layout = &plan->layout[role];
    size_t row_bytes = cache->config.head_dim * plan->element_bytes;
    while (n > 0) {
        stretch s = find_stretch(cache, plan, layer, role, head, begin, n);
        if (s.rows == NULL)
            layout->codec->dequantize(cache->kernels, layout, s.superblock, s.t0, s.n, out, stride);
        else
            for (size_t i = 0; i < s.n; i++)
                kvq_row_load(cache, plan, s.rows + i * row_bytes, out + i * stride);
        begin += s.n;
        n -= s.n;
        out += s.n * stride;
    }
}

/* What rounding to half did to a value before it came to be stored as x with an error of at most bound. */
static float with_residual_rounding(float x, float bound)
{
    return bound + kvq_f16_error_bound(fabsf(x) + bound);
}

void kvq_read_head_bound(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                         kvq_role role, size_t head, size_t begin, size_t n, float *out, size_t stride)
{
    const kvq_layout *layout = &plan->layout[role];
    size_t dim = cache->config.head_dim;
    while (n > 0) {
        stretch s = find_stretch(cache, plan, layer, role, head, begin, n);
        if (s.rows == NULL)
            layout->codec->error_bound(layout, s.superblock, s.t0, s.n, out, stride);
        for (size_t i = 0; i < s.n; i++, out += stride) {
            if (s.rows != NULL)
                memset(out, 0, dim * sizeof *out);
            if (plan->scheme.residual_dtype == KVQ_F16) { /* everything passes through a residual of half */
                float x[KVQ_DIM_MAX];
                kvq_read_head(cache, plan, layer, role, head, begin + i, 1, x, dim);
                for (size_t c = 0; c < dim; c++)
                    out[c] = with_residual_rounding(x[c], out[c]);
            }
        }
        begin += s.n;
        n -= s.n;
    }
}

/* ---- The public calls ---- */

typedef void read_head_fn(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                          kvq_role role, size_t head, size_t begin, size_t n, float *out, size_t stride);

static kvq_status read_sides(const kvq_cache *cache, size_t layer_index, size_t sequence, size_t begin,
                             size_t n_tokens, float *k, float *v, read_head_fn *read_head)
{
    if (cache == NULL || layer_index >= cache->config.n_layers || sequence >= cache->config.n_sequences)
        return KVQ_ERR_ARG;
    const kvq_layer *layer = kvq_layer_of(cache, layer_index, sequence);
    size_t held = layer == NULL ? 0 : layer->n_tokens;
    if (begin > held || n_tokens > held - begin)
        return KVQ_ERR_ARG;
    float *out[KVQ_N_ROLES] = {k, v};
    size_t dim = cache->config.head_dim, n_kv_heads = cache->config.n_kv_heads;
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++)
        for (size_t head = 0; out[role] != NULL && n_tokens > 0 && head < n_kv_heads; head++)
            read_head(cache, &cache->plan[layer_index], layer, role, head, begin, n_tokens,
                      out[role] + head * dim, n_kv_heads * dim);
    return KVQ_OK;
}

kvq_status kvq_cache_read(const kvq_cache *cache, size_t layer, size_t sequence, size_t begin,
                          size_t n_tokens, float *k, float *v)
{
    return read_sides(cache, layer, sequence, begin, n_tokens, k, v, kvq_read_head);
}

kvq_status kvq_cache_read_bound(const kvq_cache *cache, size_t layer, size_t sequence, size_t begin,
                                size_t n_tokens, float *k, float *v)
{
    return read_sides(cache, layer, sequence, begin, n_tokens, k, v, kvq_read_head_bound);
}
