/*
 * Scripts: what sequences will be given through kvq_cache_step or kvq_cache_append, call by call, and
 * comparisons of the caches that come of it. What goes wrong aborts the test.
 */
#ifndef KVQ_TESTS_SCRIPT_H
#define KVQ_TESTS_SCRIPT_H

#include "tests/support.h"

typedef struct script {
    shape s;
    size_t n; /* tokens of each sequence */
    size_t row, q_row;
    float *q, *k, *v; /* [n_sequences][n][H][D], [n_sequences][n][Hkv][D] */
    float scale;
} script;

script make_script(uint64_t stream, shape s, size_t n);
void free_script(script *d);

/** The arrays of one call: what the next tokens of some sequences are. NULLs as in kvq_cache_step. */
typedef struct call {
    size_t n_all;
    float *q, *k, *v, *out; /* out is all 0x5a */
} call;

call make_call(const kvq_cache *cache, const script *d, const size_t *sequences, size_t n_sequences,
               const size_t *n_new);
void free_call(call *c);

/** Step in layer 0, which must go well. Returns out, to be freed. */
float *script_step(kvq_cache *cache, const script *d, const size_t *sequences, size_t n_sequences,
                   const size_t *n_new, const kvq_attend_options *options);

/** Append the next n tokens of a sequence to layer 0. */
void script_append(kvq_cache *cache, const script *d, size_t sequence, size_t n);

bool uses_evidence(const char *scheme);

/** Do both save to the same bytes? */
bool same_caches(const char *what, const kvq_cache *a, const kvq_cache *b);

/** Through the saved form. */
kvq_cache *copy_of(const kvq_cache *cache);

#endif /* KVQ_TESTS_SCRIPT_H */
