/*
 * TurboQuant-MSE, 1 to 4 bits: Zandieh et al., arXiv 2504.19874, section 3.1 and algorithm 1. A rival, to be
 * compared with: encode and dequantize, nothing faster. `turbo:BITS`, `turbo:BITS:nc` with norm correction.
 *
 *   y = H S x / |x|        S: fixed random signs, one per channel; H: Hadamard (transform.h), where the
 *                          paper has any random rotation
 *   code_c                 the level l nearest to y_c (the lower one of two as near)
 *   scale = |x|, with norm correction |x| / |l(code)|
 *   xhat = S H (scale l(code))
 *
 * A coordinate of a random unit vector in D dimensions has the density (1 - t^2)^((D-3)/2) on [-1, 1] up to a
 * factor (lemma 1). The 2^BITS levels are those of Lloyd and Max for it: each level is the mean of its cell,
 * and cells meet half-way between levels. With one channel y is -1 or 1, and levels are spread evenly.
 *
 * Row of a token: codes as a stream of bits, padded to a byte, then the half scale: BITS + 16 / D bits.
 */
#include "quant/transform.h"

enum { BITS, CORRECTED };
enum { LEVELS_MAX = 16 };

/* ---- Levels, by Lloyd's algorithm. Without pow and its like, so that all machines get the same ---- */

/* u^(n / 2), n >= -1 */
static double half_power(double u, size_t n_plus_1)
{
    size_t n = n_plus_1 - 1;
    if (n_plus_1 == 0)
        return 1.0 / sqrt(u);
    double result = n % 2 != 0 ? sqrt(u) : 1.0;
    for (n /= 2; n > 0; n /= 2, u *= u)
        if (n % 2 != 0)
            result *= u;
    return result;
}

/* The integral of the density over [a, b], b < 1: Gauss's rule of five points, twice. */
static double mass_between(size_t dim, double a, double b)
{
    static const double at[3] = {0.0, 0.53846931010568309, 0.90617984593866399};
    static const double weight[3] = {0.56888888888888889, 0.47862867049936647, 0.23692688505618909};
    double sum = 0.0, reach = (b - a) / 4;
    for (int part = 0; part < 2; part++)
        for (int i = 0; i < 5; i++) {
            double t = a + reach * (1 + 2 * part) + reach * (i < 3 ? at[i] : -at[i - 2]);
            sum += weight[i < 3 ? i : i - 2] * half_power(1 - t * t, dim - 2);
        }
    return sum * reach;
}

/* The integral over [0, 1]: that of cos^(D - 2) over a quarter of its period. */
static double mass_of_half(size_t dim)
{
    double mass = dim % 2 == 0 ? 1.57079632679489662 : 1.0;
    for (size_t n = dim % 2 == 0 ? 2 : 3; n <= dim - 2; n += 2)
        mass *= (double)(n - 1) / (double)n;
    return mass;
}

/* The integral of t times the density is exact. */
static double moment_between(size_t dim, double a, double b)
{
    return (half_power(1 - a * a, dim) - half_power(1 - b * b, dim)) / (double)(dim - 1);
}

/* One step of Lloyd's algorithm on the n positive levels, twice as far as the means lie, which is faster.
 * Returns how far they moved. */
static double improve_levels(size_t dim, double *level, size_t n)
{
    double a = 0.0, before = 0.0, moved = 0.0, rest = mass_of_half(dim);
    for (size_t i = 0; i < n; i++) {
        double b = i + 1 < n ? (level[i] + level[i + 1]) / 2 : 1.0;
        double mass = i + 1 < n ? mass_between(dim, a, b) : rest;
        double mean = moment_between(dim, a, b) / mass, next = mean + 0.8 * (mean - level[i]);
        next = next > before && next < 1.0 ? next : mean;
        moved += fabs(mean - level[i]);
        level[i] = before = next;
        rest -= mass;
        a = b;
    }
    return moved;
}

/* All levels for D, the lowest first. */
static void find_levels(size_t dim, uint32_t bits, float *out)
{
    static const double farthest[5] = {0.0, 0.8, 1.5, 2.2, 2.7}; /* level of a normal density, about */
    size_t n = (size_t)1 << (bits - 1);
    double level[LEVELS_MAX / 2], reach = farthest[bits] / sqrt((double)dim);
    reach = dim == 1 ? 1.0 : reach < 0.9 ? reach : 0.9;
    for (size_t i = 0; i < n; i++)
        level[i] = reach * (double)(2 * i + 1) / (double)(2 * n - 1);
    for (int step = 0; dim > 1 && step < 2000; step++)
        if (improve_levels(dim, level, n) < 1e-10 * reach)
            break;
    for (size_t i = 0; i < n; i++) {
        out[n + i] = (float)level[i];
        out[n - 1 - i] = -(float)level[i];
    }
}

/* ---- The rotation ---- */

/* Channel c's sign: the top bit of the c-th number of splitmix64 (Steele, Lea and Flood, OOPSLA 2014). */
static double sign_of(size_t c)
{
    const uint64_t seed = 250419874;
    uint64_t z = seed + (uint64_t)(c + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return z >> 63 != 0 ? -1.0 : 1.0;
}

static void turbo_prepare(const kvq_kernels *k, const kvq_side *s, const float *q, float *out)
{
    (void)k;
    for (size_t c = 0; c < s->dim; c++)
        out[c] = (float)sign_of(c) * q[c];
    kvq_rotate_f64(out, s->dim, out);
}

static void turbo_finish(const kvq_kernels *k, const kvq_side *s, float *row)
{
    (void)k;
    kvq_rotate_f64(row, s->dim, row);
    for (size_t c = 0; c < s->dim; c++)
        row[c] *= (float)sign_of(c);
}

/* ---- Storage ---- */

static const float *levels_of(const kvq_side *s)
{
    return (const float *)(const void *)s->own;
}

static const char *turbo_init(kvq_side *s)
{
    s->bits = s->parameter[BITS];
    kvq_rows_init(s, kvq_stream_bytes(s->dim, s->bits), 2);
    find_levels(s->dim, s->bits, (float *)(void *)s->own);
    return NULL;
}

static uint32_t nearest_level(const float *level, uint32_t n, double y)
{
    uint32_t code = 0;
    while (code + 1 < n && y > ((double)level[code] + (double)level[code + 1]) / 2)
        code++;
    return code;
}

static void encode_row(const kvq_side *s, const float *x, uint8_t *row)
{
    const float *level = levels_of(s);
    double y[KVQ_DIM_MAX], norm = 0.0, norm_of_levels = 0.0;
    for (size_t c = 0; c < s->dim; c++) {
        norm += (double)x[c] * (double)x[c];
        y[c] = sign_of(c) * (double)x[c];
    }
    norm = sqrt(norm);
    kvq_hadamard(y, s->dim);
    for (size_t c = 0; c < s->dim; c++) {
        uint32_t code = nearest_level(level, 1u << s->bits, norm > 0.0 ? y[c] / norm : 0.0);
        kvq_stream_put(row, c, s->bits, code);
        norm_of_levels += (double)level[code] * (double)level[code];
    }
    double scale = s->parameter[CORRECTED] != 0 ? norm / sqrt(norm_of_levels) : norm;
    kvq_store_u16(row + s->payload_per_run, kvq_f16_from_f64_saturating(scale));
}

static void turbo_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                         const float *x, size_t stride, const kvq_evidence *evidence)
{
    (void)k, (void)evidence;
    for (size_t i = 0; i < n; i++) {
        uint8_t *row = superblock + (t0 + i) * kvq_side_row_bytes(s);
        memset(row, 0, kvq_side_row_bytes(s));
        encode_row(s, x + i * stride, row);
    }
}

static void turbo_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                             size_t n, float *out, size_t stride)
{
    (void)k;
    const float *level = levels_of(s);
    for (size_t i = 0; i < n; i++) {
        const uint8_t *row = superblock + (t0 + i) * kvq_side_row_bytes(s);
        float scale = kvq_load_f16(row + s->payload_per_run), scaled[LEVELS_MAX];
        uint8_t codes[KVQ_DIM_MAX];
        kvq_stream_read(row, s->dim, s->bits, codes);
        for (size_t code = 0; code < (size_t)1 << s->bits; code++)
            scaled[code] = scale * level[code];
        for (size_t c = 0; c < s->dim; c++)
            out[i * stride + c] = scaled[codes[c]];
    }
}

static bool turbo_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    for (size_t t = 0; t < n; t++) {
        const uint8_t *row = superblock + t * kvq_side_row_bytes(s);
        if (!kvq_stream_ends_in_zeros(row, s->dim, s->bits) ||
            !kvq_f16_is_scale(kvq_load_u16(row + s->payload_per_run)))
            return false;
    }
    return kvq_rows_end_at(s, superblock, n);
}

/* ---- What schemes say: BITS [":nc"] ---- */

static bool turbo_parse(const kvq_codec *codec, kvq_text *t, kvq_role role, uint32_t *parameter)
{
    (void)codec, (void)role;
    if (!kvq_parse_bits(t, 0x1e, "bits must be 1, 2, 3 or 4", &parameter[BITS]))
        return false;
    parameter[CORRECTED] = kvq_text_accept_word(t, ":nc");
    return true;
}

static void turbo_print(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter)
{
    (void)codec, (void)role;
    kvq_put_number(p, "turbo:", parameter[BITS]);
    if (parameter[CORRECTED] != 0)
        kvq_put(p, ":nc");
}

const kvq_codec kvq_codec_turbo = {
    .name = "turbo",
    .parse = turbo_parse,
    .print = turbo_print,
    .init = turbo_init,
    .encode = turbo_encode,
    .dequantize = turbo_dequantize,
    .prepare = turbo_prepare,
    .finish = turbo_finish,
    .clear = kvq_rows_clear,
    .is_valid = turbo_is_valid,
};
