/*
 * How many threads a call uses.
 */
#include "lib/internal.h"

#include <omp.h>

int kvq_n_threads(int wanted, size_t n_tasks)
{
    int n_threads = wanted > 0 ? wanted : omp_get_max_threads();
    return n_tasks < (size_t)n_threads ? (int)n_tasks : n_threads;
}
