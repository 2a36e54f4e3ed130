/* Tokens that are found in a text before anything else is done with it: special ones, those added later. */
#ifndef KVQ_EVAL_MODEL_ADDED_TOKENS_H
#define KVQ_EVAL_MODEL_ADDED_TOKENS_H

#include "eval/model/normalizer.h"

#include <stdint.h>

/* The flags are those of tokenizer.json. */
typedef struct added_token {
    const char *content;
    size_t n;
    int32_t id;
    bool single_word, lstrip, rstrip;
    bool normalized; /* looked for, itself normalized, in the normalized text; else in the text as it is */
} added_token;

enum { LONGEST_ADDED_TOKEN = 1024 };

/* Tokens sorted by their bytes. */
typedef struct added_tokens {
    added_token *tokens;
    size_t n;
    char *bytes;
    bool begins[256]; /* is this byte the first of one? */
} added_tokens;

/**
 * Those of the n tokens whose `normalized` is as asked, with copies of their contents (after z, if
 * `normalized`). Errors: longer than LONGEST_ADDED_TOKEN, out of memory.
 */
EVAL_MUST_CHECK bool added_tokens_build(added_tokens *a, const char *file, const added_token *tokens,
                                        size_t n, bool normalized, const normalizer *z, eval_error *e);
void added_tokens_free(added_tokens *a);

/**
 * The first token at or after `from`, the longest of those that begin there: its id, or -1 if there is none.
 * *begin and *end take in the white space that lstrip and rstrip ask for, but nothing before `taken`;
 * *next is where to look on.
 */
int32_t added_tokens_find(const added_tokens *a, const char *text, size_t n, size_t from, size_t taken,
                          size_t *begin, size_t *end, size_t *next);

#endif
