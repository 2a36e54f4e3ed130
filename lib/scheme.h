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

/* A plain one, or the first member of a kvq_layered. */
struct kvq_scheme {
    kvq_spec side[KVQ_N_ROLES];
    kvq_arith arith;
    uint32_t heavy_hitters;
    uint32_t residual; /* R; a multiple of what either side packs together; in kivi mode not 0 then */
    kvq_residual_mode residual_mode;
    kvq_dtype residual_dtype[KVQ_N_ROLES]; /* of the residual and the sinks */
    uint32_t sinks;                        /* S */
    uint32_t min_layers; /* 1 + the highest layer that has a scheme of its own; 0: none has, it is plain */
    char text[KVQ_SCHEME_TEXT_MAX]; /* the canonical form */
};

/* Layers with a scheme of their own. */
typedef struct kvq_layer_range {
    uint32_t first, last;
    kvq_scheme scheme; /* plain */
} kvq_layer_range;

/* A scheme that differs by layer: one piece of memory, `text` behind the ranges. */
typedef struct kvq_layered {
    kvq_scheme scheme; /* the base's fields, and min_layers > 0 */
    kvq_scheme base;   /* plain */
    const char *text;  /* the canonical form of the whole */
    size_t n_ranges;
    kvq_layer_range range[]; /* by layer; no two adjacent ones are equal, none is equal to the base */
} kvq_layered;

/** Read a plain scheme, up to the end of the text or to a "+". False with t->problem. */
bool kvq_scheme_read(kvq_text *t, kvq_scheme *out);

/** kvq_scheme_read of a whole text, as a kvq_scheme_create that takes no memory and plain texts only. */
kvq_status kvq_scheme_parse(const char *text, kvq_scheme *out, kvq_error *err);

/**
 * Print a plain scheme's fields into text[KVQ_SCHEME_TEXT_MAX]: the canonical form, or with `explicit_form`
 * every item and no preset, which will mean the same whatever presets and defaults become. False if it does
 * not fit.
 */
bool kvq_scheme_print(const kvq_scheme *scheme, bool explicit_form, char *text);

/** The side that a scheme makes for a head dimension. Returns NULL, or what is wrong. */
const char *kvq_scheme_side(const kvq_scheme *scheme, kvq_role role, size_t dim, kvq_side *out);

#endif /* KVQ_LIB_SCHEME_H */
