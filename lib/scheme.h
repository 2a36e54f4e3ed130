/*
 * A scheme inside the library: what its text says, ready to build sides from. Programs see an opaque struct.
 */
#ifndef KVQ_LIB_SCHEME_H
#define KVQ_LIB_SCHEME_H

#include "lib/kvq.h"
#include "quant/codec.h"

enum {
    KVQ_SCHEME_TEXT_MAX = 128, /* bytes that hold every text of a scheme, its NUL included */
    KVQ_N_ROLES = 2,
};

struct kvq_scheme {
    kvq_spec side[KVQ_N_ROLES];
    kvq_arith arith;
    uint32_t heavy_hitters;
    uint32_t residual; /* R; a multiple of what either side packs together; in kivi mode not 0 then */
    kvq_residual_mode residual_mode;
    kvq_dtype residual_dtype[KVQ_N_ROLES]; /* of the residual and the sinks */
    uint32_t sinks;                        /* S */
    char text[KVQ_SCHEME_TEXT_MAX];        /* the canonical form */
};

/** Parse a text (grammar: kvq_scheme_create), canonical form included. As kvq_scheme_create, but for
 * memory. */
kvq_status kvq_scheme_parse(const char *text, kvq_scheme *out, kvq_error *err);

/**
 * Print the fields into text[KVQ_SCHEME_TEXT_MAX]: the canonical form, or with `explicit_form` every item and
 * no preset, which will mean the same whatever presets and defaults become. False if it does not fit.
 */
bool kvq_scheme_print(const kvq_scheme *scheme, bool explicit_form, char *text);

/** The side that a scheme makes for a head dimension. Returns NULL, or what is wrong. */
const char *kvq_scheme_side(const kvq_scheme *scheme, kvq_role role, size_t dim, kvq_side *out);

#endif /* KVQ_LIB_SCHEME_H */
