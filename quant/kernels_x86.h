/*
 * Kernels for x86-64 that live outside the files of their tables. Contracts: kernels.h.
 */
#ifndef KVQ_QUANT_KERNELS_X86_H
#define KVQ_QUANT_KERNELS_X86_H

#include "quant/kernels.h"

/* avx2_encode.c, avx512_encode.c */
void kvq_encode_affine_channel_avx2(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                    const float *x, size_t stride);
void kvq_encode_affine_token_avx2(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                  const float *x, size_t stride);
void kvq_dequantize_affine_avx2(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                                float *out, size_t stride);
void kvq_encode_affine_channel_avx512(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                      const float *x, size_t stride);
void kvq_encode_affine_token_avx512(const kvq_layout *l, uint8_t *superblock, size_t t0, size_t n,
                                    const float *x, size_t stride);
void kvq_dequantize_affine_avx512(const kvq_layout *l, const uint8_t *superblock, size_t t0, size_t n,
                                  float *out, size_t stride);

#endif /* KVQ_QUANT_KERNELS_X86_H */
