/*
 * How many threads a call uses.
 */
#define _DEFAULT_SOURCE /* pthread_atfork */

#include "lib/internal.h"

#include <omp.h>
#include <pthread.h>

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

int kvq_n_threads(int wanted, size_t n_tasks)
{
    if (is_forked_child)
        return 1;
    /* More than the system can start would end the process. */
    int most = omp_get_num_procs() > 64 ? omp_get_num_procs() : 64;
    int n_threads = wanted > 0 ? wanted : omp_get_max_threads();
    most = omp_get_thread_limit() < most ? omp_get_thread_limit() : most;
    n_threads = n_threads < most ? n_threads : most;
    return n_tasks < (size_t)n_threads ? (int)n_tasks : n_threads;
}
