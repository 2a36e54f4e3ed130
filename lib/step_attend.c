/*
 * Attention of a step, and what tokens that are not packed yet receive of it.
 *
 * That is a sum of probabilities, which attention has to write down for it. So the call goes through
 * attention in batches, whose probabilities stay in a cache between being written and being added up: some
 * sequences with all they have, or, of one that is too long for that, a few KV heads and some of its queries
 * at a time. They are added up query by query, so that batches leave no trace in the sums.
 *
 * Where many queries read them, or where they are not float32, a batch's own keys and values are first laid
 * out anew, float32 and head by head: in the caller's arrays a head's rows stand apart, often so that they
 * drive each other out of a cache, and every tile of queries reads them again.
 */
#include "lib/step.h"

#include <math.h>

enum {
    THREAD_FLOATS = 1 << 17,     /* of a batch for each thread: its second-level cache */
    MANY_ROWS = 64,              /* of queries, from which on laying out keys and values pays */
    MIN_THREAD_FLOATS = 1 << 17, /* to copy or to add up, below which threads cost more than they save */
};

/* What goes through attention together: KV heads [head, head + n_heads), and of each part queries
 * [from, from + n_q), or as far as there are so many. */
typedef struct batch {
    kvq_step *s;
    kvq_part *parts;
    size_t n_parts;
    size_t head, n_heads;
    size_t from, n_q;
    size_t n_pieces; /* into which the tokens watched are cut, for threads */
} batch;

static size_t heads_per_kv(const kvq_step *s)
{
    return s->cache->config.n_heads / s->cache->config.n_kv_heads;
}

static size_t queries_of(const batch *b, const kvq_part *p)
{
    return kvq_min_size(b->n_q, p->n_new - b->from);
}

/* ---- Sizes ---- */

static bool is_laid_out(const kvq_step *s, const kvq_part *p)
{
    return s->kv_dtype != KVQ_F32 || p->n_new * heads_per_kv(s) >= MANY_ROWS;
}

/* Per KV head: of the new tokens' keys and values, laid out; of the probabilities of one query. */
static size_t fresh_floats(const kvq_step *s, const kvq_part *p)
{
    return !is_laid_out(s, p) ? 0 : 2 * p->n_new * s->cache->config.head_dim;
}

static size_t query_floats(const kvq_step *s, const kvq_part *p)
{
    return s->probabilities != NULL ? 0 : heads_per_kv(s) * p->watched;
}

/* Of all a part has. */
static size_t part_floats(const kvq_step *s, const kvq_part *p)
{
    return s->cache->config.n_kv_heads * (fresh_floats(s, p) + p->n_new * query_floats(s, p));
}

/* How many floats sequences that share a batch may have, and the probabilities of one that does not. */
static size_t limit_of(const kvq_step *s)
{
    return (size_t)s->n_threads * THREAD_FLOATS;
}

/* Of a part that is too long to share a batch: how many KV heads go together, a head for each thread; and how
 * many queries, at least what fills a tile. */
static size_t heads_at_a_time(const kvq_step *s)
{
    return kvq_min_size(s->cache->config.n_kv_heads, (size_t)s->n_threads);
}

static size_t queries_at_a_time(const kvq_step *s, const kvq_part *p)
{
    size_t rows = kvq_rows_most(s->cache->config.head_dim), full = rows; /* queries that fill tiles */
    size_t per_query = heads_at_a_time(s) * query_floats(s, p);
    if (per_query == 0)
        return p->n_new;
    while (full % 2 == 0 && full / 2 * heads_per_kv(s) % rows == 0)
        full /= 2;
    size_t n = limit_of(s) / per_query;
    return n >= full ? n / full * full : (rows + heads_per_kv(s) - 1) / heads_per_kv(s);
}

size_t kvq_step_batch_floats(const kvq_step *s)
{
    size_t all = 0, largest = limit_of(s);
    for (size_t i = 0; i < s->n_parts; i++) {
        const kvq_part *p = &s->parts[i];
        size_t n_q = kvq_min_size(queries_at_a_time(s, p), p->n_new);
        size_t of_queries = query_floats(s, p) == 0
                                ? 0
                                : kvq_max_size(heads_at_a_time(s) * n_q * query_floats(s, p), limit_of(s));
        largest = kvq_max_size(largest, heads_at_a_time(s) * fresh_floats(s, p) + of_queries);
        all += part_floats(s, p);
    }
    return kvq_min_size(all, largest);
}

/* Threads to copy or add up so many floats. */
static int threads_for_floats(const kvq_step *s, size_t n_floats)
{
    size_t most = n_floats / MIN_THREAD_FLOATS;
    return most > 1 ? kvq_n_threads(s->cache, s->attention.n_threads, most) : 1;
}

/* ---- The call's own tokens ---- */

/* Where those of a batch begin in the caller's arrays. */
static const void *given(const batch *b, const kvq_part *p, kvq_role role)
{
    const kvq_config *config = &b->s->cache->config;
    return kvq_element(role == KVQ_KEYS ? b->s->k : b->s->v, b->s->kv_dtype,
                       (p->first_query * config->n_kv_heads + b->head) * config->head_dim);
}

/* Task i: those of one part, role and head. */
static void lay_out_head(void *arg, size_t i)
{
    const batch *b = arg;
    const kvq_step *s = b->s;
    const kvq_strides strides = kvq_strides_dense(s->cache);
    const size_t dim = s->cache->config.head_dim, head = i % b->n_heads;
    const kvq_part *p = &b->parts[i / b->n_heads / KVQ_N_ROLES];
    const kvq_role role = i / b->n_heads % KVQ_N_ROLES == 0 ? KVQ_KEYS : KVQ_VALUES;
    if (!is_laid_out(s, p))
        return;
    float *to = p->fresh[role] + head * p->n_new * dim;
    for (size_t t = 0; t < p->n_new; t++)
        kvq_row_load(s->cache, s->kv_dtype,
                     kvq_element(given(b, p, role), s->kv_dtype, t * strides.token + head * strides.head),
                     to + t * dim);
}

/* Returns what is behind them. */
static float *lay_out(batch *b, float *memory)
{
    const kvq_step *s = b->s;
    size_t n_floats = 0, n_tasks = b->n_parts * KVQ_N_ROLES * b->n_heads;
    for (size_t i = 0; i < b->n_parts; i++) {
        kvq_part *p = &b->parts[i];
        size_t n = b->n_heads * fresh_floats(s, p); /* 0: they stay where they are, or are none */
        p->fresh[KVQ_KEYS] = memory + n_floats;
        p->fresh[KVQ_VALUES] = memory + n_floats + n / 2;
        n_floats += n;
    }
    if (b->from == 0 && n_floats > 0)
        kvq_parallel_for(s->cache, threads_for_floats(s, n_floats), n_tasks, lay_out_head, b);
    return memory + n_floats;
}

/* ---- Attention received ---- */

/* Task i: of one part and head, a piece of the tokens watched. Queries that see nothing of it are left out,
 * and those that overflowed: all their probabilities are NaN. */
static void add_received_to_piece(void *arg, size_t i)
{
    const batch *b = arg;
    const kvq_step *s = b->s;
    const kvq_kernels *kernels = s->cache->kernels;
    const size_t of = i / b->n_pieces / b->n_heads, head = i / b->n_pieces % b->n_heads;
    const kvq_part *p = &b->parts[of];
    const kvq_span *span = &s->spans[of];
    const kvq_probabilities *from = &span->probabilities;
    const size_t first = kvq_view_n_tokens(&span->view) - p->watched; /* of the tokens watched */
    const size_t width = (p->watched + b->n_pieces - 1) / b->n_pieces;
    const size_t begin = first + kvq_min_size(i % b->n_pieces * width, p->watched);
    const size_t end = kvq_min_size(begin + width, first + p->watched);
    if (begin == end) /* there may be no probabilities at all */
        return;
    float *sum = p->received + (b->head + head) * p->watched;
    for (size_t row = 0; row < span->n_q * heads_per_kv(s); row++) {
        const size_t query = row / heads_per_kv(s), n_visible = span->n_before + query + 1;
        const float *x = from->p + query * from->per_query +
                         (head * heads_per_kv(s) + row % heads_per_kv(s)) * from->stride;
        const size_t t = kvq_max_size(begin, kvq_first_visible(s->attention.window, n_visible));
        const size_t t_end = kvq_min_size(end, n_visible);
        const float weight = 1.0f;
        if (t < t_end && !isnan(x[t - from->first]))
            kernels->accumulate_f32(x + (t - from->first), t_end - t, 1, (kvq_next){NULL, 0}, &weight, 1,
                                    t_end - t, sum + (t - first));
    }
}

static void add_received(batch *b)
{
    const kvq_step *s = b->s;
    size_t n_heads = b->n_parts * b->n_heads, n_floats = 0;
    for (size_t i = 0; i < b->n_parts; i++)
        n_floats += queries_of(b, &b->parts[i]) * b->n_heads * heads_per_kv(s) * b->parts[i].watched;
    int n_threads = threads_for_floats(s, n_floats);
    b->n_pieces = ((size_t)n_threads + n_heads - 1) / n_heads;
    kvq_parallel_for(s->cache, n_threads, n_heads * b->n_pieces, add_received_to_piece, b);
}

/* ---- Batches ---- */

/* What the queries of a part see. */
static kvq_view make_view(const batch *b, const kvq_part *p)
{
    const kvq_step *s = b->s;
    const size_t dim = s->cache->config.head_dim;
    const bool laid_out = is_laid_out(s, p);
    return (kvq_view){
        .cache = s->cache,
        .plan = s->plan,
        .layer = kvq_part_layer(s, p),
        .fresh = {laid_out ? p->fresh[KVQ_KEYS] : given(b, p, KVQ_KEYS),
                  laid_out ? p->fresh[KVQ_VALUES] : given(b, p, KVQ_VALUES)},
        .fresh_strides =
            laid_out ? (kvq_strides){.token = dim, .head = p->n_new * dim} : kvq_strides_dense(s->cache),
        .n_fresh = p->n_new,
        .first_head = b->head,
    };
}

/* The queries of a part. Their probabilities are the caller's, or lie in memory. */
static kvq_span make_span(const batch *b, const kvq_part *p, float *memory)
{
    const kvq_step *s = b->s;
    const kvq_layer *layer = kvq_part_layer(s, p);
    size_t n_heads = s->cache->config.n_heads, n_tokens = layer->n_tokens + p->n_new;
    kvq_span span = {
        .view = make_view(b, p),
        .n_q = queries_of(b, p),
        .n_before = layer->n_tokens + b->from,
        .first_query = p->first_query + b->from,
    };
    if (s->probabilities != NULL)
        span.probabilities = (kvq_probabilities){
            .p = s->probabilities + (span.first_query * n_heads + b->head * heads_per_kv(s)) * n_tokens,
            .stride = n_tokens,
            .per_query = n_heads * n_tokens};
    else if (p->watched > 0)
        span.probabilities = (kvq_probabilities){.p = memory,
                                                 .first = n_tokens - p->watched,
                                                 .stride = p->watched,
                                                 .per_query = b->n_heads * heads_per_kv(s) * p->watched};
    return span;
}

static void attend(batch b)
{
    kvq_step *s = b.s;
    bool watched = false;
    float *memory = lay_out(&b, s->batch);
    for (size_t i = 0; i < b.n_parts; i++) {
        const kvq_part *p = &b.parts[i];
        s->spans[i] = make_span(&b, p, memory);
        memory += queries_of(&b, p) * b.n_heads * query_floats(s, p);
        watched = watched || p->watched > 0;
    }
    kvq_attention_call call = s->attention;
    call.first_head = b.head;
    call.n_heads = b.n_heads;
    kvq_attention(&call, s->spans, b.n_parts);
    if (watched)
        add_received(&b);
}

/* How many parts from the first on share a batch; 0 if it alone is too much for one. */
static size_t n_sharing(const kvq_step *s, const kvq_part *parts, size_t n_parts)
{
    size_t n = 0;
    for (size_t floats = 0; n < n_parts; n++) {
        floats += part_floats(s, &parts[n]);
        if (floats > limit_of(s))
            break;
    }
    return n;
}

/* A part that is too long to share a batch. */
static void attend_alone(kvq_step *s, kvq_part *p)
{
    const size_t n_kv_heads = s->cache->config.n_kv_heads;
    batch b = {.s = s, .parts = p, .n_parts = 1, .n_q = queries_at_a_time(s, p)};
    for (; b.head < n_kv_heads; b.head += b.n_heads) {
        b.n_heads = kvq_min_size(heads_at_a_time(s), n_kv_heads - b.head);
        for (b.from = 0; b.from < p->n_new; b.from += b.n_q)
            attend(b);
    }
}

void kvq_step_attend(kvq_step *s)
{
    for (size_t i = 0, n; i < s->n_parts; i += n) {
        n = n_sharing(s, &s->parts[i], s->n_parts - i);
        if (n > 0) {
            attend((batch){.s = s,
                           .parts = &s->parts[i],
                           .n_parts = n,
                           .n_heads = s->cache->config.n_kv_heads,
                           .n_q = SIZE_MAX});
        } else {
            attend_alone(s, &s->parts[i]);
            n = 1;
        }
    }
}
