/* Which part of a sweep's cells is this process's. */
#ifndef KVQ_EVAL_SWEEP_SHARD_H
#define KVQ_EVAL_SWEEP_SHARD_H

#include "eval/common/error.h"

#include <stddef.h>

typedef struct shard {
    size_t index, n;  /* cell i is this process's if i % n is index; n is at least 1 */
    char source[160]; /* where it comes from, for people; "" if nowhere */
} shard;

enum { SHARD_MAX = 1 << 20 };

/** Read "I/N", I from 1 to N. */
EVAL_MUST_CHECK bool shard_parse(shard *out, const char *text, eval_error *e);

/**
 * What a batch system or MPI says in the environment: SLURM_ARRAY_TASK_ID with SLURM_ARRAY_TASK_COUNT (and
 * _MIN, _STEP), and the rank and size of OMPI_COMM_WORLD_*, PMI_* or PMIX_RANK with SLURM_STEP_NUM_TASKS.
 * Both at once divide an array task's part among its ranks. Nothing said: one of one. Errors: an index
 * without how many there are, or one that is not below it.
 */
EVAL_MUST_CHECK bool shard_from_environment(shard *out, eval_error *e);

/** Part `index` of n of a part. */
void shard_divide(shard *s, size_t index, size_t n);

#endif
