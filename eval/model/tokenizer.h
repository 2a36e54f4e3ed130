/* GPT-2's byte-level BPE tokenizer, from vocab.json and merges.txt. */
#ifndef KVQ_EVAL_MODEL_TOKENIZER_H
#define KVQ_EVAL_MODEL_TOKENIZER_H

#include "eval/common/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct tokenizer tokenizer;

/**
 * Load `dir`/vocab.json and `dir`/merges.txt. Errors name the file and the token or line: ids not exactly
 * 0..n-1, a byte without a token, a merge of unknown tokens, a line that is not two tokens. On failure *out
 * is untouched.
 */
EVAL_MUST_CHECK bool tokenizer_load(tokenizer **out, const char *dir, eval_error *e);

/** The same from memory; the names are used in messages. */
EVAL_MUST_CHECK bool tokenizer_load_memory(tokenizer **out, const char *vocab_name, const void *vocab,
                                           size_t vocab_size, const char *merges_name, const void *merges,
                                           size_t merges_size, eval_error *e);

void tokenizer_free(tokenizer *t); /* NULL is fine */

/** Number of tokens n; ids are 0..n-1. May be less than the model's vocabulary, which can be padded. */
size_t tokenizer_vocab_size(const tokenizer *t);

/** Id of `<|endoftext|>`, or -1. */
int32_t tokenizer_eos_id(const tokenizer *t);

/**
 * Encode n bytes to *n_ids token ids; the caller frees *ids (NULL for an empty text).
 *
 * Any bytes are accepted. GPT-2's pattern splits UTF-8 text into words; a maximal run of bytes that are not
 * valid UTF-8 is one word of its own, and the text before and after it is split as if it were two texts. So
 * decoding always gives the same bytes back. `<|endoftext|>` in a text is ordinary text.
 * Time is linear in the text and n log n in the length of one word. Errors: out of memory. Thread-safe.
 */
EVAL_MUST_CHECK bool tokenizer_encode(const tokenizer *t, const char *text, size_t n_bytes, int32_t **ids,
                                      size_t *n_ids, eval_error *e);

/** The bytes of one token; id must be in 0..n-1. */
const char *tokenizer_token(const tokenizer *t, int32_t id, size_t *n_bytes);

/**
 * Decode to *n_bytes bytes, which may be cut inside a UTF-8 character; one NUL follows them. The caller frees
 * *text. Errors: id out of range, out of memory.
 */
EVAL_MUST_CHECK bool tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n_ids, char **text,
                                      size_t *n_bytes, eval_error *e);

/** Length of the longest prefix of text that is valid UTF-8 (no surrogates, no overlong forms). */
size_t utf8_valid_prefix(const char *text, size_t n_bytes);

/** Number of bytes, 0 to 3, at the end of text that begin a UTF-8 character without ending it. */
size_t utf8_incomplete_tail(const char *text, size_t n_bytes);

/** Error naming `file` and the byte offset if text is not valid UTF-8. */
EVAL_MUST_CHECK bool text_check_utf8(const char *file, const char *text, size_t n_bytes, eval_error *e);

#endif
