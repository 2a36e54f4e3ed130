/*
 * The affine codec's kernels: encoding and dequantizing, bit for bit.
 */
#include "tests/kernel_checks.h"

/* Compare encodings over garbage: the bits of other tokens must stay. The portable encoder is tested against
 * formulas in test_codec.c. */
static void check_encode(const kvq_kernels *k, bool per_channel)
{
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        if (l.per_channel != per_channel)
            continue;
        size_t runs = T / l.tokens_per_run, t0 = rng_below(&r, runs + 1), n = rng_below(&r, runs + 1 - t0);
        t0 *= l.tokens_per_run;
        n *= l.tokens_per_run;
        rows_shape s = {.n = n, .dim = l.dim, .stride = l.dim + (rng_u64(&r) & 1 ? 0 : rng_below(&r, 20))};
        fill_kind kind = random_fill();
        const float *x = floats_in(&in_a, kind, extent(s), 1);
        uint8_t *out = superblock_in(&out_a, &l), *spec = superblock_in(&out_b, &l);
        for (size_t b = 0; b < l.bytes; b++)
            out[b] = spec[b] = (uint8_t)rng_u64(&r);
        (per_channel ? k->encode_affine_channel : k->encode_affine_token)(&l, out, t0, n, x, s.stride);
        (per_channel ? kvq_encode_affine_channel_portable : kvq_encode_affine_token_portable)(&l, spec, t0, n,
                                                                                              x, s.stride);
        check_canaries(&out_a, "encode_affine");
        cr_assert(same_bits("encode_affine", out, spec, l.bytes),
                  "layout %zu, tokens [%zu, +%zu), D = %zu, %s", i, t0, n, l.dim, fill_names[kind]);
        for (size_t t = t0; t < t0 + n; t++)
            for (size_t c = l.dim; c < l.dim_padded; c++)
                cr_assert(kvq_code_get(&l, out, t, c) == 0, "channel %zu pads D = %zu", c, l.dim);
    }
}

void check_encode_affine_channel(const kvq_kernels *k)
{
    check_encode(k, true);
}

void check_encode_affine_token(const kvq_kernels *k)
{
    check_encode(k, false);
}

static void random_range(size_t *t0, size_t *n)
{
    *t0 = rng_u64(&r) & 1 ? 0 : rng_below(&r, T);
    *n = rng_u64(&r) & 1 ? T - *t0 : rng_below(&r, T - *t0 + 1);
}

void check_dequantize_affine(const kvq_kernels *k)
{
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        size_t t0, n, stride = l.dim + (rng_u64(&r) & 1 ? 0 : rng_below(&r, 20));
        random_range(&t0, &n);
        const uint8_t *sb = encoded_in(&in_a, &l);
        rows_shape s = {.n = n, .dim = l.dim, .stride = stride};
        uint8_t *out = place(&out_a, random_placing(&r), extent(s), sizeof(float));
        k->dequantize_affine(&l, sb, t0, n, (float *)(void *)out, stride);
        check_canaries(&out_a, "dequantize_affine");
        for (size_t e = 0; e < extent(s); e++) {
            float got;
            memcpy(&got, out + e * sizeof got, sizeof got);
            float wanted = e % stride < l.dim ? (float)value_at(&l, sb, t0 + e / stride, e % stride) : got;
            cr_assert(got == wanted, "layout %zu, token %zu + %zu, channel %zu: %a, not %a", i, t0,
                      e / stride, e % stride, (double)got, (double)wanted);
            static const uint8_t gap[sizeof got] = {CANARY, CANARY, CANARY, CANARY};
            cr_assert(e % stride < l.dim || memcmp(&got, gap, sizeof gap) == 0,
                      "layout %zu: wrote between rows", i);
        }
    }
}
