/* Measuring many schemes, cell by cell, into a results file from which the same sweep goes on later. */
#ifndef KVQ_EVAL_SWEEP_SWEEP_H
#define KVQ_EVAL_SWEEP_SWEEP_H

#include "eval/common/error.h"
#include "eval/measure/evaluate.h"
#include "eval/model/inputs.h"
#include "eval/results/results.h"
#include "eval/sweep/grid.h"
#include "eval/sweep/shard.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* How far one process is, where other processes can see it. All zero at first. */
typedef struct sweep_state {
    atomic_size_t n_cells;     /* that were missing, and are this process's */
    atomic_size_t n_done;      /* of them */
    atomic_size_t n_failed;    /* likewise */
    atomic_size_t thousandths; /* of cells that are done, also of those at work */
} sweep_state;

typedef struct sweep_config {
    const inputs *in;
    const scheme_list *list;
    kvq_precision precision;
    bool append_only;
    uint64_t seed;
    int n_threads; /* that windows run on side by side; at least 1 */
    size_t group; /* schemes that share one fp32 pass, at least 1: what is lost at most of a window that is at
                     work */
    shard shard;
    const char *out;
    sweep_state *state;
    void (*progress)(void *ctx); /* called when the state has changed, by one thread at a time */
    void *progress_ctx;
    bool (*stop)(void *ctx); /* asked before every step, by any thread */
    void *stop_ctx;
    /* Told of a cell that cannot be measured, by one thread at a time. The sweep goes on without it. */
    void (*failed)(void *ctx, const char *scheme, size_t window, const eval_error *why);
    void *failed_ctx;
} sweep_config;

/* The cells of a sweep: fp32 and each scheme, for each window. */
typedef struct sweep_plan {
    experiment experiment;
    uint64_t *ids_checksums; /* [n_windows] */
    size_t n_windows;
    const char **schemes; /* [n_schemes] texts, the first "fp32"; they live as long as the list */
    size_t n_schemes;
    size_t n_unsuited;        /* schemes of the list that this model's caches cannot have */
    char first_unsuited[256]; /* one of them, and why */
} sweep_plan;

/** What there is to measure. Takes as long as reading all weights once. At least one scheme must suit. */
EVAL_MUST_CHECK bool sweep_plan_make(sweep_plan *out, const sweep_config *config, eval_error *e);

void sweep_plan_free(sweep_plan *plan); /* an all-zero one is fine */

/** The key of a cell; scheme and window are indices. */
uint64_t sweep_key(const sweep_plan *plan, size_t scheme, size_t window);

/**
 * Read config->out, which need not be there yet, and measure what is missing in it of this process's part. A
 * group of one window at a time is measured by each thread, and written before the thread takes the next.
 *
 * Returns false for what ends all work: the file cannot be read or written, no memory; also if it was
 * stopped, with what was done in the file. Cells that fail are counted in the state.
 */
EVAL_MUST_CHECK bool sweep_run(const sweep_config *config, const sweep_plan *plan, eval_error *e);

/** Read a results file; one that is not there has no cells. */
EVAL_MUST_CHECK bool sweep_load(results *out, const char *path, eval_error *e);

#endif
