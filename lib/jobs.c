/*
 * Cutting the work of a call of attention into jobs that keep threads busy to the end.
 *
 * Each job is at most a share of what is left to do when its turn comes (guided self-scheduling:
 * Polychronopoulos and Kuck, IEEE Transactions on Computers 36(12), 1987), but for single segments. So
 * threads end together without any sorting: of many tiles all stay whole but the last few, and a long
 * sequence is cut wherever it comes.
 */
#include "lib/jobs.h"

#include <stdlib.h>

enum {
    SHARES_PER_THREAD = 2, /* of the work that is left */
    PLAIN_COST = 3,        /* of a token that is not packed, in packed ones */
};

/* What tokens [begin, end) cost a tile. */
static size_t cost_of(const kvq_tile_place *at, size_t begin, size_t end)
{
    const kvq_layer *layer = at->span->view.layer;
    size_t packed = kvq_min_size(layer->packed[KVQ_KEYS], layer->packed[KVQ_VALUES]);
    size_t plain = kvq_max_size(begin, packed + at->span->view.plan->scheme.sinks);
    return (end - begin + (plain < end ? end - plain : 0) * (PLAIN_COST - 1)) * at->n_rows;
}

/* What segments [first, end) of a tile cost, counted from its first one. */
static size_t cost_of_segments(const kvq_tile_place *at, size_t first, size_t end)
{
    size_t sinks = at->span->view.plan->scheme.sinks;
    size_t from = first == 0 ? at->first_token : sinks + kvq_segment_begin(at->first_segment + first);
    size_t to = kvq_min_size(sinks + kvq_segment_begin(at->first_segment + end), at->n_tokens);
    return from < to ? cost_of(at, from, to) : 0;
}

size_t kvq_job_cost(const kvq_job *job)
{
    return cost_of_segments(&job->at, job->segment, job->segment + job->n_segments);
}

kvq_work_size kvq_work_size_of(const kvq_attention_work *a, const kvq_span *spans, size_t n_spans)
{
    kvq_work_size size = {0};
    for (size_t s = 0; s < n_spans; s++)
        for (size_t i = 0; i < kvq_n_tiles(a, &spans[s]); i++) {
            kvq_tile_place at = kvq_tile_find(a, &spans[s], i);
            size.cost += cost_of_segments(&at, 0, at.n_segments);
            size.n_segments += at.n_segments;
        }
    return size;
}

static void add_job(kvq_job_list *list, const kvq_job *job)
{
    if (list->jobs != NULL)
        list->jobs[list->n_jobs] = *job;
    list->n_jobs++;
}

/* Cut a tile, from its newest segment back, because those that are not packed take longest. */
static void cut(kvq_job_list *list, const kvq_attention_work *a, const kvq_tile_place *at, size_t n_shares,
                size_t left)
{
    kvq_cut_tile *whole = list->jobs == NULL ? NULL : &list->cuts[list->n_cuts];
    size_t n_before = list->n_jobs;
    for (size_t end = at->n_segments, begin; end > 0; end = begin) {
        begin = end - 1;
        while (begin > 0 && cost_of_segments(at, begin - 1, end) <= left / n_shares)
            begin--;
        left -= kvq_min_size(cost_of_segments(at, begin, end), left);
        add_job(list, &(kvq_job){.at = *at, .segment = begin, .n_segments = end - begin, .cut = whole});
    }
    if (whole != NULL) {
        whole->sums = list->sums + list->n_sums;
        atomic_init(&whole->n_left, list->n_jobs - n_before);
    }
    list->n_cuts++;
    list->n_sums += at->n_segments * kvq_sums_floats(a, at->n_rows);
}

/* Fill the list, or, while it has no arrays, count what they must hold. */
static void fill(kvq_job_list *list, const kvq_attention_work *a, const kvq_span *spans, size_t n_spans,
                 int n_threads, size_t left)
{
    size_t n_shares = (size_t)n_threads * SHARES_PER_THREAD;
    list->n_jobs = list->n_cuts = list->n_sums = 0;
    for (size_t s = 0; s < n_spans; s++)
        for (size_t i = 0; i < kvq_n_tiles(a, &spans[s]); i++) {
            kvq_tile_place at = kvq_tile_find(a, &spans[s], i);
            size_t cost = cost_of_segments(&at, 0, at.n_segments);
            if (at.n_segments > 1 && cost > left / n_shares)
                cut(list, a, &at, n_shares, left);
            else
                add_job(list, &(kvq_job){.at = at, .n_segments = at.n_segments});
            left -= kvq_min_size(cost, left);
        }
}

bool kvq_jobs_make(kvq_job_list *list, const kvq_attention_work *a, const kvq_span *spans, size_t n_spans,
                   int n_threads, size_t cost)
{
    *list = (kvq_job_list){0};
    fill(list, a, spans, n_spans, n_threads, cost);
    list->jobs = malloc(list->n_jobs * sizeof *list->jobs + list->n_cuts * sizeof *list->cuts +
                        list->n_sums * sizeof *list->sums);
    if (list->jobs == NULL)
        return false;
    list->cuts = (kvq_cut_tile *)(void *)(list->jobs + list->n_jobs);
    list->sums = (float *)(void *)(list->cuts + list->n_cuts);
    fill(list, a, spans, n_spans, n_threads, cost);
    return true;
}

void kvq_jobs_free(kvq_job_list *list)
{
    free(list->jobs);
}
