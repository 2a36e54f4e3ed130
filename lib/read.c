/*
 * Reading back: dequantized values and their promised error, of any tokens, wherever they are.
 */
#include "lib/internal.h"
#include "quant/row8.h"

#include <math.h>

kvq_stretch kvq_find_stretch(const kvq_view *view, kvq_role role, size_t head, size_t begin, size_t n)
{
    const kvq_layer_plan *plan = view->plan;
    const kvq_layer *layer = view->layer;
    size_t stored = layer->n_tokens, sinks = plan->scheme.sinks;
    if (begin >= stored) {
        const kvq_strides *apart = &view->fresh_strides;
        size_t row = (begin - stored) * apart->token + (head - view->first_head) * apart->head;
        return (kvq_stretch){
            .n = kvq_min_size(n, stored + view->n_fresh - begin),
            .rows = (const uint8_t *)(view->fresh[role] + row),
            .dtype = KVQ_F32,
            .stride = apart->token * sizeof(float),
        };
    }
    n = kvq_min_size(n, stored - begin);
    kvq_stretch rows = {.dtype = plan->scheme.residual_dtype[role], .stride = plan->row_bytes[role]};
    if (begin < sinks) {
        rows.n = kvq_min_size(n, sinks - begin);
        rows.rows = kvq_sinks_row(plan, layer, role, head, begin);
        return rows;
    }
    size_t index = begin - sinks, packed = layer->packed[role];
    if (index >= packed) {
        rows.n = kvq_min_size(n, KVQ_BLOCK - index % KVQ_BLOCK);
        rows.rows = kvq_residual_row(plan, layer, role, head, index);
        return rows;
    }
    size_t end = kvq_min_size(packed, (index / KVQ_SUPERBLOCK + 1) * KVQ_SUPERBLOCK);
    return (kvq_stretch){.n = kvq_min_size(n, end - index),
                         .superblock = kvq_superblock(plan, &layer->page[index / KVQ_SUPERBLOCK], role, head),
                         .t0 = index % KVQ_SUPERBLOCK};
}

void kvq_read_head(const kvq_view *view, kvq_role role, size_t head, size_t begin, size_t n, float *out,
                   size_t stride)
{
    const kvq_side *side = &view->plan->side[role];
    while (n > 0) {
        kvq_stretch s = kvq_find_stretch(view, role, head, begin, n);
        if (s.superblock != NULL)
            kvq_side_read(view->cache->kernels, side, s.superblock, s.t0, s.n, out, stride);
        else
            for (size_t i = 0; i < s.n; i++)
                kvq_row_load(view->cache, s.dtype, s.rows + i * s.stride, out + i * stride);
        begin += s.n;
        n -= s.n;
        out += s.n * stride;
    }
}

/* Add to the bounds of one packed row, whose values are x, what its rounding in the residual did before. */
static void add_residual_rounding(kvq_dtype dtype, const float *x, size_t dim, float *bound)
{
    if (dtype == KVQ_F16) { /* to a half that is within bound of x */
        for (size_t c = 0; c < dim; c++)
            bound[c] += kvq_f16_error_bound(fabsf(x[c]) + bound[c]);
        return;
    }
    /* To a row of int8, whose largest code was 127 (less only if the scale was subnormal): its scale was at
     * most this. */
    float amax = 0.0f;
    for (size_t c = 0; c < dim; c++) {
        float most = fabsf(x[c]) + bound[c];
        amax = most > amax ? most : amax;
    }
    float scale = amax * (0x1.00001p+0f / (float)KVQ_ROW8_LARGEST) + 0x1p-24f;
    float rounding = kvq_row8_error_bound(scale) + (float)KVQ_ROW8_LARGEST * 0x1.01p-25f;
    for (size_t c = 0; c < dim; c++)
        bound[c] += rounding;
}

/* The bounds of a row as it stands in the residual. */
static void residual_bound(kvq_dtype dtype, const uint8_t *row, size_t dim, float *bound)
{
    float of_row = dtype == KVQ_I8 ? kvq_row8_error_bound(kvq_row8_scale(row)) : 0.0f;
    for (size_t c = 0; c < dim; c++)
        bound[c] =
            dtype == KVQ_F16 ? kvq_f16_error_bound(kvq_f32_from_f16(kvq_load_u16(row + 2 * c))) : of_row;
}

void kvq_read_head_bound(const kvq_view *view, kvq_role role, size_t head, size_t begin, size_t n, float *out,
                         size_t stride)
{
    size_t dim = view->cache->config.head_dim;
    kvq_dtype dtype = view->plan->scheme.residual_dtype[role];
    while (n > 0) {
        kvq_stretch s = kvq_find_stretch(view, role, head, begin, n);
        if (s.superblock != NULL)
            kvq_side_error_bound(&view->plan->side[role], s.superblock, s.t0, s.n, out, stride);
        for (size_t i = 0; i < s.n; i++, out += stride) {
            if (s.superblock == NULL) {
                residual_bound(s.dtype, s.rows + i * s.stride, dim, out);
            } else if (dtype != KVQ_F32) { /* it has passed through the residual */
                float x[KVQ_DIM_MAX];
                kvq_read_head(view, role, head, begin + i, 1, x, dim);
                add_residual_rounding(dtype, x, dim, out);
            }
        }
        begin += s.n;
        n -= s.n;
    }
}

/* ---- The public calls ---- */

typedef void read_head_fn(const kvq_view *view, kvq_role role, size_t head, size_t begin, size_t n,
                          float *out, size_t stride);

static kvq_status read_sides(const kvq_cache *cache, size_t layer_index, size_t sequence, size_t begin,
                             size_t n_tokens, float *k, float *v, const kvq_strides *given,
                             read_head_fn *read_head)
{
    kvq_strides strides;
    if (cache == NULL || layer_index >= cache->config.n_layers || sequence >= cache->config.n_sequences)
        return KVQ_ERR_ARG;
    const kvq_layer *layer = kvq_layer_of(cache, layer_index, sequence);
    size_t held = layer == NULL ? 0 : layer->n_tokens;
    if (begin > held || n_tokens > held - begin || !kvq_strides_read(cache, given, n_tokens, &strides))
        return KVQ_ERR_ARG;
    kvq_view view = {.cache = cache, .plan = &cache->plan[layer_index], .layer = layer};
    float *out[KVQ_N_ROLES] = {k, v};
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++)
        for (size_t head = 0; out[role] != NULL && n_tokens > 0 && head < cache->config.n_kv_heads; head++)
            read_head(&view, role, head, begin, n_tokens, out[role] + head * strides.head, strides.token);
    return KVQ_OK;
}

kvq_status kvq_cache_read(const kvq_cache *cache, size_t layer, size_t sequence, size_t begin,
                          size_t n_tokens, float *k, float *v)
{
    return read_sides(cache, layer, sequence, begin, n_tokens, k, v, NULL, kvq_read_head);
}

kvq_status kvq_cache_read_strided(const kvq_cache *cache, size_t layer, size_t sequence, size_t begin,
                                  size_t n_tokens, float *k, float *v, const kvq_strides *strides)
{
    return read_sides(cache, layer, sequence, begin, n_tokens, k, v, strides, kvq_read_head);
}

kvq_status kvq_cache_read_bound(const kvq_cache *cache, size_t layer, size_t sequence, size_t begin,
                                size_t n_tokens, float *k, float *v)
{
    return read_sides(cache, layer, sequence, begin, n_tokens, k, v, NULL, kvq_read_head_bound);
}
