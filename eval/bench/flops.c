/* How many floating-point operations a second this machine's matrix products make (machine.h). */
#include "eval/bench/machine.h"
#include "eval/common/progress.h"

#include <cblas.h>
#include <stdlib.h>

bool bench_measure_flops(double seconds, double *flops, eval_error *e)
{
    enum { N = 1024, MIN_ROUNDS = 5 };
    const size_t n_elems = (size_t)N * N;
    float *x = bench_alloc(3 * n_elems * sizeof *x);
    bench_sample sample = {0};
    if (!x)
        return eval_fail(e, "out of memory for three matrices of %d by %d", N, N);
    bench_fill_normal(x, 2 * n_elems, 1);
    const double start = progress_now();
    bool good = true;
    for (size_t round = 0; good && (round <= MIN_ROUNDS || progress_now() - start < seconds); round++) {
        const double before = progress_now();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, N, N, N, 1.0f, x, N, x + n_elems, N, 0.0f,
                    x + 2 * n_elems, N);
        const double t = progress_now() - before;
        good = round == 0 || bench_sample_add(&sample, 2.0 * N * N * N / t); /* round 0 warms up */
    }
    *flops = BENCH_MEDIAN(&sample);
    bench_sample_free(&sample);
    free(x);
    return good || eval_fail(e, "out of memory");
}
