/*
 * The portable kernels of attention in whole numbers. This file is its specification; every other instruction
 * set gives the same bits.
 *
 * Keys per channel: score_t = sum_c (q_c s_c) code_tc + sum_c q_c min_c. The factors x_c = q_c s_c are the
 * same for all tokens of a meta_tile, so they are rounded once, to w_c = rne((q_c * 32512 / max|x|) s_c), and
 * the sum over c runs in whole numbers: score_t = step * sum_c w_c code_tc + bias, step = max|x| / 32512, max
 * over the superblock. Values per token are the same with the roles of channels and tokens exchanged: x_t =
 * p_t s_t within a group of channels. 16-bit numbers are carried as two signed bytes because dot-product
 * instructions take bytes: sums of lows and of highs stay apart, each below 128 * 255 * 1024 < 2^31, and meet
 * in float.
 *
 * Error. Rounding moves a folded number by at most half a step (and 2^-23 of 32512 steps, from the two float
 * multiplications). What it takes from all together is added to the bias, as if all codes were half the
 * largest; so only differences from that are left: a score is off by at most 0.51 * step * sum_c |code_tc -
 * levels / 2|, which is 0.26 * D * levels * step in the worst case and a few hundredths of that for errors
 * that do not conspire. codec_affine.c estimates from this where a query's range is too wide for this
 * arithmetic, and what the output is off by, which lib/ compares with the output itself.
 *
 * Wide. Where that is not enough, what rounding took is folded again in steps 2^15 times finer, and its sums
 * are added: then weights carry 31 bits, and what is left is float32's own rounding, still with the same bits
 * on every instruction set.
 */
#include "quant/codec.h"

#include <math.h>

enum { LANES = KVQ_LANES };

/* ---- Folding ---- */

/* Folded number i becomes x, rounded; returns what rounding took away. */
static float store_folded(int8_t *folded, size_t i, float x)
{
    const float round_magic = 0x1.8p23f; /* adding and subtracting it rounds to the nearest integer */
    float rounded = (x + round_magic) - round_magic;
    int32_t w = (int32_t)rounded;
    int32_t high = (w + 128) >> 8; /* to nearest, so that the rest is a signed byte */
    int8_t *sixteen = folded + i / LANES * 2 * LANES;
    sixteen[i % LANES] = (int8_t)(w - high * 256);
    sixteen[LANES + i % LANES] = (int8_t)high;
    return x - rounded;
}

/* The sum over lanes of sum + factor * rest. */
static float sum_with_rest(const float sum[LANES], float factor, const float rest[LANES])
{
    float lane[LANES];
    for (size_t j = 0; j < LANES; j++)
        lane[j] = sum[j] + factor * rest[j];
    return kvq_sum_lanes(lane);
}

static float largest_magnitude(const float *x, size_t n)
{
    float max = 0.0f;
    for (size_t i = 0; i < n; i++) {
        float magnitude = x[i] < 0.0f ? -x[i] : x[i];
        max = magnitude > max ? magnitude : max;
    }
    return max;
}

static float largest_folded(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *q)
{
    float max = 0.0f;
    for (size_t t = 0; t < n; t += l->meta_tile_tokens)
        for (size_t c = 0; c < l->dim; c++) {
            float x = q[c] * kvq_scale_at(l, superblock, t, c), magnitude = x < 0.0f ? -x : x;
            max = magnitude > max ? magnitude : max;
        }
    return max;
}

void kvq_fold_keys_portable(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *q,
                            size_t n_q, bool wide, int8_t *q_folded, float *step, float *bias)
{
    const size_t fold_dim = kvq_fold_dim(l->dim), n_rows = wide ? 2 * n_q : n_q;
    for (size_t i = 0; i < n_q && n > 0; i++, q += l->dim) {
        float per_unit = kvq_fold_per_unit(largest_folded(l, superblock, n, q), &step[i]);
        if (largest_magnitude(q, l->dim) * per_unit >
            KVQ_FOLD_MAX) { /* and scale 0: the product must stay 0 */
            per_unit = 0.0f;
            step[i] = INFINITY;
        }
        const float made_up_for = wide ? 0.0f : step[i] * kvq_half_levels(l);
        for (size_t t = 0; t < n; t += l->meta_tile_tokens) {
            const size_t row = t / l->meta_tile_tokens * n_rows + i;
            int8_t *folded = q_folded + row * 2 * fold_dim, *folded_rest = folded + n_q * 2 * fold_dim;
            float lane[LANES] = {0}, rest[LANES] = {0};
            for (size_t c = 0; c < fold_dim; c++) {
                const bool is_there = c < l->dim;
                const float y = is_there ? q[c] * per_unit * kvq_scale_at(l, superblock, t, c) : 0.0f;
                const float taken = store_folded(folded, c, y);
                if (wide)
                    (void)store_folded(folded_rest, c, taken * KVQ_REST_SCALE);
                rest[c % LANES] += taken;
                lane[c % LANES] += is_there ? q[c] * kvq_min_at(l, superblock, t, c) : 0.0f;
            }
            bias[row] = sum_with_rest(lane, made_up_for, rest);
            if (wide)
                bias[row + n_q] = 0.0f;
        }
        if (wide)
            step[n_q + i] = step[i] / KVQ_REST_SCALE;
    }
}

void kvq_fold_values_portable(const kvq_layout *l, const uint8_t *superblock, size_t n, const float *p,
                              size_t n_q, bool wide, int8_t *p_folded, float *step, float *bias,
                              float *energy)
{
    const size_t n_rows = wide ? 2 * n_q : n_q;
    for (size_t c = 0, first = 0; c < l->dim; c += l->group, first += n_rows)
        for (size_t i = 0; i < n_q; i++) {
            const size_t row = first + i;
            int8_t *folded = p_folded + row * 2 * KVQ_SUPERBLOCK;
            float x[KVQ_SUPERBLOCK] = {0}, lane[LANES] = {0}, square[LANES] = {0}, rest[LANES] = {0},
                  max = 0.0f;
            for (size_t t = 0; t < n; t++) {
                float p_t = p[i * KVQ_SUPERBLOCK + t];
                x[t] = p_t * kvq_scale_at(l, superblock, t, c);
                max = x[t] > max ? x[t] : max;
                float of_min = p_t * kvq_min_at(l, superblock, t, c);
                float half = kvq_half_levels(l) * x[t], middle = of_min + half;
                lane[t % LANES] += of_min;
                square[t % LANES] += middle * middle + 0.25f * (half * half);
            }
            float per_unit = kvq_fold_per_unit(max, &step[row]);
            for (size_t t = 0; t < KVQ_SUPERBLOCK; t++) {
                const float taken = store_folded(folded, t, x[t] * per_unit);
                if (wide)
                    (void)store_folded(folded + n_q * 2 * KVQ_SUPERBLOCK, t, taken * KVQ_REST_SCALE);
                rest[t % LANES] += taken;
            }
            bias[row] = sum_with_rest(lane, wide ? 0.0f : step[row] * kvq_half_levels(l), rest);
            *energy++ = kvq_sum_lanes(square);
            if (wide) {
                step[row + n_q] = step[row] / KVQ_REST_SCALE;
                bias[row + n_q] = 0.0f;
            }
        }
}

/* ---- Sums of folded numbers times codes ---- */

/* Sixteen dwords of codes, one per lane, as 32 numbers of 16 bits: a type that gcc and clang have for every
 * processor, so that the loops below become its vector instructions, whatever these are. The lower half of a
 * dword comes first, as everywhere here: machines are little-endian. */
typedef uint16_t halves __attribute__((vector_size(16)));
typedef uint32_t dwords __attribute__((vector_size(16)));

enum { PARTS = 4 }; /* registers for sixteen dwords */

/* Sums of products of codes and lows, and highs: by halves of dwords, and put away as dwords. */
typedef struct dot_sums {
    halves low[PARTS], high[PARTS];
    dwords total_low[PARTS], total_high[PARTS];
    uint32_t room; /* the sum of codes that a half still takes before it could overflow, each times -128 */
} dot_sums;

enum { ROOM = 32767 / 128 };

/* The sum of both halves of each dword, which have a sign. */
static inline dwords both_halves(halves x)
{
    const dwords pair = (dwords)x, sign = {0x8000, 0x8000, 0x8000, 0x8000};
    return (((pair & 0xffff) ^ sign) - sign) + (((pair >> 16) ^ sign) - sign);
}

/* Put the sums away, `up` bits higher than what comes after them. */
static inline void put_away(dot_sums *s, uint32_t up)
{
    for (size_t i = 0; i < PARTS; i++) {
        s->total_low[i] = (s->total_low[i] + both_halves(s->low[i])) << up;
        s->total_high[i] = (s->total_high[i] + both_halves(s->high[i])) << up;
        s->low[i] = s->high[i] = (halves){0};
    }
    s->room = ROOM;
}

/* Two folded bytes, as halves: of the value in the lower half of a dword and of that in the upper one. */
static inline halves both(int8_t lower, int8_t upper)
{
    const uint16_t l = (uint16_t)lower, u = (uint16_t)upper;
    return (halves){l, u, l, u, l, u, l, u};
}

/* Add a run: sixteen lanes of dwords from `codes` on, the next ones row_bytes further. A dword has its values
 * in bytes, four to each place (layout.h); a shift brings one into each half, two bytes apart. `width` is
 * constant where this is inlined. */
static inline __attribute__((always_inline)) void
add_run(uint32_t width, const uint8_t *codes, size_t row_bytes, size_t n, const int8_t *folded, dot_sums *s)
{
    const uint32_t per_dword = 32 / width;
    const uint16_t largest = (uint16_t)((1u << width) - 1u);
    for (size_t row = 0; row < (n + per_dword - 1) / per_dword; row++, codes += row_bytes) {
        halves x[PARTS];
        memcpy(x, codes, sizeof x);
        for (uint32_t at = 0; at < 16; at += width) {
            /* Value 4 * place + byte, byte 0 or 1, in the lower half; that two further on in the upper. */
            const size_t i = row * per_dword + (size_t)(at % 8 / width * 4 + at / 8);
            const int8_t *sixteen = folded + i / LANES * 2 * LANES + i % LANES;
            const halves low = both(sixteen[0], sixteen[2]), high = both(sixteen[LANES], sixteen[LANES + 2]);
            if (s->room < largest)
                put_away(s, 0);
            s->room -= largest;
            for (size_t j = 0; j < PARTS; j++) {
                const halves code = x[j] >> at & largest;
                s->low[j] += code * low;
                s->high[j] += code * high;
            }
        }
    }
}

/* What a row of folded numbers gives in sixteen lanes side by side, which lie in rows of `lanes`: for keys
 * tokens from `first` on, for values channels. */
static void dot_runs(const kvq_run *runs, size_t n_runs, const uint8_t *superblock, size_t lanes,
                     size_t first, const int8_t *folded, size_t row, float sum[LANES])
{
    dot_sums s = {.room = ROOM};
    for (size_t j = 0; j < n_runs; j++) {
        const kvq_run *run = &runs[j];
        const uint8_t *codes =
            superblock + run->offset + first / lanes * run->block_bytes + first % lanes * 4;
        const int8_t *of_run = folded + run->folded + row * run->folded_stride;
        if (run->width == 1)
            add_run(1, codes, 4 * lanes, run->n, of_run, &s);
        else if (run->width == 2)
            add_run(2, codes, 4 * lanes, run->n, of_run, &s);
        else if (run->width == 4)
            add_run(4, codes, 4 * lanes, run->n, of_run, &s);
        else
            add_run(8, codes, 4 * lanes, run->n, of_run, &s);
        put_away(&s, run->shift - (j + 1 < n_runs ? run[1].shift : 0));
    }
    int32_t low[LANES], high[LANES];
    memcpy(low, s.total_low, sizeof low);
    memcpy(high, s.total_high, sizeof high);
    for (size_t lane = 0; lane < LANES; lane++)
        sum[lane] = (float)low[lane] + 256.0f * (float)high[lane];
}

void kvq_score_runs_portable(const kvq_run *runs, size_t n_runs, const uint8_t *superblock, kvq_next next,
                             size_t n, const int8_t *folded, const float *step, const float *bias, size_t n_q,
                             float *scores)
{
    (void)next;
    for (size_t t = 0; t < (n + KVQ_BLOCK - 1) / KVQ_BLOCK * KVQ_BLOCK; t += LANES)
        for (size_t i = 0; i < n_q; i++) {
            float *score = scores + i * KVQ_SUPERBLOCK + t, sum[LANES];
            dot_runs(runs, n_runs, superblock, KVQ_BLOCK, t, folded, i, sum);
            for (size_t lane = 0; lane < LANES; lane++)
                score[lane] = bias[i] + step[i] * sum[lane];
        }
}

void kvq_accumulate_folded_portable(const kvq_layout *l, const uint8_t *superblock, kvq_next next, size_t n,
                                    const int8_t *p_folded, const float *step, const float *bias, size_t n_q,
                                    float *acc)
{
    (void)next;
    kvq_run runs[KVQ_MAX_PLANES];
    kvq_layout_runs(l, n, 2 * KVQ_SUPERBLOCK, runs);
    for (size_t c = 0; c < l->dim && n > 0; c += LANES)
        for (size_t i = 0; i < n_q; i++) {
            size_t fold = c / l->group * n_q + i;
            float sum[LANES];
            dot_runs(runs, l->n_planes, superblock, LANES, c, p_folded, fold, sum);
            for (size_t lane = 0; lane < LANES && c + lane < l->dim; lane++)
                acc[i * l->dim + c + lane] += step[fold] * sum[lane] + bias[fold];
        }
}
