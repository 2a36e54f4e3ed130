/*
 * From how many tokens a cache stays smaller than plain fp16 arrays: as asked of real caches.
 */
#include "eval/measure/memory.h"
#include "tests/support.h"

#include <criterion/criterion.h>
#include <math.h>

/* The same from a cache of random numbers that the test makes, by the definition: smaller from there on, and
 * not one token earlier. With r=96 it is smaller from 332 to 352 as well, until a page is opened. */
Test(memory, pays_from_is_where_it_stays_below_fp16)
{
    static const char *const texts[] = {"kivi2", "kivi2,r=96", "kivi8-g64,s=9", "fp16"};
    const model_shape config = {
        .n_layer = 3, .n_head = 2, .n_kv_head = 2, .head_dim = 32, .n_embd = 64, .n_ctx = 600};
    enum { N = 600 };
    size_t n_found = 0;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        kvq_scheme *const scheme = scheme_of(texts[i]);
        uint64_t from = 999;
        eval_error e;
        cr_assert(memory_pays_from(&config, scheme, N, &from, &e), "%s", e.text);
        kvq_cache *cache = cache_of(texts[i], (shape){3, 2, 2, 32, 1}, NULL);
        bool larger[N + 1] = {true};
        for (size_t n = 1; n <= N; n++) {
            float x[64];
            kvq_usage usage;
            for (size_t j = 0; j < 64; j++)
                x[j] = sinf((float)(n * 64 + j));
            for (size_t layer = 0; layer < 3; layer++)
                cr_assert_eq(kvq_cache_append(cache, layer, 0, x, x, 1), KVQ_OK);
            cr_assert_eq(kvq_cache_usage(cache, &usage), KVQ_OK);
            larger[n] = usage.total >= n * 3 * 2 * 64 * 2;
        }
        size_t expected = 0;
        for (size_t n = N; n > 0 && !larger[n]; n--)
            expected = n;
        cr_expect_eq(from, expected, "%s: from %d, expected %zu", texts[i], (int)from, expected);
        n_found += expected > 0;
        kvq_cache_free(cache);
    }
    cr_assert_eq(n_found, 2, "the cases are meant to have both outcomes, not %zu", n_found);
}
