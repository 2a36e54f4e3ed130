/*
 * Kernels for AArch64 with the dot-product extension (FEAT_DotProd): Cortex-A75 and Neoverse N1 of 2018,
 * Apple's M1, and later. Encoding and dequantizing are the portable ones, which the compiler vectorises.
 */
#include <math.h>

#include "quant/codec.h"
#include "quant/vector_neon.h"

#include "quant/vector_rows.h"
#include "quant/vector_tables.h"

#include "quant/vector_exact.h"
#include "quant/vector_fast.h"

const kvq_kernels kvq_kernels_neon = {
    .isa = "neon",
    .all_finite_f32 = all_finite_f32_v,
    .convert_f32_f16 = convert_f32_f16_v,
    .convert_f16_f32 = convert_f16_f32_v,
    .score_affine = score_affine_v,
    .accumulate_affine = accumulate_affine_v,
    .fold_keys = fold_keys_v,
    .fold_keys_rest = fold_keys_rest_v,
    .score_folded = score_folded_v,
    .fold_values = fold_values_v,
    .fold_values_rest = fold_values_rest_v,
    .accumulate_folded = accumulate_folded_v,
    .dot_f32 = dot_f32_v,
    .dot_f16 = dot_f16_v,
    .accumulate_f32 = accumulate_f32_v,
    .accumulate_f16 = accumulate_f16_v,
    .max_f32 = max_f32_v,
    .exp2_sum_f32 = exp2_sum_f32_v,
};
