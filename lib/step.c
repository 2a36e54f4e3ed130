/*
 * kvq_cache_step: new tokens of any number of sequences, attended to and stored in one call.
 *
 * For each sequence: what a layer with one more token would have packed is packed; the new queries attend to
 * what is stored and to the call's own tokens as they were given; they become evidence; then the new tokens
 * are stored, and what they complete is packed, with that evidence. All memory is taken first, so that
 * nothing can fail once something has changed.
 *
 * Evidence of attention received needs the probabilities of tokens that are not packed yet. Queries go
 * through attention in batches whose probabilities fit in BATCH_FLOATS; they are added up query by query, so
 * that batches leave no trace in the sums.
 */
#include "lib/internal.h"
#include "lib/sized.h"

#include <math.h>
#include <stdlib.h>

enum { BATCH_FLOATS = 1 << 20 }; /* they stay in a cache between being made and being added up */

/* What one sequence has in the call. */
typedef struct part {
    size_t sequence, n_new;
    size_t first_query; /* in the call's arrays */
    size_t watched;     /* newest tokens whose received attention is gathered */
    float *received;    /* [Hkv][watched] */
} part;

/* One call. */
typedef struct step {
    kvq_cache *cache;
    const kvq_layer_plan *plan;
    size_t layer, n_parts;
    const void *q, *k, *v;
    kvq_dtype kv_dtype;
    float *probabilities; /* the caller's, or NULL */
    kvq_attention_call attention;
    part *parts; /* [n_parts], as the next */
    kvq_span *spans;
    float *received; /* of all parts */
    float *batch;    /* probabilities of the queries in flight */
} step;

static kvq_layer *layer_of(const step *s, const part *p)
{
    return &s->cache->sequence[p->sequence][s->layer];
}

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

static kvq_status check_tokens(const step *s, size_t n_all)
{
    const kvq_config *config = &s->cache->config;
    bool finite = kvq_rows_are_valid(s->cache, s->attention.q_dtype, s->q, n_all * config->n_heads) &&
                  kvq_rows_are_valid(s->cache, s->kv_dtype, s->k, n_all * config->n_kv_heads) &&
                  kvq_rows_are_valid(s->cache, s->kv_dtype, s->v, n_all * config->n_kv_heads);
    return finite ? KVQ_OK : KVQ_ERR_NONFINITE;
}

/* Fill the parts; with probabilities, they must be alike. */
static kvq_status fill_parts(step *s, const size_t *sequences, const size_t *n_new)
{
    size_t n_all = 0, length = 0;
    for (size_t i = 0; i < s->n_parts; i++) {
        part p = {.sequence = sequences == NULL ? i : sequences[i],
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

/* Probabilities of one query. */
static size_t floats_of_query(const step *s, size_t watched)
{
    return s->cache->config.n_heads * watched;
}

/* How many queries of a sequence that is too long for one batch go into each: at least what fills a tile. */
static size_t queries_of_batch(const step *s, size_t watched)
{
    const kvq_config *config = &s->cache->config;
    size_t heads_per_kv = config->n_heads / config->n_kv_heads;
    size_t tile = (kvq_rows_most(config->head_dim) + heads_per_kv - 1) / heads_per_kv;
    return kvq_max_size(BATCH_FLOATS / kvq_max_size(floats_of_query(s, watched), 1), tile);
}

/* Room for what the call gathers. An upper limit: what is due may be packed first. */
static kvq_status take_scratch(step *s)
{
    size_t n_received = 0, n_all = 0, n_batch = BATCH_FLOATS;
    for (size_t i = 0; i < s->n_parts; i++) {
        const part *p = &s->parts[i];
        const kvq_layer *layer = kvq_layer_of(s->cache, s->layer, p->sequence);
        size_t watched = n_watched(s->plan, layer, (layer == NULL ? 0 : layer->n_tokens) + p->n_new);
        n_received += s->cache->config.n_kv_heads * watched;
        n_all += p->n_new * floats_of_query(s, watched);
        n_batch = kvq_max_size(n_batch, queries_of_batch(s, watched) * floats_of_query(s, watched));
    }
    n_batch = s->probabilities != NULL ? 1 : kvq_min_size(n_batch, n_all);
    s->received = malloc(kvq_max_size(n_received, 1) * sizeof *s->received);
    s->batch = malloc(kvq_max_size(n_batch, 1) * sizeof *s->batch);
    return s->received != NULL && s->batch != NULL ? KVQ_OK : KVQ_ERR_NOMEM;
}

static kvq_status reserve_one(const step *s, const part *p)
{
    KVQ_TRY(kvq_sequence_ensure(s->cache, p->sequence));
    kvq_layer *layer = layer_of(s, p);
    if (layer->changing) /* given twice */
        return KVQ_ERR_ARG;
    KVQ_TRY(kvq_append_reserve(s->cache, s->layer, p->sequence, p->n_new));
    layer->changing = true;
    return kvq_evidence_ensure(s->cache, s->plan, layer);
}

/* All memory of all sequences, or none of it. */
static kvq_status reserve_all(const step *s)
{
    kvq_status status = KVQ_OK;
    for (size_t i = 0; i < s->n_parts && status == KVQ_OK; i++)
        status = reserve_one(s, &s->parts[i]);
    for (size_t i = 0; i < s->n_parts; i++) {
        const part *p = &s->parts[i];
        if (kvq_layer_of(s->cache, s->layer, p->sequence) == NULL || !layer_of(s, p)->changing)
            continue;
        kvq_layer *layer = layer_of(s, p);
        size_t packed = kvq_max_size(layer->packed[KVQ_KEYS], layer->packed[KVQ_VALUES]);
        layer->changing = false;
        if (status != KVQ_OK)
            kvq_layer_release(s->cache, s->plan, layer, (packed + KVQ_SUPERBLOCK - 1) / KVQ_SUPERBLOCK);
    }
    return status;
}

/* ---- Attention received ---- */

/* Copy what watched tokens of the residual have received to p->received, or back. Both sides know the same,
 * unless a truncation has brought a token back on one of them: then the other still does. */
static void exchange_received(const step *s, const part *p, bool back)
{
    const kvq_layer *layer = layer_of(s, p);
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

/* Probabilities of n_q queries of a part: [n_q][H] rows, stride apart, of the tokens watched. */
typedef struct shares {
    const step *s;
    const part *of;
    const float *p;
    size_t stride, n_q;
} shares;

/* Add them up for one KV head, query by query and head by head. Rows with NaN, of queries that overflowed,
 * count for nothing. */
static void add_received_of_head(void *arg, size_t kv_head)
{
    const shares *x = arg;
    const kvq_cache *cache = x->s->cache;
    size_t n_heads = cache->config.n_heads, heads_per_kv = n_heads / cache->config.n_kv_heads;
    float *sum = x->of->received + kv_head * x->of->watched;
    for (size_t i = 0; i < x->n_q * heads_per_kv; i++) {
        const float *row =
            x->p + (i / heads_per_kv * n_heads + kv_head * heads_per_kv + i % heads_per_kv) * x->stride;
        const float weight = 1.0f;
        if (cache->kernels->all_finite_f32(row, x->of->watched))
            cache->kernels->accumulate_f32(row, x->of->watched, 1, (kvq_next){NULL, 0}, &weight, 1,
                                           x->of->watched, sum);
    }
}

static void add_received(shares x)
{
    enum { MIN_PARALLEL = 1 << 18 }; /* additions, below which threads cost more than they save */
    const kvq_cache *cache = x.s->cache;
    size_t n_kv_heads = cache->config.n_kv_heads;
    bool large = x.n_q * cache->config.n_heads * x.of->watched >= MIN_PARALLEL;
    int n_threads = large ? kvq_n_threads(cache, x.s->attention.n_threads, n_kv_heads) : 1;
    kvq_parallel_for(cache, n_threads, n_kv_heads, add_received_of_head, &x);
}

/* ---- Attention ---- */

/* Queries [from, from + n) of a part; their probabilities are the caller's or lie in `batch`. */
static kvq_span make_span(const step *s, const part *p, size_t from, size_t n, float *batch)
{
    const kvq_config *config = &s->cache->config;
    const kvq_layer *layer = layer_of(s, p);
    size_t fresh = p->first_query * config->n_kv_heads * config->head_dim;
    size_t n_tokens = layer->n_tokens + p->n_new;
    kvq_span span = {
        .view = {.cache = s->cache,
                 .plan = s->plan,
                 .layer = layer,
                 .fresh = {kvq_element(s->k, s->kv_dtype, fresh), kvq_element(s->v, s->kv_dtype, fresh)},
                 .fresh_dtype = s->kv_dtype,
                 .n_fresh = p->n_new},
        .n_q = n,
        .n_before = layer->n_tokens + from,
        .first_query = p->first_query + from,
    };
    if (s->probabilities != NULL)
        span.probabilities = (kvq_probabilities){
            .p = s->probabilities + span.first_query * config->n_heads * n_tokens, .stride = n_tokens};
    else if (p->watched > 0)
        span.probabilities =
            (kvq_probabilities){.p = batch, .first = n_tokens - p->watched, .stride = p->watched};
    return span;
}

/* Attend with queries [from, from + n) of n_parts parts (n: SIZE_MAX for all of each). */
static void attend_parts(const step *s, const part *parts, size_t n_parts, size_t from, size_t n)
{
    float *batch = s->batch;
    for (size_t i = 0; i < n_parts; i++) {
        size_t n_q = kvq_min_size(n, parts[i].n_new - from);
        s->spans[i] = make_span(s, &parts[i], from, n_q, batch);
        batch += n_q * s->cache->config.n_heads * parts[i].watched;
        if (s->probabilities != NULL)
            batch = s->batch;
    }
    kvq_attention(&s->attention, s->spans, n_parts);
    for (size_t i = 0; i < n_parts; i++) {
        const kvq_probabilities *w = &s->spans[i].probabilities;
        if (parts[i].watched > 0)
            add_received((shares){.s = s,
                                  .of = &parts[i],
                                  .p = w->p + w->stride - parts[i].watched,
                                  .stride = w->stride,
                                  .n_q = s->spans[i].n_q});
    }
}

/* Sequences together as far as a batch holds all their queries, because threads share out what a call of
 * attention has; otherwise one after the other. */
static void attend_all(const step *s)
{
    if (s->probabilities != NULL) {
        attend_parts(s, s->parts, s->n_parts, 0, SIZE_MAX);
        return;
    }
    for (size_t i = 0, n; i < s->n_parts; i += n) {
        const part *p = &s->parts[i];
        size_t floats = 0;
        for (n = 0; i + n < s->n_parts; n++) {
            floats += p[n].n_new * floats_of_query(s, p[n].watched);
            if (floats > BATCH_FLOATS)
                break;
        }
        if (n > 0) {
            attend_parts(s, p, n, 0, SIZE_MAX);
            continue;
        }
        size_t most = queries_of_batch(s, p->watched);
        for (size_t from = 0; from < p->n_new; from += most)
            attend_parts(s, p, 1, from, most);
        n = 1;
    }
}

/* ---- The call: nothing fails from here on ---- */

static void begin(const step *s)
{
    float *received = s->received;
    for (size_t i = 0; i < s->n_parts; i++) {
        part *p = &s->parts[i];
        kvq_layer *layer = layer_of(s, p);
        if (p->n_new > 0)
            kvq_append_pack(s->cache, s->layer, p->sequence, layer->n_tokens + 1, s->attention.n_threads);
        p->watched = n_watched(s->plan, layer, layer->n_tokens + p->n_new);
        p->received = received;
        received += s->cache->config.n_kv_heads * p->watched;
        memset(p->received, 0, s->cache->config.n_kv_heads * p->watched * sizeof *received);
        exchange_received(s, p, false);
    }
}

static void finish(const step *s)
{
    size_t q_elements = s->cache->config.n_heads * s->cache->config.head_dim;
    for (size_t i = 0; i < s->n_parts; i++) {
        const part *p = &s->parts[i];
        kvq_layer *layer = layer_of(s, p);
        size_t first = kvq_past_sinks(s->plan, layer->n_tokens + p->n_new) - p->watched;
        size_t n = kvq_past_sinks(s->plan, layer->n_tokens);
        exchange_received(s, p, true);
        kvq_evidence_add_queries(s->cache, s->plan, layer, s->attention.q_dtype,
                                 kvq_element(s->q, s->attention.q_dtype, p->first_query * q_elements),
                                 p->n_new);
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

static kvq_status run(step *s, const size_t *sequences, const size_t *n_new)
{
    KVQ_TRY(fill_parts(s, sequences, n_new));
    KVQ_TRY(take_scratch(s));
    KVQ_TRY(reserve_all(s));
    begin(s);
    attend_all(s);
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
    step s = {
        .cache = cache,
        .plan = &cache->plan[layer],
        .layer = layer,
        .n_parts = n_sequences,
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
        .parts = calloc(n_sequences, sizeof(part)),
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
