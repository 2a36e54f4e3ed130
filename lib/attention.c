/*
 * How attention is computed, for kvq_cache_attend and kvq_cache_step alike.
 *
 * The queries of one sequence that share a KV head, n_q queries times H/Hkv heads, are called rows here and
 * come in tiles of up to KVQ_QUERY_TILE rows, of wide heads fewer. A tile walks the tokens in chunks of at
 * most 128 and keeps, per row, a reference near the maximum, a running sum and a running weighted sum of
 * values (online softmax: Milakov and Gimelshein, arXiv 1805.02867), so each page is read once.
 *
 * Chunks follow indices past the sinks: [0, 128), [128, 256), ..., after the sinks' own chunks. A chunk's
 * tokens may be packed, in the residual, or partly both; that changes where a row comes from but not the
 * order of the sums. This is why a cache that still holds everything in a float32 residual gives the bits of
 * the fp32 scheme.
 *
 * At certain tokens the sums start afresh (tile.h), and the segments between are added up in their order. So
 * a segment can be computed by any thread at any time without changing a bit of the result: a single thread
 * goes from segment to segment and adds as it goes; where a tile is more than its share of a call, its
 * segments are dealt out and their sums kept until all are there.
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
 * with wide sums. Exact precision has these at once.
 *
 * Here is the call; jobs.c cuts it up for threads, tile.c walks one tile's tokens, sums.c adds up.
 */
#include "lib/jobs.h"

enum {
    MIN_THREAD_ELEMENTS =
        1 << 15, /* of keys to visit, below which one more thread costs more than it saves */
};

/* ---- Jobs ---- */

/* What the jobs of a call have counted. */
typedef struct tally {
    atomic_uint_least64_t superblocks, wide, float32, again;
} tally;

static void add_to(atomic_uint_least64_t *sum, uint64_t n)
{
    if (n > 0)
        atomic_fetch_add_explicit(sum, n, memory_order_relaxed);
}

static void count(tally *sum, const kvq_attend_counters *n)
{
    add_to(&sum->superblocks, n->superblocks);
    add_to(&sum->wide, n->superblocks_wide);
    add_to(&sum->float32, n->superblocks_exact);
    add_to(&sum->again, n->heads_again);
}

/* A job's segments into their places. True for the last of a tile's jobs, with the sums of all of them. */
static bool run_segments(kvq_tile *t, const kvq_job *j, kvq_tile_sums *total)
{
    size_t stride = kvq_sums_floats(t->a, t->n_rows);
    for (size_t i = j->segment; i < j->segment + j->n_segments; i++)
        kvq_tile_run_segment(t, t->at.first_segment + i, j->cut->sums + i * stride);
    if (atomic_fetch_sub_explicit(&j->cut->n_left, 1, memory_order_acq_rel) > 1)
        return false;
    *total = kvq_sums_in(t->a, j->cut->sums, t->n_rows);
    for (size_t i = 1; i < t->at.n_segments; i++) {
        kvq_tile_sums part = kvq_sums_in(t->a, j->cut->sums + i * stride, t->n_rows);
        kvq_sums_add(t->a, total, &part, t->n_rows);
    }
    kvq_sums_finish(t->a, total, t->n_rows);
    return true;
}

static void run_job(const kvq_attention_work *a, const kvq_job *j, tally *sum)
{
    float now[KVQ_SUMS_FLOATS_MAX], all[KVQ_SUMS_FLOATS_MAX];
    kvq_tile t; /* its arrays are large and filled as far as they are used */
    kvq_tile_sums total;
    bool ends = true;
    kvq_tile_start(&t, a, &j->at);
    if (j->cut == NULL)
        total = kvq_tile_run(&t, now, all);
    else
        ends = run_segments(&t, j, &total);
    if (ends)
        kvq_tile_finish(&t, &total, now, all);
    count(sum, &t.counters);
}

/* ---- On one thread and on several ---- */

static void run_serial(const kvq_attention_work *a, const kvq_span *spans, size_t n_spans, tally *sum)
{
    for (size_t s = 0; s < n_spans; s++)
        for (size_t i = 0; i < kvq_n_tiles(a, &spans[s]); i++)
            run_job(a, &(kvq_job){.at = kvq_tile_find(a, &spans[s], i)}, sum);
}

typedef struct dealt {
    const kvq_attention_work *a;
    kvq_job_list list;
    tally *sum;
} dealt;

static void run_dealt(void *arg, size_t i)
{
    const dealt *d = arg;
    run_job(d->a, &d->list.jobs[i], d->sum);
}

/* False if there is no memory to do so. */
static bool run_parallel(const kvq_attention_work *a, const kvq_span *spans, size_t n_spans, int n_threads,
                         size_t cost, tally *sum)
{
    dealt d = {.a = a, .sum = sum};
    if (!kvq_jobs_make(&d.list, a, spans, n_spans, n_threads, cost))
        return false;
    kvq_parallel_for(a->call->cache, n_threads, d.list.n_jobs, run_dealt, &d);
    kvq_jobs_free(&d.list);
    return true;
}

/* How many threads it is worth. */
static int threads_for(const kvq_attention_work *a, const kvq_span *spans, size_t n_spans)
{
    const kvq_attention_call *call = a->call;
    const kvq_config *config = &call->cache->config;
    size_t n_elements = 0;
    for (size_t s = 0; s < n_spans; s++) {
        size_t n_tokens = spans[s].n_before + spans[s].n_q;
        size_t n_seen = n_tokens - kvq_first_visible(call->window, n_tokens);
        n_elements += n_seen * spans[s].n_q * a->heads_per_kv * call->n_heads * config->head_dim;
    }
    size_t most = n_elements / MIN_THREAD_ELEMENTS;
    return most > 1 ? kvq_n_threads(call->cache, call->n_threads, most) : 1;
}

/* ---- The call ---- */

void kvq_attention(const kvq_attention_call *call, const kvq_span *spans, size_t n_spans)
{
    const kvq_config *config = &call->cache->config;
    const kvq_layer_plan *plan = call->plan;
    kvq_attention_work a = {
        .call = call,
        .heads_per_kv = config->n_heads / config->n_kv_heads,
        .log2_scale = call->scale * 0x1.715476p+0f,
        .side = {&plan->side[KVQ_KEYS], &plan->side[KVQ_VALUES]},
        .apart = plan->side[KVQ_VALUES].codec->finish != NULL,
        .folds = kvq_plan_folds(plan),
        .sums = call->fast && kvq_plan_folds(plan) ? KVQ_SUMS_FAST : KVQ_SUMS_WIDE,
    };
    tally sum = {0};
    int n_threads = threads_for(&a, spans, n_spans);
    kvq_work_size size = {0};
    if (n_threads > 1)
        size = kvq_work_size_of(&a, spans, n_spans);
    n_threads = size.n_segments < (size_t)n_threads ? (int)size.n_segments : n_threads;
    if (n_threads <= 1 || !run_parallel(&a, spans, n_spans, n_threads, size.cost, &sum))
        run_serial(&a, spans, n_spans, &sum);
    for (size_t s = 0; s < n_spans; s++)
        call->counters->heads += spans[s].n_q * a.heads_per_kv * call->n_heads;
    call->counters->superblocks += sum.superblocks;
    call->counters->superblocks_wide += sum.wide;
    call->counters->superblocks_exact += sum.float32;
    call->counters->heads_again += sum.again;
}
