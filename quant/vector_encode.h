/*
 * Encoding and dequantizing of the affine codec in vectors. Only keys per channel and values per token in the
 * default arithmetic; the rest goes to the portable kernels.
 *
 * Codes are made in units of 16 x 16 values: along the reduction 16 channels (keys) or 16 tokens (values),
 * which share dwords; across it 16 dwords side by side, a v_i. A quad is four bytes of a dword, one code in
 * each: channels (tokens) 4k .. 4k + 3 of the unit. The four quads of a unit only need to be shifted
 * together, whatever the width:
 *
 *   8 bits   four rows of dwords: q0, q1, q2, q3
 *   4        two rows: q0 | q1 << 4, q2 | q3 << 4
 *   2        one row: q0 | q1 << 2 | q2 << 4 | q3 << 6
 *   1        half of a row: q0 | q1 << 1 | q2 << 2 | q3 << 3, all << 4 in units of odd number
 *
 * The portable kernel clamps codes to 0 .. M, this one does not: unless scale or minimum saturates at 65504,
 * 0 <= x - min <= M scale up to three roundings, which cannot reach M + 1/2. Groups that saturate go to the
 * portable kernel.
 */
#ifndef KVQ_QUANT_VECTOR_ENCODE_H
#define KVQ_QUANT_VECTOR_ENCODE_H

#include "quant/kernels.h"
#include "quant/vector_complete.h"

enum { UNIT = 16 };

/* The last channels, where D is not a multiple of 16, of n > 0 rows: copied, so that nothing past them is
 * read. The others of the unit become `fill` times the last one. */
V_INLINE void copy_tail(const kvq_layout *l, const float *x, size_t stride, size_t n, float fill, float *tail)
{
    const size_t first = l->dim / UNIT * UNIT, n_own = l->dim - first;
    do {
        v_store(tail, v_set1(fill * x[l->dim - 1]));
        v_store_part(tail, v_load_part(x + first, n_own), n_own);
        x += stride;
        tail += UNIT;
    } while (--n > 0);
}

/* All bits of the first n <= 16 dwords. */
V_INLINE v_i first_dwords(size_t n)
{
#define FOUR(x) x, x, x, x
    static const uint32_t bits[2 * UNIT] = {FOUR(~0u), FOUR(~0u), FOUR(~0u), FOUR(~0u)};
#undef FOUR
    return v_i_load((const uint8_t *)(const void *)(bits + UNIT - n));
}

/* ---- From values to codes ---- */

/* What makes codes of the values of sixteen groups, and what is stored of it. */
typedef struct coders {
    v_f min, inverse; /* of the scale */
    v_h stored_scale, stored_min;
} coders;

/* kvq_affine_params for sixteen groups, from their extremes. `worst` grows to 65504 or more where one
 * saturates. */
V_INLINE coders make_coders(uint32_t bits, v_f lo, v_f hi, v_f *worst)
{
    const v_f zero = v_set1(0.0f), levels = v_set1((float)((1u << bits) - 1u));
    coders out;
    out.stored_min = v_h_down(v_add(lo, zero)); /* which makes -0 into 0 */
    out.min = v_h_to_f(out.stored_min);
    out.stored_scale = v_h_up(v_div(v_sub(v_add(hi, zero), out.min), levels));
    v_f scale = v_h_to_f(out.stored_scale);
    /* Where scale is 0 so is every x - min, and the inverse of the smallest half does as well as 0. */
    out.inverse = v_div(v_set1(1.0f), v_max(scale, v_set1(0x1p-24f)));
    *worst = v_max(*worst, v_max(scale, v_sub(zero, out.min)));
    return out;
}

/* Scales or minimums of a superblock, which are where halves may be. */
V_INLINE uint16_t *metadata_at(uint8_t *at)
{
    return (uint16_t *)(void *)at;
}

/* Minimums go min_offset bytes behind the scales. */
V_INLINE void store_coders(const coders *made, uint16_t *scales, size_t min_offset, float min[UNIT],
                           float inverse[UNIT])
{
    v_h_store(scales, made->stored_scale);
    v_h_store(scales + min_offset / 2, made->stored_min);
    v_store(min, made->min);
    v_store(inverse, made->inverse);
}

V_INLINE bool saturated(v_f worst)
{
    return v_largest(worst) >= KVQ_F16_MAX;
}

V_INLINE v_i codes_of(const float *x, v_f min, v_f inverse)
{
    return v_i_nearest(v_mul(v_sub(v_load(x), min), inverse));
}

/* Ask for the rows that this call, or the caller's next, comes to; addresses past the end do no harm. Into
 * the second level of cache: asking for the first halves the speed where the rows lie in DRAM (Zen 4). */
V_INLINE void prefetch_ahead(const float *x, size_t distance)
{
    v_prefetch((const uint8_t *)((uintptr_t)x + distance * sizeof *x));
}

/* ---- Storing a unit ---- */

/* Row r of a unit. */
V_INLINE v_i unit_row(const v_i quad[4], uint32_t width, size_t r, bool odd)
{
    if (width == 8)
        return quad[r];
    if (width == 4)
        return v_i_or(quad[2 * r], v_i_shift_left(quad[2 * r + 1], 4));
    if (width == 2)
        return v_i_or(v_i_or(quad[0], v_i_shift_left(quad[1], 2)),
                      v_i_or(v_i_shift_left(quad[2], 4), v_i_shift_left(quad[3], 6)));
    v_i row = v_i_or(v_i_or(quad[0], v_i_shift_left(quad[1], 1)),
                     v_i_or(v_i_shift_left(quad[2], 2), v_i_shift_left(quad[3], 3)));
    return odd ? v_i_shift_left(row, 4) : row;
}

/* Store a unit in one plane, `width` a constant. One bit leaves the row's other half, which is another
 * unit's. */
V_INLINE void store_rows(uint8_t *at, size_t row_bytes, uint32_t width, bool odd, const v_i quad[4])
{
    if (width == 1) {
        v_i other = v_i_set1(odd ? 0x0f0f0f0fu : 0xf0f0f0f0u);
        v_i_store(at, v_i_or(v_i_and(other, v_i_load(at)), unit_row(quad, 1, 0, odd)));
        return;
    }
    for (size_t r = 0; r < width / 2; r++)
        v_i_store(at + r * row_bytes, unit_row(quad, width, r, odd));
}

/* Store a unit in every plane; `codes` is where unit 0 would start in a plane at offset 0. */
V_INLINE void store_unit(const kvq_layout *l, uint8_t *codes, size_t row_bytes, size_t unit,
                         const v_i quad[4])
{
    for (size_t i = 0; i < l->n_planes; i++) {
        const kvq_plane *plane = &l->plane[i];
        uint8_t *at = codes + plane->offset + unit * plane->width / 2 * row_bytes;
        bool odd = unit % 2 != 0;
        v_i part[4];
        for (size_t k = 0; k < 4; k++)
            part[k] = quad[k];
        if (l->n_planes > 1) { /* shifting dwords moves bits from byte to byte, the mask drops them */
            const v_i mask = v_i_set1(((1u << plane->width) - 1u) * 0x01010101u);
            for (size_t k = 0; k < 4; k++)
                part[k] = v_i_and(v_i_shift_right(quad[k], plane->shift), mask);
        }
        switch (plane->width) {
        case 1:
            store_rows(at, row_bytes, 1, odd, part);
            break;
        case 2:
            store_rows(at, row_bytes, 2, odd, part);
            break;
        case 4:
            store_rows(at, row_bytes, 4, odd, part);
            break;
        default:
            store_rows(at, row_bytes, 8, odd, part);
            break;
        }
    }
}

/* ---- Keys: groups run along tokens ---- */

enum { KEYS_ROW = 4 * KVQ_BLOCK };

static size_t keys_block_offset(const kvq_layout *l, size_t t)
{
    return t / l->meta_tile_tokens * l->meta_tile_bytes +
           t % l->meta_tile_tokens / KVQ_BLOCK * l->block_bytes;
}

/* Codes of 16 channels of 16 tokens as four quads: lane = token. */
V_INLINE void keys_quads(const float *x, size_t stride, size_t ahead, const float min[UNIT],
                         const float inverse[UNIT], v_i quad[4])
{
    const v_f min_v = v_load(min), inverse_v = v_load(inverse);
    v_i packed[4];
    V_UNROLL(4)
    for (size_t k = 0; k < 4; k++) {
        v_i code[4];
        V_UNROLL(4)
        for (size_t i = 0; i < 4; i++) {
            const float *at = x + (4 * k + i) * stride;
            prefetch_ahead(at, ahead);
            code[i] = codes_of(at, min_v, inverse_v);
        }
        packed[k] = v_i_pack(code);
    }
    v_i_transpose(packed, quad);
}

/* The smallest and largest of each of 16 channels over n tokens, n even. */
V_INLINE void channel_extremes(const float *x, size_t n, size_t stride, float lo[UNIT], float hi[UNIT])
{
    v_f low[2], high[2]; /* two in turn hide the latency of a comparison */
    for (size_t i = 0; i < 2; i++)
        low[i] = high[i] = v_load(x + i * stride);
    for (size_t t = 2; t < n; t += 2)
        for (size_t i = 0; i < 2; i++) {
            v_f value = v_load(x + (t + i) * stride);
            low[i] = v_min(low[i], value);
            high[i] = v_max(high[i], value);
        }
    v_store(lo, v_min(low[0], low[1]));
    v_store(hi, v_max(high[0], high[1]));
}

/* Encode n channels from c on, multiples of 16, of a group of tokens; false, and nothing certain stored, if
 * any of them saturates. x is that of the first. */
static bool encode_channels(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t c, size_t n,
                            const float *x, size_t stride)
{
    _Alignas(64) float min[KVQ_DIM_MAX], inverse[KVQ_DIM_MAX];
    for (size_t j = 0; j < n; j += UNIT)
        channel_extremes(x + j, l->group, stride, min + j, inverse + j);
    uint16_t *scales = metadata_at(superblock + kvq_scale_offset(l, t0, c));
    v_f worst = v_set1(0.0f);
    for (size_t j = 0; j < n; j += UNIT) {
        coders made = make_coders(l->bits, v_load(min + j), v_load(inverse + j), &worst);
        store_coders(&made, scales + j, l->min_offset, min + j, inverse + j);
    }
    if (saturated(worst))
        return false;
    for (size_t i = 0; i < l->group; i += UNIT) {
        uint8_t *codes = superblock + keys_block_offset(l, t0 + i) + 4 * ((t0 + i) % KVQ_BLOCK);
        for (size_t j = 0; j < n; j += UNIT) {
            v_i quad[4];
            keys_quads(x + i * stride + j, stride, l->group * stride, min + j, inverse + j, quad);
            store_unit(l, codes, KEYS_ROW, (c + j) / UNIT, quad);
        }
    }
    return true;
}

/* Encode a group of tokens; false, and nothing certain stored, if any channel saturates. Channels that pad
 * are zeros, which have codes, scales and minimums of 0. */
static bool encode_keys(const kvq_layout *l, uint8_t *superblock, size_t t0, const float *x, size_t stride)
{
    const size_t whole = l->dim / UNIT * UNIT;
    if (!encode_channels(l, superblock, t0, 0, whole, x, stride))
        return false;
    if (whole == l->dim)
        return true;
    float tail[KVQ_SUPERBLOCK * UNIT];
    copy_tail(l, x, stride, l->group, 0.0f, tail);
    return encode_channels(l, superblock, t0, whole, UNIT, tail, UNIT);
}

static void encode_affine_channel_v(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                    const float *x, size_t stride)
{
    bool here = l->role == KVQ_KEYS && !l->half_arith;
    for (size_t t = t0; t < t0 + n; t += l->group, x += l->group * stride)
        if (!here || !encode_keys(l, superblock, t, x, stride))
            kvq_encode_affine_channel_portable(l, superblock, t, l->group, x, stride);
}

/* ---- Values: groups run along channels ---- */

enum {
    VALUES_ROW = 4 * UNIT,
    VALUES_AHEAD = 3 * UNIT, /* tokens; fetching the next 16 only is too late */
};

/* The smallest and largest of n channels of each of 16 tokens. `tailed`, a constant: those past a multiple of
 * 16 are in `tail`, rows of 16. */
V_INLINE void group_extremes(const float *x, size_t n, size_t stride, bool tailed, const float *tail, v_f *lo,
                             v_f *hi)
{
    v_f low_fours[4], high_fours[4];
    const size_t whole = n / UNIT * UNIT;
    V_UNROLL(4)
    for (size_t i = 0; i < 4; i++, x += stride, tail += tailed ? UNIT : 0) {
        v_f low[4], high[4];
        V_UNROLL(4)
        for (size_t j = 0; j < 4; j++)
            low[j] = high[j] = v_load(!tailed || whole > 0 ? x + 4 * j * stride : tail + 4 * j * UNIT);
        for (size_t c = UNIT; c < whole; c += UNIT)
            V_UNROLL(4)
        for (size_t j = 0; j < 4; j++) {
            v_f value = v_load(x + 4 * j * stride + c);
            low[j] = v_min(low[j], value);
            high[j] = v_max(high[j], value);
        }
        if (tailed && whole > 0)
            V_UNROLL(4)
        for (size_t j = 0; j < 4; j++) {
            v_f value = v_load(tail + 4 * j * UNIT);
            low[j] = v_min(low[j], value);
            high[j] = v_max(high[j], value);
        }
        low_fours[i] = v_extremes_in_fours(low, false);
        high_fours[i] = v_extremes_in_fours(high, true);
    }
    *lo = v_extremes_of_fours(low_fours, false);
    *hi = v_extremes_of_fours(high_fours, true);
}

/* Codes of 16 channels of 16 tokens as four quads: lane = channel. */
V_INLINE void values_quads(const float *x, size_t stride, size_t ahead, const float min[UNIT],
                           const float inverse[UNIT], v_i quad[4])
{
    V_UNROLL(4)
    for (size_t k = 0; k < 4; k++) {
        v_i code[4];
        V_UNROLL(4)
        for (size_t j = 0; j < 4; j++) {
            const float *at = x + (4 * k + j) * stride;
            prefetch_ahead(at, ahead);
            code[j] = codes_of(at, v_set1(min[4 * k + j]), v_set1(inverse[4 * k + j]));
        }
        quad[k] = v_i_or(v_i_or(code[0], v_i_shift_left(code[1], 8)),
                         v_i_or(v_i_shift_left(code[2], 16), v_i_shift_left(code[3], 24)));
    }
}

/* Encode 16 tokens from t on, a multiple of 16; false, and nothing certain stored, if any group saturates.
 * `tailed`, a constant: D is not a multiple of 16. */
V_INLINE bool encode_tokens(const kvq_layout *l, uint8_t *superblock, size_t t, const float *x, size_t stride,
                            bool tailed)
{
    _Alignas(64) float min[KVQ_DIM_MAX], inverse[KVQ_DIM_MAX]; /* [group][token] */
    float tail[UNIT * UNIT];
    const size_t whole = l->dim / UNIT * UNIT;
    if (tailed)
        copy_tail(l, x, stride, UNIT, 1.0f, tail);
    uint16_t *scales = metadata_at(superblock + l->meta_offset + 2 * t);
    v_f worst = v_set1(0.0f);
    for (size_t c = 0, i = 0; c < l->dim; c += l->group, i += UNIT, scales += l->meta_tile_tokens) {
        v_f lo, hi;
        const size_t n = l->group < l->dim - c ? l->group : l->dim - c;
        if (tailed && n % UNIT != 0)
            group_extremes(x + c, n, stride, true, tail, &lo, &hi);
        else
            group_extremes(x + c, n, stride, false, tail, &lo, &hi);
        coders made = make_coders(l->bits, lo, hi, &worst);
        store_coders(&made, scales, l->min_offset, min + i, inverse + i);
    }
    if (saturated(worst))
        return false;
    for (size_t c = 0; c < whole; c += UNIT) {
        size_t made = c / l->group * UNIT;
        v_i quad[4];
        values_quads(x + c, stride, VALUES_AHEAD * stride, min + made, inverse + made, quad);
        store_unit(l, superblock, VALUES_ROW, c / UNIT * (KVQ_SUPERBLOCK / UNIT) + t / UNIT, quad);
    }
    if (tailed) {
        size_t made = whole / l->group * UNIT;
        v_i quad[4];
        values_quads(tail, UNIT, 0, min + made, inverse + made, quad);
        for (size_t k = 0; k < 4; k++)
            quad[k] = v_i_and(quad[k], first_dwords(l->dim - whole));
        store_unit(l, superblock, VALUES_ROW, whole / UNIT * (KVQ_SUPERBLOCK / UNIT) + t / UNIT, quad);
    }
    return true;
}

static bool encode_16_tokens(const kvq_layout *l, uint8_t *superblock, size_t t, const float *x,
                             size_t stride)
{
    return l->dim % UNIT == 0 ? encode_tokens(l, superblock, t, x, stride, false)
                              : encode_tokens(l, superblock, t, x, stride, true);
}

/* The smallest and largest of n channels of a token, rounded up to a multiple of 16, in every lane. */
V_INLINE void row_extremes(const float *x, size_t n, v_f *lo, v_f *hi)
{
    v_f low = v_load(x), high = low;
    for (size_t c = UNIT; c < n; c += UNIT) {
        low = v_min(low, v_load(x + c));
        high = v_max(high, v_load(x + c));
    }
    *lo = v_set1(-v_largest(v_sub(v_set1(0.0f), low)));
    *hi = v_set1(v_largest(high));
}

/* Replace the codes of channels c .. c + 15 of one token, whose channel 0 has its bits at `at` and
 * `shift`. */
V_INLINE void store_token(const kvq_plane *plane, uint8_t *at, size_t c, uint32_t shift, v_i codes)
{
    const v_i mask = v_i_set1((1u << plane->width) - 1u);
    v_i part = v_i_and(v_i_shift_right(codes, plane->shift), mask);
    at += c / UNIT * 4 * plane->width * VALUES_ROW;
    v_i others = v_i_and_not(v_i_load(at), v_i_shift_left(mask, shift));
    v_i_store(at, v_i_or(others, v_i_shift_left(part, shift)));
}

/* Encode one token, as decode steps append them; false, and nothing certain stored, if any group
 * saturates. */
static bool encode_1_token(const kvq_layout *l, uint8_t *superblock, size_t t, const float *x)
{
    uint8_t *at[KVQ_MAX_PLANES], *scales = superblock + l->meta_offset + 2 * t;
    uint32_t shift[KVQ_MAX_PLANES];
    float row[KVQ_DIM_MAX];
    if (l->dim % UNIT != 0) {
        memcpy(row, x, l->dim * sizeof *row);
        copy_tail(l, x, 0, 1, 1.0f, row + l->dim / UNIT * UNIT);
        x = row;
    }
    for (size_t i = 0; i < l->n_planes; i++)
        at[i] = superblock + kvq_code_offset(l, &l->plane[i], t, 0, &shift[i]);
    v_f worst = v_set1(0.0f);
    for (size_t c = 0, end; c < l->dim; scales += 2 * l->meta_tile_tokens) {
        v_f lo, hi;
        uint16_t scale_halves[UNIT], min_halves[UNIT]; /* all the same */
        end = c + l->group < l->dim ? c + l->group : l->dim;
        row_extremes(x + c, end - c, &lo, &hi);
        coders made = make_coders(l->bits, lo, hi, &worst);
        v_h_store(scale_halves, made.stored_scale);
        v_h_store(min_halves, made.stored_min);
        kvq_store_u16(scales, scale_halves[0]);
        kvq_store_u16(scales + l->min_offset, min_halves[0]);
        for (; c < end; c += UNIT) {
            v_i codes = codes_of(x + c, made.min, made.inverse);
            if (c + UNIT > l->dim)
                codes = v_i_and(codes, first_dwords(l->dim - c));
            for (size_t i = 0; i < l->n_planes; i++)
                store_token(&l->plane[i], at[i], c, shift[i], codes);
        }
    }
    return !saturated(worst);
}

static void encode_affine_token_v(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                  const float *x, size_t stride)
{
    bool here = l->role == KVQ_VALUES && !l->half_arith;
    for (size_t t = t0, end = t0 + n, step; t < end; t += step, x += step * stride) {
        step = t % UNIT == 0 && t + UNIT <= end ? UNIT : 1;
        if (!here || !(step == 1 ? encode_1_token(l, superblock, t, x)
                                 : encode_16_tokens(l, superblock, t, x, stride)))
            kvq_encode_affine_token_portable(l, superblock, t, step, x, stride);
    }
}

/* ---- Dequantizing: widths of planes, `low` and `high` (0 if there is one only), are constants ---- */

/* The first n numbers of a unit. */
V_INLINE void store_dequantized(float *out, size_t n, v_f codes, v_f scale, v_f min)
{
    v_f x = v_add(v_mul(codes, scale), min);
    if (n >= UNIT)
        v_store(out, x);
    else
        v_store_part(out, x, n);
}

/* One plane's part of the codes of a unit's 16 channels of one token; `at` is its first dword. */
V_INLINE v_q keys_part(const uint8_t *at, uint32_t width, bool odd)
{
    v_q dwords = v_q_set1(kvq_load_u32(at)); /* that of each quad */
    if (width > 2)
        dwords =
            v_q_set(kvq_load_u32(at), kvq_load_u32(at + width / 8 * KEYS_ROW),
                    kvq_load_u32(at + 2 * width / 8 * KEYS_ROW), kvq_load_u32(at + 3 * width / 8 * KEYS_ROW));
    const uint32_t first = width == 1 && odd ? 4 : 0;
    const uint32_t shift[4] = {first, (first + width) & 7, (first + 2 * width) & 7, (first + 3 * width) & 7};
    return v_q_and(v_q_shift_right(dwords, shift), (1u << width) - 1u);
}

/* Dequantize n tokens from t on, of one group and one block, row by row. */
V_INLINE void dequantize_keys(const kvq_layout *l, const uint8_t *superblock, size_t t, size_t n, float *out,
                              size_t stride, uint32_t low, uint32_t high)
{
    _Alignas(64) float scale[KVQ_DIM_MAX], min[KVQ_DIM_MAX];
    const uint16_t *scales = (const uint16_t *)(const void *)(superblock + kvq_scale_offset(l, t, 0));
    for (size_t c = 0; c < l->dim; c += UNIT) {
        v_store(scale + c, v_load_half(scales + c));
        v_store(min + c, v_load_half(scales + l->min_offset / 2 + c));
    }
    const uint8_t *codes = superblock + keys_block_offset(l, t) + 4 * (t % KVQ_BLOCK);
    for (size_t i = 0; i < n; i++, codes += 4, out += stride)
        for (size_t c = 0; c < l->dim; c += UNIT) {
            size_t unit = c / UNIT;
            bool odd = unit % 2 != 0;
            v_q bytes = keys_part(codes + unit * low / 2 * KEYS_ROW, low, odd);
            if (high != 0) {
                const uint8_t *at = codes + l->plane[1].offset + unit * high / 2 * KEYS_ROW;
                bytes = v_q_or(bytes, v_q_shift_left(keys_part(at, high, odd), low));
            }
            store_dequantized(out + c, l->dim - c, v_q_to_f(bytes), v_load(scale + c), v_load(min + c));
        }
}

/* One plane's part of the codes of token t, shifted up into place; `at` is the first row of 16 channels in
 * that plane. */
V_INLINE v_f values_part(const uint8_t *at, size_t t, uint32_t width, uint32_t up)
{
    size_t value = t % (32 / width), shift = value % 4 * 8 + value / 4 * width;
    return v_codes(at + t * width / 32 * VALUES_ROW, (uint32_t)shift, (1u << width) - 1u, up);
}

/* Dequantize token t. */
V_INLINE void dequantize_values(const kvq_layout *l, const uint8_t *superblock, size_t t, float *out,
                                uint32_t low, uint32_t high)
{
    const uint8_t *scales = superblock + l->meta_offset + 2 * t, *upper = superblock + l->plane[1].offset;
    for (size_t c = 0, end; c < l->dim; scales += 2 * l->meta_tile_tokens) {
        v_f scale = v_set1_half(kvq_load_u16(scales));
        v_f min = v_set1_half(kvq_load_u16(scales + l->min_offset));
        end = c + l->group < l->dim ? c + l->group : l->dim;
        for (; c < end; c += UNIT) {
            size_t row = c / UNIT * 4 * VALUES_ROW;
            v_f codes = values_part(superblock + row * low, t, low, 0);
            if (high != 0) /* small whole numbers: the sum is exact */
                codes = v_add(codes, values_part(upper + row * high, t, high, low));
            store_dequantized(out + c, l->dim - c, codes, scale, min);
        }
    }
}

V_INLINE void dequantize(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n, float *out,
                         size_t stride, uint32_t low, uint32_t high)
{
    size_t run = l->role == KVQ_VALUES ? 1 : l->group < KVQ_BLOCK ? l->group : KVQ_BLOCK;
    for (size_t t = t0, end = t0 + n, step; t < end; t += step, out += step * stride) {
        step = run - t % run < end - t ? run - t % run : end - t;
        if (l->role == KVQ_KEYS)
            dequantize_keys(l, superblock, t, step, out, stride, low, high);
        else
            dequantize_values(l, superblock, t, out, low, high);
    }
}

static void dequantize_affine_v(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                                float *out, size_t stride)
{
    if (l->per_channel != (l->role == KVQ_KEYS) || l->half_arith) {
        kvq_dequantize_affine_portable(l, superblock, t0, n, out, stride);
        return;
    }
    switch (l->bits) {
    case 1:
        dequantize(l, superblock, t0, n, out, stride, 1, 0);
        break;
    case 2:
        dequantize(l, superblock, t0, n, out, stride, 2, 0);
        break;
    case 3:
        dequantize(l, superblock, t0, n, out, stride, 2, 1);
        break;
    case 4:
        dequantize(l, superblock, t0, n, out, stride, 4, 0);
        break;
    case 5:
        dequantize(l, superblock, t0, n, out, stride, 4, 1);
        break;
    case 6:
        dequantize(l, superblock, t0, n, out, stride, 4, 2);
        break;
    default:
        dequantize(l, superblock, t0, n, out, stride, 8, 0);
        break;
    }
}

/* The slots of a table that this file fills. */
#define V_ENCODE_KERNELS                                                                                     \
    .encode_affine_channel = encode_affine_channel_v, .encode_affine_token = encode_affine_token_v,          \
    .dequantize_affine = dequantize_affine_v

#endif /* KVQ_QUANT_VECTOR_ENCODE_H */
