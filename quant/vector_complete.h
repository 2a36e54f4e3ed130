/*
 * What every template includes first: without a vocabulary, or with one that lacks a word of vector.h or
 * gives it another type, it does not compile.
 */
#ifndef KVQ_QUANT_VECTOR_COMPLETE_H
#define KVQ_QUANT_VECTOR_COMPLETE_H

#ifndef V_VOCABULARY
#error "include a vocabulary first: quant/vector_avx2.h, quant/vector_avx512.h or quant/vector_neon.h"
#endif

#include "quant/vector.h"

/* Never called: naming each word is the check. */
V_INLINE void v_vocabulary_is_complete(void)
{
#define IS_THERE(result, word, arguments) _Static_assert(_Generic(&word, result(*) arguments : 1), #word);
    V_WORDS(IS_THERE)
#undef IS_THERE
}

_Static_assert(sizeof(v_d) == 4 * V_DWORDS && sizeof(v_df) == sizeof(v_d), "V_DWORDS dwords in a register");
_Static_assert(V_STRIP *V_DWORDS == 16 || V_STRIP * V_DWORDS == 32, "V_STRIP");
_Static_assert(V_SUMS == 8 || V_SUMS == 16, "V_SUMS");
_Static_assert(V_CHAINS == 1 || V_CHAINS == 2 || V_CHAINS == 4, "V_CHAINS");
_Static_assert(V_FLOAT_SUMS == 4 || V_FLOAT_SUMS == 16, "V_FLOAT_SUMS");
_Static_assert(V_NIBBLES == 0 || V_NIBBLES == 1, "V_NIBBLES");

#endif /* KVQ_QUANT_VECTOR_COMPLETE_H */
