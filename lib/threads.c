/*
 * How many threads a call uses.
 */
#include "lib/internal.h"

#include <omp.h>

int kvq_n_threads(int wanted, size_t n_tasks)
{
    /* More than the system can start would end the process. */
    int most = omp_get_num_procs() > 64 ? omp_get_num_procs() : 64;
    int n_threads = wanted > 0 ? wanted : omp_get_max_threads();
    most = omp_get_thread_limit() < most ? omp_get_thread_limit() : most;
    n_threads = n_threads < most ? n_threads : most;
    return n_tasks < (size_t)n_threads ? (int)n_tasks : n_threads;
}
