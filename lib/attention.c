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
 * with wide sums, which are as good as float32.
 *
 * Here is the call and how it is dealt out to threads; tile.c walks one tile's tokens, sums.c adds up.
 */
#include "lib/tile.h"

#include <stdatomic.h>
#include <stdlib.h>

enum {
    MIN_THREAD_ELEMENTS =
        1 << 15,           /* of keys to visit, below which one more thread costs more than it saves */
    PIECES_PER_THREAD = 2, /* into which work that is left is cut */
    PLAIN_COST = 3,        /* of a token that is not packed, in packed ones */
};

/* ---- Jobs: a tile, or a run of its segments ---- */

/* A tile that several jobs share. Its segments' sums lie apart until all are there. */
typedef struct cut_tile {
    float *sums;          /* [at.n_segments], each of kvq_sums_floats */
    atomic_size_t n_left; /* jobs that have not ended */
} cut_tile;

typedef struct job {
    kvq_tile_place at;
    size_t segment, n_segments; /* counted from the tile's first one */
    cut_tile *cut;              /* NULL: the whole tile */
} job;

/* What the jobs of a call have done, in the order of kvq_attend_counters. */
typedef struct tally {
    atomic_uint_least64_t superblocks, wide, exact, again;
} tally;

typedef struct job_list {
    const kvq_attention_work *a;
    tally *tally;
    job *jobs;
    cut_tile *cuts;
    float *sums;
    size_t n_jobs, n_cuts, n_sums; /* n_sums: floats */
} job_list;

static void add_to(atomic_uint_least64_t *sum, uint64_t n)
{
    if (n > 0)
        atomic_fetch_add_explicit(sum, n, memory_order_relaxed);
}

static void count(tally *sum, const kvq_attend_counters *n)
{
    add_to(&sum->superblocks, n->superblocks);
    add_to(&sum->wide, n->superblocks_wide);
    add_to(&sum->exact, n->superblocks_exact);
    add_to(&sum->again, n->heads_again);
}

/* A job's segments into their places. True for the last of a tile's jobs, with the sums of all of them. */
static bool run_segments(kvq_tile *t, const job *j, kvq_tile_sums *total)
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

static void run_job(const kvq_attention_work *a, const job *j, tally *sum)
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

static void run_job_number(void *arg, size_t i)
{
    const job_list *list = arg;
    run_job(list->a, &list->jobs[i], list->tally);
}

/* ---- Dealing out ---- */

/* What tokens [begin, end) cost a tile, in packed tokens of a row. */
static size_t cost_of(const kvq_tile_place *at, size_t begin, size_t end)
{
    const kvq_layer *layer = at->span->view.layer;
    size_t packed = kvq_min_size(layer->packed[KVQ_KEYS], layer->packed[KVQ_VALUES]);
    size_t plain = kvq_max_size(begin, packed + at->span->view.plan->scheme.sinks);
    return (end - begin + (plain < end ? end - plain : 0) * (PLAIN_COST - 1)) * at->n_rows;
}

/* What a whole tile costs. */
static size_t cost_of_tile(const kvq_tile_place *at)
{
    return cost_of(at, at->first_token, at->n_tokens);
}

/* What one of its segments costs, counted from the first. */
static size_t cost_of_segment(const kvq_tile_place *at, size_t i)
{
    size_t sinks = at->span->view.plan->scheme.sinks, segment = at->first_segment + i;
    size_t begin = i == 0 ? at->first_token : sinks + kvq_segment_begin(segment);
    size_t end = kvq_min_size(sinks + kvq_segment_begin(segment + 1), at->n_tokens);
    return begin < end ? cost_of(at, begin, end) : 0;
}

static void add_job(job_list *list, const job *j)
{
    if (list->jobs != NULL)
        list->jobs[list->n_jobs] = *j;
    list->n_jobs++;
}

/* Cut a tile, from its newest segment back, into jobs of at most a share of the work that is left. */
static void cut(job_list *list, const kvq_tile_place *at, size_t n_shares, size_t left)
{
    cut_tile *whole = list->cuts == NULL ? NULL : &list->cuts[list->n_cuts];
    size_t n_before = list->n_jobs;
    for (size_t end = at->n_segments, begin; end > 0; end = begin) {
        size_t cost = cost_of_segment(at, end - 1);
        for (begin = end - 1; begin > 0; begin--) {
            size_t more = cost_of_segment(at, begin - 1);
            if (cost + more > left / n_shares)
                break;
            cost += more;
        }
        left -= kvq_min_size(cost, left);
        add_job(list, &(job){.at = *at, .segment = begin, .n_segments = end - begin, .cut = whole});
    }
    if (whole != NULL) {
        whole->sums = list->sums + list->n_sums;
        atomic_init(&whole->n_left, list->n_jobs - n_before);
    }
    list->n_cuts++;
    list->n_sums += at->n_segments * kvq_sums_floats(list->a, at->n_rows);
}

/* Make the list, or, without arrays, count what it takes. Each job is at most a share of what is left to do
 * when its turn comes (guided self-scheduling: Polychronopoulos and Kuck, IEEE Trans. Computers 36(12), 1987),
 * but for single segments. So threads end together without any sorting: many tiles stay whole but for the
 * last ones, and a long sequence is cut wherever it comes. */
static void make_list(job_list *list, const kvq_span *spans, size_t n_spans, int n_threads, size_t left)
{
    size_t n_shares = (size_t)n_threads * PIECES_PER_THREAD;
    list->n_jobs = list->n_cuts = list->n_sums = 0;
    for (size_t s = 0; s < n_spans; s++)
        for (size_t i = 0; i < kvq_n_tiles(list->a, &spans[s]); i++) {
            kvq_tile_place at = kvq_tile_find(list->a, &spans[s], i);
            size_t cost = cost_of_tile(&at);
            if (at.n_segments > 1 && cost > left / n_shares)
                cut(list, &at, n_shares, left);
            else
                add_job(list, &(job){.at = at, .n_segments = at.n_segments});
            left -= kvq_min_size(cost, left);
        }
}

/* False if there is no memory to do so. */
static bool run_parallel(const kvq_attention_work *a, const kvq_span *spans, size_t n_spans, int n_threads,
                         size_t cost, tally *sum)
{
    job_list list = {.a = a, .tally = sum};
    make_list(&list, spans, n_spans, n_threads, cost);
    list.jobs = malloc(list.n_jobs * sizeof *list.jobs + list.n_cuts * sizeof *list.cuts +
                       list.n_sums * sizeof *list.sums);
    if (list.jobs == NULL)
        return false;
    list.cuts = (cut_tile *)(void *)(list.jobs + list.n_jobs);
    list.sums = (float *)(void *)(list.cuts + list.n_cuts);
    make_list(&list, spans, n_spans, n_threads, cost);
    kvq_parallel_for(a->call->cache, n_threads, list.n_jobs, run_job_number, &list);
    free(list.jobs);
    return true;
}

static void run_serial(const kvq_attention_work *a, const kvq_span *spans, size_t n_spans, tally *sum)
{
    for (size_t s = 0; s < n_spans; s++)
        for (size_t i = 0; i < kvq_n_tiles(a, &spans[s]); i++)
            run_job(a, &(job){.at = kvq_tile_find(a, &spans[s], i)}, sum);
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
        .sums = call->fast && kvq_plan_folds(plan) ? KVQ_SUMS_FAST : KVQ_SUMS_EXACT,
    };
    tally sum = {0};
    size_t cost = 0, n_pieces = 0, n_elements = 0;
    for (size_t s = 0; s < n_spans; s++) {
        size_t n_tokens = spans[s].n_before + spans[s].n_q;
        size_t n_seen = n_tokens - kvq_first_visible(call->window, n_tokens);
        call->counters->heads += spans[s].n_q * config->n_heads;
        n_elements += n_seen * spans[s].n_q * config->n_heads * config->head_dim;
    }
    size_t most_threads = n_elements / MIN_THREAD_ELEMENTS;
    int n_threads = most_threads > 1 ? kvq_n_threads(call->cache, call->n_threads, most_threads) : 1;
    for (size_t s = 0; s < n_spans && n_threads > 1; s++)
        for (size_t i = 0; i < kvq_n_tiles(&a, &spans[s]); i++) {
            kvq_tile_place at = kvq_tile_find(&a, &spans[s], i);
            cost += cost_of_tile(&at);
            n_pieces += at.n_segments;
        }
    n_threads = n_pieces < (size_t)n_threads ? (int)kvq_max_size(n_pieces, 1) : n_threads;
    if (n_threads == 1 || !run_parallel(&a, spans, n_spans, n_threads, cost, &sum))
        run_serial(&a, spans, n_spans, &sum);
    call->counters->superblocks += sum.superblocks;
    call->counters->superblocks_wide += sum.wide;
    call->counters->superblocks_exact += sum.exact;
    call->counters->heads_again += sum.again;
}
