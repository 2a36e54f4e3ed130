/*
 * Rotated affine groups, 2, 3, 4 or 8 bits, as QuaRot quantizes its cache: Ashkboos et al., arXiv 2404.00456,
 * section 4 (stages 1c and 2b), without its clipping. A rival, to be compared with: encode and dequantize,
 * nothing faster. `quarot:BITS`, `quarot:BITS/GROUP`, GROUP = 32, 64, 128 or full, which is the default.
 *
 *   y = H x                     H: Hadamard (transform.h)
 *   per token and group of G channels of y, the last one what is left: scale, minimum and codes in the
 *   default arithmetic of codec_affine.c
 *   xhat = H (code scale + min)
 *
 * Row of a token: codes as a stream of bits, padded to a byte; half scale[groups]; half min[groups]:
 * BITS + 32 / G bits.
 */
#include "quant/transform.h"

enum { BITS, GROUP };

static size_t group_of(const kvq_side *s)
{
    return s->parameter[GROUP] == 0 ? s->dim : s->parameter[GROUP];
}

static size_t n_groups(const kvq_side *s)
{
    return (s->dim + group_of(s) - 1) / group_of(s);
}

static const char *quarot_init(kvq_side *s)
{
    s->bits = s->parameter[BITS];
    kvq_rows_init(s, kvq_stream_bytes(s->dim, s->bits), 4 * n_groups(s));
    return NULL;
}

static void quarot_prepare(const kvq_kernels *k, const kvq_side *s, const float *q, float *out)
{
    (void)k;
    kvq_rotate_f64(q, s->dim, out);
}

static void quarot_finish(const kvq_kernels *k, const kvq_side *s, float *row)
{
    (void)k;
    kvq_rotate_f64(row, s->dim, row);
}

static void encode_row(const kvq_side *s, const float *x, uint8_t *row)
{
    float y[KVQ_DIM_MAX] = {0};
    uint8_t *scales = row + s->payload_per_run, *mins = scales + 2 * n_groups(s);
    kvq_rotate_f64(x, s->dim, y);
    for (size_t g = 0, c = 0; g < n_groups(s); g++) {
        size_t end = c + group_of(s) < s->dim ? c + group_of(s) : s->dim;
        float lo = y[c], hi = y[c];
        for (size_t i = c; i < end; i++) {
            lo = y[i] < lo ? y[i] : lo;
            hi = y[i] > hi ? y[i] : hi;
        }
        uint16_t scale, min;
        kvq_affine_params(s->bits, false, lo, hi, &scale, &min);
        kvq_store_u16(scales + 2 * g, scale);
        kvq_store_u16(mins + 2 * g, min);
        for (; c < end; c++)
            kvq_stream_put(
                row, c, s->bits,
                kvq_grid_code(y[c], kvq_f32_from_f16(scale), kvq_f32_from_f16(min), (1u << s->bits) - 1u));
    }
}

static void quarot_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                          const float *x, size_t stride, const kvq_evidence *evidence)
{
    (void)k, (void)evidence;
    for (size_t i = 0; i < n; i++) {
        uint8_t *row = superblock + (t0 + i) * kvq_side_row_bytes(s);
        memset(row, 0, kvq_side_row_bytes(s));
        encode_row(s, x + i * stride, row);
    }
}

static void quarot_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                              size_t n, float *out, size_t stride)
{
    (void)k;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *row = superblock + (t0 + i) * kvq_side_row_bytes(s);
        const uint8_t *scales = row + s->payload_per_run, *mins = scales + 2 * n_groups(s);
        uint8_t codes[KVQ_DIM_MAX];
        kvq_stream_read(row, s->dim, s->bits, codes);
        for (size_t g = 0, c = 0; g < n_groups(s); g++) {
            size_t end = c + group_of(s) < s->dim ? c + group_of(s) : s->dim;
            float scale = kvq_load_f16(scales + 2 * g), min = kvq_load_f16(mins + 2 * g);
            for (; c < end; c++)
                out[i * stride + c] = (float)codes[c] * scale + min;
        }
    }
}

static bool quarot_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    for (size_t t = 0; t < n; t++) {
        const uint8_t *row = superblock + t * kvq_side_row_bytes(s);
        const uint8_t *scales = row + s->payload_per_run;
        if (!kvq_stream_ends_in_zeros(row, s->dim, s->bits) ||
            !kvq_halves_are_valid(scales, n_groups(s), true) ||
            !kvq_halves_are_valid(scales + 2 * n_groups(s), n_groups(s), false))
            return false;
    }
    return kvq_rows_end_at(s, superblock, n);
}

/* ---- What schemes say: BITS ["/" (GROUP | "full")] ---- */

static bool quarot_parse(const kvq_codec *codec, kvq_text *t, kvq_role role, uint32_t *parameter)
{
    (void)codec, (void)role;
    if (!kvq_parse_bits(t, 0x11c, "bits must be 2, 3, 4 or 8", &parameter[BITS]))
        return false;
    if (!kvq_text_accept(t, "/") || kvq_text_accept_word(t, "full"))
        return true;
    const char *start = t->at;
    uint32_t group;
    if (!kvq_text_number(t, 9999, &group))
        return false;
    parameter[GROUP] = group;
    return group == 32 || group == 64 || group == 128 ||
           kvq_text_fail(t, start, "group must be 32, 64, 128 or full");
}

static void quarot_print(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter)
{
    (void)codec, (void)role;
    kvq_put_number(p, "quarot:", parameter[BITS]);
    if (parameter[GROUP] != 0)
        kvq_put_number(p, "/", parameter[GROUP]);
}

const kvq_codec kvq_codec_quarot = {
    .name = "quarot",
    .parse = quarot_parse,
    .print = quarot_print,
    .init = quarot_init,
    .encode = quarot_encode,
    .dequantize = quarot_dequantize,
    .prepare = quarot_prepare,
    .finish = quarot_finish,
    .clear = kvq_rows_clear,
    .is_valid = quarot_is_valid,
};
