/*
 * What codec_tier.c (storing, reading, attention) and tier_encode.c share: where everything lies.
 */
#ifndef KVQ_QUANT_TIER_H
#define KVQ_QUANT_TIER_H

#include "quant/codec.h"
#include "quant/row8.h"

enum {
    KVQ_TIER_BLOCK = 16,       /* channels that have one width */
    KVQ_TIER_UNIT_BYTES = 256, /* codes of one bit of 16 channels and 128 tokens */
    KVQ_TIER_BLOCKS_MAX = KVQ_DIM_MAX / KVQ_TIER_BLOCK,
    KVQ_TIER_FEEDBACK_DIM_MAX = 256, /* bounds the triangle of moments on the stack */
    KVQ_NO_TOKEN = 0xff,             /* index of a heavy hitter that there is none of */
};

/* Parameters of the spec, in this order. */
enum { KVQ_TIER_HALVES, KVQ_TIER_FEEDBACK, KVQ_TIER_U, KVQ_TIER_CERT };

/** Offsets are from the start of a superblock. */
typedef struct kvq_tier {
    size_t dim, dim_padded, n_blocks;
    size_t budget; /* units of codes that widths may add up to */
    size_t code_bytes, lo, exponents, order, order_bytes, widths, rows, row_bytes, n_rows, indices, cert, end;
    kvq_layout class; /* of no channels; what it takes to make one for each superblock is copied */
    bool feedback, certified, six; /* six: width 6 is allowed */
    float u;
} kvq_tier;

static inline const kvq_tier *kvq_tier_of(const kvq_side *s)
{
    return (const kvq_tier *)(const void *)s->own;
}

/** The channel at a place of the order. */
static inline size_t kvq_tier_channel(const kvq_tier *l, const uint8_t *superblock, size_t place)
{
    const uint8_t *order = superblock + l->order;
    return l->order_bytes == 1 ? order[place] : kvq_load_u16(order + 2 * place);
}

/** The channels at the first n places. */
static inline void kvq_tier_read_order(const kvq_tier *l, const uint8_t *superblock, size_t n,
                                       uint16_t *channel)
{
    const uint8_t *order = superblock + l->order;
    for (size_t i = 0; i < n && l->order_bytes == 1; i++)
        channel[i] = order[i];
    for (size_t i = 0; i < n && l->order_bytes == 2; i++)
        channel[i] = kvq_load_u16(order + 2 * i);
}

/** Width of a block of channels, in bits. */
static inline uint32_t kvq_tier_width(const kvq_tier *l, const uint8_t *superblock, size_t block)
{
    return (uint32_t)superblock[l->widths + block / 2] >> (block % 2 * 4) & 15u;
}

/** The layout of a class: n channels of one width, as affine keys have them with groups of 128. */
void kvq_tier_class_layout(const kvq_tier *tier, uint32_t width, size_t n, kvq_layout *l);

/** Which of n tokens' rows are kept: the m with the largest weight, the earlier of equals, largest first. */
void kvq_heaviest(const float *weight, size_t n, size_t m, uint8_t *index);

/** Is it one of the m kept? */
static inline bool kvq_is_kept(const uint8_t *index, size_t m, size_t t)
{
    bool kept = false;
    for (size_t i = 0; i < m; i++)
        kept = kept || index[i] == t;
    return kept;
}

/** The mean of the rows that are not kept, clamped to finite numbers; 0 if none is. */
void kvq_mean_of_others(const kvq_kernels *k, const float *x, size_t stride, size_t dim, const uint8_t *index,
                        size_t m, float *mean);

/** Blocks of 16, sorted, with these weights: the widths that a budget buys. units[i] is the cost of a block.
 */
void kvq_allocate_widths(const double *weight, size_t n_blocks, size_t budget, bool six, uint8_t *width);

/** Geometric mean of 16 numbers, the same everywhere; below 1e-20 counts as that. */
double kvq_geometric_mean_16(const double x[16]);

/** Places 0 .. n-1 sorted by weight, largest first, the lower of equals first. */
void kvq_sort_down(const double *weight, size_t n, uint16_t *order);

/* Triangles are row by row: row i holds columns 0 .. i. */
enum { KVQ_TIER_TRIANGLE_MAX = KVQ_TIER_FEEDBACK_DIM_MAX * (KVQ_TIER_FEEDBACK_DIM_MAX + 1) / 2 + 16 };

static inline size_t kvq_tier_row(size_t i)
{
    return i * (i + 1) / 2;
}

/** U of the moments, damped, with n channels in the order in which they will be quantized: row k of u is
 * column k of U; 16 numbers behind the triangle are overwritten. False if the moments do not allow it. */
bool kvq_tier_make_feedback(const kvq_kernels *k, const float *moment, const uint16_t *turn, size_t n,
                            double *u);

void kvq_tier_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                     const float *x, size_t stride, const kvq_evidence *evidence);

/** Read n tokens from t0 on that are not kept as rows: for encoding, which must know the error. */
void kvq_tier_read_codes(const kvq_tier *l, const uint8_t *superblock, size_t t0, size_t n, float *out,
                         size_t stride);

#endif /* KVQ_QUANT_TIER_H */
