/*
 * The rule of what is packed when: a function of how many tokens there are (kvq.h, at kvq_scheme).
 */
#include "lib/internal.h"

size_t kvq_packed_target(const kvq_layer_plan *plan, kvq_role role, size_t n)
{
    size_t residual = plan->scheme.residual;
    if (plan->scheme.residual_mode == KVQ_RESIDUAL_SLIDING) {
        /* Both are powers of two, so the larger is a multiple of the other. */
        size_t step = kvq_max_size(plan->side[KVQ_KEYS].sliding_step, plan->side[KVQ_VALUES].sliding_step);
        return n > residual ? (n - residual) / step * step : 0;
    }
    if (plan->side[role].tokens_per_run > 1)
        return n == 0 ? 0 : (n - 1) / residual * residual;
    return n > residual + 1 ? n - residual - 1 : 0;
}

size_t kvq_n_sealed(const kvq_layer *layer)
{
    return kvq_min_size(layer->packed[KVQ_KEYS], layer->packed[KVQ_VALUES]) / KVQ_SUPERBLOCK;
}
