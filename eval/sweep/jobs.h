/* A sweep's part divided among processes of this machine, which share how far they are. */
#ifndef KVQ_EVAL_SWEEP_JOBS_H
#define KVQ_EVAL_SWEEP_JOBS_H

#include "eval/common/error.h"
#include "eval/sweep/sweep.h"

#include <sys/types.h>

enum { JOBS_MAX = 256 };

typedef struct job {
    sweep_state state;
    char error[sizeof(eval_error)]; /* why it ended; "" if it did not fail */
} job;

typedef struct jobs {
    size_t n, mine;    /* processes; which of them this is: 0 has started the others */
    job *all;          /* [n], shared */
    atomic_bool *stop; /* shared: all are to end */
    pid_t pids[JOBS_MAX];
} jobs;

/**
 * Start n - 1 processes that are copies of this one, which goes on as number 0. Must come before anything
 * uses OpenMP, whose threads a copy does not have. On failure there is none of them.
 */
EVAL_MUST_CHECK bool jobs_start(jobs *out, size_t n, eval_error *e);

/** Number 0: wait for the others and call `tick` meanwhile, some times a second. On failure of some, *e is
 * the first one's. Ends with jobs_free. */
EVAL_MUST_CHECK bool jobs_wait(jobs *j, void (*tick)(void *ctx), void *ctx, eval_error *e);

/** The sum of all processes' states. */
void jobs_sum(const jobs *j, sweep_state *out);

void jobs_free(jobs *j); /* an all-zero one is fine */

#endif
