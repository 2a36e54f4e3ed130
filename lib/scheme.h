/*
 * A scheme inside the library: what its text says, ready to build layouts from. Programs see an opaque
 * struct.
 */
#ifndef KVQ_LIB_SCHEME_H
#define KVQ_LIB_SCHEME_H

#include "lib/kvq.h"

enum { KVQ_SCHEME_TEXT_MAX = 128 }; /* bytes that hold every text of a scheme, its NUL included */

typedef enum kvq_codec_id {
    KVQ_CODEC_AFFINE = 0, /* code * scale + minimum per group, scale and minimum as IEEE half */
    KVQ_CODEC_F16 = 1,    /* IEEE half, round to nearest even, no groups                      */
    KVQ_CODEC_F32 = 2,    /* as appended                                                      */
} kvq_codec_id;

/** How one side, K or V, is stored. bits, axis and group count for KVQ_CODEC_AFFINE only. */
typedef struct kvq_side_scheme {
    kvq_codec_id codec;
    uint32_t bits; /* 1, 2, 3, 4, 5, 6, 8 */
    kvq_axis axis;
    uint32_t group; /* 16, 32, 64, 128, or KVQ_GROUP_FULL */
} kvq_side_scheme;

struct kvq_scheme {
    kvq_side_scheme k, v;
    kvq_arith arith;
    uint32_t residual; /* R; a multiple of the G of each side on the channel axis; in kivi mode not 0 then */
    kvq_residual_mode residual_mode;
    kvq_dtype residual_dtype; /* KVQ_F16 halves the residual and rounds it; sinks are stored the same way */
    uint32_t sinks;           /* S */
    char text[KVQ_SCHEME_TEXT_MAX]; /* the canonical form */
};

/** Parse a text (grammar: kvq_scheme_create), canonical form included. As kvq_scheme_create, but for
 * memory. */
kvq_status kvq_scheme_parse(const char *text, kvq_scheme *out, kvq_error *err);

/** What is wrong with the fields, NULL if nothing. */
const char *kvq_scheme_problem(const kvq_scheme *scheme);

/**
 * Print the fields into text[KVQ_SCHEME_TEXT_MAX]: the canonical form, or with `explicit_form` every item and
 * no preset, which will mean the same whatever presets and defaults become. False if they make no valid
 * scheme.
 */
bool kvq_scheme_print(const kvq_scheme *scheme, bool explicit_form, char *text);

/** Bytes of codes, scales and minimums of one side per token and head, times 8 over D. */
double kvq_side_bits_per_element(const kvq_side_scheme *side, size_t head_dim);

#endif /* KVQ_LIB_SCHEME_H */
