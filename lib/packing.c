/*
 * The rule of what is packed when: a function of how many tokens there are (kvq.h, at kvq_scheme).
 */
#include "lib/internal.h"

/* Tokens that the sliding residual packs together: the larger G, where a full group counts as a block and a
 * codec without groups as one token. All are powers of two, so the larger is a multiple of the other. */
static size_t sliding_step(const kvq_layer_plan *plan)
{
    const kvq_side_scheme *sides[] = {&plan->scheme.k, &plan->scheme.v};
    size_t step = 1;
    for (size_t i = 0; i < 2; i++) {
        if (sides[i]->codec != KVQ_CODEC_AFFINE)
            continue;
        step = kvq_max_size(step, sides[i]->group == KVQ_GROUP_FULL ? KVQ_BLOCK : sides[i]->group);
    }
    return step;
}

size_t kvq_packed_target(const kvq_layer_plan *plan, kvq_role role, size_t n)
{
    size_t residual = plan->scheme.residual;
    if (plan->scheme.residual_mode == KVQ_RESIDUAL_SLIDING) {
        size_t step = sliding_step(plan);
        return n > residual ? (n - residual) / step * step : 0;
    }
    if (plan->layout[role].tokens_per_run > 1)
        return n == 0 ? 0 : (n - 1) / residual * residual;
    return n > residual + 1 ? n - residual - 1 : 0;
}

size_t kvq_n_sealed(const kvq_layer *layer)
{
    return kvq_min_size(layer->packed[KVQ_KEYS], layer->packed[KVQ_VALUES]) / KVQ_SUPERBLOCK;
}
