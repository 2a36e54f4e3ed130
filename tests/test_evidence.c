/*
 * Evidence of kvq schemes through the cache: heavy hitters that a truncation brings back stay heavy hitters.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "tests/support.h"

enum { D = 64, PACKED_AT = 260, HEAVY = 40 }; /* s=4: page 0 packs with token 260 */

/* Token t: keys and values of noise, but for one token that every query looks at. */
static void make_token(rng *r, size_t t, float *q, float *k, float *v)
{
    for (size_t c = 0; c < D; c++) {
        q[c] = (c == 0 ? 4.0f : 0.2f) * (1 + 0.1f * rng_normal(r));
        k[c] = t == HEAVY ? (c == 0 ? 12.0f : 0.0f) : rng_normal(r);
        v[c] = t == HEAVY ? 10 * rng_normal(r) : rng_normal(r);
    }
}

static float error_of_heavy_token(const kvq_cache *cache, const float *v)
{
    float read[D], error = 0;
    cr_assert_eq(kvq_cache_read(cache, 0, 0, HEAVY, 1, NULL, read), KVQ_OK);
    for (size_t c = 0; c < D; c++)
        error = fmaxf(error, fabsf(read[c] - v[c]));
    return error;
}

Test(evidence, heavy_hitters_survive_a_truncation)
{
    kvq_cache *cache = cache_of("kvq2,rtype=f32", (shape){1, 1, 1, D, 1}, NULL);
    rng r = rng_make(7);
    float q[D], k[D], v[D], heavy[D] = {0}, out[D];
    for (size_t t = 0; t < PACKED_AT; t++) {
        make_token(&r, t, q, k, v);
        if (t == HEAVY)
            memcpy(heavy, v, sizeof heavy);
        cr_assert_eq(kvq_cache_step(cache, 0, NULL, 1, NULL, q, k, v, 0.125f, NULL, out), KVQ_OK);
    }
    size_t packed;
    cr_assert_eq(kvq_cache_n_packed(cache, 0, 0, &packed, NULL), KVQ_OK);
    cr_assert_eq(packed, 128);
    float kept = error_of_heavy_token(cache, heavy);
    cr_assert_lt(kept, 0.2f, "a row of int8 is off by at most 40 / 254: %g", (double)kept);
    cr_assert_eq(kvq_cache_truncate(cache, 0, PACKED_AT - 1), KVQ_OK); /* as after a rejected draft */
    cr_assert_eq(kvq_cache_n_packed(cache, 0, 0, &packed, NULL), KVQ_OK);
    cr_assert_eq(packed, 0);
    cr_assert_eq(kvq_cache_step(cache, 0, NULL, 1, NULL, q, k, v, 0.125f, NULL, out), KVQ_OK);
    float again = error_of_heavy_token(cache, heavy);
    cr_assert_lt(again, 2 * kept + 1e-6f, "off by %g, before %g", (double)again, (double)kept);
    kvq_cache_free(cache);
}
