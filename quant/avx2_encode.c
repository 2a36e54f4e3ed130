/*
 * Encoding and dequantizing of the affine codec with AVX2 and F16C: the vocabulary of vector_encode.h.
 */
#include <immintrin.h>

#include "quant/codec.h"
#include "quant/kernels_x86.h"
#include "quant/vector.h"

#define MM(name)     _mm256_##name
#define KERNEL(name) kvq_##name##_avx2

enum { LANES = 8 };
typedef __m256 floats;
typedef __m256i ints;
typedef __m128i halves;

static inline ints or_ints(ints a, ints b)
{
    return _mm256_or_si256(a, b);
}

static inline ints and_ints(ints a, ints b)
{
    return _mm256_and_si256(a, b);
}

static inline ints and_not_ints(ints a, ints b)
{
    return _mm256_andnot_si256(a, b);
}

static inline ints load_ints(const uint8_t *at)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)at);
}

static inline void store_ints(uint8_t *at, ints x)
{
    _mm256_storeu_si256((__m256i *)(void *)at, x);
}

static inline void store_halves(uint8_t *at, halves x)
{
    _mm_storeu_si128((__m128i *)(void *)at, x);
}

static inline floats load_halves(const uint8_t *at)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)at));
}

static inline floats broadcast_half(const uint8_t *at)
{
    return _mm256_cvtph_ps(_mm_set1_epi16((int16_t)kvq_load_u16(at)));
}

static inline halves round_down(floats x)
{
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

static inline halves round_up(floats x)
{
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
}

/* Vector v of the 16 bytes' numbers. */
static inline ints widen_bytes(__m128i bytes, size_t v)
{
    return _mm256_cvtepu8_epi32(v == 0 ? bytes : _mm_srli_si128(bytes, 8));
}

/* Is any x >= limit? */
static inline bool any_reaches(floats x, floats limit)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(x, limit, _CMP_GE_OQ)) != 0;
}

/* Of each lane of 128 bits, numbers 0 and 1 of a, 2 and 3 of b. */
static inline floats blend_pairs(floats a, floats b)
{
    return _mm256_blend_ps(a, b, 0xcc);
}

static inline floats extreme(floats a, floats b, bool largest)
{
    return largest ? _mm256_max_ps(a, b) : _mm256_min_ps(a, b);
}

/* Each x[j] down to four numbers that hold its extreme, in lane j of 128 bits. */
static inline floats lane_extremes(const floats x[2], bool largest)
{
    return extreme(_mm256_blend_ps(x[0], x[1], 0xf0), _mm256_permute2f128_ps(x[0], x[1], 0x21), largest);
}

/* From quad 2v + j of tokens 4i .. 4i + 3 in lane j of packed[2v + i] to quad 2v + j of all eight tokens. */
static inline void sort_quads(const ints packed[4], ints quad[4])
{
    for (size_t v = 0; v < 4; v += 2) {
        quad[v] = _mm256_permute2x128_si256(packed[v], packed[v + 1], 0x20);
        quad[v + 1] = _mm256_permute2x128_si256(packed[v], packed[v + 1], 0x31);
    }
}

#include "quant/vector_encode.h"
