/* The parts of a tokenizer, for what loads it (tokenizer_json.c, tokenizer_gguf.c, tokenizer_gpt2.c). */
#ifndef KVQ_EVAL_MODEL_TOKENIZER_PARTS_H
#define KVQ_EVAL_MODEL_TOKENIZER_PARTS_H

#include "eval/model/added_tokens.h"
#include "eval/model/bpe.h"
#include "eval/model/normalizer.h"
#include "eval/model/splitter.h"
#include "eval/model/tokenizer.h"
#include "eval/model/vocabulary.h"

/* All zero: no token yet, and nothing to free. */
struct tokenizer {
    vocabulary vocab;
    merge_table merges;
    added_tokens plain, normalized; /* looked for before and after normalizing */
    normalizer normalizer;
    splitter splitter;
    bool ignore_merges;       /* a word that is a token is that token */
    bool byte_fallback;       /* a character that is no token is tokens of its bytes */
    bool fuse_unk;            /* several of them in a row are one unk */
    prepend_scheme prepended; /* where encoding puts a space before a text, and decoding takes it away */
    int32_t unk_id;           /* -1: characters that are no token are left out */
    int32_t bos_id, eos_id;
    const char *note; /* a literal, or NULL */
};

/** A tokenizer without tokens; NULL if memory ran out. */
tokenizer *tokenizer_new(void);

/** Both lists of added tokens; the normalizer must be there already. */
EVAL_MUST_CHECK bool tokenizer_set_added(tokenizer *t, const char *file, const added_token *tokens, size_t n,
                                         eval_error *e);

/* GPT-2's pattern, but for the spaces at the end of a text or before another one. */
#define GPT2_WORDS "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"

/** GPT-2's pattern as a last step. */
EVAL_MUST_CHECK bool tokenizer_add_gpt2_split(tokenizer *t, const char *file, eval_error *e);

/** One more step that splits by a pattern. */
EVAL_MUST_CHECK bool tokenizer_add_split(tokenizer *t, const char *file, const char *pattern, size_t n,
                                         bool literal, split_behavior behavior, bool invert, eval_error *e);

/** One more step that writes spaces another way. */
EVAL_MUST_CHECK bool tokenizer_add_respace(tokenizer *t, const char *file, const char *space,
                                           prepend_scheme scheme, eval_error *e);

/* Merges as they are read. */
typedef struct merge_list {
    merge *merges;
    size_t n, capacity;
    char *joined; /* room for the tokens of one merge, one after the other */
    size_t joined_capacity;
} merge_list;

/**
 * Add the merge of two tokens, by name. `unit` is what messages call the number a rank is, such as "line".
 * Errors: a token that is not in the vocabulary, out of memory.
 */
EVAL_MUST_CHECK bool merge_list_add(merge_list *list, const vocabulary *v, const char *file, const char *unit,
                                    uint32_t rank, const char *left, size_t n_left, const char *right,
                                    size_t n_right, eval_error *e);

/**
 * Make the tokenizer's table of it; list is empty afterwards, whatever happens. A pair that is there twice is
 * an error.
 */
EVAL_MUST_CHECK bool merge_list_finish(merge_list *list, tokenizer *t, const char *file, const char *unit,
                                       eval_error *e);
void merge_list_free(merge_list *list);

#endif
