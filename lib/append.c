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

#include <stdlib.h>

/* One call's tokens past the sinks, seen as indices [first, first + n) of a layer. */
typedef struct append_input {
    const float *x[KVQ_N_ROLES]; /* of all the call's tokens */
    kvq_strides strides;
    size_t n_sinks;        /* of them before those past the sinks */
    const float *received; /* [Hkv], received_stride apart; of the same tokens; NULL: none */
    size_t received_stride;
    size_t first, n;
    int n_threads;
} append_input;

/* Below this many values, threads cost more than they save. */
enum { MIN_PARALLEL_ELEMENTS = 1 << 16 };

static const float *input_row(const append_input *in, kvq_role role, size_t head, size_t index)
{
    return in->x[role] + (in->n_sinks + index - in->first) * in->strides.token + head * in->strides.head;
}

static float input_received(const append_input *in, size_t head, size_t index)
{
    return in->received == NULL ? 0.0f : in->received[head * in->received_stride + index - in->first];
}

/* ---- Packing ---- */

/* Collect rows [index, index + n) of a head, wherever they are, as the residual would hold them. */
static void gather(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer, kvq_role role,
                   size_t head, const append_input *in, size_t index, size_t n, float *out)
{
    size_t dim = cache->config.head_dim;
    _Alignas(KVQ_ALIGNMENT) uint8_t row[KVQ_DIM_MAX * sizeof(float)];
    for (size_t i = index; i < index + n; i++, out += dim) {
        if (i < in->first) {
            kvq_row_load(cache, plan->scheme.residual_dtype[role],
                         kvq_residual_row(cache, plan, layer, role, head, i), out);
        } else {
            kvq_row_store(cache, plan->scheme.residual_dtype[role], row, input_row(in, role, head, i));
            kvq_row_load(cache, plan->scheme.residual_dtype[role], row, out);
        }
    }
}

/* The attention that n <= 128 tokens have received; NULL if the side does not ask. */
static const float *gather_received(const kvq_cache *cache, const kvq_layer_plan *plan,
                                    const kvq_layer *layer, kvq_role role, size_t head,
                                    const append_input *in, size_t index, size_t n,
                                    float received[KVQ_SUPERBLOCK])
{
    if ((plan->side[role].evidence & KVQ_EVIDENCE_RECEIVED) == 0)
        return NULL;
    for (size_t i = 0; i < n; i++)
        received[i] = index + i < in->first
                          ? *kvq_residual_received(cache, plan, layer, role, head, index + i)
                          : input_received(in, head, index + i);
    return received;
}

/* Encode n indices from i on, of one superblock and a head: from the caller's array as it is, or, with scratch
 * [128][D], gathered from wherever they are. */
static void encode_head(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                        kvq_role role, size_t head, size_t i, size_t n, const append_input *in,
                        float *scratch)
{
    const kvq_side *side = &plan->side[role];
    size_t dim = cache->config.head_dim;
    float received[KVQ_SUPERBLOCK];
    const float *x = scratch;
    if (scratch != NULL)
        gather(cache, plan, layer, role, head, in, i, n, scratch);
    else
        x = input_row(in, role, head, i);
    kvq_evidence evidence = kvq_evidence_of(
        cache, plan, layer, head, gather_received(cache, plan, layer, role, head, in, i, n, received), n);
    side->codec->encode(cache->kernels, side,
                        kvq_superblock(plan, &layer->page[i / KVQ_SUPERBLOCK], role, head),
                        i % KVQ_SUPERBLOCK, n, x, scratch != NULL ? dim : in->strides.token,
                        side->evidence != 0 ? &evidence : NULL);
}

/* Indices from i on that are of one superblock and below end. */
static size_t in_superblock(size_t i, size_t end)
{
    return kvq_min_size(end, (i / KVQ_SUPERBLOCK + 1) * KVQ_SUPERBLOCK) - i;
}

/* Superblock by superblock, and all heads of each before the next: their numbers lie side by side in the
 * caller's array, where one head's tokens may be a memory page apart. */
static void encode_heads(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                         kvq_role role, size_t begin, size_t end, const append_input *in, bool gathered)
{
    size_t n_heads = cache->config.n_kv_heads, scratch_floats = KVQ_SUPERBLOCK * cache->config.head_dim;
    bool large = (end - begin) * n_heads * cache->config.head_dim >= MIN_PARALLEL_ELEMENTS;
    int n_threads = large ? kvq_n_threads(in->n_threads, n_heads) : 1;
    float *scratch = gathered ? cache->scratch : NULL;
    float *more = n_threads > 1 && gathered ? malloc(n_heads * scratch_floats * sizeof *more) : NULL;
    if (n_threads == 1 ||
        (gathered && more == NULL)) { /* no pragma at all: see run_parallel in attention.c */
        for (size_t i = begin, n; i < end; i += n) {
            n = in_superblock(i, end);
            for (size_t head = 0; head < n_heads; head++)
                encode_head(cache, plan, layer, role, head, i, n, in, scratch);
        }
        return;
    }
#pragma omp parallel num_threads(n_threads)
    for (size_t i = begin, n; i < end; i += n) {
        n = in_superblock(i, end);
#pragma omp for schedule(static) nowait
        for (size_t head = 0; head < n_heads; head++)
            encode_head(cache, plan, layer, role, head, i, n, in,
                        gathered ? more + head * scratch_floats : NULL);
    }
    free(more);
}

/* Pack indices [layer->packed, target) of one side. */
static void pack_side(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, kvq_role role,
                      size_t target, const append_input *in)
{
    size_t begin = layer->packed[role], run = plan->side[role].tokens_per_run;
    /* From here on whole runs come from the caller's array; with a rounded residual every value must pass
     * through it. */
    bool rounded = plan->scheme.residual_dtype[role] != KVQ_F32;
    size_t direct = rounded ? target : (in->first + run - 1) / run * run;
    direct = kvq_max_size(begin, kvq_min_size(direct, target));
    encode_heads(cache, plan, layer, role, begin, direct, in, true);
    encode_heads(cache, plan, layer, role, direct, target, in, false);
}

/* ---- What stays in full precision ---- */

/* Write the newest tokens into the residual (already advanced to [packed, n)). */
static void fill_residual(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                          kvq_role role, const append_input *in)
{
    size_t begin = kvq_max_size(layer->packed[role], in->first);
    for (size_t i = begin; i < in->first + in->n; i++)
        for (size_t head = 0; head < cache->config.n_kv_heads; head++) {
            kvq_row_store(cache, plan->scheme.residual_dtype[role],
                          kvq_residual_row(cache, plan, layer, role, head, i), input_row(in, role, head, i));
            float *received = kvq_residual_received(cache, plan, layer, role, head, i);
            if (received != NULL)
                *received = input_received(in, head, i);
        }
}

static void fill_sinks(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                       kvq_role role, const kvq_arrivals *arrivals, size_t n)
{
    const kvq_strides *strides = &arrivals->strides;
    for (size_t i = 0; i < n; i++)
        for (size_t head = 0; head < cache->config.n_kv_heads; head++)
            kvq_row_store(cache, plan->scheme.residual_dtype[role],
                          kvq_sinks_row(cache, plan, layer, role, head, layer->n_tokens + i),
                          arrivals->x[role] + i * strides->token + head * strides->head);
}

/* ---- Reserve, pack, take ---- */

/* Indices that a layer of n_tokens tokens has packed; an import may have packed more than the scheme. */
static void find_target(const kvq_layer_plan *plan, const kvq_layer *layer, size_t n_tokens,
                        size_t target[KVQ_N_ROLES])
{
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++)
        target[role] =
            kvq_max_size(layer->packed[role], kvq_packed_target(plan, role, kvq_past_sinks(plan, n_tokens)));
}

static kvq_status reserve(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, size_t n_tokens)
{
    size_t target[KVQ_N_ROLES], n = kvq_past_sinks(plan, n_tokens);
    find_target(plan, layer, n_tokens, target);
    size_t most = kvq_max_size(target[KVQ_KEYS], target[KVQ_VALUES]);
    KVQ_TRY(kvq_sinks_ensure(cache, plan, layer));
    KVQ_TRY(kvq_pages_grow(cache, plan, layer, (most + KVQ_SUPERBLOCK - 1) / KVQ_SUPERBLOCK));
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++)
        KVQ_TRY(kvq_residual_reserve(cache, plan, layer, role,
                                     kvq_residual_need(&layer->residual[role], target[role], n)));
    return KVQ_OK;
}

kvq_status kvq_append_reserve(kvq_cache *cache, size_t layer_index, size_t sequence, size_t n_tokens)
{
    KVQ_TRY(kvq_sequence_ensure(cache, sequence));
    const kvq_layer_plan *plan = &cache->plan[layer_index];
    kvq_layer *layer = &cache->sequence[sequence][layer_index];
    size_t n_pages = layer->n_pages;
    kvq_status status = reserve(cache, plan, layer, layer->n_tokens + n_tokens);
    if (status != KVQ_OK)
        kvq_layer_release(cache, plan, layer, n_pages);
    return status;
}

static void pack(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer,
                 const size_t target[KVQ_N_ROLES], const append_input *in)
{
    size_t sealed = kvq_n_sealed(layer);
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        pack_side(cache, plan, layer, role, target[role], in);
        layer->packed[role] = target[role];
    }
    kvq_pages_seal(plan, layer, sealed);
}

void kvq_append_pack(kvq_cache *cache, size_t layer_index, size_t sequence, size_t n_tokens, int n_threads)
{
    const kvq_layer_plan *plan = &cache->plan[layer_index];
    kvq_layer *layer = &cache->sequence[sequence][layer_index];
    size_t target[KVQ_N_ROLES], n = kvq_past_sinks(plan, layer->n_tokens);
    find_target(plan, layer, n_tokens, target);
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) { /* of what is there, whole runs */
        size_t run = plan->side[role].tokens_per_run;
        target[role] = kvq_max_size(layer->packed[role], kvq_min_size(target[role], n / run * run));
    }
    pack(cache, plan, layer, target, &(append_input){.first = n, .n_threads = n_threads});
}

void kvq_append_take(kvq_cache *cache, size_t layer_index, size_t sequence, const kvq_arrivals *arrivals)
{
    const kvq_layer_plan *plan = &cache->plan[layer_index];
    kvq_layer *layer = &cache->sequence[sequence][layer_index];
    size_t n_tokens = layer->n_tokens + arrivals->n_tokens, target[KVQ_N_ROLES];
    size_t n_before = kvq_past_sinks(plan, layer->n_tokens), n = kvq_past_sinks(plan, n_tokens);
    size_t n_to_sinks = arrivals->n_tokens - (n - n_before);
    append_input in = {
        .strides = arrivals->strides,
        .n_sinks = n_to_sinks,
        .x = {arrivals->x[KVQ_KEYS], arrivals->x[KVQ_VALUES]},
        .received = arrivals->received,
        .received_stride = arrivals->received_stride,
        .first = n_before,
        .n = n - n_before,
        .n_threads = arrivals->n_threads,
    };
    find_target(plan, layer, n_tokens, target);
    pack(cache, plan, layer, target, &in);
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        fill_sinks(cache, plan, layer, role, arrivals, n_to_sinks);
        kvq_residual_advance(cache, plan, layer, role, target[role], n);
        fill_residual(cache, plan, layer, role, &in);
    }
    layer->n_tokens = n_tokens;
}

/* ---- The public calls ---- */

bool kvq_strides_read(const kvq_cache *cache, const kvq_strides *given, size_t n_tokens, kvq_strides *strides)
{
    size_t dim = cache->config.head_dim, most = PTRDIFF_MAX / sizeof(float);
    *strides = given != NULL ? *given : kvq_strides_dense(cache);
    if (n_tokens == 0)
        return true;
    size_t heads = cache->config.n_kv_heads - 1, tokens = n_tokens - 1; /* how often each stride is taken */
    if (heads == 0)
        strides->head = dim;
    if (tokens == 0)
        strides->token = kvq_strides_dense(cache).token;
    if ((heads > 0 && strides->head > most / heads) || (tokens > 0 && strides->token > most / tokens) ||
        heads * strides->head > most - dim || tokens * strides->token > most - dim - heads * strides->head)
        return false;
    if (strides->head < dim || strides->token < dim)
        return false;
    return heads == 0 || tokens == 0 || strides->token >= dim + heads * strides->head ||
           strides->head >= dim + tokens * strides->token;
}

/* Rows that lie side by side are looked at together. */
static bool all_finite(const kvq_cache *cache, const float *x, size_t n_tokens, const kvq_strides *strides)
{
    size_t dim = cache->config.head_dim, n_heads = cache->config.n_kv_heads;
    bool heads_touch = n_heads == 1 || strides->head == dim;
    size_t row = heads_touch ? n_heads * dim : dim;
    bool tokens_touch = n_tokens == 1 || strides->token == row;
    for (size_t head = 0; head < (heads_touch ? 1 : n_heads); head++)
        for (size_t t = 0; t < (tokens_touch ? 1 : n_tokens); t++)
            if (!cache->kernels->all_finite_f32(x + t * strides->token + head * strides->head,
                                                tokens_touch ? n_tokens * row : row))
                return false;
    return true;
}

kvq_status kvq_cache_append_strided(kvq_cache *cache, size_t layer, size_t sequence, const float *k,
                                    const float *v, size_t n_tokens, const kvq_strides *given)
{
    kvq_strides strides;
    if (cache == NULL || layer >= cache->config.n_layers || sequence >= cache->config.n_sequences)
        return KVQ_ERR_ARG;
    if (n_tokens == 0)
        return KVQ_OK;
    if (k == NULL || v == NULL)
        return KVQ_ERR_ARG;
    if (n_tokens > cache->config.max_tokens - kvq_cache_n_tokens(cache, layer, sequence))
        return KVQ_ERR_FULL;
    if (!kvq_strides_read(cache, given, n_tokens, &strides))
        return KVQ_ERR_ARG;
    if (!all_finite(cache, k, n_tokens, &strides) || !all_finite(cache, v, n_tokens, &strides))
        return KVQ_ERR_NONFINITE;
    KVQ_TRY(kvq_append_reserve(cache, layer, sequence, n_tokens));
    kvq_append_take(cache, layer, sequence,
                    &(kvq_arrivals){.x = {k, v}, .strides = strides, .n_tokens = n_tokens});
    return KVQ_OK;
}

kvq_status kvq_cache_append(kvq_cache *cache, size_t layer, size_t sequence, const float *k, const float *v,
                            size_t n_tokens)
{
    return kvq_cache_append_strided(cache, layer, sequence, k, v, n_tokens, NULL);
}
