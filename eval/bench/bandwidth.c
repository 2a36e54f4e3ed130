/* How fast this machine can read memory: the limit that packed caches run against (machine.h). */
#include "eval/bench/machine.h"
#include "eval/bench/target.h"
#include "eval/common/progress.h"

#include <assert.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

const char *const bench_level_names[BENCH_N_LEVELS] = {"L2", "L3", "DRAM"};

enum { N_STREAMS = 4, LINE = N_STREAMS * 64, MIN_ROUNDS = 9 }; /* parts are whole cache lines per stream */

/*
 * Four streams at once: one alone leaves much of the third level's bandwidth to the latency of its lines.
 * Plain words, which compilers put into registers as wide as they have: of a vector type wider than those gcc
 * keeps every operand on the stack, and reads at a fifth of the speed (tests/bench_assembly_test.sh).
 */
static inline BENCH_INLINE uint64_t read_all_body(const void *data, size_t n_bytes)
{
    const size_t n = n_bytes / N_STREAMS / sizeof(uint64_t);
    const uint64_t *x = data;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < n; i++) {
        a ^= x[i];
        b ^= x[n + i];
        c ^= x[2 * n + i];
        d ^= x[3 * n + i];
    }
    return a ^ b ^ c ^ d;
}

BENCH_CLONES(uint64_t, read_all, (const void *data, size_t n_bytes), (data, n_bytes))

/* Seconds in which n_threads read their parts of the data n_passes times. */
static double timed_read(const uint8_t *data, size_t part, int n_threads, size_t n_passes)
{
    static volatile uint64_t sink; /* so that nothing is optimised away */
    uint64_t sum = 0;
    double seconds = 0.0;
    if (n_threads == 1) { /* no OpenMP around what it is compared with */
        const double start = progress_now();
        for (size_t i = 0; i < n_passes; i++)
            sum ^= read_all(data, part);
        seconds = progress_now() - start;
    } else {
#pragma omp parallel num_threads(n_threads) reduction(^ : sum) reduction(max : seconds)
        {
            const uint8_t *mine = data + part * (size_t)omp_get_thread_num();
            sum ^= read_all(mine, part < LINE ? part : LINE);
#pragma omp barrier
            const double start = progress_now();
            for (size_t i = 0; i < n_passes; i++)
                sum ^= read_all(mine, part);
            seconds = progress_now() - start;
        }
    }
    sink = sink ^ sum;
    return seconds;
}

static size_t level_bytes(const bench_machine *m, int level, int n_threads)
{
    const size_t n = (size_t)n_threads, dram = 4 * m->l3, least = (size_t)256 << 20, most = (size_t)1 << 30;
    size_t bytes = level == BENCH_L2   ? m->l2 / 2 * n
                   : level == BENCH_L3 ? (m->l3 / 2 > 4 * m->l2 ? m->l3 / 2 : 4 * m->l2)
                   : dram < least      ? least
                   : dram > most       ? most
                                       : dram;
    return bytes / (n * LINE) * (n * LINE);
}

int bench_level_of(const bench_machine *m, double n_bytes, int n_threads)
{
    if (n_bytes <= 0.75 * (double)m->l2 * n_threads)
        return BENCH_L2;
    return n_bytes <= (double)m->l3 ? BENCH_L3 : BENCH_DRAM;
}

bool bench_measure_bandwidth(const bench_machine *m, const int *threads, size_t n_threads, double seconds,
                             bench_bandwidth *out, eval_error *e)
{
    const size_t n = n_threads * BENCH_N_LEVELS;
    size_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        bench_bandwidth *b = &out[i];
        b->level = (int)(i % BENCH_N_LEVELS);
        b->n_threads = threads[i / BENCH_N_LEVELS];
        b->n_bytes = level_bytes(m, b->level, b->n_threads);
        largest = b->n_bytes > largest ? b->n_bytes : largest;
    }
    uint8_t *data = bench_alloc(largest);
    if (!data)
        return eval_fail(e, "out of memory for %zu bytes to read", largest);
    memset(data, 1, largest);
    const double start = progress_now();
    bool good = true;
    for (size_t round = 0; good && (round < MIN_ROUNDS || progress_now() - start < seconds); round++) {
        for (size_t i = 0; good && i < n; i++) {
            bench_bandwidth *b = &out[i];
            assert(b->n_bytes > 0 && b->n_threads > 0);
            const size_t part = b->n_bytes / (size_t)b->n_threads;
            /* Reads of some 2 ms, after one that brings the data where it belongs. */
            const size_t n_passes = 1 + ((size_t)48 << 20) / b->n_bytes;
            if (b->level != BENCH_DRAM)
                (void)timed_read(data, part, b->n_threads, 1);
            const double t = timed_read(data, part, b->n_threads, n_passes);
            good = bench_sample_add(&b->gb_s, (double)part * b->n_threads * (double)n_passes / t * 1e-9);
        }
    }
    free(data);
    return good || eval_fail(e, "out of memory");
}
