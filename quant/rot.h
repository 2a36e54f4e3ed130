/*
 * What codec_rot.c (storing, reading, attention) and rot_encode.c share: levels, the transform, and where
 * everything lies.
 */
#ifndef KVQ_QUANT_ROT_H
#define KVQ_QUANT_ROT_H

#include "quant/logstep.h"
#include "quant/tier.h"

enum {
    KVQ_ROT_CLASS = 32, /* tokens that have one width */
    KVQ_ROT_CLASSES = KVQ_SUPERBLOCK / KVQ_ROT_CLASS,
    KVQ_ROT_BUDGET = 6,        /* bits of all four together */
    KVQ_ROT_N_LARGEST = 255,   /* of a scale */
    KVQ_ROT_LOG_LEAST = -2016, /* 2^(this/16) is a normal float */
};

/* Parameters of the spec, in this order. */
enum { KVQ_ROT_HALVES, KVQ_ROT_PAGE };

/** Offsets are from the start of a superblock. */
typedef struct kvq_rot {
    kvq_layout codes; /* not of 1.5 bits */
    size_t dim, dim_padded;
    size_t code_bytes, base, scales, order, widths, page, row_bytes, rows, n_rows, indices, end;
    uint32_t bits;     /* 0 for 1.5 */
    int32_t log_limit; /* a scale of 2^(log_limit/16) may stand for larger ones */
    bool has_page;
} kvq_rot;

_Static_assert(sizeof(kvq_rot) <= KVQ_SIDE_OWN, "a side has room for it");

static inline const kvq_rot *kvq_rot_of(const kvq_side *s)
{
    return (const kvq_rot *)(const void *)s->own;
}

#define KVQ_ROT_SPACING 0.9957f /* of uniform levels, in units of sigma */

/* ---- Codes: both layouts are blocks of 32 tokens ---- */

/** Where the dwords of a block lie: of sixteen channels, `stride` bytes from those of the sixteen before. */
typedef struct kvq_rot_codes {
    uint32_t width;
    size_t n_planes, stride[KVQ_MAX_PLANES], offset[KVQ_MAX_PLANES];
    uint32_t plane_width[KVQ_MAX_PLANES], shift[KVQ_MAX_PLANES];
} kvq_rot_codes;

/** Width of a class; 1.5 bits. */
static inline uint32_t kvq_rot_class_width(const kvq_rot *l, const uint8_t *superblock, size_t i)
{
    return (uint32_t)superblock[l->widths + i / 2] >> (i % 2 * 4) & 15u;
}

/** Logarithm of the scale of token t, in sixteenths of an octave. */
static inline int32_t kvq_rot_log_scale(const kvq_rot *l, const uint8_t *superblock, size_t t)
{
    return (int16_t)kvq_load_u16(superblock + l->base) + superblock[l->scales + t];
}

/** What all scales of a page are multiples of. */
static inline float kvq_rot_page_scale(const kvq_rot *l, const uint8_t *superblock)
{
    return kvq_exp2_16th((int16_t)kvq_load_u16(superblock + l->base));
}

/** The scale of token t, times page_scale. */
static inline float kvq_rot_scale(const kvq_rot *l, const uint8_t *superblock, float page_scale, size_t t)
{
    return kvq_sixteenths[superblock[l->scales + t]] * page_scale;
}

/** Levels of a width; uniform ones where they are to fold. */
const float *kvq_rot_levels(const kvq_rot *l, uint32_t width);

/** x = H x, and back. */
void kvq_rotate(const kvq_kernels *k, size_t dim, float *x);

kvq_rot_codes kvq_rot_codes_of_block(const kvq_rot *l, const uint8_t *superblock, size_t block);

/** The same, as accumulate_levels takes it. */
kvq_block_codes kvq_rot_block_codes(const kvq_rot_codes *b, const uint8_t *superblock);

/** Where the codes of the token at a place of a block are. */
kvq_token_codes kvq_rot_codes_of_token(const kvq_rot_codes *b, const uint8_t *superblock, size_t place);

/** Place of every token. */
void kvq_rot_places(const kvq_rot *l, const uint8_t *superblock, uint8_t *place);

void kvq_rot_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                    const float *x, size_t stride, const kvq_evidence *evidence);

#endif /* KVQ_QUANT_ROT_H */
