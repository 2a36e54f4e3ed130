/* What a tuner chooses: for each layer the widths of keys and values. Texts of it, its bytes, and the best
 * choice for a budget if layers' divergences add up.
 */
#ifndef KVQ_EVAL_TUNE_CHOICE_H
#define KVQ_EVAL_TUNE_CHOICE_H

#include "eval/common/error.h"
#include "eval/model/model.h"

#include <stddef.h>

enum {
    CHOICE_N_K = 7, /* widths of keys: 1.5, 2, 2.5, 3, 3.5, 4 and 5 bits on average */
    CHOICE_N_V = 4, /* of values: 1.5, 2, 3 and 4 bits */
};

/* Bits of the i-th width, as schemes' texts have them, from the narrowest up. */
extern const char *const choice_k_bits[CHOICE_N_K];
extern const char *const choice_v_bits[CHOICE_N_V];

/* Indices of the widths of one layer. */
typedef struct choice {
    size_t k, v;
} choice;

/* What all layers share. */
typedef struct choice_common {
    size_t heavy_hitters; /* hh */
    size_t residual;      /* r */
} choice_common;

/** The scheme of choices [n_layers] as a text that kvq_scheme_create takes (not the canonical one); the
 * caller frees it. NULL without memory. */
char *choice_text(const choice *choices, size_t n_layers, const choice_common *common);

/** fp32 but for the keys, or else the values, of one layer at width number `width`: for its divergence alone.
 */
char *choice_text_alone(size_t layer, bool keys, size_t width, const choice_common *common);

/* What the bytes of a choice may be. */
typedef struct choice_budget {
    double bytes;
    size_t context; /* of a cache with this many tokens; 0: that a token adds to a long cache, in the mean,
                       without room that holds no token yet */
} choice_budget;

/** Bytes of a cache of all layers, as budget.context says: those of a real one. */
EVAL_MUST_CHECK bool choice_bytes(const model_shape *shape, const char *scheme, const choice_budget *budget,
                                  double *bytes, eval_error *e);

/* What is known of the layers. */
typedef struct choice_table {
    size_t n_layers;
    double *k_kl, *v_kl; /* [n_layers][CHOICE_N_K] and [n_layers][CHOICE_N_V]: divergence alone */
    double bytes[CHOICE_N_K][CHOICE_N_V]; /* of one layer */
} choice_table;

double choice_table_kl(const choice_table *t, const choice *choices); /* the sum of the layers' */
double choice_table_bytes(const choice_table *t, const choice *choices);

/**
 * Choices [n_layers] whose table bytes are at most `bytes`: from the narrowest up, again and again the wider
 * keys or values of a layer that save the most divergence for a byte. False if even the narrowest are too
 * large.
 */
EVAL_MUST_CHECK bool choice_greedy(choice *out, const choice_table *t, double bytes);

#endif
