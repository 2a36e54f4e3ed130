/*
 * The affine group codec: KIVI's quantization (Liu et al., arXiv 2402.02750, section 3.1, equation 1), b = 1,
 * 2, 3, 4, 5, 6 or 8 bits. Layout by byte and bit: quant/layout.h.
 *
 * For a group X of G values, M = 2^b - 1, lo = min X, hi = max X:
 *
 *            default arithmetic                            KIVI parity: h() rounds every result to half
 *   min      lo rounded down to half                       h(lo)
 *   scale    (hi - min) / M rounded up to half             h(h(hi - lo) / M)
 *   code     rne(clamp((x - min) * (1/scale), 0, M))       rne(clamp(h(h(x - lo) / scale), 0, M))
 *   xhat     code * scale + min, in float                  h(h(code * scale) + min)
 *
 * rne rounds to nearest, ties to even. Where we deviate from the published code, which leaves these cases
 * undefined: scale = 0 gives codes 0 and xhat = min; what would overflow half saturates at 65504, so nothing
 * becomes Inf or NaN. In the default arithmetic the grid covers the group even where its minimum is not a
 * half, so a constant group keeps a scale of 0 only if its value is a half.
 *
 * Error bound, default. The grid min, min + scale, ..., min + M * scale covers [lo, hi], so the nearest point
 * is within scale/2. Float rounding adds: in x - min, 1/scale and the product, relative 3 * 2^-24 of a number
 * up to M, so 3 M 2^-24 scale; in hi - min and the division by M, which may leave the grid short by 2 * 2^-24
 * of M * scale; in xhat (code * scale is exact), 2^-24 |xhat|. Together: scale/2 + 6 M 2^-24 scale + 2^-23
 * (|min| + M scale), rounded up. Two saturated groups have no bound: min = -65504 (lo may lie below) and
 * scale = 65504 (hi may lie above).
 *
 * Error bound, parity. u = 2^-11 is the rounding unit of half, e = 2^-25 that of subnormals. The input is
 * rounded to half first: u |x| + e. h(x - lo) / scale carries two roundings, 2 u M in units of scale; a scale
 * rounded down leaves the grid short by as much again, but an element is either clamped or not, and clamping
 * only replaces the first by the second. h(code * scale): u M scale; the last sum: u |xhat|. Subnormals add e
 * each to the three results, and a subnormal scale is off by up to e, which counts M times. Together, with
 * second-order terms covered by 2.25 and 1.25:
 * scale (1/2 + (2.25 + 1.25) u M) + 2.25 u (|min| + M scale) + (M + 4) e.
 * No bound where the group may touch 65504, which may stand for more: where |min| + M scale, which the two
 * roundings of scale can leave 2 u short, reaches 65504 / (1 + 4 u).
 */
#include "quant/codec.h"

#include <math.h>

void kvq_affine_params(uint32_t bits, bool half_arith, float lo, float hi, uint16_t *scale, uint16_t *min)
{
    float levels = (float)((1u << bits) - 1u);
    if (half_arith) {
        lo = kvq_round_to_f16(lo);
        hi = kvq_round_to_f16(hi);
        *min = kvq_f16_from_f32_saturating(lo);
        *scale = kvq_f16_from_f32_saturating(kvq_round_to_f16(hi - lo) / levels);
    } else {
        *min = kvq_f16_round_down(lo);
        float range = hi - kvq_f32_from_f16(*min);
        range = range > 0.0f ? range : 0.0f; /* negative if the whole group lies below -65504 */
        *scale = kvq_f16_round_up(range / levels);
    }
}

float kvq_affine_error_bound(uint32_t bits, bool half_arith, float scale, float min)
{
    double s = (double)scale, levels = (double)((1u << bits) - 1u);
    double magnitude = fabs((double)min) + levels * s, bound;
    if (half_arith) {
        if (magnitude * (1 + 4 * 0x1p-11) >= (double)KVQ_F16_MAX)
            return INFINITY;
        bound = s * (0.5 + 3.5 * 0x1p-11 * levels) + 2.25 * 0x1p-11 * magnitude + (levels + 4) * 0x1p-25;
    } else {
        if (scale >= KVQ_F16_MAX || min <= -KVQ_F16_MAX)
            return INFINITY;
        bound = s * (0.5 + 6 * levels * 0x1p-24) + 0x1p-23 * magnitude;
    }
    return (float)(bound * (1 + 0x1p-23)); /* so that rounding to float cannot take it below */
}

float kvq_f16_error_bound(float stored)
{
    float magnitude = fabsf(stored);
    return magnitude >= KVQ_F16_MAX ? INFINITY : magnitude * 0x1.01p-11f + 0x1p-25f;
}

/* The largest superblock: 8-bit codes, and scales and minimums of groups of 16. */
enum { MAX_BYTES = KVQ_SUPERBLOCK * KVQ_DIM_MAX + KVQ_SUPERBLOCK * KVQ_DIM_MAX / 16 * 4 };

static const uint32_t plane_widths[9][KVQ_MAX_PLANES] = {
    [1] = {1, 0}, [2] = {2, 0}, [3] = {2, 1}, [4] = {4, 0}, [5] = {4, 1}, [6] = {4, 2}, [8] = {8, 0},
};

_Static_assert(sizeof(kvq_layout) <= KVQ_SIDE_OWN, "a side has room for it");

static const kvq_layout *layout_of(const kvq_side *s)
{
    return (const kvq_layout *)(const void *)s->own;
}

static float levels_of(const kvq_layout *l)
{
    return (float)((1u << l->bits) - 1u);
}

void kvq_layout_init(kvq_layout *l, const kvq_layout_spec *spec)
{
    *l = (kvq_layout){
        .role = spec->role,
        .bits = spec->bits,
        .per_channel = spec->per_channel,
        .half_arith = spec->half_arith,
        .group = spec->group == 0 ? spec->dim : spec->group,
        .dim = spec->dim,
    };
    size_t dim_padded = kvq_round_up(l->dim, 16), code_bytes = 0;
    float levels = levels_of(l);
    l->dim_padded = dim_padded;
    l->meta_tile_tokens = l->role == KVQ_VALUES                    ? KVQ_SUPERBLOCK
                          : l->per_channel && l->group > KVQ_BLOCK ? l->group
                                                                   : KVQ_BLOCK;
    for (l->n_planes = 0; l->n_planes < KVQ_MAX_PLANES && plane_widths[l->bits][l->n_planes] != 0;
         l->n_planes++) {
        kvq_plane *plane = &l->plane[l->n_planes];
        plane->width = plane_widths[l->bits][l->n_planes];
        plane->shift = l->n_planes == 0 ? 0 : l->plane[0].width;
        plane->offset = code_bytes;
        code_bytes += l->role == KVQ_KEYS
                          ? kvq_round_up(dim_padded, 32 / plane->width) * plane->width / 8 * KVQ_BLOCK
                          : dim_padded * plane->width / 8 * KVQ_SUPERBLOCK;
    }
    l->block_bytes = l->role == KVQ_KEYS ? code_bytes : code_bytes / 4;
    l->meta_offset = l->block_bytes * (l->meta_tile_tokens / KVQ_BLOCK);
    l->n_meta = l->per_channel ? l->meta_tile_tokens / l->group * dim_padded
                               : kvq_round_up(l->dim, l->group) / l->group * l->meta_tile_tokens;
    l->min_offset = 2 * l->n_meta;
    l->meta_tile_bytes = l->meta_offset + 4 * l->n_meta;
    l->bytes = kvq_round_up(l->meta_tile_bytes * (KVQ_SUPERBLOCK / l->meta_tile_tokens), KVQ_ALIGNMENT);
    l->payload_per_token = l->block_bytes / KVQ_BLOCK;
    l->tokens_per_run = l->per_channel ? l->group : 1;
    l->metadata_per_run = 4 * l->n_meta / (l->meta_tile_tokens / l->tokens_per_run);
    l->score_error_per_step = levels * sqrtf((float)l->dim / 12.0f * KVQ_MEAN_SQUARE_CODE);
}

extern const kvq_codec kvq_codec_affine;

static void affine_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                          const float *x, size_t stride, const kvq_evidence *evidence)
{
    const kvq_layout *l = layout_of(s);
    (void)evidence;
    (l->per_channel ? k->encode_affine_channel : k->encode_affine_token)(l, superblock, t0, n, x, stride);
}

static void affine_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                              size_t n, float *out, size_t stride)
{
    const kvq_layout *l = layout_of(s);
    k->dequantize_affine(l, superblock, t0, n, out, stride);
}

static void affine_error_bound(const kvq_side *s, const uint8_t *superblock, size_t t0, size_t n, float *out,
                               size_t stride)
{
    const kvq_layout *l = layout_of(s);
    for (size_t i = 0; i < n; i++) {
        size_t t = t0 + i;
        float *row = out + i * stride;
        if (l->per_channel && i > 0 && t % l->group != 0) { /* the same groups as the row before */
            memcpy(row, row - stride, l->dim * sizeof *row);
            continue;
        }
        for (size_t c = 0; c < l->dim; c++)
            row[c] = l->per_channel || c % l->group == 0
                         ? kvq_affine_error_bound(l->bits, l->half_arith, kvq_scale_at(l, superblock, t, c),
                                                  kvq_min_at(l, superblock, t, c))
                         : row[c - 1];
    }
}

static void affine_clear(const kvq_side *s, uint8_t *superblock, size_t t0)
{
    const kvq_layout *l = layout_of(s);
    for (size_t t = t0; t < KVQ_SUPERBLOCK; t++) {
        bool first_of_group = !l->per_channel || t % l->group == 0;
        for (size_t c = 0; c < l->dim; c++) {
            kvq_code_put(l, superblock, t, c, 0);
            if (first_of_group && (l->per_channel || c % l->group == 0)) {
                size_t at = kvq_scale_offset(l, t, c);
                kvq_store_u16(superblock + at, 0);
                kvq_store_u16(superblock + at + l->min_offset, 0);
            }
        }
    }
}

/* Copy what n tokens say into a superblock of zeros. */
static void copy_tokens(const kvq_layout *l, const uint8_t *from, size_t n, uint8_t *to)
{
    size_t t_step = l->tokens_per_run, c_step = l->per_channel ? 1 : l->group;
    for (size_t t = 0; t < n; t++)
        for (size_t c = 0; c < l->dim; c++) {
            kvq_code_put(l, to, t, c, kvq_code_get(l, from, t, c));
            if (t % t_step != 0 || c % c_step != 0)
                continue;
            size_t at = kvq_scale_offset(l, t, c);
            kvq_store_u16(to + at, kvq_load_u16(from + at));
            kvq_store_u16(to + at + l->min_offset, kvq_load_u16(from + at + l->min_offset));
        }
}

static bool affine_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    const kvq_layout *l = layout_of(s);
    uint8_t rebuilt[MAX_BYTES]; /* whatever stands where no token puts anything is missing here */
    memset(rebuilt, 0, l->bytes);
    copy_tokens(l, superblock, n, rebuilt);
    if (memcmp(rebuilt, superblock, l->bytes) != 0)
        return false;
    for (size_t t = 0; t < n; t += l->tokens_per_run)
        for (size_t c = 0; c < l->dim; c += l->per_channel ? 1 : l->group) {
            size_t at = kvq_scale_offset(l, t, c);
            uint16_t scale = kvq_load_u16(superblock + at),
                     min = kvq_load_u16(superblock + at + l->min_offset);
            if (scale >= 0x7c00u || (min & 0x7fffu) >= 0x7c00u) /* Inf, NaN or a negative scale */
                return false;
        }
    return true;
}

/*
 * ---- Attention ----
 *
 * Fast precision folds to 16 bits, and wide those queries whose range is too large for it; exact precision
 * folds wide. What even that does not serve is scored in float32 (fold.h). How far 16 bits are off: rounding
 * moves a folded number by r, uniform in half a step either way, r^2 = step^2 / 12, independently of the
 * others.
 *
 *   scores    sum_c r_c d_tc with d = code - levels / 2: root mean square step * sqrt(D / 12 * mean d^2)
 *   output    of a channel, sum_t r_t d_tc: squared, n / 12 * step^2 * mean d^2; and what the scores are off
 *             by (score_rms_error) moves p by p times as much, and so the output by about
 *             score_rms_error * sqrt(sum_t p_t^2 v_t^2)
 *
 * d^2 has a mean of 0.06 levels^2 for normal numbers and 0.25 where all codes are at an end; half-way between
 * is taken.
 */

enum { META_TILES = KVQ_SUPERBLOCK / KVQ_BLOCK, ROW_GROUPS = KVQ_ROW_NUMBERS_MAX / 16 };

/* Does a query fold? Its step and biases are finite, and far from overflowing. */
static bool fits(const kvq_layout *l, size_t n, float step, const float *bias, size_t stride)
{
    bool all = step <= KVQ_FOLD_MAX;
    for (size_t t = 0; t < n; t += l->meta_tile_tokens, bias += stride)
        all = all && fabsf(*bias) <= KVQ_FOLD_MAX; /* false for NaN */
    return all;
}

static void affine_score(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                         size_t n_q, float *scores, float *rms_error)
{
    const kvq_layout *l = layout_of(s);
    const bool wide = tokens->sums == KVQ_SUMS_WIDE;
    const size_t n_rows = wide ? 2 * n_q : n_q;
    _Alignas(KVQ_ALIGNMENT) int8_t q_folded[META_TILES * 2 * KVQ_ROW_NUMBERS_MAX];
    float step[KVQ_ROWS_MAX], bias[META_TILES * KVQ_ROWS_MAX];
    k->fold_keys(l, tokens->superblock, tokens->n, q, n_q, wide, q_folded, step, bias);
    for (size_t i = 0; i < n_q; i++)
        rms_error[i] =
            fits(l, tokens->n, step[i], bias + i, n_rows) ? step[i] * l->score_error_per_step : INFINITY;
    if (wide || kvq_any_folded(rms_error, n_q))
        kvq_score_folded(k, l, tokens->superblock, tokens->next, tokens->n, q_folded, step, bias, n_rows,
                         scores);
}

/* Where codes cannot spread over a group's grid, because its scale is one of the smallest halves, they all
 * stand near one end, and what rounding takes pulls all channels the same way: a row has one draw of that
 * error, not one per channel. Counted 16 times, it is four sigma further from what is promised. */
static float spread_penalty(float largest_fold, float largest_p)
{
    const float coarse_scale = 0x1p-17f; /* below it halves are 1/128 and more apart */
    return largest_fold < coarse_scale * largest_p ? 16.0f : 1.0f;
}

/* What the rows of one call of fold_values amount to in error. */
static void add_errors(const kvq_kernels *k, const kvq_layout *l, const kvq_tokens *tokens, const float *p,
                       size_t n_q, const float *step, const float *energy, const float *score_rms_error,
                       float *error)
{
    float levels = levels_of(l), group = (float)l->group, largest_p[KVQ_ROWS_MAX] = {0};
    float of_folded =
        group * levels * levels * 0.25f / 12.0f * (float)tokens->n; /* all codes at an end: it is small */
    for (size_t i = 0; i < n_q && tokens->n > 0; i++)
        largest_p[i] = k->max_f32(p + i * KVQ_SUPERBLOCK, tokens->n);
    for (size_t c = 0, at = 0; c < l->dim; c += l->group)
        for (size_t i = 0; i < n_q; i++, at++)
            error[i] += step[at] * step[at] * of_folded *
                            spread_penalty(step[at] * (float)KVQ_FOLDED_MAX, largest_p[i]) +
                        score_rms_error[i] * score_rms_error[i] * energy[at] * group;
}

static void affine_accumulate(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens,
                              const float *p, size_t n_q, const float *score_rms_error,
                              const kvq_sum_rows *sums)
{
    const kvq_layout *l = layout_of(s);
    const bool wide = tokens->sums == KVQ_SUMS_WIDE;
    _Alignas(KVQ_ALIGNMENT) int8_t p_folded[ROW_GROUPS * 2 * KVQ_SUPERBLOCK];
    float step[ROW_GROUPS], bias[ROW_GROUPS], energy[ROW_GROUPS];
    k->fold_values(l, tokens->superblock, tokens->n, p, n_q, wide, p_folded, step, bias, energy);
    if (wide) { /* nobody asks for its error */
        kvq_accumulate_wide(k, l, tokens, p_folded, step, bias, n_q, sums->packed);
        return;
    }
    k->accumulate_folded(l, tokens->superblock, tokens->next, tokens->n, p_folded, step, bias, n_q,
                         sums->packed);
    add_errors(k, l, tokens, p, n_q, step, energy, score_rms_error, sums->error);
}

/* ---- What schemes say ---- */

/* The parameters, in this order. */
enum { BITS, PER_CHANNEL, GROUP }; /* of GROUP, 0 is the whole head dimension */

static bool bits_are_valid(uint32_t bits)
{
    return (bits >= 1 && bits <= 6) || bits == 8;
}

static bool affine_owns(const char *text)
{
    return text[0] >= '0' && text[0] <= '9';
}

static bool parse_group(kvq_text *t, uint32_t *parameter)
{
    const char *start = t->at;
    if (kvq_text_accept_word(t, "full")) {
        parameter[GROUP] = 0;
        return parameter[PER_CHANNEL] == 0 || kvq_text_fail(t, start, "a full group needs the token axis");
    }
    uint32_t group;
    if (!kvq_text_number(t, 9999, &group))
        return false;
    parameter[GROUP] = group;
    return group == 16 || group == 32 || group == 64 || group == 128 ||
           kvq_text_fail(t, start, "group must be 16, 32, 64, 128 or full");
}

/* BITS ["@" ("channel" | "token")] ["/" (GROUP | "full")] */
static bool affine_parse(const kvq_codec *codec, kvq_text *t, kvq_role role, uint32_t *parameter)
{
    (void)codec;
    const char *start = t->at;
    if (!kvq_text_number(t, 99, &parameter[BITS]))
        return false;
    if (!bits_are_valid(parameter[BITS]))
        return kvq_text_fail(t, start, "bits must be 1, 2, 3, 4, 5, 6 or 8");
    parameter[PER_CHANNEL] = role == KVQ_KEYS;
    parameter[GROUP] = KVQ_BLOCK;
    if (kvq_text_accept(t, "@")) {
        parameter[PER_CHANNEL] = kvq_text_accept_word(t, "channel");
        if (parameter[PER_CHANNEL] == 0 && !kvq_text_accept_word(t, "token"))
            return kvq_text_fail(t, t->at, "channel or token is expected here");
    }
    return !kvq_text_accept(t, "/") || parse_group(t, parameter);
}

static void affine_print(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter)
{
    (void)codec, (void)role;
    kvq_put_number(p, "", parameter[BITS]);
    kvq_put(p, parameter[PER_CHANNEL] != 0 ? "@channel" : "@token");
    if (parameter[GROUP] == 0)
        kvq_put(p, "/full");
    else
        kvq_put_number(p, "/", parameter[GROUP]);
}

static const char *affine_init(kvq_side *s)
{
    kvq_layout *l = (kvq_layout *)(void *)s->own;
    kvq_layout_init(l, &(kvq_layout_spec){
                           .role = s->role,
                           .bits = s->parameter[BITS],
                           .per_channel = s->parameter[PER_CHANNEL] != 0,
                           .half_arith = s->common.half_arith,
                           .group = s->parameter[GROUP],
                           .dim = s->dim,
                       });
    s->bytes = l->bytes;
    s->tokens_per_run = l->tokens_per_run;
    s->sliding_step = s->parameter[GROUP] == 0 ? KVQ_BLOCK : l->group;
    s->payload_per_run = l->payload_per_token * l->tokens_per_run;
    s->metadata_per_run = l->metadata_per_run;
    s->folds = kvq_layout_folds(l);
    s->bits = l->bits;
    s->has_groups = true;
    s->per_channel = l->per_channel;
    s->group = s->parameter[GROUP];
    return NULL;
}

const kvq_codec kvq_codec_affine = {
    .name = "affine",
    .owns = affine_owns,
    .parse = affine_parse,
    .print = affine_print,
    .init = affine_init,
    .encode = affine_encode,
    .dequantize = affine_dequantize,
    .error_bound = affine_error_bound,
    .clear = affine_clear,
    .is_valid = affine_is_valid,
    .score = affine_score,
    .accumulate = affine_accumulate,
};

const kvq_layout *kvq_side_affine_layout(const kvq_side *s)
{
    return s->codec == &kvq_codec_affine ? layout_of(s) : NULL;
}
