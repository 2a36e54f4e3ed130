/*
 * Kernels for x86-64 with AVX2, FMA and F16C (Haswell of 2013, Zen of 2017, and later).
 *
 * EXACT kernels follow the portable order of operations: multiply, then add, in the same sixteen lanes (two
 * registers, a and b). Score and accumulate are TOL and use fused multiply-add. A code of several planes is a
 * sum, so each plane adds its part, already shifted into place: no plane needs to know of the others.
 *
 * Rows and softmax serve every scheme. The affine kernels are for KIVI's two layouts in the default arithmetic:
 * keys per channel (score: G >= 32; decode: less than 8 bits) and values per token (encode and decode: D a
 * multiple of 8). For all others they call the portable ones.
 */
#include <immintrin.h>

#include "quant/codec.h"

enum { LANES = 16 };

/* The first n of 16 lanes, as two masks. */
static inline void tail_masks(size_t n, __m256i *a, __m256i *b)
{
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    *a = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), index);
    *b = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - 8), index);
}

/* The sum of 16 lanes in the order of kernels.h. */
static inline float sum_lanes(__m256 a, __m256 b)
{
    __m256 eight = _mm256_add_ps(a, b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline __m256 load_half(const uint16_t *x)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)x));
}

/* ---- Plain rows ---- */

static bool all_finite_f32_avx2(const float *x, size_t n)
{
    const __m256i infinity = _mm256_set1_epi32(0x7f800000), magnitude = _mm256_set1_epi32(0x7fffffff);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i bits =
            _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(const void *)(x + i)), magnitude);
        if (_mm256_movemask_epi8(_mm256_cmpgt_epi32(infinity, bits)) != -1)
            return false;
    }
    return kvq_kernels_portable.all_finite_f32(x + i, n - i);
}

static void convert_f32_f16_avx2(const float *x, size_t n, uint16_t *out)
{
    const __m256 largest = _mm256_set1_ps(KVQ_F16_MAX), smallest = _mm256_set1_ps(-KVQ_F16_MAX);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 clamped = _mm256_max_ps(_mm256_min_ps(_mm256_loadu_ps(x + i), largest), smallest);
        __m128i half = _mm256_cvtps_ph(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(void *)(out + i), half);
    }
    kvq_kernels_portable.convert_f32_f16(x + i, n - i, out + i);
}

static void convert_f16_f32_avx2(const uint16_t *x, size_t n, float *out)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, load_half(x + i));
    kvq_kernels_portable.convert_f16_f32(x + i, n - i, out + i);
}

static void dot_f32_avx2(const float *rows, size_t stride, size_t n, const float *q, size_t dim,
                         float *scores)
{
    size_t whole = dim / LANES * LANES;
    __m256i mask_a, mask_b;
    tail_masks(dim - whole, &mask_a, &mask_b);
    for (size_t i = 0; i < n; i++) {
        const float *row = rows + i * stride;
        __m256 a = _mm256_setzero_ps(), b = _mm256_setzero_ps();
        for (size_t c = 0; c < whole; c += LANES) {
            a = _mm256_add_ps(a, _mm256_mul_ps(_mm256_loadu_ps(q + c), _mm256_loadu_ps(row + c)));
            b = _mm256_add_ps(b, _mm256_mul_ps(_mm256_loadu_ps(q + c + 8), _mm256_loadu_ps(row + c + 8)));
        }
        if (whole < dim) { /* masked lanes add 0 * 0: lanes are never -0, so nothing changes */
            const float *qt = q + whole, *rt = row + whole;
            a = _mm256_add_ps(a,
                              _mm256_mul_ps(_mm256_maskload_ps(qt, mask_a), _mm256_maskload_ps(rt, mask_a)));
            if (dim - whole > 8)
                b = _mm256_add_ps(
                    b, _mm256_mul_ps(_mm256_maskload_ps(qt + 8, mask_b), _mm256_maskload_ps(rt + 8, mask_b)));
        }
        scores[i] = sum_lanes(a, b);
    }
}

static void dot_f16_avx2(const uint16_t *rows, size_t stride, size_t n, const float *q, size_t dim,
                         float *scores)
{
    float row[KVQ_DIM_MAX];
    for (size_t i = 0; i < n; i++) {
        convert_f16_f32_avx2(rows + i * stride, dim, row);
        dot_f32_avx2(row, 0, 1, q, dim, scores + i);
    }
}

/* Eight elements of a plain row. `half` is a constant wherever this is inlined. */
static inline __m256 load_elements(const void *rows, bool half, size_t at)
{
    return half ? load_half((const uint16_t *)rows + at) : _mm256_loadu_ps((const float *)rows + at);
}

/* Columns in registers, rows in order: each column sees the additions of the portable kernel. Returns the columns done. */
static inline __attribute__((always_inline)) size_t accumulate_columns(const void *rows, bool half,
                                                                       size_t stride, size_t n,
                                                                       const float *p, size_t dim, float *acc)
{
    size_t c = 0;
    for (; c + 32 <= dim; c += 32) {
        __m256 sum[4];
        for (size_t j = 0; j < 4; j++)
            sum[j] = _mm256_loadu_ps(acc + c + 8 * j);
        for (size_t i = 0; i < n; i++) {
            __m256 weight = _mm256_set1_ps(p[i]);
            for (size_t j = 0; j < 4; j++) {
                __m256 row = load_elements(rows, half, i * stride + c + 8 * j);
                sum[j] = _mm256_add_ps(sum[j], _mm256_mul_ps(weight, row));
            }
        }
        for (size_t j = 0; j < 4; j++)
            _mm256_storeu_ps(acc + c + 8 * j, sum[j]);
    }
    return c;
}

static void accumulate_f32_avx2(const float *rows, size_t stride, size_t n, const float *p, size_t dim,
                                float *acc)
{
    size_t c = accumulate_columns(rows, false, stride, n, p, dim, acc);
    kvq_kernels_portable.accumulate_f32(rows + c, stride, n, p, dim - c, acc + c);
}

static void accumulate_f16_avx2(const uint16_t *rows, size_t stride, size_t n, const float *p, size_t dim,
                                float *acc)
{
    size_t c = accumulate_columns(rows, true, stride, n, p, dim, acc);
    kvq_kernels_portable.accumulate_f16(rows + c, stride, n, p, dim - c, acc + c);
}

/* ---- Softmax ---- */

static float max_f32_avx2(const float *x, size_t n)
{
    if (n < 8)
        return kvq_kernels_portable.max_f32(x, n);
    __m256 max = _mm256_loadu_ps(x + n - 8); /* overlaps what the loop sees; a maximum does not mind */
    for (size_t i = 0; i + 8 <= n; i += 8)
        max = _mm256_max_ps(max, _mm256_loadu_ps(x + i));
    float lane[8];
    _mm256_storeu_ps(lane, max);
    return kvq_kernels_portable.max_f32(lane, 8);
}

/* exp of eight numbers <= 0, as in kernels_portable.c, operation by operation. */
static inline __m256 exp_of_nonpositive(__m256 x)
{
    const __m256 lowest = _mm256_set1_ps(-87.0f), round_magic = _mm256_set1_ps(0x1.8p23f);
    __m256 below = _mm256_cmp_ps(x, lowest, _CMP_LT_OQ);
    __m256 clamped = _mm256_max_ps(x, lowest);
    __m256 n = _mm256_mul_ps(clamped, _mm256_set1_ps(0x1.715476p+0f));
    n = _mm256_sub_ps(_mm256_add_ps(n, round_magic), round_magic);
    __m256 r = _mm256_sub_ps(clamped, _mm256_mul_ps(n, _mm256_set1_ps(0x1.62e4p-1f)));
    r = _mm256_sub_ps(r, _mm256_mul_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f)));
    static const float coefficient[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    for (size_t i = 0; i < sizeof coefficient / sizeof coefficient[0]; i++)
        p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(coefficient[i]));
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    return _mm256_andnot_ps(below, _mm256_mul_ps(p, power));
}

static float exp_sum_f32_avx2(float *x, size_t n, float max)
{
    const __m256 shift = _mm256_set1_ps(max);
    __m256 a = _mm256_setzero_ps(), b = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        __m256 ya = exp_of_nonpositive(_mm256_sub_ps(_mm256_loadu_ps(x + i), shift));
        __m256 yb = exp_of_nonpositive(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8), shift));
        _mm256_storeu_ps(x + i, ya);
        _mm256_storeu_ps(x + i + 8, yb);
        a = _mm256_add_ps(a, ya);
        b = _mm256_add_ps(b, yb);
    }
    if (i < n) {
        __m256i mask_a, mask_b;
        tail_masks(n - i, &mask_a, &mask_b);
        __m256 ya = exp_of_nonpositive(_mm256_sub_ps(_mm256_maskload_ps(x + i, mask_a), shift));
        _mm256_maskstore_ps(x + i, mask_a, ya);
        a = _mm256_add_ps(a, _mm256_and_ps(ya, _mm256_castsi256_ps(mask_a)));
        if (n - i > 8) {
            __m256 yb = exp_of_nonpositive(_mm256_sub_ps(_mm256_maskload_ps(x + i + 8, mask_b), shift));
            _mm256_maskstore_ps(x + i + 8, mask_b, yb);
            b = _mm256_add_ps(b, _mm256_and_ps(yb, _mm256_castsi256_ps(mask_b)));
        }
    }
    return sum_lanes(a, b);
}

/* ---- Affine: one plane's contribution to a sum. `width` is a constant wherever this is inlined. ---- */

/* Value v of eight dwords times 2^up, as float. */
static inline __m256 plane_value(__m256i dwords, uint32_t width, uint32_t v, uint32_t up)
{
    int down = (int)(v % 4 * 8 + v / 4 * width) - (int)up;
    __m256i moved = down >= 0 ? _mm256_srl_epi32(dwords, _mm_cvtsi32_si128(down))
                              : _mm256_sll_epi32(dwords, _mm_cvtsi32_si128(-down));
    return _mm256_cvtepi32_ps(_mm256_and_si256(moved, _mm256_set1_epi32((int)(((1u << width) - 1u) << up))));
}

/* sum[32 tokens] += sum_c folded[c] * plane code of channel c; folded is 0 from D on, up to whole dwords. */
static inline __attribute__((always_inline)) void score_plane(const uint8_t *codes, uint32_t width,
                                                              uint32_t up, size_t n_dwords,
                                                              const float *folded, __m256 sum[4])
{
    const uint32_t n = 32 / width;
    for (size_t u = 0; u < n_dwords; u++, codes += 4 * KVQ_BLOCK, folded += n) {
        __m256i dwords[4];
        for (size_t j = 0; j < 4; j++)
            dwords[j] = _mm256_load_si256((const __m256i *)(const void *)(codes + 32 * j));
        for (uint32_t v = 0; v < n; v++) {
            __m256 factor = _mm256_set1_ps(folded[v]);
            for (size_t j = 0; j < 4; j++)
                sum[j] = _mm256_fmadd_ps(factor, plane_value(dwords[j], width, v, up), sum[j]);
        }
    }
}

static void score_plane_of(const uint8_t *codes, const kvq_plane *plane, size_t dim, const float *folded,
                           __m256 sum[4])
{
    size_t n_dwords = (dim * plane->width + 31) / 32;
    if (plane->shift > 0) { /* the upper plane of 3, 5 and 6 bits */
        if (plane->width == 1)
            score_plane(codes, 1, plane->shift, n_dwords, folded, sum);
        else
            score_plane(codes, 2, plane->shift, n_dwords, folded, sum);
        return;
    }
    switch (plane->width) { /* constants, for the compiler to unroll by */
    case 1:
        score_plane(codes, 1, 0, n_dwords, folded, sum);
        break;
    case 2:
        score_plane(codes, 2, 0, n_dwords, folded, sum);
        break;
    case 4:
        score_plane(codes, 4, 0, n_dwords, folded, sum);
        break;
    default:
        score_plane(codes, 8, 0, n_dwords, folded, sum);
        break;
    }
}

/* folded[c] = q[c] * scale[c], 0 from D to the padded size; returns sum_c q[c] * min[c]. */
static float fold_query(const kvq_layout *l, const uint8_t *superblock, size_t t, const float *q,
                        float *folded)
{
    const uint8_t *scales = superblock + kvq_scale_offset(l, t, 0), *mins = scales + l->min_offset;
    __m256 a = _mm256_setzero_ps(), b = _mm256_setzero_ps();
    float padded[LANES] = {0};
    for (size_t c = 0; c < l->dim_padded; c += LANES) {
        const float *from = q + c;
        if (c + LANES > l->dim) {
            memcpy(padded, from, (l->dim - c) * sizeof *padded);
            from = padded;
        }
        __m256 qa = _mm256_loadu_ps(from), qb = _mm256_loadu_ps(from + 8);
        const uint16_t *scale = (const uint16_t *)(const void *)(scales + 2 * c);
        const uint16_t *min = (const uint16_t *)(const void *)(mins + 2 * c);
        _mm256_store_ps(folded + c, _mm256_mul_ps(qa, load_half(scale)));
        _mm256_store_ps(folded + c + 8, _mm256_mul_ps(qb, load_half(scale + 8)));
        a = _mm256_fmadd_ps(qa, load_half(min), a);
        b = _mm256_fmadd_ps(qb, load_half(min + 8), b);
    }
    memset(folded + l->dim_padded, 0, LANES * sizeof *folded); /* one-bit dwords hold 32 channels */
    return sum_lanes(a, b);
}

/* Scores of a block of 32 tokens, G >= 32. */
static void score_block(const kvq_layout *l, const uint8_t *superblock, size_t t, const float *q,
                        float scores[32])
{
    _Alignas(32) float folded[KVQ_DIM_MAX + LANES];
    float bias = fold_query(l, superblock, t, q, folded);
    const uint8_t *block =
        superblock + t / l->tile_tokens * l->tile_bytes + t % l->tile_tokens / KVQ_BLOCK * l->block_bytes;
    __m256 sum[4];
    for (size_t j = 0; j < 4; j++)
        sum[j] = _mm256_set1_ps(bias);
    for (size_t i = 0; i < l->n_planes; i++) {
        const kvq_plane *plane = &l->plane[i];
        score_plane_of(block + plane->offset, plane, l->dim_padded, folded, sum);
    }
    for (size_t j = 0; j < 4; j++)
        _mm256_storeu_ps(scores + 8 * j, sum[j]);
}

static void score_affine_avx2(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                              const float *q, size_t n_q, float *scores)
{
    if (l->half_arith || !l->per_channel || l->group < KVQ_BLOCK || l->role != KVQ_KEYS) {
        kvq_score_affine_portable(l, superblock, t0, n, q, n_q, scores);
        return;
    }
    for (size_t i = 0; i < n_q; i++, q += l->dim, scores += KVQ_SUPERBLOCK)
        for (size_t t = t0 / KVQ_BLOCK * KVQ_BLOCK; t < t0 + n; t += KVQ_BLOCK) {
            float block[KVQ_BLOCK];
            score_block(l, superblock, t, q, block);
            size_t from = t > t0 ? t : t0, to = t + KVQ_BLOCK < t0 + n ? t + KVQ_BLOCK : t0 + n;
            memcpy(scores + (from - t0), block + (from - t), (to - from) * sizeof *scores);
        }
}

/* sum[16 channels] += sum_t folded[t] * plane code of token t, over the blocks [first, last). */
static inline __attribute__((always_inline)) void accumulate_plane(const uint8_t *codes, uint32_t width,
                                                                   uint32_t up, size_t first, size_t last,
                                                                   const float *folded, __m256 sum[2][4])
{
    const uint32_t n = 32 / width;
    for (size_t row = first * width; row < last * width; row++) { /* a row is 16 dwords of n tokens */
        __m256i a = _mm256_load_si256((const __m256i *)(const void *)(codes + 64 * row));
        __m256i b = _mm256_load_si256((const __m256i *)(const void *)(codes + 64 * row + 32));
        for (uint32_t v = 0; v < n; v++) { /* four sums in turn hide the latency of the addition */
            __m256 factor = _mm256_set1_ps(folded[row * n + v]);
            sum[0][v % 4] = _mm256_fmadd_ps(factor, plane_value(a, width, v, up), sum[0][v % 4]);
            sum[1][v % 4] = _mm256_fmadd_ps(factor, plane_value(b, width, v, up), sum[1][v % 4]);
        }
    }
}

static void accumulate_plane_of(const uint8_t *codes, const kvq_plane *plane, size_t first, size_t last,
                                const float *folded, __m256 sum[2][4])
{
    if (plane->shift > 0) { /* the upper plane of 3, 5 and 6 bits */
        if (plane->width == 1)
            accumulate_plane(codes, 1, plane->shift, first, last, folded, sum);
        else
            accumulate_plane(codes, 2, plane->shift, first, last, folded, sum);
        return;
    }
    switch (plane->width) { /* constants, for the compiler to unroll by */
    case 1:
        accumulate_plane(codes, 1, 0, first, last, folded, sum);
        break;
    case 2:
        accumulate_plane(codes, 2, 0, first, last, folded, sum);
        break;
    case 4:
        accumulate_plane(codes, 4, 0, first, last, folded, sum);
        break;
    default:
        accumulate_plane(codes, 8, 0, first, last, folded, sum);
        break;
    }
}

/* folded[t] = p[t - t0] * scale[t] inside [t0, t0 + n), 0 in the rest of the 128; returns sum_t p * min. */
static float fold_weights(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n, size_t c,
                          const float *p, float *folded)
{
    const uint8_t *scales = superblock + kvq_scale_offset(l, 0, c), *mins = scales + l->min_offset;
    float weight[KVQ_SUPERBLOCK] = {0};
    memcpy(weight + t0, p, n * sizeof *p);
    __m256 bias = _mm256_setzero_ps();
    for (size_t t = 0; t < KVQ_SUPERBLOCK; t += 8) {
        __m256 w = _mm256_loadu_ps(weight + t);
        _mm256_store_ps(folded + t,
                        _mm256_mul_ps(w, load_half((const uint16_t *)(const void *)(scales + 2 * t))));
        bias = _mm256_fmadd_ps(w, load_half((const uint16_t *)(const void *)(mins + 2 * t)), bias);
    }
    return sum_lanes(bias, _mm256_setzero_ps());
}

/* One query's weighted sum of values. */
static void accumulate_row(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                           const float *p, float *acc)
{
    _Alignas(32) float folded[KVQ_SUPERBLOCK];
    size_t first = t0 / KVQ_BLOCK, last = (t0 + n + KVQ_BLOCK - 1) / KVQ_BLOCK;
    float bias = 0.0f;
    for (size_t c = 0; c < l->dim; c += LANES) {
        if (c % l->group == 0)
            bias = fold_weights(l, superblock, t0, n, c, p, folded);
        __m256 sum[2][4];
        for (size_t j = 0; j < 8; j++)
            sum[j / 4][j % 4] = j % 4 == 0 ? _mm256_set1_ps(bias) : _mm256_setzero_ps();
        for (size_t i = 0; i < l->n_planes; i++) {
            const kvq_plane *plane = &l->plane[i];
            const uint8_t *codes = superblock + plane->offset + c / 16 * 4 * plane->width * 64;
            accumulate_plane_of(codes, plane, first, last, folded, sum);
        }
        float lane[LANES];
        for (size_t j = 0; j < 2; j++)
            _mm256_storeu_ps(lane + 8 * j, _mm256_add_ps(_mm256_add_ps(sum[j][0], sum[j][1]),
                                                         _mm256_add_ps(sum[j][2], sum[j][3])));
        for (size_t j = 0; j < LANES && c + j < l->dim; j++)
            acc[c + j] += lane[j];
    }
}

static void accumulate_affine_avx2(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                                   const float *p, size_t n_q, float *acc)
{
    if (l->half_arith || l->per_channel || l->role != KVQ_VALUES) {
        kvq_accumulate_affine_portable(l, superblock, t0, n, p, n_q, acc);
        return;
    }
    for (size_t i = 0; n > 0 && i < n_q; i++, p += KVQ_SUPERBLOCK, acc += l->dim)
        accumulate_row(l, superblock, t0, n, p, acc);
}

/* ---- Affine: encode ---- */

/* Eight groups' numbers, or one group's in all lanes. */
typedef struct group_coder {
    __m256 min, inverse, levels;
} group_coder;

/* The codes of eight values; min and scale as in kvq_affine_params. */
static inline __m256i encode_values(const group_coder *g, __m256 x)
{
    __m256 t = _mm256_mul_ps(_mm256_sub_ps(x, g->min), g->inverse);
    t = _mm256_min_ps(_mm256_max_ps(t, _mm256_setzero_ps()), g->levels);
    return _mm256_cvtps_epi32(t); /* to nearest, ties to even */
}

/* 1/scale, 0 where scale is 0. */
static inline __m256 inverse_of(__m256 scale)
{
    __m256 positive = _mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_GT_OQ);
    return _mm256_and_ps(positive, _mm256_div_ps(_mm256_set1_ps(1.0f), scale));
}

/* kvq_affine_params for eight groups side by side; stores their scales and minimums. */
static group_coder make_coders(const kvq_layout *l, uint8_t *at, __m256 lo, __m256 hi)
{
    const __m256 zero = _mm256_setzero_ps(), largest = _mm256_set1_ps(KVQ_F16_MAX);
    const __m256 levels = _mm256_set1_ps((float)((1u << l->bits) - 1u));
    lo = _mm256_max_ps(_mm256_add_ps(lo, zero), _mm256_sub_ps(zero, largest)); /* + 0 makes -0 into 0 */
    __m128i min = _mm256_cvtps_ph(_mm256_min_ps(lo, largest), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m256 min_f32 = _mm256_cvtph_ps(min);
    __m256 range = _mm256_max_ps(_mm256_sub_ps(_mm256_add_ps(hi, zero), min_f32), zero);
    __m256 wanted = _mm256_min_ps(_mm256_div_ps(range, levels), largest);
    __m128i scale = _mm256_cvtps_ph(wanted, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
    _mm_storeu_si128((__m128i *)(void *)at, scale);
    _mm_storeu_si128((__m128i *)(void *)(at + l->min_offset), min);
    return (group_coder){.min = min_f32, .inverse = inverse_of(_mm256_cvtph_ps(scale)), .levels = levels};
}

/* The bits of the lanes of each half, ORed together: result lanes 0 and 4. */
static inline __m256i or_lanes(__m256i x)
{
    x = _mm256_or_si256(x, _mm256_shuffle_epi32(x, _MM_SHUFFLE(1, 0, 3, 2)));
    return _mm256_or_si256(x, _mm256_shuffle_epi32(x, _MM_SHUFFLE(2, 3, 0, 1)));
}

static inline void replace_bits(uint8_t *at, uint32_t mask, uint32_t bits)
{
    kvq_store_u32(at, (kvq_load_u32(at) & ~mask) | bits);
}

/* Put the codes of channels c .. c + 7 of token t into a keys superblock. */
static inline void put_channels(const kvq_layout *l, uint8_t *superblock, size_t t, size_t c, __m256i code)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (size_t i = 0; i < l->n_planes; i++) {
        const kvq_plane *plane = &l->plane[i];
        uint32_t first_shift, width = plane->width;
        uint8_t *at = superblock + kvq_code_offset(l, plane, t, c, &first_shift);
        __m256i value = _mm256_and_si256(_mm256_srl_epi32(code, _mm_cvtsi32_si128((int)plane->shift)),
                                         _mm256_set1_epi32((int)((1u << width) - 1u)));
        __m256i byte = _mm256_slli_epi32(_mm256_and_si256(lane, _mm256_set1_epi32(3)), 3);
        if (width == 8) { /* four channels to a dword: one dword from each half */
            __m256i dwords = or_lanes(_mm256_sllv_epi32(value, byte));
            kvq_store_u32(at, (uint32_t)_mm256_extract_epi32(dwords, 0));
            kvq_store_u32(at + 4 * KVQ_BLOCK, (uint32_t)_mm256_extract_epi32(dwords, 4));
            continue;
        }
        __m256i in_byte =
            _mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(3)), _mm256_set1_epi32((int)width));
        __m256i dwords = or_lanes(_mm256_sllv_epi32(value, _mm256_add_epi32(byte, in_byte)));
        uint32_t bits = (uint32_t)(_mm256_extract_epi32(dwords, 0) | _mm256_extract_epi32(dwords, 4));
        uint32_t mask = ((1u << 2 * width) - 1u) * 0x01010101u; /* two values in each byte */
        replace_bits(at, mask << first_shift, bits << first_shift);
    }
}

static void encode_affine_channel_avx2(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                       const float *x, size_t stride)
{
    if (l->half_arith || l->role != KVQ_KEYS || l->dim % 8 != 0) {
        kvq_encode_affine_channel_portable(l, superblock, t0, n, x, stride);
        return;
    }
    for (size_t t = t0; t < t0 + n; t += l->group, x += l->group * stride)
        for (size_t c = 0; c < l->dim; c += 8) {
            __m256 lo = _mm256_loadu_ps(x + c), hi = lo;
            for (size_t i = 1; i < l->group; i++) {
                __m256 value = _mm256_loadu_ps(x + i * stride + c);
                lo = _mm256_min_ps(lo, value);
                hi = _mm256_max_ps(hi, value);
            }
            group_coder coder = make_coders(l, superblock + kvq_scale_offset(l, t, c), lo, hi);
            for (size_t i = 0; i < l->group; i++)
                put_channels(l, superblock, t + i, c,
                             encode_values(&coder, _mm256_loadu_ps(x + i * stride + c)));
        }
}

/* Put the codes of channels c .. c + 7 of token t into a values superblock: the same bits of eight dwords. */
static inline void put_token(const kvq_layout *l, uint8_t *superblock, size_t t, size_t c, __m256i code)
{
    for (size_t i = 0; i < l->n_planes; i++) {
        const kvq_plane *plane = &l->plane[i];
        uint32_t shift, mask = (1u << plane->width) - 1u;
        __m256i *at = (__m256i *)(void *)(superblock + kvq_code_offset(l, plane, t, c, &shift));
        __m256i value = _mm256_and_si256(_mm256_srl_epi32(code, _mm_cvtsi32_si128((int)plane->shift)),
                                         _mm256_set1_epi32((int)mask));
        __m256i kept = _mm256_andnot_si256(_mm256_set1_epi32((int)(mask << shift)), _mm256_loadu_si256(at));
        _mm256_storeu_si256(at,
                            _mm256_or_si256(kept, _mm256_sll_epi32(value, _mm_cvtsi32_si128((int)shift))));
    }
}

/* The smallest and largest of n values, n a multiple of 8. */
static inline void minmax(const float *x, size_t n, float *lo, float *hi)
{
    __m256 low = _mm256_loadu_ps(x), high = low;
    for (size_t i = 8; i < n; i += 8) {
        low = _mm256_min_ps(low, _mm256_loadu_ps(x + i));
        high = _mm256_max_ps(high, _mm256_loadu_ps(x + i));
    }
    __m128 l4 = _mm_min_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
    __m128 h4 = _mm_max_ps(_mm256_castps256_ps128(high), _mm256_extractf128_ps(high, 1));
    l4 = _mm_min_ps(l4, _mm_movehl_ps(l4, l4));
    h4 = _mm_max_ps(h4, _mm_movehl_ps(h4, h4));
    *lo = _mm_cvtss_f32(_mm_min_ss(l4, _mm_movehdup_ps(l4)));
    *hi = _mm_cvtss_f32(_mm_max_ss(h4, _mm_movehdup_ps(h4)));
}

static void encode_affine_token_avx2(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                     const float *x, size_t stride)
{
    if (l->half_arith || l->role != KVQ_VALUES || l->dim % 8 != 0) {
        kvq_encode_affine_token_portable(l, superblock, t0, n, x, stride);
        return;
    }
    const __m256 levels = _mm256_set1_ps((float)((1u << l->bits) - 1u));
    for (size_t t = t0; t < t0 + n; t++, x += stride)
        for (size_t c0 = 0, c1; c0 < l->dim; c0 = c1) {
            float lo, hi;
            uint16_t scale, min;
            c1 = c0 + l->group < l->dim ? c0 + l->group : l->dim;
            minmax(x + c0, c1 - c0, &lo, &hi);
            kvq_affine_params(l->bits, false, lo + 0.0f, hi + 0.0f, &scale, &min);
            uint8_t *at = superblock + kvq_scale_offset(l, t, c0);
            kvq_store_u16(at, scale);
            kvq_store_u16(at + l->min_offset, min);
            group_coder coder = {.min = _mm256_set1_ps(kvq_f32_from_f16(min)),
                                 .inverse = inverse_of(_mm256_set1_ps(kvq_f32_from_f16(scale))),
                                 .levels = levels};
            for (size_t c = c0; c < c1; c += 8)
                put_token(l, superblock, t, c, encode_values(&coder, _mm256_loadu_ps(x + c)));
        }
}

/* ---- Affine: decode ---- */

/* Codes of eight channels from c on of token t, as integers. */
static inline __m256i token_codes(const kvq_layout *l, const uint8_t *superblock, size_t t, size_t c)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i code = _mm256_setzero_si256();
    for (size_t i = 0; i < l->n_planes; i++) {
        const kvq_plane *plane = &l->plane[i];
        uint32_t shift;
        const uint8_t *at = superblock + kvq_code_offset(l, plane, t, c, &shift);
        __m256i dwords, shifts;
        if (l->role == KVQ_VALUES) { /* eight dwords side by side, the same bits of each */
            dwords = _mm256_loadu_si256((const __m256i *)(const void *)at);
            shifts = _mm256_set1_epi32((int)shift);
        } else { /* values v .. v + 7 of one dword lie at bits 8 (v % 4) + width (v / 4) */
            dwords = _mm256_set1_epi32((int)kvq_load_u32(at));
            __m256i byte = _mm256_slli_epi32(_mm256_and_si256(lane, _mm256_set1_epi32(3)), 3);
            __m256i in_byte =
                _mm256_mullo_epi32(_mm256_srli_epi32(lane, 2), _mm256_set1_epi32((int)plane->width));
            shifts = _mm256_add_epi32(_mm256_set1_epi32((int)shift), _mm256_add_epi32(byte, in_byte));
        }
        __m256i bits = _mm256_and_si256(_mm256_srlv_epi32(dwords, shifts),
                                        _mm256_set1_epi32((int)((1u << plane->width) - 1u)));
        code = _mm256_or_si256(code, _mm256_sll_epi32(bits, _mm_cvtsi32_si128((int)plane->shift)));
    }
    return code;
}

static void decode_affine_avx2(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                               float *out, size_t stride)
{
    bool keys = l->role == KVQ_KEYS; /* their dwords hold eight channels of a token only below 8 bits */
    size_t whole = l->dim / 8 * 8;
    if (l->half_arith || keys != l->per_channel || (keys && l->bits == 8) || whole != l->dim) {
        kvq_decode_affine_portable(l, superblock, t0, n, out, stride);
        return;
    }
    for (size_t t = t0; t < t0 + n; t++, out += stride)
        for (size_t c = 0; c < whole; c += 8) {
            const uint8_t *at = superblock + kvq_scale_offset(l, t, c);
            __m256 scale, min;
            if (keys) {
                scale = load_half((const uint16_t *)(const void *)at);
                min = load_half((const uint16_t *)(const void *)(at + l->min_offset));
            } else {
                scale = _mm256_set1_ps(kvq_scale_at(l, superblock, t, c));
                min = _mm256_set1_ps(kvq_min_at(l, superblock, t, c));
            }
            __m256 code = _mm256_cvtepi32_ps(token_codes(l, superblock, t, c));
            _mm256_storeu_ps(out + c, _mm256_add_ps(_mm256_mul_ps(code, scale), min));
        }
}

const kvq_kernels kvq_kernels_avx2 = {
    .isa = "avx2",
    .all_finite_f32 = all_finite_f32_avx2,
    .convert_f32_f16 = convert_f32_f16_avx2,
    .convert_f16_f32 = convert_f16_f32_avx2,
    .encode_affine_channel = encode_affine_channel_avx2,
    .encode_affine_token = encode_affine_token_avx2,
    .decode_affine = decode_affine_avx2,
    .score_affine = score_affine_avx2,
    .accumulate_affine = accumulate_affine_avx2,
    .dot_f32 = dot_f32_avx2,
    .dot_f16 = dot_f16_avx2,
    .accumulate_f32 = accumulate_f32_avx2,
    .accumulate_f16 = accumulate_f16_avx2,
    .max_f32 = max_f32_avx2,
    .exp_sum_f32 = exp_sum_f32_avx2,
};
