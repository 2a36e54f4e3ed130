/*
 * Kernels for AArch64 with the dot-product extension (FEAT_DotProd): Cortex-A75 and Neoverse N1 of 2018,
 * Apple's M1, and later.
 */
#include "quant/vector_neon.h"

#include "quant/vector_kernels.h"

const kvq_kernels kvq_kernels_neon = {.isa = "neon", V_KERNELS};
