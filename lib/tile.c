/*
 * One tile of rows on its way through the tokens: chunk by chunk, scores, weights, sums; then its answer.
 */
#include "lib/tile.h"

#include <math.h>

/* Relative L2, estimated; a third of what is promised, because single rows may have bad luck. */
static const float MAX_ERROR = 0x1.5p-12f;

static const float SLACK = 8.0f; /* leaps in which ref follows the largest score, in powers of 2 */

/* ---- What will be read next, for prefetching: no result tells whether it is right ---- */

/* What is read of a role after the tokens before `token`: the next stretch of this KV head, or behind the
 * last one the first of the next head. */
static kvq_next what_follows(const kvq_tile *t, kvq_role role, size_t token)
{
    const size_t n_tokens = kvq_min_size(t->at.n_tokens, t->view->layer->n_tokens);
    size_t head = t->kv_head;
    if (token >= n_tokens) {
        head++;
        token = t->at.first_token;
    }
    if (head >= t->a->call->first_head + t->a->call->n_heads || token >= n_tokens)
        return (kvq_next){NULL, 0}; /* nothing that is stored */
    /* No more than a chunk. */
    size_t n = kvq_min_size(n_tokens - token, KVQ_SUPERBLOCK);
    kvq_stretch s = kvq_find_stretch(t->view, role, head, token, n);
    if (s.superblock != NULL)
        return (kvq_next){s.superblock, t->a->side[role]->bytes};
    return (kvq_next){s.rows, s.n * s.stride};
}

/* ---- Plain rows: of the residual, the sinks, or the call's own tokens ---- */

static void score_rows(const kvq_tile *t, const kvq_stretch *s, kvq_next next, float *scores)
{
    const kvq_kernels *k = t->a->call->cache->kernels;
    if (s->dtype == KVQ_F32)
        k->dot_f32((const float *)(const void *)s->rows, s->stride / sizeof(float), s->n, next, t->q,
                   t->n_rows, t->dim, scores);
    else if (s->dtype == KVQ_F16)
        k->dot_f16((const uint16_t *)(const void *)s->rows, s->stride / sizeof(uint16_t), s->n, next, t->q,
                   t->n_rows, t->dim, scores);
    else
        k->dot_i8(s->rows, s->stride, s->n, next, t->q, t->n_rows, t->dim, scores);
}

static void accumulate_rows(kvq_tile *t, const kvq_stretch *s, kvq_next next, const float *p)
{
    const kvq_kernels *k = t->a->call->cache->kernels;
    if (s->dtype == KVQ_F32)
        k->accumulate_f32((const float *)(const void *)s->rows, s->stride / sizeof(float), s->n, next, p,
                          t->n_rows, t->dim, t->now.acc);
    else if (s->dtype == KVQ_F16)
        k->accumulate_f16((const uint16_t *)(const void *)s->rows, s->stride / sizeof(uint16_t), s->n, next,
                          p, t->n_rows, t->dim, t->now.acc);
    else
        k->accumulate_i8(s->rows, s->stride, s->n, next, p, t->n_rows, t->dim, t->now.acc);
}

/* ---- One chunk: tokens [begin, begin + n), either sinks, or of one superblock ---- */

typedef struct chunk {
    bool sinks;
    size_t begin, n;
} chunk;

/* How many tokens at a chunk's beginning are packed; 0 also if no row may see any of them. */
static size_t n_packed_in(const kvq_tile *t, const chunk *c, kvq_role role)
{
    size_t end = t->view->plan->scheme.sinks + t->view->layer->packed[role];
    return c->sinks || end <= kvq_max_size(c->begin, t->at.first_token) ? 0
                                                                        : kvq_min_size(c->n, end - c->begin);
}

/* The first of the others that a row may see. */
static size_t first_plain_in(const kvq_tile *t, const chunk *c, size_t n_packed)
{
    return kvq_max_size(c->begin + n_packed, t->at.first_token) - c->begin;
}

/* Do packed values tell what errors of a chunk's scores amount to? They must be there, and a window that
 * begins here must not leave keys without them. That is asked of the newest window, so that the answer does
 * not depend on the queries that share a tile. */
static bool can_estimate(const kvq_tile *t, const chunk *c, size_t packed_keys, size_t packed_values)
{
    size_t newest = kvq_first_visible(t->a->call->window, kvq_view_n_tokens(t->view));
    return packed_values > 0 && (packed_values >= packed_keys || newest <= c->begin);
}

static kvq_tokens packed_tokens(const kvq_tile *t, const chunk *c, kvq_role role, size_t n)
{
    const kvq_layer *layer = t->view->layer;
    size_t page = (c->begin - t->view->plan->scheme.sinks) / KVQ_SUPERBLOCK;
    return (kvq_tokens){
        .superblock = kvq_superblock(t->view->plan, &layer->page[page], role, t->kv_head),
        .next = what_follows(t, role, c->begin + n),
        .n = n,
        .sums = t->sums,
    };
}

static void score_chunk(kvq_tile *t, const chunk *c)
{
    const kvq_side *side = t->a->side[KVQ_KEYS];
    size_t packed = n_packed_in(t, c, KVQ_KEYS);
    memset(t->score_rms_error, 0, sizeof t->score_rms_error);
    if (packed > 0) {
        kvq_tokens tokens = packed_tokens(t, c, KVQ_KEYS, packed);
        size_t packed_values = n_packed_in(t, c, KVQ_VALUES);
        if (tokens.sums == KVQ_SUMS_FAST && !can_estimate(t, c, packed, packed_values))
            tokens.sums = KVQ_SUMS_WIDE;
        kvq_score_counts counts = {0};
        kvq_side_score(t->a->call->cache->kernels, side, &tokens,
                       side->codec->prepare != NULL ? t->q_packed : t->q, t->n_rows, t->scores,
                       t->score_rms_error, &counts);
        if (t->a->folds) { /* otherwise process_chunk has counted it */
            t->counters.superblocks_wide += counts.wide;
            t->counters.superblocks_exact += counts.float32;
        }
        for (size_t row = 0; row < t->n_rows && packed_values < packed && packed_values > 0; row++)
            t->score_rms_error[row] *=
                sqrtf((float)packed / (float)packed_values); /* taken for as large as the others */
    }
    for (size_t i = first_plain_in(t, c, packed); i < c->n;) {
        kvq_stretch s = kvq_find_stretch(t->view, KVQ_KEYS, t->kv_head, c->begin + i, c->n - i);
        score_rows(t, &s, what_follows(t, KVQ_KEYS, c->begin + i + s.n), t->scores + i);
        i += s.n;
    }
}

static void accumulate_chunk(kvq_tile *t, const chunk *c)
{
    const kvq_side *side = t->a->side[KVQ_VALUES];
    size_t packed = n_packed_in(t, c, KVQ_VALUES);
    if (packed > 0) {
        kvq_tokens tokens = packed_tokens(t, c, KVQ_VALUES, packed);
        const kvq_sum_rows rows = {.plain = t->now.acc, .packed = t->now.packed, .error = t->now.error};
        kvq_side_accumulate(t->a->call->cache->kernels, side, &tokens, t->scores, t->n_rows,
                            t->score_rms_error, &rows);
    }
    for (size_t i = first_plain_in(t, c, packed); i < c->n;) {
        kvq_stretch s = kvq_find_stretch(t->view, KVQ_VALUES, t->kv_head, c->begin + i, c->n - i);
        accumulate_rows(t, &s, what_follows(t, KVQ_VALUES, c->begin + i + s.n), t->scores + i);
        i += s.n;
    }
}

/* How many of n tokens from `first` on are below a limit. */
static size_t n_below(size_t limit, size_t first, size_t n)
{
    return limit > first ? kvq_min_size(n, limit - first) : 0;
}

/* Scores of tokens [token, token + n) go where the row's probabilities will lie: finish_row has the final
 * ref. */
static void keep_scores(const kvq_tile *t, size_t row, size_t token, size_t n, const float *scores)
{
    const kvq_probabilities *to = &t->probabilities;
    size_t from = kvq_max_size(token, to->first);
    if (from < token + n)
        memcpy(to->p + t->probabilities_at[row] + from - to->first, scores + from - token,
               (token + n - from) * sizeof *scores);
}

/* Turn a row's scores into weights relative to its ref. That follows the maximum only in leaps, because what
 * was added up so far must follow, and float does not mind weights of up to 2^SLACK. */
static void weigh_row(kvq_tile *t, size_t row, size_t token, size_t n)
{
    const kvq_kernels *kernels = t->a->call->cache->kernels;
    float *scores = t->scores + row * KVQ_SUPERBLOCK;
    size_t begin = n_below(t->first_visible[row], token, n), end = n_below(t->n_visible[row], token, n);
    for (size_t i = 0; i < begin; i++)
        scores[i] = 0.0f; /* as weights: what the row may not see */
    for (size_t i = end; i < n; i++)
        scores[i] = 0.0f;
    if (begin == end)
        return;
    scores += begin;
    token += begin;
    n = end - begin;
    float max = kernels->max_f32(scores, n);
    if (isnan(max)) { /* kernels differ in what they make of Inf and NaN */
        t->now.overflowed[row] = 1.0f;
        memset(scores, 0, n * sizeof *scores);
        max = 0.0f;
    }
    if (t->probabilities.p != NULL)
        keep_scores(t, row, token, n, scores);
    if (max > t->now.ref[row] + SLACK)
        kvq_sums_raise(t->a, &t->now, row, max);
    t->now.sum[row] += kernels->exp2_sum_f32(scores, n, t->now.ref[row]);
}

/*
 * Rows that are not packed follow the pages. In short sequences they are more than half of all that is read,
 * and a single row of the tile passes over them faster than they come when what_follows asks for them, a
 * block before. So the last pages ask for some more of them. (Several rows, that is queries of a group, take
 * so much longer over each that nothing is gained. Always inlined: gcc 12 drops calls of what only
 * prefetches.)
 */
static inline __attribute__((always_inline)) void ask_for_rows(const kvq_tile *t, const chunk *c,
                                                               kvq_role role)
{
    const kvq_layer_plan *plan = t->view->plan;
    const size_t sinks = plan->scheme.sinks, packed = t->view->layer->packed[role];
    if (t->n_rows > 1 || n_packed_in(t, c, role) == 0 || t->view->layer->n_tokens <= sinks + packed)
        return;
    const size_t first_page = kvq_past_sinks(plan, t->at.first_token) / KVQ_SUPERBLOCK;
    const size_t n_pages = (packed + KVQ_SUPERBLOCK - 1) / KVQ_SUPERBLOCK - first_page;
    size_t at, end;
    kvq_rows_ahead(t->view->layer->n_tokens - sinks - packed, plan->row_bytes[role], n_pages,
                   (c->begin - sinks) / KVQ_SUPERBLOCK - first_page, &at, &end);
    while (at < end) {
        kvq_stretch s = kvq_find_stretch(t->view, role, t->kv_head, sinks + packed + at, end - at);
        kvq_prefetch_all((kvq_next){s.rows, s.n * s.stride});
        at += s.n;
    }
}

static void process_chunk(kvq_tile *t, const chunk *c)
{
    if (n_packed_in(t, c, KVQ_KEYS) > 0 || n_packed_in(t, c, KVQ_VALUES) > 0) {
        t->counters.superblocks += t->n_rows;
        t->counters.superblocks_exact += t->a->folds ? 0 : t->n_rows;
    }
    ask_for_rows(t, c, KVQ_KEYS);
    score_chunk(t, c);
    ask_for_rows(t, c, KVQ_VALUES);
    for (size_t row = 0; row < t->n_rows; row++)
        weigh_row(t, row, c->begin, c->n);
    accumulate_chunk(t, c);
}

/* ---- A tile: start, segments, finish ---- */

static size_t rows_per_tile(const kvq_attention_work *a)
{
    return kvq_rows_most(a->call->cache->config.head_dim);
}

static size_t tiles_per_head(const kvq_attention_work *a, const kvq_span *span)
{
    return (span->n_q * a->heads_per_kv + rows_per_tile(a) - 1) / rows_per_tile(a);
}

size_t kvq_n_tiles(const kvq_attention_work *a, const kvq_span *span)
{
    return tiles_per_head(a, span) * a->call->n_heads;
}

kvq_tile_place kvq_tile_find(const kvq_attention_work *a, const kvq_span *span, size_t i)
{
    size_t per_head = tiles_per_head(a, span), first = i % per_head * rows_per_tile(a);
    size_t n_rows = kvq_min_size(rows_per_tile(a), span->n_q * a->heads_per_kv - first);
    size_t oldest =
        span->n_before + first / a->heads_per_kv + 1; /* what a row's query sees, itself included */
    size_t newest = span->n_before + (first + n_rows - 1) / a->heads_per_kv + 1;
    kvq_tile_place at = {
        .span = span,
        .kv_head = a->call->first_head + i / per_head,
        .first_row = first,
        .n_rows = n_rows,
        .first_token = kvq_first_visible(a->call->window, oldest),
        .n_tokens = newest,
    };
    size_t past_sinks = kvq_past_sinks(span->view.plan, at.n_tokens);
    size_t last = past_sinks > 0 ? kvq_segment_of(past_sinks - 1) : 0; /* sinks go with the first one */
    at.first_segment = kvq_segment_of(kvq_past_sinks(span->view.plan, at.first_token));
    at.n_segments = last - at.first_segment + 1;
    return at;
}

/* A row's query, as it was given. */
static const void *query_row(const kvq_tile *t, size_t row)
{
    return kvq_element(t->a->call->q, t->a->call->q_dtype, t->row_index[row] * t->dim);
}

void kvq_tile_start(kvq_tile *t, const kvq_attention_work *a, const kvq_tile_place *at)
{
    const kvq_kernels *kernels = a->call->cache->kernels;
    const kvq_span *span = at->span;
    size_t n_heads = a->call->cache->config.n_heads;
    t->a = a;
    t->at = *at;
    t->view = &span->view;
    t->probabilities = span->probabilities;
    t->dim = a->call->cache->config.head_dim;
    t->kv_head = at->kv_head;
    t->n_rows = at->n_rows;
    t->sums = a->sums;
    t->counters = (kvq_attend_counters){0};
    for (size_t row = 0; row < t->n_rows; row++) {
        size_t query = (at->first_row + row) / a->heads_per_kv;
        size_t head = (at->first_row + row) % a->heads_per_kv; /* of those that share the KV head */
        float *q = t->q + row * t->dim;
        t->row_index[row] = (span->first_query + query) * n_heads + t->kv_head * a->heads_per_kv + head;
        t->probabilities_at[row] =
            query * t->probabilities.per_query +
            ((t->kv_head - a->call->first_head) * a->heads_per_kv + head) * t->probabilities.stride;
        t->n_visible[row] = span->n_before + query + 1;
        t->first_visible[row] = kvq_first_visible(a->call->window, t->n_visible[row]);
        const float *given = kvq_row_as_f32(a->call->cache, a->call->q_dtype, query_row(t, row), q);
        for (size_t c = 0; c < t->dim; c++)
            q[c] = given[c] * a->log2_scale;
        t->finite[row] = kernels->all_finite_f32(q, t->dim);
        if (!t->finite[row]) /* kernels take finite numbers only */
            memset(q, 0, t->dim * sizeof *q);
        if (a->side[KVQ_KEYS]->codec->prepare != NULL)
            a->side[KVQ_KEYS]->codec->prepare(kernels, a->side[KVQ_KEYS], q, t->q_packed + row * t->dim);
    }
}

/* How many tokens a chunk has: up to the last one that any row sees, but packed ones all, so that a row's
 * bits do not depend on which others are in its tile. (Folding looks at all tokens that it is given.) */
static size_t tokens_in_chunk(const kvq_tile *t, size_t begin)
{
    const kvq_layer *layer = t->view->layer;
    size_t packed =
        t->view->plan->scheme.sinks + kvq_max_size(layer->packed[KVQ_KEYS], layer->packed[KVQ_VALUES]);
    return kvq_min_size(kvq_max_size(t->at.n_tokens, packed) - begin, KVQ_SUPERBLOCK);
}

void kvq_tile_run_segment(kvq_tile *t, size_t segment, float *memory)
{
    size_t sinks = kvq_min_size(t->view->plan->scheme.sinks, t->at.n_tokens), n = t->at.n_tokens - sinks;
    size_t first = kvq_past_sinks(t->view->plan, t->at.first_token) / KVQ_SUPERBLOCK * KVQ_SUPERBLOCK;
    size_t first_sink =
        t->at.first_token < sinks ? t->at.first_token / KVQ_SUPERBLOCK * KVQ_SUPERBLOCK : sinks;
    t->now = kvq_sums_start(t->a, memory, t->n_rows);
    for (size_t row = 0; row < t->n_rows; row++)
        t->now.overflowed[row] = t->finite[row] ? 0.0f : 1.0f;
    for (size_t i = first_sink; segment == 0 && i < sinks; i += KVQ_SUPERBLOCK)
        process_chunk(t, &(chunk){.sinks = true, .begin = i, .n = kvq_min_size(sinks - i, KVQ_SUPERBLOCK)});
    size_t end = kvq_min_size(n, kvq_segment_begin(segment + 1));
    for (size_t i = kvq_max_size(kvq_segment_begin(segment), first); i < end; i += KVQ_SUPERBLOCK)
        process_chunk(t, &(chunk){.begin = sinks + i, .n = tokens_in_chunk(t, sinks + i)});
}

/* What makes probabilities of a row's weights: their sum, or NaN for an answer that is NaN. */
static float divisor_of(const kvq_tile_sums *total, size_t row)
{
    return total->overflowed[row] > 0 ? NAN : total->sum[row];
}

static void divide(float *x, size_t n, float by)
{
    for (size_t i = 0; i < n; i++)
        x[i] /= by;
}

/* The scores of a row, where its probabilities will lie, become those. */
static void finish_probabilities(const kvq_tile *t, size_t row, const kvq_tile_sums *total)
{
    const kvq_probabilities *of = &t->probabilities;
    size_t begin = n_below(t->first_visible[row], of->first, of->stride);
    size_t end = n_below(t->n_visible[row], of->first, of->stride);
    float *p = of->p + t->probabilities_at[row];
    (void)t->a->call->cache->kernels->exp2_sum_f32(p + begin, end - begin, total->ref[row]);
    divide(p + begin, end - begin, divisor_of(total, row));
    memset(p, 0, begin * sizeof *p);
    memset(p + end, 0, (of->stride - end) * sizeof *p);
}

static void finish_row(const kvq_tile *t, size_t row, const kvq_tile_sums *total)
{
    const kvq_attention_call *call = t->a->call;
    size_t index = t->row_index[row];
    float buffer[KVQ_DIM_MAX], q[KVQ_DIM_MAX];
    uint8_t *place = (uint8_t *)call->out + index * t->dim * kvq_element_bytes(call->out_dtype);
    float *out = call->out_dtype == KVQ_F32 ? (float *)(void *)place : buffer;
    memcpy(out, total->acc + row * t->dim, t->dim * sizeof *out);
    divide(out, t->dim, divisor_of(total, row));
    if (call->out_dtype != KVQ_F32)
        kvq_row_store_any(call->cache, call->out_dtype, place, out);
    if (t->probabilities.p != NULL)
        finish_probabilities(t, row, total);
    if (call->bound != NULL) /* of what was handed out */
        call->bound[index] = kvq_attend_bound(
            t->view, t->kv_head, kvq_row_as_f32(call->cache, call->q_dtype, query_row(t, row), q),
            call->scale, t->first_visible[row], t->n_visible[row],
            kvq_row_as_f32(call->cache, call->out_dtype, place, buffer));
}

/* Could a row's sums be off by more than MAX_ERROR? False where squares leave the range of float, that is
 * for values beyond 1e19 or below 1e-19. */
static bool is_too_far_off(const kvq_tile_sums *total, size_t row, size_t dim)
{
    float norm = 0.0f;
    for (size_t c = 0; c < dim; c++)
        norm += total->acc[row * dim + c] * total->acc[row * dim + c];
    return total->error[row] > MAX_ERROR * MAX_ERROR * norm;
}

kvq_tile_sums kvq_tile_run(kvq_tile *t, float *now, float *all)
{
    kvq_tile_run_segment(t, t->at.first_segment, all);
    kvq_tile_sums total = t->now;
    for (size_t i = 1; i < t->at.n_segments; i++) {
        kvq_tile_run_segment(t, t->at.first_segment + i, now);
        kvq_sums_add(t->a, &total, &t->now, t->n_rows);
    }
    kvq_sums_finish(t->a, &total, t->n_rows);
    return total;
}

void kvq_tile_finish(kvq_tile *t, const kvq_tile_sums *total, float *now, float *all)
{
    size_t dim = t->dim, n_again = 0;
    for (size_t row = 0; row < t->n_rows; row++) {
        if (t->sums != KVQ_SUMS_FAST || !is_too_far_off(total, row, dim)) {
            finish_row(t, row, total);
            continue;
        }
        t->row_index[n_again] = t->row_index[row];
        t->probabilities_at[n_again] = t->probabilities_at[row];
        t->first_visible[n_again] = t->first_visible[row];
        t->n_visible[n_again] = t->n_visible[row];
        t->finite[n_again] = t->finite[row];
        memmove(t->q + n_again * dim, t->q + row * dim, dim * sizeof *t->q);
        if (t->a->side[KVQ_KEYS]->codec->prepare != NULL)
            memmove(t->q_packed + n_again * dim, t->q_packed + row * dim, dim * sizeof *t->q);
        n_again++;
    }
    if (n_again == 0)
        return;
    t->n_rows = n_again;
    t->sums = KVQ_SUMS_WIDE;
    t->counters.heads_again += n_again;
    kvq_tile_sums wide = kvq_tile_run(t, now, all);
    for (size_t row = 0; row < n_again; row++)
        finish_row(t, row, &wide);
}
