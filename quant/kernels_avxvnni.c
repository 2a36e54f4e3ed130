/*
 * Kernels for x86-64 with AVX2 and AVX-VNNI: Alder Lake of 2021, Sierra Forest, Zen 5, and later. Only what
 * dot-product instructions change; the rest is inherited from AVX2.
 *
 * The tests build this file a second time, under another name and for the AVX-512 form of the same
 * instruction (tests/CMakeLists.txt), to run it on processors that have that one alone.
 */
#define KVQ_AVX_VNNI

#include "quant/vector_avx2.h"

#include "quant/vector_dot.h"

#ifndef KVQ_AVXVNNI_TABLE
#define KVQ_AVXVNNI_TABLE kvq_kernels_avxvnni
#endif

const kvq_kernels KVQ_AVXVNNI_TABLE = {.isa = "avxvnni", V_DOT_KERNELS};
