/*
 * The portable kernels of the affine codec: encode, dequantize. Arithmetic: codec_affine.c; layout: layout.h.
 *
 * The inner loops run over what lies side by side in the layout: 16 tokens of one channel for keys, 16
 * channels of one token for values ("lanes"), so that a compiler can vectorise them. Groups are multiples of
 * 16 (or the whole head dimension), so 16 lanes never straddle two groups along them.
 */
#include "quant/codec.h"

enum { LANES = KVQ_LANES };

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- Encoding ---- */

/* rne(clamp(t, 0, levels)); adding 2^23 * 1.5 leaves no fraction bits, so the addition rounds. t is not NaN.
 */
static inline uint32_t round_code(float t, float levels)
{
    const float round_magic = 0x1.8p23f;
    t = t > 0.0f ? t : 0.0f;
    t = t < levels ? t : levels;
    return (uint32_t)((t + round_magic) - round_magic);
}

/* A group's numbers, ready to encode with. */
typedef struct group_coder {
    float min, scale, inverse, levels;
    bool half_arith;
} group_coder;

static group_coder make_coder(const kvq_layout *l, uint8_t *superblock, size_t t, size_t c, float lo,
                              float hi)
{
    uint16_t scale, min;
    size_t at = kvq_scale_offset(l, t, c);
    kvq_affine_params(l->bits, l->half_arith, lo + 0.0f, hi + 0.0f, &scale, &min); /* + 0 makes -0 into 0 */
    kvq_store_u16(superblock + at, scale);
    kvq_store_u16(superblock + at + l->min_offset, min);
    float scale_f32 = kvq_f32_from_f16(scale);
    return (group_coder){
        .min = kvq_f32_from_f16(min),
        .scale = scale_f32,
        .inverse = scale_f32 > 0.0f ? 1.0f / scale_f32 : 0.0f,
        .levels = (float)((1u << l->bits) - 1u),
        .half_arith = l->half_arith,
    };
}

static uint32_t encode_value(const group_coder *g, float x)
{
    if (g->scale == 0.0f)
        return 0;
    if (!g->half_arith)
        return round_code((x - g->min) * g->inverse, g->levels);
    float offset = kvq_round_to_f16(kvq_round_to_f16(x) - g->min);
    return round_code(kvq_round_to_f16(offset / g->scale), g->levels);
}

void kvq_encode_affine_channel_portable(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                        const float *x, size_t stride)
{
    for (size_t t = t0; t < t0 + n; t += l->group, x += l->group * stride) {
        float lo[KVQ_DIM_MAX], hi[KVQ_DIM_MAX];
        memcpy(lo, x, l->dim * sizeof *lo);
        memcpy(hi, x, l->dim * sizeof *hi);
        for (size_t i = 1; i < l->group; i++)
            for (size_t c = 0; c < l->dim; c++) {
                float value = x[i * stride + c];
                lo[c] = value < lo[c] ? value : lo[c];
                hi[c] = value > hi[c] ? value : hi[c];
            }
        for (size_t c = 0; c < l->dim; c++) {
            group_coder coder = make_coder(l, superblock, t, c, lo[c], hi[c]);
            for (size_t i = 0; i < l->group; i++)
                kvq_code_put(l, superblock, t + i, c, encode_value(&coder, x[i * stride + c]));
        }
        for (size_t c = l->dim; c < l->dim_padded; c++) {
            kvq_store_u16(superblock + kvq_scale_offset(l, t, c), 0);
            kvq_store_u16(superblock + kvq_scale_offset(l, t, c) + l->min_offset, 0);
            for (size_t i = 0; i < l->group; i++)
                kvq_code_put(l, superblock, t + i, c, 0);
        }
    }
}

void kvq_encode_affine_token_portable(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                      const float *x, size_t stride)
{
    for (size_t t = t0; t < t0 + n; t++, x += stride) {
        for (size_t c0 = 0; c0 < l->dim; c0 += l->group) {
            size_t c1 = min_size(c0 + l->group, l->dim);
            float lo = x[c0], hi = x[c0];
            for (size_t c = c0 + 1; c < c1; c++) {
                lo = x[c] < lo ? x[c] : lo;
                hi = x[c] > hi ? x[c] : hi;
            }
            group_coder coder = make_coder(l, superblock, t, c0, lo, hi);
            for (size_t c = c0; c < c1; c++)
                kvq_code_put(l, superblock, t, c, encode_value(&coder, x[c]));
        }
        for (size_t c = l->dim; c < l->dim_padded; c++)
            kvq_code_put(l, superblock, t, c, 0);
    }
}

/* ---- Unpacking ---- */

/* Codes of LANES lanes whose dwords lie side by side, as float. (t, c) is the first lane; the next lanes are
 * the next tokens for keys, the next channels for values. */
static inline void unpack_lanes(const kvq_layout *l, const uint8_t *superblock, size_t t, size_t c,
                                float code[LANES])
{
    uint32_t shift, sum[LANES] = {0};
    for (size_t i = 0; i < l->n_planes; i++) {
        const kvq_plane *plane = &l->plane[i];
        const uint8_t *at = superblock + kvq_code_offset(l, plane, t, c, &shift);
        uint32_t mask = (1u << plane->width) - 1u, plane_shift = plane->shift;
        for (size_t j = 0; j < LANES; j++)
            sum[j] |= (kvq_load_u32(at + 4 * j) >> shift & mask) << plane_shift;
    }
    for (size_t j = 0; j < LANES; j++)
        code[j] = (float)(int32_t)sum[j];
}

/* Scales and minimums of the same lanes. */
static inline void load_lanes_meta(const kvq_layout *l, const uint8_t *superblock, size_t t, size_t c,
                                   float scale[LANES], float min[LANES])
{
    const uint8_t *at = superblock + kvq_scale_offset(l, t, c);
    if (l->per_channel == (l->role == KVQ_KEYS)) { /* groups run along the lanes: all have the same */
        float group_scale = kvq_f32_from_f16(kvq_load_u16(at));
        float group_min = kvq_f32_from_f16(kvq_load_u16(at + l->min_offset));
        for (size_t j = 0; j < LANES; j++) {
            scale[j] = group_scale;
            min[j] = group_min;
        }
    } else { /* each lane has its own, side by side */
        for (size_t j = 0; j < LANES; j++) {
            scale[j] = kvq_f32_from_f16(kvq_load_u16(at + 2 * j));
            min[j] = kvq_f32_from_f16(kvq_load_u16(at + l->min_offset + 2 * j));
        }
    }
}

/* Dequantized values of the same lanes. */
static inline void dequantize_lanes(const kvq_layout *l, const uint8_t *superblock, size_t t, size_t c,
                                    float x[LANES])
{
    float scale[LANES], min[LANES];
    load_lanes_meta(l, superblock, t, c, scale, min);
    unpack_lanes(l, superblock, t, c, x);
    if (l->half_arith)
        for (size_t j = 0; j < LANES; j++)
            x[j] = kvq_round_to_f16(kvq_round_to_f16(x[j] * scale[j]) + min[j]);
    else
        for (size_t j = 0; j < LANES; j++)
            x[j] = x[j] * scale[j] + min[j];
}

void kvq_dequantize_affine_portable(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                                    float *out, size_t stride)
{
    float x[LANES];
    if (l->role == KVQ_VALUES) {
        for (size_t t = t0; t < t0 + n; t++, out += stride)
            for (size_t c = 0; c < l->dim; c += LANES) {
                dequantize_lanes(l, superblock, t, c, x);
                memcpy(out + c, x, min_size(LANES, l->dim - c) * sizeof *x);
            }
        return;
    }
    for (size_t first = t0 / LANES * LANES; first < t0 + n; first += LANES)
        for (size_t c = 0; c < l->dim; c++) {
            dequantize_lanes(l, superblock, first, c, x);
            for (size_t j = 0; j < LANES; j++)
                if (first + j >= t0 && first + j < t0 + n)
                    out[(first + j - t0) * stride + c] = x[j];
        }
}
