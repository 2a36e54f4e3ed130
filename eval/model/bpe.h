/* Byte pair encoding of one word: from its smallest tokens to merged ones. */
#ifndef KVQ_EVAL_MODEL_BPE_H
#define KVQ_EVAL_MODEL_BPE_H

#include "eval/common/error.h"

#include <stddef.h>
#include <stdint.h>

/* Two neighbours that may be merged; the lowest rank goes first, among equals the leftmost. */
typedef struct merge {
    int32_t left, right;
    int32_t result;
    uint32_t rank;
} merge;

/* Sorted by left, then right. */
typedef struct merge_table {
    merge *merges;
    size_t n;
    size_t *first; /* [n_tokens + 1]: where the merges of each left token begin */
} merge_table;

/**
 * Sorts the n merges, which the table then owns (and frees in every case). False if memory ran out. If two
 * are of the same pair, *twice is the one of higher rank and *before the other's rank; else twice->left is
 * -1.
 */
EVAL_MUST_CHECK bool merge_table_build(merge_table *table, merge *merges, size_t n, size_t n_tokens,
                                       merge *twice, uint32_t *before);
void merge_table_free(merge_table *table);

/* Memory that grows to the longest word and is used again for each; all zero to begin with. */
typedef struct bpe_encoder {
    const merge_table *merges;
    struct bpe_symbol *symbols;
    struct bpe_candidate *heap;
    size_t n_symbols, n_heap, capacity;
    int32_t *ids; /* of all words so far; the caller frees it */
    size_t n_ids, ids_capacity;
} bpe_encoder;

/** Begin a word of at most n tokens; false if memory ran out. */
EVAL_MUST_CHECK bool bpe_begin(bpe_encoder *b, size_t n);

/** Add its next token. */
void bpe_add(bpe_encoder *b, int32_t id);

/** Merge, and append the word's tokens to ids. */
void bpe_end(bpe_encoder *b);

/** Frees what is not handed to the caller. */
void bpe_free(bpe_encoder *b);

#endif
