/*
 * kvq_cache_step: new tokens of any number of sequences, attended to and stored in one call.
 *
 * For each sequence: what a layer with one more token would have packed is packed; the new queries attend to
 * what is stored and to the call's own tokens as they were given; they become evidence; then the new tokens
 * are stored, and what they complete is packed, with that evidence. All memory is taken first, so that
 * nothing can fail once something has changed.
 */
#include "lib/step.h"
#include "lib/sized.h"

#include <math.h>
#include <stdlib.h>

/* ---- Tokens that are watched: those that a side that asks for evidence has not packed ---- */

/* The side that has the most of them in its residual. */
static kvq_role watching_role(const kvq_layer_plan *plan, const kvq_layer *layer)
{
    bool k = (plan->side[KVQ_KEYS].evidence & KVQ_EVIDENCE_RECEIVED) != 0;
    bool v = (plan->side[KVQ_VALUES].evidence & KVQ_EVIDENCE_RECEIVED) != 0;
    return k && (!v || layer->packed[KVQ_KEYS] <= layer->packed[KVQ_VALUES]) ? KVQ_KEYS : KVQ_VALUES;
}

/* How many of the newest of n_tokens tokens; layer may be NULL. */
static size_t n_watched(const kvq_layer_plan *plan, const kvq_layer *layer, size_t n_tokens)
{
    size_t packed = layer == NULL ? 0 : layer->packed[watching_role(plan, layer)];
    size_t n = kvq_past_sinks(plan, n_tokens);
    return (plan->evidence & KVQ_EVIDENCE_RECEIVED) != 0 && n > packed ? n - packed : 0;
}

/* ---- Checks and memory, before anything changes ---- */

static kvq_status check_tokens(const kvq_step *s, size_t n_all)
{
    const kvq_config *config = &s->cache->config;
    bool finite = kvq_rows_are_valid(s->cache, s->attention.q_dtype, s->q, n_all * config->n_heads) &&
                  kvq_rows_are_valid(s->cache, s->kv_dtype, s->k, n_all * config->n_kv_heads) &&
                  kvq_rows_are_valid(s->cache, s->kv_dtype, s->v, n_all * config->n_kv_heads);
    return finite ? KVQ_OK : KVQ_ERR_NONFINITE;
}

/* Fill the parts; with probabilities, they must be alike. */
static kvq_status fill_parts(kvq_step *s, const size_t *sequences, const size_t *n_new)
{
    size_t n_all = 0, length = 0;
    for (size_t i = 0; i < s->n_parts; i++) {
        kvq_part p = {.sequence = sequences == NULL ? i : sequences[i],
                      .n_new = n_new == NULL ? 1 : n_new[i],
                      .first_query = n_all};
        if (p.sequence >= s->cache->config.n_sequences)
            return KVQ_ERR_ARG;
        size_t held = kvq_cache_n_tokens(s->cache, s->layer, p.sequence);
        if (p.n_new > s->cache->config.max_tokens - held)
            return KVQ_ERR_FULL;
        if (s->probabilities != NULL && i > 0 && (held + p.n_new != length || p.n_new != s->parts[0].n_new))
            return KVQ_ERR_ARG;
        length = held + p.n_new;
        n_all += p.n_new;
        s->parts[i] = p;
    }
    return check_tokens(s, n_all);
}

/* Room for what the call gathers. An upper limit: what is due may be packed first. */
static kvq_status take_scratch(kvq_step *s)
{
    size_t n_received = 0;
    for (size_t i = 0; i < s->n_parts; i++) {
        kvq_part *p = &s->parts[i];
        const kvq_layer *layer = kvq_layer_of(s->cache, s->layer, p->sequence);
        p->watched = n_watched(s->plan, layer, (layer == NULL ? 0 : layer->n_tokens) + p->n_new);
        n_received += s->cache->config.n_kv_heads * p->watched;
    }
    s->received = malloc(kvq_max_size(n_received, 1) * sizeof *s->received);
    s->batch = malloc(kvq_max_size(kvq_step_batch_floats(s), 1) * sizeof *s->batch);
    return s->received != NULL && s->batch != NULL ? KVQ_OK : KVQ_ERR_NOMEM;
}

static kvq_status reserve_one(const kvq_step *s, const kvq_part *p)
{
    KVQ_TRY(kvq_sequence_ensure(s->cache, p->sequence));
    kvq_layer *layer = kvq_part_layer(s, p);
    if (layer->changing) /* given twice */
        return KVQ_ERR_ARG;
    KVQ_TRY(kvq_append_reserve(s->cache, s->layer, p->sequence, p->n_new));
    layer->changing = true;
    return kvq_evidence_ensure(s->cache, s->plan, layer);
}

/* All memory of all sequences, or none of it. */
static kvq_status reserve_all(const kvq_step *s)
{
    kvq_status status = KVQ_OK;
    for (size_t i = 0; i < s->n_parts && status == KVQ_OK; i++)
        status = reserve_one(s, &s->parts[i]);
    for (size_t i = 0; i < s->n_parts; i++) {
        const kvq_part *p = &s->parts[i];
        if (kvq_layer_of(s->cache, s->layer, p->sequence) == NULL || !kvq_part_layer(s, p)->changing)
            continue;
        kvq_layer *layer = kvq_part_layer(s, p);
        size_t packed = kvq_max_size(layer->packed[KVQ_KEYS], layer->packed[KVQ_VALUES]);
        layer->changing = false;
        if (status != KVQ_OK)
            kvq_layer_release(s->cache, s->plan, layer, (packed + KVQ_SUPERBLOCK - 1) / KVQ_SUPERBLOCK);
    }
    return status;
}

/* Copy what watched tokens of the residual have received to p->received, or back. Both sides know the same,
 * unless a truncation has brought a token back on one of them: then the other still does. */
static void exchange_received(const kvq_step *s, const kvq_part *p, bool back)
{
    const kvq_layer *layer = kvq_part_layer(s, p);
    size_t n = kvq_past_sinks(s->plan, layer->n_tokens);
    size_t first = kvq_past_sinks(s->plan, layer->n_tokens + p->n_new) - p->watched;
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        if ((s->plan->side[role].evidence & KVQ_EVIDENCE_RECEIVED) == 0)
            continue;
        for (size_t head = 0; head < s->cache->config.n_kv_heads; head++)
            for (size_t i = kvq_max_size(first, layer->packed[role]), end; i < n; i = end) {
                end = kvq_min_size(n, (i / KVQ_BLOCK + 1) * KVQ_BLOCK); /* a block's lie side by side */
                float *stored = kvq_residual_received(s->cache, s->plan, layer, role, head, i);
                float *here = &p->received[head * p->watched + i - first];
                if (back)
                    memcpy(stored, here, (end - i) * sizeof *here);
                for (size_t j = 0; j < end - i && !back; j++)
                    here[j] = stored[j] > here[j] ? stored[j] : here[j];
            }
    }
}

/* ---- The call: nothing fails from here on ---- */

static void begin(const kvq_step *s)
{
    float *received = s->received;
    for (size_t i = 0; i < s->n_parts; i++) {
        kvq_part *p = &s->parts[i];
        kvq_layer *layer = kvq_part_layer(s, p);
        if (p->n_new > 0)
            kvq_append_pack(s->cache, s->layer, p->sequence, layer->n_tokens + 1, s->attention.n_threads);
        p->watched = n_watched(s->plan, layer, layer->n_tokens + p->n_new);
        p->received = received;
        received += s->cache->config.n_kv_heads * p->watched;
        memset(p->received, 0, s->cache->config.n_kv_heads * p->watched * sizeof *received);
        exchange_received(s, p, false);
    }
}

static void finish(const kvq_step *s)
{
    size_t q_elements = s->cache->config.n_heads * s->cache->config.head_dim;
    for (size_t i = 0; i < s->n_parts; i++) {
        const kvq_part *p = &s->parts[i];
        kvq_layer *layer = kvq_part_layer(s, p);
        size_t first = kvq_past_sinks(s->plan, layer->n_tokens + p->n_new) - p->watched;
        size_t n = kvq_past_sinks(s->plan, layer->n_tokens);
        exchange_received(s, p, true);
        kvq_evidence_add_queries(s->cache, s->plan, layer, s->attention.q_dtype,
                                 kvq_element(s->q, s->attention.q_dtype, p->first_query * q_elements),
                                 p->n_new, s->attention.n_threads);
        kvq_arrivals arrivals = {.dtype = s->kv_dtype,
                                 .strides = kvq_strides_dense(s->cache),
                                 .n_tokens = p->n_new,
                                 .received_stride = p->watched,
                                 .n_threads = s->attention.n_threads};
        size_t fresh = p->first_query * s->cache->config.n_kv_heads * s->cache->config.head_dim;
        arrivals.x[KVQ_KEYS] = kvq_element(s->k, s->kv_dtype, fresh);
        arrivals.x[KVQ_VALUES] = kvq_element(s->v, s->kv_dtype, fresh);
        if (p->watched > 0)
            arrivals.received = p->received + n - first;
        kvq_append_take(s->cache, s->layer, p->sequence, &arrivals);
    }
}

static kvq_status run(kvq_step *s, const size_t *sequences, const size_t *n_new)
{
    KVQ_TRY(fill_parts(s, sequences, n_new));
    KVQ_TRY(take_scratch(s));
    KVQ_TRY(reserve_all(s));
    begin(s);
    kvq_step_attend(s);
    finish(s);
    return KVQ_OK;
}

kvq_status kvq_cache_step(kvq_cache *cache, size_t layer, const size_t *sequences, size_t n_sequences,
                          const size_t *n_new, const void *q, const void *k, const void *v, float scale,
                          const kvq_attend_options *given, void *out)
{
    kvq_attend_options options;
    kvq_attend_counters counters;
    KVQ_TRY(kvq_attend_options_read(given, &options, &counters));
    if (cache == NULL || q == NULL || k == NULL || v == NULL || out == NULL ||
        layer >= cache->config.n_layers || n_sequences > cache->config.n_sequences || !isfinite(scale))
        return KVQ_ERR_ARG;
    if (n_sequences == 0)
        return KVQ_OK;
    kvq_step s = {
        .cache = cache,
        .plan = &cache->plan[layer],
        .layer = layer,
        .n_parts = n_sequences,
        .n_threads = kvq_n_threads(cache, options.n_threads, SIZE_MAX),
        .q = q,
        .k = k,
        .v = v,
        .kv_dtype = options.kv_dtype,
        .probabilities = options.probabilities,
        .attention = {.cache = cache,
                      .plan = &cache->plan[layer],
                      .q = q,
                      .q_dtype = options.q_dtype,
                      .out_dtype = options.out_dtype,
                      .scale = scale,
                      .window = options.window,
                      .fast = options.precision == KVQ_PRECISION_FAST && options.bound == NULL,
                      .n_threads = options.n_threads,
                      .out = out,
                      .bound = options.bound,
                      .counters = &counters},
        .parts = calloc(n_sequences, sizeof(kvq_part)),
        .spans = malloc(n_sequences * sizeof(kvq_span)),
    };
    kvq_status status = s.parts == NULL || s.spans == NULL ? KVQ_ERR_NOMEM : run(&s, sequences, n_new);
    free(s.parts);
    free(s.spans);
    free(s.received);
    free(s.batch);
    if (status == KVQ_OK)
        kvq_attend_counters_write(&options, &counters);
    return status;
}
