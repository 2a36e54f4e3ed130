/*
 * Rotated values: a Hadamard transform makes every channel of a token look normal, so that one scale per
 * token and a fixed set of levels serve it. The packed domain is the rotated one: attention adds up there
 * and turns each sum back once. A superblock is always 128 tokens.
 *
 *   y = H v        H orthonormal; D is cut into powers of two, the largest first (80 = 64 + 16)
 *   levels         in units of sigma = |y| / sqrt(D), for bits
 *                    2    (2n - 3) .49785: uniform, so that 2n - 3 is the code's only part in a sum
 *                    3, 4 those of least squares for normal numbers (Lloyd and Max)
 *                    1.5  those of 1, 2 and 4 bits, or none: four classes of 32 tokens, sorted by (a_t +
 *                         mean a) |v_t|^2, largest first, widths bought as codec_tier.c buys them, 6 units
 *                         in all
 *   code           the nearest level: the number of thresholds (half-way between levels) that y / sigma
 *                  passes
 *   scale          |y|^2 / <y, q>, q the levels: so <v, vhat> = <v, v>, without bias. Stored as 2^((base +
 *                  n)/16), n = 1 .. 255; base is the page's and gives the largest 255. Smaller ones than n =
 *                  1 become that. n = 0: the token is 0, or has no bits
 *   f              page vector: sum a_t (v_t - vhat_t) / sum a_t over the tokens that are not heavy hitters,
 *                  as a row of int8 (row8.h); added to each of these. a_t is the attention a token has
 *                  received, 1 if unknown
 *   heavy hitters  the m tokens with the largest a_t (for 1.5 bits, of what tokens are sorted by; none if a
 *                  is unknown) are rows of int8. Everywhere else they are the mean of the others
 *
 * Layout, Dp = D rounded up to 16, all little-endian:
 *
 *   codes    of 2, 3, 4 bits as affine values have them (layout.h); of 1.5 bits, class by class, uint32
 *            code[Dp / 16][width][16], as one block of that, 24 Dp bytes with what is not used
 *   base     int16                     scales  uint8[128], n of token t
 *   order    1.5 bits only: uint8[128], the token at each place; and widths, nibble[4]
 *   f        D + 2 bytes, unless page=0
 *   rows     [m] of D + 2 bytes        indices uint8[m], 255 for none
 *
 * f and rows are in the domain of the numbers, everything else in the rotated one.
 *
 * Attention, 2 bits. x_t = p_t scale_t .9957 is rounded to 16 bits with one step per row of p, w_t; the sum
 * is step (sum w_t code_t - 1.5 sum w_t), the last sum exactly, so codes are centred and what rounding takes
 * has no bias. Other bits: the sum of x_t times levels, in float, in the order of places. f is added once,
 * times the sum of p.
 *
 * Error bound, of the numbers. e = y - S q, S the stored scale = s rho, s = |y|^2 / <y, q>, rho within
 * 2^(+-1/32). |e|^2 = |y|^2 - 2 S <y, q> + S^2 |q|^2 = S^2 |q|^2 - (2 rho - 1) |y|^2. From below, |y| is
 * known by its cells: y_c q_c >= sigma z_c |q_c|, z_c the inner edge of c's cell, so |y|^2 = s <y, q> >= s
 * sigma m with m = sum z_c |q_c|, and |y| >= s m / sqrt(D) >= S 2^(-1/32) m / sqrt(D). H keeps norms, so no
 * element is off by more than |e| + |f_c|. Where n = 1, s may be smaller: |y| <= s |q| <= 2^(1/32) S |q|
 * gives |e| <= (1 + 2^(1/32)) S |q|. No bound for tokens without bits and for the largest scale, which may
 * stand for more. Float rounding: H and back are within 2^-20 of the norm of what is turned; edges, s
 * and sigma within 2^-16.
 */
#include "quant/rot.h"

#include <float.h>
#include <math.h>

enum { T = KVQ_SUPERBLOCK, LANES = KVQ_LANES, SORTED = 3 }; /* SORTED: halves, of 1.5 bits */

/* ---- Levels ---- */

static const float levels_1[] = {-0.7979f, 0.7979f};
static const float levels_2[] = {-1.5104f, -0.4528f, 0.4528f, 1.5104f};
static const float levels_3[] = {-2.1520f, -1.3439f, -0.7560f, -0.2451f, 0.2451f, 0.7560f, 1.3439f, 2.1520f};
static const float levels_4[] = {-2.7327f, -2.0691f, -1.6182f, -1.2563f, -0.9424f, -0.6568f,
                                 -0.3881f, -0.1284f, 0.1284f,  0.3881f,  0.6568f,  0.9424f,
                                 1.2563f,  1.6182f,  2.0691f,  2.7327f};
static const float levels_uniform[] = {-1.5f * KVQ_ROT_SPACING, -0.5f * KVQ_ROT_SPACING,
                                       0.5f * KVQ_ROT_SPACING, 1.5f * KVQ_ROT_SPACING};

const float *kvq_rot_levels(const kvq_rot *l, uint32_t width)
{
    static const float *const of_width[] = {NULL, levels_1, levels_2, levels_3, levels_4};
    return l->bits == 2 ? levels_uniform : of_width[width];
}

/* ---- The transform ---- */

void kvq_rotate(const kvq_kernels *k, size_t dim, float *x)
{
    while (dim > 0) {
        size_t n = 1;
        while (2 * n <= dim)
            n *= 2;
        k->hadamard_f32(x, n);
        x += n;
        dim -= n;
    }
}

static void rot_finish(const kvq_kernels *k, const kvq_side *s, float *row)
{
    kvq_rotate(k, s->dim, row); /* H is its own inverse */
}

static void rot_prepare(const kvq_kernels *k, const kvq_side *s, const float *q, float *out)
{
    memcpy(out, q, s->dim * sizeof *out);
    kvq_rotate(k, s->dim, out);
}

/* ---- Codes ---- */

kvq_rot_codes kvq_rot_codes_of_block(const kvq_rot *l, const uint8_t *superblock, size_t block)
{
    kvq_rot_codes b = {.width = l->bits};
    if (l->bits == 0) {
        b.width = kvq_rot_class_width(l, superblock, block);
        b.n_planes = b.width > 0;
        b.plane_width[0] = b.width;
        b.stride[0] = (size_t)64 * b.width;
        for (size_t i = 0; i < block; i++)
            b.offset[0] += 4 * l->dim_padded * kvq_rot_class_width(l, superblock, i);
        return b;
    }
    b.n_planes = l->codes.n_planes;
    for (size_t i = 0; i < b.n_planes; i++) {
        b.plane_width[i] = l->codes.plane[i].width;
        b.shift[i] = l->codes.plane[i].shift;
        b.stride[i] = (size_t)4 * 64 * b.plane_width[i];
        b.offset[i] = l->codes.plane[i].offset + block * 64 * b.plane_width[i];
    }
    return b;
}

kvq_block_codes kvq_rot_block_codes(const kvq_rot_codes *b, const uint8_t *superblock)
{
    kvq_block_codes codes = {.n_planes = b->n_planes};
    for (size_t i = 0; i < b->n_planes; i++) {
        codes.from[i] = superblock + b->offset[i];
        codes.stride[i] = b->stride[i];
        codes.width[i] = b->plane_width[i];
        codes.up[i] = b->shift[i];
    }
    return codes;
}

kvq_token_codes kvq_rot_codes_of_token(const kvq_rot_codes *b, const uint8_t *superblock, size_t place)
{
    kvq_token_codes codes = {.n_planes = b->n_planes};
    for (size_t i = 0; i < b->n_planes; i++) {
        static const uint8_t log_per_dword[5] = {0, 5, 4, 0, 3}; /* 32 / width, without a division */
        const uint32_t width = b->plane_width[i], log = log_per_dword[width],
                       v = (uint32_t)place & ((1u << log) - 1u);
        codes.from[i] = superblock + b->offset[i] + (place >> log) * 64;
        codes.stride[i] = b->stride[i];
        codes.at[i] = v % 4 * 8 + v / 4 * width;
        codes.mask[i] = (1u << width) - 1u;
        codes.up[i] = b->shift[i];
    }
    return codes;
}

/* Dp of them. */
static void unpack_token(const kvq_rot *l, const kvq_rot_codes *b, const uint8_t *superblock, size_t place,
                         uint8_t *codes)
{
    const kvq_token_codes from = kvq_rot_codes_of_token(b, superblock, place);
    memset(codes, 0, l->dim_padded);
    for (size_t i = 0; i < from.n_planes; i++)
        for (size_t c = 0; c < l->dim_padded; c++) {
            uint32_t dword = kvq_load_u32(from.from[i] + c / LANES * from.stride[i] + c % LANES * 4);
            codes[c] |= (uint8_t)((dword >> from.at[i] & from.mask[i]) << from.up[i]);
        }
}

void kvq_rot_places(const kvq_rot *l, const uint8_t *superblock, uint8_t *place)
{
    for (size_t i = 0; i < T; i++)
        place[l->bits != 0 ? i : superblock[l->order + i]] = (uint8_t)i;
}

static const uint8_t *kept_row(const kvq_rot *l, const uint8_t *superblock, size_t i)
{
    return superblock + l->rows + i * l->row_bytes;
}

/* ---- Reading ---- */

/* A row of int8, rotated. */
static void read_rotated(const kvq_kernels *k, const kvq_rot *l, const uint8_t *row, float *out)
{
    k->convert_i8_f32(row, l->dim, out);
    kvq_rotate(k, l->dim, out);
}

static void rot_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                           size_t n, float *out, size_t stride)
{
    const kvq_rot *l = kvq_rot_of(s);
    uint8_t place[T];
    float page[KVQ_DIM_MAX], page_scale = kvq_rot_page_scale(l, superblock);
    kvq_rot_places(l, superblock, place);
    memset(page, 0, l->dim * sizeof *page);
    if (l->has_page)
        read_rotated(k, l, superblock + l->page, page);
    kvq_rot_codes b = {0};
    for (size_t i = 0, last = KVQ_ROT_CLASSES; i < n; i++) {
        if (place[t0 + i] / KVQ_ROT_CLASS != last) {
            last = place[t0 + i] / KVQ_ROT_CLASS;
            b = kvq_rot_codes_of_block(l, superblock, last);
        }
        if (b.width == 0) {
            memcpy(out + i * stride, page, l->dim * sizeof *out);
            continue;
        }
        kvq_token_codes codes = kvq_rot_codes_of_token(&b, superblock, place[t0 + i] % KVQ_ROT_CLASS);
        k->dequantize_levels(&codes, kvq_rot_levels(l, b.width),
                             kvq_rot_scale(l, superblock, page_scale, t0 + i), page, l->dim,
                             out + i * stride);
    }
    for (size_t i = 0; i < l->n_rows; i++) {
        size_t t = superblock[l->indices + i];
        if (t >= t0 && t < t0 + n)
            read_rotated(k, l, kept_row(l, superblock, i), out + (t - t0) * stride);
    }
}

/* What |H| of a row of int8 may be off by: float rounding, from a bound of its norm. */
static double rotation_error(const kvq_rot *l, const uint8_t *row)
{
    return 0x1p-19 * sqrt((double)l->dim) * KVQ_ROW8_LARGEST * (double)kvq_row8_scale(row);
}

/* |e| of a token at a place, as the first comment derives it. */
static double rotated_error_bound(const kvq_rot *l, const uint8_t *superblock, size_t t, size_t place)
{
    kvq_rot_codes b = kvq_rot_codes_of_block(l, superblock, place / KVQ_ROT_CLASS);
    uint8_t codes[KVQ_DIM_MAX], n = superblock[l->scales + t];
    double norm = 0, m = 0,
           scale = (double)kvq_rot_scale(l, superblock, kvq_rot_page_scale(l, superblock), t);
    if (b.width == 0 || (n != 0 && kvq_rot_log_scale(l, superblock, t) >= l->log_limit))
        return (double)INFINITY;
    if (n == 0)
        return 0;
    const float *levels = kvq_rot_levels(l, b.width);
    unpack_token(l, &b, superblock, place % KVQ_ROT_CLASS, codes);
    for (size_t c = 0; c < l->dim; c++) {
        size_t outer = codes[c], half = (size_t)1 << (b.width - 1),
               inner = outer >= half ? outer - 1 : outer + 1;
        double q = (double)levels[outer], edge = fabs(q + (double)levels[inner]) / 2;
        norm += q * q;
        m += (outer == half || outer == half - 1 ? 0 : edge) * fabs(q);
    }
    const double rho = 0.978572062; /* 2^(-1/32) */
    double least = rho * m / sqrt((double)l->dim) * (1 - 0x1p-14);
    double squared =
        n == 1 ? norm * (1 + 1 / rho) * (1 + 1 / rho) : norm - (2 * rho - 1 - 0x1p-14) * least * least;
    return scale * (sqrt(fmax(squared, 0)) * (1 + 0x1p-12) + sqrt(norm) * 0x1p-12);
}

static void rot_error_bound(const kvq_side *s, const uint8_t *superblock, size_t t0, size_t n, float *out,
                            size_t stride)
{
    const kvq_rot *l = kvq_rot_of(s);
    uint8_t place[T];
    float page[KVQ_DIM_MAX] = {0};
    double turned = l->has_page ? 4 * rotation_error(l, superblock + l->page) : 0;
    kvq_rot_places(l, superblock, place);
    if (l->has_page)
        kvq_kernels_portable.convert_i8_f32(superblock + l->page, l->dim, page);
    for (size_t i = 0; i < n; i++, out += stride) {
        double error = rotated_error_bound(l, superblock, t0 + i, place[t0 + i]);
        for (size_t c = 0; c < l->dim; c++)
            out[c] = (float)((error + fabs((double)page[c]) + turned) * (1 + 0x1p-22)) + FLT_MIN;
        for (size_t j = 0; j < l->n_rows; j++) {
            const uint8_t *row = kept_row(l, superblock, j);
            if (superblock[l->indices + j] != t0 + i)
                continue;
            for (size_t c = 0; c < l->dim; c++)
                out[c] = kvq_row8_error_bound(kvq_row8_scale(row)) + (float)(2 * rotation_error(l, row));
        }
    }
}

/* ---- Validation ---- */

static bool order_is_valid(const kvq_rot *l, const uint8_t *superblock)
{
    bool seen[T] = {false};
    uint32_t sum = 0, before = 4;
    for (size_t i = 0; i < T && l->bits == 0; i++) {
        size_t t = superblock[l->order + i];
        if (t >= T || seen[t])
            return false;
        seen[t] = true;
    }
    for (size_t i = 0; i < KVQ_ROT_CLASSES && l->bits == 0; i++) {
        uint32_t width = kvq_rot_class_width(l, superblock, i);
        if (width > before || width == 3)
            return false;
        before = width;
        sum += width;
    }
    return sum <= KVQ_ROT_BUDGET;
}

/* Nothing where no channel, no code or no scale is. */
static bool codes_are_valid(const kvq_rot *l, const uint8_t *superblock)
{
    uint8_t place[T], codes[KVQ_DIM_MAX];
    size_t used = l->bits != 0 ? l->code_bytes : 0;
    kvq_rot_places(l, superblock, place);
    for (size_t t = 0; t < T; t++) {
        kvq_rot_codes b = kvq_rot_codes_of_block(l, superblock, place[t] / KVQ_ROT_CLASS);
        unpack_token(l, &b, superblock, place[t] % KVQ_ROT_CLASS, codes);
        bool empty = superblock[l->scales + t] == 0;
        if ((b.width == 0 && !empty) ||
            !kvq_all_zero(codes + (empty ? 0 : l->dim), l->dim_padded - (empty ? 0 : l->dim)))
            return false;
    }
    for (size_t i = 0; i < KVQ_ROT_CLASSES && l->bits == 0; i++)
        used += 4 * l->dim_padded * kvq_rot_class_width(l, superblock, i);
    return kvq_all_zero(superblock + used, l->code_bytes - used);
}

static bool rows_are_valid(const kvq_rot *l, const uint8_t *superblock)
{
    const uint8_t *index = superblock + l->indices;
    if (l->has_page && !kvq_row8_is_valid(superblock + l->page, l->dim))
        return false;
    for (size_t i = 0; i < l->n_rows; i++) {
        const uint8_t *row = kept_row(l, superblock, i);
        bool none = index[i] == KVQ_NO_TOKEN;
        if (none ? !kvq_all_zero(row, l->row_bytes)
                 : index[i] >= T || kvq_is_kept(index, i, index[i]) || !kvq_row8_is_valid(row, l->dim))
            return false;
    }
    return true;
}

static bool rot_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    const kvq_rot *l = kvq_rot_of(s);
    int32_t base = (int16_t)kvq_load_u16(superblock + l->base);
    if (n == 0)
        return kvq_all_zero(superblock, s->bytes);
    return base >= KVQ_ROT_LOG_LEAST && base <= l->log_limit - KVQ_ROT_N_LARGEST &&
           order_is_valid(l, superblock) && codes_are_valid(l, superblock) && rows_are_valid(l, superblock) &&
           kvq_all_zero(superblock + l->end, s->bytes - l->end);
}

static bool rot_is_kept(const kvq_side *s, const uint8_t *superblock, size_t t)
{
    const kvq_rot *l = kvq_rot_of(s);
    return kvq_is_kept(superblock + l->indices, l->n_rows, t);
}

/* ---- Sums ---- */

/* Is a level its code minus 3/2, times the unit of scales? */
static bool is_centred(const kvq_rot *l)
{
    return l->bits == 2;
}

/* What a token's 2^(n/16) is multiplied with. */
static float unit_of_scales(const kvq_rot *l, const uint8_t *superblock)
{
    return kvq_rot_page_scale(l, superblock) * (is_centred(l) ? KVQ_ROT_SPACING : 1.0f);
}

/* What is in the domain of the numbers: the page vector, with the sum of p over all others, and behind it the
 * kept rows. Rows of p whose sum is NaN get nothing here. */
static void accumulate_plain(const kvq_kernels *k, const kvq_rot *l, const kvq_tokens *tokens, const float *p,
                             size_t n_q, const float *sum_of_p, float *plain)
{
    const uint8_t *index = tokens->superblock + l->indices;
    float weight[KVQ_ROWS_MAX][T];
    size_t n = 0;
    for (size_t i = 0; i < n_q; i++, p += T) {
        const bool none = isnan(sum_of_p[i]);
        n = 0;
        if (l->has_page)
            weight[i][n++] = none ? 0.0f : sum_of_p[i];
        for (size_t j = 0; j < l->n_rows; j++)
            weight[i][n++] = !none && index[j] < tokens->n ? p[index[j]] : 0.0f;
    }
    k->accumulate_i8(tokens->superblock + l->page, l->row_bytes, n, (kvq_next){NULL, 0}, weight[0], n_q,
                     l->dim, plain);
}

/* Root mean square errors as in codec_affine.c; here all levels have a mean square of about 1. */
static float estimate_error(const kvq_rot *l, size_t n, float step, float energy, float score_rms_error)
{
    const float levels = 3.0f, dim = (float)l->dim;
    return step * step * dim * levels * levels * 0.25f / 12.0f * (float)n +
           score_rms_error * score_rms_error * energy * dim;
}

/* Kept tokens, as what they add to the energy of a row of p needs them: p^2 times the mean square of their
 * numbers, which is taken for that of the largest one. Folding leaves them out, but an error of their scores
 * moves the output as much. (tier scores its own kept tokens exactly; then this is too much, and little.) */
typedef struct kept_tokens {
    size_t n, token[KVQ_HEAVY_HITTERS_MAX];
    float square[KVQ_HEAVY_HITTERS_MAX];
} kept_tokens;

static void find_kept(const kvq_rot *l, const kvq_tokens *tokens, kept_tokens *kept)
{
    kept->n = 0;
    for (size_t i = 0; i < l->n_rows; i++) {
        const size_t t = tokens->superblock[l->indices + i];
        if (t >= tokens->n)
            continue;
        const float largest = (float)KVQ_ROW8_LARGEST * kvq_row8_scale(kept_row(l, tokens->superblock, i));
        kept->token[kept->n] = t;
        kept->square[kept->n++] = largest * largest;
    }
}

static float energy_of_kept(const kept_tokens *kept, const float *p)
{
    float energy = 0.0f;
    for (size_t i = 0; i < kept->n; i++)
        energy += p[kept->token[i]] * p[kept->token[i]] * kept->square[i];
    return energy;
}

/* Levels that are not uniform, block by block; x: p times scales. */
static void accumulate_levels(const kvq_kernels *k, const kvq_rot *l, const uint8_t *superblock,
                              const float *x, size_t n_q, float *packed)
{
    float sums[KVQ_ROW_NUMBERS_MAX], factors[KVQ_ROWS_MAX * T];
    memset(sums, 0, n_q * l->dim_padded * sizeof *sums);
    for (size_t i = 0; i < KVQ_ROT_CLASSES; i++) {
        const kvq_rot_codes b = kvq_rot_codes_of_block(l, superblock, i);
        if (b.width == 0)
            continue;
        for (size_t row = 0; row < n_q; row++)
            for (size_t j = 0, place = i * KVQ_ROT_CLASS; j < KVQ_ROT_CLASS; j++, place++)
                factors[row * T + j] = x[row * T + (l->bits != 0 ? place : superblock[l->order + place])];
        const kvq_block_codes codes = kvq_rot_block_codes(&b, superblock);
        k->accumulate_levels(&codes, kvq_rot_levels(l, b.width), factors, n_q, l->dim_padded, sums);
    }
    for (size_t i = 0; i < n_q; i++)
        for (size_t c = 0; c < l->dim; c++)
            packed[i * l->dim + c] += sums[i * l->dim_padded + c];
}

/* Sums of codes that are centred levels, times folded numbers: n_q rows, or if `wide` twice as many. */
static void accumulate_centred(const kvq_kernels *k, const kvq_rot *l, const kvq_tokens *tokens,
                               const int8_t *folded, const kvq_fold *fold, size_t n_q, bool wide,
                               float *packed)
{
    const size_t n_rows = wide ? 2 * n_q : n_q;
    float step[KVQ_ROWS_MAX], bias[KVQ_ROWS_MAX];
    for (size_t i = 0; i < n_rows; i++) {
        step[i] = fold[i].step;
        bias[i] = -1.5f * fold[i].step * fold[i].sum;
    }
    if (wide)
        kvq_accumulate_wide(k, &l->codes, tokens, folded, step, bias, n_q, packed);
    else
        k->accumulate_folded(&l->codes, tokens->superblock, tokens->next, tokens->n, folded, step, bias, n_q,
                             packed);
}

/* What the sums of n_q rows may be off by. */
static void add_errors(const kvq_rot *l, const kvq_tokens *tokens, const float *p, size_t n_q,
                       const kvq_fold *fold, const float *score_rms_error, float *error)
{
    kept_tokens kept;
    find_kept(l, tokens, &kept);
    for (size_t i = 0; i < n_q; i++) {
        const float energy = fold[i].energy + energy_of_kept(&kept, p + i * T);
        if (energy <= FLT_MAX)
            error[i] +=
                estimate_error(l, tokens->n, is_centred(l) ? fold[i].step : 0.0f, energy, score_rms_error[i]);
    }
}

/* Products of p and scales: folded and summed as whole numbers where codes are centred levels, otherwise as
 * floats. */
static void rot_accumulate(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *p,
                           size_t n_q, const float *score_rms_error, const kvq_sum_rows *sums)
{
    const kvq_rot *l = kvq_rot_of(s);
    const bool is_wide = tokens->sums == KVQ_SUMS_WIDE, wide = is_wide && is_centred(l);
    if (tokens->n == 0)
        return;
    _Alignas(KVQ_ALIGNMENT) int8_t folded[KVQ_ROWS_MAX * 2 * T];
    float x[KVQ_ROWS_MAX][T], sum_of_p[KVQ_ROWS_MAX] = {0};
    kvq_fold fold[KVQ_ROWS_MAX];
    k->fold_products(&(kvq_log_scales){.n = tokens->superblock + l->scales,
                                       .unit = unit_of_scales(l, tokens->superblock),
                                       .left_out = tokens->superblock + l->indices,
                                       .n_left_out = l->n_rows},
                     tokens->n, p, n_q, wide, x[0], folded, fold);
    for (size_t i = 0; i < n_q; i++) {
        sum_of_p[i] = fold[i].sum_of_p;
        if (!(fold[i].step <= KVQ_FOLD_MAX)) { /* it does not fold, and is all 0 */
            sum_of_p[i] = NAN;
            fold[i].step = 0.0f;
            if (wide)
                fold[n_q + i].step = 0.0f;
            kvq_accumulate_dequantized(k, s, tokens, p + i * T, 1, sums->packed + i * l->dim);
        }
    }
    accumulate_plain(k, l, tokens, p, n_q, sum_of_p, sums->plain);
    if (is_centred(l)) {
        accumulate_centred(k, l, tokens, folded, fold, n_q, wide, sums->packed);
    } else {
        kvq_prefetch_all(tokens->next);
        accumulate_levels(k, l, tokens->superblock, x[0], n_q, sums->packed);
    }
    if (!is_wide) /* nobody asks for the error of wide sums */
        add_errors(l, tokens, p, n_q, fold, score_rms_error, sums->error);
}

/* ---- What schemes say ---- */

/* BITS [":page=0"] */
static bool rot_parse(const kvq_codec *codec, kvq_text *t, kvq_role role, uint32_t *parameter)
{
    (void)codec;
    const char *start = t->at;
    if (role != KVQ_VALUES)
        return kvq_text_fail(t, start, "rot is for values");
    if (t->at[-1] != ':')
        return kvq_text_fail(t, start, "rot needs its bits, as in rot:2");
    if (!kvq_text_halves(t, 9, &parameter[KVQ_ROT_HALVES]))
        return false;
    if (parameter[KVQ_ROT_HALVES] != 3 && parameter[KVQ_ROT_HALVES] != 4 && parameter[KVQ_ROT_HALVES] != 6 &&
        parameter[KVQ_ROT_HALVES] != 8)
        return kvq_text_fail(t, start, "bits must be 1.5, 2, 3 or 4");
    parameter[KVQ_ROT_PAGE] = !kvq_text_accept_word(t, ":page=0");
    return true;
}

static void rot_print(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter)
{
    (void)codec, (void)role;
    kvq_put_halves(p, "rot:", parameter[KVQ_ROT_HALVES]);
    if (parameter[KVQ_ROT_PAGE] == 0)
        kvq_put(p, ":page=0");
}

/* Scales are kept so small that no sum of a whole row of levels overflows. */
static int32_t limit_of_logs(size_t dim)
{
    int32_t log_dim = 0;
    while ((size_t)1 << log_dim < dim)
        log_dim++;
    return 16 * (125 - log_dim);
}

static void lay_out(kvq_rot *l, bool sorted)
{
    l->code_bytes = sorted ? 4 * KVQ_ROT_BUDGET * l->dim_padded : T * l->codes.payload_per_token;
    l->base = l->code_bytes;
    l->scales = l->base + 2;
    l->order = l->scales + T;
    l->widths = l->order + (sorted ? T : 0);
    l->page = l->widths + (sorted ? KVQ_ROT_CLASSES / 2 : 0);
    l->row_bytes = kvq_row8_bytes(l->dim);
    l->rows = l->page + (l->has_page ? l->row_bytes : 0);
    l->indices = l->rows + l->n_rows * l->row_bytes;
    l->end = l->indices + l->n_rows;
}

static const char *rot_init(kvq_side *s)
{
    kvq_rot *l = (kvq_rot *)(void *)s->own;
    const bool sorted = s->parameter[KVQ_ROT_HALVES] == SORTED;
    if (s->common.heavy_hitters > KVQ_HEAVY_HITTERS_MAX)
        return "too many heavy hitters";
    *l = (kvq_rot){.dim = s->dim,
                   .dim_padded = (s->dim + LANES - 1) / LANES * LANES,
                   .n_rows = s->common.heavy_hitters,
                   .bits = sorted ? 0 : s->parameter[KVQ_ROT_HALVES] / 2,
                   .log_limit = limit_of_logs(s->dim),
                   .has_page = s->parameter[KVQ_ROT_PAGE] != 0};
    if (!sorted)
        kvq_layout_init(&l->codes, &(kvq_layout_spec){.role = KVQ_VALUES, .bits = l->bits, .dim = s->dim});
    lay_out(l, sorted);
    s->bytes = (l->end + KVQ_ALIGNMENT - 1) / KVQ_ALIGNMENT * KVQ_ALIGNMENT;
    s->tokens_per_run = s->sliding_step = T;
    s->payload_per_run = l->code_bytes;
    s->metadata_per_run = s->bytes - l->code_bytes;
    s->evidence = l->has_page || l->n_rows > 0 || sorted ? (unsigned)KVQ_EVIDENCE_RECEIVED : 0u;
    s->heavy_hitters = s->common.heavy_hitters;
    s->folds = true;
    s->bits = l->bits;
    return NULL;
}

const kvq_codec kvq_codec_rot = {
    .name = "rot",
    .parse = rot_parse,
    .print = rot_print,
    .init = rot_init,
    .encode = kvq_rot_encode,
    .dequantize = rot_dequantize,
    .prepare = rot_prepare,
    .finish = rot_finish,
    .error_bound = rot_error_bound,
    .is_valid = rot_is_valid,
    .is_kept = rot_is_kept,
    .accumulate = rot_accumulate,
};
