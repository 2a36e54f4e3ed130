/*
 * What a tile's rows add up to: sums relative to a reference per row, made so that they can be added.
 */
#include "lib/tile.h"

#include <math.h>

size_t kvq_sums_floats(const kvq_attention_work *a, size_t n_rows)
{
    return n_rows * (4 + (a->apart ? 2 : 1) * a->call->cache->config.head_dim);
}

kvq_tile_sums kvq_sums_in(const kvq_attention_work *a, float *memory, size_t n_rows)
{
    float *acc = memory + 4 * n_rows, *packed = acc + n_rows * a->call->cache->config.head_dim;
    return (kvq_tile_sums){memory, memory + n_rows,        memory + 2 * n_rows, memory + 3 * n_rows,
                           acc,    a->apart ? packed : acc};
}

kvq_tile_sums kvq_sums_start(const kvq_attention_work *a, float *memory, size_t n_rows)
{
    kvq_tile_sums s = kvq_sums_in(a, memory, n_rows);
    memset(memory, 0, kvq_sums_floats(a, n_rows) * sizeof *memory);
    for (size_t row = 0; row < n_rows; row++)
        s.ref[row] = -INFINITY;
    return s;
}

static void scale_row(float *acc, size_t dim, float factor)
{
    for (size_t c = 0; c < dim; c++)
        acc[c] = factor > 0 ? acc[c] * factor : 0.0f; /* not Inf * 0 */
}

void kvq_sums_raise(const kvq_attention_work *a, const kvq_tile_sums *s, size_t row, float ref)
{
    size_t dim = a->call->cache->config.head_dim;
    if (!(ref > s->ref[row]))
        return;
    float factor = s->ref[row];
    s->ref[row] = ref;
    if (!(s->sum[row] > 0.0f))
        return;
    (void)a->call->cache->kernels->exp2_sum_f32(&factor, 1, ref);
    scale_row(s->acc + row * dim, dim, factor);
    if (a->apart)
        scale_row(s->packed + row * dim, dim, factor);
    s->sum[row] *= factor;
    s->error[row] *= factor * factor;
}

void kvq_sums_add(const kvq_attention_work *a, const kvq_tile_sums *total, const kvq_tile_sums *segment,
                  size_t n_rows)
{
    size_t dim = a->call->cache->config.head_dim;
    for (size_t row = 0; row < n_rows; row++) {
        float ref = total->ref[row] > segment->ref[row] ? total->ref[row] : segment->ref[row];
        if (!(segment->sum[row] > 0.0f))
            continue; /* it may see none of these tokens */
        kvq_sums_raise(a, total, row, ref);
        kvq_sums_raise(a, segment, row, ref);
        for (size_t c = row * dim; c < (row + 1) * dim; c++) {
            total->acc[c] += segment->acc[c];
            if (a->apart)
                total->packed[c] += segment->packed[c];
        }
        total->sum[row] += segment->sum[row];
        total->error[row] += segment->error[row];
        total->overflowed[row] += segment->overflowed[row];
    }
}

void kvq_sums_finish(const kvq_attention_work *a, const kvq_tile_sums *total, size_t n_rows)
{
    const kvq_cache *cache = a->call->cache;
    size_t dim = cache->config.head_dim;
    for (size_t row = 0; row < n_rows && a->apart; row++) {
        float *packed = total->packed + row * dim;
        a->side[KVQ_VALUES]->codec->finish(cache->kernels, a->side[KVQ_VALUES], packed);
        for (size_t c = 0; c < dim; c++)
            total->acc[row * dim + c] += packed[c];
    }
}
