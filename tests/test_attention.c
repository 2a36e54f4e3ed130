/* Attention of a prompt against its definition: windows, groups of heads, and lengths around those of its
 * tiles. */
#include "eval/model/attention.h"

#include "tests/attend_plainly.h"

enum { H = 4, HKV = 2, D = 8, N = 300 };

static float q[N * H * D], k[N * HKV * D], v[N * HKV * D], got[N * H * D], wanted[D];

static void fill(float *x, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((i + 1) * 7919 % (1000 + seed)) / 500.0f - 1.0f;
}

/* Sums of up to 300 products in float32: 1e-5 is well above their rounding, and a key too many or too few of
 * 300 changes a weighted mean of numbers around 1 by far more. */
Test(attention, a_query_sees_the_tokens_of_its_window)
{
    static const size_t windows[] = {0, 1, 2, 63, 64, 65, 127, 128, 129, 299, 300, 301};
    static const size_t lengths[] = {1, 2, 64, 65, 128, 129, N};
    fill(q, N * H * D, 9);
    fill(k, N * HKV * D, 13);
    fill(v, N * HKV * D, 21);
    for (size_t c = 0; c < 12 * 7; c++) {
        const size_t window = windows[c % 12], n = lengths[c / 12];
        const attention_shape shape = {.H = H, .Hkv = HKV, .D = D, .scale = 0.5f, .window = window};
        attention_causal(&shape, q, k, v, n, got);
        for (size_t i = 0; i < n * H; i++) {
            const size_t t = i / H, first = window && t + 1 > window ? t + 1 - window : 0;
            const size_t at = (first * HKV + i % H / (H / HKV)) * D;
            attend_plainly(q + i * D, k + at, v + at, t + 1 - first, HKV * D, D, 0.5, wanted);
            for (size_t d = 0; d < D; d++)
                cr_assert_float_eq(got[i * D + d], wanted[d], 1e-5, "window %zu, token %zu of %zu, head %zu",
                                   window, t, n, i % H);
        }
    }
}
