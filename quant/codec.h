/*
 * Codecs: the ways one side of a superblock can be stored.
 *
 * A codec is one file and one row of the registry in codec.c. The cache (lib/) calls codecs only through this
 * struct; codecs call kernels. Functions take whole layouts, which are made by kvq_layout_init.
 */
#ifndef KVQ_QUANT_CODEC_H
#define KVQ_QUANT_CODEC_H

#include "quant/kernels.h"
#include "quant/layout.h"

/** How attention's sums run over packed tokens. Layouts that do not fold have exact ones only. */
typedef enum kvq_sums {
    KVQ_SUMS_EXACT, /* in float over dequantized values */
    KVQ_SUMS_FAST,  /* folded to 16 bits; wide for queries with too wide a range */
    KVQ_SUMS_WIDE,  /* folded twice, to 31 bits */
} kvq_sums;

/** Superblocks that were scored for a query in other ways than asked for. */
typedef struct kvq_score_counts {
    uint64_t wide, exact;
} kvq_score_counts;

/** What attention reads in one step: the first n tokens of a superblock. */
typedef struct kvq_tokens {
    const uint8_t *superblock;
    const uint8_t *next; /* superblock that will be read next, worth prefetching; or NULL */
    size_t n;
    kvq_sums sums;
} kvq_tokens;

struct kvq_codec {
    const char *name;

    /** Fill the sizes of a layout whose role, bits, axis, group and dim are set. */
    void (*layout)(kvq_layout *l);

    /** Store n tokens from t0 on; row i is x + i * stride. t0 and n are multiples of l->tokens_per_run. */
    void (*encode)(const kvq_kernels *k, const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                   const float *x, size_t stride);

    /** Read n tokens from t0 on into rows out + i * stride. */
    void (*dequantize)(const kvq_kernels *k, const kvq_layout *l, const uint8_t *superblock, size_t t0,
                       size_t n, float *out, size_t stride);

    /** |x - xhat| is at most this, for each element of n tokens from t0 on; +Inf where nothing is promised.
     */
    void (*error_bound)(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n, float *out,
                        size_t stride);

    /** Set all bytes of the tokens from t0 on to zero, as in a superblock never written there. */
    void (*clear)(const kvq_layout *l, uint8_t *superblock, size_t t0);

    /** Could an encoder have written this, with n tokens? False for scales or values that are not finite, for
     * negative scales and for bytes past token n that are not zero. For data that comes from outside. */
    bool (*is_valid)(const kvq_layout *l, const uint8_t *superblock, size_t n);

    /** scores[i][t] = q[i] . xhat[t], i < n_q <= KVQ_ROWS_MAX; rows of KVQ_SUPERBLOCK; q is [n_q][D].
     * score_rms_error[i] is an estimate of how far folding is off, root mean square; 0 if exact. counts is
     * added to. */
    void (*score)(const kvq_kernels *k, const kvq_layout *l, const kvq_tokens *tokens, const float *q,
                  size_t n_q, float *scores, float *score_rms_error, kvq_score_counts *counts);

    /** acc[i] += sum_t p[i][t] * xhat[t]; p has rows of KVQ_SUPERBLOCK, 0 <= p <= 2^16; acc is [n_q][D].
     * score_rms_error comes from score; what both put acc[i] off by, an estimate of the squared L2 norm, is
     * added to error[i]. */
    void (*accumulate)(const kvq_kernels *k, const kvq_layout *l, const kvq_tokens *tokens, const float *p,
                       size_t n_q, const float *score_rms_error, float *acc, float *error);
};

extern const kvq_codec kvq_codec_affine, kvq_codec_f16, kvq_codec_f32;

/** The registry; the order is that of the public kvq_codec_id. */
extern const kvq_codec *const kvq_codecs[];
extern const size_t kvq_n_codecs;

/** What kvq_layout_init takes. bits, per_channel, half_arith and group are for the affine codec only. */
typedef struct kvq_layout_spec {
    const kvq_codec *codec;
    kvq_role role;
    uint32_t bits;
    bool per_channel, half_arith;
    size_t group; /* G; 0 for the whole head dimension */
    size_t dim;   /* D */
} kvq_layout_spec;

void kvq_layout_init(kvq_layout *l, const kvq_layout_spec *spec);

/* The group arithmetic of the affine codec (codec_affine.c), shared by its kernels, its bound and the tests.
 */

/** Scale and minimum of a group whose smallest and largest values are lo and hi. */
void kvq_affine_params(uint32_t bits, bool half_arith, float lo, float hi, uint16_t *scale, uint16_t *min);

/** Largest error of an element of a group with this scale and minimum. */
float kvq_affine_error_bound(uint32_t bits, bool half_arith, float scale, float min);

/** Error of rounding any number that became `stored` to half; +Inf at the largest half, where it may have
 * saturated. */
float kvq_f16_error_bound(float stored);

#endif /* KVQ_QUANT_CODEC_H */
