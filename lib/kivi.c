/*
 * Exchange with KIVI's published form: packed int32 words, half scales and minimums, float residuals
 * (kvq_kivi in kvq.h). Words, scales and minimums move bit for bit; only their places differ from ours.
 */
#include "lib/internal.h"
#include "lib/sized.h"

static size_t words(size_t n, size_t bits)
{
    return (n * bits + 31) / 32;
}

/* b bits at position j of a run of words that are `stride` apart, least significant first. */
static uint32_t get_field(const int32_t *run, size_t stride, size_t j, uint32_t bits)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < bits; i++) {
        size_t bit = j * bits + i;
        value |= ((uint32_t)run[bit / 32 * stride] >> bit % 32 & 1u) << i;
    }
    return value;
}

static void put_field(int32_t *run, size_t stride, size_t j, uint32_t bits, uint32_t value)
{
    for (uint32_t i = 0; i < bits; i++) {
        size_t bit = j * bits + i;
        uint32_t word = (uint32_t)run[bit / 32 * stride];
        word = (word & ~(1u << bit % 32)) | (value >> i & 1u) << bit % 32;
        run[bit / 32 * stride] = (int32_t)word;
    }
}

/* One side of one layer with KIVI's arrays for it. */
typedef struct side {
    const kvq_cache *cache;
    const kvq_layer_plan *plan;
    const kvq_layer *layer;
    kvq_role role;
    size_t n, n_packed;
    int32_t *code;
    uint16_t *scale, *min;
    float *residual;
} side;

static const kvq_layout *layout_of(const side *s)
{
    return kvq_side_affine_layout(&s->plan->side[s->role]);
}

static bool scheme_fits(const kvq_cache *cache, const kvq_layer_plan *plan)
{
    const kvq_layout *k = kvq_side_affine_layout(&plan->side[KVQ_KEYS]),
                     *v = kvq_side_affine_layout(&plan->side[KVQ_VALUES]);
    return plan->scheme.sinks == 0 && k != NULL && v != NULL && k->per_channel && !v->per_channel &&
           cache->config.head_dim % v->group == 0;
}

static uint8_t *superblock_of(const side *s, size_t head, size_t t)
{
    return kvq_superblock(s->plan, &s->layer->page[t / KVQ_SUPERBLOCK], s->role, head);
}

/* Where the code of (head, t, c) is: the first word of its run, the words' distance, its place in the run. */
static int32_t *run_of(const side *s, size_t head, size_t t, size_t c, size_t *stride, size_t *j)
{
    size_t dim = s->cache->config.head_dim, bits = layout_of(s)->bits;
    if (s->role == KVQ_KEYS) {
        *stride = dim;
        *j = t;
        return s->code + head * words(s->n_packed, bits) * dim + c;
    }
    *stride = 1;
    *j = c;
    return s->code + (head * s->n_packed + t) * words(dim, bits);
}

/* Place of the scale and minimum of the group that starts at (t, c). */
static size_t meta_index(const side *s, size_t head, size_t t, size_t c)
{
    size_t dim = s->cache->config.head_dim, group = layout_of(s)->group;
    return s->role == KVQ_KEYS ? (head * (s->n_packed / group) + t / group) * dim + c
                               : (head * s->n_packed + t) * (dim / group) + c / group;
}

/* Call visit_code for every packed element and visit_group for every group. */
static void visit(const side *s, void (*visit_code)(const side *, size_t, size_t, size_t),
                  void (*visit_group)(const side *, size_t, size_t, size_t))
{
    const kvq_layout *layout = layout_of(s);
    size_t t_step = layout->per_channel ? layout->group : 1, c_step = layout->per_channel ? 1 : layout->group;
    for (size_t head = 0; head < s->cache->config.n_kv_heads; head++)
        for (size_t t = 0; t < s->n_packed; t++)
            for (size_t c = 0; c < layout->dim; c++) {
                if (t % t_step == 0 && c % c_step == 0)
                    visit_group(s, head, t, c);
                visit_code(s, head, t, c);
            }
}

/* ---- Export ---- */

static void export_code(const side *s, size_t head, size_t t, size_t c)
{
    size_t stride, j;
    if (s->code == NULL)
        return;
    int32_t *run = run_of(s, head, t, c, &stride, &j);
    const kvq_layout *layout = layout_of(s);
    put_field(run, stride, j, layout->bits,
              kvq_code_get(layout, superblock_of(s, head, t), t % KVQ_SUPERBLOCK, c));
}

static void export_group(const side *s, size_t head, size_t t, size_t c)
{
    const kvq_layout *layout = layout_of(s);
    const uint8_t *at = superblock_of(s, head, t) + kvq_scale_offset(layout, t % KVQ_SUPERBLOCK, c);
    if (s->scale != NULL)
        s->scale[meta_index(s, head, t, c)] = kvq_load_u16(at);
    if (s->min != NULL)
        s->min[meta_index(s, head, t, c)] = kvq_load_u16(at + layout->min_offset);
}

static void export_side(const side *s)
{
    size_t dim = s->cache->config.head_dim, bits = layout_of(s)->bits, n_heads = s->cache->config.n_kv_heads;
    size_t n_words = s->role == KVQ_KEYS ? words(s->n_packed, bits) * dim : s->n_packed * words(dim, bits);
    if (s->code != NULL) /* the last word of a run may be partly unused */
        memset(s->code, 0, n_heads * n_words * sizeof *s->code);
    visit(s, export_code, export_group);
    size_t n_residual = s->n - s->n_packed;
    const kvq_view view = {.cache = s->cache, .plan = s->plan, .layer = s->layer};
    for (size_t head = 0; s->residual != NULL && n_residual > 0 && head < n_heads; head++)
        kvq_read_head(&view, s->role, head, s->n_packed, n_residual, s->residual + head * n_residual * dim,
                      dim);
}

void kvq_kivi_init_sized(kvq_kivi *kivi, size_t struct_size)
{
    static const kvq_kivi empty;
    if (kivi != NULL)
        (void)kvq_sized_write(kivi, struct_size, &empty, sizeof empty, false);
}

static bool read_kivi(const kvq_kivi *given, kvq_kivi *ours)
{
    *ours = (kvq_kivi){0};
    return given != NULL && kvq_sized_read(ours, sizeof *ours, given, KVQ_SIZE_THROUGH(kvq_kivi, v_residual));
}

kvq_status kvq_cache_export_kivi(const kvq_cache *cache, size_t layer_index, size_t sequence, kvq_kivi *given)
{
    kvq_kivi ours, *kivi = &ours;
    if (cache == NULL || !read_kivi(given, kivi) || layer_index >= cache->config.n_layers ||
        sequence >= cache->config.n_sequences || !scheme_fits(cache, &cache->plan[layer_index]))
        return KVQ_ERR_ARG;
    static const kvq_layer empty;
    const kvq_layer *layer = kvq_layer_of(cache, layer_index, sequence);
    if (layer == NULL)
        layer = &empty;
    given->n_tokens = kivi->n_tokens = layer->n_tokens;
    given->n_k_packed = kivi->n_k_packed = layer->packed[KVQ_KEYS];
    given->n_v_packed = kivi->n_v_packed = layer->packed[KVQ_VALUES];
    const kvq_layer_plan *plan = &cache->plan[layer_index];
    export_side(&(side){cache, plan, layer, KVQ_KEYS, kivi->n_tokens, kivi->n_k_packed, kivi->k_code,
                        kivi->k_scale, kivi->k_min, kivi->k_residual});
    export_side(&(side){cache, plan, layer, KVQ_VALUES, kivi->n_tokens, kivi->n_v_packed, kivi->v_code,
                        kivi->v_scale, kivi->v_min, kivi->v_residual});
    return KVQ_OK;
}

/* ---- Import ---- */

static void import_code(const side *s, size_t head, size_t t, size_t c)
{
    size_t stride, j;
    const int32_t *run = run_of(s, head, t, c, &stride, &j);
    const kvq_layout *layout = layout_of(s);
    kvq_code_put(layout, superblock_of(s, head, t), t % KVQ_SUPERBLOCK, c,
                 get_field(run, stride, j, layout->bits));
}

static void import_group(const side *s, size_t head, size_t t, size_t c)
{
    const kvq_layout *layout = layout_of(s);
    uint8_t *at = superblock_of(s, head, t) + kvq_scale_offset(layout, t % KVQ_SUPERBLOCK, c);
    kvq_store_u16(at, s->scale[meta_index(s, head, t, c)]);
    kvq_store_u16(at + layout->min_offset, s->min[meta_index(s, head, t, c)]);
}

static void import_side(const side *s)
{
    size_t dim = s->cache->config.head_dim, n_residual = s->n - s->n_packed;
    visit(s, import_code, import_group);
    for (size_t head = 0; head < s->cache->config.n_kv_heads; head++)
        for (size_t i = 0; i < n_residual; i++)
            kvq_row_store(s->cache, s->plan->scheme.residual_dtype[s->role],
                          kvq_residual_row(s->plan, s->layer, s->role, head, s->n_packed + i),
                          s->residual + (head * n_residual + i) * dim);
}

/* Is everything there, whole and finite? */
static kvq_status check_side(const side *s)
{
    const kvq_layout *layout = layout_of(s);
    size_t n_heads = s->cache->config.n_kv_heads, dim = layout->dim, n_residual;
    if (s->n_packed > s->n || s->n_packed % layout->tokens_per_run != 0)
        return KVQ_ERR_ARG;
    n_residual = s->n - s->n_packed;
    if (s->n_packed > 0 && (s->code == NULL || s->scale == NULL || s->min == NULL))
        return KVQ_ERR_ARG;
    if (n_residual > 0 && s->residual == NULL)
        return KVQ_ERR_ARG;
    size_t n_groups = n_heads * s->n_packed * dim / layout->group;
    for (size_t i = 0; i < n_groups; i++)
        if (s->scale[i] >= 0x7c00u || (s->min[i] & 0x7c00u) == 0x7c00u)
            return KVQ_ERR_NONFINITE;
    if (n_residual > 0 && !s->cache->kernels->all_finite_f32(s->residual, n_heads * n_residual * dim))
        return KVQ_ERR_NONFINITE;
    return KVQ_OK;
}

static kvq_status take_memory(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer,
                              const kvq_kivi *kivi)
{
    const size_t packed[KVQ_N_ROLES] = {kivi->n_k_packed, kivi->n_v_packed};
    size_t most = kvq_max_size(packed[KVQ_KEYS], packed[KVQ_VALUES]);
    KVQ_TRY(kvq_pages_grow(cache, plan, layer, (most + KVQ_SUPERBLOCK - 1) / KVQ_SUPERBLOCK));
    for (size_t role = 0; role < KVQ_N_ROLES; role++) {
        size_t need = kvq_residual_need(&layer->residual[role], packed[role], kivi->n_tokens);
        KVQ_TRY(kvq_residual_reserve(cache, plan, layer, (kvq_role)role, need));
    }
    return KVQ_OK;
}

kvq_status kvq_cache_import_kivi(kvq_cache *cache, size_t layer_index, size_t sequence, const kvq_kivi *given)
{
    kvq_kivi ours, *kivi = &ours;
    if (cache == NULL || !read_kivi(given, kivi) || layer_index >= cache->config.n_layers ||
        sequence >= cache->config.n_sequences || !scheme_fits(cache, &cache->plan[layer_index]) ||
        kvq_cache_n_tokens(cache, layer_index, sequence) != 0)
        return KVQ_ERR_ARG;
    if (kivi->n_tokens > cache->config.max_tokens)
        return KVQ_ERR_FULL;
    const kvq_layer_plan *plan = &cache->plan[layer_index];
    side k = {cache,        plan,          NULL,        KVQ_KEYS,        kivi->n_tokens, kivi->n_k_packed,
              kivi->k_code, kivi->k_scale, kivi->k_min, kivi->k_residual};
    side v = {cache,        plan,          NULL,        KVQ_VALUES,      kivi->n_tokens, kivi->n_v_packed,
              kivi->v_code, kivi->v_scale, kivi->v_min, kivi->v_residual};
    KVQ_TRY(check_side(&k));
    KVQ_TRY(check_side(&v));
    KVQ_TRY(kvq_sequence_ensure(cache, sequence));
    kvq_layer *layer = &cache->sequence[sequence][layer_index];
    if (take_memory(cache, plan, layer, kivi) != KVQ_OK) {
        kvq_layer_release(cache, plan, layer, 0);
        return KVQ_ERR_NOMEM;
    }
    const size_t packed[KVQ_N_ROLES] = {kivi->n_k_packed, kivi->n_v_packed};
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        layer->packed[role] = packed[role];
        kvq_residual_advance(cache, plan, layer, role, packed[role], kivi->n_tokens);
    }
    layer->n_tokens = kivi->n_tokens;
    k.layer = v.layer = layer;
    import_side(&k);
    import_side(&v);
    kvq_pages_seal(plan, layer, 0);
    return KVQ_OK;
}
