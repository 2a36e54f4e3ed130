/*
 * Kernels for x86-64 with AVX-512 (F, BW, VL, DQ) and VNNI: Cascade Lake and Ice Lake of 2019, Zen 4, and
 * later.
 */
#include "quant/vector_avx512.h"

#include "quant/vector_kernels.h"

const kvq_kernels kvq_kernels_avx512 = {.isa = "avx512", V_KERNELS};
