/*
 * How attention is computed, for kvq_cache_attend and kvq_cache_step alike.
 *
 * The queries of one sequence that share a KV head, n_q queries times H/Hkv heads, are called rows here and
 * come in tiles of up to KVQ_QUERY_TILE rows. A tile walks the tokens in chunks of at most 128 and keeps, per
 * row, a reference near the maximum, a running sum and a running weighted sum of values (online softmax:
 * Milakov and Gimelshein, arXiv 1805.02867), so each page is read once.
 *
 * Chunks follow indices past the sinks: [0, 128), [128, 256), ..., after the sinks' own chunks. A chunk's
 * tokens may be packed, in the residual, or partly both; that changes where a row comes from but not the
 * order of the sums. This is why a cache that still holds everything in a float32 residual gives the bits of
 * the fp32 scheme.
 *
 * Every KVQ_SEGMENT tokens the sums start afresh, and segments are added up in their order. So a segment can
 * be computed by any thread at any time without changing a bit of the result: a single thread goes from
 * segment to segment and adds as it goes; where there are fewer tiles than threads to feed, segments are
 * dealt out and their sums kept until all are there.
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
 *
 * Here is the call and how it is dealt out to threads; tile.c walks one tile's tokens, sums.c adds up.
 */
#include "lib/tile.h"

#include <math.h>
#include <stdlib.h>

enum {
    MIN_PARALLEL_ELEMENTS = 1 << 16, /* keys to visit, below which threads cost more than they save */
    JOBS_PER_THREAD = 4,             /* pieces of work that balance the threads */
};

/* ---- Jobs: a tile, or a segment of one ---- */

/* Add what a tile counted to what the call did. Once per tile and job. */
static void count(const kvq_tile *t)
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
static void run_tile(const kvq_attention_work *a, size_t number)
{
    float now[KVQ_SUMS_FLOATS_MAX], all[KVQ_SUMS_FLOATS_MAX];
    kvq_tile t; /* its arrays are large and filled as far as they are used */
    kvq_tile_start(&t, a, number);
    kvq_tile_sums total = kvq_tile_run(&t, now, all);
    kvq_tile_finish(&t, &total, now, all);
    count(&t);
}

/* Segment job % n_segments, from its first one on, of tile number job / n_segments, into its own place. */
static void run_job(const kvq_attention_work *a, size_t job, size_t n_segments, float *memory, size_t stride)
{
    kvq_tile t;
    kvq_tile_start(&t, a, job / n_segments);
    kvq_tile_run_segment(&t, kvq_tile_first_segment(&t) + job % n_segments, memory + job * stride);
    count(&t);
}

static void add_segments(const kvq_attention_work *a, size_t number, size_t n_segments, float *memory,
                         size_t stride)
{
    float now[KVQ_SUMS_FLOATS_MAX], all[KVQ_SUMS_FLOATS_MAX];
    kvq_tile t;
    kvq_tile_start(&t, a, number);
    kvq_tile_sums total = kvq_sums_start(a, all, t.n_rows);
    for (size_t segment = 0; segment < n_segments; segment++) {
        kvq_tile_sums part = kvq_sums_in(a, memory + (number * n_segments + segment) * stride, t.n_rows);
        kvq_sums_add(a, &total, &part, t.n_rows);
    }
    kvq_sums_finish(a, &total, t.n_rows);
    kvq_tile_finish(&t, &total, now, all);
    count(&t);
}

/* All tiles on several threads. Pragmas are chosen by branches, not by an if clause: with libomp,
 * num_threads(1) would stay for someone else's region. */
static void run_parallel(const kvq_attention_work *a, size_t n_segments, int n_threads)
{
    size_t n_jobs = a->n_tiles * n_segments, stride = kvq_sums_floats(a, a->most_rows);
    bool split = n_segments > 1 && a->n_tiles < (size_t)n_threads * JOBS_PER_THREAD;
    float *memory = split ? malloc(n_jobs * stride * sizeof *memory) : NULL;
    if (memory == NULL) { /* nothing to gain, or no memory: the result is the same */
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
        for (size_t i = 0; i < a->n_tiles; i++)
            run_tile(a, i);
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
    size_t all = (n_tokens + KVQ_SEGMENT - 1) / KVQ_SEGMENT;
    if (window == 0 || window >= n_tokens)
        return all;
    size_t n = window + KVQ_QUERY_TILE - 1; /* of a tile whose rows are all of different queries */
    return kvq_min_size(all, (n + KVQ_SEGMENT - 2) / KVQ_SEGMENT + 1);
}

void kvq_attention(const kvq_attention_call *call, kvq_span *spans, size_t n_spans)
{
    const kvq_config *config = &call->cache->config;
    const kvq_layer_plan *plan = call->plan;
    kvq_attention_work a = {
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
        a.n_tiles += (n_rows + KVQ_QUERY_TILE - 1) / KVQ_QUERY_TILE * config->n_kv_heads;
        a.most_rows = kvq_max_size(a.most_rows, kvq_min_size(n_rows, KVQ_QUERY_TILE));
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
        run_tile(&a, i);
}
