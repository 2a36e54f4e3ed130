/*
 * Encoding and dequantizing of the affine codec in vectors, EXACT: the bits of portable_affine.c. For
 * inclusion by avx2_encode.c and avx512_encode.c, after the vocabulary of their instruction set:
 *
 *   LANES                     floats in a vector, 8 or 16
 *   floats, ints, halves      vectors of LANES numbers
 *   MM(name), KERNEL(name)    the intrinsic of that name; kvq_name_ISA
 *   or_ints, and_ints, and_not_ints (~a & b), load_ints, store_ints, store_halves
 *   load_halves, broadcast_half, widen_bytes: LANES halves, one half, eight or sixteen of 16 bytes to LANES
 *   numbers round_down, round_up      to halves; what is out of their range becomes 65504 or infinite
 *   any_reaches, extreme, blend_pairs, lane_extremes, sort_quads: explained there
 *
 * Only keys per channel and values per token in the default arithmetic, with D a multiple of 16, are encoded
 * and dequantized here; the rest goes to the portable kernels.
 *
 * Codes are made in units of 16 x 16 values: along the reduction 16 channels (keys) or 16 tokens (values),
 * which share dwords; across it 16 dwords side by side. A quad is four bytes of a dword, one code in each:
 * channels (tokens) 4k .. 4k + 3 of the unit. The four quads of a unit only need to be shifted together,
 * whatever the width:
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

enum { UNIT = 16, VECTORS = UNIT / LANES /* per unit and row */ };

/* ---- From values to codes ---- */

/* kvq_affine_params for n groups, n a multiple of LANES: their extremes become their minimums and the
 * inverses of their scales, as floats. `worst` grows to 65504 or more where one saturates. */
V_INLINE void make_coders(uint32_t bits, size_t n, float *lo_min, float *hi_inverse, uint8_t *scales,
                          uint8_t *mins, floats *worst)
{
    const floats zero = MM(set1_ps)(0.0f), levels = MM(set1_ps)((float)((1u << bits) - 1u));
    for (size_t i = 0; i < n; i += LANES) {
        floats lo = MM(add_ps)(MM(loadu_ps)(lo_min + i), zero); /* makes -0 into 0 */
        floats hi = MM(add_ps)(MM(loadu_ps)(hi_inverse + i), zero);
        halves min_half = round_down(lo);
        floats min = MM(cvtph_ps)(min_half), step = MM(div_ps)(MM(sub_ps)(hi, min), levels);
        halves scale_half = round_up(step);
        floats scale = MM(cvtph_ps)(scale_half);
        /* Where scale is 0 so is every x - min, and the inverse of the smallest half does as well as 0. */
        floats inverse = MM(div_ps)(MM(set1_ps)(1.0f), MM(max_ps)(scale, MM(set1_ps)(0x1p-24f)));
        *worst = MM(max_ps)(*worst, MM(max_ps)(scale, MM(sub_ps)(zero, min)));
        MM(storeu_ps)(lo_min + i, min);
        MM(storeu_ps)(hi_inverse + i, inverse);
        store_halves(scales + 2 * i, scale_half);
        store_halves(mins + 2 * i, min_half);
    }
}

V_INLINE bool saturated(floats worst)
{
    return any_reaches(worst, MM(set1_ps)(KVQ_F16_MAX));
}

V_INLINE ints codes_of(const float *x, floats min, floats inverse)
{
    floats t = MM(mul_ps)(MM(sub_ps)(MM(loadu_ps)(x), min), inverse);
    return MM(cvtps_epi32)(t); /* to nearest, ties to even */
}

/* Ask for the rows that this call, or the caller's next, comes to; addresses past the end do no harm. Into
 * the second level of cache: asking for the first halves the speed where the rows lie in DRAM (Zen 4). */
V_INLINE void prefetch_ahead(const float *x, size_t distance)
{
    _mm_prefetch((const char *)((uintptr_t)x + distance * sizeof *x), _MM_HINT_T1);
}

/* ---- Storing a unit ---- */

/* Row r of a unit. */
V_INLINE ints unit_row(const ints quad[4], uint32_t width, size_t r, bool odd)
{
    if (width == 8)
        return quad[r];
    if (width == 4)
        return or_ints(quad[2 * r], MM(slli_epi32)(quad[2 * r + 1], 4));
    if (width == 2)
        return or_ints(or_ints(quad[0], MM(slli_epi32)(quad[1], 2)),
                       or_ints(MM(slli_epi32)(quad[2], 4), MM(slli_epi32)(quad[3], 6)));
    ints row = or_ints(or_ints(quad[0], MM(slli_epi32)(quad[1], 1)),
                       or_ints(MM(slli_epi32)(quad[2], 2), MM(slli_epi32)(quad[3], 3)));
    return odd ? MM(slli_epi32)(row, 4) : row;
}

/* Store a unit in one plane, `width` a constant. One bit leaves the row's other half, which is another
 * unit's. */
V_INLINE void store_rows(uint8_t *at, size_t row_bytes, uint32_t width, bool odd, const ints quad[4])
{
    if (width == 1) {
        ints other = MM(set1_epi32)(odd ? 0x0f0f0f0f : (int)0xf0f0f0f0u);
        store_ints(at, or_ints(and_ints(other, load_ints(at)), unit_row(quad, 1, 0, odd)));
        return;
    }
    for (size_t r = 0; r < width / 2; r++)
        store_ints(at + r * row_bytes, unit_row(quad, width, r, odd));
}

/* Store LANES dwords of a unit in every plane; `codes` is where unit 0 would start in a plane at offset 0. */
V_INLINE void store_unit(const kvq_layout *l, uint8_t *codes, size_t row_bytes, size_t unit,
                         const ints quad[4])
{
    for (size_t i = 0; i < l->n_planes; i++) {
        const kvq_plane *plane = &l->plane[i];
        uint8_t *at = codes + plane->offset + unit * plane->width / 2 * row_bytes;
        bool odd = unit % 2 != 0;
        ints part[4];
        for (size_t k = 0; k < 4; k++)
            part[k] = quad[k];
        if (l->n_planes > 1) { /* shifting dwords moves bits from byte to byte, the mask drops them */
            const ints mask = MM(set1_epi32)((int)(((1u << plane->width) - 1u) * 0x01010101u));
            for (size_t k = 0; k < 4; k++)
                part[k] = and_ints(MM(srl_epi32)(quad[k], _mm_cvtsi32_si128((int)plane->shift)), mask);
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

/* Codes of 16 channels of LANES tokens as four quads: lane = token. */
V_INLINE void keys_quads(const float *x, size_t stride, size_t ahead, const float min[UNIT],
                         const float inverse[UNIT], ints quad[4])
{
    ints packed[4];
    for (size_t v = 0; v < VECTORS; v++) {
        floats min_v = MM(loadu_ps)(min + v * LANES), inverse_v = MM(loadu_ps)(inverse + v * LANES);
        for (size_t t = 0; t < LANES; t += 4) {
            ints code[4];
            for (size_t i = 0; i < 4; i++) {
                const float *at = x + (t + i) * stride + v * LANES;
                if (v == 0)
                    prefetch_ahead(at, ahead);
                code[i] = codes_of(at, min_v, inverse_v);
            }
            packed[v * LANES / 4 + t / 4] =
                MM(packus_epi16)(MM(packs_epi32)(code[0], code[1]), MM(packs_epi32)(code[2], code[3]));
        }
    }
    sort_quads(packed, quad);
}

/* The smallest and largest of each of 16 channels over n tokens, n even. */
V_INLINE void channel_extremes(const float *x, size_t n, size_t stride, float lo[UNIT], float hi[UNIT])
{
    floats low[2][VECTORS], high[2][VECTORS]; /* two in turn hide the latency of a comparison */
    for (size_t i = 0; i < 2; i++)
        for (size_t v = 0; v < VECTORS; v++)
            low[i][v] = high[i][v] = MM(loadu_ps)(x + i * stride + v * LANES);
    for (size_t t = 2; t < n; t += 2)
        for (size_t i = 0; i < 2; i++)
            for (size_t v = 0; v < VECTORS; v++) {
                floats value = MM(loadu_ps)(x + (t + i) * stride + v * LANES);
                low[i][v] = MM(min_ps)(low[i][v], value);
                high[i][v] = MM(max_ps)(high[i][v], value);
            }
    for (size_t v = 0; v < VECTORS; v++) {
        MM(storeu_ps)(lo + v * LANES, MM(min_ps)(low[0][v], low[1][v]));
        MM(storeu_ps)(hi + v * LANES, MM(max_ps)(high[0][v], high[1][v]));
    }
}

/* Encode a group of tokens; false, and nothing certain stored, if any channel saturates. */
static bool encode_keys(const kvq_layout *l, uint8_t *superblock, size_t t0, const float *x, size_t stride)
{
    _Alignas(64) float min[KVQ_DIM_MAX], inverse[KVQ_DIM_MAX];
    for (size_t c = 0; c < l->dim; c += UNIT)
        channel_extremes(x + c, l->group, stride, min + c, inverse + c);
    uint8_t *scales = superblock + kvq_scale_offset(l, t0, 0);
    floats worst = MM(set1_ps)(0.0f);
    for (size_t c = 0; c < l->dim; c += UNIT)
        make_coders(l->bits, UNIT, min + c, inverse + c, scales + 2 * c, scales + l->min_offset + 2 * c,
                    &worst);
    if (saturated(worst))
        return false;
    for (size_t i = 0; i < l->group; i += LANES) {
        uint8_t *codes = superblock + keys_block_offset(l, t0 + i) + 4 * ((t0 + i) % KVQ_BLOCK);
        for (size_t c = 0; c < l->dim; c += UNIT) {
            ints quad[4];
            keys_quads(x + i * stride + c, stride, l->group * stride, min + c, inverse + c, quad);
            store_unit(l, codes, KEYS_ROW, c / UNIT, quad);
        }
    }
    return true;
}

void KERNEL(encode_affine_channel)(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                   const float *x, size_t stride)
{
    bool here = l->role == KVQ_KEYS && !l->half_arith && l->dim % UNIT == 0;
    for (size_t t = t0; t < t0 + n; t += l->group, x += l->group * stride)
        if (!here || !encode_keys(l, superblock, t, x, stride))
            kvq_encode_affine_channel_portable(l, superblock, t, l->group, x, stride);
}

/* ---- Values: groups run along channels ---- */

enum {
    VALUES_ROW = 4 * UNIT,
    VALUES_AHEAD = 3 * UNIT, /* tokens; fetching the next 16 only is too late */
};

/* lane[x] holds, in its lane j of 128 bits, numbers of token 4j + x. Gives each token's extreme, in order of
 * tokens. */
V_INLINE floats token_extremes(const floats lane[4], bool largest)
{
    floats pair[2];
    for (size_t i = 0; i < 2; i++) {
        floats a = lane[2 * i], b = lane[2 * i + 1];
        pair[i] = extreme(blend_pairs(a, b), MM(shuffle_ps)(a, b, _MM_SHUFFLE(1, 0, 3, 2)), largest);
    }
    return extreme(MM(shuffle_ps)(pair[0], pair[1], _MM_SHUFFLE(2, 0, 2, 0)),
                   MM(shuffle_ps)(pair[0], pair[1], _MM_SHUFFLE(3, 1, 3, 1)), largest);
}

/* The smallest and largest of n channels of each of LANES tokens. */
V_INLINE void group_extremes(const float *x, size_t n, size_t stride, float lo[LANES], float hi[LANES])
{
    floats low_lane[4], high_lane[4];
    V_UNROLL(4)
    for (size_t i = 0; i < 4; i++, x += stride) {
        floats low[LANES / 4], high[LANES / 4];
        V_UNROLL(4)
        for (size_t j = 0; j < LANES / 4; j++)
            low[j] = high[j] = MM(loadu_ps)(x + 4 * j * stride);
        for (size_t c = LANES; c < n; c += LANES)
            V_UNROLL(4)
        for (size_t j = 0; j < LANES / 4; j++) {
            floats value = MM(loadu_ps)(x + 4 * j * stride + c);
            low[j] = MM(min_ps)(low[j], value);
            high[j] = MM(max_ps)(high[j], value);
        }
        low_lane[i] = lane_extremes(low, false);
        high_lane[i] = lane_extremes(high, true);
    }
    MM(storeu_ps)(lo, token_extremes(low_lane, false));
    MM(storeu_ps)(hi, token_extremes(high_lane, true));
}

/* Codes of LANES channels of 16 tokens as four quads: lane = channel. */
V_INLINE void values_quads(const float *x, size_t stride, size_t ahead, const float min[UNIT],
                           const float inverse[UNIT], ints quad[4])
{
    V_UNROLL(4)
    for (size_t k = 0; k < 4; k++) {
        ints code[4];
        V_UNROLL(4)
        for (size_t j = 0; j < 4; j++) {
            const float *at = x + (4 * k + j) * stride;
            if (ahead != 0)
                prefetch_ahead(at, ahead);
            code[j] = codes_of(at, MM(set1_ps)(min[4 * k + j]), MM(set1_ps)(inverse[4 * k + j]));
        }
        quad[k] = or_ints(or_ints(code[0], MM(slli_epi32)(code[1], 8)),
                          or_ints(MM(slli_epi32)(code[2], 16), MM(slli_epi32)(code[3], 24)));
    }
}

/* Encode 16 tokens from t on, a multiple of 16; false, and nothing certain stored, if any group saturates. */
static bool encode_16_tokens(const kvq_layout *l, uint8_t *superblock, size_t t, const float *x,
                             size_t stride)
{
    _Alignas(64) float min[KVQ_DIM_MAX], inverse[KVQ_DIM_MAX]; /* [group][token] */
    size_t n_coders = 0;
    for (size_t c = 0; c < l->dim; c += l->group, n_coders += UNIT) {
        size_t n = l->group < l->dim - c ? l->group : l->dim - c;
        for (size_t i = n_coders; i < n_coders + UNIT; i += LANES)
            group_extremes(x + (i - n_coders) * stride + c, n, stride, min + i, inverse + i);
    }
    uint8_t *scales = superblock + l->meta_offset + 2 * t;
    floats worst = MM(set1_ps)(0.0f);
    for (size_t i = 0; i < n_coders; i += UNIT, scales += 2 * l->meta_tile_tokens)
        make_coders(l->bits, UNIT, min + i, inverse + i, scales, scales + l->min_offset, &worst);
    if (saturated(worst))
        return false;
    for (size_t c = 0; c < l->dim; c += LANES) {
        size_t coders = c / l->group * UNIT, ahead = c % UNIT == 0 ? VALUES_AHEAD * stride : 0;
        ints quad[4];
        values_quads(x + c, stride, ahead, min + coders, inverse + coders, quad);
        size_t unit = c / UNIT * (KVQ_SUPERBLOCK / UNIT) + t / UNIT;
        store_unit(l, superblock + 4 * (c % UNIT), VALUES_ROW, unit, quad);
    }
    return true;
}

/* The extreme of n channels of a token, in every lane. */
V_INLINE floats row_extreme(const float *x, size_t n, bool largest)
{
    floats most = MM(loadu_ps)(x);
    for (size_t c = LANES; c < n; c += LANES)
        most = extreme(most, MM(loadu_ps)(x + c), largest);
    const floats same[4] = {most, most, most, most};
    floats lane = lane_extremes(same, largest);
    const floats lanes[4] = {lane, lane, lane, lane};
    return token_extremes(lanes, largest);
}

/* Replace the codes of channels c .. c + LANES - 1 of one token, whose channel 0 has its bits at `at` and
 * `shift`. */
V_INLINE void store_token(const kvq_plane *plane, uint8_t *at, size_t c, uint32_t shift, ints codes)
{
    const ints mask = MM(set1_epi32)((int)((1u << plane->width) - 1u));
    const __m128i up = _mm_cvtsi32_si128((int)shift), down = _mm_cvtsi32_si128((int)plane->shift);
    at += c / UNIT * 4 * plane->width * VALUES_ROW + 4 * (c % UNIT);
    ints part = and_ints(MM(srl_epi32)(codes, down), mask);
    store_ints(at, or_ints(and_not_ints(MM(sll_epi32)(mask, up), load_ints(at)), MM(sll_epi32)(part, up)));
}

/* Encode one token, as dequantizing appends them; false, and nothing certain stored, if any group
 * saturates. */
static bool encode_1_token(const kvq_layout *l, uint8_t *superblock, size_t t, const float *x)
{
    uint8_t *at[KVQ_MAX_PLANES], *scales = superblock + l->meta_offset + 2 * t;
    uint32_t shift[KVQ_MAX_PLANES];
    for (size_t i = 0; i < l->n_planes; i++)
        at[i] = superblock + kvq_code_offset(l, &l->plane[i], t, 0, &shift[i]);
    floats worst = MM(set1_ps)(0.0f);
    for (size_t c = 0, end; c < l->dim; scales += 2 * l->meta_tile_tokens) {
        float min[LANES], inverse[LANES];
        uint8_t scale_half[2 * LANES], min_half[2 * LANES];
        end = c + l->group < l->dim ? c + l->group : l->dim;
        MM(storeu_ps)(min, row_extreme(x + c, end - c, false));
        MM(storeu_ps)(inverse, row_extreme(x + c, end - c, true));
        make_coders(l->bits, LANES, min, inverse, scale_half, min_half, &worst);
        memcpy(scales, scale_half, 2);
        memcpy(scales + l->min_offset, min_half, 2);
        for (; c < end; c += LANES) {
            ints codes = codes_of(x + c, MM(loadu_ps)(min), MM(loadu_ps)(inverse));
            for (size_t i = 0; i < l->n_planes; i++)
                store_token(&l->plane[i], at[i], c, shift[i], codes);
        }
    }
    return !saturated(worst);
}

void KERNEL(encode_affine_token)(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                 const float *x, size_t stride)
{
    bool here = l->role == KVQ_VALUES && !l->half_arith && l->dim % UNIT == 0;
    for (size_t t = t0, end = t0 + n, step; t < end; t += step, x += step * stride) {
        step = t % UNIT == 0 && t + UNIT <= end ? UNIT : 1;
        if (!here || !(step == 1 ? encode_1_token(l, superblock, t, x)
                                 : encode_16_tokens(l, superblock, t, x, stride)))
            kvq_encode_affine_token_portable(l, superblock, t, step, x, stride);
    }
}

/* ---- Dequantizing: the widths of the planes, `low` and `high` (0 if there is one only), are constants
 * ---- */

V_INLINE void store_decoded(float *out, ints codes, floats scale, floats min)
{
    MM(storeu_ps)(out, MM(add_ps)(MM(mul_ps)(MM(cvtepi32_ps)(codes), scale), min));
}

/* One plane's part of the codes of a unit's 16 channels of one token, as bytes; `at` is its first dword. */
V_INLINE __m128i keys_part(const uint8_t *at, int width, bool odd)
{
    __m128i dwords = _mm_set1_epi32((int)kvq_load_u32(at)); /* that of each quad */
    if (width > 2) {
        __m128i q1 = _mm_set1_epi32((int)kvq_load_u32(at + width / 8 * KEYS_ROW));
        __m128i q2 = _mm_set1_epi32((int)kvq_load_u32(at + 2 * width / 8 * KEYS_ROW));
        __m128i q3 = _mm_set1_epi32((int)kvq_load_u32(at + 3 * width / 8 * KEYS_ROW));
        dwords = _mm_blend_epi32(_mm_blend_epi32(dwords, q1, 2), _mm_blend_epi32(q2, q3, 8), 12);
    }
    int first = width == 1 && odd ? 4 : 0;
    __m128i shift =
        _mm_setr_epi32(first, (first + width) & 7, (first + 2 * width) & 7, (first + 3 * width) & 7);
    return _mm_and_si128(_mm_srlv_epi32(dwords, shift), _mm_set1_epi8((char)((1 << width) - 1)));
}

/* Dequantize n tokens from t on, of one group and one block, row by row. */
V_INLINE void dequantize_keys(const kvq_layout *l, const uint8_t *superblock, size_t t, size_t n, float *out,
                              size_t stride, uint32_t low, uint32_t high)
{
    _Alignas(64) float scale[KVQ_DIM_MAX], min[KVQ_DIM_MAX];
    const uint8_t *scales = superblock + kvq_scale_offset(l, t, 0);
    for (size_t c = 0; c < l->dim; c += LANES) {
        MM(storeu_ps)(scale + c, load_halves(scales + 2 * c));
        MM(storeu_ps)(min + c, load_halves(scales + l->min_offset + 2 * c));
    }
    const uint8_t *codes = superblock + keys_block_offset(l, t) + 4 * (t % KVQ_BLOCK);
    for (size_t i = 0; i < n; i++, codes += 4, out += stride)
        for (size_t c = 0; c < l->dim; c += UNIT) {
            size_t unit = c / UNIT;
            bool odd = unit % 2 != 0;
            __m128i bytes = keys_part(codes + unit * low / 2 * KEYS_ROW, (int)low, odd);
            if (high != 0) {
                const uint8_t *at = codes + l->plane[1].offset + unit * high / 2 * KEYS_ROW;
                bytes = _mm_or_si128(bytes, _mm_slli_epi32(keys_part(at, (int)high, odd), (int)low));
            }
            for (size_t v = 0; v < UNIT; v += LANES)
                store_decoded(out + c + v, widen_bytes(bytes, v / LANES), MM(loadu_ps)(scale + c + v),
                              MM(loadu_ps)(min + c + v));
        }
}

/* One plane's part of the codes of token t; `at` is the first row of 16 channels in that plane. */
V_INLINE ints values_part(const uint8_t *at, size_t t, size_t width)
{
    size_t value = t % (32 / width), shift = value % 4 * 8 + value / 4 * width;
    return and_ints(MM(srl_epi32)(load_ints(at + t * width / 32 * VALUES_ROW), _mm_cvtsi32_si128((int)shift)),
                    MM(set1_epi32)((1 << width) - 1));
}

/* Dequantize token t. */
V_INLINE void dequantize_values(const kvq_layout *l, const uint8_t *superblock, size_t t, float *out,
                                uint32_t low, uint32_t high)
{
    const uint8_t *scales = superblock + l->meta_offset + 2 * t, *upper = superblock + l->plane[1].offset;
    for (size_t c = 0, end; c < l->dim; scales += 2 * l->meta_tile_tokens) {
        floats scale = broadcast_half(scales), min = broadcast_half(scales + l->min_offset);
        end = c + l->group < l->dim ? c + l->group : l->dim;
        for (; c < end; c += LANES) {
            size_t row = c / UNIT * 4 * VALUES_ROW, lane = 4 * (c % UNIT);
            ints codes = values_part(superblock + row * low + lane, t, low);
            if (high != 0)
                codes = or_ints(codes, MM(sll_epi32)(values_part(upper + row * high + lane, t, high),
                                                     _mm_cvtsi32_si128((int)low)));
            store_decoded(out + c, codes, scale, min);
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

void KERNEL(dequantize_affine)(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                               float *out, size_t stride)
{
    if (l->per_channel != (l->role == KVQ_KEYS) || l->half_arith || l->dim % UNIT != 0) {
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
