/*
 * Rotated values: a Hadamard transform makes every channel of a token look normal, so that one scale per token
 * and a fixed set of levels serve it. The packed domain is the rotated one: attention adds up there and turns
 * each sum back once. A superblock is always 128 tokens.
 *
 *   y = H v        H orthonormal; D is cut into powers of two, the largest first (80 = 64 + 16)
 *   levels         in units of sigma = |y| / sqrt(D), for bits
 *                    2    (2n - 3) .49785: uniform, so that 2n - 3 is the code's only part in a sum
 *                    3, 4 those of least squares for normal numbers (Lloyd and Max)
 *                    1.5  those of 1, 2 and 4 bits, or none: four classes of 32 tokens, sorted by (a_t + mean
 *                         a) |v_t|^2, largest first, widths bought as codec_tier.c buys them, 6 units in all
 *   code           the nearest level: the number of thresholds (half-way between levels) that y / sigma
 *                  passes; of 2 bits rne(y / (.9957 sigma) + 1.5), clamped
 *   scale          |y|^2 / <y, q>, q the levels: so <v, vhat> = <v, v>, without bias. Stored as 2^((base +
 *                  n)/16), n = 1 .. 255; base is the page's and gives the largest 255. Smaller ones than n = 1
 *                  become that. n = 0: the token is 0, or has no bits
 *   f              page vector: sum a_t (v_t - vhat_t) / sum a_t over the tokens that are not heavy hitters,
 *                  as a row of int8 (row8.h); added to each of these. a_t is the attention a token has
 *                  received, 1 if unknown
 *   heavy hitters  the m tokens with the largest a_t (for 1.5 bits, of what tokens are sorted by; none if a is
 *                  unknown) are rows of int8. Everywhere else they are the mean of the others
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
 * Attention, 2 bits. x_t = p_t scale_t .9957 is rounded to 16 bits with one step per row of p, w_t; the sum is
 * step (sum w_t code_t - 1.5 sum w_t), the last sum exactly, so codes are centred and what rounding takes
 * has no bias. f is added once, times the sum of p.
 *
 * Error bound, of the numbers. e = y - S q, S the stored scale = s rho, s = |y|^2 / <y, q>, rho within
 * 2^(+-1/32). |e|^2 = |y|^2 - 2 S <y, q> + S^2 |q|^2 = S^2 |q|^2 - (2 rho - 1) |y|^2. From below, |y| is known
 * by its cells: y_c q_c >= sigma z_c |q_c|, z_c the inner edge of c's cell, so |y|^2 = s <y, q> >= s sigma m
 * with m = sum z_c |q_c|, and |y| >= s m / sqrt(D) >= S 2^(-1/32) m / sqrt(D). H keeps norms, so no element is
 * off by more than |e| + |f_c|. Where n = 1, s may be smaller: |y| <= s |q| <= 2^(1/32) S |q| gives |e| <= (1 +
 * 2^(1/32)) S |q|. No bound for tokens without bits and for the largest scale, which may stand for more.
 * Float rounding: H and back are within 2^-20 of the norm of what is turned; edges, s and sigma within 2^-16.
 */
#include "quant/logstep.h"
#include "quant/tier.h"

#include <float.h>
#include <math.h>

enum { T = KVQ_SUPERBLOCK, CLASS = 32, N_CLASSES = T / CLASS, CLASS_BUDGET = 6, LANES = 16 };

/* Parameters of the spec, in this order. */
enum { HALVES, PAGE };
enum { HALVES_SORTED = 3 }; /* 1.5 bits */

enum { N_LARGEST = 255, LOG_LEAST = -2016 };

typedef struct rot {
    kvq_layout codes; /* not of 1.5 bits */
    size_t dim, dim_padded;
    size_t code_bytes, base, scales, order, widths, page, row_bytes, rows, n_rows, indices, end;
    uint32_t bits;     /* 0 for 1.5 */
    int32_t log_limit; /* a scale of 2^(log_limit/16) may stand for larger ones */
    bool has_page;
} rot;

_Static_assert(sizeof(rot) <= KVQ_SIDE_OWN, "a side has room for it");

static const rot *rot_of(const kvq_side *s)
{
    return (const rot *)(const void *)s->own;
}

/* ---- Levels ---- */

#define UNIFORM_SPACING 0.9957f

static const float levels_1[] = {-0.7979f, 0.7979f};
static const float levels_2[] = {-1.5104f, -0.4528f, 0.4528f, 1.5104f};
static const float levels_3[] = {-2.1520f, -1.3439f, -0.7560f, -0.2451f, 0.2451f, 0.7560f, 1.3439f, 2.1520f};
static const float levels_4[] = {-2.7327f, -2.0691f, -1.6182f, -1.2563f, -0.9424f, -0.6568f,
                                 -0.3881f, -0.1284f, 0.1284f,  0.3881f,  0.6568f,  0.9424f,
                                 1.2563f,  1.6182f,  2.0691f,  2.7327f};
static const float levels_uniform[] = {-1.5f * UNIFORM_SPACING, -0.5f * UNIFORM_SPACING,
                                       0.5f * UNIFORM_SPACING, 1.5f * UNIFORM_SPACING};

/* Levels of a width; uniform ones where they are to fold. */
static const float *levels_of(const rot *l, uint32_t width)
{
    static const float *const of_width[] = {NULL, levels_1, levels_2, levels_3, levels_4};
    return l->bits == 2 ? levels_uniform : of_width[width];
}

/* ---- The transform ---- */

static void rotate(const kvq_kernels *k, size_t dim, float *x)
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
    rotate(k, s->dim, row); /* H is its own inverse */
}

static void rot_prepare(const kvq_kernels *k, const kvq_side *s, const float *q, float *out)
{
    memcpy(out, q, s->dim * sizeof *out);
    rotate(k, s->dim, out);
}

/* ---- Codes: both layouts are blocks of 32 tokens ---- */

/* Where the dwords of a block lie: of sixteen channels, `stride` bytes from those of the sixteen before. */
typedef struct block_codes {
    uint32_t width;
    size_t n_planes, stride[KVQ_MAX_PLANES], offset[KVQ_MAX_PLANES];
    uint32_t plane_width[KVQ_MAX_PLANES], shift[KVQ_MAX_PLANES];
} block_codes;

/* Width of a class; 1.5 bits. */
static uint32_t class_width(const rot *l, const uint8_t *superblock, size_t i)
{
    return superblock[l->widths + i / 2] >> (i % 2 * 4) & 15u;
}

static block_codes codes_of_block(const rot *l, const uint8_t *superblock, size_t block)
{
    block_codes b = {.width = l->bits};
    if (l->bits == 0) {
        b.width = class_width(l, superblock, block);
        b.n_planes = b.width > 0;
        b.plane_width[0] = b.width;
        b.stride[0] = (size_t)64 * b.width;
        for (size_t i = 0; i < block; i++)
            b.offset[0] += 4 * l->dim_padded * class_width(l, superblock, i);
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

/* Store a block's codes, 32 rows of Dp bytes; its bytes are 0. */
static void pack_block(const rot *l, const block_codes *b, const uint8_t *codes, uint8_t *superblock)
{
    for (size_t i = 0; i < b->n_planes; i++) {
        const uint32_t width = b->plane_width[i], mask = (1u << width) - 1u, per_dword = 32 / width;
        for (size_t c = 0; c < l->dim_padded; c += LANES)
            for (size_t h = 0; h < width; h++) {
                uint32_t dword[LANES] = {0};
                for (uint32_t v = 0; v < per_dword; v++) {
                    const uint8_t *row = codes + (h * per_dword + v) * l->dim_padded + c;
                    const uint32_t at = v % 4 * 8 + v / 4 * width;
                    for (size_t j = 0; j < LANES; j++)
                        dword[j] |= ((uint32_t)row[j] >> b->shift[i] & mask) << at;
                }
                memcpy(superblock + b->offset[i] + c / LANES * b->stride[i] + h * 64, dword, sizeof dword);
            }
    }
}

/* Codes of the token at a place of a block, Dp of them. */
static void unpack_token(const rot *l, const block_codes *b, const uint8_t *superblock, size_t place,
                         uint8_t *codes)
{
    memset(codes, 0, l->dim_padded);
    for (size_t i = 0; i < b->n_planes; i++) {
        const uint32_t width = b->plane_width[i], mask = (1u << width) - 1u, per_dword = 32 / width,
                       v = (uint32_t)place % per_dword, at = v % 4 * 8 + v / 4 * width;
        const uint8_t *from = superblock + b->offset[i] + place / per_dword * 64;
        for (size_t c = 0; c < l->dim_padded; c += LANES, from += b->stride[i])
            for (size_t j = 0; j < LANES; j++)
                codes[c + j] |= (uint8_t)((kvq_load_u32(from + 4 * j) >> at & mask) << b->shift[i]);
    }
}

/* Place of every token. */
static void find_places(const rot *l, const uint8_t *superblock, uint8_t *place)
{
    for (size_t i = 0; i < T; i++)
        place[l->bits != 0 ? i : superblock[l->order + i]] = (uint8_t)i;
}

static int32_t log_scale(const rot *l, const uint8_t *superblock, size_t t)
{
    return (int16_t)kvq_load_u16(superblock + l->base) + superblock[l->scales + t];
}

static float scale_of(const rot *l, const uint8_t *superblock, size_t t)
{
    return superblock[l->scales + t] == 0 ? 0.0f : kvq_exp2_16th(log_scale(l, superblock, t));
}

static const uint8_t *kept_row(const rot *l, const uint8_t *superblock, size_t i)
{
    return superblock + l->rows + i * l->row_bytes;
}

/* ---- Reading ---- */

/* A row of int8, rotated. */
static void read_rotated(const kvq_kernels *k, const rot *l, const uint8_t *row, float *out)
{
    k->convert_i8_f32(row, l->dim, out);
    rotate(k, l->dim, out);
}

static void rot_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                           size_t n, float *out, size_t stride)
{
    const rot *l = rot_of(s);
    uint8_t place[T], codes[KVQ_DIM_MAX];
    float page[KVQ_DIM_MAX];
    find_places(l, superblock, place);
    memset(page, 0, l->dim * sizeof *page);
    if (l->has_page)
        read_rotated(k, l, superblock + l->page, page);
    for (size_t i = 0; i < n; i++) {
        float *row = out + i * stride, scale = scale_of(l, superblock, t0 + i);
        block_codes b = codes_of_block(l, superblock, place[t0 + i] / CLASS);
        if (b.width == 0) {
            memcpy(row, page, l->dim * sizeof *row);
            continue;
        }
        const float *levels = levels_of(l, b.width);
        unpack_token(l, &b, superblock, place[t0 + i] % CLASS, codes);
        for (size_t c = 0; c < l->dim; c++)
            row[c] = scale * levels[codes[c]] + page[c];
    }
    for (size_t i = 0; i < l->n_rows; i++) {
        size_t t = superblock[l->indices + i];
        if (t >= t0 && t < t0 + n)
            read_rotated(k, l, kept_row(l, superblock, i), out + (t - t0) * stride);
    }
}

/* What |H| of a row of int8 may be off by: float rounding, from a bound of its norm. */
static double rotation_error(const rot *l, const uint8_t *row)
{
    return 0x1p-19 * sqrt((double)l->dim) * KVQ_ROW8_LARGEST * (double)kvq_row8_scale(row);
}

/* |e| of a token at a place, as the first comment derives it. */
static double rotated_error_bound(const rot *l, const uint8_t *superblock, size_t t, size_t place)
{
    block_codes b = codes_of_block(l, superblock, place / CLASS);
    uint8_t codes[KVQ_DIM_MAX], n = superblock[l->scales + t];
    double norm = 0, m = 0, scale = (double)scale_of(l, superblock, t);
    if (b.width == 0 || (n != 0 && log_scale(l, superblock, t) >= l->log_limit))
        return (double)INFINITY;
    if (n == 0)
        return 0;
    const float *levels = levels_of(l, b.width);
    unpack_token(l, &b, superblock, place % CLASS, codes);
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
    const rot *l = rot_of(s);
    uint8_t place[T];
    float page[KVQ_DIM_MAX] = {0};
    double turned = l->has_page ? 4 * rotation_error(l, superblock + l->page) : 0;
    find_places(l, superblock, place);
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

/* ---- Encoding ---- */

typedef struct page {
    const kvq_kernels *k;
    const rot *l;
    const float *x;
    size_t stride;
    uint8_t kept[KVQ_HEAVY_HITTERS_MAX], place[T];
    float mean[KVQ_DIM_MAX]; /* what stands for the kept tokens */
    int32_t log[T];          /* of the scale; of a token that is 0, INT32_MIN */
    double share[T];         /* of the attention received: a_t / sum a; 0 for the kept ones */
} page;

static float sum_of(float lane[LANES])
{
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++)
            lane[j] += lane[j + width];
    return lane[0];
}

/* sum x y of Dp numbers. */
static float product_of(const float *x, const float *y, size_t n)
{
    float lane[LANES] = {0};
    for (size_t c = 0; c < n; c += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += x[c + j] * y[c + j];
    return sum_of(lane);
}

/* y, Dp numbers, is x times 2^shift, so that the largest is about 1, rotated. False if all are 0. */
static bool rotate_token(const page *p, const float *x, float *y, int32_t *shift)
{
    const size_t dim = p->l->dim;
    uint32_t all = 0;
    for (size_t c = 0; c < dim; c++) { /* the highest exponent, or one above */
        uint32_t exponent = kvq_bits_of_f32(x[c]) & 0x7fffffffu;
        all = exponent > all ? exponent : all;
    }
    *shift = 126 - (int32_t)(all >> 23);
    *shift = *shift < -126 ? -126 : *shift;
    const float factor = kvq_f32_of_bits((uint32_t)(*shift + 127) << 23);
    for (size_t c = 0; c < dim; c++)
        y[c] = x[c] * factor;
    rotate(p->k, dim, y);
    memset(y + dim, 0, (p->l->dim_padded - dim) * sizeof *y);
    return all != 0;
}

/* Codes of y and their levels. */
static void choose_codes(const rot *l, uint32_t width, float sigma, const float *y, uint8_t *codes, float *q)
{
    const float *levels = levels_of(l, width);
    if (l->bits == 2) {
        const float round_magic = 0x1.8p23f, per_code = 1.0f / (UNIFORM_SPACING * sigma);
        for (size_t c = 0; c < l->dim_padded; c++) {
            float code = y[c] * per_code + 1.5f;
            code = code > 3.0f ? 3.0f : code < 0.0f ? 0.0f : code;
            code = (code + round_magic) - round_magic;
            codes[c] = (uint8_t)(int32_t)code;
            q[c] = (code - 1.5f) * UNIFORM_SPACING;
        }
    } else {
        float threshold[15];
        for (size_t i = 0; i + 1 < (size_t)1 << width; i++)
            threshold[i] = 0.5f * (levels[i] + levels[i + 1]) * sigma;
        for (size_t c = 0; c < l->dim_padded; c++) {
            uint32_t code = 0;
            for (size_t i = 0; i + 1 < (size_t)1 << width; i++)
                code += y[c] > threshold[i];
            codes[c] = (uint8_t)code;
            q[c] = levels[code];
        }
    }
    for (size_t c = l->dim; c < l->dim_padded; c++) {
        codes[c] = 0;
        q[c] = 0.0f;
    }
}

static const float *token_of(const page *p, size_t t)
{
    return kvq_is_kept(p->kept, p->l->n_rows, t) ? p->mean : p->x + t * p->stride;
}

/* Codes of a token, Dp bytes, and the logarithm of its scale. */
static void encode_token(page *p, size_t t, uint32_t width, uint8_t *codes)
{
    float y[KVQ_DIM_MAX], q[KVQ_DIM_MAX];
    int32_t shift;
    p->log[t] = INT32_MIN;
    if (width == 0 || !rotate_token(p, token_of(p, t), y, &shift)) {
        memset(codes, 0, p->l->dim_padded);
        return;
    }
    float squared = product_of(y, y, p->l->dim_padded);
    choose_codes(p->l, width, sqrtf(squared / (float)p->l->dim), y, codes, q);
    int32_t n = kvq_log2_16th(squared / product_of(y, q, p->l->dim_padded)) - 16 * shift;
    p->log[t] = n > p->l->log_limit ? p->l->log_limit : n;
}

/* What tokens of 1.5 bits are sorted by. */
static void find_weights(const page *p, const float *received, double *weight)
{
    double mean = 0;
    for (size_t t = 0; t < T; t++)
        mean += received != NULL ? (double)received[t] / T : 1.0 / T;
    for (size_t t = 0; t < T; t++) {
        double norm = 0;
        for (size_t c = 0; c < p->l->dim; c++)
            norm += (double)p->x[t * p->stride + c] * (double)p->x[t * p->stride + c];
        weight[t] = norm * (mean + (received != NULL ? (double)received[t] : 1));
    }
}

/* Sort tokens into classes and give these widths; 1.5 bits. The kept ones come last. */
static void sort_tokens(const page *p, double *weight, uint8_t *superblock)
{
    uint16_t order[T];
    double of_class[N_CLASSES];
    uint8_t width[N_CLASSES];
    for (size_t i = 0; i < p->l->n_rows; i++)
        if (p->kept[i] != KVQ_NO_TOKEN)
            weight[p->kept[i]] = -1;
    kvq_sort_down(weight, T, order);
    for (size_t i = 0; i < N_CLASSES; i++) {
        double sorted[CLASS];
        for (size_t j = 0; j < CLASS; j++)
            sorted[j] = weight[order[i * CLASS + j]];
        of_class[i] = sqrt(kvq_geometric_mean_16(sorted)) * sqrt(kvq_geometric_mean_16(sorted + 16));
    }
    kvq_allocate_widths(of_class, N_CLASSES, CLASS_BUDGET, false, width);
    for (size_t i = 0; i < T; i++)
        superblock[p->l->order + i] = (uint8_t)order[i];
    for (size_t i = 0; i < N_CLASSES; i++)
        superblock[p->l->widths + i / 2] |= (uint8_t)(width[i] << i % 2 * 4);
}

static void store_scales(const page *p, uint8_t *superblock)
{
    int32_t largest = LOG_LEAST;
    for (size_t t = 0; t < T; t++)
        largest = p->log[t] > largest ? p->log[t] : largest;
    int32_t base = largest - N_LARGEST < LOG_LEAST ? LOG_LEAST : largest - N_LARGEST;
    kvq_store_u16(superblock + p->l->base, (uint16_t)(int16_t)base);
    for (size_t t = 0; t < T; t++) {
        int32_t n = p->log[t] == INT32_MIN ? 0 : p->log[t] - base < 1 ? 1 : p->log[t] - base;
        superblock[p->l->scales + t] = (uint8_t)n;
    }
}

static void find_shares(page *p, const float *received)
{
    double sum = 0;
    for (size_t t = 0; t < T; t++) {
        p->share[t] = received != NULL ? (double)received[t] : 1;
        p->share[t] = kvq_is_kept(p->kept, p->l->n_rows, t) ? 0 : p->share[t];
        sum += p->share[t];
    }
    for (size_t t = 0; t < T; t++)
        p->share[t] = sum > 0 ? p->share[t] / sum : 0;
}

/* f = sum of shares of v, minus that of what is read back, turned once. */
static void store_page_vector(const page *p, const uint8_t *codes, uint8_t *superblock)
{
    const rot *l = p->l;
    double of_numbers[KVQ_DIM_MAX] = {0};
    float of_codes[KVQ_DIM_MAX] = {0}, f[KVQ_DIM_MAX];
    for (size_t t = 0; t < T; t++) {
        const double share = p->share[t];
        const float *x = p->x + t * p->stride;
        if (share == 0)
            continue;
        for (size_t c = 0; c < l->dim; c++)
            of_numbers[c] += share * (double)x[c];
        uint32_t width = l->bits != 0 ? l->bits : class_width(l, superblock, p->place[t] / CLASS);
        const uint8_t *own = codes + p->place[t] * l->dim_padded;
        const float scale = scale_of(l, superblock, t) * (float)share;
        if (width == 0 || scale == 0.0f)
            continue;
        if (l->bits == 2) {
            for (size_t c = 0; c < l->dim; c++)
                of_codes[c] += ((float)own[c] - 1.5f) * (scale * UNIFORM_SPACING);
            continue;
        }
        const float *levels = levels_of(l, width);
        for (size_t c = 0; c < l->dim; c++)
            of_codes[c] += levels[own[c]] * scale;
    }
    rotate(p->k, l->dim, of_codes);
    for (size_t c = 0; c < l->dim; c++) {
        double error = of_numbers[c] - (double)of_codes[c];
        f[c] = (float)(error > (double)FLT_MAX    ? (double)FLT_MAX
                       : error < -(double)FLT_MAX ? -(double)FLT_MAX
                                                  : error);
    }
    p->k->convert_f32_i8(f, l->dim, superblock + l->page);
}

static void encode_tokens(page *p, uint8_t *codes, uint8_t *superblock)
{
    const rot *l = p->l;
    find_places(l, superblock, p->place);
    for (size_t t = 0; t < T; t++) {
        uint32_t width = l->bits != 0 ? l->bits : class_width(l, superblock, p->place[t] / CLASS);
        encode_token(p, t, width, codes + p->place[t] * l->dim_padded);
    }
    for (size_t i = 0; i < N_CLASSES; i++) {
        block_codes b = codes_of_block(l, superblock, i);
        pack_block(l, &b, codes + i * CLASS * l->dim_padded, superblock);
    }
}

static void rot_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                       const float *x, size_t stride, const kvq_evidence *evidence)
{
    (void)t0;
    const rot *l = rot_of(s);
    const float *received = evidence != NULL ? evidence->received : NULL;
    page p = {.k = k, .l = l, .x = x, .stride = stride};
    uint8_t codes[T * KVQ_DIM_MAX];
    double weight[T];
    float heaviness[T];
    if (n == 0)
        return;
    memset(superblock, 0, s->bytes);
    if (l->bits == 0) {
        find_weights(&p, received, weight);
        for (size_t t = 0; t < T; t++)
            heaviness[t] = weight[t] < (double)FLT_MAX ? (float)weight[t] : FLT_MAX;
    }
    kvq_heaviest(received == NULL || l->bits != 0 ? received : heaviness, T, l->n_rows, p.kept);
    kvq_mean_of_others(x, stride, l->dim, p.kept, l->n_rows, p.mean);
    if (l->bits == 0)
        sort_tokens(&p, weight, superblock);
    encode_tokens(&p, codes, superblock);
    store_scales(&p, superblock);
    find_shares(&p, received);
    if (l->has_page)
        store_page_vector(&p, codes, superblock);
    for (size_t i = 0; i < l->n_rows; i++) {
        superblock[l->indices + i] = p.kept[i];
        if (p.kept[i] != KVQ_NO_TOKEN)
            k->convert_f32_i8(x + p.kept[i] * stride, l->dim, superblock + l->rows + i * l->row_bytes);
    }
}

/* ---- Validation ---- */

static bool all_zero(const uint8_t *bytes, size_t n)
{
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= bytes[i];
    return any == 0;
}

static bool order_is_valid(const rot *l, const uint8_t *superblock)
{
    bool seen[T] = {false};
    uint32_t sum = 0, before = 4;
    for (size_t i = 0; i < T && l->bits == 0; i++) {
        size_t t = superblock[l->order + i];
        if (t >= T || seen[t])
            return false;
        seen[t] = true;
    }
    for (size_t i = 0; i < N_CLASSES && l->bits == 0; i++) {
        uint32_t width = class_width(l, superblock, i);
        if (width > before || width == 3)
            return false;
        before = width;
        sum += width;
    }
    return sum <= CLASS_BUDGET;
}

/* Nothing where no channel, no code or no scale is. */
static bool codes_are_valid(const rot *l, const uint8_t *superblock)
{
    uint8_t place[T], codes[KVQ_DIM_MAX];
    size_t used = l->bits != 0 ? l->code_bytes : 0;
    find_places(l, superblock, place);
    for (size_t t = 0; t < T; t++) {
        block_codes b = codes_of_block(l, superblock, place[t] / CLASS);
        unpack_token(l, &b, superblock, place[t] % CLASS, codes);
        bool empty = superblock[l->scales + t] == 0;
        if ((b.width == 0 && !empty) ||
            !all_zero(codes + (empty ? 0 : l->dim), l->dim_padded - (empty ? 0 : l->dim)))
            return false;
    }
    for (size_t i = 0; i < N_CLASSES && l->bits == 0; i++)
        used += 4 * l->dim_padded * class_width(l, superblock, i);
    return all_zero(superblock + used, l->code_bytes - used);
}

static bool rows_are_valid(const rot *l, const uint8_t *superblock)
{
    const uint8_t *index = superblock + l->indices;
    if (l->has_page && !kvq_row8_is_valid(superblock + l->page, l->dim))
        return false;
    for (size_t i = 0; i < l->n_rows; i++) {
        const uint8_t *row = kept_row(l, superblock, i);
        bool none = index[i] == KVQ_NO_TOKEN;
        if (none ? !all_zero(row, l->row_bytes)
                 : index[i] >= T || kvq_is_kept(index, i, index[i]) || !kvq_row8_is_valid(row, l->dim))
            return false;
    }
    return true;
}

static bool rot_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    const rot *l = rot_of(s);
    int32_t base = (int16_t)kvq_load_u16(superblock + l->base);
    if (n == 0)
        return all_zero(superblock, s->bytes);
    return base >= LOG_LEAST && base <= l->log_limit - N_LARGEST && order_is_valid(l, superblock) &&
           codes_are_valid(l, superblock) && rows_are_valid(l, superblock) &&
           all_zero(superblock + l->end, s->bytes - l->end);
}

/* ---- Sums ---- */

/* A row of p folded into a superblock. */
typedef struct folded_row {
    float x[T]; /* p times scale, 0 where a token is kept or there is none */
    float step, per_unit, sum_of_p, energy;
} folded_row;

/* Returns false if it does not fit 16 bits. */
static bool weigh(const rot *l, const uint8_t *superblock, const float *scale, const float *p, size_t n,
                  folded_row *f)
{
    float weight[T] = {0}, lane[LANES] = {0}, max = 0.0f;
    memcpy(weight, p, n * sizeof *p);
    for (size_t i = 0; i < l->n_rows; i++)
        if (superblock[l->indices + i] < T)
            weight[superblock[l->indices + i]] = 0.0f;
    for (size_t t = 0; t < T; t++)
        f->x[t] = weight[t] * scale[t];
    for (size_t t = 0; t < T; t += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] = f->x[t + j] > lane[j] ? f->x[t + j] : lane[j];
    for (size_t j = 0; j < LANES; j++)
        max = lane[j] > max ? lane[j] : max;
    bool usable = max >= KVQ_FOLD_MIN && max <= KVQ_FOLD_MAX;
    f->step = usable ? max * (1.0f / (float)KVQ_FOLDED_MAX) : 0.0f;
    f->per_unit = usable ? (float)KVQ_FOLDED_MAX / max : 0.0f;
    f->energy = product_of(f->x, f->x, T);
    memset(lane, 0, sizeof lane);
    for (size_t t = 0; t < T; t += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += weight[t + j];
    f->sum_of_p = sum_of(lane);
    return max <= KVQ_FOLD_MAX;
}

/* The sum of the whole numbers that fold_row (or fold_row_rest) makes of x: exact in any order. */
static float sum_of_folded(const folded_row *f, bool rest)
{
    const float round_magic = 0x1.8p23f;
    float lane[LANES] = {0};
    for (size_t t = 0; t < T; t += LANES)
        for (size_t j = 0; j < LANES; j++) {
            float y = f->x[t + j] * f->per_unit;
            y = rest ? (y - ((y + round_magic) - round_magic)) * KVQ_REST_SCALE : y;
            lane[j] += (y + round_magic) - round_magic;
        }
    return sum_of(lane);
}

/* What is in the domain of the numbers: the page vector and the kept rows. */
static void accumulate_plain(const kvq_kernels *k, const rot *l, const kvq_tokens *tokens, const float *p,
                             float sum_of_p, float *plain)
{
    const uint8_t *index = tokens->superblock + l->indices;
    float of_kept[KVQ_HEAVY_HITTERS_MAX];
    if (l->has_page)
        k->accumulate_i8(tokens->superblock + l->page, l->row_bytes, 1, &sum_of_p, l->dim, plain);
    for (size_t i = 0; i < l->n_rows; i++)
        of_kept[i] = index[i] < tokens->n ? p[index[i]] : 0.0f;
    k->accumulate_i8(kept_row(l, tokens->superblock, 0), l->row_bytes, l->n_rows, of_kept, l->dim, plain);
}

/* Root mean square errors as in codec_affine.c; here all levels have a mean square of about 1. */
static float estimate_error(const rot *l, size_t n, float step, float energy, float score_rms_error)
{
    const float levels = 3.0f, dim = (float)l->dim;
    return step * step * dim * levels * levels * 0.25f / 12.0f * (float)n +
           score_rms_error * score_rms_error * energy * dim;
}

/* Add what rounding has taken from one row. */
static void accumulate_rest(const kvq_kernels *k, const rot *l, const kvq_tokens *tokens, folded_row *f,
                            float *acc)
{
    _Alignas(KVQ_ALIGNMENT) int8_t folded[2 * T];
    (void)k->fold_row_rest(f->x, T, f->per_unit, folded);
    f->step /= KVQ_REST_SCALE;
    float bias = -1.5f * f->step * sum_of_folded(f, true);
    k->accumulate_folded(&l->codes, tokens->superblock, NULL, tokens->n, folded, &f->step, &bias, 1, acc);
}

static void accumulate_folding(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens,
                               const float *p, size_t n_q, const float *score_rms_error,
                               const kvq_sum_rows *sums)
{
    const rot *l = rot_of(s);
    _Alignas(KVQ_ALIGNMENT) int8_t folded[KVQ_ROWS_MAX * 2 * T];
    folded_row row[KVQ_ROWS_MAX];
    float scale[T], step[KVQ_ROWS_MAX], bias[KVQ_ROWS_MAX];
    if (n_q == 0)
        return;
    for (size_t i = l->code_bytes; tokens->next != NULL && i < s->bytes; i += KVQ_ALIGNMENT)
        __builtin_prefetch(tokens->next + i, 0, 2);
    for (size_t t = 0; t < T; t++)
        scale[t] = scale_of(l, tokens->superblock, t) * UNIFORM_SPACING;
    for (size_t i = 0; i < n_q; i++) {
        folded_row *f = &row[i];
        const float *p_row = p + i * T;
        bool fits = weigh(l, tokens->superblock, scale, p_row, tokens->n, f);
        if (!fits) {
            memset(f->x, 0, sizeof f->x);
            kvq_accumulate_dequantized(k, s, tokens, p_row, 1, sums->packed + i * l->dim);
        } else {
            accumulate_plain(k, l, tokens, p_row, f->sum_of_p, sums->plain + i * l->dim);
        }
        (void)k->fold_row(f->x, T, f->per_unit, folded + i * 2 * T);
        step[i] = f->step;
        bias[i] = -1.5f * f->step * sum_of_folded(f, false);
    }
    k->accumulate_folded(&l->codes, tokens->superblock, tokens->next, tokens->n, folded, step, bias, n_q,
                         sums->packed);
    for (size_t i = 0; i < n_q; i++) {
        if (tokens->sums == KVQ_SUMS_WIDE)
            accumulate_rest(k, l, tokens, &row[i], sums->packed + i * l->dim);
        if (row[i].energy <= FLT_MAX)
            sums->error[i] += estimate_error(l, tokens->n, row[i].step, row[i].energy, score_rms_error[i]);
    }
}

static void rot_accumulate(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *p,
                           size_t n_q, const float *score_rms_error, const kvq_sum_rows *sums)
{
    if (tokens->sums == KVQ_SUMS_EXACT || !s->folds)
        kvq_accumulate_dequantized(k, s, tokens, p, n_q, sums->packed);
    else if (tokens->n > 0)
        accumulate_folding(k, s, tokens, p, n_q, score_rms_error, sums);
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
    if (!kvq_text_halves(t, 9, &parameter[HALVES]))
        return false;
    if (parameter[HALVES] != 3 && parameter[HALVES] != 4 && parameter[HALVES] != 6 && parameter[HALVES] != 8)
        return kvq_text_fail(t, start, "bits must be 1.5, 2, 3 or 4");
    parameter[PAGE] = !kvq_text_accept_word(t, ":page=0");
    return true;
}

static void rot_print(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter)
{
    (void)codec, (void)role;
    kvq_put_halves(p, "rot:", parameter[HALVES]);
    if (parameter[PAGE] == 0)
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

static void lay_out(rot *l, bool sorted)
{
    l->code_bytes = sorted ? 4 * CLASS_BUDGET * l->dim_padded : T * l->codes.payload_per_token;
    l->base = l->code_bytes;
    l->scales = l->base + 2;
    l->order = l->scales + T;
    l->widths = l->order + (sorted ? T : 0);
    l->page = l->widths + (sorted ? N_CLASSES / 2 : 0);
    l->row_bytes = kvq_row8_bytes(l->dim);
    l->rows = l->page + (l->has_page ? l->row_bytes : 0);
    l->indices = l->rows + l->n_rows * l->row_bytes;
    l->end = l->indices + l->n_rows;
}

static const char *rot_init(kvq_side *s)
{
    rot *l = (rot *)(void *)s->own;
    const bool sorted = s->parameter[HALVES] == HALVES_SORTED;
    if (s->common.heavy_hitters > KVQ_HEAVY_HITTERS_MAX)
        return "too many heavy hitters";
    *l = (rot){.dim = s->dim,
               .dim_padded = (s->dim + LANES - 1) / LANES * LANES,
               .n_rows = s->common.heavy_hitters,
               .bits = sorted ? 0 : s->parameter[HALVES] / 2,
               .log_limit = limit_of_logs(s->dim),
               .has_page = s->parameter[PAGE] != 0};
    if (!sorted)
        kvq_layout_init(&l->codes, &(kvq_layout_spec){.role = KVQ_VALUES, .bits = l->bits, .dim = s->dim});
    lay_out(l, sorted);
    s->bytes = (l->end + KVQ_ALIGNMENT - 1) / KVQ_ALIGNMENT * KVQ_ALIGNMENT;
    s->tokens_per_run = s->sliding_step = T;
    s->payload_per_run = l->code_bytes;
    s->metadata_per_run = s->bytes - l->code_bytes;
    s->evidence = l->has_page || l->n_rows > 0 || sorted ? (unsigned)KVQ_EVIDENCE_RECEIVED : 0u;
    s->heavy_hitters = s->common.heavy_hitters;
    s->folds = l->bits == 2;
    s->bits = l->bits;
    return NULL;
}

const kvq_codec kvq_codec_rot = {
    .name = "rot",
    .parse = rot_parse,
    .print = rot_print,
    .init = rot_init,
    .encode = rot_encode,
    .dequantize = rot_dequantize,
    .prepare = rot_prepare,
    .finish = rot_finish,
    .error_bound = rot_error_bound,
    .is_valid = rot_is_valid,
    .accumulate = rot_accumulate,
};
