/* Tokenizers of byte pair encoding, from Hugging Face's files, GPT-2's, or GGUF. */
#ifndef KVQ_EVAL_MODEL_TOKENIZER_H
#define KVQ_EVAL_MODEL_TOKENIZER_H

#include "eval/common/error.h"
#include "eval/model/gguf.h"
#include "eval/model/utf8.h"

#include <stddef.h>
#include <stdint.h>

typedef struct tokenizer tokenizer;

/**
 * Load `dir`/tokenizer.json (with tokenizer_config.json, if there), or else vocab.json and merges.txt. A
 * directory with nothing but tokenizer.model is refused. On failure *out is untouched.
 *
 * tokenizer.json: Hugging Face's `tokenizers` format, of BPE models, byte-level or of characters with byte
 * fallback (as SentencePiece makes them). Normalizers: NFC, Prepend, Replace. Pre-tokenizers: ByteLevel,
 * Split, Digits, Punctuation, Metaspace. Whatever else there is (other models, normalizers, ...) is refused
 * by name. Errors name the file and the field, token, merge or pattern. "truncation" and "padding" are left
 * out.
 *
 * vocab.json, merges.txt: GPT-2's. Errors name the file and the token or line: ids not exactly 0..n-1, a byte
 * without a token, a merge of unknown tokens, a line that is not two tokens.
 */
EVAL_MUST_CHECK bool tokenizer_load(tokenizer **out, const char *dir, eval_error *e);

/** vocab.json and merges.txt from memory; the names are used in messages. */
EVAL_MUST_CHECK bool tokenizer_load_memory(tokenizer **out, const char *vocab_name, const void *vocab,
                                           size_t vocab_size, const char *merges_name, const void *merges,
                                           size_t merges_size, eval_error *e);

/** tokenizer.json and, unless `config` is NULL, tokenizer_config.json from memory. */
EVAL_MUST_CHECK bool tokenizer_load_json(tokenizer **out, const char *name, const void *data, size_t size,
                                         const char *config_name, const void *config, size_t config_size,
                                         eval_error *e);

/**
 * The tokenizer inside a GGUF file: "gpt2" (byte-level BPE; its tokenizer.ggml.pre must be one that is known)
 * or "llama" (SentencePiece's BPE by scores). Others are refused by name. g may be closed afterwards.
 */
EVAL_MUST_CHECK bool tokenizer_load_gguf(tokenizer **out, const gguf *g, eval_error *e);

void tokenizer_free(tokenizer *t); /* NULL is fine */

/**
 * Number of tokens n; ids are 0..n-1. May be less than the model's vocabulary, which can be padded. Ids that
 * the files give to no token are tokens of no bytes.
 */
size_t tokenizer_vocab_size(const tokenizer *t);

/**
 * The token that the files put before each text, or -1. tokenizer.json: its post_processor; where there is
 * none, add_bos_token of tokenizer_config.json. GGUF: tokenizer.ggml.add_bos_token, or what llama.cpp does
 * without it. tokenizer_encode does not put it there.
 */
int32_t tokenizer_bos_id(const tokenizer *t);

/**
 * The token that ends a text, or -1: tokenizer.ggml.eos_token_id; or eos_token of tokenizer_config.json, or
 * else `<|endoftext|>`.
 */
int32_t tokenizer_eos_id(const tokenizer *t);

/** What a user should know of how it was read; NULL if there is nothing to say. */
const char *tokenizer_note(const tokenizer *t);

/**
 * Encode n bytes to *n_ids token ids; the caller frees *ids (NULL for an empty text).
 *
 * Any bytes are accepted. A maximal run of bytes that are not valid UTF-8 is one word of its own, and the
 * text before and after it is split as if it were two texts. Added tokens (special ones too) in a text become
 * their ids, but for vocab.json, where `<|endoftext|>` in a text is ordinary text. What is a letter or a
 * number is as in PCRE2's version of Unicode, which need not be that of other implementations.
 *
 * Decoding gives the same bytes back, but where the tokenizer by its design says less: NFC changes the text;
 * Metaspace takes a space at its beginning for the one it puts there, and the one that ByteLevel's
 * add_prefix_space puts there stays; U+2581 decodes to the space that it stands for; lstrip and rstrip of
 * added tokens and removing pre-tokenizers drop text; characters that a vocabulary has neither tokens nor
 * bytes for become its unknown token, or nothing if it has none.
 *
 * Time is linear in the text and n log n in the length of one word. Errors: out of memory, a pattern of the
 * file that takes too many steps. Thread-safe.
 */
EVAL_MUST_CHECK bool tokenizer_encode(const tokenizer *t, const char *text, size_t n_bytes, int32_t **ids,
                                      size_t *n_ids, eval_error *e);

/** The bytes of one token; id must be in 0..n-1. */
const char *tokenizer_token(const tokenizer *t, int32_t id, size_t *n_bytes);

/**
 * Decode to *n_bytes bytes, which may be cut inside a UTF-8 character; one NUL follows them. The caller frees
 * *text. A space that encoding puts before a text, and by some tokenizers after each added token, is left
 * out, but for ByteLevel's add_prefix_space.
 * Errors: id out of range, out of memory.
 */
EVAL_MUST_CHECK bool tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n_ids, char **text,
                                      size_t *n_bytes, eval_error *e);

#endif
