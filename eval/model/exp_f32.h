/* The exponential function that loops over activations and scores use. */
#ifndef KVQ_EVAL_MODEL_EXP_F32_H
#define KVQ_EVAL_MODEL_EXP_F32_H

#include <stdint.h>
#include <string.h>

/* e^x to about 2 units in the last place: 2^n * e^r with n = round(x / ln 2), so |r| <= ln(2) / 2, and the
 * Taylor series of e^r to the 7th degree (remainder below 6e-9). Written without branches and calls, so that
 * compilers vectorise the loops around it; expf would keep them scalar. Arguments beyond what a normal float
 * can hold are clamped: the smallest result is about 1e-38. */
static inline float exp_f32(float x)
{
    const float round_magic = 0x1.8p23f; /* adding it rounds to an integer, kept in the low mantissa bits */
    const float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f; /* n * ln2_high is exact for |n| <= 255 */
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 0x1.715476p+0f + round_magic;
    float n = shifted - round_magic;
    float r = (x - n * ln2_high) - n * ln2_low;
    float e = 1.0f / 5040;
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    uint32_t bits, n_bits;
    memcpy(&bits, &e, sizeof bits);
    memcpy(&n_bits, &shifted, sizeof n_bits);
    bits += n_bits << 23; /* multiplies by 2^n; the magic's own bits are shifted out */
    memcpy(&e, &bits, sizeof e);
    return e;
}

#endif
