/*
 * The work of one call of attention, cut into jobs for threads. Which threads do them, and when, changes no
 * bit: sums of segments lie apart until all of a tile's are there, and are added in their order.
 */
#ifndef KVQ_LIB_JOBS_H
#define KVQ_LIB_JOBS_H

#include "lib/tile.h"

#include <stdatomic.h>

/** A tile that several jobs share. */
typedef struct kvq_cut_tile {
    float *sums;          /* [at.n_segments], each of kvq_sums_floats */
    atomic_size_t n_left; /* jobs that have not ended */
} kvq_cut_tile;

/** A tile, or a run of its segments. */
typedef struct kvq_job {
    kvq_tile_place at;
    size_t segment, n_segments; /* counted from the tile's first one */
    kvq_cut_tile *cut;          /* NULL: the whole tile */
} kvq_job;

/** Work that may be dealt out: its cost, and the most jobs it could be. */
typedef struct kvq_work_size {
    size_t cost, n_segments;
} kvq_work_size;

typedef struct kvq_job_list {
    kvq_job *jobs; /* one piece of memory with the next two */
    kvq_cut_tile *cuts;
    float *sums;
    size_t n_jobs, n_cuts, n_sums; /* n_sums: floats */
} kvq_job_list;

/** What a job costs, in packed tokens of a row; near enough to balance threads. (Not static for tests.) */
size_t kvq_job_cost(const kvq_job *job);

kvq_work_size kvq_work_size_of(const kvq_attention_work *a, const kvq_span *spans, size_t n_spans);

/** Cut all tiles of the spans into jobs, in the order in which they are to begin. False if malloc has no
 * memory for it; otherwise kvq_jobs_free ends it. */
bool kvq_jobs_make(kvq_job_list *list, const kvq_attention_work *a, const kvq_span *spans, size_t n_spans,
                   int n_threads, size_t cost);
void kvq_jobs_free(kvq_job_list *list);

#endif /* KVQ_LIB_JOBS_H */
