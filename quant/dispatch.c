/*
 * Which kernels run: the list of instruction sets, what each inherits, and the choice among them.
 *
 * To add an instruction set: a file that exports its table, a row in `sources` with a test of the processor
 * and the operating system. Rows go from the plainest up; a table's empty slots are filled from the row
 * before it that runs here.
 */
#ifdef KVQ_HAVE_X86
#include <cpuid.h>
#endif
#if defined(KVQ_HAVE_NEON) && defined(__linux__)
#include <sys/auxv.h>
#endif
#include <stdlib.h>
#include <string.h>
#include <threads.h>

#include "quant/kernels.h"

static bool always(void)
{
    return true;
}

#ifdef KVQ_HAVE_X86
/* __builtin_cpu_supports also asks whether the operating system saves the registers; it does not know F16C
 * everywhere. */
static bool has_avx2(void)
{
    unsigned eax, ebx, ecx, edx;
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

#ifdef KVQ_HAVE_AVXVNNI
/* The VEX forms of the dot products need no more of the operating system than AVX2 does. */
static bool has_avxvnni(void)
{
    unsigned eax, ebx, ecx, edx;
    return has_avx2() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && eax >= 1 &&
           __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 4) != 0;
}
#endif

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

#ifdef KVQ_HAVE_NEON
static bool has_dot_product(void)
{
#ifdef __linux__
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return false; /* nobody has tried yet */
#endif
}
#endif

static const struct {
    const kvq_kernels *table;
    bool (*runs_here)(void);
} sources[] = {
    {&kvq_kernels_portable, always},
#ifdef KVQ_HAVE_X86
    {&kvq_kernels_avx2, has_avx2},
#ifdef KVQ_HAVE_AVXVNNI /* the compiler knows it */
    {&kvq_kernels_avxvnni, has_avxvnni},
#endif
    {&kvq_kernels_avx512, has_avx512},
#endif
#ifdef KVQ_HAVE_NEON
    {&kvq_kernels_neon, has_dot_product},
#endif
};

enum { N_SOURCES = sizeof sources / sizeof sources[0] };

static kvq_kernels merged[N_SOURCES]; /* complete tables; isa is NULL where the source does not run here */
static const kvq_kernels *chosen, *offered;
static once_flag once = ONCE_FLAG_INIT;

static const kvq_kernels *find(const char *isa)
{
    for (size_t i = 0; i < N_SOURCES; i++)
        if (merged[i].isa != NULL && strcmp(merged[i].isa, isa) == 0)
            return &merged[i];
    return NULL;
}

static void choose(void)
{
    const kvq_kernels *best = &kvq_kernels_portable; /* the first source, which lacks nothing */
    for (size_t i = 0; i < N_SOURCES; i++) {
        if (!sources[i].runs_here())
            continue;
        merged[i] = *sources[i].table;
#define INHERIT(slot)                                                                                        \
    if (merged[i].slot == NULL)                                                                              \
        merged[i].slot = best->slot;
        KVQ_KERNEL_LIST(INHERIT)
#undef INHERIT
        best = &merged[i];
    }
    const char *wanted = getenv("KVQ_ISA");
    chosen = wanted != NULL && wanted[0] != '\0' ? find(wanted) : best;
}

const kvq_kernels *kvq_kernels_get(void)
{
    call_once(&once, choose);
    return chosen;
}

const kvq_kernels *kvq_kernels_for_isa(const char *isa)
{
    call_once(&once, choose);
    const kvq_kernels *table = find(isa);
    return table == NULL && offered != NULL && strcmp(offered->isa, isa) == 0 ? offered : table;
}

void kvq_kernels_offer(const kvq_kernels *table)
{
    offered = table;
}

const kvq_kernels *kvq_kernels_at(size_t i)
{
    call_once(&once, choose);
    for (size_t source = 0; source < N_SOURCES; source++)
        if (merged[source].isa != NULL && i-- == 0)
            return &merged[source];
    return NULL;
}

/* A slot missing from KVQ_KERNEL_LIST would be neither inherited nor tested. All slots are pointers of one
 * size. */
#define COUNT(slot) +1
_Static_assert(sizeof(kvq_kernels) ==
                   sizeof(const char *) + (0 KVQ_KERNEL_LIST(COUNT)) * sizeof(void (*)(void)),
               "KVQ_KERNEL_LIST names every slot of kvq_kernels");
