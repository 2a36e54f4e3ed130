/*
 * What every vector_*.h starts from.
 */
#ifndef KVQ_QUANT_VECTOR_H
#define KVQ_QUANT_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "quant/layout.h"

#define V_INLINE static inline __attribute__((always_inline))

/* V_UNROLL(n): unroll the next loop. Arrays of registers only become registers in loops that vanish. Not with
 * sanitizers, whose checks in every copy would take minutes to compile. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define V_SANITIZED
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define V_SANITIZED
#endif
#ifdef V_SANITIZED
#define V_UNROLL(n)
#else
#define V_PRAGMA(text) _Pragma(#text)
#define V_UNROLL(n)    V_PRAGMA(GCC unroll n)
#endif

#endif /* KVQ_QUANT_VECTOR_H */
