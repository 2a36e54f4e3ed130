/* What is valid UTF-8, and its characters one by one. */
#ifndef KVQ_EVAL_MODEL_UTF8_H
#define KVQ_EVAL_MODEL_UTF8_H

#include "eval/common/error.h"

#include <stddef.h>
#include <stdint.h>

/** Decodes the character at text[0]; 0 if it is not valid UTF-8 or n is 0, else its length in bytes. */
size_t utf8_decode(const char *text, size_t n, uint32_t *character);

/** Writes a character, 1 to 4 bytes, and returns how many; it must be no surrogate and at most U+10FFFF. */
size_t utf8_encode(uint32_t character, char out[4]);

/** Unicode's White_Space. */
bool utf8_is_white_space(uint32_t character);

/** Length of the longest prefix of text that is valid UTF-8 (no surrogates, no overlong forms). */
size_t utf8_valid_prefix(const char *text, size_t n_bytes);

/** Number of bytes, 0 to 3, at the end of text that begin a UTF-8 character without ending it. */
size_t utf8_incomplete_tail(const char *text, size_t n_bytes);

/** Error naming `file` and the byte offset if text is not valid UTF-8. */
EVAL_MUST_CHECK bool text_check_utf8(const char *file, const char *text, size_t n_bytes, eval_error *e);

#endif
