/* What a cache of a model weighs at a length, by asking the library (usage.c). */
#ifndef KVQ_EVAL_PLAN_USAGE_H
#define KVQ_EVAL_PLAN_USAGE_H

#include "eval/common/error.h"
#include "eval/model/shapes.h"
#include "lib/kvq.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { USAGE_CHUNK = 1024 }; /* tokens of one append */

/** Keys and values that a cache which is really filled may hold: a second or so of work, half a gigabyte. */
#define USAGE_BUDGET (UINT64_C(1) << 26)

/* The bytes of kvq_usage by purpose; they add up to the total. */
typedef struct cache_bytes {
    uint64_t payload, metadata, residual, sinks, evidence; /* linear in layers and sequences */
    uint64_t slack, bookkeeping;                           /* not: pools serve all of them together */
    uint64_t total;
    bool computed; /* scaled from a smaller cache; false: a cache of this size was filled and asked */
} cache_bytes;

/**
 * Bytes of a cache with n_sequences sequences in which n_full layers hold n_tokens tokens each and
 * d->n_windowed layers the newest min(n_tokens, d->window), as an engine would keep them. (The library itself
 * forgets nothing before it is told to.)
 *
 * Memory depends on how many tokens there are, not on what they are. So a cache is fed with zeros: one token
 * with a query, so that what a scheme learns has its room, then appends of USAGE_CHUNK. What would hold more
 * than `budget` keys and values is computed from a part of the cache that does not: payload, metadata,
 * residual, sinks and evidence are sums over layers, sequences and KV heads of equal terms, so they are
 * exact. The room that the pool of pages has beyond them is reckoned as that pool grows, by an eighth of
 * itself at a time; what is left of slack, that of residuals, and tables are scaled in proportion. Of caches
 * of 5,000 tokens and more the total was off by 2 % at most, of shorter ones by 8 %.
 */
EVAL_MUST_CHECK bool usage_of(const model_dims *d, const kvq_scheme *scheme, size_t n_tokens,
                              size_t n_sequences, uint64_t budget, cache_bytes *out, eval_error *e);

/** The same of one kind of layer alone: n_layers of them, all with n_tokens tokens. */
EVAL_MUST_CHECK bool usage_of_layers(const model_dims *d, const kvq_scheme *scheme, size_t n_layers,
                                     size_t n_tokens, size_t n_sequences, uint64_t budget, cache_bytes *out,
                                     eval_error *e);

/** Bytes that a decode step reads: keys and values as they are stored, without room that is not in use. */
uint64_t usage_read(const cache_bytes *b);

#endif
