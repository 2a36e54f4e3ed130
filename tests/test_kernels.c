/*
 * Every kernel of every instruction set that runs here: against formulas in double, and bit for bit against
 * the portable kernel. The checks are in check_*.c; instruction sets come from
 * dispatch.c. Buffers lie flush against unmapped pages, now at the one end and now at the other, or a few
 * elements off; the bytes around outputs must stay as they are.
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
enum { N_CHECKS = sizeof checks / sizeof checks[0], MAX_ISAS = 16 };

#ifdef KVQ_AVXVNNI_BY_AVX512
extern const kvq_kernels kvq_kernels_avxvnni_by_avx512;

/* The AVX-VNNI kernels, built for the same instruction of AVX-512 and filled up from AVX2. */
static const kvq_kernels *avxvnni_by_avx512(void)
{
    static kvq_kernels table;
    if (kvq_kernels_for_isa("avx512") == NULL)
        return NULL;
    table = *kvq_kernels_for_isa("avx2");
#define TAKE(slot)                                                                                           \
    if (kvq_kernels_avxvnni_by_avx512.slot != NULL)                                                          \
        table.slot = kvq_kernels_avxvnni_by_avx512.slot;
    KVQ_KERNEL_LIST(TAKE)
#undef TAKE
    table.isa = "avxvnni by avx512";
    return &table;
}
#else
static const kvq_kernels *avxvnni_by_avx512(void)
{
    return NULL;
}
#endif

/* The i-th table to test, or NULL past the last: those that run here, and one more. */
static const kvq_kernels *kernels_of(size_t i)
{
    size_t n = 0;
    while (kvq_kernels_at(n) != NULL)
        n++;
    return i < n ? kvq_kernels_at(i) : i == n ? avxvnni_by_avx512() : NULL;
}

typedef struct kernel_case {
    size_t isa, kernel;
} kernel_case;

ParameterizedTestParameters(kernels, keep_their_contract)
{
    static kernel_case cases[MAX_ISAS * N_CHECKS];
    size_t n = 0;
    for (size_t isa = 0; isa < MAX_ISAS && kernels_of(isa) != NULL; isa++)
        for (size_t kernel = 0; kernel < N_CHECKS; kernel++)
            cases[n++] = (kernel_case){isa, kernel};
    return cr_make_param_array(kernel_case, cases, n);
}

ParameterizedTest(kernel_case *test, kernels, keep_their_contract)
{
    const kvq_kernels *k = kernels_of(test->isa);
    cr_assert(k != NULL);
    r = rng_make(1000 + test->kernel);
    kernel_buffers_make(false);
    checks[test->kernel].check(k);
}

Test(kernels, words_keep_their_contract)
{
    r = rng_make(999);
    for (size_t isa = 0; kernels_of(isa) != NULL; isa++)
        check_words(kernels_of(isa)->isa);
}

Test(kernels, tables_are_complete_and_named)
{
    cr_assert(kvq_kernels_for_isa("portable") != NULL && kvq_kernels_for_isa("") == NULL &&
              kvq_kernels_for_isa("sse9") == NULL);
    const kvq_kernels *k;
    for (size_t isa = 0; (k = kernels_of(isa)) != NULL; isa++) {
        cr_assert(isa < MAX_ISAS);
#define IS_THERE(slot) cr_assert(k->slot != NULL, "%s lacks " #slot, k->isa);
        KVQ_KERNEL_LIST(IS_THERE)
#undef IS_THERE
    }
    const kvq_kernels *chosen = kvq_kernels_get();
    cr_assert(chosen == NULL || kvq_kernels_for_isa(chosen->isa) == chosen);
}

/* Strips of a whole, of which the last may reach past it, together prefetch all there is, once. */
Test(kernels, what_is_next_is_prefetched_in_parts)
{
    static const uint8_t bytes[79 * 64];
    for (size_t n_bytes = 0; n_bytes <= 5000; n_bytes += n_bytes < 200 ? 1 : 97)
        for (size_t whole = 16; whole <= 128; whole += 8)
            for (size_t strip = 8; strip <= 32; strip *= 2) {
                const uint8_t *at = bytes;
                for (size_t first = 0; first < whole; first += strip) {
                    const kvq_next part = kvq_next_part((kvq_next){bytes, n_bytes}, first, strip, whole);
                    cr_assert(part.n_bytes == 0 || part.bytes == at, "%zu bytes, %zu of %zu", n_bytes, first,
                              whole);
                    at += part.n_bytes;
                }
                cr_assert_eq((size_t)(at - bytes), (n_bytes + 63) / 64 * 64, "%zu bytes, %zu by %zu", n_bytes,
                             whole, strip);
            }
    const kvq_next none = kvq_next_part((kvq_next){NULL, 0}, 32, 32, 128);
    cr_assert(none.bytes == NULL && none.n_bytes == 0);
}

/* It is found by its name alone, and never instead of an instruction set. */
Test(kernels, an_offered_table_is_found_by_name)
{
    static kvq_kernels mine;
    mine = *kvq_kernels_for_isa("portable");
    const kvq_kernels *chosen = kvq_kernels_get();
    kvq_kernels_offer(&mine);
    cr_assert(kvq_kernels_for_isa("portable") != NULL && kvq_kernels_for_isa("portable") != &mine);
    mine.isa = "mine";
    cr_assert(kvq_kernels_for_isa("mine") == &mine && kvq_kernels_get() == chosen);
    for (size_t i = 0; kvq_kernels_at(i) != NULL; i++)
        cr_assert(kvq_kernels_at(i) != &mine);
    kvq_kernels_offer(NULL);
    cr_assert(kvq_kernels_for_isa("mine") == NULL);
}
