/*
 * Attention over the cache.
 *
 * One task is the queries of one sequence that share a KV head: n_q queries times H/Hkv heads, called rows
 * here, in tiles of up to QUERY_TILE rows. A tile walks the tokens in chunks of at most 128 and keeps, per
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
 * Fast precision estimates what it is off by as it goes. At the end that is held against the output, which
 * may have become small by cancelling, and a row that could be off by more than MAX_ERROR is computed again
 * with wide sums, which are as good as float32.
 */
#include "lib/internal.h"
#include "lib/sized.h"

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

typedef struct attend_call {
    const kvq_cache *cache;
    const kvq_layer_plan *plan;
    const size_t *sequences;
    size_t layer, n_q, heads_per_kv;
    size_t n_query_tiles; /* of a task */
    const float *q;
    float scale, log2_scale; /* scores carry log2(e), so that weights are powers of 2 */
    kvq_sums sums;
    float *out, *probabilities, *bound;
    kvq_attend_counters *counters; /* of this call; query tiles add their own */
} attend_call;

/* What a run of tokens adds up to, per row of a tile. The arrays lie in one piece of memory (sums_in). */
typedef struct sums {
    float *ref, *sum;  /* sum of 2^(score - ref); scores are at most ref + SLACK */
    float *overflowed; /* 1 if a score left the range of float: the row's answer is NaN */
    float *error;      /* squared L2 norm by which acc may be off, an estimate */
    float *acc;        /* [n_rows][D], values times 2^(score - ref) */
} sums;

/* Rows of one KV head of one sequence, in flight. */
typedef struct query_tile {
    const attend_call *call;
    const kvq_layer *layer;
    size_t kv_head, n_rows;
    size_t row_index[QUERY_TILE]; /* ((sequence * n_q + query) * H + head): where its q, out, bound are */
    size_t n_visible[QUERY_TILE]; /* tokens it may see */
    size_t n_tokens;              /* the most that any row may see */
    float q[QUERY_TILE * KVQ_DIM_MAX]; /* scaled; [n_rows][D] */
    sums now;                          /* of the segment in flight */
    kvq_sums sums;
    kvq_attend_counters counters;
    float score_rms_error[QUERY_TILE]; /* of the scores of a chunk, as codecs estimate it */
    bool finite[QUERY_TILE];           /* scale * q is; otherwise the row overflows whatever it sees */
    float scores[QUERY_TILE * KVQ_SUPERBLOCK];
} query_tile;

/* ---- Sums ---- */

static size_t sums_floats(size_t n_rows, size_t dim)
{
    return n_rows * (4 + dim);
}

static sums sums_in(float *memory, size_t n_rows)
{
    return (sums){memory, memory + n_rows, memory + 2 * n_rows, memory + 3 * n_rows, memory + 4 * n_rows};
}

static sums sums_start(float *memory, size_t n_rows, size_t dim)
{
    sums s = sums_in(memory, n_rows);
    memset(memory, 0, sums_floats(n_rows, dim) * sizeof *memory);
    for (size_t row = 0; row < n_rows; row++)
        s.ref[row] = -INFINITY;
    return s;
}

/* Make one row's sums relative to a ref that is not below its own. */
static void sums_raise(const kvq_kernels *kernels, const sums *s, size_t row, size_t dim, float ref)
{
    if (!(ref > s->ref[row]))
        return;
    float factor = s->ref[row], *acc = s->acc + row * dim;
    s->ref[row] = ref;
    if (!(s->sum[row] > 0.0f))
        return;
    (void)kernels->exp2_sum_f32(&factor, 1, ref);
    for (size_t c = 0; c < dim; c++)
        acc[c] = factor > 0 ? acc[c] * factor : 0.0f; /* not Inf * 0 */
    s->sum[row] *= factor;
    s->error[row] *= factor * factor;
}

/* Add the sums of a segment to those of the segments before it. Both end up relative to the same ref. */
static void sums_add(const kvq_kernels *kernels, const sums *total, const sums *segment, size_t n_rows,
                     size_t dim)
{
    for (size_t row = 0; row < n_rows; row++) {
        float ref = total->ref[row] > segment->ref[row] ? total->ref[row] : segment->ref[row];
        if (!(segment->sum[row] > 0.0f))
            continue; /* it may see none of these tokens */
        sums_raise(kernels, total, row, dim, ref);
        sums_raise(kernels, segment, row, dim, ref);
        for (size_t c = 0; c < dim; c++)
            total->acc[row * dim + c] += segment->acc[row * dim + c];
        total->sum[row] += segment->sum[row];
        total->error[row] += segment->error[row];
        total->overflowed[row] += segment->overflowed[row];
    }
}

/* ---- Plain rows, of the residual or the sinks ---- */

static void score_rows(const query_tile *t, const uint8_t *rows, size_t n, float *scores)
{
    const kvq_kernels *kernels = t->call->cache->kernels;
    size_t dim = t->call->cache->config.head_dim;
    bool half = t->call->plan->scheme.residual_dtype == KVQ_F16;
    for (size_t i = 0; i < t->n_rows; i++, scores += KVQ_SUPERBLOCK) {
        const float *q = t->q + i * dim;
        if (half)
            kernels->dot_f16((const uint16_t *)(const void *)rows, dim, n, q, dim, scores);
        else
            kernels->dot_f32((const float *)(const void *)rows, dim, n, q, dim, scores);
    }
}

static void accumulate_rows(query_tile *t, const uint8_t *rows, size_t n, const float *p)
{
    const kvq_kernels *kernels = t->call->cache->kernels;
    size_t dim = t->call->cache->config.head_dim;
    bool half = t->call->plan->scheme.residual_dtype == KVQ_F16;
    for (size_t i = 0; i < t->n_rows; i++, p += KVQ_SUPERBLOCK) {
        float *acc = t->now.acc + i * dim;
        if (half)
            kernels->accumulate_f16((const uint16_t *)(const void *)rows, dim, n, p, dim, acc);
        else
            kernels->accumulate_f32((const float *)(const void *)rows, dim, n, p, dim, acc);
    }
}

/* ---- One chunk: tokens [begin, begin + n), either sinks, or indices inside one superblock ---- */

typedef struct chunk {
    bool sinks;
    size_t begin; /* token for sinks, index otherwise */
    size_t n;
} chunk;

static size_t n_packed_in(const query_tile *t, const chunk *c, kvq_role role)
{
    size_t packed = t->layer->packed[role];
    return c->sinks || packed <= c->begin ? 0 : kvq_min_size(c->n, packed - c->begin);
}

/* Rows of token i of the chunk, which is not packed, and how many of the chunk's tokens lie there from i on.
 */
static const uint8_t *plain_rows(const query_tile *t, const chunk *c, kvq_role role, size_t i, size_t *n)
{
    const kvq_cache *cache = t->call->cache;
    size_t at = c->begin + i;
    *n = c->n - i;
    if (c->sinks)
        return kvq_sinks_row(cache, t->call->plan, t->layer, role, t->kv_head, at);
    *n = kvq_min_size(*n, KVQ_BLOCK - at % KVQ_BLOCK);
    return kvq_residual_row(cache, t->call->plan, t->layer, role, t->kv_head, at);
}

static kvq_tokens packed_tokens(const query_tile *t, const chunk *c, kvq_role role, size_t n)
{
    size_t page = c->begin / KVQ_SUPERBLOCK;
    /* Only for prefetching: another page here would cost time, and no result tells. */
    bool more = c->begin + KVQ_SUPERBLOCK < t->layer->packed[role];
    return (kvq_tokens){
        .superblock = kvq_superblock(t->call->plan, &t->layer->page[page], role, t->kv_head),
        .next = more ? kvq_superblock(t->call->plan, &t->layer->page[page + 1], role, t->kv_head) : NULL,
        .n = n,
        .sums = t->sums,
    };
}

static void score_chunk(query_tile *t, const chunk *c)
{
    const kvq_layout *layout = &t->call->plan->layout[KVQ_KEYS];
    size_t packed = n_packed_in(t, c, KVQ_KEYS), n;
    memset(t->score_rms_error, 0, sizeof t->score_rms_error);
    if (packed > 0) {
        kvq_tokens tokens = packed_tokens(t, c, KVQ_KEYS, packed);
        size_t packed_values = n_packed_in(t, c, KVQ_VALUES);
        if (tokens.sums == KVQ_SUMS_FAST && packed_values == 0)
            tokens.sums = KVQ_SUMS_WIDE; /* nothing packed tells what errors of scores amount to */
        kvq_score_counts counts = {0};
        layout->codec->score(t->call->cache->kernels, layout, &tokens, t->q, t->n_rows, t->scores,
                             t->score_rms_error, &counts);
        t->counters.superblocks_wide += counts.wide;
        t->counters.superblocks_exact += counts.exact;
        for (size_t row = 0; row < t->n_rows && packed_values < packed && packed_values > 0; row++)
            t->score_rms_error[row] *=
                sqrtf((float)packed / (float)packed_values); /* taken for as large as the others */
    }
    for (size_t i = packed; i < c->n; i += n) {
        const uint8_t *rows = plain_rows(t, c, KVQ_KEYS, i, &n);
        score_rows(t, rows, n, t->scores + i);
    }
}

static void accumulate_chunk(query_tile *t, const chunk *c)
{
    const kvq_layout *layout = &t->call->plan->layout[KVQ_VALUES];
    size_t packed = n_packed_in(t, c, KVQ_VALUES), n;
    if (packed > 0) {
        kvq_tokens tokens = packed_tokens(t, c, KVQ_VALUES, packed);
        layout->codec->accumulate(t->call->cache->kernels, layout, &tokens, t->scores, t->n_rows,
                                  t->score_rms_error, t->now.acc, t->now.error);
    }
    for (size_t i = packed; i < c->n; i += n) {
        const uint8_t *rows = plain_rows(t, c, KVQ_VALUES, i, &n);
        accumulate_rows(t, rows, n, t->scores + i);
    }
}

/* Turn a row's scores into weights relative to its ref. That follows the maximum only in leaps, because what
 * was added up so far must follow, and float does not mind weights of up to 2^SLACK. */
static void weigh_row(query_tile *t, size_t row, size_t token, size_t n)
{
    const kvq_kernels *kernels = t->call->cache->kernels;
    size_t dim = t->call->cache->config.head_dim;
    float *scores = t->scores + row * KVQ_SUPERBLOCK;
    size_t visible = t->n_visible[row] > token ? kvq_min_size(n, t->n_visible[row] - token) : 0;
    for (size_t i = visible; i < n; i++)
        scores[i] = 0.0f; /* as weights: what the row may not see */
    if (visible == 0)
        return;
    if (!kernels->all_finite_f32(scores, visible)) { /* kernels differ in what they make of Inf and NaN */
        t->now.overflowed[row] = 1.0f;
        memset(scores, 0, visible * sizeof *scores);
    }
    if (t->call->probabilities != NULL) /* the scores, for now: finish_row has the final ref */
        memcpy(t->call->probabilities + t->row_index[row] * t->layer->n_tokens + token, scores,
               visible * sizeof *scores);
    float max = kernels->max_f32(scores, visible);
    if (max > t->now.ref[row] + SLACK)
        sums_raise(kernels, &t->now, row, dim, max);
    t->now.sum[row] += kernels->exp2_sum_f32(scores, visible, t->now.ref[row]);
}

static void process_chunk(query_tile *t, const chunk *c)
{
    if (n_packed_in(t, c, KVQ_KEYS) > 0 || n_packed_in(t, c, KVQ_VALUES) > 0) {
        t->counters.superblocks += t->n_rows;
        t->counters.superblocks_exact += t->sums == KVQ_SUMS_EXACT ? t->n_rows : 0;
    }
    size_t token = c->sinks ? c->begin : c->begin + t->call->plan->scheme.sinks;
    score_chunk(t, c);
    for (size_t row = 0; row < t->n_rows; row++)
        weigh_row(t, row, token, c->n);
    accumulate_chunk(t, c);
}

/* ---- Tiles: start, segments, finish ---- */

/* Tile i of a task: of the s-th sequence of the call and a KV head. Its sums are still nowhere. */
static void start_query_tile(query_tile *t, const attend_call *call, size_t s, size_t kv_head, size_t i)
{
    const kvq_config *config = &call->cache->config;
    size_t dim = config->head_dim, sequence = call->sequences == NULL ? s : call->sequences[s];
    size_t first = i * QUERY_TILE, heads_per_kv = call->heads_per_kv;
    t->call = call;
    t->layer = kvq_layer_of(call->cache, call->layer, sequence);
    t->kv_head = kv_head;
    t->sums = call->sums;
    t->counters = (kvq_attend_counters){0};
    t->n_rows = kvq_min_size(QUERY_TILE, call->n_q * heads_per_kv - first);
    t->n_tokens = 0;
    for (size_t row = 0; row < t->n_rows; row++) {
        size_t query = (first + row) / heads_per_kv,
               head = kv_head * heads_per_kv + (first + row) % heads_per_kv;
        t->row_index[row] = (s * call->n_q + query) * config->n_heads + head;
        t->n_visible[row] = t->layer->n_tokens - call->n_q + query + 1;
        t->n_tokens = kvq_max_size(t->n_tokens, t->n_visible[row]);
        for (size_t c = 0; c < dim; c++)
            t->q[row * dim + c] = call->q[t->row_index[row] * dim + c] * call->log2_scale;
        t->finite[row] = call->cache->kernels->all_finite_f32(t->q + row * dim, dim);
        if (!t->finite[row]) /* kernels take finite numbers only */
            memset(t->q + row * dim, 0, dim * sizeof *t->q);
    }
}

/* Indices [segment * SEGMENT, (segment + 1) * SEGMENT), and the sinks with segment 0; its sums go to
 * memory. */
static void run_segment(query_tile *t, size_t segment, float *memory)
{
    size_t sinks = kvq_min_size(t->call->plan->scheme.sinks, t->n_tokens), n = t->n_tokens - sinks;
    t->now = sums_start(memory, t->n_rows, t->call->cache->config.head_dim);
    for (size_t row = 0; row < t->n_rows; row++)
        t->now.overflowed[row] = t->finite[row] ? 0.0f : 1.0f;
    for (size_t i = 0; segment == 0 && i < sinks; i += KVQ_SUPERBLOCK)
        process_chunk(t, &(chunk){.sinks = true, .begin = i, .n = kvq_min_size(sinks - i, KVQ_SUPERBLOCK)});
    for (size_t i = segment * SEGMENT; i < kvq_min_size(n, (segment + 1) * SEGMENT); i += KVQ_SUPERBLOCK)
        process_chunk(t, &(chunk){.begin = i, .n = kvq_min_size(n - i, KVQ_SUPERBLOCK)});
}

/* The scores of a row, in its place of the caller's array, become probabilities. */
static void finish_probabilities(const query_tile *t, size_t row, const sums *total)
{
    size_t n_tokens = t->layer->n_tokens, visible = t->n_visible[row];
    float *p = t->call->probabilities + t->row_index[row] * n_tokens;
    (void)t->call->cache->kernels->exp2_sum_f32(p, visible, total->ref[row]);
    for (size_t i = 0; i < visible; i++)
        p[i] = total->overflowed[row] > 0 ? NAN : p[i] / total->sum[row];
    memset(p + visible, 0, (n_tokens - visible) * sizeof *p);
}

static void finish_row(const query_tile *t, size_t row, const sums *total)
{
    const attend_call *call = t->call;
    size_t dim = call->cache->config.head_dim, index = t->row_index[row];
    for (size_t c = 0; c < dim; c++)
        call->out[index * dim + c] =
            total->overflowed[row] > 0 ? NAN : total->acc[row * dim + c] / total->sum[row];
    if (call->probabilities != NULL)
        finish_probabilities(t, row, total);
    if (call->bound != NULL)
        call->bound[index] =
            kvq_attend_bound(call->cache, call->plan, t->layer, t->kv_head, call->q + index * dim,
                             call->scale, t->n_visible[row], call->out + index * dim);
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
    sums total = sums_start(all, t->n_rows, t->call->cache->config.head_dim);
    for (size_t segment = 0; segment == 0 || segment * SEGMENT < t->n_tokens; segment++) {
        run_segment(t, segment, now);
        sums_add(t->call->cache->kernels, &total, &t->now, t->n_rows, t->call->cache->config.head_dim);
    }
    return total;
}

/* now and all: room for sums, which total may lie in. */
static void finish_query_tile(query_tile *t, const sums *total, float *now, float *all)
{
    size_t dim = t->call->cache->config.head_dim, n_again = 0;
    for (size_t row = 0; row < t->n_rows; row++) {
        if (t->sums != KVQ_SUMS_FAST || !is_too_far_off(total, row, dim)) {
            finish_row(t, row, total);
            continue;
        }
        t->row_index[n_again] = t->row_index[row];
        t->n_visible[n_again] = t->n_visible[row];
        t->finite[n_again] = t->finite[row];
        memmove(t->q + n_again * dim, t->q + row * dim, dim * sizeof *t->q);
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

static void start_query_tile_number(query_tile *t, const attend_call *call, size_t number)
{
    size_t task = number / call->n_query_tiles, n_kv_heads = call->cache->config.n_kv_heads;
    start_query_tile(t, call, task / n_kv_heads, task % n_kv_heads, number % call->n_query_tiles);
}

/* Add what a tile counted to what the call did. Once per tile and job. */
static void count(const query_tile *t)
{
    kvq_attend_counters *sum = t->call->counters;
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
static void run_query_tile(const attend_call *call, size_t number)
{
    float now[QUERY_TILE * (4 + KVQ_DIM_MAX)], all[QUERY_TILE * (4 + KVQ_DIM_MAX)];
    query_tile t; /* its arrays are large and filled as far as they are used */
    start_query_tile_number(&t, call, number);
    sums total = run_segments(&t, now, all);
    finish_query_tile(&t, &total, now, all);
    count(&t);
}

/* Segments [0, n_segments) of tile number job / n_segments, each into its own place. */
static void run_job(const attend_call *call, size_t job, size_t n_segments, float *memory, size_t stride)
{
    query_tile t;
    start_query_tile_number(&t, call, job / n_segments);
    run_segment(&t, job % n_segments, memory + job * stride);
    count(&t);
}

static void add_segments(const attend_call *call, size_t number, size_t n_segments, float *memory,
                         size_t stride)
{
    float now[QUERY_TILE * (4 + KVQ_DIM_MAX)], all[QUERY_TILE * (4 + KVQ_DIM_MAX)];
    query_tile t;
    start_query_tile_number(&t, call, number);
    sums total = sums_start(all, t.n_rows, call->cache->config.head_dim);
    for (size_t segment = 0; segment < n_segments; segment++) {
        sums part = sums_in(memory + (number * n_segments + segment) * stride, t.n_rows);
        sums_add(call->cache->kernels, &total, &part, t.n_rows, call->cache->config.head_dim);
    }
    finish_query_tile(&t, &total, now, all);
    count(&t);
}

/* All tiles on several threads. Pragmas are chosen by branches, not by an if clause: with libomp,
 * num_threads(1) would stay for someone else's region. */
static void run_parallel(const attend_call *call, size_t n_numbers, size_t n_segments, int n_threads)
{
    size_t n_jobs = n_numbers * n_segments;
    size_t stride =
        sums_floats(kvq_min_size(QUERY_TILE, call->n_q * call->heads_per_kv), call->cache->config.head_dim);
    bool split = n_segments > 1 && n_numbers < (size_t)n_threads * JOBS_PER_THREAD;
    float *memory = split ? malloc(n_jobs * stride * sizeof *memory) : NULL;
    if (memory == NULL) { /* nothing to gain, or no memory: the result is the same */
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
        for (size_t i = 0; i < n_numbers; i++)
            run_query_tile(call, i);
        return;
    }
#pragma omp parallel num_threads(n_threads)
    {
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < n_jobs; i++)
            run_job(call, i, n_segments, memory, stride);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < n_numbers; i++)
            add_segments(call, i, n_segments, memory, stride);
    }
    free(memory);
}

/* ---- The public call ---- */

void kvq_attend_options_init_sized(kvq_attend_options *options, size_t struct_size)
{
    static const kvq_attend_options defaults;
    if (options != NULL)
        (void)kvq_sized_write(options, struct_size, &defaults, sizeof defaults, false);
}

void kvq_attend_counters_init_sized(kvq_attend_counters *counters, size_t struct_size)
{
    static const kvq_attend_counters none;
    if (counters != NULL)
        (void)kvq_sized_write(counters, struct_size, &none, sizeof none, false);
}

static kvq_status check_sequences(const kvq_cache *cache, size_t layer, const size_t *sequences,
                                  size_t n_sequences, size_t n_q, bool equal_lengths)
{
    size_t first_length = 0;
    for (size_t s = 0; s < n_sequences; s++) {
        size_t sequence = sequences == NULL ? s : sequences[s];
        size_t n_tokens = kvq_cache_n_tokens(cache, layer, sequence);
        if (sequence >= cache->config.n_sequences || n_tokens < n_q)
            return KVQ_ERR_ARG;
        if (s == 0)
            first_length = n_tokens;
        if (equal_lengths && n_tokens != first_length)
            return KVQ_ERR_ARG;
    }
    return KVQ_OK;
}

static size_t longest(const kvq_cache *cache, size_t layer, const size_t *sequences, size_t n_sequences)
{
    size_t n_tokens = 0;
    for (size_t s = 0; s < n_sequences; s++)
        n_tokens =
            kvq_max_size(n_tokens, kvq_cache_n_tokens(cache, layer, sequences == NULL ? s : sequences[s]));
    return n_tokens;
}

/* Elements of K that the call visits. */
static size_t work_size(const kvq_cache *cache, size_t layer, const size_t *sequences, size_t n_sequences,
                        size_t n_q)
{
    size_t n_tokens = 0;
    for (size_t s = 0; s < n_sequences; s++)
        n_tokens += kvq_cache_n_tokens(cache, layer, sequences == NULL ? s : sequences[s]);
    return n_tokens * n_q * cache->config.n_heads * cache->config.head_dim;
}

/* Fast precision is for both sides: the error of scores is estimated from what the fold of values tells. */
static bool folds(const kvq_layer_plan *plan)
{
    return plan->layout[KVQ_KEYS].codec == &kvq_codec_affine &&
           plan->layout[KVQ_VALUES].codec == &kvq_codec_affine && kvq_layout_folds(&plan->layout[KVQ_KEYS]) &&
           kvq_layout_folds(&plan->layout[KVQ_VALUES]);
}

/* Read what the caller's counters hold; the call adds to it. */
static bool read_counters(const kvq_attend_options *options, kvq_attend_counters *counters)
{
    *counters = (kvq_attend_counters){0};
    return options->counters == NULL || kvq_sized_read(counters, sizeof *counters, options->counters,
                                                       KVQ_SIZE_THROUGH(kvq_attend_counters, heads_again));
}

static void write_counters(const kvq_attend_options *options, const kvq_attend_counters *counters)
{
    if (options->counters != NULL)
        (void)kvq_sized_write(options->counters, options->counters->struct_size, counters, sizeof *counters,
                              false);
}

static kvq_status read_options(const kvq_attend_options *given, kvq_attend_options *options)
{
    *options = (kvq_attend_options){0};
    if (given != NULL &&
        !kvq_sized_read(options, sizeof *options, given, KVQ_SIZE_THROUGH(kvq_attend_options, counters)))
        return KVQ_ERR_ARG;
    bool precision = options->precision == KVQ_PRECISION_FAST || options->precision == KVQ_PRECISION_EXACT;
    return precision && options->n_threads >= 0 ? KVQ_OK : KVQ_ERR_ARG;
}

/* All query tiles, on as many threads as are worth it. */
static void run_call(const attend_call *call, size_t n_sequences, int wanted_threads)
{
    const kvq_cache *cache = call->cache;
    size_t n_numbers = n_sequences * cache->config.n_kv_heads * call->n_query_tiles;
    size_t n_segments = (longest(cache, call->layer, call->sequences, n_sequences) + SEGMENT - 1) / SEGMENT;
    int n_threads = kvq_n_threads(wanted_threads, n_numbers * n_segments);
    if (n_threads > 1 &&
        work_size(cache, call->layer, call->sequences, n_sequences, call->n_q) >= MIN_PARALLEL_ELEMENTS) {
        run_parallel(call, n_numbers, n_segments, n_threads);
        return;
    }
    for (size_t i = 0; i < n_numbers; i++)
        run_query_tile(call, i);
}

kvq_status kvq_cache_attend(const kvq_cache *cache, size_t layer, const size_t *sequences, size_t n_sequences,
                            const float *q, size_t n_q, float scale, const kvq_attend_options *given,
                            float *out)
{
    kvq_attend_options options;
    kvq_attend_counters counters;
    KVQ_TRY(read_options(given, &options));
    if (cache == NULL || q == NULL || out == NULL || layer >= cache->config.n_layers || n_q == 0 ||
        !isfinite(scale) || !read_counters(&options, &counters))
        return KVQ_ERR_ARG;
    KVQ_TRY(check_sequences(cache, layer, sequences, n_sequences, n_q, options.probabilities != NULL));
    const kvq_config *config = &cache->config;
    if (!cache->kernels->all_finite_f32(q, n_sequences * n_q * config->n_heads * config->head_dim))
        return KVQ_ERR_NONFINITE;
    size_t heads_per_kv = config->n_heads / config->n_kv_heads;
    bool is_fast =
        options.precision == KVQ_PRECISION_FAST && options.bound == NULL && folds(&cache->plan[layer]);
    attend_call call = {
        .cache = cache,
        .plan = &cache->plan[layer],
        .sequences = sequences,
        .layer = layer,
        .n_q = n_q,
        .heads_per_kv = heads_per_kv,
        .n_query_tiles = (n_q * heads_per_kv + QUERY_TILE - 1) / QUERY_TILE,
        .q = q,
        .scale = scale,
        .log2_scale = scale * 0x1.715476p+0f,
        .sums = is_fast ? KVQ_SUMS_FAST : KVQ_SUMS_EXACT,
        .out = out,
        .probabilities = options.probabilities,
        .bound = options.bound,
        .counters = &counters,
    };
    run_call(&call, n_sequences, options.n_threads);
    counters.heads += n_sequences * n_q * config->n_heads;
    write_counters(&options, &counters);
    return KVQ_OK;
}
