/* What a cache weighs as a sequence grows, by asking a real one. */
#ifndef KVQ_EVAL_MEASURE_MEMORY_H
#define KVQ_EVAL_MEASURE_MEMORY_H

#include "eval/common/error.h"
#include "eval/model/model.h"
#include "lib/kvq.h"

#include <stddef.h>

/** Has the model every layer that the scheme names? If not, the message names scheme, layer and layers. */
EVAL_MUST_CHECK bool memory_check_layers(const kvq_scheme *scheme, size_t n_layers, eval_error *e);

/** A cache for n_layers of a model of this shape, which are all that the scheme may name; the caller gives it
 * back with kvq_cache_free. */
EVAL_MUST_CHECK bool memory_make_cache(kvq_cache **out, const model_shape *shape, size_t n_layers,
                                       const kvq_scheme *scheme, eval_error *e);

/** Bytes of the keys and values of n_tokens in all layers as plain arrays of `bytes` per number. */
uint64_t memory_plain_bytes(const model_shape *shape, size_t n_tokens, size_t bytes);

/**
 * What a cache weighs as a sequence grows: total[n - 1] bytes when every layer holds n tokens, n up to n_max.
 *
 * Memory depends on the number of tokens, not on what they are. So a cache of all layers is given zeros,
 * token by token as a decode does, and asked for its bytes after each: a formula would have to know of pages,
 * half-filled blocks and tables, and would be wrong the day one of them changes.
 */
EVAL_MUST_CHECK bool memory_growth(const model_shape *shape, const kvq_scheme *scheme, size_t n_max,
                                   uint64_t *total, eval_error *e);

/**
 * The fewest tokens from which on, up to n_max, a decode's cache is smaller than plain fp16 arrays of the
 * same keys and values; 0 if it is not even at n_max.
 */
EVAL_MUST_CHECK bool memory_pays_from(const model_shape *shape, const kvq_scheme *scheme, size_t n_max,
                                      uint64_t *n_tokens, eval_error *e);

/**
 * What a cache of all layers holds at each of n lengths, which rise; out is [n]. It is fed as above, but from
 * one length to the next at once.
 */
EVAL_MUST_CHECK bool memory_weigh(const model_shape *shape, const kvq_scheme *scheme, const size_t *lengths,
                                  size_t n, kvq_usage *out, eval_error *e);

#endif
