/*
 * Every kernel of every instruction set that runs here: against formulas in double, and bit for bit against
 * the portable kernel where kernels.h says EXACT. The checks are in check_*.c; a new instruction set needs its name
 * in `isas`. Buffers lie flush against unmapped pages, now at the one end and now at the other, or a few elements off;
 * the bytes around outputs must stay as they are.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "tests/kernel_checks.h"

static const struct {
    const char *name;
    void (*check)(const kvq_kernels *k);
} checks[] = {
#define CHECK(slot) {#slot, check_##slot},
    KVQ_KERNEL_LIST(CHECK)
#undef CHECK
};
static const char *const isas[] = {"portable", "avx2", "avxvnni", "avx512", "neon"};

enum { N_CHECKS = sizeof checks / sizeof checks[0], N_ISAS = sizeof isas / sizeof isas[0] };

typedef struct kernel_case {
    size_t isa, kernel;
} kernel_case;

ParameterizedTestParameters(kernels, keep_their_contract)
{
    static kernel_case cases[N_ISAS * N_CHECKS];
    size_t n = 0;
    for (size_t isa = 0; isa < N_ISAS; isa++)
        for (size_t kernel = 0; kernel < N_CHECKS && kvq_kernels_for_isa(isas[isa]) != NULL; kernel++)
            cases[n++] = (kernel_case){isa, kernel};
    return cr_make_param_array(kernel_case, cases, n);
}

ParameterizedTest(kernel_case *test, kernels, keep_their_contract)
{
    const kvq_kernels *k = kvq_kernels_for_isa(isas[test->isa]);
    cr_assert(k != NULL && strcmp(k->isa, isas[test->isa]) == 0);
    r = rng_make(1000 + test->kernel);
    kernel_buffers_make();
    checks[test->kernel].check(k);
}

Test(kernels, tables_are_complete_and_named)
{
    cr_assert(kvq_kernels_for_isa("portable") != NULL && kvq_kernels_for_isa("") == NULL &&
              kvq_kernels_for_isa("sse9") == NULL);
    for (size_t isa = 0; isa < N_ISAS; isa++) {
        const kvq_kernels *k = kvq_kernels_for_isa(isas[isa]);
        if (k == NULL)
            continue;
#define IS_THERE(slot) cr_assert(k->slot != NULL, "%s lacks " #slot, isas[isa]);
        KVQ_KERNEL_LIST(IS_THERE)
#undef IS_THERE
    }
    const kvq_kernels *chosen = kvq_kernels_get();
    cr_assert(chosen == NULL || kvq_kernels_for_isa(chosen->isa) == chosen);
}
