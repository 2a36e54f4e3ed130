/*
 * The numbers of whole-number sums: what folds, how far, and how finely. portable_fast.c derives them.
 */
#ifndef KVQ_QUANT_FOLD_H
#define KVQ_QUANT_FOLD_H

#include <math.h>

#include "quant/layout.h"

/* Folded numbers stay below 127 * 256 + 128, so that low and high are signed bytes. */
enum {
    KVQ_FOLDED_MAX = 127 * 256,
    KVQ_GROUPS_MAX = 64, /* of values: KVQ_DIM_MAX / 16 */
};
#define KVQ_REST_SCALE 0x1p15f   /* a rest of up to half a step becomes up to 16,384 steps of the wide fold */
#define KVQ_FOLD_MIN   0x1p-100f /* below it they are 0: an error of levels * 2^-100 per element */
#define KVQ_FOLD_MAX   0x1p100f

/* How codes are assumed to spread, for estimates of error (codec_affine.c): the mean square of what they
 * differ from half the largest by, in units of the largest. */
#define KVQ_MEAN_SQUARE_CODE 0.125f

/* What a score may be off by for the rounding of folded numbers, estimated, root mean square, as a power of
 * 2: beyond the first limit a query is folded wide; beyond the second it is scored in float32, of dequantized
 * keys. That takes a channel whose product R with the range of its affine keys (scale times levels) is a
 * power of 2 of 156 and more at D = 64, times the root of 64 / D at others.
 *
 * The second is so small for what is not estimated: products with R are rounded to float32 before they fold,
 * and so are the sum and the bias that may cancel it, where a dequantized key of 0 leaves nothing to round.
 * At most R (2 + 1 + 1 + 2) 2^-24, 6e-5 at the limit; about R 2^-24 was measured. */
#define KVQ_SCORE_ERROR_FOLDED 0x1p-12f
#define KVQ_SCORE_ERROR_WIDE   0x1p-22f

/** Factor that folds numbers up to max, or 0 to make them all 0; *step is what a folded 1 stands for. */
static inline float kvq_fold_per_unit(float max, float *step)
{
    bool usable = max >= KVQ_FOLD_MIN && max <= KVQ_FOLD_MAX;
    *step = usable ? max * (1.0f / (float)KVQ_FOLDED_MAX) : max > KVQ_FOLD_MAX ? INFINITY : 0.0f;
    return usable ? (float)KVQ_FOLDED_MAX / max : 0.0f;
}

/** What a wide score is off by, for a 16-bit one that is off by that much, if codes spread: its steps are
 * finer, but codes count whole, and not as what they differ from half the largest. */
static inline float kvq_wide_error(float folded_error)
{
    return 2.0f / KVQ_REST_SCALE * folded_error;
}

/** Is there a row that 16 bits serve? */
static inline bool kvq_any_folded(const float *rms_error, size_t n_q)
{
    bool any = false;
    for (size_t i = 0; i < n_q; i++)
        any = any || rms_error[i] <= KVQ_SCORE_ERROR_FOLDED;
    return any;
}

/** What rows and their rests came to makes the wide sums. */
static inline void kvq_join(const float *rows, const float *rests, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = rows[i] + rests[i];
}

/** Folded numbers per query and meta_tile of keys: D up to a multiple of 32, because a dword of one-bit codes
 * holds 32. */
static inline size_t kvq_fold_dim(size_t dim)
{
    return (dim + 31) / 32 * 32;
}

/** Half the largest code: what codes are taken for where only their rough size matters. */
static inline float kvq_half_levels(const kvq_layout *l)
{
    return 0.5f * (float)((1u << l->bits) - 1u);
}

/** Are there whole-number sums over this layout? */
static inline bool kvq_layout_folds(const kvq_layout *l)
{
    return !l->half_arith &&
           (l->role == KVQ_KEYS ? l->per_channel && l->group >= KVQ_BLOCK : !l->per_channel);
}

#endif /* KVQ_QUANT_FOLD_H */
