/*
 * How attention is computed, for kvq_cache_attend and kvq_cache_step alike.
 *
 * The queries of one sequence that share a KV head, n_q queries times H/Hkv heads, are called rows here and
 * come in tiles of up to QUERY_TILE rows. A tile walks the tokens in chunks of at most 128 and keeps, per
 * row, a reference near the maximum, a running sum and a running weighted sum of values (online softmax:
 * Milakov and Gimelshein, arXiv 1805.02867), so each page is read once.
 *
 * Chunks follow indices past the sinks: [0, 128), [128, 256), ..., after the sinks' own chunks. A chunk's
 * tokens may be packed, in the residual, or partly both; that changes where a row comes from but not the
 * order of the sums. This is why a cache that still holds everything in a float32 residual gives the bits of
 * the fp32 scheme.
 *
 * Every SEGMENT tokens the sums start afresh, and segments are added up in their order. So a segment can be
 * computed by any thread at any time without changing a bit of the result: a single thread goes from segment
 * to segment and adds as it goes; where there are fewer tiles than threads to feed, segments are dealt out
 * and their sums kept until all are there.
 *
 * Of a sliding window every row has a lower limit next to its upper one. Chunks, and so segments, that lie
 * before what any row of a tile may see are left out; in the chunk in which a window begins, older tokens
 * have weights of 0, as those that come after the query have in the last one.
 *
 * Where the values' codec has a packed domain of its own, packed values are added up apart from the others
 * and brought back once, at the end.
 *
 * Fast precision estimates what it is off by as it goes. At the end that is held against the output, which
 * may have become small by cancelling, and a row that could be off by more than MAX_ERROR is computed again
 * with wide sums, which are as good as float32.
 */
#include "lib/internal.h"

#include <math.h>
#include <stdlib.h>

enum {
    QUERY_TILE = KVQ_ROWS_MAX,
    SEGMENT = 16 * KVQ_SUPERBLOCK,   /* tokens: long enough that starting afresh costs nothing */
    MIN_PARALLEL_ELEMENTS = 1 << 16, /* keys to visit, below which threads cost more than they save */
    JOBS_PER_THREAD = 4,             /* pieces of work that balance the threads */
};

/* Relative L2, estimated; a third of what is promised, because single rows may have bad luck. */
static const float MAX_ERROR = 0x1.5p-12f;

static const float SLACK = 8.0f; /* leaps in which ref follows the largest score, in powers of 2 */

/* The call, with what follows from it. */
typedef struct attention {
    const kvq_attention_call *call;
    const kvq_span *spans;
    size_t n_spans, n_tiles, heads_per_kv;
    size_t most_rows;        /* of a tile */
    float log2_scale;        /* scores carry log2(e), so that weights are powers of 2 */
    const kvq_side *side[2]; /* by role */
    bool apart;              /* packed values are added up apart, in their own domain */
    kvq_sums sums;
} attention;

/* What a run of tokens adds up to, per row of a tile. The arrays lie in one piece of memory (sums_in). */
typedef struct sums {
    float *ref, *sum;  /* sum of 2^(score - ref); scores are at most ref + SLACK */
    float *overflowed; /* 1 if a score left the range of float: the row's answer is NaN */
    float *error;      /* squared L2 norm by which acc may be off, an estimate */
    float *acc;        /* [n_rows][D], values times 2^(score - ref) */
    float *packed;     /* the same of packed values, in their domain; acc itself if they have none */
} sums;

enum { SUMS_MAX = QUERY_TILE * (4 + 2 * KVQ_DIM_MAX) }; /* floats that hold any */

/* Rows of one KV head of one sequence, in flight. */
typedef struct query_tile {
    const attention *a;
    const kvq_view *view;
    kvq_probabilities probabilities;
    size_t kv_head, n_rows, dim;
    size_t row_index[QUERY_TILE];      /* (query * H + head) in the call: where its q, out, bound are */
    size_t span_index[QUERY_TILE];     /* the same in the span: where its row of probabilities is */
    size_t first_visible[QUERY_TILE];  /* tokens that it may see: from this one */
    size_t n_visible[QUERY_TILE];      /* up to this number, excluded */
    size_t first_token, n_tokens;      /* the same of all rows together */
    float q[QUERY_TILE * KVQ_DIM_MAX]; /* scaled; [n_rows][D] */
    float q_packed[QUERY_TILE * KVQ_DIM_MAX]; /* prepared, if the keys' codec does so */
    sums now;                                 /* of the segment in flight */
    kvq_sums sums;
    kvq_attend_counters counters;
    float score_rms_error[QUERY_TILE]; /* of the scores of a chunk, as codecs estimate it */
    bool finite[QUERY_TILE];           /* scale * q is; otherwise the row overflows whatever it sees */
    float scores[QUERY_TILE * KVQ_SUPERBLOCK];
} query_tile;

/* ---- Sums ---- */

static size_t sums_floats(const attention *a, size_t n_rows)
{
    return n_rows * (4 + (a->apart ? 2 : 1) * a->call->cache->config.head_dim);
}

static sums sums_in(const attention *a, float *memory, size_t n_rows)
{
    float *acc = memory + 4 * n_rows, *packed = acc + n_rows * a->call->cache->config.head_dim;
    return (sums){memory, memory + n_rows,        memory + 2 * n_rows, memory + 3 * n_rows,
                  acc,    a->apart ? packed : acc};
}

static sums sums_start(const attention *a, float *memory, size_t n_rows)
{
    sums s = sums_in(a, memory, n_rows);
    memset(memory, 0, sums_floats(a, n_rows) * sizeof *memory);
    for (size_t row = 0; row < n_rows; row++)
        s.ref[row] = -INFINITY;
    return s;
}

static void scale_row(float *acc, size_t dim, float factor)
{
    for (size_t c = 0; c < dim; c++)
        acc[c] = factor > 0 ? acc[c] * factor : 0.0f; /* not Inf * 0 */
}

/* Make one row's sums relative to a ref that is not below its own. */
static void sums_raise(const attention *a, const sums *s, size_t row, float ref)
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

/* Add the sums of a segment to those of the segments before it. Both end up relative to the same ref. */
static void sums_add(const attention *a, const sums *total, const sums *segment, size_t n_rows)
{
    size_t dim = a->call->cache->config.head_dim;
    for (size_t row = 0; row < n_rows; row++) {
        float ref = total->ref[row] > segment->ref[row] ? total->ref[row] : segment->ref[row];
        if (!(segment->sum[row] > 0.0f))
            continue; /* it may see none of these tokens */
        sums_raise(a, total, row, ref);
        sums_raise(a, segment, row, ref);
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

/* Bring what packed values added up to back into the domain of the numbers, and to the rest. */
static void sums_finish(const attention *a, const sums *total, size_t n_rows)
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

/* ---- Plain rows: of the residual, the sinks, or the call's own tokens ---- */

static void score_rows(const query_tile *t, const kvq_stretch *s, float *scores)
{
    const kvq_kernels *k = t->a->call->cache->kernels;
    for (size_t i = 0; i < t->n_rows; i++, scores += KVQ_SUPERBLOCK) {
        const float *q = t->q + i * t->dim;
        if (s->dtype == KVQ_F32)
            k->dot_f32((const float *)(const void *)s->rows, s->stride / sizeof(float), s->n, q, t->dim,
                       scores);
        else if (s->dtype == KVQ_F16)
            k->dot_f16((const uint16_t *)(const void *)s->rows, s->stride / sizeof(uint16_t), s->n, q, t->dim,
                       scores);
        else
            k->dot_i8(s->rows, s->stride, s->n, q, t->dim, scores);
    }
}

static void accumulate_rows(query_tile *t, const kvq_stretch *s, const float *p)
{
    const kvq_kernels *k = t->a->call->cache->kernels;
    for (size_t i = 0; i < t->n_rows; i++, p += KVQ_SUPERBLOCK) {
        float *acc = t->now.acc + i * t->dim;
        if (s->dtype == KVQ_F32)
            k->accumulate_f32((const float *)(const void *)s->rows, s->stride / sizeof(float), s->n, p,
                              t->dim, acc);
        else if (s->dtype == KVQ_F16)
            k->accumulate_f16((const uint16_t *)(const void *)s->rows, s->stride / sizeof(uint16_t), s->n, p,
                              t->dim, acc);
        else
            k->accumulate_i8(s->rows, s->stride, s->n, p, t->dim, acc);
    }
}

/* ---- One chunk: tokens [begin, begin + n), either sinks, or of one superblock ---- */

typedef struct chunk {
    bool sinks;
    size_t begin, n;
} chunk;

/* How many tokens at a chunk's beginning are packed; 0 also if no row may see any of them. */
static size_t n_packed_in(const query_tile *t, const chunk *c, kvq_role role)
{
    size_t end = t->view->plan->scheme.sinks + t->view->layer->packed[role];
    return c->sinks || end <= kvq_max_size(c->begin, t->first_token) ? 0 : kvq_min_size(c->n, end - c->begin);
}

/* The first of the others that a row may see. */
static size_t first_plain_in(const query_tile *t, const chunk *c, size_t n_packed)
{
    return kvq_max_size(c->begin + n_packed, t->first_token) - c->begin;
}

/* Do packed values tell what errors of a chunk's scores amount to? They must be there, and a window that
 * begins here must not leave keys without them. That is asked of the newest window, so that the answer does
 * not depend on the queries that share a tile. */
static bool can_estimate(const query_tile *t, const chunk *c, size_t packed_keys, size_t packed_values)
{
    size_t newest = kvq_first_visible(t->a->call->window, kvq_view_n_tokens(t->view));
    return packed_values > 0 && (packed_values >= packed_keys || newest <= c->begin);
}

static kvq_tokens packed_tokens(const query_tile *t, const chunk *c, kvq_role role, size_t n)
{
    const kvq_layer *layer = t->view->layer;
    size_t index = c->begin - t->view->plan->scheme.sinks, page = index / KVQ_SUPERBLOCK;
    /* Only for prefetching: another page here would cost time, and no result tells. */
    bool more = index + KVQ_SUPERBLOCK < layer->packed[role];
    return (kvq_tokens){
        .superblock = kvq_superblock(t->view->plan, &layer->page[page], role, t->kv_head),
        .next = more ? kvq_superblock(t->view->plan, &layer->page[page + 1], role, t->kv_head) : NULL,
        .n = n,
        .sums = t->sums,
    };
}

static void score_chunk(query_tile *t, const chunk *c)
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
        t->counters.superblocks_wide += counts.wide;
        t->counters.superblocks_exact += counts.exact;
        for (size_t row = 0; row < t->n_rows && packed_values < packed && packed_values > 0; row++)
            t->score_rms_error[row] *=
                sqrtf((float)packed / (float)packed_values); /* taken for as large as the others */
    }
    for (size_t i = first_plain_in(t, c, packed); i < c->n;) {
        kvq_stretch s = kvq_find_stretch(t->view, KVQ_KEYS, t->kv_head, c->begin + i, c->n - i);
        score_rows(t, &s, t->scores + i);
        i += s.n;
    }
}

static void accumulate_chunk(query_tile *t, const chunk *c)
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
        accumulate_rows(t, &s, t->scores + i);
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
static void keep_scores(const query_tile *t, size_t row, size_t token, size_t n, const float *scores)
{
    const kvq_probabilities *to = &t->probabilities;
    size_t from = kvq_max_size(token, to->first);
    if (from < token + n)
        memcpy(to->p + t->span_index[row] * to->stride + from - to->first, scores + from - token,
               (token + n - from) * sizeof *scores);
}

/* Turn a row's scores into weights relative to its ref. That follows the maximum only in leaps, because what
 * was added up so far must follow, and float does not mind weights of up to 2^SLACK. */
static void weigh_row(query_tile *t, size_t row, size_t token, size_t n)
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
    if (!kernels->all_finite_f32(scores, n)) { /* kernels differ in what they make of Inf and NaN */
        t->now.overflowed[row] = 1.0f;
        memset(scores, 0, n * sizeof *scores);
    }
    if (t->probabilities.p != NULL)
        keep_scores(t, row, token, n, scores);
    float max = kernels->max_f32(scores, n);
    if (max > t->now.ref[row] + SLACK)
        sums_raise(t->a, &t->now, row, max);
    t->now.sum[row] += kernels->exp2_sum_f32(scores, n, t->now.ref[row]);
}

static void process_chunk(query_tile *t, const chunk *c)
{
    if (n_packed_in(t, c, KVQ_KEYS) > 0 || n_packed_in(t, c, KVQ_VALUES) > 0) {
        t->counters.superblocks += t->n_rows;
        t->counters.superblocks_exact += t->sums == KVQ_SUMS_EXACT ? t->n_rows : 0;
    }
    score_chunk(t, c);
    for (size_t row = 0; row < t->n_rows; row++)
        weigh_row(t, row, c->begin, c->n);
    accumulate_chunk(t, c);
}

/* ---- Tiles: start, segments, finish ---- */

/* Tile number i of the call. Its sums are still nowhere. */
static void start_query_tile(query_tile *t, const attention *a, size_t i)
{
    const kvq_kernels *kernels = a->call->cache->kernels;
    const kvq_config *config = &a->call->cache->config;
    const kvq_span *span = a->spans;
    while (span + 1 < a->spans + a->n_spans && span[1].first_tile <= i)
        span++;
    size_t n_heads = config->n_heads, n_rows = span->n_q * a->heads_per_kv;
    size_t tiles_per_head = (n_rows + QUERY_TILE - 1) / QUERY_TILE;
    size_t first = (i - span->first_tile) % tiles_per_head * QUERY_TILE;
    t->a = a;
    t->view = &span->view;
    t->probabilities = span->probabilities;
    t->dim = config->head_dim;
    t->kv_head = (i - span->first_tile) / tiles_per_head;
    t->sums = a->sums;
    t->counters = (kvq_attend_counters){0};
    t->n_rows = kvq_min_size(QUERY_TILE, n_rows - first);
    t->first_token = SIZE_MAX;
    t->n_tokens = 0;
    for (size_t row = 0; row < t->n_rows; row++) {
        size_t query = (first + row) / a->heads_per_kv;
        size_t head = t->kv_head * a->heads_per_kv + (first + row) % a->heads_per_kv;
        float *q = t->q + row * t->dim;
        t->span_index[row] = query * n_heads + head;
        t->row_index[row] = span->first_query * n_heads + t->span_index[row];
        t->n_visible[row] = span->n_before + query + 1;
        t->first_visible[row] = kvq_first_visible(a->call->window, t->n_visible[row]);
        t->first_token = kvq_min_size(t->first_token, t->first_visible[row]);
        t->n_tokens = kvq_max_size(t->n_tokens, t->n_visible[row]);
        for (size_t c = 0; c < t->dim; c++)
            q[c] = a->call->q[t->row_index[row] * t->dim + c] * a->log2_scale;
        t->finite[row] = kernels->all_finite_f32(q, t->dim);
        if (!t->finite[row]) /* kernels take finite numbers only */
            memset(q, 0, t->dim * sizeof *q);
        if (a->side[KVQ_KEYS]->codec->prepare != NULL)
            a->side[KVQ_KEYS]->codec->prepare(kernels, a->side[KVQ_KEYS], q, t->q_packed + row * t->dim);
    }
}

/* The first segment of which a tile may see anything. */
static size_t first_segment(const query_tile *t)
{
    return kvq_past_sinks(t->view->plan, t->first_token) / SEGMENT;
}

/* Tokens past the sinks [segment * SEGMENT, (segment + 1) * SEGMENT), and the sinks with segment 0, from the
 * first chunk on of which the tile may see anything; the sums go to memory. */
static void run_segment(query_tile *t, size_t segment, float *memory)
{
    size_t sinks = kvq_min_size(t->view->plan->scheme.sinks, t->n_tokens), n = t->n_tokens - sinks;
    size_t first = kvq_past_sinks(t->view->plan, t->first_token) / KVQ_SUPERBLOCK * KVQ_SUPERBLOCK;
    size_t first_sink = t->first_token < sinks ? t->first_token / KVQ_SUPERBLOCK * KVQ_SUPERBLOCK : sinks;
    t->now = sums_start(t->a, memory, t->n_rows);
    for (size_t row = 0; row < t->n_rows; row++)
        t->now.overflowed[row] = t->finite[row] ? 0.0f : 1.0f;
    for (size_t i = first_sink; segment == 0 && i < sinks; i += KVQ_SUPERBLOCK)
        process_chunk(t, &(chunk){.sinks = true, .begin = i, .n = kvq_min_size(sinks - i, KVQ_SUPERBLOCK)});
    size_t end = kvq_min_size(n, (segment + 1) * SEGMENT);
    for (size_t i = kvq_max_size(segment * SEGMENT, first); i < end; i += KVQ_SUPERBLOCK)
        process_chunk(t, &(chunk){.begin = sinks + i, .n = kvq_min_size(n - i, KVQ_SUPERBLOCK)});
}

/* The scores of a row, where its probabilities will lie, become those. */
static void finish_probabilities(const query_tile *t, size_t row, const sums *total)
{
    const kvq_probabilities *of = &t->probabilities;
    size_t begin = n_below(t->first_visible[row], of->first, of->stride);
    size_t end = n_below(t->n_visible[row], of->first, of->stride);
    float *p = of->p + t->span_index[row] * of->stride;
    (void)t->a->call->cache->kernels->exp2_sum_f32(p + begin, end - begin, total->ref[row]);
    for (size_t i = begin; i < end; i++)
        p[i] = total->overflowed[row] > 0 ? NAN : p[i] / total->sum[row];
    memset(p, 0, begin * sizeof *p);
    memset(p + end, 0, (of->stride - end) * sizeof *p);
}

static void finish_row(const query_tile *t, size_t row, const sums *total)
{
    const kvq_attention_call *call = t->a->call;
    size_t index = t->row_index[row];
    float *out = call->out + index * t->dim;
    for (size_t c = 0; c < t->dim; c++)
        out[c] = total->overflowed[row] > 0 ? NAN : total->acc[row * t->dim + c] / total->sum[row];
    if (t->probabilities.p != NULL)
        finish_probabilities(t, row, total);
    if (call->bound != NULL)
        call->bound[index] = kvq_attend_bound(t->view, t->kv_head, call->q + index * t->dim, call->scale,
                                              t->first_visible[row], t->n_visible[row], out);
}

/* Could a row's sums be off by more than MAX_ERROR? Not if they overflowed: then exact ones may do so,
 * too. */
static bool is_too_far_off(const sums *total, size_t row, size_t dim)
{
    float norm = 0.0f;
    for (size_t c = 0; c < dim; c++)
        norm += total->acc[row * dim + c] * total->acc[row * dim + c];
    return total->error[row] > MAX_ERROR * MAX_ERROR * norm;
}

/* From segment to segment, adding as it goes. */
static sums run_segments(query_tile *t, float *now, float *all)
{
    sums total = sums_start(t->a, all, t->n_rows);
    size_t segment = first_segment(t);
    do {
        run_segment(t, segment, now);
        sums_add(t->a, &total, &t->now, t->n_rows);
    } while (++segment * SEGMENT < t->n_tokens);
    sums_finish(t->a, &total, t->n_rows);
    return total;
}

/* now and all: room for sums, which total may lie in. */
static void finish_query_tile(query_tile *t, const sums *total, float *now, float *all)
{
    size_t dim = t->dim, n_again = 0;
    for (size_t row = 0; row < t->n_rows; row++) {
        if (t->sums != KVQ_SUMS_FAST || !is_too_far_off(total, row, dim)) {
            finish_row(t, row, total);
            continue;
        }
        t->row_index[n_again] = t->row_index[row];
        t->span_index[n_again] = t->span_index[row];
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
    sums wide = run_segments(t, now, all);
    for (size_t row = 0; row < n_again; row++)
        finish_row(t, row, &wide);
}

/* ---- Jobs: a tile, or a segment of one ---- */

/* Add what a tile counted to what the call did. Once per tile and job. */
static void count(const query_tile *t)
{
    kvq_attend_counters *sum = t->a->call->counters;
#pragma omp atomic
    sum->superblocks += t->counters.superblocks;
#pragma omp atomic
    sum->superblocks_wide += t->counters.superblocks_wide;
#pragma omp atomic
    sum->superblocks_exact += t->counters.superblocks_exact;
#pragma omp atomic
    sum->heads_again += t->counters.heads_again;
}

/* One tile from segment to segment. */
static void run_query_tile(const attention *a, size_t number)
{
    float now[SUMS_MAX], all[SUMS_MAX];
    query_tile t; /* its arrays are large and filled as far as they are used */
    start_query_tile(&t, a, number);
    sums total = run_segments(&t, now, all);
    finish_query_tile(&t, &total, now, all);
    count(&t);
}

/* Segment job % n_segments, from its first one on, of tile number job / n_segments, into its own place. */
static void run_job(const attention *a, size_t job, size_t n_segments, float *memory, size_t stride)
{
    query_tile t;
    start_query_tile(&t, a, job / n_segments);
    run_segment(&t, first_segment(&t) + job % n_segments, memory + job * stride);
    count(&t);
}

static void add_segments(const attention *a, size_t number, size_t n_segments, float *memory, size_t stride)
{
    float now[SUMS_MAX], all[SUMS_MAX];
    query_tile t;
    start_query_tile(&t, a, number);
    sums total = sums_start(a, all, t.n_rows);
    for (size_t segment = 0; segment < n_segments; segment++) {
        sums part = sums_in(a, memory + (number * n_segments + segment) * stride, t.n_rows);
        sums_add(a, &total, &part, t.n_rows);
    }
    sums_finish(a, &total, t.n_rows);
    finish_query_tile(&t, &total, now, all);
    count(&t);
}

/* All tiles on several threads. Pragmas are chosen by branches, not by an if clause: with libomp,
 * num_threads(1) would stay for someone else's region. */
static void run_parallel(const attention *a, size_t n_segments, int n_threads)
{
    size_t n_jobs = a->n_tiles * n_segments, stride = sums_floats(a, a->most_rows);
    bool split = n_segments > 1 && a->n_tiles < (size_t)n_threads * JOBS_PER_THREAD;
    float *memory = split ? malloc(n_jobs * stride * sizeof *memory) : NULL;
    if (memory == NULL) { /* nothing to gain, or no memory: the result is the same */
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
        for (size_t i = 0; i < a->n_tiles; i++)
            run_query_tile(a, i);
        return;
    }
#pragma omp parallel num_threads(n_threads)
    {
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < n_jobs; i++)
            run_job(a, i, n_segments, memory, stride);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < a->n_tiles; i++)
            add_segments(a, i, n_segments, memory, stride);
    }
    free(memory);
}

/* ---- The call ---- */

/* Of how many segments a tile may see anything, at most. */
static size_t most_segments(size_t window, size_t n_tokens)
{
    size_t all = (n_tokens + SEGMENT - 1) / SEGMENT;
    if (window == 0 || window >= n_tokens)
        return all;
    size_t n = window + QUERY_TILE - 1; /* of a tile whose rows are all of different queries */
    return kvq_min_size(all, (n + SEGMENT - 2) / SEGMENT + 1);
}

void kvq_attention(const kvq_attention_call *call, kvq_span *spans, size_t n_spans)
{
    const kvq_config *config = &call->cache->config;
    const kvq_layer_plan *plan = call->plan;
    attention a = {
        .call = call,
        .spans = spans,
        .n_spans = n_spans,
        .heads_per_kv = config->n_heads / config->n_kv_heads,
        .log2_scale = call->scale * 0x1.715476p+0f,
        .side = {&plan->side[KVQ_KEYS], &plan->side[KVQ_VALUES]},
        .apart = plan->side[KVQ_VALUES].codec->finish != NULL,
        .sums = call->fast && kvq_plan_folds(plan) ? KVQ_SUMS_FAST : KVQ_SUMS_EXACT,
    };
    size_t n_segments = 0, n_keys = 0;
    for (size_t s = 0; s < n_spans; s++) {
        size_t n_rows = spans[s].n_q * a.heads_per_kv, n_tokens = spans[s].n_before + spans[s].n_q;
        spans[s].first_tile = a.n_tiles;
        a.n_tiles += (n_rows + QUERY_TILE - 1) / QUERY_TILE * config->n_kv_heads;
        a.most_rows = kvq_max_size(a.most_rows, kvq_min_size(n_rows, QUERY_TILE));
        n_segments = kvq_max_size(n_segments, most_segments(call->window, n_tokens));
        n_keys += (n_tokens - kvq_first_visible(call->window, n_tokens)) * spans[s].n_q;
        call->counters->heads += spans[s].n_q * config->n_heads;
    }
    int n_threads = kvq_n_threads(call->n_threads, a.n_tiles * n_segments);
    if (n_threads > 1 && n_keys * config->n_heads * config->head_dim >= MIN_PARALLEL_ELEMENTS) {
        run_parallel(&a, n_segments, n_threads);
        return;
    }
    for (size_t i = 0; i < a.n_tiles; i++)
        run_query_tile(&a, i);
}
