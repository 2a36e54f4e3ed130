/*
 * The kernels: every loop that time is spent in, as one table of function pointers per instruction set.
 *
 * kernels_portable.c and portable_affine.c are the specification: plain C, always built, tested against
 * formulas in double. A file for an instruction set exports one table and fills what it does better; a slot
 * left NULL inherits from the next plainer instruction set (dispatch.c). The comment at each slot is its contract:
 *
 *   EXACT   gives the bits of the portable kernel
 *   TOL     may differ from it; the bound is stated
 *
 * For all: pointers need no alignment beyond their type's unless said; n = 0 is a no-op; nothing is read
 * before the input or past its stated end, nothing written outside the stated output; outputs do not overlap
 * inputs; floats are finite (checked at the API's edge). Kernels cannot fail, allocate nothing and keep no
 * state. Superblocks are described in quant/layout.h, are aligned to KVQ_ALIGNMENT and may be read whole.
 * Token ranges [t0, t0 + n) lie inside a superblock.
 */
#ifndef KVQ_QUANT_KERNELS_H
#define KVQ_QUANT_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/layout.h"

typedef struct kvq_kernels {
    const char *isa; /* the name that KVQ_ISA takes */

    /* EXACT. Is no x[i] NaN or Inf? This one takes any floats. */
    bool (*all_finite_f32)(const float *x, size_t n);

    /* EXACT. Element-wise conversion; to half: nearest even, saturating at 65504. */
    void (*convert_f32_f16)(const float *x, size_t n, uint16_t *out);
    void (*convert_f16_f32)(const uint16_t *x, size_t n, float *out);

    /* EXACT. Encode n tokens from t0 on; row i is x + i * stride, l->dim floats. The channel kernel wants t0
     * and n to be multiples of l->group; each overwrites codes, scales and minimums of these tokens and of no
     * other. */
    void (*encode_affine_channel)(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                  const float *x, size_t stride);
    void (*encode_affine_token)(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n, const float *x,
                                size_t stride);

    /* EXACT. Dequantize n tokens from t0 on into rows out + i * stride. */
    void (*decode_affine)(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n, float *out,
                          size_t stride);

    /* TOL: each score within (D + 8) * 2^-23 * sum_c |q_c| * (|min| + levels * scale, of c's group) of the
     * dot product over dequantized values. scores[i][j] (row length KVQ_SUPERBLOCK) = q[i] . xhat[t0 + j]; q
     * is [n_q][D]. */
    void (*score_affine)(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n, const float *q,
                         size_t n_q, float *scores);

    /* TOL: what is added is within (n + 8) * 2^-23 * sum_t |p_t| * (|min| + levels * scale), likewise. acc[i]
     * += sum_j p[i][j] * xhat[t0+j]; p has rows of KVQ_SUPERBLOCK, acc is [n_q][D]. */
    void (*accumulate_affine)(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                              const float *p, size_t n_q, float *acc);

    /* EXACT. scores[j] = q . row j, rows of dim values at rows + j * stride. The sum has a fixed order:
     * element i goes to lane i mod 16, multiply then add; the lanes are then added in halves (j and j + 8, j
     * + 4, j + 2, j + 1). */
    void (*dot_f32)(const float *rows, size_t stride, size_t n, const float *q, size_t dim, float *scores);
    void (*dot_f16)(const uint16_t *rows, size_t stride, size_t n, const float *q, size_t dim, float *scores);

    /* EXACT. acc[c] += p[j] * row j [c], multiply then add, for j = 0, 1, ... in this order. */
    void (*accumulate_f32)(const float *rows, size_t stride, size_t n, const float *p, size_t dim,
                           float *acc);
    void (*accumulate_f16)(const uint16_t *rows, size_t stride, size_t n, const float *p, size_t dim,
                           float *acc);

    /* EXACT. Largest of x[0..n), n >= 1; x may hold -Inf. */
    float (*max_f32)(const float *x, size_t n);

    /* TOL: each result within 4 ulp of exp, 0 below exp(-87). x[i] = exp(x[i] - max), max >= all x, x may
     * hold -Inf. Returns the sum of the results, in the lane order of dot_f32. */
    float (*exp_sum_f32)(float *x, size_t n, float max);
} kvq_kernels;

/* Every slot, for tests and benchmarks that run them all. */
#define KVQ_KERNEL_LIST(X)                                                                                   \
    X(all_finite_f32)                                                                                        \
    X(convert_f32_f16)                                                                                       \
    X(convert_f16_f32)                                                                                       \
    X(encode_affine_channel)                                                                                 \
    X(encode_affine_token)                                                                                   \
    X(decode_affine)                                                                                         \
    X(score_affine)                                                                                          \
    X(accumulate_affine)                                                                                     \
    X(dot_f32)                                                                                               \
    X(dot_f16)                                                                                               \
    X(accumulate_f32)                                                                                        \
    X(accumulate_f16)                                                                                        \
    X(max_f32)                                                                                               \
    X(exp_sum_f32)

/** The best table that runs here, or the one KVQ_ISA names; NULL if that name is unknown or does not run
 * here. */
const kvq_kernels *kvq_kernels_get(void);

/** The table of that name with its gaps filled, or NULL if it is unknown or does not run here. */
const kvq_kernels *kvq_kernels_for_isa(const char *isa);

/** The i-th table that runs here, from the plainest up; NULL past the last. */
const kvq_kernels *kvq_kernels_at(size_t i);

extern const kvq_kernels kvq_kernels_portable;
extern const kvq_kernels kvq_kernels_avx2; /* built on x86-64 only */

/* Parts of the portable table that live in portable_affine.c. */
void kvq_encode_affine_channel_portable(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                        const float *x, size_t stride);
void kvq_encode_affine_token_portable(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                      const float *x, size_t stride);
void kvq_decode_affine_portable(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                                float *out, size_t stride);
void kvq_score_affine_portable(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                               const float *q, size_t n_q, float *scores);
void kvq_accumulate_affine_portable(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                                    const float *p, size_t n_q, float *acc);

#endif /* KVQ_QUANT_KERNELS_H */
