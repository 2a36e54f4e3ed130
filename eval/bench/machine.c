/* What kind of machine this is, samples of times, memory and random numbers for them (machine.h). */
#define _GNU_SOURCE

#include "eval/bench/machine.h"

#include "eval/common/splitmix.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { HUGE_PAGE = 2 << 20 };

/* ---- the machine ---- */

#if defined(__x86_64__) && defined(__GNUC__)
/* The builtin wants literals. */
#define FEATURE(name)                                                                                        \
    {                                                                                                        \
        name, __builtin_cpu_supports(name) != 0                                                              \
    }

static void read_features(char *text, size_t size)
{
    __builtin_cpu_init();
    const struct {
        const char *name;
        bool here;
    } features[] = {
        FEATURE("avx2"),     FEATURE("fma"),        FEATURE("avx512f"),    FEATURE("avx512bw"),
        FEATURE("avx512vl"), FEATURE("avx512vbmi"), FEATURE("avx512vnni"), FEATURE("avx512bf16"),
    };
    text[0] = '\0';
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++) {
        const size_t used = strlen(text);
        if (features[i].here)
            snprintf(text + used, size - used, "%s%s", used > 0 ? " " : "", features[i].name);
    }
}
#else
static void read_features(char *text, size_t size)
{
#if defined(__aarch64__)
    snprintf(text, size, "aarch64");
#else
    text[0] = '\0';
    (void)size;
#endif
}
#endif

/* The kernel's word first: sysconf counts the third level of some processors several times over. */
static size_t cache_bytes(int level, int sysconf_name)
{
    for (int index = 0; index < 8; index++) {
        char path[128], type[32] = "", unit = '\0';
        int found_level = 0;
        unsigned long size = 0;
        static const char *const names[] = {"level", "type", "size"};
        for (size_t i = 0; i < 3; i++) {
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", index, names[i]);
            FILE *f = fopen(path, "r");
            if (!f)
                break;
            const int n = i == 0   ? fscanf(f, "%d", &found_level)
                          : i == 1 ? fscanf(f, "%31s", type)
                                   : fscanf(f, "%lu%c", &size, &unit);
            (void)n; /* what was not read stays 0 */
            fclose(f);
        }
        if (found_level == level && size > 0 && strcmp(type, "Instruction") != 0)
            return unit == 'K' ? size << 10 : unit == 'M' ? size << 20 : size;
    }
    const long bytes = sysconf(sysconf_name);
    return bytes > 0 ? (size_t)bytes : 0;
}

static void read_huge_pages(char *text, size_t size)
{
    char line[128] = "";
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (f) {
        const char *got = fgets(line, sizeof line, f);
        (void)got;
        fclose(f);
    }
    const char *begin = strchr(line, '['), *end = strchr(line, ']');
    if (begin && end && end > begin)
        snprintf(text, size, "%.*s", (int)(end - begin - 1), begin + 1);
    else
        snprintf(text, size, "unknown");
}

void bench_machine_read(bench_machine *m)
{
    memset(m, 0, sizeof *m);
    read_features(m->features, sizeof m->features);
    read_huge_pages(m->huge_pages, sizeof m->huge_pages);
    m->blas = openblas_get_corename();
    const char *forced = getenv("OPENBLAS_CORETYPE");
    snprintf(m->blas_forced, sizeof m->blas_forced, "%s", forced ? forced : "");
    for (char *c = m->blas_forced; *c; c++) /* it goes into JSON */
        *c = *c < 0x20 || *c > 0x7e ? '?' : *c;
    const long cores = sysconf(_SC_NPROCESSORS_ONLN), pages = sysconf(_SC_PHYS_PAGES);
    m->n_cores = cores > 0 ? (int)cores : 1;
    m->memory = pages > 0 ? (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
    m->l1d = cache_bytes(1, _SC_LEVEL1_DCACHE_SIZE);
    m->l2 = cache_bytes(2, _SC_LEVEL2_CACHE_SIZE);
    m->l3 = cache_bytes(3, _SC_LEVEL3_CACHE_SIZE);
    m->l1d = m->l1d ? m->l1d : 32 << 10; /* usual sizes, where nobody tells */
    m->l2 = m->l2 ? m->l2 : 1 << 20;
    m->l3 = m->l3 > m->l2 ? m->l3 : 32 << 20;
}

void bench_machine_print(const bench_machine *m, char *text, size_t size)
{
    snprintf(text, size,
             "%d core%s, %s%sL1d %zu KB and L2 %zu KB per core, L3 %zu MB, %.0f GB memory, huge pages: %s; "
             "OpenBLAS kernels: %s%s",
             m->n_cores, m->n_cores == 1 ? "" : "s", m->features, m->features[0] ? ", " : "", m->l1d >> 10,
             m->l2 >> 10, m->l3 >> 20, (double)m->memory / 0x1p30, m->huge_pages, m->blas,
             m->blas_forced[0] != '\0' ? " (forced by OPENBLAS_CORETYPE)" : "");
}

/* ---- memory, samples, numbers ---- */

void *bench_alloc(size_t n_bytes)
{
    if (n_bytes > SIZE_MAX - HUGE_PAGE)
        return NULL;
    const size_t size = (n_bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *p = aligned_alloc(HUGE_PAGE, size > 0 ? size : HUGE_PAGE);
    if (p)
        (void)madvise(p, size, MADV_HUGEPAGE); /* a wish */
    return p;
}

bool bench_sample_add(bench_sample *s, double value)
{
    if (s->n == s->capacity) {
        const size_t capacity = s->capacity > 0 ? 2 * s->capacity : 64;
        double *values = realloc(s->values, capacity * sizeof values[0]);
        if (!values)
            return false;
        s->values = values;
        s->capacity = capacity;
    }
    s->values[s->n++] = value;
    return true;
}

static int compare_doubles(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

double bench_quantile(const bench_sample *s, double q)
{
    if (s->n == 0)
        return NAN;
    double *sorted = malloc(s->n * sizeof sorted[0]);
    if (!sorted)
        return NAN;
    memcpy(sorted, s->values, s->n * sizeof sorted[0]);
    qsort(sorted, s->n, sizeof sorted[0], compare_doubles);
    const double at = q * (double)(s->n - 1);
    const size_t below = (size_t)at, above = below + 1 < s->n ? below + 1 : below;
    const double value = sorted[below] + (at - (double)below) * (sorted[above] - sorted[below]);
    free(sorted);
    return value;
}

void bench_sample_free(bench_sample *s)
{
    free(s->values);
    *s = (bench_sample){0};
}

long bench_interruptions(int n_threads)
{
    struct rusage u;
    return getrusage(n_threads == 1 ? RUSAGE_THREAD : RUSAGE_SELF, &u) == 0 ? u.ru_nivcsw : 0;
}

void bench_fill_normal(float *x, size_t n, uint64_t seed)
{
    /* The sum of four uniform numbers: close enough to normal for times and for errors of rounding. */
    for (size_t i = 0; i < n; i++) {
        const uint64_t r = splitmix64(seed, i + 1);
        const float sum = (float)(r & 0xffff) + (float)(r >> 16 & 0xffff) + (float)(r >> 32 & 0xffff) +
                          (float)(r >> 48 & 0xffff);
        x[i] = (sum - 131070.0f) * (1.7320508f / 65536.0f); /* the variance of the sum is 65536^2 / 3 */
    }
}

double bench_relative_l2(const float *x, const float *reference, size_t n)
{
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)x[i] - (double)reference[i];
        difference += d * d;
        norm += (double)reference[i] * (double)reference[i];
    }
    return sqrt(difference / norm);
}
