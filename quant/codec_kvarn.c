/*
 * KVarN, 2 or 4 bits: Müller et al., arXiv 2606.03458, the method's section and the authors' published
 * layout (keys per channel, values per token, the axis' own scale folded into that of its group). A rival, to
 * be compared with: encode and dequantize, nothing faster. `kvarn:2`, `kvarn:4`.
 *
 * For a page of 128 tokens, y = H x, H: Hadamard (transform.h):
 *
 *   1. Normalization: channel_c and token_t start at 1 and are 16 times replaced in turn,
 *          channel_c = std over t of y_tc / token_t,   token_t = std over c of y_tc / channel_c,
 *      which multiplies them by what standard deviation y / (channel token) has left: Sinkhorn's steps, in
 *      the log domain a sum. Where nothing varies (std below 2^-24 of the root mean square) it is 1.
 *   2. The factors across the groups, token of keys and channel of values, are divided by their mean (only
 *      their ratios matter: the scales of groups make up for the rest, and where both deviations cannot be 1
 *      together, all channels shrink and all tokens grow from step to step), then rounded to half, at least
 *      2^-24; z = y / factor.
 *   3. Asymmetric rounding to nearest. A group is a channel of keys and its 128 tokens, or a token of values
 *      and its D channels. scale, min and codes of z are those of codec_affine.c in the default arithmetic.
 *      The factor along the group needs no place of its own: with it, z, min and scale are divided by the
 *      same number, and the codes stay what they are.
 *   4. yhat = (code scale + min) factor, xhat = H yhat
 *
 * Superblock: codes, a stream of bits per token, padded to a byte; then as halves scale[groups], min[groups],
 * factor[D or 128]. At D = 128: BITS + 0.375 bits.
 */
#include "quant/transform.h"

enum { BITS };
enum { T = KVQ_SUPERBLOCK, STEPS = 16 };

_Static_assert((int)T <= (int)KVQ_DIM_MAX, "arrays of KVQ_DIM_MAX hold a number per token as well");

/* Where things lie: groups lie along one axis of the page, their elements along the other. */
typedef struct axes {
    size_t n_groups, group_step; /* in elements of [128][D] */
    size_t n_factors, factor_step;
    size_t row_bytes, scales, mins, factors; /* bytes from the start of the superblock */
} axes;

static axes axes_of(const kvq_side *s)
{
    bool keys = s->role == KVQ_KEYS;
    axes a = {.row_bytes = kvq_stream_bytes(s->dim, s->parameter[BITS])};
    a.n_groups = keys ? s->dim : T;
    a.group_step = keys ? 1 : s->dim;
    a.n_factors = keys ? T : s->dim;
    a.factor_step = keys ? s->dim : 1;
    a.scales = T * a.row_bytes;
    a.mins = a.scales + 2 * a.n_groups;
    a.factors = a.mins + 2 * a.n_groups;
    return a;
}

static const char *kvarn_init(kvq_side *s)
{
    axes a = axes_of(s);
    s->bits = s->parameter[BITS];
    kvq_page_init(s, a.scales, a.factors + 2 * a.n_factors);
    return NULL;
}

static void kvarn_prepare(const kvq_kernels *k, const kvq_side *s, const float *q, float *out)
{
    (void)k;
    kvq_rotate_f64(q, s->dim, out);
}

static void kvarn_finish(const kvq_kernels *k, const kvq_side *s, float *row)
{
    (void)k;
    kvq_rotate_f64(row, s->dim, row);
}

/* ---- Normalization ---- */

/* The standard deviation of numbers of this mean and variance, or 1. */
static double factor_of(double mean, double variance)
{
    return variance > (mean * mean + variance) * 0x1p-48 ? sqrt(variance) : 1.0;
}

static void normalize_channels(const float *y, size_t dim, const double *token, double *channel)
{
    double mean[KVQ_DIM_MAX] = {0}, variance[KVQ_DIM_MAX] = {0};
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < dim; c++)
            mean[c] += (double)y[t * dim + c] / token[t];
    for (size_t c = 0; c < dim; c++)
        mean[c] /= T;
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < dim; c++) {
            double d = (double)y[t * dim + c] / token[t] - mean[c];
            variance[c] += d * d;
        }
    for (size_t c = 0; c < dim; c++)
        channel[c] = factor_of(mean[c], variance[c] / T);
}

static void normalize_tokens(const float *y, size_t dim, const double *channel, double *token)
{
    for (size_t t = 0; t < T; t++) {
        double mean = 0.0, variance = 0.0;
        for (size_t c = 0; c < dim; c++)
            mean += (double)y[t * dim + c] / channel[c];
        mean /= (double)dim;
        for (size_t c = 0; c < dim; c++) {
            double d = (double)y[t * dim + c] / channel[c] - mean;
            variance += d * d;
        }
        token[t] = factor_of(mean, variance / (double)dim);
    }
}

/* ---- Storage ---- */

static void store_factors(const axes *a, const double *factor, uint8_t *superblock)
{
    double mean = 0.0;
    for (size_t i = 0; i < a->n_factors; i++)
        mean += factor[i];
    mean /= (double)a->n_factors;
    for (size_t i = 0; i < a->n_factors; i++) {
        uint16_t half = kvq_f16_from_f64_saturating(factor[i] / mean);
        kvq_store_u16(superblock + a->factors + 2 * i, half > 0 ? half : 1);
    }
}

static void encode_group(const kvq_side *s, const axes *a, size_t g, const float *y, uint8_t *superblock)
{
    float z[KVQ_DIM_MAX], lo = 0.0f, hi = 0.0f;
    for (size_t i = 0; i < a->n_factors; i++) {
        double factor = (double)kvq_load_f16(superblock + a->factors + 2 * i);
        z[i] = kvq_f32_saturating((double)y[g * a->group_step + i * a->factor_step] / factor);
        lo = i == 0 || z[i] < lo ? z[i] : lo;
        hi = i == 0 || z[i] > hi ? z[i] : hi;
    }
    uint16_t scale, min;
    kvq_affine_params(s->bits, false, lo, hi, &scale, &min);
    kvq_store_u16(superblock + a->scales + 2 * g, scale);
    kvq_store_u16(superblock + a->mins + 2 * g, min);
    for (size_t i = 0; i < a->n_factors; i++) {
        size_t at = g * a->group_step + i * a->factor_step;
        kvq_stream_put(
            superblock + at / s->dim * a->row_bytes, at % s->dim, s->bits,
            kvq_grid_code(z[i], kvq_f32_from_f16(scale), kvq_f32_from_f16(min), (1u << s->bits) - 1u));
    }
}

static void kvarn_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                         const float *x, size_t stride, const kvq_evidence *evidence)
{
    (void)k, (void)t0, (void)n, (void)evidence;
    float y[T * KVQ_DIM_MAX]; /* 512 KB of stack */
    double channel[KVQ_DIM_MAX], token[T];
    axes a = axes_of(s);
    for (size_t t = 0; t < T; t++) {
        kvq_rotate_f64(x + t * stride, s->dim, y + t * s->dim);
        token[t] = 1.0;
    }
    for (int step = 0; step < STEPS; step++) {
        normalize_channels(y, s->dim, token, channel);
        normalize_tokens(y, s->dim, channel, token);
    }
    memset(superblock, 0, s->bytes);
    store_factors(&a, s->role == KVQ_KEYS ? token : channel, superblock);
    for (size_t g = 0; g < a.n_groups; g++)
        encode_group(s, &a, g, y, superblock);
}

/* n halves as floats. */
static void load_halves(const uint8_t *at, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = kvq_load_f16(at + 2 * i);
}

static void kvarn_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                             size_t n, float *out, size_t stride)
{
    (void)k;
    float scale[KVQ_DIM_MAX], min[KVQ_DIM_MAX], factor[KVQ_DIM_MAX];
    axes a = axes_of(s);
    load_halves(superblock + a.scales, a.n_groups, scale);
    load_halves(superblock + a.mins, a.n_groups, min);
    load_halves(superblock + a.factors, a.n_factors, factor);
    for (size_t i = 0; i < n; i++) {
        size_t t = t0 + i;
        uint8_t codes[KVQ_DIM_MAX];
        kvq_stream_read(superblock + t * a.row_bytes, s->dim, s->bits, codes);
        for (size_t c = 0; c < s->dim && s->role == KVQ_KEYS; c++)
            out[i * stride + c] = ((float)codes[c] * scale[c] + min[c]) * factor[t];
        for (size_t c = 0; c < s->dim && s->role == KVQ_VALUES; c++)
            out[i * stride + c] = ((float)codes[c] * scale[t] + min[t]) * factor[c];
    }
}

static bool kvarn_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    axes a = axes_of(s);
    size_t used = a.factors + 2 * a.n_factors;
    if (n == 0)
        return kvq_bytes_are_zero(superblock, s->bytes);
    for (size_t t = 0; t < T; t++)
        if (!kvq_stream_ends_in_zeros(superblock + t * a.row_bytes, s->dim, s->bits))
            return false;
    return kvq_halves_are_valid(superblock + a.scales, a.n_groups, true) &&
           kvq_halves_are_valid(superblock + a.mins, a.n_groups, false) &&
           kvq_halves_are_valid(superblock + a.factors, a.n_factors, true) &&
           kvq_bytes_are_zero(superblock + used, s->bytes - used);
}

/* ---- What schemes say: BITS ---- */

static bool kvarn_parse(const kvq_codec *codec, kvq_text *t, kvq_role role, uint32_t *parameter)
{
    (void)codec, (void)role;
    return kvq_parse_bits(t, 0x14, "bits must be 2 or 4", &parameter[BITS]);
}

static void kvarn_print(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter)
{
    (void)codec, (void)role;
    kvq_put_number(p, "kvarn:", parameter[BITS]);
}

const kvq_codec kvq_codec_kvarn = {
    .name = "kvarn",
    .parse = kvarn_parse,
    .print = kvarn_print,
    .init = kvarn_init,
    .encode = kvarn_encode,
    .dequantize = kvarn_dequantize,
    .prepare = kvarn_prepare,
    .finish = kvarn_finish,
    .is_valid = kvarn_is_valid,
};
