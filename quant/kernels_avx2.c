/*
 * Kernels for x86-64 with AVX2 and F16C: Haswell of 2013, Zen of 2017, and later.
 */
#include "quant/vector_avx2.h"

#include "quant/vector_kernels.h"

const kvq_kernels kvq_kernels_avx2 = {.isa = "avx2", V_KERNELS};
