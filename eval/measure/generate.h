/* Free-running greedy generation, token by token, with the cache in any scheme. */
#ifndef KVQ_EVAL_MEASURE_GENERATE_H
#define KVQ_EVAL_MEASURE_GENERATE_H

#include "eval/common/error.h"
#include "eval/model/gpt2_model.h"
#include "lib/kvq.h"

#include <stddef.h>
#include <stdint.h>

/**
 * Prefill ids[n_prompt] with exact attention, then choose n_tokens tokens one after the other, each the most
 * likely one; all layers share one cache of the scheme.
 *
 * n_prompt + n_tokens may pass the model's context by one, because the last token chosen is never fed back.
 * out        [n_tokens]
 * seconds    out: time of the n_tokens - 1 steps after the prefill, which itself chooses the first token
 * packed     out: did the cache hold packed keys or values at the end, or only the full-precision window?
 */
EVAL_MUST_CHECK bool generate(const gpt2_model *model, const kvq_scheme *scheme, const int32_t *ids,
                              size_t n_prompt, size_t n_tokens, int n_threads, int32_t *out, double *seconds,
                              bool *packed, eval_error *e);

#endif
