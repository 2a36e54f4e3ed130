/*
 * The vocabulary that kernels are written in: every word, with its contract. A vocabulary (vector_avx2.h,
 * vector_avx512.h, vector_neon.h) defines them all on the registers of one instruction set; the templates
 * (vector_rows.h and its neighbours) use no others and no intrinsics. So a kernels_ISA.c includes one
 * vocabulary and then the templates it wants, all of them through vector_kernels.h. A template without a
 * vocabulary, or with one that lacks a word, does not compile (vector_complete.h); tests/check_words.c holds
 * every word against its contract here.
 *
 * Types:
 *   v_f     sixteen floats: lanes 0 .. 15, in one register or several
 *   v_h     sixteen halves, as their bits
 *   v_e     eight doubles
 *   v_i     sixteen dwords, that is whole numbers of 32 bits without a sign
 *   v_q     four dwords, which hold the codes of one token in sixteen channels
 *   v_d     one register of V_DWORDS dwords, for dot products
 *   v_acc   the sums of v_dot for the dwords of a v_d
 *   v_df    the V_DWORDS floats that belong to a v_d
 *
 * Numbers that depend on the registers:
 *   V_DWORDS         in a v_d: 4, 8 or 16
 *   V_STRIP          v_d that share one broadcast of folded bytes, at most; V_STRIP * V_DWORDS is 16 or 32
 *   V_SUMS           v_acc that registers hold beside what else is alive: 8 or 16
 *   V_CHAINS         1, or 2 or 4 sums that quads go to in turn, as v_dot has a latency that has to be hidden
 *   V_ROOM           how much a v_acc takes: the largest code that each v_dot may bring, added over all of
 *                    them; 0 if it takes any
 *   V_NIBBLES        1 if v_dot takes codes below 16 only, otherwise 0
 *   V_FLOAT_SUMS     v_f of sums that registers hold beside codes and factors: 4 or 16
 *
 * Pointers need no alignment. "Largest" and "smallest" are of numbers without NaN, and of two zeros either
 * may come out. Constant means: where the word is inlined.
 */
#ifndef KVQ_QUANT_VECTOR_H
#define KVQ_QUANT_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "quant/layout.h"
#include "quant/logstep.h"

/* X(result, word, arguments) for every word. */
/* clang-format off */
#define V_WORDS(X)                                                                                           \
    /* ---- v_f. No word fuses a multiplication and an addition. ---- */                                     \
    X(v_f, v_set1, (float x))                   /* x in every lane */                                        \
    X(v_f, v_set1_half, (uint16_t x))           /* the half x in every lane */                               \
    X(v_f, v_load, (const float *p))            /* p[0] .. p[15] */                                          \
    X(void, v_store, (float *p, v_f x))         /* likewise */                                               \
    /* The first n < 16 only, and nothing else is touched; other lanes become 0. */                          \
    X(v_f, v_load_part, (const float *p, size_t n))                                                          \
    X(void, v_store_part, (float *p, v_f x, size_t n))                                                       \
    /* p[at[0]] .. p[at[15]], each below n; p is a multiple of 32 long. */                                   \
    X(v_f, v_gather, (const float *p, size_t n, const uint16_t *at))                                         \
    /* From halves; to halves: nearest, ties to even. n < 16. */                                             \
    X(v_f, v_load_half, (const uint16_t *p))                                                                 \
    X(v_f, v_load_half_part, (const uint16_t *p, size_t n))                                                  \
    X(void, v_store_half, (uint16_t *p, v_f x))                                                              \
    /* From whole numbers of 8 bits with a sign; to them, of whole x from -128 to 127. */                    \
    X(v_f, v_load_i8, (const int8_t *p))                                                                     \
    X(void, v_store_i8, (int8_t *p, v_f x))                                                                  \
    /* IEEE operations by lane. */                                                                           \
    X(v_f, v_add, (v_f x, v_f y))                                                                            \
    X(v_f, v_sub, (v_f x, v_f y))                                                                            \
    X(v_f, v_mul, (v_f x, v_f y))                                                                            \
    X(v_f, v_div, (v_f x, v_f y))                                                                            \
    X(v_f, v_min, (v_f x, v_f y))                                                                            \
    X(v_f, v_max, (v_f x, v_f y))                                                                            \
    X(v_f, v_clamp, (v_f x, v_f most))          /* to 0 .. most, which is not negative */                    \
    X(v_f, v_abs, (v_f x))                                                                                   \
    X(v_f, v_if_less, (v_f a, v_f b, v_f x, v_f y)) /* a < b ? x : y; y where a or b is NaN */               \
    /* Lanes j and j + n, j & n = 0, become their sum and the first minus the second; n is 1, 2, 4 or 8,     \
     * constant. */                                                                                          \
    X(v_f, v_butterfly, (v_f x, int n))                                                                      \
    X(v_f, v_round, (v_f x))                    /* to the nearest whole number, ties to even */              \
    /* kvq_eighths times powers of 2: 2^(n/8) of x = KVQ_TO_EIGHTHS + n/8, n whole, -1008 <= n < 1024. */    \
    X(v_f, v_power_of_2_8th, (v_f x))                                                                        \
    X(v_f, v_sixteenths, (const uint8_t *n))    /* kvq_sixteenths[n[0]] .. kvq_sixteenths[n[15]] */          \
    /* All lanes added in the order of dot_f32: j and j + 8, then + 4, + 2, + 1. The same four times, to     \
     * p[0 .. 3], and sixteen times. */                                                                      \
    X(float, v_sum, (v_f x))                                                                                 \
    X(void, v_store_sums, (float *p, v_f w, v_f x, v_f y, v_f z))                                            \
    X(void, v_store_16_sums, (float *p, const v_f x[16]))                                                    \
    X(float, v_largest, (v_f x))                /* of the lanes */                                           \
    X(bool, v_all_finite, (v_f x))              /* is no lane NaN or infinite? */                            \
    /* The largest (or, if not `largest`, smallest) lane of four v_f at a time, in two steps. In fours:      \
     * lanes 4j .. 4j + 3 become four numbers whose largest is that of x[j]. Of fours: lane 4j + i becomes   \
     * the largest of lanes 4j .. 4j + 3 of x[i]. `largest` is constant. */                                  \
    X(v_f, v_extremes_in_fours, (const v_f x[4], bool largest))                                              \
    X(v_f, v_extremes_of_fours, (const v_f x[4], bool largest))                                              \
    /* Sixteen dwords from p on, shifted right, masked, shifted left by `up`, as floats; mask < 2^24. */     \
    X(v_f, v_codes, (const uint8_t *p, uint32_t shift, uint32_t mask, uint32_t up))                          \
    /* 32 floats of magnitude up to KVQ_FOLDED_MAX, rounded to nearest even, as 64 bytes: lows of x, highs   \
     * of x, lows of y, highs of y. high = (w + 128) >> 8, low = w - 256 high. */                            \
    X(void, v_store_folded, (int8_t *p, v_f x, v_f y))                                                       \
    X(void, v_prefetch, (const uint8_t *p))     /* into the second-level cache; p may point anywhere */      \
    /* ---- v_h ---- */                                                                                      \
    X(v_h, v_h_load, (const uint16_t *p))                                                                    \
    X(void, v_h_store, (uint16_t *p, v_h x))                                                                 \
    X(v_h, v_h_max, (v_h x, v_h y))             /* as whole numbers: of halves without a sign */             \
    X(v_f, v_h_to_f, (v_h x))                                                                                \
    /* The next half that is not above x, or not below; 65504 or infinite where x is out of range. */        \
    X(v_h, v_h_down, (v_f x))                                                                                \
    X(v_h, v_h_up, (v_f x))                                                                                  \
    /* ---- v_e: IEEE operations by lane ---- */                                                             \
    X(v_e, v_e_set1, (double x))                                                                             \
    X(v_e, v_e_load, (const double *p))                                                                      \
    X(void, v_e_store, (double *p, v_e x))                                                                   \
    X(v_e, v_e_sub, (v_e x, v_e y))                                                                          \
    X(v_e, v_e_mul, (v_e x, v_e y))                                                                          \
    /* ---- v_i ---- */                                                                                      \
    X(v_i, v_i_set1, (uint32_t x))                                                                           \
    X(v_i, v_i_load, (const uint8_t *p))                                                                     \
    X(void, v_i_store, (uint8_t *p, v_i x))                                                                  \
    X(v_i, v_i_nearest, (v_f x))                /* ties to even; of 0 <= x < 2^31 */                         \
    X(v_i, v_i_and, (v_i x, v_i y))                                                                          \
    X(v_i, v_i_and_not, (v_i x, v_i y))         /* x & ~y */                                                 \
    X(v_i, v_i_or, (v_i x, v_i y))                                                                           \
    X(v_i, v_i_shift_left, (v_i x, uint32_t n)) /* n < 32, constant or not */                                \
    X(v_i, v_i_shift_right, (v_i x, uint32_t n))                                                             \
    /* table[x], x < n; n is 8 or 16, constant. */                                                          \
    X(v_f, v_i_pick, (v_i x, const float *table, size_t n))                                                  \
    /* Four times sixteen numbers below 256, by fours: dword 4k + i is numbers 4k .. 4k + 3 of x[i], as      \
     * bytes from the lowest up. */                                                                          \
    X(v_i, v_i_pack, (const v_i x[4]))                                                                       \
    /* Transpose by fours: dwords 4i .. 4i + 3 of y[k] are dwords 4k .. 4k + 3 of x[i]. */                   \
    X(void, v_i_transpose, (const v_i x[4], v_i y[4]))                                                       \
    /* ---- v_q ---- */                                                                                      \
    X(v_q, v_q_set1, (uint32_t x))                                                                           \
    X(v_q, v_q_set, (uint32_t a, uint32_t b, uint32_t c, uint32_t d))                                        \
    X(v_q, v_q_or, (v_q x, v_q y))                                                                           \
    X(v_q, v_q_and, (v_q x, uint32_t byte_mask)) /* every byte with byte_mask */                             \
    X(v_q, v_q_shift_left, (v_q x, uint32_t n)) /* dwords by n < 8, constant */                              \
    X(v_q, v_q_shift_right, (v_q x, const uint32_t n[4])) /* dword k by n[k] < 8, constant */                \
    X(v_f, v_q_to_f, (v_q x))                   /* its sixteen bytes, the lowest first */                    \
    /* ---- v_d, v_acc: shifts are by constants ---- */                                                      \
    X(v_d, v_d_zero, (void))                                                                                 \
    X(v_d, v_d_load, (const uint8_t *p))                                                                     \
    X(v_d, v_d_four_folded, (const int8_t *p))  /* four bytes from p on, in every dword */                   \
    X(v_d, v_d_add, (v_d x, v_d y))                                                                          \
    X(v_d, v_d_and, (v_d x, uint32_t byte_mask)) /* every byte with byte_mask */                             \
    /* Bytes right by n < 8; the upper n bits of each are undefined. */                                      \
    X(v_d, v_d_shift_bytes, (v_d x, uint32_t n))                                                             \
    X(v_d, v_d_shift_left, (v_d x, uint32_t n))                                                              \
    /* sum, which starts as v_acc_zero, plus, for each dword, the four products of bytes of `codes` without  \
     * a sign, up to 255 (15 where V_NIBBLES is 1), and bytes of `folded` with a sign. */                    \
    X(v_acc, v_acc_zero, (void))                                                                             \
    X(v_acc, v_dot, (v_acc sum, v_d codes, v_d folded))                                                      \
    X(v_d, v_widen, (v_acc sum))                /* the sums as dwords */                                     \
    /* ---- v_df ---- */                                                                                     \
    X(v_df, v_df_of, (v_d x))                   /* dwords with a sign, to nearest even */                    \
    X(v_df, v_df_set1, (float x))                                                                            \
    X(v_df, v_df_load, (const float *p))                                                                     \
    X(void, v_df_store, (float *p, v_df x))                                                                  \
    X(v_df, v_df_add, (v_df x, v_df y))                                                                      \
    X(v_df, v_df_mul, (v_df x, v_df y))
/* clang-format on */

#ifndef V_INLINE
#define V_INLINE static inline __attribute__((always_inline))
#endif

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
