/*
 * Where every code, scale and minimum of a superblock lies.
 *
 * A superblock holds 128 consecutive tokens of one KV head for one role (keys or values). Its shape follows
 * from the role, because that decides which way attention reduces: scores sum over channels, outputs over
 * tokens. Four bytes of a code dword are always four values of one reduction, so that one lane of a
 * dot-product instruction takes a dword as it is. The axis decides only how the scales and minimums are laid
 * out.
 *
 * Codes. A code of b bits is the sum of one or two planes of w = 1, 2, 4 or 8 bits: 3 = 2 + 1, 5 = 4 + 1, 6 =
 * 4 + 2, the wider plane holding the low bits. A dword of a plane holds n = 32/w values; value 4k + j of the
 * dword lies at bits [8j + wk, 8j + wk + w). Dp is D rounded up to 16.
 *
 *   keys     per block of 32 tokens, per plane: uint32 code[ceil(Dp/n)][32]; dword (u, t) holds channels
 *            nu .. nu + n-1 of token t
 *   values   per plane: uint32 code[Dp/16][4][w][16]; dword (c, block, h, lane) holds tokens nh .. nh + n-1
 *            of that block for channel 16c + lane
 *
 * Metadata. Superblocks are cut into meta_tiles: keys have meta_tiles of 32 tokens (of G, where a group along
 * T is longer), so that what a block needs lies together; values have one meta_tile of 128. A meta_tile is
 * its codes, then its scales, then its minimums, both as half:
 *
 *   channel axis   scale[meta_tile/G][Dp], min[meta_tile/G][Dp]
 *   token axis     scale[ceil(D/G)][meta_tile], min[ceil(D/G)][meta_tile]
 *
 * At 2 bits and G = 32 this is 48 D bytes for keys and as many for values. f16 and f32 superblocks are rows
 * [128][D]. All numbers are little-endian.
 */
#ifndef KVQ_QUANT_LAYOUT_H
#define KVQ_QUANT_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "quant/half.h"

static inline size_t kvq_round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static inline bool kvq_all_zero(const uint8_t *bytes, size_t n)
{
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= bytes[i];
    return any == 0;
}

enum {
    KVQ_BLOCK = 32,       /* tokens per block */
    KVQ_SUPERBLOCK = 128, /* tokens per superblock */
    KVQ_ALIGNMENT = 64,   /* of a superblock, in bytes */
    KVQ_DIM_MAX = 1024,   /* the largest D; bounds the scratch that kernels keep on the stack */
    KVQ_MAX_PLANES = 2,
};

typedef enum kvq_role {
    KVQ_KEYS,
    KVQ_VALUES,
} kvq_role;

/** One plane of codes. */
typedef struct kvq_plane {
    uint32_t width; /* w, in bits */
    uint32_t shift; /* of this plane's bits inside the code */
    size_t offset;  /* bytes from the start of the block (keys) or superblock (values) */
} kvq_plane;

/** What a superblock of the affine codec looks like. Filled once by kvq_layout_init, then read only. */
typedef struct kvq_layout {
    kvq_role role;
    uint32_t bits;
    bool per_channel;  /* a group runs along T */
    bool half_arith;   /* every operation rounded to half (KIVI parity) */
    size_t group;      /* G in elements; D for a full group */
    size_t dim;        /* D */
    size_t dim_padded; /* Dp */

    size_t bytes;             /* of a superblock, a multiple of KVQ_ALIGNMENT */
    size_t payload_per_token; /* bytes of codes or values */
    size_t metadata_per_run;  /* bytes of scales and minimums per run of tokens_per_run tokens */
    size_t tokens_per_run;    /* the fewest tokens that can be packed together: G per channel, otherwise 1 */

    kvq_plane plane[KVQ_MAX_PLANES];
    size_t n_planes;
    size_t block_bytes; /* codes of one block of keys */
    size_t meta_tile_tokens, meta_tile_bytes;
    size_t meta_offset;         /* of the scales inside a meta_tile */
    size_t min_offset;          /* of the minimums, relative to the scales */
    size_t n_meta;              /* scales in a meta_tile */
    float score_error_per_step; /* of a folded query: root mean square of a score's error, per step */
} kvq_layout;

/** Byte offset of the scale of (token t, channel c); the minimum lies min_offset further on. */
static inline size_t kvq_scale_offset(const kvq_layout *l, size_t t, size_t c)
{
    size_t in_tile = t % l->meta_tile_tokens;
    size_t index = l->per_channel ? in_tile / l->group * l->dim_padded + c
                                  : c / l->group * l->meta_tile_tokens + in_tile;
    return t / l->meta_tile_tokens * l->meta_tile_bytes + l->meta_offset + 2 * index;
}

static inline uint16_t kvq_load_u16(const uint8_t *p)
{
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline void kvq_store_u16(uint8_t *p, uint16_t x)
{
    memcpy(p, &x, sizeof x);
}

static inline uint32_t kvq_load_u32(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline void kvq_store_u32(uint8_t *p, uint32_t x)
{
    memcpy(p, &x, sizeof x);
}

/** Scale of (t, c) as float. */
static inline float kvq_scale_at(const kvq_layout *l, const uint8_t *superblock, size_t t, size_t c)
{
    return kvq_f32_from_f16(kvq_load_u16(superblock + kvq_scale_offset(l, t, c)));
}

/** Minimum of (t, c) as float. */
static inline float kvq_min_at(const kvq_layout *l, const uint8_t *superblock, size_t t, size_t c)
{
    return kvq_f32_from_f16(kvq_load_u16(superblock + kvq_scale_offset(l, t, c) + l->min_offset));
}

/** Byte offset of the dword of `plane` that holds (t, c), and the shift of its bits there. */
static inline size_t kvq_code_offset(const kvq_layout *l, const kvq_plane *plane, size_t t, size_t c,
                                     uint32_t *shift)
{
    size_t per_dword = 32 / plane->width, in_block = t % KVQ_BLOCK, value, offset;
    if (l->role == KVQ_KEYS) {
        value = c % per_dword;
        offset = t / l->meta_tile_tokens * l->meta_tile_bytes +
                 t % l->meta_tile_tokens / KVQ_BLOCK * l->block_bytes +
                 (c / per_dword * KVQ_BLOCK + in_block) * 4;
    } else {
        value = in_block % per_dword;
        offset = (((c / 16 * 4 + t / KVQ_BLOCK) * plane->width + in_block / per_dword) * 16 + c % 16) * 4;
    }
    *shift = (uint32_t)(value % 4 * 8 + value / 4 * plane->width);
    return offset + plane->offset;
}

/** Code of (t, c). */
static inline uint32_t kvq_code_get(const kvq_layout *l, const uint8_t *superblock, size_t t, size_t c)
{
    uint32_t code = 0, shift;
    for (size_t i = 0; i < l->n_planes; i++) {
        const kvq_plane *plane = &l->plane[i];
        uint32_t dword = kvq_load_u32(superblock + kvq_code_offset(l, plane, t, c, &shift));
        code |= (dword >> shift & ((1u << plane->width) - 1u)) << plane->shift;
    }
    return code;
}

/** Replace the code of (t, c). */
static inline void kvq_code_put(const kvq_layout *l, uint8_t *superblock, size_t t, size_t c, uint32_t code)
{
    uint32_t shift;
    for (size_t i = 0; i < l->n_planes; i++) {
        const kvq_plane *plane = &l->plane[i];
        uint8_t *at = superblock + kvq_code_offset(l, plane, t, c, &shift);
        uint32_t mask = ((1u << plane->width) - 1u) << shift;
        kvq_store_u32(at, (kvq_load_u32(at) & ~mask) | (code >> plane->shift << shift & mask));
    }
}

#endif /* KVQ_QUANT_LAYOUT_H */
