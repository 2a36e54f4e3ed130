/*
 * The kernels: every loop that time is spent in, as one table of function pointers per instruction set.
 *
 * kernels_portable.c and the portable_NAME.c are the specification: C without any processor's instructions,
 * always built, tested against formulas in double. A file for an instruction set exports one table and fills
 * what it does faster; a slot left NULL inherits from the next plainer instruction set (dispatch.c). Every
 * kernel gives the bits of the portable one: sums have an order, and nothing fuses.
 *
 * The comment at each slot is its contract. For all: pointers need no alignment beyond their type's unless
 * said; n = 0 is a no-op, but for what accumulates with a bias, which adds it, and folds of p, which write 0;
 * nothing is read before the input or past its stated end, nothing written outside the stated output; outputs
 * do not overlap inputs; floats are finite (checked at the API's edge). Kernels cannot fail, allocate nothing
 * and keep no state. Superblocks are described in quant/layout.h, are aligned to KVQ_ALIGNMENT and may be
 * read whole. Token ranges [t0, t0 + n) lie inside a superblock.
 */
#ifndef KVQ_QUANT_KERNELS_H
#define KVQ_QUANT_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/fold.h"
#include "quant/layout.h"

enum {
    KVQ_ROWS_MAX = 16,   /* the most rows (queries) of one kernel call */
    KVQ_CLASSES_MAX = 4, /* of a kvq_ordered */
    KVQ_RUNS_MAX = 5,    /* of one sum: classes, of which those of 6 bits are two */
};

/* Numbers of the rows that are attended with at once: of the widest heads there are fewer, because most
 * scratch on the stack grows with them. */
enum { KVQ_ROW_NUMBERS_MAX = 8 * KVQ_DIM_MAX };

/** How many queries of this D are attended with at once, at most. */
static inline size_t kvq_rows_most(size_t dim)
{
    return dim <= KVQ_ROW_NUMBERS_MAX / KVQ_ROWS_MAX ? KVQ_ROWS_MAX : KVQ_ROW_NUMBERS_MAX / KVQ_DIM_MAX;
}

/* 2^r on [-1/16, 1/16] to 2.7e-8 (the best in double that is 1 at 0, then rounded to float), from the highest
 * power down. */
#define KVQ_EXP2_COEFFICIENTS                                                                                \
    {                                                                                                        \
        0x1.c6a004p-5f, 0x1.ec0c32p-3f, 0x1.62e432p-1f, 1.0f                                                 \
    }

/* Below this, 2^x is taken for 0. */
#define KVQ_EXP2_SMALLEST -125.5f

/* Sums over queries stop growing here (add_moment_f32): long before they could overflow. */
#define KVQ_MOMENT_MOST 0x1p120f

enum { KVQ_LANES = 16 }; /* the width of the fixed summation order: one zmm, two ymm or four NEON registers */

/** The sum of sixteen lanes in the order of dot_f32; lanes are overwritten. */
static inline float kvq_sum_lanes(float lane[KVQ_LANES])
{
    for (size_t width = KVQ_LANES / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++)
            lane[j] += lane[j + width];
    return lane[0];
}

/** Bytes that will be read soon and may be prefetched; none if n_bytes is 0. */
typedef struct kvq_next {
    const uint8_t *bytes;
    size_t n_bytes;
} kvq_next;

/** The part of it, in whole cache lines, that belongs to [first, first + n) of a whole, first <= whole; what
 * reaches past the whole has none. The parts of all of it add up to it. */
static inline kvq_next kvq_next_part(kvq_next next, size_t first, size_t n, size_t whole)
{
    const size_t lines = (next.n_bytes + 63) / 64, last = n < whole - first ? first + n : whole;
    if (lines == 0 || last - first == whole) /* often, and then divisions are spared */
        return (kvq_next){next.bytes, 64 * lines};
    const size_t begin = lines * first / whole, end = lines * last / whole;
    return (kvq_next){next.bytes + 64 * begin, 64 * (end - begin)};
}

/** Ask for all of it at once: for sums that take long enough. (Always inlined: gcc 12 takes a function that
 * only prefetches for one without effect and drops its calls.) */
static inline __attribute__((always_inline)) void kvq_prefetch_all(kvq_next next)
{
    for (size_t i = 0; i < next.n_bytes; i += 64)
        __builtin_prefetch(next.bytes + i, 0, 2);
}

/** Codes of one width, laid out as a plane of affine keys or values has them (layout.h), and where their
 * folded numbers are. Sums go over runs, which add to the same whole numbers. */
typedef struct kvq_run {
    uint32_t width;     /* 1, 2, 4 or 8 bits; one of 8 bits is alone */
    uint32_t shift;     /* what is added is code << shift. The largest comes first, and 0 last */
    size_t offset;      /* of the codes of the first 32 tokens of keys, or sixteen channels of values */
    size_t block_bytes; /* from there to the next 32, or sixteen */
    size_t n; /* > 0: codes of a lane, each for a folded number. Up to a multiple of 16, or for 1 bit of 32,
               * both are read, and folded numbers are 0 */
    size_t folded, folded_stride; /* bytes: of the first row's folded numbers, and from there to the next's */
} kvq_run;

/** The planes of an affine superblock as runs over n codes; of keys, of one metadata tile. */
static inline void kvq_layout_runs(const kvq_layout *l, size_t n, size_t folded_stride,
                                   kvq_run runs[KVQ_MAX_PLANES])
{
    for (size_t i = 0; i < l->n_planes; i++) {
        const kvq_plane *plane = &l->plane[l->n_planes - 1 - i];
        runs[i] = (kvq_run){.width = plane->width,
                            .shift = plane->shift,
                            .offset = plane->offset,
                            .block_bytes = l->role == KVQ_KEYS ? l->block_bytes : 256 * plane->width,
                            .n = n,
                            .folded_stride = folded_stride};
    }
}

/** What fold_products makes beside folded numbers. */
typedef struct kvq_fold {
    float step; /* what a folded 1 stands for; +Inf, and all w 0, where numbers pass KVQ_FOLD_MAX */
    float sum;  /* of w: exact */
    /* Of the row, 0 for a rest. */
    float energy; /* sum of x^2 */
    float sum_of_p;
} kvq_fold;

/** Channels in an order, cut into classes (codec_tier.c). Channel c has codes with steps of 2^(exponent[c] /
 * 8) above lo[c], a half; both arrays go on to a multiple of 16. Classes are of multiples of 16 places. */
typedef struct kvq_ordered {
    size_t dim;
    const int8_t *exponent;
    const uint16_t *lo, *channel; /* channel: at each place */
    size_t n_classes, n_places[KVQ_CLASSES_MAX];
    float half_levels[KVQ_CLASSES_MAX]; /* half the largest code */
} kvq_ordered;

/** The scales of the 128 tokens of a superblock: unit * 2^(n/16), 0 where n is. Tokens that are left out
 * have no part in anything; those past 127 stand for none. */
typedef struct kvq_log_scales {
    const uint8_t *n;
    float unit;
    const uint8_t *left_out;
    size_t n_left_out;
} kvq_log_scales;

/** What 128 tokens of sixteen channels look like. */
typedef struct kvq_channels {
    float mean[16], min[16], max[16];
    float square[16]; /* sum of (x - mean)^2; Inf if it overflows */
} kvq_channels;

/** The codes of one token: of each plane (layout.h), the dwords of its first sixteen channels, those of the
 * next sixteen `stride` bytes on. Code: sum over planes of (dword >> at & mask) << up. */
typedef struct kvq_token_codes {
    const uint8_t *from[KVQ_MAX_PLANES];
    size_t stride[KVQ_MAX_PLANES], n_planes;
    uint32_t at[KVQ_MAX_PLANES], mask[KVQ_MAX_PLANES], up[KVQ_MAX_PLANES];
} kvq_token_codes;

/** The codes of a block of 32 tokens: of each plane (layout.h) `width` bits, which are those from bit `up` of
 * a code on; the dwords of the first sixteen channels, those of the next sixteen `stride` bytes on. */
typedef struct kvq_block_codes {
    const uint8_t *from[KVQ_MAX_PLANES];
    size_t stride[KVQ_MAX_PLANES], n_planes;
    uint32_t width[KVQ_MAX_PLANES], up[KVQ_MAX_PLANES];
} kvq_block_codes;

typedef struct kvq_kernels {
    const char *isa; /* the name that KVQ_ISA takes */

    /* Is no x[i] NaN or Inf? This one takes any floats. */
    bool (*all_finite_f32)(const float *x, size_t n);

    /* Element-wise conversion; to half: nearest even, saturating at 65504. */
    void (*convert_f32_f16)(const float *x, size_t n, uint16_t *out);
    void (*convert_f16_f32)(const uint16_t *x, size_t n, float *out);

    /* Likewise bfloat16 (bf16.h), which saturates at its largest finite number. */
    void (*convert_f32_bf16)(const float *x, size_t n, uint16_t *out);
    void (*convert_bf16_f32)(const uint16_t *x, size_t n, float *out);

    /* Encode n tokens from t0 on; row i is x + i * stride, l->dim floats. The channel kernel wants t0
     * and n to be multiples of l->group; each overwrites codes, scales and minimums of these tokens and of no
     * other. Those of channels that pad D become 0. */
    void (*encode_affine_channel)(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                  const float *x, size_t stride);
    void (*encode_affine_token)(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n, const float *x,
                                size_t stride);

    /* Dequantize n tokens from t0 on into rows out + i * stride. */
    void (*dequantize_affine)(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n, float *out,
                              size_t stride);

    /* Whole-number sums, for layouts that fold (kvq_layout_folds): keys per channel with G >= 32 and values
     * per token, in the default arithmetic; portable_fast.c derives them. A factor that is constant along a
     * sum (q times scale, p times scale) is folded into whole numbers w, value ~ step * w, |w| <=
     * KVQ_FOLDED_MAX, and the sum of w * code runs in whole numbers. A w is stored as two signed bytes, w =
     * low + 256 high: 32 bytes hold the sixteen lows and then the sixteen highs of sixteen numbers. Sums of
     * floats are in the lane order of dot_f32.
     *
     * Folding takes n_q rows, and makes as many, or if `wide` n_rows = 2 n_q: row n_q + i is then the rest of
     * row i, what rounding took from it, folded again in steps 2^15 times finer: rne(2^15 (y - rne(y))), y
     * what rne made w of. The sums of both, added, are the wide ones. n_rows <= kvq_rows_most(D).
     *
     * Fold n_q queries into the first n tokens of keys, one metadata tile after the other (layout.h),
     * the last one whole.
     *   q_folded  of meta_tile j, row i: D numbers from byte (j * n_rows + i) * 2 * kvq_fold_dim(D) on, then
     *             0
     *   step      at i, for all metadata tiles; of a rest step / KVQ_REST_SCALE. +Inf, and all w 0, where
     *             |q * scale| passes 2^100, or |q| passes 2^100 / 32512, some 2^85, times the largest of it
     *   bias      at j * n_rows + i: sum_c q_c min_c + step * kvq_half_levels * sum_c (what rounding took
     *             from w_c); without the latter if a rest has it, whose own is 0 */
    void (*fold_keys)(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *q, size_t n_q,
                      bool wide, int8_t *q_folded, float *step, float *bias);

    /* scores[i][t] = bias + step * (float(low) + 256 float(high)) for n_q rows of folded numbers, low
     * and high the sums of code << shift times their bytes over all runs; rows of KVQ_SUPERBLOCK. The last
     * block of 32 tokens is written whole. */
    void (*score_runs)(const kvq_run *runs, size_t n_runs, const uint8_t *superblock, kvq_next next, size_t n,
                       const int8_t *folded, const float *step, const float *bias, size_t n_q, float *scores);

    /* Fold n_q rows of n probabilities p (or multiples of them), 0 <= p <= 2^16, rows KVQ_SUPERBLOCK
     * apart, into tokens [0, n) of values. For group u and row i:
     *   p_folded  128 numbers from byte (u * n_rows + i) * 256 on, 0 from n on
     *   step      at u * n_rows + i, as bias; of a rest step / KVQ_REST_SCALE
     *   bias      sum_t p_t min_t + step * kvq_half_levels * sum_t (what rounding took from w_t); without the
     *             latter if a rest has it, whose own is 0
     *   energy    at u * n_q + i: about sum_t p_t^2 times the mean square of token t's values: sum_t m^2 +
     *             h^2 / 4 with h = kvq_half_levels * p_t scale_t, m = p_t min_t + h */
    void (*fold_values)(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *p, size_t n_q,
                        bool wide, int8_t *p_folded, float *step, float *bias, float *energy);

    /* acc[i][c] += step * (float(low) + 256 float(high)) + bias, low and high as for scores. */
    void (*accumulate_folded)(const kvq_layout *l, const uint8_t *superblock, kvq_next next, size_t n,
                              const int8_t *p_folded, const float *step, const float *bias, size_t n_q,
                              float *acc);

    /* scores[i][j] = q[i] . row j, rows of dim values at rows + j * stride; q is [n_q][dim], rows of
     * scores are KVQ_SUPERBLOCK apart. The sum has a fixed order: element i goes to lane i mod 16, multiply
     * then add; the lanes are then added in halves (j and j + 8, j + 4, j + 2, j + 1). */
    void (*dot_f32)(const float *rows, size_t stride, size_t n, kvq_next next, const float *q, size_t n_q,
                    size_t dim, float *scores);
    void (*dot_f16)(const uint16_t *rows, size_t stride, size_t n, kvq_next next, const float *q, size_t n_q,
                    size_t dim, float *scores);

    /* acc[i][c] += p[i][j] * row j [c], multiply then add, for j = 0, 1, ... in this order; rows of p
     * are KVQ_SUPERBLOCK apart, acc is [n_q][dim]. */
    void (*accumulate_f32)(const float *rows, size_t stride, size_t n, kvq_next next, const float *p,
                           size_t n_q, size_t dim, float *acc);
    void (*accumulate_f16)(const uint16_t *rows, size_t stride, size_t n, kvq_next next, const float *p,
                           size_t n_q, size_t dim, float *acc);

    /* Rows of int8 (row8.h): a scale as half, then the codes; dim + 2 bytes at any address, stride bytes
     * apart; dot_i8 and accumulate_i8 take up to KVQ_SUPERBLOCK.
     *
     * Make a row of n numbers: scale = largest |x| / 127 to the nearest half, saturating at 65504;
     * codes rne(clamp(x / scale, -127, 127)), 0 if the scale is. */
    void (*convert_f32_i8)(const float *x, size_t n, uint8_t *row);
    /* out[i] = code * scale. */
    void (*convert_i8_f32)(const uint8_t *row, size_t n, float *out);
    /* scores[i][j] = scale * sum_c q_c code_c, the sum in the order of dot_f32; arrays as there. */
    void (*dot_i8)(const uint8_t *rows, size_t stride, size_t n, kvq_next next, const float *q, size_t n_q,
                   size_t dim, float *scores);
    /* acc[i][c] += (p[i][j] * scale) * code, multiply then add, for j = 0, 1, ... in this order;
     * arrays as for accumulate_f32. */
    void (*accumulate_i8)(const uint8_t *rows, size_t stride, size_t n, kvq_next next, const float *p,
                          size_t n_q, size_t dim, float *acc);

    /* For codec_tier.c, where the formulas are: 128 tokens of sixteen channels.
     *
     * What they look like, token t at row[t] + c. */
    void (*channel_stats)(const float *const *row, size_t c, kvq_channels *stats);
    /* Fit each channel, x[16 t + channel], with codes of 0, 1, 2, 4 or 6 bits, xhat = lo + code *
     * 2^(exponent/8), u the weight of gain errors: exponent[16], lo[16] as halves; codes, a byte each, of
     * channel 4 k + j and token t: codes[4 (128 k + t) + j]. stats is what channel_stats says of them. */
    void (*fit_channels)(const float *x, const kvq_channels *stats, uint32_t bits, float u, uint8_t *codes,
                         int8_t *exponent, uint16_t *lo);

    /* Likewise one channel, x[t], sums in the order of dot_f32: codes[t]. */
    void (*fit_channel)(const float *x, uint32_t bits, float u, uint8_t *codes, int8_t *exponent,
                        uint16_t *lo);

    /* For its feedback, in double: x[i] -= row[j][c + i] * by[j], multiply then subtract, for j < n in
     * this order; i < 16. */
    void (*subtract_rows_f64)(const double *const *row, size_t c, const double *by, size_t n, double x[16]);

    /* Likewise of queries, before that: moment[c (c + 1) / 2 + j] += q[i][c] * q[i][j] for j <= c < dim,
     * multiply then add, for the n rows of q in their order; then at most KVQ_MOMENT_MOST, or at least the
     * negative of it. q is [n][dim up to a multiple of 16]; what it adds up to stays finite. */
    void (*add_moment_f32)(const float *q, size_t n, size_t dim, float *moment);

    /* Fold n_q queries, times steps, in an order, each with one step for all classes; wide as above.
     *   folded    class after class, of each n_rows times its places, up to a multiple of 32, as score_runs
     *             takes them
     *   step      +Inf, and all folded numbers 0, where products pass KVQ_FOLD_MAX
     *   bias      q . lo + step * sum over classes of half_levels * (what rounding took), the sums of lanes
     *             in the order of dot_f32, added by lanes before; without the latter if a rest has it, whose
     *             own is 0 */
    void (*fold_ordered)(const kvq_ordered *o, const float *q, size_t n_q, bool wide, int8_t *folded,
                         float *step, float *bias);

    /* Fold the products x_t = p_t * scale_t of the first n tokens of a superblock for n_q rows of p,
     * none negative, KVQ_SUPERBLOCK apart, each row with one step; wide as above. x, n_q rows likewise, is 0
     * from n on, and where step is +Inf. Sums of floats in the order of dot_f32. */
    void (*fold_products)(const kvq_log_scales *scales, size_t n, const float *p, size_t n_q, bool wide,
                          float *x, int8_t *folded, kvq_fold *out);

    /* out[c] = scale * levels[code of channel c] + add[c], for c < dim. */
    void (*dequantize_levels)(const kvq_token_codes *codes, const float *levels, float scale,
                              const float *add, size_t dim, float *out);

    /* acc[i][c] += factor[i][t] * levels[code of token t in channel c], multiply then add, for the
     * tokens of a block in their order, for n_q rows of factors, KVQ_SUPERBLOCK apart; acc is [n_q][dim], dim
     * a multiple of 16. */
    void (*accumulate_levels)(const kvq_block_codes *codes, const float *levels, const float *factor,
                              size_t n_q, size_t dim, float *acc);

    /* codes[c] = how many of the 2^width - 1 thresholds, which ascend, y[c] passes, for n numbers, a
     * multiple of 16; width 1 .. 4. To pass is to be larger than the threshold plus 2^-127. Returns sum_c
     * y[c] * levels[codes[c]] in the order of dot_f32. */
    float (*choose_levels)(const float *y, size_t n, const float *thresholds, const float *levels,
                           uint32_t width, uint8_t *codes);

    /* x = H x in place, n a power of two: butterflies (a + b, a - b) at distances 1, 2, 4, ..., then
     * times 2^(-log2(n) / 2). */
    void (*hadamard_f32)(float *x, size_t n);
    /* y = H (x * 2^shift), dim numbers, then 0 up to a multiple of 16; H as hadamard_f32 on powers of
     * two, the largest first. Returns shift, which makes the largest |x| about 1: 126 minus its exponent's
     * bits, at least -126; *square = sum of y^2 in the order of dot_f32. */
    int32_t (*rotate_row)(const float *x, size_t dim, float *y, float *square);

    /* Largest of x[0..n), n >= 1, or NaN if any of them is not finite. */
    float (*max_f32)(const float *x, size_t n);

    /* x[i] = 2^(x[i] - ref) within 2 ulp, or 0 below 2^-125.5; x[i] - ref <= 100, x may hold -Inf.
     * Returns the sum of the results, in the lane order of dot_f32. */
    float (*exp2_sum_f32)(float *x, size_t n, float ref);
} kvq_kernels;

/** Scores of keys that fold_keys has folded: by score_runs, whose runs are the planes, meta_tile by
 * meta_tile. */
static inline void kvq_score_folded(const kvq_kernels *k, const kvq_layout *l, const uint8_t *superblock,
                                    kvq_next next, size_t n, const int8_t *q_folded, const float *step,
                                    const float *bias, size_t n_q, float *scores)
{
    const size_t stride = 2 * kvq_fold_dim(l->dim), meta_tile_tokens = l->meta_tile_tokens;
    kvq_run runs[KVQ_MAX_PLANES];
    kvq_layout_runs(l, l->dim, stride, runs);
    for (size_t t = 0; t < n; t += meta_tile_tokens) {
        size_t here = n - t < meta_tile_tokens ? n - t : meta_tile_tokens;
        k->score_runs(runs, l->n_planes, superblock, kvq_next_part(next, t, meta_tile_tokens, KVQ_SUPERBLOCK),
                      here, q_folded, step, bias, n_q, scores + t);
        superblock += l->meta_tile_bytes;
        q_folded += n_q * stride;
        bias += n_q;
    }
}

/* Every slot, for tests and benchmarks that run them all. */
#define KVQ_KERNEL_LIST(X)                                                                                   \
    X(all_finite_f32)                                                                                        \
    X(convert_f32_f16)                                                                                       \
    X(convert_f16_f32)                                                                                       \
    X(convert_f32_bf16)                                                                                      \
    X(convert_bf16_f32)                                                                                      \
    X(encode_affine_channel)                                                                                 \
    X(encode_affine_token)                                                                                   \
    X(dequantize_affine)                                                                                     \
    X(fold_keys)                                                                                             \
    X(score_runs)                                                                                            \
    X(fold_values)                                                                                           \
    X(accumulate_folded)                                                                                     \
    X(dot_f32)                                                                                               \
    X(dot_f16)                                                                                               \
    X(accumulate_f32)                                                                                        \
    X(accumulate_f16)                                                                                        \
    X(convert_f32_i8)                                                                                        \
    X(convert_i8_f32)                                                                                        \
    X(dot_i8)                                                                                                \
    X(accumulate_i8)                                                                                         \
    X(channel_stats)                                                                                         \
    X(fit_channels)                                                                                          \
    X(fit_channel)                                                                                           \
    X(subtract_rows_f64)                                                                                     \
    X(add_moment_f32)                                                                                        \
    X(fold_ordered)                                                                                          \
    X(fold_products)                                                                                         \
    X(choose_levels)                                                                                         \
    X(dequantize_levels)                                                                                     \
    X(accumulate_levels)                                                                                     \
    X(hadamard_f32)                                                                                          \
    X(rotate_row)                                                                                            \
    X(max_f32)                                                                                               \
    X(exp2_sum_f32)

/** The best table that runs here, or the one KVQ_ISA names; NULL if that name is unknown or does not run
 * here. */
const kvq_kernels *kvq_kernels_get(void);

/** The table of that name with its gaps filled, or NULL if it is unknown or does not run here. */
const kvq_kernels *kvq_kernels_for_isa(const char *isa);

/** The i-th table that runs here, from the plainest up; NULL past the last. */
const kvq_kernels *kvq_kernels_at(size_t i);

/**
 * Let kvq_kernels_for_isa find one more table by its name, and so kvq_config.isa: one that counts or times
 * what it passes on, say. It has every slot, a name of its own (instruction sets come first), and outlives
 * the caches that use it. It takes the place of the one offered before; NULL: there is none again.
 * kvq_kernels_at and kvq_kernels_get never give it. Not while another thread looks for a table.
 */
void kvq_kernels_offer(const kvq_kernels *table);

extern const kvq_kernels kvq_kernels_portable;
extern const kvq_kernels kvq_kernels_avx2, kvq_kernels_avxvnni, kvq_kernels_avx512; /* on x86-64 only */
extern const kvq_kernels kvq_kernels_neon;                                          /* on AArch64 only */

/* Parts of the portable table that live in portable_affine.c. */
void kvq_encode_affine_channel_portable(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                        const float *x, size_t stride);
void kvq_encode_affine_token_portable(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                      const float *x, size_t stride);
void kvq_dequantize_affine_portable(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                                    float *out, size_t stride);
/* Likewise portable_fast.c. */
void kvq_fold_keys_portable(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *q,
                            size_t n_q, bool wide, int8_t *q_folded, float *step, float *bias);
void kvq_score_runs_portable(const kvq_run *runs, size_t n_runs, const uint8_t *superblock, kvq_next next,
                             size_t n, const int8_t *folded, const float *step, const float *bias, size_t n_q,
                             float *scores);
void kvq_fold_values_portable(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *p,
                              size_t n_q, bool wide, int8_t *p_folded, float *step, float *bias,
                              float *energy);
void kvq_accumulate_folded_portable(const kvq_layout *l, const uint8_t *superblock, kvq_next next, size_t n,
                                    const int8_t *p_folded, const float *step, const float *bias, size_t n_q,
                                    float *acc);

/* Likewise portable_rows8.c. */
void kvq_convert_f32_i8_portable(const float *x, size_t n, uint8_t *row);
void kvq_convert_i8_f32_portable(const uint8_t *row, size_t n, float *out);
void kvq_dot_i8_portable(const uint8_t *rows, size_t stride, size_t n, kvq_next next, const float *q,
                         size_t n_q, size_t dim, float *scores);
void kvq_accumulate_i8_portable(const uint8_t *rows, size_t stride, size_t n, kvq_next next, const float *p,
                                size_t n_q, size_t dim, float *acc);

/* Likewise portable_tier.c. */
void kvq_channel_stats_portable(const float *const *row, size_t c, kvq_channels *stats);
void kvq_fit_channels_portable(const float *x, const kvq_channels *stats, uint32_t bits, float u,
                               uint8_t *codes, int8_t *exponent, uint16_t *lo);
void kvq_fit_channel_portable(const float *x, uint32_t bits, float u, uint8_t *codes, int8_t *exponent,
                              uint16_t *lo);
void kvq_subtract_rows_f64_portable(const double *const *row, size_t c, const double *by, size_t n,
                                    double x[16]);
void kvq_add_moment_f32_portable(const float *q, size_t n, size_t dim, float *moment);
void kvq_fold_ordered_portable(const kvq_ordered *o, const float *q, size_t n_q, bool wide, int8_t *folded,
                               float *step, float *bias);
void kvq_fold_products_portable(const kvq_log_scales *scales, size_t n, const float *p, size_t n_q, bool wide,
                                float *x, int8_t *folded, kvq_fold *out);
void kvq_dequantize_levels_portable(const kvq_token_codes *codes, const float *levels, float scale,
                                    const float *add, size_t dim, float *out);
float kvq_choose_levels_portable(const float *y, size_t n, const float *thresholds, const float *levels,
                                 uint32_t width, uint8_t *codes);
void kvq_accumulate_levels_portable(const kvq_block_codes *codes, const float *levels, const float *factor,
                                    size_t n_q, size_t dim, float *acc);
void kvq_hadamard_f32_portable(float *x, size_t n);
int32_t kvq_rotate_row_portable(const float *x, size_t dim, float *y, float *square);

#endif /* KVQ_QUANT_KERNELS_H */
