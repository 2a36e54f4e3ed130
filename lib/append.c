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
    const void *x[KVQ_N_ROLES]; /* of all the call's tokens */
    kvq_dtype dtype;
    kvq_strides strides;
    size_t n_sinks;        /* of them before those past the sinks */
    const float *received; /* [Hkv], received_stride apart; of the same tokens; NULL: none */
    size_t received_stride;
    size_t first, n;
    int n_threads;
} append_input;

enum {
    MIN_PARALLEL_ELEMENTS = 1 << 16, /* values, below which threads cost more than they save */
    PIECES_PER_THREAD = 4,           /* of work, so that they end together */
};

/* A row as it was given. */
static const void *input_row(const append_input *in, kvq_role role, size_t head, size_t index)
{
    size_t token = in->n_sinks + index - in->first;
    return kvq_element(in->x[role], in->dtype, token * in->strides.token + head * in->strides.head);
}

/* The same as the residual and the sinks store it. */
static void store_row(const kvq_cache *cache, const kvq_layer_plan *plan, kvq_role role, uint8_t *to,
                      kvq_dtype dtype, const void *row)
{
    float buffer[KVQ_DIM_MAX];
    kvq_row_store(cache, plan->scheme.residual_dtype[role], to, kvq_row_as_f32(cache, dtype, row, buffer));
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
                         kvq_residual_row(plan, layer, role, head, i), out);
        } else {
            store_row(cache, plan, role, row, in->dtype, input_row(in, role, head, i));
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

/* Encode n indices from i on of a head, which lie in one superblock: from the caller's array as it is, or,
 * with scratch [128][D], gathered from wherever they are. */
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

/* Indices [begin, end) of all heads, cut into pieces of whole superblocks and into parts of the heads. */
typedef struct encoding {
    const kvq_cache *cache;
    const kvq_layer_plan *plan;
    const kvq_layer *layer;
    kvq_role role;
    size_t begin, end, n_pieces, n_parts;
    const append_input *in;
    float *scratch;        /* NULL: encoded where they lie */
    size_t scratch_stride; /* from task to task */
} encoding;

static size_t n_superblocks(const encoding *e)
{
    return (e->end - 1) / KVQ_SUPERBLOCK - e->begin / KVQ_SUPERBLOCK + 1;
}

/* Where a piece begins, and the one before it ends. */
static size_t piece_begin(const encoding *e, size_t piece)
{
    size_t i = e->begin / KVQ_SUPERBLOCK + piece * n_superblocks(e) / e->n_pieces;
    return kvq_min_size(kvq_max_size(e->begin, i * KVQ_SUPERBLOCK), e->end);
}

/* A piece of a part, superblock by superblock and all heads of each before the next: their numbers lie side
 * by side in the caller's array, where one head's tokens may be a memory page apart. */
static void encode_task(void *arg, size_t task)
{
    const encoding *e = arg;
    const size_t piece = task % e->n_pieces, part = task / e->n_pieces, n_heads = e->cache->config.n_kv_heads,
                 end = piece_begin(e, piece + 1);
    float *scratch = e->scratch == NULL ? NULL : e->scratch + task * e->scratch_stride;
    for (size_t i = piece_begin(e, piece), n; i < end; i += n) {
        n = kvq_min_size(end, (i / KVQ_SUPERBLOCK + 1) * KVQ_SUPERBLOCK) - i;
        for (size_t head = n_heads * part / e->n_parts; head < n_heads * (part + 1) / e->n_parts; head++)
            encode_head(e->cache, e->plan, e->layer, e->role, head, i, n, e->in, scratch);
    }
}

static void encode_heads(encoding *e, bool gathered)
{
    if (e->begin == e->end)
        return;
    size_t n_heads = e->cache->config.n_kv_heads, scratch_floats = KVQ_SUPERBLOCK * e->cache->config.head_dim;
    bool large = (e->end - e->begin) * n_heads * e->cache->config.head_dim >= MIN_PARALLEL_ELEMENTS;
    int n_threads = large ? kvq_n_threads(e->cache, e->in->n_threads, n_heads * n_superblocks(e)) : 1;
    size_t wanted = n_threads > 1 ? (size_t)n_threads * PIECES_PER_THREAD : 1;
    e->n_pieces = kvq_min_size(n_superblocks(e), wanted);
    e->n_parts = kvq_min_size(n_heads, (wanted + e->n_pieces - 1) / e->n_pieces);
    size_t n_tasks = e->n_pieces * e->n_parts;
    float *more = n_threads > 1 && gathered ? malloc(n_tasks * scratch_floats * sizeof *more) : NULL;
    e->scratch = !gathered ? NULL : more != NULL ? more : e->cache->scratch;
    e->scratch_stride = more != NULL ? scratch_floats : 0;
    if (gathered && more == NULL)
        n_threads = 1;
    kvq_parallel_for(e->cache, n_threads, n_tasks, encode_task, e);
    free(more);
}

/* Pack indices [layer->packed, target) of one side. */
static void pack_side(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, kvq_role role,
                      size_t target, const append_input *in)
{
    size_t begin = layer->packed[role], run = plan->side[role].tokens_per_run;
    /* From here on whole runs come from the caller's array; with a rounded residual every value must pass
     * through it, and 16-bit numbers must become floats. */
    bool rounded = plan->scheme.residual_dtype[role] != KVQ_F32 || in->dtype != KVQ_F32;
    size_t direct = rounded ? target : (in->first + run - 1) / run * run;
    direct = kvq_max_size(begin, kvq_min_size(direct, target));
    encoding e = {
        .cache = cache, .plan = plan, .layer = layer, .role = role, .begin = begin, .end = direct, .in = in};
    encode_heads(&e, true);
    e.begin = direct;
    e.end = target;
    encode_heads(&e, false);
}

/* ---- What stays in full precision ---- */

/* Write the newest tokens into the residual (already advanced to [packed, n)). */
static void fill_residual(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                          kvq_role role, const append_input *in)
{
    size_t begin = kvq_max_size(layer->packed[role], in->first);
    for (size_t i = begin; i < in->first + in->n; i++)
        for (size_t head = 0; head < cache->config.n_kv_heads; head++) {
            store_row(cache, plan, role, kvq_residual_row(plan, layer, role, head, i), in->dtype,
                      input_row(in, role, head, i));
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
            store_row(
                cache, plan, role, kvq_sinks_row(plan, layer, role, head, layer->n_tokens + i),
                arrivals->dtype,
                kvq_element(arrivals->x[role], arrivals->dtype, i * strides->token + head * strides->head));
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
        .dtype = arrivals->dtype,
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
