/*
 * Non-uniform levels with 1 % of outliers kept apart, 2, 3 or 4 bits, after KVQuant: Hooper et al., arXiv
 * 2401.18079, sections 3.1 (keys per channel), 3.3 (nuqX) and 3.4 (dense and sparse), without its
 * calibration: what the paper fits on data is here a fixed table, and outliers are those of the page. A
 * rival, to be compared with: encode and dequantize, nothing faster. `nuq:BITS`, `nuq:BITS:qn` with Q-Norm
 * (section 3.6).
 *
 * A group is a channel of keys and its 128 tokens, or a token of values and its D channels. For a page:
 *
 *   1. deviation = |x - mean| / std of the group, as float; 0 where the group is constant. The N = ceil(1.28
 *      D) largest of the page are outliers; of equal ones the first, token by token. They are kept as half.
 *   2. Of the rest of a group, lo to hi: zero = half nearest to (lo + hi) / 2, scale = max(hi - zero, zero -
 *      lo) rounded up to half; both 0 if nothing is left.
 *   3. code = level nearest to (x - zero) / scale, the lower one of two as near; an outlier's is 0.
 *   4. xhat = level(code) scale + zero, or the outlier
 *
 * Levels are those of Lloyd and Max for a normal density cut off where 1 % lies outside, at 2.5758 standard
 * deviations, which is 1 here. Q-Norm multiplies them when reading, so that what is read has the standard
 * deviation of that density again.
 *
 * Superblock: codes, a stream of bits per token, padded to a byte; as halves scale[groups], zero[groups];
 * uint16 index[N] = D token + channel, ascending; half outlier[N]. Keys take BITS + 0.25 + 0.32 bits. Indices
 * of 16 bits reach as far as D = 512.
 */
#include "quant/rows.h"

enum { BITS, Q_NORM };
enum { T = KVQ_SUPERBLOCK, DIM_MAX = 512, LEVELS_MAX = 16 };

/* The levels above 0; those below are their mirror image. */
static const float levels_above[5][LEVELS_MAX / 2] = {
    [2] = {0.167984913f, 0.554431789f},
    [3] = {0.088527450f, 0.272012884f, 0.478626988f, 0.744944714f},
    [4] = {0.045118499f, 0.136177671f, 0.229812224f, 0.328141800f, 0.434060142f, 0.552038331f, 0.690053082f,
           0.865544567f},
};

/* Standard deviation of the density over that of its levels, each as often as its cell is met. */
static const float q_norm[5] = {[2] = 1.057189077f, [3] = 1.014654459f, [4] = 1.003710909f};

/* Where things lie: groups lie along one axis of the page, their elements along the other. */
typedef struct axes {
    size_t n_groups, n_in_group, n_outliers;
    size_t row_bytes, scales, zeros, indices, outliers, used; /* bytes from the start of the superblock */
} axes;

static axes axes_of(const kvq_side *s)
{
    bool keys = s->role == KVQ_KEYS;
    axes a = {.row_bytes = kvq_stream_bytes(s->dim, s->parameter[BITS])};
    a.n_groups = keys ? s->dim : T;
    a.n_in_group = keys ? T : s->dim;
    a.n_outliers = (T * s->dim + 99) / 100;
    a.scales = T * a.row_bytes;
    a.zeros = a.scales + 2 * a.n_groups;
    a.indices = a.zeros + 2 * a.n_groups;
    a.outliers = a.indices + 2 * a.n_outliers;
    a.used = a.outliers + 2 * a.n_outliers;
    return a;
}

static const char *nuq_init(kvq_side *s)
{
    if (s->dim > DIM_MAX)
        return "nuq takes head dimensions up to 512, because its indices have 16 bits";
    axes a = axes_of(s);
    s->bits = s->parameter[BITS];
    kvq_page_init(s, a.scales, a.used);
    return NULL;
}

/* All levels, the lowest first. */
static void find_levels(uint32_t bits, float level[LEVELS_MAX])
{
    size_t n = (size_t)1 << (bits - 1);
    for (size_t i = 0; i < n; i++) {
        level[n + i] = levels_above[bits][i];
        level[n - 1 - i] = -levels_above[bits][i];
    }
}

/* ---- Encoding ---- */

/* A page being encoded. */
typedef struct page {
    const kvq_side *s;
    axes a;
    const float *x;
    size_t stride;
    double mean[DIM_MAX], inverse_std[DIM_MAX]; /* of groups, of which there are 128 or D */
    uint8_t is_outlier[T * DIM_MAX / 8];        /* a bit per element, at D token + channel */
} page;

static size_t group_of(const page *p, size_t t, size_t c)
{
    return p->s->role == KVQ_KEYS ? c : t;
}

/* Element i of group g. */
static float element(const page *p, size_t g, size_t i)
{
    return p->s->role == KVQ_KEYS ? p->x[i * p->stride + g] : p->x[g * p->stride + i];
}

static size_t index_of(const page *p, size_t g, size_t i)
{
    return p->s->role == KVQ_KEYS ? i * p->s->dim + g : g * p->s->dim + i;
}

static void find_moments(page *p)
{
    for (size_t g = 0; g < p->a.n_groups; g++) {
        double mean = 0.0, variance = 0.0;
        for (size_t i = 0; i < p->a.n_in_group; i++)
            mean += (double)element(p, g, i);
        mean /= (double)p->a.n_in_group;
        for (size_t i = 0; i < p->a.n_in_group; i++) {
            double d = (double)element(p, g, i) - mean;
            variance += d * d;
        }
        p->mean[g] = mean;
        p->inverse_std[g] = variance > 0.0 ? 1.0 / sqrt(variance / (double)p->a.n_in_group) : 0.0;
    }
}

static float deviation(const page *p, size_t t, size_t c)
{
    size_t g = group_of(p, t, c);
    return (float)(fabs((double)p->x[t * p->stride + c] - p->mean[g]) * p->inverse_std[g]);
}

static size_t count_above(const page *p, float limit)
{
    size_t n = 0;
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < p->s->dim; c++)
            n += deviation(p, t, c) > limit;
    return n;
}

/* The N-th largest deviation: bits of floats from 0 on are in the order of the floats. */
static float find_limit(const page *p)
{
    uint32_t lo = 0, hi = 0x7f800000u; /* fewer than N lie above hi */
    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;
        if (count_above(p, kvq_f32_of_bits(middle)) < p->a.n_outliers)
            hi = middle;
        else
            lo = middle + 1;
    }
    return kvq_f32_of_bits(lo);
}

static void take_outliers(page *p, uint8_t *superblock)
{
    float limit = find_limit(p);
    size_t n = 0, n_at_limit = p->a.n_outliers - count_above(p, limit);
    memset(p->is_outlier, 0, sizeof p->is_outlier);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < p->s->dim; c++) {
            float d = deviation(p, t, c);
            if (d < limit || (d == limit && n_at_limit == 0))
                continue;
            n_at_limit -= d == limit;
            size_t index = t * p->s->dim + c;
            kvq_stream_put(p->is_outlier, index, 1, 1);
            kvq_store_u16(superblock + p->a.indices + 2 * n, (uint16_t)index);
            kvq_store_u16(superblock + p->a.outliers + 2 * n,
                          kvq_f16_from_f32_saturating(p->x[t * p->stride + c]));
            n++;
        }
}

static uint32_t nearest_level(const float *level, uint32_t n, double z)
{
    uint32_t code = 0;
    while (code + 1 < n && z > ((double)level[code] + (double)level[code + 1]) / 2)
        code++;
    return code;
}

static void encode_group(const page *p, size_t g, const float *level, uint8_t *superblock)
{
    const kvq_side *s = p->s;
    double lo = INFINITY, hi = -INFINITY;
    for (size_t i = 0; i < p->a.n_in_group; i++) {
        double x = (double)element(p, g, i);
        if (kvq_stream_get(p->is_outlier, index_of(p, g, i), 1) != 0)
            continue;
        lo = x < lo ? x : lo;
        hi = x > hi ? x : hi;
    }
    if (lo > hi)
        return; /* all of the group are outliers, and everything is 0 */
    uint16_t zero_half = kvq_f16_from_f64_saturating((lo + hi) / 2);
    double zero = (double)kvq_f32_from_f16(zero_half), reach = hi - zero > zero - lo ? hi - zero : zero - lo;
    uint16_t scale_half = kvq_f16_round_up(kvq_f32_saturating(reach));
    double scale = (double)kvq_f32_from_f16(scale_half);
    kvq_store_u16(superblock + p->a.scales + 2 * g, scale_half);
    kvq_store_u16(superblock + p->a.zeros + 2 * g, zero_half);
    for (size_t i = 0; i < p->a.n_in_group; i++) {
        size_t index = index_of(p, g, i);
        if (kvq_stream_get(p->is_outlier, index, 1) != 0)
            continue;
        double z = scale > 0.0 ? ((double)element(p, g, i) - zero) / scale : 0.0;
        kvq_stream_put(superblock + index / s->dim * p->a.row_bytes, index % s->dim, s->bits,
                       nearest_level(level, 1u << s->bits, z));
    }
}

static void nuq_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                       const float *x, size_t stride, const kvq_evidence *evidence)
{
    (void)k, (void)t0, (void)n, (void)evidence;
    page p = {.s = s, .a = axes_of(s), .x = x, .stride = stride};
    float level[LEVELS_MAX] = {0};
    find_levels(s->bits, level);
    memset(superblock, 0, s->bytes);
    find_moments(&p);
    take_outliers(&p, superblock);
    for (size_t g = 0; g < p.a.n_groups; g++)
        encode_group(&p, g, level, superblock);
}

/* ---- Reading ---- */

static void dequantize_dense(const kvq_side *s, const axes *a, const uint8_t *superblock, size_t t,
                             const float *level, float *out)
{
    uint8_t codes[DIM_MAX];
    kvq_stream_read(superblock + t * a->row_bytes, s->dim, s->bits, codes);
    for (size_t c = 0; c < s->dim; c++) {
        size_t g = s->role == KVQ_KEYS ? c : t;
        float scale = kvq_load_f16(superblock + a->scales + 2 * g);
        out[c] = level[codes[c]] * scale + kvq_load_f16(superblock + a->zeros + 2 * g);
    }
}

static void nuq_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                           size_t n, float *out, size_t stride)
{
    (void)k;
    axes a = axes_of(s);
    float level[LEVELS_MAX] = {0};
    find_levels(s->bits, level);
    for (size_t code = 0; code < (size_t)1 << s->bits; code++)
        level[code] *= s->parameter[Q_NORM] != 0 ? q_norm[s->bits] : 1.0f;
    for (size_t i = 0; i < n; i++)
        dequantize_dense(s, &a, superblock, t0 + i, level, out + i * stride);
    for (size_t i = 0; i < a.n_outliers; i++) {
        size_t index = kvq_load_u16(superblock + a.indices + 2 * i), t = index / s->dim;
        if (t >= t0 && t < t0 + n)
            out[(t - t0) * stride + index % s->dim] = kvq_load_f16(superblock + a.outliers + 2 * i);
    }
}

static bool nuq_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    axes a = axes_of(s);
    if (n == 0)
        return kvq_bytes_are_zero(superblock, s->bytes);
    for (size_t t = 0; t < T; t++)
        if (!kvq_stream_ends_in_zeros(superblock + t * a.row_bytes, s->dim, s->bits))
            return false;
    for (size_t i = 0, least = 0; i < a.n_outliers; i++) {
        size_t index = kvq_load_u16(superblock + a.indices + 2 * i);
        if (index < least || index >= T * s->dim)
            return false;
        least = index + 1;
    }
    return kvq_halves_are_valid(superblock + a.scales, a.n_groups, true) &&
           kvq_halves_are_valid(superblock + a.zeros, a.n_groups, false) &&
           kvq_halves_are_valid(superblock + a.outliers, a.n_outliers, false) &&
           kvq_bytes_are_zero(superblock + a.used, s->bytes - a.used);
}

/* ---- What schemes say: BITS [":qn"] ---- */

static bool nuq_parse(const kvq_codec *codec, kvq_text *t, kvq_role role, uint32_t *parameter)
{
    (void)codec, (void)role;
    if (!kvq_parse_bits(t, 0x1c, "bits must be 2, 3 or 4", &parameter[BITS]))
        return false;
    parameter[Q_NORM] = kvq_text_accept_word(t, ":qn");
    return true;
}

static void nuq_print(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter)
{
    (void)codec, (void)role;
    kvq_put_number(p, "nuq:", parameter[BITS]);
    if (parameter[Q_NORM] != 0)
        kvq_put(p, ":qn");
}

const kvq_codec kvq_codec_nuq = {
    .name = "nuq",
    .parse = nuq_parse,
    .print = nuq_print,
    .init = nuq_init,
    .encode = nuq_encode,
    .dequantize = nuq_dequantize,
    .is_valid = nuq_is_valid,
};
