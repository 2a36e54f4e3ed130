/* Patterns of tokenizers, which are written for Oniguruma, run by PCRE2. */
#ifndef KVQ_EVAL_MODEL_REGEX_H
#define KVQ_EVAL_MODEL_REGEX_H

#include "eval/common/error.h"

#include <stddef.h>

typedef struct regex regex;

/**
 * Compile a pattern of n bytes; `literal`: a text that is matched as it stands. `file` and the pattern are
 * named in messages.
 *
 * Oniguruma and PCRE2 differ in what \s, \w, \h and \b mean, in `^` and `$`, in `[a[b]]`, `[a&&b]`, `{n}+`
 * and in options like (?m). What can be is translated; the rest is an error, as is a pattern PCRE2 does not
 * know.
 */
EVAL_MUST_CHECK bool regex_compile(regex **out, const char *file, const char *pattern, size_t n, bool literal,
                                   eval_error *e);
void regex_free(regex *r); /* NULL is fine */

/* Memory for matching, of one thread. */
typedef struct regex_match regex_match;
regex_match *regex_match_create(void); /* NULL: out of memory */
void regex_match_free(regex_match *m);

/**
 * Find the first match that begins at `from` or after it in n bytes of valid UTF-8, looking at what stands
 * before too: *begin and *end, or *begin = n + 1 if there is none. Errors: the pattern needs more steps or
 * memory than a text of n bytes should.
 */
EVAL_MUST_CHECK bool regex_find(const regex *r, regex_match *m, const char *text, size_t n, size_t from,
                                size_t *begin, size_t *end, eval_error *e);

#endif
