/* Free-running greedy generation, token by token, with the cache in any scheme. */
#ifndef KVQ_EVAL_MEASURE_GENERATE_H
#define KVQ_EVAL_MEASURE_GENERATE_H

#include "eval/common/error.h"
#include "eval/model/model.h"
#include "lib/kvq.h"

#include <stddef.h>
#include <stdint.h>

typedef struct generate_config {
    const model *model;
    const kvq_scheme *scheme;
    const int32_t *ids; /* [n_prompt] */
    size_t n_prompt, n_tokens;
    kvq_precision precision;               /* of attention over the cache; the prompt's own is always exact */
    int n_threads;                         /* for attention; 0: as many as OpenMP gives */
    void (*chosen)(void *ctx, int32_t id); /* told of each token at once; may be NULL */
    void *ctx;
    /* Asked before every token, the prompt's among them; true ends the work with a failure. May be NULL. */
    bool (*stop)(void *ctx);
    void *stop_ctx;
} generate_config;

/**
 * Prefill ids[n_prompt] with exact attention, then choose n_tokens tokens one after the other, each the most
 * likely one; all layers share one cache of the scheme.
 *
 * n_prompt + n_tokens may pass the model's context by one, because the last token chosen is never fed back.
 * out        [n_tokens]
 * seconds    out: time of the n_tokens - 1 steps after the prefill, which itself chooses the first token
 * packed     out: did the cache hold packed keys or values at the end, or only full-precision tokens?
 */
EVAL_MUST_CHECK bool generate(const generate_config *config, int32_t *out, double *seconds, bool *packed,
                              eval_error *e);

#endif
