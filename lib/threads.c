/*
 * How many threads a call uses, and how its work gets to them: the only place that starts any.
 */
#define _DEFAULT_SOURCE /* pthread_atfork */

#include "lib/internal.h"

#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>

/* After fork() the child has OpenMP's records of threads, but not the threads; a parallel region would wait
 * for them for ever. Nothing tells whether the parent had any (another library may have started them), so a
 * child never starts one. Written in the child alone, before anything else runs there. */
static bool is_forked_child;

static void note_fork(void)
{
    is_forked_child = true;
}

__attribute__((constructor)) static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, note_fork);
}

/* More than the system can start would end the process. (Counting processors is a system call.) */
static int most_openmp_threads(int wanted)
{
    enum { ALWAYS = 64 };
    int most = wanted <= ALWAYS || omp_get_num_procs() < ALWAYS ? ALWAYS : omp_get_num_procs();
    return omp_get_thread_limit() < most ? omp_get_thread_limit() : most;
}

int kvq_n_threads(const kvq_cache *cache, int wanted, size_t n_tasks)
{
    const kvq_config *config = &cache->config;
    if (config->parallel == NULL && is_forked_child)
        return 1;
    int n_threads = wanted > 0 ? wanted : config->n_threads > 0 ? config->n_threads : omp_get_max_threads();
    int most = config->parallel != NULL ? config->n_threads : most_openmp_threads(n_threads);
    n_threads = n_threads < most ? n_threads : most;
    return n_tasks < (size_t)n_threads ? (int)n_tasks : n_threads;
}

/* What is left of a call's tasks. */
typedef struct queue {
    kvq_task_fn task;
    void *arg;
    size_t n;
    atomic_size_t next;
} queue;

/* One thread's part: whatever is left, task by task. So it does not matter whether a pool deals parts out
 * evenly, late, or all to one thread. */
static void work_off(void *arg, size_t part)
{
    (void)part;
    queue *q = arg;
    for (size_t i; (i = atomic_fetch_add_explicit(&q->next, 1, memory_order_relaxed)) < q->n;)
        q->task(q->arg, i);
}

void kvq_parallel_for(const kvq_cache *cache, int n_threads, size_t n, kvq_task_fn task, void *arg)
{
    queue q = {.task = task, .arg = arg, .n = n};
    if (n_threads <= 1) { /* by a branch, not by an if clause: with libomp, num_threads(1) would stay for
                             someone else's region */
        work_off(&q, 0);
        return;
    }
    if (cache->config.parallel != NULL) {
        cache->config.parallel(cache->config.parallel_ctx, work_off, &q, (size_t)n_threads);
        return;
    }
#pragma omp parallel num_threads(n_threads)
    work_off(&q, 0);
}
