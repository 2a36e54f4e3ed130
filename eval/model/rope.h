/* Rotary position embedding: the frequencies a configuration asks for, and the rotation.
 *
 * Sources: Su et al., RoFormer, arXiv 2104.09864 (the rotation); Chen et al., position interpolation, arXiv
 * 2306.15595 ("linear"); Peng et al., YaRN, arXiv 2309.00071 ("yarn"); Grattafiori et al., The Llama 3 herd
 * of models, arXiv 2407.21783, as its reference code scales ("llama3").
 *
 * Precision: a model is its weights together with the arithmetic that it is served with, and that rounds the
 * inverse frequencies to float32, and their product with the position as well. At position 131,071 this
 * product is up to 0.004 rad from the exact angle. So angles here are those float32 angles, to the bit where
 * the power function of the other implementation rounds correctly (ours does: it is computed in double);
 * sine and cosine of them are float32 functions, right to about one unit in the last place at any angle.
 */
#ifndef KVQ_EVAL_MODEL_ROPE_H
#define KVQ_EVAL_MODEL_ROPE_H

#include <stdbool.h>
#include <stddef.h>

#define ROPE_MAX_DIM 1024

typedef enum rope_type {
    ROPE_DEFAULT,
    ROPE_LINEAR,
    ROPE_LLAMA3,
    ROPE_YARN,
} rope_type;

typedef struct rope_config {
    rope_type type;
    double theta;                             /* the base, > 1 */
    double factor;                            /* all but default: how much longer the context became */
    double original_ctx;                      /* llama3 and yarn: the context before */
    double low_freq_factor, high_freq_factor; /* llama3; the second is the greater one */
    double beta_fast, beta_slow;              /* yarn: rotations within original_ctx that bound the ramp */
    double attention_factor;                  /* yarn: on sine and cosine; 1 otherwise */
    bool truncate;                            /* yarn: the ramp's ends are whole channels */
} rope_config;

/** YaRN's recommended factor on sine and cosine, for a context longer by `factor`: 1 + m ln(factor) / 10. */
double rope_yarn_mscale(double factor, double m);

/** The D / 2 inverse frequencies, in radians per token, of heads of even dimension D <= ROPE_MAX_DIM. */
void rope_frequencies(const rope_config *c, size_t D, float *inverse);

/** Cosine and sine [D / 2] of the angles at position `pos`, times `attention`. */
void rope_angles(const float *inverse, float attention, size_t D, size_t pos, float *cosine, float *sine);

/** Rotate x [n_heads][D], the heads of one token: channels i and i + D / 2 by angle i. */
void rope_apply(const float *cosine, const float *sine, size_t D, size_t n_heads, float *x);

#endif
